//! A consistent copy of the state in its own directory (hard links, so it costs next to nothing), and the removal of
//! versions that compaction gave up.

use std::path::{Path, PathBuf};

use super::engine::WriteBatch;
use super::engine::checkpoint::Checkpoint;

use super::{engine, files, keys};
use super::state::{
    APPLIED, CLEANED, KEYS, LEDGER, MEMBERSHIP, META, POSITION, REVISIONS, State, encode_position, unlogged,
};
use super::view::family;
use crate::error::Fault;
use crate::ledger::Ledger;
use crate::mvcc::Position;

/// Versions that one write of the clean-up removes.
const CLEAN_BATCH: usize = 1_000;

/// A directory that is removed when nobody needs it any more.
#[derive(Debug)]
pub struct SnapshotDir(PathBuf);

impl SnapshotDir {
    /// Takes the directory over.
    pub fn adopt(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SnapshotDir {
    fn drop(&mut self) {
        if files::exists(&self.0)
            && let Err(error) = files::remove_dir(&self.0)
        {
            tracing::warn!(%error, dir = %self.0.display(), "cannot remove a snapshot");
        }
    }
}

impl State {
    /// Makes a state somebody else's beginning: where it stands, the entry (encoded) that is said to have made it, the
    /// membership (encoded), and what was agreed on besides. Not flushed.
    pub fn refound(&self, position: Position, applied: &[u8], membership: &[u8], ledger: &Ledger) -> Result<(), Fault> {
        let opened = self.current();
        let meta = family(opened.db(), META)?;
        let mut write = WriteBatch::default();
        write.put_cf(meta, POSITION, encode_position(position));
        write.put_cf(meta, APPLIED, applied);
        write.put_cf(meta, MEMBERSHIP, membership);
        write.put_cf(meta, LEDGER, ledger.encode());
        Ok(opened.db().write_opt(write, &unlogged())?)
    }
}

/// Copies the state, as it is now, to `root/name`. The caller sees to it that nothing is applied meanwhile.
pub fn create(state: &State, name: &str) -> Result<SnapshotDir, Fault> {
    let path = state.root().join(name);
    if files::exists(&path) {
        files::remove_dir(&path).map_err(|error| Fault(format!("cannot remove an old snapshot: {error}")))?;
    }
    let opened = state.current();
    Checkpoint::new(opened.db())?.create_checkpoint(&path)?;
    Ok(SnapshotDir::adopt(path))
}

/// Removes what no read at or above revision `compacted` can see; up to `compacted` this was not done yet from where
/// the last clean-up ended. Stops early, without harm, when `cancelled` says so.
pub fn clean(state: &State, compacted: i64, cancelled: impl Fn() -> bool) -> Result<(), Fault> {
    let opened = state.current();
    let db = opened.db();
    let (versions, revisions, meta) = (family(db, KEYS)?, family(db, REVISIONS)?, family(db, META)?);
    let cleaned = match db.get_cf(meta, CLEANED)? {
        Some(stored) => keys::split_revision(&stored)?.0,
        None => 0,
    };
    // From the last compaction on, inclusive: a tombstone at exactly that revision was kept for watchers.
    let mut changed = db.raw_iterator_cf(revisions);
    changed.seek(keys::revision(cleaned, 0));
    let mut write = WriteBatch::default();
    while let (Some(place), Some(key)) = (changed.key(), changed.value()) {
        let (main, _) = keys::split_revision(place)?;
        if main > compacted || cancelled() {
            break;
        }
        remove_superseded(db, (versions, revisions), key, compacted, &mut write)?;
        if write.len() >= CLEAN_BATCH {
            db.write_opt(std::mem::take(&mut write), &unlogged())?;
        }
        changed.next();
    }
    changed.status()?;
    if !cancelled() {
        write.put_cf(meta, CLEANED, keys::revision(compacted, 0));
    }
    Ok(db.write_opt(write, &unlogged())?)
}

type Families<'a> = (&'a engine::ColumnFamily, &'a engine::ColumnFamily);

fn remove_superseded(
    db: &engine::DB,
    (versions, revisions): Families<'_>,
    key: &[u8],
    compacted: i64,
    write: &mut WriteBatch,
) -> Result<(), Fault> {
    let prefix = keys::prefix(key);
    let mut options = engine::ReadOptions::default();
    options.set_iterate_upper_bound(keys::past(&prefix));
    let mut iterator = db.raw_iterator_cf_opt(versions, options);
    iterator.seek(keys::at_or_below(&prefix, compacted));
    let mut newest = true;
    while let (Some(encoded), Some(stored)) = (iterator.key(), iterator.value()) {
        let (_, main, sub) = keys::split(encoded)?;
        let tombstone = keys::decode_version(main, sub, stored, true)?.is_tombstone();
        // The newest version is what readers at `compacted` see; a tombstone shows nothing, but a watcher that starts
        // at `compacted` itself must hear of it.
        let keep = newest && (!tombstone || main == compacted);
        newest = false;
        #[cfg(test)]
        let keep = keep && !crate::sim::broken(crate::sim::Mutation::CompactTooMuch);
        if !keep {
            write.delete_cf(versions, encoded);
            write.delete_cf(revisions, keys::revision(main, sub));
        }
        iterator.next();
    }
    Ok(iterator.status()?)
}
