//! Multi-version key space: what a command does to the keys, which revision it gets, what a read at a revision sees.
//!
//! Pure: plain data and the [`View`] trait in, plain data out. No clock, no randomness, no IO of its own; every replica
//! that applies the same commands in the same order holds the same keys at the same revisions.
//!
//! Revisions are etcd's: an empty store is at revision 1, every command that changes something makes the next one, and
//! several changes of one command share it (`main`) and are told apart by `sub`.

pub mod check;
pub mod memory;
pub mod range;
pub mod txn;
pub mod writer;

use std::ops::ControlFlow;

use balsa_proto::etcd::mvccpb::{Event as WireEvent, KeyValue, event::EventType};
use bytes::Bytes;

use crate::error::Fault;

/// The revision of a store in which nothing was ever written.
pub const FIRST_REVISION: i64 = 1;

/// One version of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Revision of the command that wrote it.
    pub main: i64,
    /// Which change of that command, from 0.
    pub sub: i64,
    /// Revision at which the key came into being; 0 for a tombstone.
    pub create: i64,
    /// Writes since then; 1 at creation, 0 for a tombstone.
    pub version: i64,
    /// The lease that owns the key; 0 for none.
    pub lease: i64,
    /// Empty when only keys were asked for.
    pub value: Bytes,
}

impl Version {
    /// Whether this version says that the key is gone.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// As etcd shows it to clients.
    pub fn key_value(&self, key: Bytes) -> KeyValue {
        KeyValue {
            key,
            create_revision: self.create,
            mod_revision: self.main,
            version: self.version,
            value: self.value.clone(),
            lease: self.lease,
        }
    }
}

/// A change that watchers hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// What it is now (a tombstone when it was deleted).
    pub version: Version,
    /// What it was just before, if it was there.
    pub previous: Option<Version>,
}

impl Change {
    /// As etcd shows it to watchers.
    pub fn event(&self, with_previous: bool) -> WireEvent {
        let deleted = self.version.is_tombstone();
        let kv = if deleted {
            KeyValue { key: self.key.clone(), mod_revision: self.version.main, ..KeyValue::default() }
        } else {
            self.version.key_value(self.key.clone())
        };
        let previous = self.previous.as_ref().filter(|_| with_previous);
        WireEvent {
            r#type: if deleted { EventType::Delete } else { EventType::Put } as i32,
            kv: Some(kv),
            prev_kv: previous.map(|version| version.key_value(self.key.clone())),
        }
    }

    /// Bytes that keeping this change in memory costs, roughly.
    pub fn weight(&self) -> usize {
        let previous = self.previous.as_ref().map_or(0, |version| version.value.len());
        128 + self.key.len() + self.version.value.len() + previous
    }
}

/// Where a range of keys ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The range is the start key alone.
    Single,
    /// Up to this key, exclusive.
    Before(Bytes),
    /// No end.
    Unbounded,
}

/// A range of keys as etcd's requests give it: a key and a range end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// Where it ends.
    pub end: End,
}

impl KeyRange {
    /// From a request: no end is one key, the end `\0` is everything from the key on.
    pub fn new(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match range_end.as_ref() {
            [] => End::Single,
            [0] => End::Unbounded,
            _ => End::Before(range_end.clone()),
        };
        Self { start: key.clone(), end }
    }

    /// Whether it holds `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.start.as_ref(),
            End::Before(end) => self.start.as_ref() <= key && key < end.as_ref(),
            End::Unbounded => self.start.as_ref() <= key,
        }
    }
}

/// A lease as it is recorded; when it expires is the leader's business, not the record's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Granted time to live, seconds.
    pub ttl: i64,
    /// Seconds that were left at the last checkpoint; 0 when it begins anew with the next leader.
    pub remaining: i64,
}

/// What can be read from a key space, whether it is on disk, in memory or half written.
pub trait View {
    /// The newest version of `key` with `main` at most `at`, tombstones included.
    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>, Fault>;

    /// Calls `visit` with every key of `range` that lives at revision `at`, in ascending order, until it breaks.
    /// With `keys_only` the values may be left empty.
    fn scan(&self, range: &KeyRange, at: i64, keys_only: bool, visit: Visit<'_>) -> Result<(), Fault>;

    /// How many keys of `range` live at revision `at`.
    fn count(&self, range: &KeyRange, at: i64) -> Result<i64, Fault>;

    /// The lease with this id.
    fn lease(&self, id: i64) -> Result<Option<LeaseRecord>, Fault>;

    /// The keys that the lease owns, ascending.
    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, Fault>;
}

/// What [`View::scan`] calls for each key.
pub type Visit<'a> = &'a mut dyn FnMut(Bytes, Version) -> ControlFlow<()>;

/// Where a key space stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The revision of the last change.
    pub revision: i64,
    /// The last compaction: reads below it are refused. 0 before the first.
    pub compacted: i64,
}

impl Default for Position {
    fn default() -> Self {
        Self { revision: FIRST_REVISION, compacted: 0 }
    }
}

/// How many keys of `range` live at revision `at`, by looking at each.
pub fn walk(view: &impl View, range: &KeyRange, at: i64) -> Result<i64, Fault> {
    let mut count = 0;
    view.scan(range, at, true, &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

/// The live version of `key` at revision `at`.
pub fn live(view: &impl View, key: &[u8], at: i64) -> Result<Option<Version>, Fault> {
    Ok(view.newest(key, at)?.filter(|version| !version.is_tombstone()))
}
