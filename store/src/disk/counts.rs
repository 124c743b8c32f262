//! How many keys live in a range, without walking it.
//!
//! Keys are grouped into buckets, buckets into larger ones, and so on up to [`LEVELS`]. Where a bucket ends is decided
//! by the keys themselves: one key in 64 ends a bucket of level 1, one of 64 of those also a bucket of level 2. So
//! nothing has to be balanced, and the same keys always lie in the same buckets. Each bucket's count of live keys lies
//! in a column family of its own, written in the same step as the keys, so that a snapshot of the database has both of
//! one moment. A count walks the keys up to the end of the first bucket, climbs, descends, and walks the rest: some
//! hundred steps whatever the range holds, and one bucket end in memory-sized blocks per 64 keys on disk.
//!
//! Only what lives now is counted here; a count at an older revision is corrected by what has changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::engine::{DB, DBRawIterator, WriteBatch};
use super::state::{META, unlogged};
use super::view::{DiskView, family};
use crate::error::Fault;
use crate::mvcc::{self, Change, End, KeyRange, View as _, live};

/// Bucket level, bucket end → live keys in the bucket.
pub const COUNTS: &str = "counts";
/// In [`META`]: that [`COUNTS`] is there; absent in a state that was written before it existed.
const COUNTED: &[u8] = b"counted";

/// Buckets of the largest level hold a quarter of a million keys each.
const LEVELS: u8 = 3;
/// One in two to this power.
const FAN_OUT_BITS: u32 = 6;
/// Changes that a count at an older revision is corrected by; with more of them the range is walked.
const CORRECTIONS: usize = 1000;
/// Buckets that are written at one time when all are counted anew.
const REBUILD_STEP: usize = 10_000;

/// Of how many levels this key ends a bucket.
pub fn level(key: &[u8]) -> u8 {
    // FNV-1a, then a finalizer that spreads it to the low bits.
    let mut hash = key.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    u8::try_from(hash.trailing_zeros() / FAN_OUT_BITS).map_or(LEVELS, |level| level.min(LEVELS))
}

/// Where the bucket of a level lies that ends with `key`; without one, the level's last bucket.
fn place(level: u8, key: Option<&[u8]>) -> Vec<u8> {
    match key {
        Some(key) => [&[2 * level], key].concat(),
        None => vec![2 * level + 1],
    }
}

/// The smallest key after `key`.
fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// A bucket: the key that ends it (none: it is the last) and how many live keys it holds.
type Bucket = (Option<Bytes>, i64);

/// Steps through the buckets that are on disk.
struct Stored<'a>(DBRawIterator<'a>);

impl Stored<'_> {
    /// Goes to the first bucket of `level` that ends at `key` or later.
    fn seek(&mut self, level: u8, key: &[u8]) {
        self.0.seek(place(level, Some(key)));
    }

    /// The bucket that was gone to; a last bucket without keys need not be on disk.
    fn bucket(&self, level: u8) -> Result<Bucket, Fault> {
        let broken = || Fault("the state holds a malformed count".to_owned());
        let (Some(place), Some(stored)) = (self.0.key(), self.0.value()) else {
            self.0.status()?;
            return Ok((None, 0));
        };
        let count = || stored.try_into().map(i64::from_be_bytes).map_err(|_| broken());
        match place.split_first() {
            Some((mark, key)) if *mark == 2 * level => Ok((Some(Bytes::copy_from_slice(key)), count()?)),
            Some((mark, [])) if *mark == 2 * level + 1 => Ok((None, count()?)),
            Some(_) => Ok((None, 0)),
            None => Err(broken()),
        }
    }
}

