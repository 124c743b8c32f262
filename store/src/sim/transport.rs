//! What carries messages between the replicas of a simulated world, in place of gRPC: they are encoded as on the wire,
//! given to [`wire`], and served by what serves them over gRPC.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use balsa_process::tls::TlsIdentity;
use balsa_proto::raft as messages;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use openraft::raft::VoteResponse;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::network::{Lane, Rare, To};
use super::{Members, TypeConfig, codec, server};
use crate::disk::checkpoint::SnapshotDir;
use crate::replica::{Description, Replica};
use crate::sim::{Mutation, broken, cluster, disk, node, wire, world};

const NEVER_SENT: &str = "nobody listens";

/// A replica's place in the network.
#[derive(Clone)]
pub struct Transport {
    me: usize,
}

/// Where a member is now: it may have come into the world after it was added.
fn place(to: &To) -> usize {
    cluster::number_of(to.id).unwrap_or(usize::MAX)
}

fn lost(broken: wire::Broken) -> Status {
    Status::unavailable(format!("{broken:?}"))
}

impl Transport {
    pub fn new(me: u64, _cluster: u64, _identity: Option<TlsIdentity>) -> Self {
        Self { me: cluster::number_of(me).unwrap_or(usize::MAX) }
    }

    /// Names are addresses here.
    pub fn addressed(&self, _: &Members) {}

    pub fn append(
        &self,
        to: &To,
        _lane: Lane,
        requests: BoxStream<'static, messages::AppendRequest>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<messages::AppendResponse, Status>>, Status>> {
        let (me, target) = (self.me, place(to));
        if broken(Mutation::AckAtMinority) && target == (me + 1) % cluster::size() {
            return Box::pin(std::future::ready(Ok(requests.map(|request| Ok(all_of(request))).boxed())));
        }
        Box::pin(async move {
            let (sender, receiver) = connect(me, target).await?;
            Ok(exchange(requests, sender, receiver))
        })
    }

    pub async fn rare(&self, to: &To, call: Rare, data: Vec<u8>, limit: Duration) -> Result<Bytes, Status> {
        let handler: wire::Handler<Result<Vec<u8>, Status>> = Arc::new(move |replica: Arc<Replica>| {
            let data = data.clone();
            Box::pin(async move {
                let answer = server::rare(replica.raft(), call, &data).await?;
                let granted = call == Rare::Vote
                    && codec::from_json::<VoteResponse<TypeConfig>>(&answer).is_ok_and(|answer| answer.vote_granted);
                if granted && let Some(node) = node::current() {
                    world::granted(node.number);
                }
                Ok(answer)
            })
        });
        let answer = wire::call_maybe_twice(self.me, place(to), limit, handler, 20).await;
        answer.map_err(lost)?.map(Bytes::from)
    }

    pub async fn snapshot(&self, to: &To, _lane: Lane, header: Vec<u8>, dir: Arc<SnapshotDir>) -> Result<Bytes, Status> {
        let (names, content) = disk::content(dir.path()).ok_or_else(|| Status::internal("the snapshot is gone"))?;
        let handler: wire::Handler<Result<Vec<u8>, Status>> = Arc::new(move |replica: Arc<Replica>| {
            static RECEIVED: AtomicU64 = AtomicU64::new(0);
            let path = replica.state().root().join(format!("incoming-{}", RECEIVED.fetch_add(1, Ordering::Relaxed)));
            disk::put_database(&path, names.clone(), content.clone());
            let (dir, header) = (SnapshotDir::adopt(path), header.clone());
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(world::below(100))).await;
                let (vote, meta) = server::snapshot_header(&header)?;
                server::install(replica.raft(), vote, meta, dir).await
            })
        });
        let answer = wire::call(self.me, place(to), Duration::from_secs(10), handler).await;
        answer.map_err(lost)?.map(Bytes::from)
    }

    pub async fn forward(
        &self,
        to: &To,
        kind: messages::forward_request::Kind,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, Status> {
        let handler: wire::Handler<Result<Bytes, Status>> = Arc::new(move |replica| {
            let body = body.clone();
            Box::pin(async move { replica.serve_forwarded(kind as i32, body).await })
        });
        match wire::call(self.me, place(to), limit, handler).await {
            Ok(answer) => answer,
            Err(wire::Broken::Lost) if !broken(Mutation::RetryUnknown) => Err(Status::unavailable("the connection broke")),
            Err(_) => Err(Status::unavailable(NEVER_SENT)),
        }
    }
}

