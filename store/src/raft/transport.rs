//! What carries messages between replicas: gRPC.
//!
//! A peer's address is a name that is resolved anew at each connect. Two connections per peer: appends and snapshots
//! must not hold up heartbeats, votes and forwarded requests.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use balsa_process::tls::TlsIdentity;
use balsa_proto::raft::raft_client::RaftClient;
use balsa_proto::raft::{self as wire, SnapshotChunk};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::network::{CLUSTER_HEADER, Lane, MAX_MESSAGE, Rare, TARGET_HEADER, To};
use super::{Members, codec};
use crate::disk::checkpoint::SnapshotDir;
use crate::error::Fault;
use crate::replica::Description;

const SNAPSHOT_PIECE: usize = 512 << 10;

/// Connections to all peers; cheap to clone.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: u64,
    identity: Option<TlsIdentity>,
    channels: Mutex<BTreeMap<(u64, Lane), (String, Channel)>>,
    /// Where the newest membership says that peers are; a link may still know an older address.
    addresses: Mutex<BTreeMap<u64, String>>,
}

/// With a name, because the compiler cannot see otherwise that a future that holds it may go to another thread.
struct Requests(BoxStream<'static, wire::AppendRequest>);

impl Stream for Requests {
    type Item = wire::AppendRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

fn unavailable(fault: Fault) -> Status {
    Status::unavailable(fault.0)
}

impl Transport {
    /// Connects to nobody yet.
    pub fn new(_me: u64, cluster: u64, identity: Option<TlsIdentity>) -> Self {
        let (channels, addresses) = Default::default();
        Self { inner: Arc::new(Inner { cluster, identity, channels, addresses }) }
    }

    /// Uses the addresses of this membership from now on.
    pub fn addressed(&self, members: &Members) {
        *self.inner.addresses.lock() = members.iter().map(|(id, peer)| (*id, peer.peer_url.clone())).collect();
    }

    fn channel(&self, target: u64, url: &str, lane: Lane) -> Result<Channel, Fault> {
        let newest = self.inner.addresses.lock().get(&target).cloned();
        let url = newest.as_deref().unwrap_or(url);
        let mut channels = self.inner.channels.lock();
        if let Some((known, channel)) = channels.get(&(target, lane))
            && known == url
        {
            return Ok(channel.clone());
        }
        let failed = |error: &dyn std::fmt::Display| Fault(format!("the peer URL {url} cannot be used: {error}"));
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| failed(&error))?
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(5)))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20);
        if let Some(identity) = self.inner.identity.as_ref().filter(|_| url.starts_with("https:")) {
            endpoint = endpoint.tls_config(identity.tonic_client()).map_err(|error| failed(&error))?;
        }
        let channel = endpoint.connect_lazy();
        channels.insert((target, lane), (url.to_owned(), channel.clone()));
        Ok(channel)
    }

    fn client(&self, to: &To, lane: Lane) -> Result<RaftClient<Channel>, Status> {
        let client = RaftClient::new(self.channel(to.id, &to.url, lane).map_err(unavailable)?);
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }

    fn request<T>(&self, to: &To, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER_HEADER, self.inner.cluster.into());
        metadata.insert(TARGET_HEADER, to.id.into());
        request
    }

    /// Appends, and their answers in the same order.
    pub fn append(
        &self,
        to: &To,
        lane: Lane,
        requests: BoxStream<'static, wire::AppendRequest>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<wire::AppendResponse, Status>>, Status>> {
        let (client, request) = (self.client(to, lane), self.request(to, Requests(requests)));
        Box::pin(async move { Ok(client?.append(request).await?.into_inner().boxed()) })
    }

    /// One of the rare calls, in JSON both ways.
    pub async fn rare(&self, to: &To, call: Rare, data: Vec<u8>, limit: Duration) -> Result<Bytes, Status> {
        let mut client = self.client(to, Lane::Quick)?;
        let mut request = self.request(to, wire::Payload { data: data.into() });
        request.set_timeout(limit);
        let answer = match call {
            Rare::Vote => client.vote(request).await?,
            Rare::PreVote => client.pre_vote(request).await?,
            Rare::TransferLeader => client.transfer_leader(request).await?,
        };
        Ok(answer.into_inner().data)
    }

    /// Sends a snapshot; the answer is a vote in JSON.
    pub async fn snapshot(&self, to: &To, lane: Lane, header: Vec<u8>, dir: Arc<SnapshotDir>) -> Result<Bytes, Status> {
        let (sender, pieces) = mpsc::channel(8);
        // Ends by itself when the receiving half is dropped.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_pieces(&dir, header, &sender) {
                tracing::warn!(%error, "a snapshot could not be sent");
            }
        });
        let request = self.request(to, ReceiverStream::new(pieces));
        Ok(self.client(to, lane)?.snapshot(request).await?.into_inner().data)
    }

    /// Passes a client's request on; the status is the peer's, or `Unavailable` from the transport.
    pub async fn forward(
        &self,
        to: &To,
        kind: wire::forward_request::Kind,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, Status> {
        let mut request = self.request(to, wire::ForwardRequest { kind: kind as i32, body });
        request.set_timeout(limit);
        Ok(self.client(to, Lane::Quick)?.forward(request).await?.into_inner().data)
    }
}

/// Asks the replica at a peer URL for the cluster's id and members.
pub async fn describe(url: &str, identity: Option<&TlsIdentity>) -> Result<Description, Status> {
    let unusable = |error: &dyn std::fmt::Display| Status::invalid_argument(format!("{url} cannot be used: {error}"));
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| unusable(&error))?
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(5));
    if let Some(identity) = identity.filter(|_| url.starts_with("https:")) {
        endpoint = endpoint.tls_config(identity.tonic_client()).map_err(|error| unusable(&error))?;
    }
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = RaftClient::new(channel).describe(wire::Payload::default()).await?;
    codec::from_json(&answer.into_inner().data).map_err(|fault| Status::internal(fault.0))
}

/// Whether a call certainly never reached the peer, because no connection could be made.
pub fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.to_string().contains("tcp connect error") || error.to_string().contains("dns error") {
            return true;
        }
        source = error.source();
    }
    false
}

fn read_pieces(dir: &SnapshotDir, header: Vec<u8>, sender: &mpsc::Sender<SnapshotChunk>) -> std::io::Result<()> {
    let gone = |_| std::io::Error::other("the receiver went away");
    sender.blocking_send(SnapshotChunk { header: header.into(), ..Default::default() }).map_err(gone)?;
    let mut files = std::fs::read_dir(dir.path())?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for entry in files {
        let mut file = std::fs::File::open(entry.path())?;
        let (mut name, mut crc) = (entry.file_name().to_string_lossy().into_owned(), crc32fast::Hasher::new());
        loop {
            let mut piece = Vec::with_capacity(SNAPSHOT_PIECE);
            file.by_ref().take(SNAPSHOT_PIECE as u64).read_to_end(&mut piece)?;
            crc.update(&piece);
            let last = piece.len() < SNAPSHOT_PIECE;
            let crc = if last { crc.clone().finalize() } else { 0 };
            let chunk =
                SnapshotChunk { header: Bytes::new(), file: std::mem::take(&mut name), data: piece.into(), crc, last };
            sender.blocking_send(chunk).map_err(gone)?;
            if last {
                break;
            }
        }
    }
    Ok(())
}
