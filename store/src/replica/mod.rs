//! One replica: proposing writes, making reads linearizable, passing on what only the leader can do.
//!
//! A write is answered after a majority has it synced and this cluster's leader applied it.

pub mod applied;
mod leases;
mod members;
mod membership;
mod propose;
mod quota;
mod reads;
pub mod reconfigure;
mod removal;
pub mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use balsa_proto::etcd::etcdserverpb::{
    HashKvRequest, HashKvResponse, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, ResponseHeader,
};
use balsa_proto::raft::forward_request::Kind;
use balsa_proto::store::{MemberChange, MemberChanged};
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

pub use applied::Applied;
pub use members::Membership;

use crate::command::{Command, Outcome};
use crate::config::Config;
use crate::corruption;
use crate::disk::checkpoint::SnapshotDir;
use crate::disk::state::State;
use crate::error::{Fault, Refusal};
use crate::ledger::Who;
use crate::metrics::Metrics;
use crate::raft::network::Network;
use crate::raft::handle::{self, Confirm};
use crate::raft::{Members, Raft};
use crate::rt::{self, watch};
use crate::watch::hub::Hub;

/// Who leads, as this replica sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader's id.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
}

/// What a replica that is to join asks for.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Description {
    /// The cluster's id.
    pub cluster_id: u64,
    /// Its members.
    pub members: Members,
    /// The log index at which that was agreed on; 0 when it was not yet.
    #[serde(default)]
    pub agreed: u64,
}

/// A running replica.
pub struct Replica {
    config: Config,
    id: u64,
    cluster_id: u64,
    members: RwLock<Arc<Membership>>,
    raft: Raft,
    network: Network,
    applied: Arc<Applied>,
    leadership: watch::Sender<Leadership>,
    reads: mpsc::Sender<oneshot::Sender<Result<(), Status>>>,
    writes: tokio::sync::Semaphore,
    client_url: String,
    /// Held while the membership is changed.
    reconfiguring: tokio::sync::Mutex<()>,
    removed: AtomicBool,
    metrics: Metrics,
    stop: CancellationToken,
}

/// What a [`Replica`] is made of.
pub struct Parts {
    /// As given.
    pub config: Config,
    /// This member.
    pub id: u64,
    /// The cluster.
    pub cluster_id: u64,
    /// The members as far as they are known before the log says them.
    pub members: Members,
    /// Consensus.
    pub raft: Raft,
    /// The way to the peers.
    pub network: Network,
    /// What was applied.
    pub applied: Arc<Applied>,
    /// Figures.
    pub metrics: Metrics,
    /// How clients reach this replica.
    pub client_url: String,
    /// Ends everything.
    pub stop: CancellationToken,
}

impl Replica {
    /// Puts the parts together and starts the task that makes reads linearizable.
    pub fn start(parts: Parts) -> Arc<Self> {
        let Parts { config, id, cluster_id, members, raft, network, applied, metrics, client_url, stop } = parts;
        let (reads, waiting) = mpsc::channel(16_384);
        let writes = tokio::sync::Semaphore::new(config.max_pending_writes);
        let leadership = watch::Sender::new(Leadership::default());
        let voters = members.keys().copied().collect();
        let members = RwLock::new(Arc::new(Membership { peers: members, voters }));
        let reconfiguring = tokio::sync::Mutex::default();
        let replica = Arc::new(Self {
            config, id, cluster_id, members, raft, network, applied, leadership, reads, writes, client_url, reconfiguring,
            removed: AtomicBool::new(false), metrics, stop,
        });
        rt::spawn(replica.clone().confirm_reads(waiting));
        rt::spawn(replica.clone().follow_raft());
        rt::spawn(replica.clone().publish());
        rt::spawn(replica.clone().finish_changes());
        rt::spawn(replica.clone().watch_quota());
        replica
    }

    /// This member's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The largest request, bytes.
    pub fn max_request_bytes(&self) -> usize {
        self.config.max_request_bytes
    }

    /// Whether peers and clients need certificates.
    pub fn uses_tls(&self) -> bool {
        self.config.tls.is_some()
    }

