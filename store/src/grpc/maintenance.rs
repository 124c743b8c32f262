//! The Maintenance service: status, hash of the keys, and what is not offered yet.

use std::ops::ControlFlow;
use std::pin::Pin;

use balsa_proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use balsa_proto::etcd::etcdserverpb::maintenance_server::Maintenance;
use balsa_proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest,
    SnapshotResponse, StatusRequest, StatusResponse,
};
use futures::Stream;
use tonic::{Request, Response, Status};

use super::{Service, VERSION};
use crate::error::Refusal;
use crate::mvcc::range;

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Maintenance for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        use openraft::async_runtime::watch::WatchReceiver as _;
        self.replica.metrics().count("Status");
        let (index, term) = {
            let metrics = self.replica.raft().metrics();
            let seen = metrics.borrow_watched();
            (seen.last_log_index.unwrap_or(0), seen.current_term)
        };
        let leader = self.replica.leadership().borrow().leader;
        let (total, live) = self.replica.state().size();
        let no_leader = leader.is_none().then(|| Refusal::NoLeader.to_string());
        Ok(Response::new(StatusResponse {
            header: Some(self.replica.header_now()),
            version: VERSION.to_owned(),
            db_size: size(total),
            db_size_in_use: size(live.min(total)),
            leader: leader.unwrap_or(0),
            raft_index: index,
            raft_term: term,
            raft_applied_index: self.replica.hub().applied().borrow().index,
            errors: no_leader.into_iter().collect(),
            is_learner: false,
            storage_version: "3.6.0".to_owned(),
            db_size_quota: 0,
        }))
    }

    /// There are no alarms yet: a list of them is empty, to clear one changes nothing, to raise one is not offered.
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        self.replica.metrics().count("Alarm");
        if request.into_inner().action == AlarmAction::Activate as i32 {
            return Err(Status::unimplemented("alarms cannot be raised by hand"));
        }
        Ok(Response::new(AlarmResponse { header: Some(self.replica.header_now()), alarms: Vec::new() }))
    }

    async fn defragment(&self, _: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.replica.metrics().count("Defragment");
        let state = self.replica.state().clone();
        let done = tokio::task::spawn_blocking(move || state.squeeze()).await;
        done.map_err(|error| Status::internal(error.to_string()))?.map_err(|fault| Status::internal(fault.0))?;
        Ok(Response::new(DefragmentResponse { header: Some(self.replica.header_now()) }))
    }

    /// Over the keys that live at the revision; equal on all replicas, different from etcd's (which hashes its file).
    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.replica.metrics().count("HashKV");
        let asked = request.into_inner().revision;
        let state = self.replica.state().clone();
        let hashed = tokio::task::spawn_blocking(move || {
            state.read(|view| {
                let position = view.position()?;
                let at = range::revision(asked, position)?;
                let mut hasher = crc32fast::Hasher::new();
                let all = crate::mvcc::KeyRange { start: bytes::Bytes::new(), end: crate::mvcc::End::Unbounded };
                crate::mvcc::View::scan(view, &all, at, false, &mut |key, version| {
                    for part in [key.as_ref(), version.value.as_ref()] {
                        hasher.update(&(part.len() as u64).to_be_bytes());
                        hasher.update(part);
                    }
                    for number in [version.main, version.sub, version.create, version.version, version.lease] {
                        hasher.update(&number.to_be_bytes());
                    }
                    ControlFlow::Continue(())
                })?;
                Ok::<_, Refusal>((hasher.finalize(), position, at))
            })
        });
        let (hash, position, at) = hashed.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(HashKvResponse {
            header: Some(self.replica.header(position.revision)),
            hash,
            compact_revision: position.compacted,
            hash_revision: at,
        }))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        Err(Status::unimplemented("Hash is of etcd's file, which there is none of; use HashKV"))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("Snapshot is not offered yet"))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        self.replica.metrics().count("MoveLeader");
        if !self.replica.leads() {
            return Err(Refusal::NotLeader.into());
        }
        let target = request.into_inner().target_id;
        if !self.replica.members().contains_key(&target) {
            return Err(Status::failed_precondition("etcdserver: bad leader transferee"));
        }
        let moved = self.replica.raft().trigger().transfer_leader(target).await;
        moved.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(MoveLeaderResponse { header: Some(self.replica.header_now()) }))
    }

    async fn downgrade(&self, _: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        Err(Status::unimplemented("there is no version to go back to"))
    }
}