/// Replicas ask for the members through the operator here.
pub async fn describe(_url: &str, _identity: Option<&TlsIdentity>) -> Result<Description, Status> {
    Err(Status::unimplemented("not in a simulation"))
}

pub fn never_sent(status: &Status) -> bool {
    status.message() == NEVER_SENT
}

/// What a follower says that took everything.
fn all_of(request: messages::AppendRequest) -> messages::AppendResponse {
    let last = request.entries.last().map(|entry| messages::LogId { term: entry.term, index: entry.index });
    messages::AppendResponse { matched: last.or(request.previous), ..Default::default() }
}

type Ends = (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>);

/// A stream of appends to a peer: where requests go in, where answers come out.
async fn connect(me: usize, target: usize) -> Result<Ends, Status> {
    let handler: wire::Handler<Ends> = Arc::new(move |replica: Arc<Replica>| {
        let (requests, arriving) = wire::pipe::<Bytes>(me, target);
        let (answers, returning) = wire::pipe::<Bytes>(target, me);
        crate::rt::spawn(serve(replica, arriving, answers));
        Box::pin(std::future::ready((requests, returning)))
    });
    wire::call(me, target, Duration::from_secs(1), handler).await.map_err(lost)
}

/// What a peer does with a stream of appends.
async fn serve(replica: Arc<Replica>, arriving: mpsc::Receiver<Bytes>, answers: mpsc::Sender<Bytes>) {
    let requests = ReceiverStream::new(arriving);
    let requests = tokio_stream::StreamExt::map_while(requests, |data| messages::AppendRequest::decode(data).ok());
    let mut results = server::appends(replica.raft(), requests);
    while let Some(Ok(result)) = results.next().await {
        if answers.send(result.encode_to_vec().into()).await.is_err() {
            return;
        }
    }
}

fn exchange(
    mut input: BoxStream<'static, messages::AppendRequest>,
    requests: mpsc::Sender<Bytes>,
    answers: mpsc::Receiver<Bytes>,
) -> BoxStream<'static, Result<messages::AppendResponse, Status>> {
    let ended = CancellationToken::new();
    let (guard, broke) = (ended.clone().drop_guard(), Arc::new(AtomicBool::new(false)));
    crate::rt::spawn(async move {
        loop {
            let next = tokio::select! {
                biased;
                () = ended.cancelled() => return,
                next = input.next() => next,
            };
            let Some(request) = next else { return };
            if requests.send(request.encode_to_vec().into()).await.is_err() {
                return;
            }
        }
    });
    let stream = futures::stream::unfold(Some((answers, guard)), move |state| {
        let broke = broke.clone();
        async move {
            let (mut answers, guard) = state?;
            // The sender's half breaks; what it sent still arrives, behind what it sends next.
            if world::chance(2) && !broke.swap(true, Ordering::AcqRel) {
                return Some((Err(Status::unavailable("the connection broke")), None));
            }
            match answers.recv().await.map(messages::AppendResponse::decode) {
                Some(Ok(answer)) => Some((Ok(answer), Some((answers, guard)))),
                Some(Err(_)) => Some((Err(Status::internal("nonsense")), None)),
                None => Some((Err(Status::unavailable("the peer closed the stream")), None)),
            }
        }
    });
    stream.boxed()
}
