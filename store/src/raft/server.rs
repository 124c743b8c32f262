//! What peers ask of this replica. Only members of this cluster are answered, and only what is meant for this member.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use balsa_process::identity::Actor;
use balsa_proto::raft::raft_server::Raft as RaftService;
use balsa_proto::raft::{AppendRequest, AppendResponse, ForwardRequest, Payload, SnapshotChunk};
use futures::stream::{BoxStream, Stream, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::network::{CLUSTER_HEADER, Rare, TARGET_HEADER};
use super::{Raft, TypeConfig, Vote, codec};
use crate::disk::checkpoint::SnapshotDir;
use crate::error::Fault;
use crate::replica::Replica;

/// The group in a peer's certificate.
pub const STORES: &str = "balsa:stores";

/// The peer port's service.
pub struct PeerService {
    replica: Arc<Replica>,
    snapshots: AtomicU64,
}

fn invalid(fault: Fault) -> Status {
    Status::invalid_argument(fault.0)
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this replica has stopped: {error}"))
}

impl PeerService {
    /// Serves for `replica`.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica, snapshots: AtomicU64::new(0) }
    }

    fn raft(&self) -> &Raft {
        self.replica.raft()
    }

    async fn rare(&self, request: Request<Payload>, call: Rare) -> Result<Response<Payload>, Status> {
        self.admit(&request)?;
        let data = rare(self.raft(), call, &request.into_inner().data).await?.into();
        Ok(Response::new(Payload { data }))
    }

    fn admit_peer<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.replica.uses_tls() {
            let certificates = request.peer_certs();
            let leaf = certificates.as_ref().and_then(|chain| chain.first());
            let actor = leaf.and_then(|leaf| Actor::from_certificate(leaf).ok());
            if !actor.is_some_and(|actor| actor.is_in(STORES)) {
                return Err(Status::permission_denied(format!("only members of {STORES} may use the peer port")));
            }
        }
        Ok(())
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.admit_peer(request)?;
        let number = |name: &str| request.metadata().get(name)?.to_str().ok()?.parse::<u64>().ok();
        match (number(CLUSTER_HEADER), number(TARGET_HEADER)) {
            (Some(cluster), Some(target)) if cluster == self.replica.cluster_id() && target == self.replica.id() => Ok(()),
            (Some(cluster), _) if cluster != self.replica.cluster_id() => {
                Err(Status::failed_precondition("this replica belongs to another cluster"))
            }
            _ => Err(Status::failed_precondition("this replica is not the member that the call is meant for")),
        }
    }
}

fn encoded(value: &impl serde::Serialize) -> Result<Vec<u8>, Status> {
    codec::to_json(value).map_err(|fault| Status::internal(fault.0))
}

/// Serves a stream of appends: an answer to each, in order; ends at the first that makes no sense.
pub fn appends(
    raft: &Raft,
    requests: impl Stream<Item = AppendRequest> + Send + 'static,
) -> BoxStream<'static, Result<AppendResponse, Status>> {
    let requests = tokio_stream::StreamExt::map_while(requests, |request| match codec::from_wire_append(request) {
        Ok(request) => Some(request),
        Err(fault) => {
            tracing::warn!(%fault, "a peer sent an append request that makes no sense");
            None
        }
    });
    let answers = raft.stream_append(requests).map(|result| match result {
        Ok(result) => Ok(codec::wire_append_result(&result)),
        Err(fatal) => Err(stopped(fatal)),
    });
    answers.boxed()
}

/// Serves a rare call.
pub async fn rare(raft: &Raft, call: Rare, data: &[u8]) -> Result<Vec<u8>, Status> {
    match call {
        Rare::Vote => encoded(&raft.vote(codec::from_json(data).map_err(invalid)?).await.map_err(stopped)?),
        Rare::PreVote => encoded(&raft.pre_vote(codec::from_json(data).map_err(invalid)?).await.map_err(stopped)?),
        Rare::TransferLeader => {
            let request = codec::from_json(data).map_err(invalid)?;
            encoded(&raft.handle_transfer_leader(request).await.map_err(stopped)?)
        }
    }
}

