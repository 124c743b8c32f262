//! exec, attach, log and port-forward: from a client's HTTP request to the node agent that runs the container.
//!
//! The caller has authenticated, authorized and found the pod and its node. Here it is decided which container is
//! meant, which protocol is spoken, and what the client hears when something is wrong; the bytes are passed through
//! with bounded buffers, so that the slower side holds up the faster one.

mod channels;
mod choose;
mod forward;
mod log;
pub(crate) mod node;
mod query;
pub(crate) mod socket;
pub mod spdy;
mod status;
mod terminal;
mod upgrade;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Body;
use balsa_api::status::{ApiError, ApiResult};
use balsa_process::tls::TlsIdentity;
use balsa_proto::node::stream_input::Input;
use balsa_proto::node::{AttachStart, ContainerRef, ExecStart, StreamInput};
use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use forward::Destination;
use node::{Address, Nodes};
use query::{LogOptions, Query, TerminalOptions};
use spdy::session::{Role, Session};
use upgrade::Wish;

/// Which subresource of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// `log`
    Log,
    /// `exec`
    Exec,
    /// `attach`
    Attach,
    /// `portforward`
    PortForward,
}

/// What a request is about.
#[derive(Debug, Clone)]
pub struct StreamTarget {
    /// Which subresource.
    pub kind: StreamKind,
    /// The pod as it is now.
    pub pod: Pod,
    /// Its node's name, which is in the node agent's certificate. Empty: not scheduled yet.
    pub node_name: String,
    /// `host:port` of the node agent's gRPC.
    pub node_address: String,
    /// What stands after the `?`.
    pub query: String,
}

