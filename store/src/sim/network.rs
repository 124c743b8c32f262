//! A replica's way to its peers in the simulation, in place of the one over gRPC: messages are encoded and decoded as
//! on the wire, and then given to [`wire`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use balsa_proto::raft as messages;
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
use prost::Message as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Peer, Raft, TypeConfig, Vote, codec};
use crate::disk::checkpoint::SnapshotDir;
use crate::replica::Replica;
use crate::sim::{Mutation, broken, cluster, disk, wire, world};

/// As over gRPC.
pub const CLUSTER_HEADER: &str = "balsa-cluster";
pub const TARGET_HEADER: &str = "balsa-target";
pub const MAX_MESSAGE: usize = 512 << 20;
const APPEND_PATIENCE: Duration = Duration::from_secs(3);
const NEVER_SENT: &str = "nobody listens";

#[derive(Clone)]
pub struct Network {
    me: usize,
}

impl Network {
    pub fn new(me: u64, _cluster: u64, _identity: Option<balsa_process::tls::TlsIdentity>) -> Self {
        Self { me: cluster::number_of(me) }
    }

    /// Names are addresses here.
    pub fn addressed(&self, _: &super::Members) {}

    pub async fn forward(
        &self,
        target: u64,
        _peer: &Peer,
        kind: messages::forward_request::Kind,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, Status> {
        let handler: wire::Handler<Result<Bytes, Status>> = Arc::new(move |replica| {
            let body = body.clone();
            Box::pin(async move { replica.serve_forwarded(kind as i32, body).await })
        });
        match wire::call(self.me, cluster::number_of(target), deadline, handler).await {
            Ok(answer) => answer,
            Err(wire::Broken::Lost) if !broken(Mutation::RetryUnknown) => Err(Status::unavailable("the connection broke")),
            Err(_) => Err(Status::unavailable(NEVER_SENT)),
        }
    }
}

/// Nobody joins a simulated cluster by its URL.
pub async fn describe(
    _url: &str,
    _identity: Option<&balsa_process::tls::TlsIdentity>,
) -> Result<crate::replica::Description, Status> {
    Err(Status::unimplemented("no replica joins by URL here"))
}

/// Whether a call certainly never reached the peer.
pub fn never_sent(status: &Status) -> bool {
    status.message() == NEVER_SENT
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &Peer) -> Link {
        Link { me: self.me, target: cluster::number_of(target) }
    }
}

/// The way to one peer.
pub struct Link {
    me: usize,
    target: usize,
}

type Appended = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

fn unreachable(problem: impl std::fmt::Display) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(problem.to_string()))
}

impl Link {
    /// A rare call, in JSON both ways.
    async fn json<Q, A>(
        &self,
        request: &Q,
        limit: Duration,
        serve: fn(Raft, Q) -> BoxFuture<'static, Result<A, String>>,
    ) -> Result<A, RPCError<TypeConfig>>
    where
        Q: Serialize + DeserializeOwned + Send + 'static,
        A: Serialize + DeserializeOwned + Send + 'static,
    {
        let data = codec::to_json(request).map_err(unreachable)?;
        let handler: wire::Handler<Result<Vec<u8>, String>> = Arc::new(move |replica: Arc<Replica>| {
            let request = codec::from_json(&data);
            Box::pin(async move {
                let request = request.map_err(|fault| fault.0)?;
                let answer = serve(replica.raft().clone(), request).await?;
                codec::to_json(&answer).map_err(|fault| fault.0)
            })
        });
        let limit = limit.max(Duration::from_millis(250));
        let answer = wire::call_maybe_twice(self.me, self.target, limit, handler, 20).await;
        let answer = answer.map_err(|broken| unreachable(format!("{broken:?}")))?.map_err(unreachable)?;
        codec::from_json(&answer).map_err(unreachable)
    }

    fn append<S>(&self, input: S) -> BoxStream<'static, Appended>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if broken(Mutation::AckAtMinority) && self.target == (self.me + 1) % cluster::size() {
            return input.map(|request| Ok(Ok(request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)))).boxed();
        }
        let (me, target) = (self.me, self.target);
        let begun = async move {
            let mut input = input;
            let Some(first) = input.next().await else { return futures::stream::empty().boxed() };
            match connect(me, target).await {
                Some((requests, answers)) => exchange(me, target, first, input, requests, answers),
                None => futures::stream::iter([Err(unreachable("the peer cannot be reached"))]).boxed(),
            }
        };
        futures::stream::once(begun).flatten().boxed()
    }
}

type Ends = (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>);

/// A stream of appends to a peer: where requests go in, where answers come out.
async fn connect(me: usize, target: usize) -> Option<Ends> {
    let handler: wire::Handler<Ends> = Arc::new(move |replica: Arc<Replica>| {
        let (requests, arriving) = wire::pipe::<Bytes>(me, target);
        let (answers, returning) = wire::pipe::<Bytes>(target, me);
        crate::rt::spawn(serve(replica, arriving, answers));
        Box::pin(std::future::ready((requests, returning)))
    });
    wire::call(me, target, Duration::from_secs(1), handler).await.ok()
}

