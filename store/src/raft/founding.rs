//! The log as others than consensus see it: how a restored cluster's begins, and what an entry says.

use std::collections::BTreeMap;

use balsa_proto::raft as wire;
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::Membership as Agreed;
use openraft::entry::RaftEntry as _;
use prost::Message as _;

use super::{Members, Membership, codec, log_id};
use crate::command::Command;
use crate::error::Fault;

/// What makes a state the beginning of a cluster of these members.
#[derive(Debug, Clone)]
pub struct Founding {
    /// The entry that is said to have made the state, encoded.
    pub log_id: Vec<u8>,
    /// The membership, encoded.
    pub membership: Vec<u8>,
}

impl Founding {
    /// The index of that entry.
    pub const INDEX: u64 = 1;

    /// All of them vote.
    pub fn of(members: &Members) -> Result<Self, Fault> {
        let id = log_id(1, Self::INDEX);
        let voters = vec![members.keys().copied().collect()];
        let nodes: BTreeMap<_, _> = members.clone();
        let agreed = Agreed::new(voters, nodes).map_err(|error| Fault(format!("no such cluster can be: {error}")))?;
        let membership = codec::to_json(&Membership::new(Some(id), agreed))?;
        Ok(Self { log_id: codec::wire_log_id(&id).encode_to_vec(), membership })
    }
}

/// An entry for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its index.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// What it does, without values, passwords and tokens.
    pub what: String,
}

/// Decodes an entry as it lies in the log.
pub fn describe(stored: Bytes) -> Result<Described, Fault> {
    let entry = wire::Entry::decode(stored).map_err(|error| Fault(format!("a malformed log entry: {error}")))?;
    let entry = codec::from_wire_entry(entry)?;
    let id = codec::wire_log_id(&entry.log_id());
    let what = match entry.payload {
        EntryPayload::Blank => "a leader's first".to_owned(),
        EntryPayload::Membership(members) => format!("members {members}"),
        EntryPayload::Normal(command) => named(&Command::decode(command.0)?),
    };
    Ok(Described { index: id.index, term: id.term, what })
}

fn named(command: &Command) -> String {
    match command {
        Command::Put(put) => format!("put {:?}, {} bytes", put.key, put.value.len()),
        Command::Delete(delete) => format!("delete {:?} to {:?}", delete.key, delete.range_end),
        Command::Txn(txn) => format!("txn of {} or {} operations", txn.success.len(), txn.failure.len()),
        Command::Compact(compact) => format!("compact {}", compact.revision),
        Command::Grant(grant) => format!("grant lease {:x} for {} s", grant.id, grant.ttl),
        Command::Revoke(revoke) => format!("revoke lease {:x}", revoke.id),
        Command::Alarm(alarm) => format!("alarm {} of {:x}: action {}", alarm.alarm, alarm.member_id, alarm.action),
        Command::Auth(_) => "a change of users or roles, or a login".to_owned(),
        Command::Checkpoint(checkpoint) => format!("checkpoint of {} leases", checkpoint.leases.len()),
        Command::Publish(member) => format!("member {:x} is {:?}", member.member, member.name),
        Command::Downgrade(info) => format!("downgrade {}", if info.enabled { "enabled" } else { "cancelled" }),
        Command::Signed { command, .. } => named(command),
    }
}
