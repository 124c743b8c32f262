//! What clients asked and were told: the history of a run, the model that it is checked against, the checker, and
//! the forms in which other checkers can read it and in which etcd's messages say it.
//!
//! Shared by the simulation (`store/src/sim`) and the tests with real processes (`store/tests/store`): plain data, no
//! clock, no runtime, nothing of the store.

pub mod check;
pub mod etcd;
pub mod export;
pub mod model;

/// A key as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    pub value: String,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put { key: String, value: String, lease: i64 },
    /// The keys from the first, up to the second exclusively.
    Delete { from: String, to: String },
    Range { from: String, to: String },
}

/// A comparison of a transaction; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at this revision; 0 for an absent key.
    Modified(String, i64),
    /// The key has this value.
    Value(String, String),
}

/// What a client asked. A put, a deletion or a read by itself is a transaction of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Txn { compare: Vec<Compare>, then: Vec<Op>, otherwise: Vec<Op> },
    Grant(i64),
    Revoke(i64),
    /// Not a client's: the lease may expire by itself at any time after it was granted.
    #[allow(dead_code, reason = "only the simulation's clients have leases")]
    Expire(i64),
}

impl Call {
    /// A single operation.
    pub fn one(op: Op) -> Self {
        Self::Txn { compare: Vec::new(), then: vec![op], otherwise: Vec::new() }
    }
}

/// What an operation answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Put,
    Deleted(i64),
    Range(Vec<(String, Seen)>),
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; the store was at this revision then.
    Done { revision: i64, succeeded: bool, answers: Vec<Answer> },
    /// It was refused by the state that the store was in (and changed nothing): the lease is missing, or is there.
    Refused,
    /// No answer, or one that leaves it open: it may have happened, at any time since, or may still happen.
    Unknown,
}

/// One call of one client. Times are places in one order of everything that happened in the run.
#[derive(Debug, Clone)]
pub struct Event {
    pub client: usize,
    pub call: Call,
    pub called: u64,
    /// `u64::MAX` when the outcome is unknown.
    pub returned: u64,
    pub outcome: Outcome,
}
