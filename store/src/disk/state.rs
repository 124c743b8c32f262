//! The key space on disk: opening it, writing a batch of applied entries to it, flushing it, replacing it by a snapshot.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use super::engine::{Cache, ColumnFamilyDescriptor, DB, FlushOptions, WriteBatch, WriteOptions};

use super::view::{DiskView, family};
use super::counts::{self, COUNTS};
use super::{files, keys, options};
use crate::error::Fault;
use crate::ledger::Ledger;
use crate::mvcc::Position;
use crate::mvcc::writer::Changes;

/// Versions of keys; see [`keys`].
pub const KEYS: &str = "keys";
/// Revision and sub revision → user key.
pub const REVISIONS: &str = "revisions";
/// Lease id → granted seconds, seconds left at the last checkpoint.
pub const LEASES: &str = "leases";
/// Lease id and key → nothing.
pub const ATTACHED: &str = "attached";
/// Position, applied log id, membership.
pub const META: &str = "meta";

/// In [`META`]: revision and compaction.
pub const POSITION: &[u8] = b"position";
/// In [`META`]: the last applied entry, as the raft module encodes it.
pub const APPLIED: &[u8] = b"applied";
/// In [`META`]: the membership, as the raft module encodes it.
pub const MEMBERSHIP: &[u8] = b"membership";
/// In [`META`]: alarms, users, roles, members' attributes.
pub const LEDGER: &[u8] = b"ledger";
/// In [`META`]: the compaction up to which superseded versions were removed from disk.
pub const CLEANED: &[u8] = b"cleaned";

const FAMILIES: [&str; 6] = [KEYS, REVISIONS, LEASES, ATTACHED, META, COUNTS];
const POINTER: &str = "STATE";

/// One opened state directory.
pub struct Opened {
    // Taken out on drop, so that the database is closed before its directory is removed.
    db: Option<DB>,
    dir: PathBuf,
    doomed: AtomicBool,
}

impl Opened {
    /// The database.
    pub fn db(&self) -> &DB {
        self.db.as_ref().expect("an opened state holds its database until it is dropped")
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        drop(self.db.take());
        if self.doomed.load(Ordering::Acquire)
            && let Err(error) = files::remove_dir(&self.dir)
        {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot remove a state that a snapshot replaced");
        }
    }
}

/// The state of a replica; cheap to clone.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    cache: Cache,
    current: RwLock<Arc<Opened>>,
    generation: AtomicU64,
    /// Every entry up to this index is in flushed files.
    flushed_index: AtomicU64,
}

/// A position as it is stored.
pub fn encode_position(position: Position) -> [u8; 16] {
    keys::revision(position.revision, position.compacted)
}

/// The inverse of [`encode_position`].
pub fn decode_position(stored: &[u8]) -> Result<Position, Fault> {
    let (revision, compacted) = keys::split_revision(stored)?;
    Ok(Position { revision, compacted })
}

/// Opens a state directory; also what checks a received snapshot.
pub fn open(dir: &Path, cache: &Cache) -> Result<Opened, Fault> {
    let families = FAMILIES.iter().map(|name| ColumnFamilyDescriptor::new(*name, options::state_family(cache)));
    let db = DB::open_cf_descriptors(&options::state(), dir, families)
        .map_err(|error| Fault(format!("cannot open the state in {}: {error}", dir.display())))?;
    counts::prepare(&db)?;
    Ok(Opened { db: Some(db), dir: dir.to_owned(), doomed: AtomicBool::new(false) })
}

/// What one write to the state consists of.
pub struct Batch<'a> {
    /// What the commands did.
    pub changes: &'a Changes,
    /// Where the key space stands after them.
    pub position: Position,
    /// The last applied entry, encoded.
    pub applied: Vec<u8>,
    /// The membership, encoded, when it changed.
    pub membership: Option<Vec<u8>>,
}

