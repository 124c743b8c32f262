//! What the apiserver asks of this node: logs, exec, attach, port-forward, stats (`balsa.node.v1`).
//!
//! Only the apiserver's identity may call. Which container is meant is decided in `find`; the bytes come from the
//! [`Runtime`] and go out through bounded queues. It changes nothing about pods.

mod find;
mod forward;
mod logs;
mod stats;
mod terminal;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use balsa_process::identity::{Actor, names};
use balsa_process::tls::TlsIdentity;
use balsa_proto::node::node_server::{Node, NodeServer};
use balsa_proto::node::{
    ContainerRef, LogsChunk, LogsRequest, PortForwardInput, PortForwardOutput, StatsRequest, StatsResponse,
    StreamInput, StreamOutput,
};
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::runtime::{Runtime, RuntimeError};
use find::Finder;
use stats::Stats;

/// Messages that wait for the apiserver.
const QUEUE: usize = 8;
/// How long streams may go on once the process is asked to stop.
const LINGER: Duration = Duration::from_secs(2);

/// The pods of this node, as the agent knows them.
pub trait Pods: Send + Sync + 'static {
    /// The pod with the status that the agent reported last; `None` where it is not on this node.
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;
}

/// What the service needs.
#[derive(Clone)]
pub struct ServerConfig {
    /// Name of the Node, for the stats.
    pub node_name: String,
    /// The containers.
    pub runtime: Arc<dyn Runtime>,
    /// The pods that they belong to.
    pub pods: Arc<dyn Pods>,
    /// Without one: plaintext, loopback only.
    pub identity: Option<TlsIdentity>,
}

/// Serves until `stop`. Fails where the listener is not usable.
pub async fn serve(listener: TcpListener, config: ServerConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the node agent's listener")?;
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20);
    match &config.identity {
        Some(identity) => server = server.tls_config(identity.tonic_server()).context("the node agent's identity")?,
        None => {
            anyhow::ensure!(address.ip().is_loopback(), "{address} needs an identity: plaintext is for loopback only")
        }
    }
    let secure = config.identity.is_some();
    let service = NodeServer::with_interceptor(NodeService::new(config), move |request| authorize(request, secure));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = server.add_service(service).serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        result = serving => result.context("the node agent's server"),
        () = late => Ok(()),
    }
}

/// The one who calls must be an apiserver.
fn authorize(request: Request<()>, secure: bool) -> Result<Request<()>, Status> {
    if !secure {
        return Ok(request);
    }
    let certificates = request.peer_certs();
    let leaf = certificates.as_ref().and_then(|chain| chain.first());
    let leaf = leaf.ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
    let actor = Actor::from_certificate(leaf).map_err(|error| Status::unauthenticated(error.to_string()))?;
    if actor.user == names::APISERVER || actor.is_in(names::MASTERS) {
        return Ok(request);
    }
    Err(Status::permission_denied(format!("{:?} may not call the node agent; only the apiserver may", actor.user)))
}

/// An engine's failure as the caller sees it. Never `UNAVAILABLE`: that means the agent itself.
fn engine(error: &RuntimeError) -> Status {
    let code = match error {
        RuntimeError::NotFound(_) => Code::NotFound,
        RuntimeError::Timeout(_) => Code::DeadlineExceeded,
        RuntimeError::Unavailable(_)
        | RuntimeError::InvalidImageName(_)
        | RuntimeError::Pull(_)
        | RuntimeError::Create(_)
        | RuntimeError::Start { .. }
        | RuntimeError::Network(_)
        | RuntimeError::Other(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

fn container_of(container: Option<ContainerRef>) -> Result<ContainerRef, Status> {
    container.ok_or_else(|| Status::invalid_argument("no container in the request"))
}

struct NodeService {
    runtime: Arc<dyn Runtime>,
    pods: Arc<dyn Pods>,
    finder: Finder,
    stats: Stats,
}

impl NodeService {
    fn new(config: ServerConfig) -> Self {
        let ServerConfig { node_name, runtime, pods, identity: _ } = config;
        let (finder, stats) = (Finder::new(runtime.clone()), Stats::new(node_name, runtime.clone()));
        Self { runtime, pods, finder, stats }
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for NodeService {
    type LogsStream = Out<LogsChunk>;
    type StreamStream = Out<StreamOutput>;
    type PortForwardStream = Out<PortForwardOutput>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let asked = logs::Asked::read(&request)?;
        let wanted = container_of(request.container)?;
        let pod = self.pods.pod(&wanted.namespace, &wanted.pod);
        let containers = self.runtime.list_containers().await.map_err(|error| engine(&error))?;
        let id = find::log_container(pod.as_deref(), &wanted, &containers, request.previous)?;
        let chunks = logs::stream(self.runtime.as_ref(), &id, asked).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(chunks))))
    }

    async fn stream(&self, request: Request<Streaming<StreamInput>>) -> Result<Response<Self::StreamStream>, Status> {
        let mut input = request.into_inner();
        let start = terminal::Start::read(&mut input).await?;
        let wanted = start.container();
        let pod = self.pods.pod(&wanted.namespace, &wanted.pod);
        let id = self.finder.running(wanted).await?;
        let id = id.ok_or_else(|| Status::not_found(start.absence()))?;
        let output = start.run(self.runtime.as_ref(), pod.as_deref(), &id, input).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(output))))
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<PortForwardInput>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let mut input = request.into_inner();
        let (start, port) = forward::read_start(&mut input).await?;
        let sandbox = self.finder.sandbox(&start).await?;
        let connection = self.runtime.connect(&sandbox, port).await;
        let connection = connection.map_err(|error| forward::failure(port, &error))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(forward::join(connection, input)))))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let summary = self.stats.summary().await.map_err(|error| engine(&error))?;
        Ok(Response::new(StatsResponse { summary: summary.into() }))
    }
}
