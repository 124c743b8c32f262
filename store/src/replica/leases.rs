//! Leases: renewed and asked for at the leader, counted by [`crate::lease::table`].

use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use balsa_proto::raft::forward_request::Kind;
use balsa_proto::store::{Checkpoint, checkpoint};
use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Replica, internal, is_not_leader};
use crate::command::Command;
use crate::error::Refusal;
use crate::ledger::admit::Asker;
use crate::mvcc::View as _;
use crate::raft::handle::Confirm;

impl Replica {
    /// Renews a lease at the leader. A lease that is gone has the time 0.
    pub async fn keep_alive(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Status> {
        let body: Bytes = request.encode_to_vec().into();
        let mut answer = self
            .at_leader(Kind::LeaseKeepAlive, body, || self.keep_alive_here(request), LeaseKeepAliveResponse::decode)
            .await?;
        answer.header = Some(self.header_now());
        Ok(answer)
    }

    /// How long a lease lives, from the leader.
    pub async fn time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, Status> {
        let body: Bytes = request.encode_to_vec().into();
        let mut answer = self
            .at_leader(Kind::LeaseTimeToLive, body, || self.time_to_live_here(request), LeaseTimeToLiveResponse::decode)
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
                match tokio::time::timeout_at(deadline, here()).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(Refusal::Timeout.into()),
                }
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

    pub(super) async fn keep_alive_here(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Status> {
        // A leader that was deposed without noticing must not promise time that its successor does not know of.
        #[cfg(test)]
        let careless = crate::sim::broken(crate::sim::Mutation::RenewUnconfirmed);
        #[cfg(not(test))]
        let careless = false;
        let index = if careless { 0 } else { self.read_index_here(Confirm::Lease).await? };
        let mut applied = self.hub().applied();
        // An error says that the replica stops; what follows says so too.
        drop(applied.wait_for(|now| now.index >= index).await);
        if self.applied.leases.lock().is_checkpointed(request.id) {
            // First taken back: a successor must not give it less time than it is promised here.
            self.checkpoint_leases(vec![(request.id, 0)]).await?;
        }
        let ttl = self.applied.leases.lock().renew(request.id, self.applied.now()).unwrap_or(0);
        Ok(LeaseKeepAliveResponse { header: None, id: request.id, ttl })
    }

    pub(super) async fn time_to_live_here(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, Status> {
        let index = self.read_index_here(Confirm::Round).await?;
        let mut applied = self.hub().applied();
        // An error says that the replica stops; what follows says so too.
        drop(applied.wait_for(|now| now.index >= index).await);
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
        #[cfg(test)]
        if self.leads() && crate::sim::broken(crate::sim::Mutation::ExpireEarly) {
            leases.promote_as_granted();
            return;
        }
        if self.leads() {
            leases.promote(self.applied.now(), 2 * self.config.election_timeout);
        } else {
            leases.demote();
        }
    }

    /// Revokes what has expired, if this replica leads. Never passed on: whether a lease has expired is the leader's
    /// own count, and a successor counts anew.
    pub async fn revoke_expired(&self, id: i64) -> Result<(), Status> {
        let command = Box::new(Command::Revoke(LeaseRevokeRequest { id }));
        let command = Command::Signed { asker: Asker::System, command }.encode();
        let deadline = Instant::now() + self.config.request_timeout();
        self.propose_here(command, deadline).await.map(drop)
    }

    /// Leases whose time left is to be noted now; none unless this replica leads.
    pub fn due_checkpoints(&self, limit: usize) -> Vec<(i64, i64)> {
        self.applied.leases.lock().checkpoints(self.applied.now(), limit)
    }

    /// Notes through the log how much time is left to leases: id and seconds.
    pub async fn checkpoint_leases(&self, leases: Vec<(i64, i64)>) -> Result<(), Status> {
        let leases = leases.into_iter().map(|(id, remaining)| checkpoint::Lease { id, remaining });
        let command = Command::Checkpoint(Checkpoint { leases: leases.collect() }).encode();
        let deadline = Instant::now() + self.config.request_timeout();
        self.propose_here(command, deadline).await.map(drop)
    }
}
