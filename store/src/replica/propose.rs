//! Proposing: here when this replica leads, at the leader otherwise.
//!
//! A write that may or may not have happened is never tried again here: only what was certainly not proposed is.

use std::time::Duration;

use balsa_proto::raft::forward_request::Kind;
use bytes::Bytes;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Replica, internal, is_not_leader};
use crate::command::{Command, Encoded, Outcome};
use crate::error::Refusal;
use crate::raft::handle;
use crate::raft::network::never_sent;

impl Replica {
    /// Proposes a write and waits for what comes of it.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Status> {
        let encoded = command.encode();
        if encoded.len() > self.config.max_request_bytes {
            return Err(Refusal::RequestTooLarge.into());
        }
        self.has_room(&command).await?;
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

    pub(super) async fn propose_anywhere(&self, command: Bytes, deadline: Instant) -> Result<Outcome, Status> {
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

    pub(super) async fn propose_here(&self, command: Bytes, deadline: Instant) -> Result<Outcome, Status> {
        match tokio::time::timeout_at(deadline, handle::write(&self.raft, Encoded(command))).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Refusal::Timeout.into()),
        }
    }

    pub(super) async fn await_leader(&self, deadline: Instant) -> Result<u64, Status> {
        let mut leadership = self.leadership.subscribe();
        let known = tokio::select! {
            biased;
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
    pub(super) async fn pause(&self, tried: u64, deadline: Instant) -> Result<(), Status> {
        let mut leadership = self.leadership.subscribe();
        let soon = (Instant::now() + Duration::from_millis(50)).min(deadline);
        let _either = tokio::time::timeout_at(soon, leadership.wait_for(|now| now.leader.is_some_and(|id| id != tried))).await;
        if Instant::now() >= deadline { Err(Refusal::Timeout.into()) } else { Ok(()) }
    }

    pub(super) async fn forward(&self, leader: u64, kind: Kind, body: Bytes, deadline: Instant) -> Result<Bytes, Status> {
        let membership = self.membership();
        let Some(peer) = membership.peers.get(&leader) else {
            return Err(Status::unavailable(format!("the leader {leader:x} is not a member that is known here")));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let call = self.network.forward(leader, peer, kind, body, left);
        match tokio::time::timeout_at(deadline, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::Timeout.into()),
        }
    }
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
