//! Changing the membership: checked and done at the leader, one change at a time. What may be done is decided in
//! [`super::reconfigure`].
//!
//! A new voter is taken in as one that catches up first, and the leader makes it a voter when it has: a member that
//! never comes costs no majority.

use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::MemberAddRequest;
use balsa_proto::raft::forward_request::Kind;
use balsa_proto::store::{Attributes, MemberChange, MemberChanged, member_change::Change};
use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Replica, is_not_leader, reconfigure};
use crate::command::Command;
use crate::config;
use crate::error::Refusal;
use crate::raft::Peer;
use crate::raft::handle::{self, Unchanged, Wanted};

/// Entries that a joining voter may lack when it is made one.
const CLOSE: u64 = 500;

/// How often it is looked whether one has caught up.
const JOINING_ROUND: Duration = Duration::from_millis(200);

impl Replica {
    /// Changes the membership, wherever the leader is; says which member it was about.
    pub async fn change_members(&self, change: MemberChange) -> Result<u64, Status> {
        let body: Bytes = change.encode_to_vec().into();
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.await_leader(deadline).await?;
            let done = if leader == self.id {
                self.change_members_here(change.clone()).await
            } else {
                let forwarded = self.forward(leader, Kind::MemberChange, body.clone(), deadline).await;
                forwarded.and_then(|data| {
                    let changed = MemberChanged::decode(data).map_err(|error| Status::internal(error.to_string()))?;
                    Ok(changed.id)
                })
            };
            match done {
                Err(status) if is_not_leader(&status) || crate::raft::network::never_sent(&status) => {
                    self.pause(leader, deadline).await?;
                }
                Err(status) if status.code() == Code::Unavailable && !status.message().starts_with("etcdserver:") => {
                    return Err(Refusal::LeaderChanged.into());
                }
                done => return done,
            }
        }
    }

    /// The same, by the leader itself.
    pub(super) async fn change_members_here(&self, change: MemberChange) -> Result<u64, Status> {
        if !self.leads() {
            return Err(Refusal::NotLeader.into());
        }
        let deadline = Instant::now() + self.config.request_timeout();
        let _one_at_a_time = match tokio::time::timeout_at(deadline, self.reconfiguring.lock()).await {
            Ok(guard) => guard,
            Err(_) => return Err(Refusal::Timeout.into()),
        };
        // A leader that was just elected does not know yet what is committed: it would refuse a member as unknown.
        let known = async {
            self.linearize().await?;
            self.await_membership().await;
            Ok::<_, Status>(())
        };
        tokio::time::timeout_at(deadline, known).await.map_err(|_| Refusal::Timeout)??;
        let (roll, last) = self.roll();
        let strict = self.config.strict_reconfig_check;
        let (id, wanted) = match change.change.ok_or_else(|| Status::invalid_argument("a change of nothing"))? {
            Change::Add(request) => {
                reconfigure::urls(&request.peer_ur_ls)?;
                reconfigure::add(&roll, &request.peer_ur_ls, request.is_learner, self.config.max_learners, strict)?;
                self.addition(request)
            }
            Change::Remove(request) => {
                reconfigure::remove(&roll, request.id, strict)?;
                (request.id, self.removal(request.id))
            }
            Change::Update(request) => {
                reconfigure::urls(&request.peer_ur_ls)?;
                reconfigure::update(&roll, request.id, &request.peer_ur_ls)?;
                let peer = self.membership().peers.get(&request.id).cloned().ok_or(Refusal::MemberNotFound)?;
                (request.id, Wanted::Move(request.id, peer.at(request.peer_ur_ls)))
            }
            Change::Promote(request) => {
                reconfigure::promote(&roll, request.id, last, strict)?;
                (request.id, Wanted::Promote(request.id))
            }
        };
        let removed = matches!(wanted, Wanted::RemoveVoter(_) | Wanted::RemoveLearner(_));
        self.reconfigure(wanted, deadline).await?;
        if removed {
            let gone = Command::Publish(Attributes { member: id, ..Default::default() });
            // Only tidiness: the membership itself has changed.
            let _best_effort = self.propose_here(gone.encode(), deadline).await;
        }
        Ok(id)
    }

    /// A new member's id: of its URLs and of the place in the log, so that it is never given twice.
    fn addition(&self, request: MemberAddRequest) -> (u64, Wanted) {
        let place = self.log_indexes().1.to_string();
        let cluster = self.cluster_id.to_string();
        let parts = request.peer_ur_ls.iter().map(String::as_str).chain([place.as_str(), cluster.as_str()]);
        let id = config::added_member_id(parts);
        let peer = Peer { joining: !request.is_learner, ..Peer::default() }.at(request.peer_ur_ls);
        (id, Wanted::Add(id, peer))
    }

    fn removal(&self, id: u64) -> Wanted {
        if self.membership().voters.contains(&id) { Wanted::RemoveVoter(id) } else { Wanted::RemoveLearner(id) }
    }

    async fn reconfigure(&self, wanted: Wanted, deadline: Instant) -> Result<(), Status> {
        loop {
            match tokio::time::timeout_at(deadline, handle::change(&self.raft, wanted.clone())).await {
                Err(_) => return Err(Refusal::Timeout.into()),
                Ok(Ok(())) => {
                    self.learn_membership();
                    return Ok(());
                }
                Ok(Err(Unchanged::Refused(refusal))) => return Err(refusal.into()),
                Ok(Err(Unchanged::NotYet)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(Err(problem)) => {
                    tracing::warn!(?problem, "the membership was not changed");
                    return Err(Refusal::LeaderChanged.into());
                }
            }
        }
    }

    /// While this replica leads, makes voters of those that were added as such and have caught up, and finishes what a
    /// leader before it began: between two memberships a majority of both is needed, and openraft leaves it at that
    /// when whoever asked for the change is gone.
    pub(super) async fn finish_changes(self: Arc<Self>) {
        loop {
            if self.leads() {
                self.finish_half_done().await;
            }
            for id in self.caught_up().into_iter().filter(|_| self.leads()) {
                let deadline = Instant::now() + self.config.request_timeout();
                let _one_at_a_time = self.reconfiguring.lock().await;
                match self.reconfigure(Wanted::Promote(id), deadline).await {
                    Ok(()) => tracing::info!(id, "a new member has caught up and votes now"),
                    Err(status) => tracing::debug!(id, %status, "a new member does not vote yet"),
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(JOINING_ROUND) => {}
            }
        }
    }

    /// Those that were added as voters, do not vote yet, and have caught up.
    fn caught_up(&self) -> Vec<u64> {
        let (membership, consensus) = (self.membership(), handle::Follow::new(&self.raft));
        let close = |id: &u64| {
            #[cfg(test)]
            if crate::sim::broken(crate::sim::Mutation::JoinWithoutCatchUp) {
                return true;
            }
            consensus.look(|seen| seen.matched(*id).is_some_and(|matched| matched + CLOSE >= seen.log().1))
        };
        let joining = membership.peers.iter().filter(|(id, peer)| peer.joining && !membership.voters.contains(id));
        joining.map(|(id, _)| *id).filter(close).collect()
    }

    fn is_between_memberships(&self) -> bool {
        #[cfg(test)]
        if crate::sim::broken(crate::sim::Mutation::LeaveJoint) {
            return false;
        }
        handle::look(&self.raft, |seen| seen.is_between_memberships())
    }

    /// A change of nothing goes on to the newer of two memberships.
    async fn finish_half_done(&self) {
        if !self.is_between_memberships() {
            return;
        }
        let deadline = Instant::now() + self.config.request_timeout();
        // Whoever changes the members now finishes it.
        let _one_at_a_time = self.reconfiguring.lock().await;
        if self.is_between_memberships() {
            match self.reconfigure(Wanted::Settle, deadline).await {
                Ok(()) => tracing::info!("a change of the membership was finished"),
                Err(status) => tracing::debug!(%status, "a change of the membership is not finished yet"),
            }
        }
    }

    /// Gives leadership to another member; returns when it leads.
    pub async fn move_leader(&self, target: u64) -> Result<(), Status> {
        if !self.leads() {
            return Err(Refusal::NotLeader.into());
        }
        if !self.membership().voters.contains(&target) {
            return Err(Refusal::BadTransferee.into());
        }
        if target == self.id {
            return Ok(());
        }
        let deadline = Instant::now() + self.config.request_timeout();
        self.raft.trigger().transfer_leader(target).await.map_err(|_| Refusal::Stopped)?;
        let mut leadership = self.leadership.subscribe();
        let moved = leadership.wait_for(|now| now.leader == Some(target));
        match tokio::time::timeout_at(deadline, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Stopped.into()),
            Err(_) => Err(Status::unavailable("etcdserver: request timed out, leader transfer took too long")),
        }
    }
}
