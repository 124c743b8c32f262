//! Making reads linearizable: many waiting reads share one confirmation that the leader still leads.

use std::sync::Arc;
use std::time::Duration;

use balsa_proto::raft::forward_request::Kind;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Replica, is_not_leader};
use crate::error::Refusal;
use crate::raft::handle::{self, Confirm};

impl Replica {
    /// Waits until this replica has applied everything that was acknowledged before the call.
    pub async fn linearize(&self) -> Result<(), Status> {
        #[cfg(test)]
        if crate::sim::broken(crate::sim::Mutation::SkipReadIndex) {
            return Ok(());
        }
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

    /// Returns when there was no leader for so long that an election should have ended long ago.
    pub async fn leaderless(&self) {
        let patience = Duration::from_millis(3 * self.config.election_timeout);
        let mut leadership = self.leadership.subscribe();
        loop {
            if leadership.wait_for(|now| now.leader.is_none()).await.is_err() {
                return;
            }
            if tokio::time::timeout(patience, leadership.wait_for(|now| now.leader.is_some())).await.is_err() {
                return;
            }
        }
    }

    /// One round confirms all reads that wait when it begins.
    pub(super) async fn confirm_reads(self: Arc<Self>, mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), Status>>>) {
        let mut round = Vec::new();
        loop {
            tokio::select! {
                biased;
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
                match tokio::time::timeout_at(deadline, self.read_index_here(Confirm::Round)).await {
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

    pub(super) async fn read_index_here(&self, confirm: Confirm) -> Result<u64, Status> {
        Ok(handle::read_index(&self.raft, confirm).await?)
    }
}
