//! The way to node agents: one pooled gRPC channel each, and the three calls that streams are made of.

use std::collections::BTreeMap;
use std::time::Duration;

use balsa_process::backoff::Backoff;
use balsa_process::tls::TlsIdentity;
use balsa_proto::node::node_client::NodeClient;
use balsa_proto::node::stream_output::Output;
use balsa_proto::node::{
    LogsChunk, LogsRequest, PortForwardInput, PortForwardOutput, PortForwardStart, StatsRequest, StreamInput,
    StreamOutput, port_forward_input,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// All attempts to reach a node together.
const CONNECT: Duration = Duration::from_secs(5);
/// From the request until the node says that the stream stands.
const SETUP: Duration = Duration::from_secs(30);
/// Messages that wait for the node.
const QUEUE: usize = 8;

/// Channels to nodes.
#[derive(Debug)]
pub struct Nodes {
    identity: Option<TlsIdentity>,
    channels: Mutex<BTreeMap<(String, String), Channel>>,
}

/// Where a pod's node agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The node's name, which is in its certificate.
    pub node: String,
    /// `host:port`
    pub endpoint: String,
}

/// A running exec or attach on a node.
pub struct Terminal {
    /// To the process.
    pub input: mpsc::Sender<StreamInput>,
    /// From the process.
    pub output: tonic::Streaming<StreamOutput>,
}

/// A forwarded connection.
pub struct Connection {
    /// To the port; dropped for end of file.
    pub input: mpsc::Sender<PortForwardInput>,
    /// From the port.
    pub output: tonic::Streaming<PortForwardOutput>,
}

impl Nodes {
    /// Without an identity the nodes are spoken to in plaintext: loopback tests only.
    pub fn new(identity: Option<TlsIdentity>) -> Self {
        Self { identity, channels: Mutex::default() }
    }

    fn endpoint(&self, address: &Address) -> Result<Endpoint, Status> {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        let unusable = |error: tonic::transport::Error| {
            Status::unavailable(format!("node {} has no usable address {:?}: {error}", address.node, address.endpoint))
        };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", address.endpoint)).map_err(unusable)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        match &self.identity {
            Some(identity) => {
                endpoint.tls_config(identity.tonic_client().domain_name(address.node.clone())).map_err(unusable)
            }
            None => Ok(endpoint),
        }
    }

    /// The pooled channel, or a new one, tried with back-off until the deadline.
    async fn client(&self, address: &Address) -> Result<NodeClient<Channel>, Status> {
        let key = (address.node.clone(), address.endpoint.clone());
        let pooled = self.channels.lock().get(&key).cloned();
        if let Some(channel) = pooled {
            return Ok(NodeClient::new(channel));
        }
        let endpoint = self.endpoint(address)?;
        let deadline = Instant::now() + CONNECT;
        let mut backoff = Backoff::connection();
        let channel = loop {
            let failure = match tokio::time::timeout_at(deadline, endpoint.connect()).await {
                Ok(Ok(channel)) => break channel,
                Ok(Err(error)) => chain(&error),
                Err(_) => "timed out".to_owned(),
            };
            let delay = backoff.next_delay();
            if Instant::now() + delay >= deadline {
                let text = format!("error dialing backend: node {} at {}: {failure}", address.node, address.endpoint);
                return Err(Status::unavailable(text));
            }
            tokio::time::sleep(delay).await;
        };
        let mut channels = self.channels.lock();
        // A node that came back under another address leaves its old channel behind.
        channels.retain(|(node, endpoint), _| *node != address.node || *endpoint == address.endpoint);
        channels.insert(key, channel.clone());
        Ok(NodeClient::new(channel))
    }

    /// After a failure below gRPC the next call begins with a fresh connection and its own patience.
    fn note(&self, address: &Address, status: &Status) {
        if matches!(status.code(), Code::Unavailable) {
            self.channels.lock().remove(&(address.node.clone(), address.endpoint.clone()));
        }
    }

    async fn setup<T>(&self, address: &Address, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let late = || Status::deadline_exceeded(format!("node {} did not answer within {SETUP:?}", address.node));
        let result = timeout(SETUP, call).await.unwrap_or_else(|_| Err(late()));
        result.inspect_err(|status| self.note(address, status))
    }

    /// A container's log, once the node has found it.
    pub async fn logs(&self, address: &Address, request: LogsRequest) -> Result<tonic::Streaming<LogsChunk>, Status> {
        let mut client = self.client(address).await?;
        self.setup(address, async { client.logs(request).await.map(tonic::Response::into_inner) }).await
    }

    /// Begins an exec or attach; `first` says which. Returns once the process runs.
    pub async fn terminal(&self, address: &Address, first: StreamInput) -> Result<Terminal, Status> {
        let mut client = self.client(address).await?;
        let (input, queue) = mpsc::channel(QUEUE);
        let _ = input.send(first).await;
        self.setup(address, async {
            let mut output = client.stream(ReceiverStream::new(queue)).await?.into_inner();
            match output.message().await?.and_then(|message| message.output) {
                Some(Output::Started(_)) => Ok(Terminal { input, output }),
                Some(Output::Exit(exit)) => Err(Status::internal(exit.message)),
                _ => Err(Status::internal("the node agent did not start the stream")),
            }
        })
        .await
    }

    /// What the node says of its use of resources: the kubelet's /stats/summary as JSON.
    pub async fn stats(&self, address: &Address) -> Result<bytes::Bytes, Status> {
        let mut client = self.client(address).await?;
        let answered = self.setup(address, client.stats(StatsRequest {})).await?;
        Ok(answered.into_inner().summary)
    }

    /// Opens one connection to a port of the pod. Returns once it stands.
    pub async fn connect(&self, address: &Address, start: PortForwardStart) -> Result<Connection, Status> {
        let mut client = self.client(address).await?;
        let (input, queue) = mpsc::channel(QUEUE);
        let first = PortForwardInput { input: Some(port_forward_input::Input::Start(start)) };
        let _ = input.send(first).await;
        self.setup(address, async {
            let output = client.port_forward(ReceiverStream::new(queue)).await?.into_inner();
            Ok(Connection { input, output })
        })
        .await
    }
}

/// An error with what is behind it: tonic says only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