/// How many keys of `range` live at revision `at`.
pub fn count(view: &DiskView<'_>, range: &KeyRange, at: i64) -> Result<i64, Fault> {
    if range.end == End::Single {
        return Ok(i64::from(live(view, &range.start, at)?.is_some()));
    }
    let revision = view.position()?.revision;
    if at >= revision {
        return count_now(view, range);
    }
    let mut changed = BTreeSet::new();
    view.changes(at + 1, revision, false, |key| range.contains(key), |change| {
        changed.insert(change.key);
        if changed.len() > CORRECTIONS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if changed.len() > CORRECTIONS {
        return mvcc::walk(view, range, at);
    }
    let mut count = count_now(view, range)?;
    for key in changed {
        let lived = |at| live(view, &key, at).map(|version| i64::from(version.is_some()));
        count += lived(at)? - lived(revision)?;
    }
    Ok(count)
}

fn count_now(view: &DiskView<'_>, range: &KeyRange) -> Result<i64, Fault> {
    let (mut count, mut after) = (0, None);
    view.scan(range, i64::MAX, true, &mut |key, _| {
        count += 1;
        if level(&key) == 0 {
            return ControlFlow::Continue(());
        }
        after = Some(key);
        ControlFlow::Break(())
    })?;
    let Some(mut after) = after else { return Ok(count) };
    let mut stored = Stored(view.all(COUNTS)?);
    let mut at = 1;
    stored.seek(at, &successor(&after));
    // Up: whoever ends a larger bucket too is a way to its level.
    loop {
        match stored.bucket(at)? {
            (Some(end), keys) if range.contains(&end) => {
                count += keys;
                let climb = level(&end) > at;
                after = end;
                if climb {
                    at += 1;
                    stored.seek(at, &successor(&after));
                } else {
                    stored.0.next();
                }
            }
            (None, keys) if range.end == End::Unbounded => return Ok(count + keys),
            _ => break,
        }
    }
    // Down: smaller and smaller buckets, as long as they end within the range.
    for at in (1..at).rev() {
        stored.seek(at, &successor(&after));
        while let (Some(end), keys) = stored.bucket(at)?
            && range.contains(&end)
        {
            count += keys;
            after = end;
            stored.0.next();
        }
    }
    Ok(count + mvcc::walk(view, &KeyRange { start: successor(&after), end: range.end.clone() }, i64::MAX)?)
}

/// What a batch of changes does to the buckets.
struct Update<'a> {
    view: &'a DiskView<'a>,
    stored: Stored<'a>,
    /// Keys that came into being (1) or are gone (-1).
    born: BTreeMap<Bytes, i64>,
    /// Counts that are no longer as on disk; `None`: no such bucket any more.
    fresh: BTreeMap<Vec<u8>, Option<i64>>,
}

/// Writes into `batch` what `changes` do to the counts, on top of what `view` still is.
pub fn update(view: &DiskView<'_>, changes: &[Change], batch: &mut WriteBatch) -> Result<(), Fault> {
    let mut lives: BTreeMap<Bytes, (bool, bool)> = BTreeMap::new();
    for change in changes {
        let now = !change.version.is_tombstone();
        let lives = lives.entry(change.key.clone()).or_insert((change.previous.is_some(), now));
        lives.1 = now;
    }
    let born = lives.into_iter().filter(|(_, (before, now))| before != now);
    let born: BTreeMap<Bytes, i64> = born.map(|(key, (_, now))| (key, if now { 1 } else { -1 })).collect();
    if born.is_empty() {
        return Ok(());
    }
    let mut update = Update { view, stored: Stored(view.all(COUNTS)?), born, fresh: BTreeMap::new() };
    for level in 1..=LEVELS {
        update.add(level)?;
        update.divide(level)?;
    }
    let counts = family(view.db(), COUNTS)?;
    for (place, count) in update.fresh {
        match count {
            None | Some(0) => batch.delete_cf(counts, place),
            Some(count) => batch.put_cf(counts, place, count.to_be_bytes()),
        }
    }
    Ok(())
}

impl Update<'_> {
    /// The first bucket of a level that ends at `key` or later, as it is after what was done so far.
    fn bucket(&mut self, level: u8, key: &[u8]) -> Result<Bucket, Fault> {
        let from = place(level, Some(key));
        let end = place(level, None);
        let mut fresh = self.fresh.range(from..=end).filter_map(|(place, count)| Some((place, (*count)?)));
        let fresh = fresh.next();
        self.stored.seek(level, key);
        let mut stored = self.stored.bucket(level)?;
        while let Some(key) = &stored.0
            && self.fresh.contains_key(&place(level, Some(key)))
        {
            self.stored.0.next();
            stored = self.stored.bucket(level)?;
        }
        let Some((fresh_place, count)) = fresh else {
            // The last bucket may be among the fresh ones as gone; it never is: it has no key that could go.
            return Ok(stored);
        };
        if *fresh_place <= place(level, stored.0.as_deref()) {
            let key = (*fresh_place != place(level, None)).then(|| Bytes::copy_from_slice(&fresh_place[1..]));
            return Ok((key, count));
        }
        Ok(stored)
    }

    /// Counts the keys that came and went in the buckets that there are.
    fn add(&mut self, level: u8) -> Result<(), Fault> {
        let born: Vec<(Bytes, i64)> = self.born.iter().map(|(key, change)| (key.clone(), *change)).collect();
        let mut current: Option<Bucket> = None;
        for (key, change) in born {
            let same = current.as_ref().is_some_and(|(end, _)| end.as_ref().is_none_or(|end| key <= *end));
            if !same {
                current = Some(self.bucket(level, &key)?);
            }
            if let Some((end, count)) = &mut current {
                *count += change;
                self.fresh.insert(place(level, end.as_deref()), Some(*count));
            }
        }
        Ok(())
    }

    /// Divides the buckets in which a key now lives that ends one, and joins those whose end is gone. From the last
    /// key to the first, so that what is behind a new end is looked through once.
    fn divide(&mut self, level: u8) -> Result<(), Fault> {
        let ends = self.born.iter().rev().filter(|(key, _)| self::level(key) >= level);
        let ends: Vec<(Bytes, i64)> = ends.map(|(key, change)| (key.clone(), *change)).collect();
        for (key, change) in ends {
            let here = place(level, Some(&key));
            let (next, count) = self.bucket(level, &successor(&key))?;
            let there = place(level, next.as_deref());
            if change > 0 {
                let behind = self.between(level, &key, next.as_deref())?;
                self.fresh.insert(here, Some(count - behind));
                self.fresh.insert(there, Some(behind));
            } else {
                let (_, gone) = self.bucket(level, &key)?;
                self.fresh.insert(here, None);
                self.fresh.insert(there, Some(count + gone));
            }
        }
        Ok(())
    }

    /// Live keys after `key` up to `end`, itself included, from the level below.
    fn between(&mut self, level: u8, key: &[u8], end: Option<&[u8]>) -> Result<i64, Fault> {
        let (start, end) = (successor(key), end.map(successor));
        if level == 1 {
            let range = match end {
                Some(end) => KeyRange { start, end: End::Before(end) },
                None => KeyRange { start, end: End::Unbounded },
            };
            let born = self.born.range(range.start.clone()..).take_while(|(key, _)| range.contains(key));
            let born: i64 = born.map(|(_, change)| change).sum();
            return Ok(born + mvcc::walk(self.view, &range, i64::MAX)?);
        }
        let (mut sum, mut from) = (0, start);
        loop {
            let (bucket, count) = self.bucket(level - 1, &from)?;
            match (bucket, &end) {
                (Some(bucket), end) if end.as_ref().is_none_or(|end| bucket < *end) => {
                    sum += count;
                    from = successor(&bucket);
                }
                (None, None) => return Ok(sum + count),
                _ => return Ok(sum),
            }
        }
    }
}