impl State {
    /// Opens the state under `root`, or makes an empty one. Leftovers of interrupted snapshots are removed.
    pub fn open(root: &Path) -> Result<Self, Fault> {
        let failed = |error: std::io::Error| Fault(format!("cannot use the data directory {}: {error}", root.display()));
        files::make_dir(root).map_err(failed)?;
        let pointer = root.join(POINTER);
        let name = match files::read(&pointer) {
            Ok(name) => name.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                files::replace_file(&pointer, b"state-0").map_err(failed)?;
                "state-0".to_owned()
            }
            Err(error) => return Err(failed(error)),
        };
        let generation: u64 = name
            .strip_prefix("state-")
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| Fault(format!("{} names no state: {name:?}", pointer.display())))?;
        for file in files::list(root).map_err(failed)? {
            let leftover = file.starts_with("snapshot-")
                || file.starts_with("incoming-")
                || (file.starts_with("state-") && file != name);
            if leftover {
                files::remove_dir(&root.join(file)).map_err(failed)?;
            }
        }
        let cache = Cache::new_lru_cache(options::STATE_CACHE);
        files::make_dir(&root.join(&name)).map_err(failed)?;
        let opened = open(&root.join(&name), &cache)?;
        let inner = Inner {
            root: root.to_owned(),
            cache,
            current: RwLock::new(Arc::new(opened)),
            generation: AtomicU64::new(generation),
            flushed_index: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The directory that holds everything.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The database as it is now; a snapshot may replace it at any time, the old one stays readable while it is held.
    pub fn current(&self) -> Arc<Opened> {
        self.inner.current.read().clone()
    }

    /// Reads one moment of the key space. May touch the disk: not for the runtime's threads, unless it is a key or two.
    pub fn read<T, E: From<Fault>>(&self, read: impl FnOnce(&DiskView<'_>) -> Result<T, E>) -> Result<T, E> {
        let opened = self.current();
        let snapshot = opened.db().snapshot();
        read(&DiskView::at(opened.db(), &snapshot))
    }

    /// A value of [`META`].
    pub fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let opened = self.current();
        Ok(opened.db().get_cf(family(opened.db(), META)?, key)?)
    }

    /// Alarms, users, roles and members' attributes.
    pub fn ledger(&self) -> Result<Ledger, Fault> {
        self.meta(LEDGER)?.map_or_else(|| Ok(Ledger::default()), |stored| Ledger::decode(&stored))
    }

    /// Writes what a batch of entries did, in one atomic step and without a sync.
    pub fn write(&self, batch: Batch<'_>) -> Result<(), Fault> {
        let opened = self.current();
        let db = opened.db();
        let (versions, revisions) = (family(db, KEYS)?, family(db, REVISIONS)?);
        let (leases, attached, meta) = (family(db, LEASES)?, family(db, ATTACHED)?, family(db, META)?);
        let mut write = WriteBatch::default();
        for change in &batch.changes.changes {
            let version = &change.version;
            write.put_cf(versions, keys::version(&change.key, version.main, version.sub), keys::encode_version(version));
            write.put_cf(revisions, keys::revision(version.main, version.sub), &change.key);
        }
        counts::update(&DiskView::newest_of(db), &batch.changes.changes, &mut write)?;
        for (id, lease) in &batch.changes.leases {
            match lease {
                Some(lease) => write.put_cf(leases, id.to_be_bytes(), keys::revision(lease.ttl, lease.remaining)),
                None => write.delete_cf(leases, id.to_be_bytes()),
            }
        }
        for ((lease, key), is_attached) in &batch.changes.attachments {
            let place = keys::attachment(*lease, key);
            if *is_attached {
                write.put_cf(attached, place, b"");
            } else {
                write.delete_cf(attached, place);
            }
        }
        #[cfg(test)]
        if crate::sim::broken(crate::sim::Mutation::SplitApplied) {
            db.write_opt(std::mem::take(&mut write), &unlogged())?;
        }
        write.put_cf(meta, POSITION, encode_position(batch.position));
        write.put_cf(meta, APPLIED, batch.applied);
        if let Some(membership) = batch.membership {
            write.put_cf(meta, MEMBERSHIP, membership);
        }
        if let Some(ledger) = &batch.changes.ledger {
            write.put_cf(meta, LEDGER, ledger.encode());
        }
        Ok(db.write_opt(write, &unlogged())?)
    }

    /// Makes everything durable that was written before the call; `index` is the last entry it holds.
    pub fn flush(&self, index: u64) -> Result<(), Fault> {
        let opened = self.current();
        let db = opened.db();
        let families = FAMILIES.iter().map(|name| family(db, name)).collect::<Result<Vec<_>, _>>()?;
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        db.flush_cfs_opt(&families, &wait)?;
        self.inner.flushed_index.fetch_max(index, Ordering::AcqRel);
        Ok(())
    }

    /// Every entry up to this index is known to be durable in the state.
    pub fn flushed_index(&self) -> u64 {
        self.inner.flushed_index.load(Ordering::Acquire)
    }

    /// Puts a received state in the place of the current one: durable when it returns, atomic in between.
    pub fn replace(&self, received: &Path) -> Result<(), Fault> {
        let failed = |error: std::io::Error| Fault(format!("cannot install a snapshot: {error}"));
        let generation = self.inner.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let name = format!("state-{generation}");
        let dir = self.inner.root.join(&name);
        files::rename(received, &dir).map_err(failed)?;
        files::sync_dir(&self.inner.root).map_err(failed)?;
        let opened = open(&dir, &self.inner.cache)?;
        files::replace_file(&self.inner.root.join(POINTER), name.as_bytes()).map_err(failed)?;
        let old = std::mem::replace(&mut *self.inner.current.write(), Arc::new(opened));
        old.doomed.store(true, Ordering::Release);
        Ok(())
    }

    /// Rewrites everything, so that what was deleted gives its room back at once.
    pub fn squeeze(&self) -> Result<(), Fault> {
        let opened = self.current();
        for name in FAMILIES {
            opened.db().compact_range_cf(family(opened.db(), name)?, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    /// Versions of keys, roughly.
    pub fn keys(&self) -> u64 {
        let opened = self.current();
        let family = opened.db().cf_handle(KEYS);
        let count = family.and_then(|family| opened.db().property_int_value_cf(family, "rocksdb.estimate-num-keys").ok());
        count.flatten().unwrap_or(0)
    }

    /// Bytes on disk, and of those the ones that hold live data, roughly.
    pub fn size(&self) -> (u64, u64) {
        let opened = self.current();
        let sum = |property: &str| -> u64 {
            let sizes = FAMILIES.iter().filter_map(|name| {
                let family = opened.db().cf_handle(name)?;
                opened.db().property_int_value_cf(family, property).ok().flatten()
            });
            sizes.sum()
        };
        let memory = sum("rocksdb.cur-size-all-mem-tables");
        (sum("rocksdb.total-sst-files-size") + memory, sum("rocksdb.estimate-live-data-size") + memory)
    }
}

/// Writes to the state are never logged nor synced: the Raft log is the log.
pub fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}