/// Serves the streaming subresources. One per process.
#[derive(Debug)]
pub struct Streaming {
    nodes: Arc<Nodes>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Streaming {
    /// `identity` is what node agents are shown; without one they are spoken to in plaintext (loopback tests).
    pub fn new(identity: Option<TlsIdentity>) -> Self {
        Self { nodes: Arc::new(Nodes::new(identity)), tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Ends every stream; for the end of the process.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Answers `request`, which must be the one that hyper's server handed out: its connection may become a stream.
    pub async fn handle(&self, request: Request<Body>, target: StreamTarget) -> Response<Body> {
        let result = match target.kind {
            StreamKind::Log => self.log(request, &target).await,
            StreamKind::Exec | StreamKind::Attach => self.terminal(request, &target).await,
            StreamKind::PortForward => self.forward(request, &target).await,
        };
        result.unwrap_or_else(|error| upgrade::error(&error))
    }

    /// The way to node agents.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Runs a stream on its own until it ends or the process does.
    pub(crate) fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stream => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn log(&self, mut request: Request<Body>, target: &StreamTarget) -> ApiResult<Response<Body>> {
        let options = LogOptions::parse(&Query::parse(&target.query), target.pod_name(), Timestamp::now())?;
        let container = choose::container(&target.pod, &options.container)?;
        if choose::host(&target.pod).is_err() {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        let socket = match upgrade::wish(request.headers())? {
            Wish::WebSocket { key, offers } => {
                match channels::negotiate(&offers, channels::LOG, channels::LOG_DEFAULT) {
                    Some((protocol, framing)) => Some((key, protocol, framing)),
                    None => return Ok(no_common(&offers, channels::LOG)),
                }
            }
            Wish::Spdy { .. } | Wish::Plain => None,
        };
        let asked = log::request(target.container(container), &options);
        let chunks = self.nodes.logs(&target.address(), asked).await.map_err(|status| log::refusal(&status))?;
        let Some((key, protocol, framing)) = socket else { return Ok(log::response(chunks)) };
        let upgrading = socket::claim(&mut request);
        self.spawn(async move {
            if let Some(socket) = socket::websocket(upgrading).await {
                log::websocket(socket, framing, chunks).await;
            }
        });
        Ok(upgrade::accept_websocket(&key, protocol))
    }

    async fn terminal(&self, mut request: Request<Body>, target: &StreamTarget) -> ApiResult<Response<Body>> {
        let exec = target.kind == StreamKind::Exec;
        let options = TerminalOptions::parse(&Query::parse(&target.query), exec)?;
        let container = choose::container(&target.pod, &options.container)?;
        choose::host(&target.pod)?;
        choose::not_completed(&target.pod, if exec { "exec into" } else { "attach" })?;
        let (options, first) = target.start(exec, container, options);
        match upgrade::wish(request.headers())? {
            Wish::Plain => Err(upgrade_required()),
            Wish::WebSocket { key, offers } => {
                let agreed = channels::negotiate(&offers, channels::TERMINAL, channels::TERMINAL_DEFAULT);
                let Some((protocol, framing)) = agreed else { return Ok(no_common(&offers, channels::TERMINAL)) };
                let opened = self.nodes.terminal(&target.address(), first).await;
                if let (Err(status), channels::Version::V1) = (&opened, framing.version) {
                    return Err(ApiError::internal(terminal::failure(status)));
                }
                let upgrading = socket::claim(&mut request);
                self.spawn(async move {
                    if let Some(socket) = socket::websocket(upgrading).await {
                        terminal::websocket(socket, framing, opened, &options).await;
                    }
                });
                Ok(upgrade::accept_websocket(&key, protocol))
            }
            Wish::Spdy { offers } => {
                let known = terminal::SPDY_PROTOCOLS;
                let protocol = offers.iter().find_map(|offer| known.iter().find(|name| *name == offer)).copied();
                if protocol.is_none() && !offers.is_empty() {
                    return Ok(upgrade::no_common_protocol(&offers, known));
                }
                let opened = self.nodes.terminal(&target.address(), first).await;
                let opened = opened.map_err(|status| ApiError::internal(terminal::failure(&status)))?;
                let upgrading = socket::claim(&mut request);
                self.spawn(async move {
                    if let Some(raw) = socket::raw(upgrading).await {
                        terminal::spdy(Session::start(raw, Role::Server), protocol, opened, &options).await;
                    }
                });
                Ok(upgrade::accept_spdy(protocol))
            }
        }
    }

    async fn forward(&self, mut request: Request<Body>, target: &StreamTarget) -> ApiResult<Response<Body>> {
        choose::host(&target.pod)?;
        let destination = self.destination(target);
        match upgrade::wish(request.headers())? {
            Wish::Plain => Err(upgrade_required()),
            Wish::WebSocket { key, offers } if offers.iter().any(|offer| offer == forward::TUNNEL_PROTOCOL) => {
                let upgrading = socket::claim(&mut request);
                self.spawn(async move {
                    let Some(socket) = socket::websocket(upgrading).await else { return };
                    let (near, carry) = socket::tunnel(socket);
                    let serve = forward::spdy(Session::start(near, Role::Server), &destination);
                    tokio::join!(serve, carry);
                });
                Ok(upgrade::accept_websocket(&key, Some(forward::TUNNEL_PROTOCOL)))
            }
            Wish::WebSocket { key, offers } => {
                let agreed = channels::negotiate(&offers, channels::FORWARD, channels::FORWARD_DEFAULT);
                let Some((protocol, framing)) = agreed else { return Ok(no_common(&offers, channels::FORWARD)) };
                let ports = query::ports(&Query::parse(&target.query))?;
                let upgrading = socket::claim(&mut request);
                self.spawn(async move {
                    if let Some(socket) = socket::websocket(upgrading).await {
                        forward::websocket(socket, framing, &ports, &destination).await;
                    }
                });
                Ok(upgrade::accept_websocket(&key, protocol))
            }
            Wish::Spdy { offers } => {
                if !offers.is_empty() && !offers.iter().any(|offer| offer == forward::SPDY_PROTOCOL) {
                    return Ok(upgrade::no_common_protocol(&offers, &[forward::SPDY_PROTOCOL]));
                }
                let upgrading = socket::claim(&mut request);
                self.spawn(async move {
                    if let Some(raw) = socket::raw(upgrading).await {
                        forward::spdy(Session::start(raw, Role::Server), &destination).await;
                    }
                });
                Ok(upgrade::accept_spdy(Some(forward::SPDY_PROTOCOL)))
            }
        }
    }

    fn destination(&self, target: &StreamTarget) -> Destination {
        let ContainerRef { namespace, pod, pod_uid: uid, .. } = target.container(String::new());
        Destination { nodes: self.nodes.clone(), address: target.address(), namespace, pod, uid }
    }
}

fn upgrade_required() -> ApiError {
    ApiError::bad_request("Upgrade request required")
}

fn no_common(offers: &[String], known: &[(&'static str, channels::Framing)]) -> Response<Body> {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    upgrade::no_common_protocol(offers, &names)
}

impl StreamTarget {
    fn pod_name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn address(&self) -> Address {
        Address { node: self.node_name.clone(), endpoint: self.node_address.clone() }
    }

    fn container(&self, container: String) -> ContainerRef {
        let metadata = &self.pod.metadata;
        ContainerRef {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            pod: self.pod_name().to_owned(),
            pod_uid: metadata.uid.clone().unwrap_or_default(),
            container,
        }
    }

    /// The node's first message. An attach has to live with the terminal that the container has or has not.
    fn start(&self, exec: bool, container: String, options: TerminalOptions) -> (TerminalOptions, StreamInput) {
        let mut options = options;
        let first = if exec {
            Input::Exec(ExecStart {
                container: Some(self.container(container)),
                command: options.command.clone(),
                stdin: options.stdin,
                stdout: options.stdout,
                stderr: options.stderr,
                tty: options.tty,
            })
        } else {
            let (tty, stdin) = choose::console(&self.pod, &container);
            options.tty &= tty;
            Input::Attach(AttachStart {
                container: Some(self.container(container)),
                stdin: options.stdin && stdin,
                stdout: options.stdout,
                stderr: options.stderr && !tty,
                tty,
            })
        };
        (options, StreamInput { input: Some(first) })
    }
}
