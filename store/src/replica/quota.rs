//! The space quota: when it is used up, the alarm NOSPACE is raised through the log, so that every replica refuses
//! what needs more room, until somebody clears it.
//!
//! The size is looked at in rounds and not per write: between two rounds the quota may be passed by what is written
//! meanwhile, and no write pays for it.

use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use balsa_proto::etcd::etcdserverpb::{AlarmRequest, AlarmType};
use tokio::time::Instant;
use tonic::Status;

use super::Replica;
use super::applied::flag;
use crate::command::{Command, Outcome};
use crate::error::Refusal;
use crate::ledger::admit;

const ROUND: Duration = Duration::from_millis(200);

impl Replica {
    /// Looks at the size until the replica stops.
    pub(super) async fn watch_quota(self: Arc<Self>) {
        let Some(quota) = self.config.quota() else { return };
        loop {
            self.is_full(quota);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }

    fn is_full(&self, quota: u64) -> bool {
        let (size, _) = self.state().size();
        let full = size >= quota;
        self.applied.set_flag(flag::FULL, full);
        full
    }

    /// Refuses what needs room while there is none, and sees to it that everybody knows.
    pub(super) async fn has_room(&self, command: &Command) -> Result<(), Status> {
        let grows = match command {
            Command::Signed { command, .. } => grows(command),
            command => grows(command),
        };
        if self.applied.flags() & flag::FULL == 0 || !grows {
            return Ok(());
        }
        // The flag may be a round old; an alarm that somebody has just cleared must not be raised again for that.
        if self.config.quota().is_none_or(|quota| !self.is_full(quota)) {
            return Ok(());
        }
        if !self.applied.ledger().is_raised(AlarmType::Nospace) {
            tracing::warn!(quota = self.config.quota(), "the quota is used up; raising the alarm NOSPACE");
            self.raise(AlarmType::Nospace).await?;
        }
        Err(Refusal::NoSpace.into())
    }

    /// Raises an alarm of this member.
    pub async fn raise(&self, alarm: AlarmType) -> Result<(), Status> {
        self.raise_for(self.id, alarm).await
    }

    /// Raises an alarm of any member.
    pub async fn raise_for(&self, member_id: u64, alarm: AlarmType) -> Result<(), Status> {
        let request = AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm: alarm as i32 };
        let deadline = Instant::now() + self.config.request_timeout();
        match self.propose_anywhere(Command::Alarm(request).encode(), deadline).await? {
            Outcome::Refused(refusal) => Err(refusal.into()),
            _ => Ok(()),
        }
    }
}

fn grows(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::Grant(_) => true,
        Command::Txn(request) => admit::puts(request),
        _ => false,
    }
}
