//! Consensus: the one place that knows openraft.
//!
//! Everything else proposes encoded commands and hears of applied ones. openraft 0.10 is young and its interface still
//! moves: it is pinned exactly, and no type of it leaves this module but [`LogPosition`]'s numbers.

pub mod codec;
pub mod founding;
pub mod handle;
pub mod log_store;
pub mod network;
pub mod runtime;
pub mod server;
pub mod settings;
pub mod state_machine;
#[cfg(not(test))]
mod transport;
#[cfg(test)]
#[path = "../sim/transport.rs"]
mod transport;

use std::collections::BTreeMap;

use openraft::impls::leader_id_std::LeaderId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::command::{Encoded, Outcome};

openraft::declare_raft_types!(
    /// openraft's type parameters.
    pub TypeConfig:
        D = Encoded,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
        LeaderId = LeaderId<u64, u64>,
        AsyncRuntime = runtime::Runtime,
);

/// openraft's handle.
pub type Raft = openraft::Raft<TypeConfig, state_machine::StateMachine>;
/// An entry's place in the log.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// Whom a replica voted for, or follows.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// The members, and where in the log they were agreed on.
pub type Membership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;

/// A member as the membership records it. Addresses are names; they are resolved at each connect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name; empty for one that was added later, until it publishes it.
    pub name: String,
    /// Where its peers reach it, a URL.
    pub peer_url: String,
    /// Further URLs, shown but not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_peer_urls: Vec<String>,
    /// It was added as a voter; while it does not vote it catches up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joining: bool,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.name, self.peer_url)
    }
}

/// All members by id.
pub type Members = BTreeMap<u64, Peer>;

/// A term and an index as a log id.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(openraft::type_config::alias::CommittedLeaderIdOf::<TypeConfig>::new(term), index)
}

// openraft asks for serde on what it stores and sends; our own encoding is in `codec`. Commands are given a plain
// byte form, outcomes never leave the process this way.
impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| Self(bytes.into()))
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom("an outcome travels in its own encoding"))
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("an outcome travels in its own encoding"))
    }
}
