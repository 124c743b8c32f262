//! This replica's way to its peers: pipelined appends, votes, snapshots in pieces, and forwarded client requests.
//!
//! A peer's address is a name that is resolved anew at each connect. Two connections per peer: appends and snapshots
//! must not hold up heartbeats, votes and forwarded requests.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use balsa_process::tls::TlsIdentity;
use balsa_proto::raft::raft_client::RaftClient;
use balsa_proto::raft::{self as wire, SnapshotChunk};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Members, Peer, TypeConfig, Vote, codec};
use crate::disk::checkpoint::SnapshotDir;
use crate::error::Fault;
use crate::replica::Description;

/// Metadata that names the cluster and the member a call is meant for.
pub const CLUSTER_HEADER: &str = "balsa-cluster";
/// See [`CLUSTER_HEADER`].
pub const TARGET_HEADER: &str = "balsa-target";

/// Largest message between peers, bytes: an append may carry many of the largest requests.
pub const MAX_MESSAGE: usize = 512 << 20;
const SNAPSHOT_PIECE: usize = 512 << 10;
/// How long a peer may leave an append unanswered; its disk may be slow.
const APPEND_PATIENCE: Duration = Duration::from_secs(3);

/// Connections to all peers; cheap to clone.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    me: u64,
    cluster: u64,
    identity: Option<TlsIdentity>,
    channels: Mutex<BTreeMap<(u64, Lane), (String, Channel)>>,
    /// Peers that did not take the last append stream.
    silent: Mutex<BTreeSet<u64>>,
    /// Where the newest membership says that peers are; a link may still know an older address.
    addresses: Mutex<BTreeMap<u64, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Bulk,
    Quick,
}

impl Network {
    /// Connects to nobody yet.
    pub fn new(me: u64, cluster: u64, identity: Option<TlsIdentity>) -> Self {
        let (channels, silent, addresses) = Default::default();
        Self { inner: Arc::new(Inner { me, cluster, identity, channels, silent, addresses }) }
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

    fn client(&self, target: u64, url: &str, lane: Lane) -> Result<RaftClient<Channel>, Fault> {
        let client = RaftClient::new(self.channel(target, url, lane)?);
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }

    fn request<T>(&self, target: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER_HEADER, self.inner.cluster.into());
        metadata.insert(TARGET_HEADER, target.into());
        request
    }

    /// Says once that a peer is gone, and once that it is back.
    fn heard(&self, target: u64, peer: &str, error: Option<&RPCError<TypeConfig>>) {
        let mut silent = self.inner.silent.lock();
        match error {
            Some(error) if silent.insert(target) => tracing::warn!(peer, %error, "a peer cannot be reached"),
            None if silent.remove(&target) => tracing::info!(peer, "a peer is reached again"),
            _ => {}
        }
    }

    /// Passes a client's request on to `target`; the status is the target's, or `Unavailable` from the transport.
    pub async fn forward(
        &self,
        target: u64,
        peer: &Peer,
        kind: wire::forward_request::Kind,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, Status> {
        let unavailable = |fault: Fault| Status::unavailable(fault.0);
        let mut client = self.client(target, &peer.peer_url, Lane::Quick).map_err(unavailable)?;
        let mut request = self.request(target, wire::ForwardRequest { kind: kind as i32, body });
        request.set_timeout(deadline);
        Ok(client.forward(request).await?.into_inner().data)
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

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { network: self.clone(), target, peer: node.clone(), lane: Lane::Bulk }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { network: self.clone(), target, peer: node.clone(), lane: Lane::Quick }
    }
}

/// The way to one peer.
pub struct Link {
    network: Network,
    target: u64,
    peer: Peer,
    lane: Lane,
}

fn unreachable(problem: impl std::fmt::Display) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(problem.to_string()))
}

impl Link {
    fn client(&self) -> Result<RaftClient<Channel>, RPCError<TypeConfig>> {
        self.network.client(self.target, &self.peer.peer_url, self.lane).map_err(unreachable)
    }

    fn quick(&self) -> Result<RaftClient<Channel>, RPCError<TypeConfig>> {
        self.network.client(self.target, &self.peer.peer_url, Lane::Quick).map_err(unreachable)
    }

