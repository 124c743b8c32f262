//! This replica's way to its peers, as openraft wants it: pipelined appends, votes, snapshots, and forwarded client
//! requests. What carries them is [`super::transport`], which unit tests replace by a simulated one.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use balsa_process::tls::TlsIdentity;
use balsa_proto::raft as wire;
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
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

use super::transport::Transport;
pub use super::transport::{describe, never_sent};
use super::{Members, Peer, TypeConfig, Vote, codec};
use crate::disk::checkpoint::SnapshotDir;

/// Metadata that names the cluster and the member a call is meant for.
pub const CLUSTER_HEADER: &str = "balsa-cluster";
/// See [`CLUSTER_HEADER`].
pub const TARGET_HEADER: &str = "balsa-target";

/// Largest message between peers, bytes: an append may carry many of the largest requests.
pub const MAX_MESSAGE: usize = 512 << 20;
/// How long a peer may leave an append unanswered; its disk may be slow.
const APPEND_PATIENCE: Duration = Duration::from_secs(3);

/// A peer as it is reached.
#[derive(Debug, Clone)]
pub struct To {
    /// Its member id.
    pub id: u64,
    /// Its peer URL, as far as is known here.
    pub url: String,
}

/// What must not wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Appends and snapshots.
    Bulk,
    /// Heartbeats, votes and forwarded requests.
    Quick,
}

/// Calls between replicas that are rare and small: JSON both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rare {
    /// To be elected.
    Vote,
    /// Whether one would be elected.
    PreVote,
    /// To take over.
    TransferLeader,
}

/// The way to all peers; cheap to clone.
#[derive(Clone)]
pub struct Network {
    me: u64,
    transport: Transport,
    /// Peers that did not take the last append stream.
    silent: Arc<Mutex<BTreeSet<u64>>>,
}

impl Network {
    /// Connects to nobody yet.
    pub fn new(me: u64, cluster: u64, identity: Option<TlsIdentity>) -> Self {
        Self { me, transport: Transport::new(me, cluster, identity), silent: Arc::default() }
    }

    /// Uses the addresses of this membership from now on.
    pub fn addressed(&self, members: &Members) {
        self.transport.addressed(members);
    }

    /// Says once that a peer is gone, and once that it is back.
    fn heard(&self, target: u64, peer: &str, error: Option<&RPCError<TypeConfig>>) {
        let mut silent = self.silent.lock();
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
        limit: Duration,
    ) -> Result<Bytes, Status> {
        self.transport.forward(&To { id: target, url: peer.peer_url.clone() }, kind, body, limit).await
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        Link::new(self, target, node, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Link {
        Link::new(self, target, node, Lane::Quick)
    }
}

/// The way to one peer.
pub struct Link {
    network: Network,
    to: To,
    name: String,
    lane: Lane,
}

type Appended = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

fn unreachable(problem: impl std::fmt::Display) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(problem.to_string()))
}

impl Link {
    fn new(network: &Network, target: u64, node: &Peer, lane: Lane) -> Self {
        let to = To { id: target, url: node.peer_url.clone() };
        Self { network: network.clone(), to, name: node.name.clone(), lane }
    }

    async fn rare<A: DeserializeOwned>(
        &self,
        call: Rare,
        message: &impl Serialize,
        option: &RPCOption,
    ) -> Result<A, RPCError<TypeConfig>> {
        let data = codec::to_json(message).map_err(unreachable)?;
        let limit = option.soft_ttl().max(Duration::from_millis(250));
        let answer = self.network.transport.rare(&self.to, call, data, limit).await.map_err(unreachable)?;
        codec::from_json(&answer).map_err(unreachable)
    }

    /// Appends, and their answers in the same order. The call is made with the first request: openraft paces the
    /// requests after failures, so that a peer which is down is not asked in a busy loop.
    fn append<S>(&self, mut input: S) -> BoxStream<'static, Appended>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let (network, to, name, lane) = (self.network.clone(), self.to.clone(), self.name.clone(), self.lane);
        let begun = async move {
            let Some(first) = input.next().await else { return futures::stream::empty().boxed() };
            let begun = begin(&network, &to, lane, futures::stream::iter([first]).chain(input)).await;
            network.heard(to.id, &name, begun.as_ref().err());
            begun.unwrap_or_else(|error| futures::stream::iter([Err(error)]).boxed())
        };
        futures::stream::once(begun).flatten().boxed()
    }
}

async fn begin(
    network: &Network,
    to: &To,
    lane: Lane,
    input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
) -> Result<BoxStream<'static, Appended>, RPCError<TypeConfig>> {
    let (me, target) = (network.me, to.id);
    let unanswered = Arc::new(AtomicI64::new(0));
    let sent = unanswered.clone();
    let requests = tokio_stream::StreamExt::map_while(input, move |request| {
        sent.fetch_add(1, Ordering::AcqRel);
        codec::wire_append(request).ok()
    });
    let call = network.transport.append(to, lane, requests.boxed());
    let answers = match tokio::time::timeout(APPEND_PATIENCE, call).await {
        Ok(answers) => answers.map_err(unreachable)?,
        Err(_) => return Err(append_timeout(me, target)),
    };
    let stream = futures::stream::unfold(Some(answers), move |answers| {
        let unanswered = unanswered.clone();
        async move {
            let mut answers = answers?;
            loop {
                let waiting = unanswered.load(Ordering::Acquire) > 0;
                match tokio::time::timeout(APPEND_PATIENCE, answers.next()).await {
                    Ok(Some(Ok(answer))) => {
                        unanswered.fetch_sub(1, Ordering::AcqRel);
                        let result = codec::from_wire_append_result(answer);
                        let more = result.is_ok().then_some(answers);
                        return Some((Ok(result), more));
                    }
                    Ok(None) => return None,
                    Ok(Some(Err(status))) => return Some((Err(unreachable(status)), None)),
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
    ) -> BoxFuture<'s, Result<BoxStream<'s, Appended>, RPCError<TypeConfig>>>
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
        self.rare(Rare::Vote, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rare(Rare::PreVote, &rpc, &option).await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rare(Rare::TransferLeader, &req, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, Arc<SnapshotDir>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = codec::to_json(&(vote, &snapshot.meta)).map_err(unreachable)?;
        let call = self.network.transport.snapshot(&self.to, self.lane, header, snapshot.snapshot.clone());
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = call => Ok(SnapshotResponse::new(codec::from_json(&answer.map_err(unreachable)?).map_err(unreachable)?)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
}
