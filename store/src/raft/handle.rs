//! What the rest of the store asks of consensus, in the store's own words: openraft's types end here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ChangeMembershipError, ClientWriteError, LinearizableReadError, RaftError};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{ChangeMembers, LinearizerOption, RaftMetrics, ReadPolicy};

use super::{LogId, Members, Membership, Peer, Raft, TypeConfig};
use crate::command::{Encoded, Outcome};
use crate::error::Refusal;

/// How consensus stands, at one moment.
#[derive(Clone, Copy)]
pub struct Seen<'a>(&'a RaftMetrics<TypeConfig>);

impl Seen<'_> {
    /// The leader, and the term.
    pub fn leader(self) -> (Option<u64>, u64) {
        (self.0.current_leader, self.0.current_term)
    }

    /// Why consensus has stopped, if it has.
    pub fn fatal(self) -> Option<String> {
        self.0.running_state.as_ref().err().map(ToString::to_string)
    }

    /// The newest index that is committed as far as is known here; 0 for none.
    pub fn committed(self) -> u64 {
        self.0.local_committed.map_or(0, |id| id.index())
    }

    /// The last index that was cut off the log (0 for none), and the newest in it.
    pub fn log(self) -> (u64, u64) {
        (self.0.purged.map_or(0, |id| id.index()), self.0.last_log_index.unwrap_or(0))
    }

    /// The members and those that vote, as the newest membership in the log has it, committed or not.
    pub fn newest_members(self) -> (Members, Vec<u64>) {
        members(&self.0.membership_config)
    }

    /// The same, of the membership that was agreed on last.
    pub fn agreed_members(self) -> (Members, Vec<u64>) {
        members(&self.0.committed_membership_config)
    }

    /// Where in the log the newest and the agreed membership are: they have changed when this has.
    pub fn members_at(self) -> (Option<LogId>, Option<LogId>) {
        (*self.0.membership_config.log_id(), *self.0.committed_membership_config.log_id())
    }

    /// Whether the newest membership is on its way from one to another, and needs a majority of both.
    pub fn is_between_memberships(self) -> bool {
        self.0.membership_config.get_joint_config().len() > 1
    }

    /// The index of the newest membership, if this member is in it.
    pub fn belongs_since(self, id: u64) -> Option<u64> {
        self.0.membership_config.get_node(&id)?;
        self.members_at().0.map(|at| at.index())
    }

    /// The index of the membership that was agreed on last.
    pub fn agreed_at(self) -> Option<u64> {
        self.members_at().1.map(|at| at.index())
    }

    /// Whether this member is among those that were agreed on last.
    pub fn is_agreed(self, id: u64) -> bool {
        self.0.committed_membership_config.get_node(&id).is_some()
    }

    /// At the leader: the newest index that a member has on its disk, as far as is known.
    pub fn matched(self, id: u64) -> Option<u64> {
        self.0.replication.as_ref()?.get(&id)?.as_ref().map(|id| id.index())
    }

    /// At the leader: how long ago a member was heard of.
    pub fn heard(self, id: u64) -> Option<Duration> {
        self.0.heartbeat.as_ref()?.get(&id)?.as_ref().map(|at| at.elapsed())
    }
}

fn members(config: &Membership) -> (Members, Vec<u64>) {
    let mut voters: Vec<u64> = config.voter_ids().collect();
    voters.sort_unstable();
    (config.nodes().map(|(id, peer)| (*id, peer.clone())).collect(), voters)
}

/// Looks at how consensus stands.
pub fn look<T>(raft: &Raft, see: impl FnOnce(Seen<'_>) -> T) -> T {
    Follow::new(raft).look(see)
}

/// Follows how consensus stands.
pub struct Follow(WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>);

impl Follow {
    /// From now on.
    pub fn new(raft: &Raft) -> Self {
        Self(raft.metrics())
    }

    /// How it stands now.
    pub fn look<T>(&self, see: impl FnOnce(Seen<'_>) -> T) -> T {
        see(Seen(&self.0.borrow_watched()))
    }

    /// Waits for a change; false when there will be none any more.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// Proposes a command, if this replica leads.
pub async fn write(raft: &Raft, command: Encoded) -> Result<Outcome, Refusal> {
    match raft.client_write(command).await {
        Ok(response) => Ok(response.data),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(Refusal::NotLeader),
        Err(RaftError::APIError(_)) => Err(Refusal::LeaderChanged),
        Err(RaftError::Fatal(_)) => Err(Refusal::Stopped),
    }
}

/// How a leader makes sure that it still leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// It hears from a majority after the question.
    Round,
    /// It heard from a majority so lately that nobody else can have been elected.
    Lease,
}

/// The index up to which a state must be applied before a linearizable read; from the leader alone.
pub async fn read_index(raft: &Raft, confirm: Confirm) -> Result<u64, Refusal> {
    let policy = match confirm {
        Confirm::Round => ReadPolicy::ReadIndex,
        Confirm::Lease => ReadPolicy::LeaseRead,
    };
    match raft.get_read_log_id(LinearizerOption::from(policy)).await {
        Ok((read, _)) => Ok(read.index()),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(Refusal::NotLeader),
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Refusal::LeaderChanged),
        Err(RaftError::Fatal(_)) => Err(Refusal::Stopped),
    }
}

/// A change of the membership.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// A new member, without a vote.
    Add(u64, Peer),
    /// Another address of one.
    Move(u64, Peer),
    /// A member gets a vote.
    Promote(u64),
    /// A member with a vote goes.
    RemoveVoter(u64),
    /// One without goes.
    RemoveLearner(u64),
    /// Nothing new: a change that was begun by another leader is brought to its end.
    Settle,
}

impl Wanted {
    fn into_change(self) -> ChangeMembers<u64, Peer> {
        match self {
            Self::Add(id, peer) => ChangeMembers::AddNodes(BTreeMap::from([(id, peer)])),
            Self::Move(id, peer) => ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])),
            Self::Promote(id) => ChangeMembers::AddVoterIds(BTreeSet::from([id])),
            Self::RemoveVoter(id) => ChangeMembers::RemoveVoters(BTreeSet::from([id])),
            Self::Settle => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Self::RemoveLearner(id) => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
        }
    }
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unchanged {
    /// The change before it is not committed yet, or this leader's first entry is not: soon.
    NotYet,
    /// For a reason that clients know.
    Refused(Refusal),
    /// For another.
    Other(String),
}

/// Changes the membership, if this replica leads.
pub async fn change(raft: &Raft, wanted: Wanted) -> Result<(), Unchanged> {
    let problem = match raft.change_membership(wanted.into_change(), false).await {
        Ok(_) => return Ok(()),
        Err(RaftError::Fatal(_)) => return Err(Unchanged::Refused(Refusal::Stopped)),
        Err(RaftError::APIError(problem)) => problem,
    };
    Err(match problem {
        ClientWriteError::ForwardToLeader(_) => Unchanged::Refused(Refusal::NotLeader),
        ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        ) => Unchanged::NotYet,
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::LearnerNotFound(_)) => {
            Unchanged::Refused(Refusal::MemberNotFound)
        }
        other => Unchanged::Other(other.to_string()),
    })
}
