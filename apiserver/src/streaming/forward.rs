//! port-forward: connections of a client, in SPDY or in WebSocket channels, joined to ports of a pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_proto::node::{PortForwardInput, PortForwardStart, port_forward_input};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};
use tokio_tungstenite::tungstenite::Message;
use tonic::Status;

use super::channels::{Framing, Incoming};
use super::node::{Address, Connection, Nodes};
use super::socket::{PING, Sink, Socket, goodbye, pieces};
use super::spdy::headers::value;
use super::spdy::session::{Outgoing, Session, Stream};

/// The protocol inside SPDY.
pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";
/// The subprotocol of SPDY inside a WebSocket.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// How long the second stream of a pair may take.
const PAIR: Duration = Duration::from_secs(30);
/// Pieces of data that wait for a connection.
const QUEUE: usize = 16;

/// Whose ports.
#[derive(Clone)]
pub struct Destination {
    /// The way to nodes.
    pub nodes: Arc<Nodes>,
    /// The pod's node.
    pub address: Address,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub pod: String,
    /// `metadata.uid`
    pub uid: String,
}

impl Destination {
    async fn connect(&self, port: u16) -> Result<Connection, Status> {
        let start = PortForwardStart {
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            pod_uid: self.uid.clone(),
            port: port.into(),
        };
        self.nodes.connect(&self.address, start).await
    }

    fn failure(&self, port: u16, status: &Status) -> String {
        format!("error forwarding port {port} to pod {}, uid {}: {}", self.pod, self.uid, status.message())
    }
}

/// The way back to the client.
enum Back<'a> {
    Spdy(&'a Outgoing),
    Channel(&'a Channel),
}

impl Back<'_> {
    /// `false`: the client is gone.
    async fn deliver(&self, data: Bytes) -> bool {
        match self {
            Self::Spdy(stream) => stream.send(data).await,
            Self::Channel(channel) => channel.put(channel.data, &data).await,
        }
    }
}