/// Calls `visit` with every bucket that there should be, by walking all keys.
pub fn expected(view: &DiskView<'_>, mut visit: impl FnMut(Vec<u8>, i64) -> Result<(), Fault>) -> Result<(), Fault> {
    let mut counts = [0i64; LEVELS as usize];
    let mut failed = Ok(());
    let all = KeyRange { start: Bytes::new(), end: End::Unbounded };
    view.scan(&all, i64::MAX, true, &mut |key, _| {
        let ends = level(&key);
        for (level, count) in (1u8..).zip(counts.iter_mut()) {
            *count += 1;
            if ends >= level {
                failed = visit(place(level, Some(&key)), std::mem::take(count));
                if failed.is_err() {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    failed?;
    for (level, count) in (1u8..).zip(counts).filter(|(_, count)| *count > 0) {
        visit(place(level, None), count)?;
    }
    Ok(())
}

/// Checks every count; an error says the first that is wrong.
pub fn check(view: &DiskView<'_>) -> Result<(), Fault> {
    let mut buckets = 0u64;
    expected(view, |place, count| {
        buckets += 1;
        let stored = view.get(COUNTS, &place)?;
        if stored.as_deref() == Some(&count.to_be_bytes()[..]) {
            return Ok(());
        }
        Err(Fault(format!("the bucket {:?} holds {count} keys and is said to hold {:?}", Bytes::from(place), stored.as_deref())))
    })?;
    let mut stored = view.all(COUNTS)?;
    stored.seek_to_first();
    while stored.valid() {
        buckets = buckets.wrapping_sub(1);
        stored.next();
    }
    stored.status()?;
    if buckets == 0 { Ok(()) } else { Err(Fault("there are counts of keys that end no bucket".to_owned())) }
}

/// Counts everything if that was never done: a state of an earlier version.
pub fn prepare(db: &DB) -> Result<(), Fault> {
    let (counts, meta) = (family(db, COUNTS)?, family(db, META)?);
    if db.get_cf(meta, COUNTED)?.is_some() {
        return Ok(());
    }
    let view = DiskView::newest_of(db);
    let mut batch = WriteBatch::default();
    batch.delete_range_cf(counts, place(1, Some(&[])), place(LEVELS + 1, None));
    expected(&view, |place, count| {
        batch.put_cf(counts, place, count.to_be_bytes());
        if batch.len() >= REBUILD_STEP {
            db.write_opt(std::mem::take(&mut batch), &unlogged())?;
        }
        Ok(())
    })?;
    // Last: a crash before it counts again.
    batch.put_cf(meta, COUNTED, [1]);
    Ok(db.write_opt(batch, &unlogged())?)
}
