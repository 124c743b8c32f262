//! One replica: proposing writes, making reads linearizable, passing on what only the leader can do.
//!
//! A write is answered after a majority has it synced and this cluster's leader applied it. A write that may or may not
//! have happened is never tried again here: only what was certainly not proposed is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
};
use balsa_proto::raft::forward_request::Kind;
use bytes::Bytes;
use openraft::error::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ReadPolicy};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::command::{Command, Encoded, Outcome};
use crate::config::Config;
use crate::disk::state::State;
use crate::error::{Fault, Refusal};
use crate::lease::table::Table;
use crate::metrics::Metrics;
use crate::mvcc::writer::Changes;
use crate::mvcc::{Position, View as _};
use crate::raft::network::{Network, never_sent};
use crate::raft::state_machine::Observer;
use crate::raft::{Members, Raft};
use crate::watch::hub::Hub;

/// Who leads, as this replica sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader's id.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
}

/// What applied entries are told to; shared by the state machine and the replica.
pub struct Applied {
    hub: Hub,
    leases: Mutex<Table>,
    state: State,
    started: Instant,
    compacted: watch::Sender<i64>,
}

impl Applied {
    /// On `state`, which is about to be opened by the state machine.
    pub fn new(state: State) -> Self {
        let (hub, leases, started) = (Hub::default(), Mutex::default(), Instant::now());
        Self { hub, leases, state, started, compacted: watch::Sender::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Follows the compacted revision.
    pub fn compactions(&self) -> watch::Receiver<i64> {
        self.compacted.subscribe()
    }

    fn compacted_at(&self, revision: i64) {
        self.compacted.send_if_modified(|known| std::mem::replace(known, revision) != revision);
    }
}

impl Observer for Applied {
    fn applied(&self, changes: &mut Changes, position: Position, index: u64) {
        if !changes.leases.is_empty() {
            let (mut leases, now) = (self.leases.lock(), self.now());
            for (id, lease) in &changes.leases {
                match lease {
                    Some(lease) => leases.grant(*id, lease.ttl, now),
                    None => leases.revoke(*id),
                }
            }
        }
        self.hub.publish(std::mem::take(&mut changes.changes), position, index);
        self.compacted_at(position.compacted);
    }

    fn replaced(&self, position: Position, index: u64) {
        match self.state.read(|view| view.leases()) {
            Ok(leases) => {
                let leases = leases.into_iter().map(|(id, lease)| (id, lease.ttl));
                self.leases.lock().replace(leases, self.now());
            }
            Err(fault) => tracing::error!(%fault, "the leases cannot be read"),
        }
        self.hub.replaced(position, index);
        self.compacted_at(position.compacted);
    }
}

/// A running replica.
pub struct Replica {
    config: Config,
    id: u64,
    cluster_id: u64,
    members: Members,
    raft: Raft,
    network: Network,
    applied: Arc<Applied>,
    leadership: watch::Sender<Leadership>,
    reads: mpsc::Sender<oneshot::Sender<Result<(), Status>>>,
    writes: tokio::sync::Semaphore,
    client_urls: Mutex<BTreeMap<u64, String>>,
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
    /// The members of `--initial-cluster`.
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
        let client_urls = Mutex::new(BTreeMap::from([(id, client_url)]));
        let replica = Arc::new(Self {
            config, id, cluster_id, members, raft, network, applied, leadership, reads, writes, client_urls, metrics, stop,
        });
        tokio::spawn(replica.clone().confirm_reads(waiting));
        tokio::spawn(replica.clone().follow_raft());
        tokio::spawn(replica.clone().learn_client_urls());
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

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Whether this replica leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.leadership.borrow().leader == Some(self.id)
    }

    /// The members, with what is known of their client URLs.
    pub fn members(&self) -> Members {
        let mut members = self.members.clone();
        for (id, url) in self.client_urls.lock().iter() {
            if let Some(peer) = members.get_mut(id) {
                peer.client_url.clone_from(url);
            }
        }
        members
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

    /// Proposes a write and waits for what comes of it.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Status> {
        let encoded = command.encode();
        if encoded.len() > self.config.max_request_bytes {
            return Err(Refusal::RequestTooLarge.into());
        }
        let Ok(_permit) = self.writes.try_acquire() else {
            return Err(Refusal::TooManyRequests.into());
        };
        let started = Instant::now();
        self.metrics.pending.inc();
        let outcome = self.propose_anywhere(encoded, started + self.config.request_timeout()).await;
        self.metrics.pending.dec();
        self.metrics.commit.observe(started.elapsed().as_secs_f64());
        match outcome {
            Ok(Outcome::Refused(refusal)) => Err(refusal.into()),
            Ok(outcome) => Ok(outcome),
            Err(status) => {
                self.metrics.failed.inc();
                Err(status)
            }
        }
    }

    async fn propose_anywhere(&self, command: Bytes, deadline: Instant) -> Result<Outcome, Status> {
        loop {
            let leader = self.await_leader(deadline).await?;
            if leader == self.id {
                match self.propose_here(command.clone(), deadline).await {
                    Err(status) if is_not_leader(&status) => self.pause(leader, deadline).await?,
                    done => return done,
                }
            } else {
                match self.forward(leader, Kind::Propose, command.clone(), deadline).await {
                    Ok(data) => return Outcome::decode(data).map_err(internal),
                    Err(status) if is_not_leader(&status) || never_sent(&status) => self.pause(leader, deadline).await?,
                    Err(status) => return Err(transport(status)),
                }
            }
        }
    }

    async fn propose_here(&self, command: Bytes, deadline: Instant) -> Result<Outcome, Status> {
        let written = tokio::time::timeout_at(deadline, self.raft.client_write(Encoded(command))).await;
        match written {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(Refusal::NotLeader.into()),
            Ok(Err(RaftError::APIError(_))) => Err(Refusal::LeaderChanged.into()),
            Ok(Err(RaftError::Fatal(_))) => Err(Refusal::Stopped.into()),
            Err(_) => Err(Refusal::Timeout.into()),
        }
    }

    async fn await_leader(&self, deadline: Instant) -> Result<u64, Status> {
        let mut leadership = self.leadership.subscribe();
        let known = tokio::select! {
            known = tokio::time::timeout_at(deadline, leadership.wait_for(|now| now.leader.is_some())) => known,
            () = self.stop.cancelled() => return Err(Refusal::Stopped.into()),
        };
        match known {
            Ok(Ok(now)) => now.leader.ok_or_else(|| Refusal::NoLeader.into()),
            Ok(Err(_)) => Err(Refusal::Stopped.into()),
            Err(_) => Err(Refusal::NoLeader.into()),
        }
    }

    /// Waits a little, or until somebody else leads, before the next attempt.
    async fn pause(&self, tried: u64, deadline: Instant) -> Result<(), Status> {
        let mut leadership = self.leadership.subscribe();
        let soon = (Instant::now() + Duration::from_millis(50)).min(deadline);
        let _either = tokio::time::timeout_at(soon, leadership.wait_for(|now| now.leader.is_some_and(|id| id != tried))).await;
        if Instant::now() >= deadline { Err(Refusal::Timeout.into()) } else { Ok(()) }
    }

    async fn forward(&self, leader: u64, kind: Kind, body: Bytes, deadline: Instant) -> Result<Bytes, Status> {
        let Some(peer) = self.members.get(&leader) else {
            return Err(Status::unavailable(format!("the leader {leader:x} is not in --initial-cluster")));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let call = self.network.forward(leader, peer, kind, body, left);
        match tokio::time::timeout_at(deadline, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::Timeout.into()),
        }
    }

    /// Waits until this replica has applied everything that was acknowledged before the call.
    pub async fn linearize(&self) -> Result<(), Status> {
        let (sender, receiver) = oneshot::channel();
        let deadline = Instant::now() + self.config.request_timeout();
        let asked = async {
            self.reads.send(sender).await.map_err(|_| Refusal::Stopped)?;
            receiver.await.map_err(|_| Refusal::Stopped)
        };
        match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok(confirmed)) => confirmed,
            Ok(Err(refusal)) => Err(refusal.into()),
            Err(_) => Err(Refusal::Timeout.into()),
        }
    }

    /// One round confirms all reads that wait when it begins.
    async fn confirm_reads(self: Arc<Self>, mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), Status>>>) {
        let mut round = Vec::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                received = waiting.recv_many(&mut round, 16_384) => if received == 0 { return },
            }
            let deadline = Instant::now() + self.config.request_timeout();
            let confirmed = self.confirm(deadline).await;
            for reader in round.drain(..) {
                let _gone = reader.send(confirmed.clone());
            }
        }
    }

    async fn confirm(&self, deadline: Instant) -> Result<(), Status> {
        let index = self.read_index(deadline).await?;
        let mut applied = self.hub().applied();
        match tokio::time::timeout_at(deadline, applied.wait_for(|now| now.index >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Stopped.into()),
            Err(_) => Err(Refusal::Timeout.into()),
        }
    }

    async fn read_index(&self, deadline: Instant) -> Result<u64, Status> {
        loop {
            let leader = self.await_leader(deadline).await?;
            let answer = if leader == self.id {
                match tokio::time::timeout_at(deadline, self.read_index_here(ReadPolicy::ReadIndex)).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(Refusal::Timeout.into()),
                }
            } else {
                // A round trip to a leader that just died must not take the whole time of a read.
                let soon = deadline.min(Instant::now() + Duration::from_millis(2 * self.config.election_timeout));
                let forwarded = self.forward(leader, Kind::ReadIndex, Bytes::new(), soon).await;
                forwarded.and_then(|data| {
                    let id = balsa_proto::raft::LogId::decode(data).map_err(|error| Status::internal(error.to_string()))?;
                    Ok(id.index)
                })
            };
            match answer {
                Ok(index) => return Ok(index),
                // A read changes nothing: it can always be tried again.
                Err(status) if status.code() == Code::Unavailable || is_not_leader(&status) => {
                    self.pause(leader, deadline).await?;
                }
                Err(status) => return Err(status),
            }
        }
    }

    async fn read_index_here(&self, policy: ReadPolicy) -> Result<u64, Status> {
        match self.raft.get_read_log_id(LinearizerOption::from(policy)).await {
            Ok((read, _)) => Ok(read.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(Refusal::NotLeader.into()),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Refusal::LeaderChanged.into()),
            Err(RaftError::Fatal(_)) => Err(Refusal::Stopped.into()),
        }
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
                let read = self.read_index_here(ReadPolicy::ReadIndex);
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
            Ok(Kind::ClientUrl) => {
                let url = self.client_urls.lock().get(&self.id).cloned().unwrap_or_default();
                Ok(url.into_bytes().into())
            }
            Ok(Kind::Unknown) | Err(_) => Err(Status::unimplemented("a forwarded request of an unknown kind")),
        }
    }

    /// Renews a lease at the leader. A lease that is gone has the time 0.
    pub async fn keep_alive(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Status> {
        let body: Bytes = request.encode_to_vec().into();
        let mut answer = self
            .at_leader(Kind::LeaseKeepAlive, body, || self.keep_alive_here(request), |data| LeaseKeepAliveResponse::decode(data))
            .await?;
        answer.header = Some(self.header_now());
        Ok(answer)
    }

    /// How long a lease lives, from the leader.
    pub async fn time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, Status> {
        let body: Bytes = request.encode_to_vec().into();
        let mut answer = self
            .at_leader(Kind::LeaseTimeToLive, body, || self.time_to_live_here(request), |data| LeaseTimeToLiveResponse::decode(data))
            .await?;
        answer.header = Some(self.header_now());
        Ok(answer)
    }

    /// Does something that only the leader can do, and that may be done twice, wherever the leader is.
    async fn at_leader<T, F: Future<Output = Result<T, Status>>>(
        &self,
        kind: Kind,
        body: Bytes,
        here: impl Fn() -> F,
        decode: impl Fn(Bytes) -> Result<T, prost::DecodeError>,
    ) -> Result<T, Status> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.await_leader(deadline).await?;
            let answer = if leader == self.id {
                here().await
            } else {
                let soon = deadline.min(Instant::now() + Duration::from_secs(2));
                let forwarded = self.forward(leader, kind, body.clone(), soon).await;
                forwarded.and_then(|data| decode(data).map_err(|error| Status::internal(error.to_string())))
            };
            match answer {
                Err(status) if status.code() == Code::Unavailable || is_not_leader(&status) => {
                    self.pause(leader, deadline).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn keep_alive_here(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Status> {
        // A leader that was deposed without noticing must not promise time that its successor does not know of.
        let index = self.read_index_here(ReadPolicy::LeaseRead).await?;
        let mut applied = self.hub().applied();
        let _stopping = applied.wait_for(|now| now.index >= index).await;
        let ttl = self.applied.leases.lock().renew(request.id, self.applied.now()).unwrap_or(0);
        Ok(LeaseKeepAliveResponse { header: None, id: request.id, ttl })
    }

    async fn time_to_live_here(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, Status> {
        let index = self.read_index_here(ReadPolicy::ReadIndex).await?;
        let mut applied = self.hub().applied();
        let _stopping = applied.wait_for(|now| now.index >= index).await;
        let found = self.applied.leases.lock().time_to_live(request.id, self.applied.now());
        let Some((granted_ttl, ttl)) = found else {
            return Ok(LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() });
        };
        let keys = if request.keys { self.state().read(|view| view.lease_keys(request.id)).map_err(internal)? } else { vec![] };
        Ok(LeaseTimeToLiveResponse { header: None, id: request.id, ttl, granted_ttl, keys })
    }

    /// All leases.
    pub fn lease_ids(&self) -> Vec<i64> {
        self.applied.leases.lock().ids()
    }

    /// Leases to revoke now; none unless this replica leads.
    pub fn expired_leases(&self, limit: usize) -> Vec<i64> {
        self.applied.leases.lock().expired(self.applied.now(), limit)
    }

    /// Follows in the lease table who leads.
    pub fn lead_leases(&self) {
        let mut leases = self.applied.leases.lock();
        if self.leads() {
            leases.promote(self.applied.now(), 2 * self.config.election_timeout);
        } else {
            leases.demote();
        }
    }

    /// Publishes who leads, and stops the replica when consensus has stopped.
    async fn follow_raft(self: Arc<Self>) {
        use openraft::async_runtime::watch::WatchReceiver as _;
        let mut metrics = self.raft.metrics();
        loop {
            let (now, running, committed) = {
                let seen = metrics.borrow_watched();
                let now = Leadership { leader: seen.current_leader, term: seen.current_term };
                (now, seen.running_state.clone(), seen.local_committed.map_or(0, |id| id.index()))
            };
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
                let name = now.leader.and_then(|id| self.members.get(&id)).map(|peer| peer.name.as_str());
                tracing::info!(leader = name, term = now.term, "leadership");
            }
            if let Err(fatal) = running {
                if !self.stop.is_cancelled() {
                    tracing::error!(%fatal, "consensus has stopped; this replica stops");
                }
                self.stop.cancel();
                return;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = metrics.changed() => if changed.is_err() {
                    self.stop.cancel();
                    return;
                },
            }
        }
    }

    /// Asks the other members how clients reach them: the membership knows only their peer URLs.
    async fn learn_client_urls(self: Arc<Self>) {
        loop {
            for (id, _) in self.members.iter().filter(|(id, _)| **id != self.id) {
                let deadline = Instant::now() + Duration::from_secs(2);
                if let Ok(url) = self.forward(*id, Kind::ClientUrl, Bytes::new(), deadline).await
                    && let Ok(url) = String::from_utf8(url.to_vec())
                {
                    self.client_urls.lock().insert(*id, url);
                }
            }
            let known = self.client_urls.lock().len() == self.members.len();
            let pause = Duration::from_secs(if known { 60 } else { 1 });
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
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

/// A forwarded write whose answer never came: it may have happened. In etcd's words.
fn transport(status: Status) -> Status {
    let spoken = status.message().starts_with("etcdserver:");
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Unknown if !spoken => Refusal::LeaderChanged.into(),
        Code::DeadlineExceeded => Refusal::Timeout.into(),
        _ => status,
    }
}