    /// Consensus.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The way to the peers.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The hash of this replica's own history up to a revision (0: the newest), as `HashKV` answers it.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        let hashed = corruption::hash(self.state(), revision).await?;
        Ok(HashKvResponse {
            header: Some(self.header(hashed.position.revision)),
            hash: hashed.hash,
            compact_revision: hashed.position.compacted,
            hash_revision: hashed.revision,
        })
    }

    /// The key space.
    pub fn state(&self) -> &State {
        &self.applied.state
    }

    /// What watchers follow.
    pub fn hub(&self) -> &Hub {
        &self.applied.hub
    }

    /// Figures.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Cancelled when the replica stops.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether this member was removed from the cluster, and stops for that.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Whether this replica leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.leadership.borrow().leader == Some(self.id)
    }

    /// The log here: the last index that was cut off (0 if none), and the newest.
    pub fn log_indexes(&self) -> (u64, u64) {
        handle::look(&self.raft, |seen| seen.log())
    }

    /// What was applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Whose token it is.
    pub fn token_owner(&self, token: &str) -> Option<Who> {
        let user = self.applied.tokens.lock().user(token, self.applied.now())?;
        Some(Who { user, revision: self.applied.ledger().auth.revision() })
    }

    /// A copy of the state as of some moment after the call, for a client.
    pub async fn copy_state(&self) -> Result<SnapshotDir, Status> {
        // What is flushed before does not have to be while nothing is applied.
        let (state, index) = (self.state().clone(), self.hub().applied().borrow().index);
        rt::blocking(move || state.flush(index)).await.flatten().map_err(internal)?;
        let copied = self.raft.with_state_machine(|machine| Box::pin(machine.copy())).await;
        copied.map_err(|_| Refusal::Stopped)?.map_err(internal)
    }

    /// What a replica that is to join is told.
    pub fn description(&self) -> Description {
        let agreed = handle::look(&self.raft, |seen| seen.agreed_at().map(|at| (seen.agreed_members().0, at)));
        let (members, agreed) = agreed.unwrap_or_else(|| (self.membership().peers.clone(), 0));
        Description { cluster_id: self.cluster_id, members, agreed }
    }

    /// A header at `revision`.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        let raft_term = self.leadership.borrow().term;
        ResponseHeader { cluster_id: self.cluster_id, member_id: self.id, revision, raft_term }
    }

    /// A header at the revision that this replica is at.
    pub fn header_now(&self) -> ResponseHeader {
        self.header(self.hub().position().revision)
    }

    /// What a follower passed on to this replica.
    pub async fn serve_forwarded(&self, kind: i32, body: Bytes) -> Result<Bytes, Status> {
        let deadline = Instant::now() + self.config.request_timeout();
        match Kind::try_from(kind) {
            Ok(Kind::Propose) => {
                // Looked at before it gets into the log: an entry that cannot be decoded would stop every replica.
                Command::decode(body.clone()).map_err(|fault| Status::invalid_argument(fault.0))?;
                match self.propose_here(body, deadline).await? {
                    Outcome::Refused(refusal) => Err(refusal.into()),
                    outcome => outcome.encode().ok_or_else(|| Status::internal("an outcome without an encoding")),
                }
            }
            Ok(Kind::ReadIndex) => {
                let read = self.read_index_here(Confirm::Round);
                let index = tokio::time::timeout_at(deadline, read).await.map_err(|_| Refusal::Timeout)??;
                Ok(balsa_proto::raft::LogId { term: self.leadership.borrow().term, index }.encode_to_vec().into())
            }
            Ok(Kind::LeaseKeepAlive) => {
                let request = LeaseKeepAliveRequest::decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
                Ok(self.keep_alive_here(request).await?.encode_to_vec().into())
            }
            Ok(Kind::LeaseTimeToLive) => {
                let request = LeaseTimeToLiveRequest::decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
                Ok(self.time_to_live_here(request).await?.encode_to_vec().into())
            }
            Ok(Kind::MemberChange) => {
                let change = MemberChange::decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
                let id = self.change_members_here(change).await?;
                Ok(MemberChanged { id }.encode_to_vec().into())
            }
            Ok(Kind::HashKv) => {
                let request = HashKvRequest::decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
                Ok(self.hash_kv(request.revision).await?.encode_to_vec().into())
            }
            Ok(Kind::Unknown) | Err(_) => Err(Status::unimplemented("a forwarded request of an unknown kind")),
        }
    }

    /// Publishes who leads, and stops the replica when consensus has stopped.
    async fn follow_raft(self: Arc<Self>) {
        let mut consensus = handle::Follow::new(&self.raft);
        let (mut membership, mut belonged) = (None, false);
        loop {
            let ((leader, term), fatal, committed, agreed, belongs) = consensus.look(|seen| {
                (seen.leader(), seen.fatal(), seen.committed(), seen.members_at(), seen.is_agreed(self.id))
            });
            let now = Leadership { leader, term };
            if belonged && !belongs {
                return self.leave();
            }
            belonged = belongs;
            if membership.replace(agreed) != Some(agreed) {
                self.learn_membership();
            }
            self.metrics.committed.set(i64::try_from(committed).unwrap_or(i64::MAX));
            let changed = self.leadership.send_if_modified(|known| {
                let changed = *known != now;
                if known.leader != now.leader && now.leader.is_some() {
                    self.metrics.leader_changes.inc();
                }
                *known = now;
                changed
            });
            if changed {
                self.metrics.has_leader.set(i64::from(now.leader.is_some()));
                self.metrics.is_leader.set(i64::from(now.leader == Some(self.id)));
                let membership = self.membership();
                let leader = now.leader.and_then(|id| membership.peers.get(&id)).map(ToString::to_string);
                tracing::info!(leader, term = now.term, "leadership");
            }
            if let Some(fatal) = fatal {
                if !self.stop.is_cancelled() {
                    tracing::error!(fatal, "consensus has stopped; this replica stops");
                }
                self.stop.cancel();
                return;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = consensus.changed() => if !changed {
                    self.stop.cancel();
                    return;
                },
            }
        }
    }
}

fn internal(fault: Fault) -> Status {
    Status::internal(fault.0)
}

fn is_not_leader(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.message() == Refusal::NotLeader.to_string()
}