    fn json<T: serde::Serialize>(
        &self,
        message: &T,
        option: &RPCOption,
    ) -> Result<Request<wire::Payload>, RPCError<TypeConfig>> {
        let data = codec::to_json(message).map_err(unreachable)?.into();
        let mut request = self.network.request(self.target, wire::Payload { data });
        request.set_timeout(option.soft_ttl().max(Duration::from_millis(250)));
        Ok(request)
    }

    /// Appends, and their answers in the same order. The call is made with the first request: openraft paces the
    /// requests after failures, so that a peer which is down is not asked in a busy loop.
    fn append<S>(&self, mut input: S) -> BoxStream<'static, Appended>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let (network, target, name, client) = (self.network.clone(), self.target, self.peer.name.clone(), self.client());
        let begun = async move {
            let Some(first) = input.next().await else { return futures::stream::empty().boxed() };
            let begun = match client {
                Ok(client) => begin(&network, target, client, futures::stream::iter([first]).chain(input)).await,
                Err(error) => Err(error),
            };
            network.heard(target, &name, begun.as_ref().err());
            begun.unwrap_or_else(|error| futures::stream::iter([Err(error)]).boxed())
        };
        futures::stream::once(begun).flatten().boxed()
    }
}

type Appended = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

async fn begin(
    network: &Network,
    target: u64,
    mut client: RaftClient<Channel>,
    input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
) -> Result<BoxStream<'static, Appended>, RPCError<TypeConfig>> {
    let me = network.inner.me;
    let unanswered = Arc::new(AtomicI64::new(0));
    let sent = unanswered.clone();
    let requests = tokio_stream::StreamExt::map_while(input, move |request| {
        sent.fetch_add(1, Ordering::AcqRel);
        codec::wire_append(request).ok()
    });
    let call = client.append(network.request(target, requests));
    let answers = match tokio::time::timeout(APPEND_PATIENCE, call).await {
        Ok(answers) => answers.map_err(unreachable)?.into_inner(),
        Err(_) => return Err(append_timeout(me, target)),
    };
    let stream = futures::stream::unfold(Some(answers), move |answers| {
        let unanswered = unanswered.clone();
        async move {
            let mut answers = answers?;
            loop {
                let waiting = unanswered.load(Ordering::Acquire) > 0;
                match tokio::time::timeout(APPEND_PATIENCE, answers.message()).await {
                    Ok(Ok(Some(answer))) => {
                        unanswered.fetch_sub(1, Ordering::AcqRel);
                        let result = codec::from_wire_append_result(answer);
                        let more = result.is_ok().then_some(answers);
                        return Some((Ok(result), more));
                    }
                    Ok(Ok(None)) => return None,
                    Ok(Err(status)) => return Some((Err(unreachable(status)), None)),
                    Err(_) if waiting => return Some((Err(append_timeout(me, target)), None)),
                    Err(_) => {}
                }
            }
        }
    });
    Ok(stream.boxed())
}

fn append_timeout(id: u64, target: u64) -> RPCError<TypeConfig> {
    RPCError::Timeout(Timeout { action: openraft::RPCTypes::AppendEntries, id, target, timeout: APPEND_PATIENCE })
}

fn remote<T: serde::de::DeserializeOwned>(
    answer: Result<tonic::Response<wire::Payload>, Status>,
) -> Result<T, RPCError<TypeConfig>> {
    codec::from_json(&answer.map_err(unreachable)?.into_inner().data).map_err(unreachable)
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Arc<SnapshotDir>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut answers = self.append(futures::stream::iter([rpc]));
        match answers.next().await {
            Some(answer) => Ok(answer?.into()),
            None => Err(RPCError::Network(NetworkError::from_string("the peer closed the append stream"))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(std::future::ready(Ok(self.append(input))))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        remote(self.quick()?.vote(self.json(&rpc, &option)?).await)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        remote(self.quick()?.pre_vote(self.json(&rpc, &option)?).await)
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        remote(self.quick()?.transfer_leader(self.json(&req, &option)?).await)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, Arc<SnapshotDir>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = codec::to_json(&(vote, &snapshot.meta)).map_err(unreachable)?;
        let (sender, pieces) = mpsc::channel(8);
        let dir = snapshot.snapshot.clone();
        // Ends by itself when the receiving half is dropped.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_pieces(&dir, header, &sender) {
                tracing::warn!(%error, "a snapshot could not be sent");
            }
        });
        let mut client = self.client()?;
        let call = client.snapshot(self.network.request(self.target, ReceiverStream::new(pieces)));
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = call => Ok(SnapshotResponse::new(remote(answer)?)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
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
