//! Reading the key space from disk, at a snapshot of the database or at its newest.

use std::ops::ControlFlow;

use bytes::Bytes;
use super::engine::{ColumnFamily, DB, DBRawIterator, ReadOptions, SnapshotWithThreadMode};

use super::{engine, keys};
use super::state::{ATTACHED, KEYS, LEASES, META, POSITION, REVISIONS};
use crate::error::Fault;
use crate::mvcc::{Change, End, KeyRange, LeaseRecord, Position, Version, View, Visit};

/// How many versions of one key are stepped over before a seek is worth it.
const STEPS_BEFORE_SEEK: usize = 4;

/// The key space on disk. Without a snapshot only the one who writes may use it.
pub struct DiskView<'a> {
    db: &'a DB,
    snapshot: Option<&'a SnapshotWithThreadMode<'a, DB>>,
}

/// A column family that the database was opened with.
pub fn family<'a>(db: &'a DB, name: &str) -> Result<&'a ColumnFamily, Fault> {
    db.cf_handle(name).ok_or_else(|| Fault(format!("the database has no column family {name}")))
}

impl<'a> DiskView<'a> {
    /// Of the newest content.
    pub fn newest_of(db: &'a DB) -> Self {
        Self { db, snapshot: None }
    }

    /// Of one moment.
    pub fn at(db: &'a DB, snapshot: &'a SnapshotWithThreadMode<'a, DB>) -> Self {
        Self { db, snapshot: Some(snapshot) }
    }

    /// The database that it reads.
    pub fn db(&self) -> &'a DB {
        self.db
    }

    fn read_options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if let Some(snapshot) = self.snapshot {
            options.set_snapshot(snapshot);
        }
        options
    }

    fn iterator(&self, name: &str, upper: Option<Vec<u8>>) -> Result<DBRawIterator<'a>, Fault> {
        let mut options = self.read_options();
        if let Some(upper) = upper {
            options.set_iterate_upper_bound(upper);
        }
        Ok(self.db.raw_iterator_cf_opt(family(self.db, name)?, options))
    }

    /// An iterator over a whole family.
    pub fn all(&self, name: &str) -> Result<DBRawIterator<'a>, Fault> {
        self.iterator(name, None)
    }

    /// A point read.
    pub fn get(&self, name: &str, key: &[u8]) -> Result<Option<engine::DBPinnableSlice<'a>>, Fault> {
        Ok(self.db.get_pinned_cf_opt(family(self.db, name)?, key, &self.read_options())?)
    }

    /// Where the key space stands at this moment.
    pub fn position(&self) -> Result<Position, Fault> {
        match self.get(META, POSITION)? {
            Some(stored) => super::state::decode_position(&stored),
            None => Ok(Position::default()),
        }
    }

    /// Calls `visit` with every change from revision `from` to `to`, in order, until it breaks. `previous` is filled
    /// in when asked for and not compacted.
    pub fn changes(
        &self,
        from: i64,
        to: i64,
        with_previous: bool,
        wanted: impl Fn(&[u8]) -> bool,
        mut visit: impl FnMut(Change) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let mut iterator = self.iterator(REVISIONS, Some(keys::revision(to.saturating_add(1), 0).to_vec()))?;
        iterator.seek(keys::revision(from, 0));
        while let (Some(revision), Some(key)) = (iterator.key(), iterator.value()) {
            if wanted(key) {
                let (main, sub) = keys::split_revision(revision)?;
                // Compaction removes the version first and its place in this index later.
                if let Some(stored) = self.get(KEYS, &keys::version(key, main, sub))? {
                    let version = keys::decode_version(main, sub, &stored, false)?;
                    let previous = if with_previous { crate::mvcc::live(self, key, main - 1)? } else { None };
                    if visit(Change { key: Bytes::copy_from_slice(key), version, previous }).is_break() {
                        return Ok(());
                    }
                }
            }
            iterator.next();
        }
        Ok(iterator.status()?)
    }

    /// Every lease, ascending by id.
    pub fn leases(&self) -> Result<Vec<(i64, LeaseRecord)>, Fault> {
        let mut iterator = self.iterator(LEASES, None)?;
        iterator.seek_to_first();
        let mut leases = Vec::new();
        while let (Some(key), Some(value)) = (iterator.key(), iterator.value()) {
            let broken = || Fault("the state holds a malformed lease".to_owned());
            let id = i64::from_be_bytes(key.try_into().map_err(|_| broken())?);
            leases.push((id, decode_lease(value)?));
            iterator.next();
        }
        iterator.status()?;
        Ok(leases)
    }
}