/// What a peer does with a stream of appends, as over gRPC.
async fn serve(replica: Arc<Replica>, arriving: mpsc::Receiver<Bytes>, answers: mpsc::Sender<Bytes>) {
    let arriving = tokio_stream::wrappers::ReceiverStream::new(arriving);
    let requests = tokio_stream::StreamExt::map_while(arriving, |data| {
        codec::from_wire_append(messages::AppendRequest::decode(data).ok()?).ok()
    });
    let mut results = std::pin::pin!(replica.raft().stream_append(requests));
    while let Some(Ok(result)) = results.next().await {
        if answers.send(codec::wire_append_result(&result).encode_to_vec().into()).await.is_err() {
            return;
        }
    }
}

fn exchange(
    me: usize,
    target: usize,
    first: AppendEntriesRequest<TypeConfig>,
    input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    requests: mpsc::Sender<Bytes>,
    answers: mpsc::Receiver<Bytes>,
) -> BoxStream<'static, Appended> {
    let unanswered = Arc::new(AtomicI64::new(0));
    let (sent, ended) = (unanswered.clone(), CancellationToken::new());
    let (guard, broke) = (ended.clone().drop_guard(), Arc::new(AtomicU64::new(0)));
    crate::rt::spawn(async move {
        let mut input = futures::stream::iter([first]).chain(input);
        loop {
            let next = tokio::select! {
                biased;
                () = ended.cancelled() => return,
                next = input.next() => next,
            };
            let Some(Ok(request)) = next.map(codec::wire_append) else { return };
            sent.fetch_add(1, Ordering::AcqRel);
            if requests.send(request.encode_to_vec().into()).await.is_err() {
                return;
            }
        }
    });
    let stream = futures::stream::unfold(Some((answers, guard)), move |state| {
        let (unanswered, broke) = (unanswered.clone(), broke.clone());
        async move {
            let (mut answers, guard) = state?;
            // The sender's half breaks; what it sent still arrives, behind what it sends next.
            if world::chance(2) && broke.fetch_add(1, Ordering::AcqRel) == 0 {
                return Some((Err(unreachable("the connection broke")), None));
            }
            loop {
                let waiting = unanswered.load(Ordering::Acquire) > 0;
                match tokio::time::timeout(APPEND_PATIENCE, answers.recv()).await {
                    Ok(Some(data)) => {
                        unanswered.fetch_sub(1, Ordering::AcqRel);
                        let Ok(answer) = messages::AppendResponse::decode(data) else {
                            return Some((Err(unreachable("nonsense")), None));
                        };
                        let result = codec::from_wire_append_result(answer);
                        let more = result.is_ok().then_some((answers, guard));
                        return Some((Ok(result), more));
                    }
                    Ok(None) => return Some((Err(unreachable("the peer closed the stream")), None)),
                    Err(_) if waiting => return Some((Err(append_timeout(me, target)), None)),
                    Err(_) => {}
                }
            }
        }
    });
    stream.boxed()
}

fn append_timeout(me: usize, target: usize) -> RPCError<TypeConfig> {
    let (id, target) = (cluster::id_of(me), cluster::id_of(target));
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
        let serve = |raft: Raft, rpc| -> BoxFuture<'static, _> {
            Box::pin(async move { raft.vote(rpc).await.map_err(|error| error.to_string()) })
        };
        self.json(&rpc, option.soft_ttl(), serve).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let serve = |raft: Raft, rpc| -> BoxFuture<'static, _> {
            Box::pin(async move { raft.pre_vote(rpc).await.map_err(|error| error.to_string()) })
        };
        self.json(&rpc, option.soft_ttl(), serve).await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let serve = |raft: Raft, rpc| -> BoxFuture<'static, _> {
            Box::pin(async move { raft.handle_transfer_leader(rpc).await.map_err(|error| error.to_string()) })
        };
        self.json(&req, option.soft_ttl(), serve).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, Arc<SnapshotDir>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = codec::to_json(&(vote, &snapshot.meta)).map_err(unreachable)?;
        let Some((names, content)) = disk::content(snapshot.snapshot.path()) else {
            return Err(unreachable("the snapshot is gone").into());
        };
        let handler: wire::Handler<Result<Vote, String>> = Arc::new(move |replica: Arc<Replica>| {
            static RECEIVED: AtomicU64 = AtomicU64::new(0);
            let path = replica.state().root().join(format!("incoming-{}", RECEIVED.fetch_add(1, Ordering::Relaxed)));
            disk::put_database(&path, names.clone(), content.clone());
            let dir = SnapshotDir::adopt(path);
            let header = codec::from_json::<(Vote, openraft::type_config::alias::SnapshotMetaOf<TypeConfig>)>(&header);
            Box::pin(async move {
                let (vote, meta) = header.map_err(|fault| fault.0)?;
                tokio::time::sleep(Duration::from_millis(world::below(100))).await;
                let snapshot = openraft::type_config::alias::SnapshotOf::<TypeConfig, _> { meta, snapshot: Arc::new(dir) };
                let answer = replica.raft().install_full_snapshot(vote, snapshot).await;
                answer.map(|answer| answer.vote).map_err(|error| error.to_string())
            })
        });
        let call = wire::call(self.me, self.target, Duration::from_secs(10), handler);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = call => match answer {
                Ok(Ok(vote)) => Ok(SnapshotResponse::new(vote)),
                Ok(Err(error)) => Err(unreachable(error).into()),
                Err(broken) => Err(unreachable(format!("{broken:?}")).into()),
            },
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
}
