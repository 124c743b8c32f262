//! openraft's messages and entries as bytes, for the log and for the wire. Entries share memory with what they were
//! decoded from.

use balsa_proto::raft::{self as wire, entry::Payload};
use openraft::entry::RaftEntry as _;
use openraft::raft::{AppendEntriesRequest, StreamAppendError};
use openraft::vote::RaftVote as _;
use openraft::{EntryPayload, Membership as Members};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Entry, LogId, Peer, TypeConfig, Vote, log_id};
use crate::command::Encoded;
use crate::error::Fault;

/// What a follower answers to one append: how far its synced log matches, or why it does not.
pub type AppendResult = Result<Option<LogId>, StreamAppendError<TypeConfig>>;

/// A rare message.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|error| Fault(format!("cannot encode a raft message: {error}")))
}

/// The inverse of [`to_json`].
pub fn from_json<T: DeserializeOwned>(data: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(data).map_err(|error| Fault(format!("cannot decode a raft message: {error}")))
}

/// A log id on the wire.
pub fn wire_log_id(id: &LogId) -> wire::LogId {
    wire::LogId { term: id.committed_leader_id().term, index: id.index() }
}

/// A log id from the wire.
pub fn from_wire_log_id(id: wire::LogId) -> LogId {
    log_id(id.term, id.index)
}

fn wire_vote(vote: &Vote) -> wire::Vote {
    wire::Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

fn from_wire_vote(vote: wire::Vote) -> Vote {
    use openraft::vote::RaftLeaderId as _;
    Vote::from_leader_id(openraft::type_config::alias::LeaderIdOf::<TypeConfig>::new(vote.term, vote.node), vote.committed)
}

/// An entry, for the log and the wire.
pub fn wire_entry(entry: &Entry) -> Result<wire::Entry, Fault> {
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(command) => Some(Payload::Command(command.0.clone())),
        EntryPayload::Membership(members) => Some(Payload::Membership(to_json(members)?.into())),
    };
    let id = wire_log_id(&entry.log_id());
    Ok(wire::Entry { term: id.term, index: id.index, payload })
}

/// The inverse of [`wire_entry`].
pub fn from_wire_entry(entry: wire::Entry) -> Result<Entry, Fault> {
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(Payload::Command(command)) => EntryPayload::Normal(Encoded(command)),
        Some(Payload::Membership(members)) => {
            EntryPayload::Membership(from_json::<Members<u64, Peer>>(&members)?)
        }
    };
    Ok(Entry { log_id: log_id(entry.term, entry.index), payload })
}

/// An append request, for the wire.
pub fn wire_append(request: AppendEntriesRequest<TypeConfig>) -> Result<wire::AppendRequest, Fault> {
    Ok(wire::AppendRequest {
        vote: Some(wire_vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(wire_log_id),
        entries: request.entries.iter().map(wire_entry).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(wire_log_id),
    })
}

/// The inverse of [`wire_append`].
pub fn from_wire_append(request: wire::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Fault> {
    let vote = request.vote.ok_or_else(|| Fault("an append request without a vote".to_owned()))?;
    Ok(AppendEntriesRequest {
        vote: from_wire_vote(vote),
        prev_log_id: request.previous.map(from_wire_log_id),
        entries: request.entries.into_iter().map(from_wire_entry).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(from_wire_log_id),
    })
}

/// An answer to an append, for the wire.
pub fn wire_append_result(result: &AppendResult) -> wire::AppendResponse {
    match result {
        Ok(matched) => wire::AppendResponse { matched: matched.as_ref().map(wire_log_id), ..Default::default() },
        Err(StreamAppendError::Conflict(at)) => {
            wire::AppendResponse { conflict: Some(wire_log_id(at)), ..Default::default() }
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            wire::AppendResponse { higher_vote: Some(wire_vote(vote)), ..Default::default() }
        }
    }
}

/// The inverse of [`wire_append_result`].
pub fn from_wire_append_result(response: wire::AppendResponse) -> AppendResult {
    match (response.conflict, response.higher_vote) {
        (_, Some(vote)) => Err(StreamAppendError::HigherVote(from_wire_vote(vote))),
        (Some(at), None) => Err(StreamAppendError::Conflict(from_wire_log_id(at))),
        (None, None) => Ok(response.matched.map(from_wire_log_id)),
    }
}