fn decode_lease(stored: &[u8]) -> Result<LeaseRecord, Fault> {
    // Eight bytes before there were checkpoints.
    let number = |bytes: &[u8]| bytes.try_into().map(i64::from_be_bytes);
    let (ttl, remaining) = stored.split_at(stored.len().min(8));
    let lease = number(ttl).and_then(|ttl| {
        Ok(LeaseRecord { ttl, remaining: if remaining.is_empty() { 0 } else { number(remaining)? } })
    });
    lease.map_err(|_| Fault("the state holds a malformed lease".to_owned()))
}

impl View for DiskView<'_> {
    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>, Fault> {
        let prefix = keys::prefix(key);
        let mut iterator = self.iterator(KEYS, Some(keys::past(&prefix)))?;
        iterator.seek(keys::at_or_below(&prefix, at));
        match (iterator.key(), iterator.value()) {
            (Some(encoded), Some(stored)) => {
                let (_, main, sub) = keys::split(encoded)?;
                Ok(Some(keys::decode_version(main, sub, stored, false)?))
            }
            _ => {
                iterator.status()?;
                Ok(None)
            }
        }
    }

    fn scan(&self, range: &KeyRange, at: i64, keys_only: bool, visit: Visit<'_>) -> Result<(), Fault> {
        let upper = match &range.end {
            End::Single => {
                if let Some(version) = crate::mvcc::live(self, &range.start, at)? {
                    let _done = visit(range.start.clone(), version);
                }
                return Ok(());
            }
            End::Before(end) if *end <= range.start => return Ok(()),
            End::Before(end) => Some(keys::prefix(end)),
            End::Unbounded => None,
        };
        let mut iterator = self.iterator(KEYS, upper)?;
        iterator.seek(keys::prefix(&range.start));
        let mut current: Vec<u8> = Vec::new();
        while let (Some(encoded), Some(stored)) = (iterator.key(), iterator.value()) {
            let (prefix, main, sub) = keys::split(encoded)?;
            if main > at {
                current.clear();
                current.extend_from_slice(prefix);
                step_to(&mut iterator, &current, &keys::at_or_below(&current, at))?;
                continue;
            }
            let version = keys::decode_version(main, sub, stored, keys_only)?;
            current.clear();
            current.extend_from_slice(prefix);
            if !version.is_tombstone() && visit(keys::user_key(&current)?, version).is_break() {
                return Ok(());
            }
            step_to(&mut iterator, &current, &keys::past(&current))?;
        }
        Ok(iterator.status()?)
    }

    fn count(&self, range: &KeyRange, at: i64) -> Result<i64, Fault> {
        super::counts::count(self, range, at)
    }

    fn lease(&self, id: i64) -> Result<Option<LeaseRecord>, Fault> {
        self.get(LEASES, &id.to_be_bytes())?.map(|stored| decode_lease(&stored)).transpose()
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, Fault> {
        let mut iterator = self.iterator(ATTACHED, None)?;
        iterator.seek(id.to_be_bytes());
        let mut found = Vec::new();
        while let Some(key) = iterator.key() {
            let Some(key) = key.strip_prefix(&id.to_be_bytes()) else { break };
            found.push(Bytes::copy_from_slice(key));
            iterator.next();
        }
        iterator.status()?;
        Ok(found)
    }
}

/// Moves to the first entry at or past `target`: a few steps while the key stays the same, then a seek.
fn step_to(iterator: &mut DBRawIterator<'_>, _prefix: &[u8], target: &[u8]) -> Result<(), Fault> {
    for _ in 0..STEPS_BEFORE_SEEK {
        iterator.next();
        match iterator.key() {
            Some(key) if key < target => {}
            Some(_) => return Ok(()),
            None => return Ok(iterator.status()?),
        }
    }
    iterator.seek(target);
    Ok(())
}
