//! What replicas that hold the same are told apart by: CRC-32 over every version that compaction has left, in an order
//! and a form that does not depend on how far the clean-up behind a compaction has come on this disk.

use bytes::Bytes;
use super::engine::DBRawIterator;

use super::keys;
use super::state::{ATTACHED, KEYS, LEASES, LEDGER, META};
use super::view::DiskView;
use crate::error::{Fault, Refusal};
use crate::mvcc::{Position, Version, range};

/// A hash, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// CRC-32.
    pub hash: u32,
    /// The revision up to which versions were hashed.
    pub revision: i64,
    /// Where the key space stood.
    pub position: Position,
}

/// The versions of one key that are left, newest first: decides one after the other.
#[derive(Debug, Default)]
struct Left {
    /// The newest version at or below the compaction was seen.
    bottom: bool,
}

impl Left {
    /// Whether this version, which is older than those before it, is left: all above the compaction, and of those
    /// below it the newest, unless that is a tombstone which no watcher can ask for any more.
    fn keeps(&mut self, version: &Version, compacted: i64) -> bool {
        if version.main > compacted {
            return true;
        }
        let newest = !std::mem::replace(&mut self.bottom, true);
        newest && (!version.is_tombstone() || version.main == compacted)
    }
}

/// Calls `visit` with every version up to `upto` that compaction has left: keys ascending, newest first.
pub fn versions(
    view: &DiskView<'_>,
    upto: i64,
    compacted: i64,
    mut visit: impl FnMut(&Bytes, &Version) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut iterator = view.all(KEYS)?;
    iterator.seek_to_first();
    let (mut prefix, mut key, mut left) = (Vec::new(), Bytes::new(), Left::default());
    while let (Some(encoded), Some(stored)) = (iterator.key(), iterator.value()) {
        let (front, main, sub) = keys::split(encoded)?;
        if front != prefix.as_slice() {
            prefix = front.to_vec();
            key = keys::user_key(front)?;
            left = Left::default();
        }
        let version = keys::decode_version(main, sub, stored, false)?;
        // What came after `upto` is as if it had not happened.
        if main <= upto && left.keeps(&version, compacted) {
            visit(&key, &version)?;
        }
        iterator.next();
    }
    Ok(iterator.status()?)
}

fn add(hasher: &mut crc32fast::Hasher, key: &[u8], version: &Version) {
    for part in [key, version.value.as_ref()] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    for number in [version.main, version.sub, version.create, version.version, version.lease] {
        hasher.update(&number.to_be_bytes());
    }
}

fn hashed(view: &DiskView<'_>, asked: i64) -> Result<(crc32fast::Hasher, i64, Position), Refusal> {
    let position = view.position()?;
    let revision = range::revision(asked, position)?;
    let mut hasher = crc32fast::Hasher::new();
    versions(view, revision, position.compacted, |key, version| {
        add(&mut hasher, key, version);
        Ok(())
    })?;
    Ok((hasher, revision, position))
}

/// Of the keys' history up to a revision (0: the newest); equal on all replicas that stand at the same compaction.
pub fn history(view: &DiskView<'_>, asked: i64) -> Result<Hashed, Refusal> {
    let (hasher, revision, position) = hashed(view, asked)?;
    Ok(Hashed { hash: hasher.finalize(), revision, position })
}

/// Of that and everything else; equal on all replicas that applied the same entries.
pub fn everything(view: &DiskView<'_>) -> Result<Hashed, Refusal> {
    let (mut hasher, revision, position) = hashed(view, 0)?;
    let mut family = |mut iterator: DBRawIterator<'_>| -> Result<(), Fault> {
        iterator.seek_to_first();
        while let (Some(key), Some(value)) = (iterator.key(), iterator.value()) {
            hasher.update(key);
            hasher.update(value);
            iterator.next();
        }
        Ok(iterator.status()?)
    };
    family(view.all(LEASES)?)?;
    family(view.all(ATTACHED)?)?;
    if let Some(ledger) = view.get(META, LEDGER)? {
        hasher.update(&ledger);
    }
    Ok(Hashed { hash: hasher.finalize(), revision, position })
}