/// Moves bytes until the pod's side is done. The end of `incoming` is passed on as end of file.
async fn pump(connection: Connection, mut incoming: mpsc::Receiver<Bytes>, back: Back<'_>) -> Result<(), Status> {
    let Connection { input, mut output } = connection;
    let up = async move {
        while let Some(data) = incoming.recv().await {
            for piece in pieces(data) {
                let piece = PortForwardInput { input: Some(port_forward_input::Input::Data(piece)) };
                if input.send(piece).await.is_err() {
                    return;
                }
            }
        }
    };
    let up = async {
        up.await;
        std::future::pending::<()>().await;
    };
    let down = async {
        while let Some(message) = output.message().await? {
            if !back.deliver(message.data).await {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        result = down => result,
        () = up => Ok(()),
    }
}

/// Half of a pair of streams: the other one has the same request.
struct Half {
    stream: Stream,
    is_error: bool,
    port: u16,
    since: Instant,
}

impl Half {
    /// Its place among the pairs, or `None` where its headers are not those of a port-forward.
    fn of(stream: &Stream) -> Option<(String, bool, u16)> {
        let port = value(&stream.headers, "port")?.parse().ok().filter(|port| *port != 0)?;
        let is_error = match value(&stream.headers, "streamtype")? {
            "error" => true,
            "data" => false,
            _ => return None,
        };
        // Clients without request ids open the error stream first and the data stream right after it.
        let implied = if is_error { stream.id } else { stream.id.saturating_sub(2) };
        let request = value(&stream.headers, "requestid").map_or_else(|| format!("stream {implied}"), str::to_owned);
        Some((request, is_error, port))
    }
}

/// Serves SPDY until the client ends it.
pub async fn spdy(mut session: Session, destination: &Destination) {
    let mut halves: BTreeMap<String, Half> = BTreeMap::new();
    let mut connections = JoinSet::new();
    let mut sweep = interval_at(Instant::now() + PAIR, PAIR);
    let ended = session.ended();
    loop {
        let stream = tokio::select! {
            stream = session.accept() => stream,
            _ = sweep.tick() => {
                let (young, old) = halves.into_iter().partition(|(_, half)| half.since.elapsed() < PAIR);
                halves = young;
                refuse(old).await;
                continue;
            }
            Some(_) = connections.join_next() => continue,
            () = ended.cancelled() => None,
        };
        let Some(stream) = stream else { break };
        let Some((request, is_error, port)) = Half::of(&stream) else {
            stream.outgoing.refuse().await;
            continue;
        };
        match halves.remove(&request) {
            Some(other) if other.is_error != is_error && other.port == port => {
                let (data, error) = if is_error { (other.stream, stream) } else { (stream, other.stream) };
                let destination = destination.clone();
                connections.spawn(async move { spdy_connection(&destination, port, data, error).await });
            }
            Some(other) => {
                other.stream.outgoing.refuse().await;
                stream.outgoing.refuse().await;
            }
            None => {
                halves.insert(request, Half { stream, is_error, port, since: Instant::now() });
            }
        }
    }
    connections.shutdown().await;
    session.close().await;
}

/// A stream whose other half did not come.
async fn refuse(old: BTreeMap<String, Half>) {
    for half in old.into_values() {
        half.stream.outgoing.refuse().await;
    }
}

async fn spdy_connection(destination: &Destination, port: u16, data: Stream, error: Stream) {
    let Stream { incoming, outgoing, gone, .. } = data;
    let forwarding = async {
        let connection = destination.connect(port).await?;
        pump(connection, incoming, Back::Spdy(&outgoing)).await
    };
    let result = tokio::select! {
        result = forwarding => result,
        () = gone.cancelled() => Ok(()),
    };
    if let Err(status) = result {
        error.outgoing.send(destination.failure(port, &status).into()).await;
    }
    error.outgoing.finish().await;
    outgoing.finish().await;
}

/// Serves the channels of a WebSocket: one connection per port, for as long as the WebSocket lasts.
pub async fn websocket(socket: Socket, framing: Framing, ports: &[u16], destination: &Destination) {
    let (mut sink, mut source) = socket.split();
    let (messages, queue) = mpsc::channel(QUEUE);
    let mut inboxes = Vec::new();
    let mut connections = JoinSet::new();
    for (index, port) in (0u8..).zip(ports.iter().copied()) {
        let (inbox, incoming) = mpsc::channel(QUEUE);
        inboxes.push(inbox);
        let channel = Channel { data: index * 2, error: index * 2 + 1, framing, messages: messages.clone() };
        let destination = destination.clone();
        connections.spawn(async move { channel.serve(&destination, port, incoming).await });
    }
    drop(messages);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            let Incoming::Data(channel, data) = framing.read(&message) else { continue };
            // Clients send nothing on error channels; what comes for a connection that has ended is dropped.
            if let Some(inbox) = inboxes.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0) {
                let _ = inbox.send(data).await;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = write_messages(&mut sink, queue) => {}
    }
    connections.shutdown().await;
    goodbye(sink, source).await;
}

/// Ends when every connection has ended, or the client is gone.
async fn write_messages(sink: &mut Sink, mut queue: mpsc::Receiver<Message>) {
    let mut ping = interval_at(Instant::now() + PING, PING);
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            _ = ping.tick() => Some(Message::Ping(Bytes::new())),
        };
        let Some(message) = message else { return };
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

/// One port's pair of channels.
struct Channel {
    data: u8,
    error: u8,
    framing: Framing,
    messages: mpsc::Sender<Message>,
}

impl Channel {
    async fn put(&self, channel: u8, data: &[u8]) -> bool {
        self.messages.send(self.framing.message(channel, data)).await.is_ok()
    }

    async fn serve(&self, destination: &Destination, port: u16, incoming: mpsc::Receiver<Bytes>) {
        // Each channel begins with its port.
        for channel in [self.data, self.error] {
            self.put(channel, &port.to_le_bytes()).await;
        }
        let result = match destination.connect(port).await {
            Ok(connection) => pump(connection, incoming, Back::Channel(self)).await,
            Err(status) => Err(status),
        };
        if let Err(status) = result {
            self.put(self.error, destination.failure(port, &status).as_bytes()).await;
        }
    }
}