type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// What a snapshot begins with: who sends it, and what it holds.
pub fn snapshot_header(data: &[u8]) -> Result<(Vote, SnapshotMeta), Status> {
    codec::from_json(data).map_err(invalid)
}

/// Puts a received snapshot in the place of the state; the answer is this replica's vote.
pub async fn install(raft: &Raft, vote: Vote, meta: SnapshotMeta, dir: SnapshotDir) -> Result<Vec<u8>, Status> {
    let snapshot = openraft::type_config::alias::SnapshotOf::<TypeConfig, _> { meta, snapshot: Arc::new(dir) };
    let response = raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
    encoded(&response.vote)
}

#[tonic::async_trait]
impl RaftService for PeerService {
    type AppendStream = BoxStream<'static, Result<AppendResponse, Status>>;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        self.admit(&request)?;
        // A peer that has nothing to send would keep the stream, and with it this replica's databases, open.
        let stop = self.replica.stop().clone();
        let received = request.into_inner().take_until(stop.cancelled_owned());
        let requests = tokio_stream::StreamExt::map_while(received, Result::ok);
        Ok(Response::new(appends(self.raft(), requests)))
    }

    async fn vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.rare(request, Rare::Vote).await
    }

    async fn pre_vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.rare(request, Rare::PreVote).await
    }

    async fn transfer_leader(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.rare(request, Rare::TransferLeader).await
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<Payload>, Status> {
        self.admit(&request)?;
        let mut pieces = request.into_inner();
        let first = pieces.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot without a header"))?;
        let (vote, meta) = snapshot_header(&first.header)?;
        let number = self.snapshots.fetch_add(1, Ordering::Relaxed);
        let path = self.replica.state().root().join(format!("incoming-{number}"));
        tokio::fs::create_dir_all(&path).await?;
        let dir = SnapshotDir::adopt(path);
        tracing::info!(index = meta.last_log_id.map(|id| id.index()), "receiving a snapshot");
        tokio::select! {
            received = receive(&mut pieces, dir.path()) => received?,
            () = self.replica.stop().cancelled() => return Err(stopped("in the middle of a snapshot")),
        }
        let data = install(self.raft(), vote, meta, dir).await?.into();
        Ok(Response::new(Payload { data }))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<Payload>, Status> {
        self.admit(&request)?;
        let ForwardRequest { kind, body } = request.into_inner();
        let data = self.replica.serve_forwarded(kind, body).await?;
        Ok(Response::new(Payload { data }))
    }

    async fn describe(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.admit_peer(&request)?;
        let data = encoded(&self.replica.description())?.into();
        Ok(Response::new(Payload { data }))
    }
}

/// Writes the files of a snapshot to `dir`, checked and synced; whatever does not make sense is refused.
pub async fn receive(
    pieces: &mut (impl Stream<Item = Result<SnapshotChunk, Status>> + Unpin),
    dir: &Path,
) -> Result<(), Status> {
    let mut open: Option<(tokio::fs::File, crc32fast::Hasher)> = None;
    while let Some(piece) = pieces.next().await.transpose()? {
        if !piece.file.is_empty() {
            let plain = piece.file.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
            if !plain || piece.file.starts_with('.') || open.is_some() {
                return Err(Status::invalid_argument("a snapshot with an unusable file name"));
            }
            open = Some((tokio::fs::File::create(dir.join(&piece.file)).await?, crc32fast::Hasher::new()));
        }
        let Some((file, crc)) = &mut open else {
            return Err(Status::invalid_argument("a snapshot whose data belongs to no file"));
        };
        crc.update(&piece.data);
        file.write_all(&piece.data).await?;
        if piece.last {
            file.flush().await?;
            file.sync_all().await?;
            if crc.clone().finalize() != piece.crc {
                return Err(Status::data_loss("a file of the snapshot was damaged on its way"));
            }
            open = None;
        }
    }
    if open.is_some() {
        return Err(Status::aborted("the snapshot ended in the middle of a file"));
    }
    crate::disk::files::sync_dir(dir)?;
    Ok(())
}
