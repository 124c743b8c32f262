//! The Maintenance service: status, alarms, hashes, snapshots, defragmentation, leadership, downgrades.

use std::pin::Pin;

use balsa_proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use balsa_proto::etcd::etcdserverpb::downgrade_request::DowngradeAction;
use balsa_proto::etcd::etcdserverpb::maintenance_server::Maintenance;
use balsa_proto::etcd::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use futures::Stream;
use tonic::{Request, Response, Status};

use super::calls::Method;
use super::{Service, VERSION, snapshot, wrong_outcome};
use crate::command::{Command, Outcome};
use crate::disk::hash;
use crate::error::Refusal;
use crate::raft::handle;
use crate::replica::applied::flag;

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// An alarm in Go's words, as `Status.errors` shows it.
fn shown(alarm: &AlarmMember) -> String {
    let kind = AlarmType::try_from(alarm.alarm).map_or("NONE", |kind| kind.as_str_name());
    format!("memberID:{} alarm:{kind} ", alarm.member_id)
}

/// The version one minor below ours, which is all that a cluster may be downgraded to.
const DOWNGRADE: (u64, u64) = (3, 5);

/// Major and minor of a version such as `3.5` or `3.5.0`.
fn minor(version: &str) -> Result<(u64, u64), Refusal> {
    let parts: Vec<_> = version.split('.').map(|part| part.parse::<u64>().ok()).collect();
    match parts[..] {
        [Some(major), Some(minor)] | [Some(major), Some(minor), Some(_)] => Ok((major, minor)),
        _ => Err(Refusal::WrongDowngradeVersionFormat),
    }
}

impl Service {
    /// The version that the cluster as a whole behaves as.
    pub(crate) fn cluster_version(&self) -> String {
        self.replica.applied().ledger().downgrade.clone().unwrap_or_else(|| VERSION.to_owned())
    }

    fn state_of_member(&self) -> StatusResponse {
        let (index, term) = handle::look(self.replica.raft(), |seen| (seen.committed(), seen.leader().1));
        let leader = self.replica.leadership().borrow().leader;
        let (total, live) = self.replica.state().size();
        let ledger = self.replica.applied().ledger();
        let no_leader = leader.is_none().then(|| Refusal::NoLeader.to_string());
        let alarms = ledger.alarms(AlarmType::None);
        StatusResponse {
            header: Some(self.replica.header_now()),
            version: VERSION.to_owned(),
            db_size: size(total),
            db_size_in_use: size(live.min(total)),
            leader: leader.unwrap_or(0),
            raft_index: index,
            raft_term: term,
            raft_applied_index: self.replica.hub().applied().borrow().index,
            errors: no_leader.into_iter().chain(alarms.iter().map(shown)).collect(),
            is_learner: self.learns(),
            storage_version: VERSION.to_owned(),
            db_size_quota: self.replica.config().quota().map_or(-1, size),
            downgrade_info: Some(ledger.downgrade_info()),
        }
    }

    async fn downgrade_to(&self, request: DowngradeRequest) -> Result<DowngradeResponse, Status> {
        let propose = async |enabled: bool| {
            let target_version = if enabled { format!("{}.{}.0", DOWNGRADE.0, DOWNGRADE.1) } else { String::new() };
            self.write(&None, Command::Downgrade(DowngradeInfo { enabled, target_version })).await
        };
        match DowngradeAction::try_from(request.action) {
            Ok(action @ (DowngradeAction::Validate | DowngradeAction::Enable)) => {
                let target = minor(&request.version)?;
                self.replica.linearize().await?;
                if target != DOWNGRADE {
                    return Err(Refusal::InvalidDowngradeTargetVersion.into());
                }
                if self.replica.applied().ledger().downgrade.is_some() {
                    return Err(Refusal::DowngradeInProcess.into());
                }
                if action == DowngradeAction::Enable {
                    propose(true).await?;
                }
            }
            Ok(DowngradeAction::Cancel) => {
                propose(false).await?;
            }
            Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
        }
        Ok(DowngradeResponse { header: Some(self.replica.header_now()), version: self.cluster_version() })
    }
}

#[tonic::async_trait]
impl Maintenance for Service {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.call(Method::Status, async {
            self.admin(&request).await?;
            Ok(self.state_of_member())
        })
        .await
    }

    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        self.call(Method::Alarm, async {
            let caller = self.caller(&request).await?;
            if request.get_ref().action != AlarmAction::Get as i32 {
                self.admin(&request).await?;
            }
            let request = request.into_inner();
            if request.action == AlarmAction::Get as i32 {
                self.replica.linearize().await?;
                let kind = AlarmType::try_from(request.alarm).unwrap_or(AlarmType::None);
                let alarms = self.replica.applied().ledger().alarms(kind);
                return Ok(AlarmResponse { header: Some(self.replica.header_now()), alarms });
            }
            let Outcome::Alarm(mut response) = self.write(&caller, Command::Alarm(request)).await? else {
                return Err(wrong_outcome());
            };
            self.fill(&mut response.header);
            Ok(response)
        })
        .await
    }

    async fn defragment(&self, request: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.call(Method::Defragment, async {
            self.admin(&request).await?;
            let state = self.replica.state().clone();
            let done = tokio::task::spawn_blocking(move || state.squeeze()).await;
            done.map_err(|error| Status::internal(error.to_string()))?.map_err(|fault| Status::internal(fault.0))?;
            Ok(DefragmentResponse { header: Some(self.replica.header_now()) })
        })
        .await
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.call(Method::HashKV, async {
            self.admin(&request).await?;
            self.replica.hash_kv(request.into_inner().revision).await
        })
        .await
    }

    /// Of everything that this replica holds: keys with their whole history, leases, alarms, users.
    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.call(Method::Hash, async {
            self.admin(&request).await?;
            let state = self.replica.state().clone();
            let hashed = tokio::task::spawn_blocking(move || state.read(|view| hash::everything(view))).await;
            let hashed = hashed.map_err(|error| Status::internal(error.to_string()))??;
            Ok(HashResponse { header: Some(self.replica.header(hashed.position.revision)), hash: hashed.hash })
        })
        .await
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.call(Method::Snapshot, async {
            self.admin(&request).await?;
            let dir = self.replica.copy_state().await?;
            Ok(snapshot::stream(dir, VERSION))
        })
        .await
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        self.call(Method::MoveLeader, async {
            self.caller(&request).await?;
            self.admin(&request).await?;
            self.replica.move_leader(request.into_inner().target_id).await?;
            Ok(MoveLeaderResponse { header: Some(self.replica.header_now()) })
        })
        .await
    }

    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        self.call(Method::Downgrade, async {
            self.caller(&request).await?;
            self.admin(&request).await?;
            let cancels = request.get_ref().action == DowngradeAction::Cancel as i32;
            match self.downgrade_to(request.into_inner()).await {
                // etcd says in its log that there was nothing to cancel, and answers as if there had been.
                Err(status) if cancels && status.message() == Refusal::NoInflightDowngrade.to_string() => {
                    Ok(DowngradeResponse { header: Some(self.replica.header_now()), version: self.cluster_version() })
                }
                done => done,
            }
        })
        .await
    }
}

impl Service {
    /// Whether an alarm is raised that `/health` does not leave out.
    pub(crate) fn alarm_besides(&self, left_out: &[String]) -> Option<&'static str> {
        if self.replica.applied().flags() & flag::ALARM == 0 {
            return None;
        }
        let alarms = self.replica.applied().ledger().alarms(AlarmType::None);
        let kinds = alarms.iter().filter_map(|alarm| AlarmType::try_from(alarm.alarm).ok());
        let mut names = kinds.map(|kind| kind.as_str_name());
        names.find(|name| !left_out.iter().any(|left| left == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        for (version, read) in [("3.5", Ok((3, 5))), ("3.5.0", Ok((3, 5))), ("3.5.17", Ok((3, 5))), ("3", Err(())), ("a.b", Err(())), ("", Err(()))] {
            assert_eq!(minor(version).map_err(|_| ()), read, "{version:?}");
        }
    }
}
