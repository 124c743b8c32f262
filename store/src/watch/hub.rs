//! The ring of recent changes, and who is interested in which keys.
//!
//! A stream is woken only by changes that match one of its watchers; the first unread one is noted in its [`Signal`],
//! so that a stream which sleeps for a million uninteresting revisions still finds its place in the ring.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::mvcc::{Change, End, KeyRange, Position};
use crate::rt::watch;

/// Bounds of the ring.
const RING_CHANGES: usize = 20_000;
const RING_BYTES: usize = 64 << 20;

/// How a stream hears that there is something for it.
#[derive(Debug, Default)]
pub struct Signal {
    /// The first matching revision that the stream has not taken; 0 for none.
    pending_from: AtomicI64,
    notify: Notify,
}

impl Signal {
    fn mark(&self, revision: i64) {
        if self.pending_from.compare_exchange(0, revision, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.notify.notify_one();
        }
    }

    /// Waits until something is pending.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }
}

/// How far this replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last applied log index.
    pub index: u64,
    /// The key space's position after it.
    pub position: Position,
}

/// What a stream takes from the ring.
#[derive(Debug)]
pub enum Taken {
    /// All matching changes since the last time are among these (older and uninteresting ones too).
    Changes(Vec<Arc<Vec<Change>>>),
    /// The ring no longer reaches back to this revision: read from disk, from there on.
    Lost(i64),
    /// Nothing of interest happened.
    Nothing,
}

/// The hub of one replica.
pub struct Hub {
    inner: Mutex<Inner>,
    applied: watch::Sender<Applied>,
}

#[derive(Default)]
struct Inner {
    ring: VecDeque<Arc<Vec<Change>>>,
    changes: usize,
    bytes: usize,
    /// The ring holds every change from this revision on.
    complete_from: i64,
    position: Position,
    exact: HashMap<Bytes, Vec<(u64, Arc<Signal>)>>,
    ranges: BTreeMap<u64, (KeyRange, Arc<Signal>)>,
    next_registration: u64,
}

impl Inner {
    fn wake(&self, change: &Change) {
        let revision = change.version.main;
        if let Some(streams) = self.exact.get(&change.key) {
            streams.iter().for_each(|(_, signal)| signal.mark(revision));
        }
        for (range, signal) in self.ranges.values() {
            if range.contains(&change.key) {
                signal.mark(revision);
            }
        }
    }

    fn push(&mut self, changes: Vec<Change>) {
        self.changes += changes.len();
        self.bytes += changes.iter().map(Change::weight).sum::<usize>();
        self.ring.push_back(Arc::new(changes));
        while self.changes > RING_CHANGES || self.bytes > RING_BYTES {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.changes -= oldest.len();
            self.bytes -= oldest.iter().map(Change::weight).sum::<usize>();
            if let Some(last) = oldest.last() {
                self.complete_from = last.version.main + 1;
            }
        }
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self { inner: Mutex::default(), applied: watch::Sender::new(Applied::default()) }
    }
}

impl Hub {
    /// Takes in what was just applied. The state on disk already has it.
    pub fn publish(&self, changes: Vec<Change>, position: Position, index: u64) {
        #[cfg(test)]
        let changes = forgotten(changes);
        let mut inner = self.inner.lock();
        inner.position = position;
        if !changes.is_empty() {
            changes.iter().for_each(|change| inner.wake(change));
            inner.push(changes);
        }
        drop(inner);
        self.applied.send_replace(Applied { index, position });
    }

    /// The whole state was replaced (or just opened): what happened in between is only on disk.
    pub fn replaced(&self, position: Position, index: u64) {
        let mut inner = self.inner.lock();
        let unseen = inner.position.revision + 1;
        inner.ring.clear();
        (inner.changes, inner.bytes) = (0, 0);
        inner.complete_from = position.revision + 1;
        inner.position = position;
        #[cfg(test)]
        if crate::sim::broken(crate::sim::Mutation::SilentSnapshot) {
            drop(inner);
            self.applied.send_replace(Applied { index, position });
            return;
        }
        // In the order of their registrations, not of the map.
        let mut signals: Vec<_> = inner.exact.values().flatten().map(|(id, signal)| (*id, signal)).collect();
        signals.extend(inner.ranges.iter().map(|(id, (_, signal))| (*id, signal)));
        signals.sort_by_key(|(id, _)| *id);
        signals.iter().for_each(|(_, signal)| signal.mark(unseen));
        drop(inner);
        self.applied.send_replace(Applied { index, position });
    }

    /// Follows what is applied.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Where the key space stands.
    pub fn position(&self) -> Position {
        self.inner.lock().position
    }

    /// Wakes `signal` for changes of `range` from now on; "now" is the position that comes back.
    pub fn register(&self, range: &KeyRange, signal: &Arc<Signal>) -> (u64, Position) {
        let mut inner = self.inner.lock();
        inner.next_registration += 1;
        let id = inner.next_registration;
        if range.end == End::Single {
            inner.exact.entry(range.start.clone()).or_default().push((id, signal.clone()));
        } else {
            inner.ranges.insert(id, (range.clone(), signal.clone()));
        }
        (id, inner.position)
    }

    /// Undoes a registration.
    pub fn unregister(&self, range: &KeyRange, id: u64) {
        let mut inner = self.inner.lock();
        if range.end == End::Single {
            if let Some(streams) = inner.exact.get_mut(&range.start) {
                streams.retain(|(registered, _)| *registered != id);
                if streams.is_empty() {
                    inner.exact.remove(&range.start);
                }
            }
        } else {
            inner.ranges.remove(&id);
        }
    }

    /// What is pending for `signal`, and the position up to which that is everything.
    pub fn take(&self, signal: &Signal) -> (Taken, Position) {
        let inner = self.inner.lock();
        let from = signal.pending_from.swap(0, Ordering::AcqRel);
        let taken = if from == 0 {
            Taken::Nothing
        } else if from < inner.complete_from {
            Taken::Lost(from)
        } else {
            // Batches are in order: skip those that end before.
            let skip = inner.ring.partition_point(|batch| batch.last().is_some_and(|last| last.version.main < from));
            Taken::Changes(inner.ring.iter().skip(skip).cloned().collect())
        };
        (taken, inner.position)
    }

    /// Whether something is pending for `signal`; if not, everything up to the position was taken.
    pub fn is_pending(&self, signal: &Signal) -> (bool, Position) {
        let inner = self.inner.lock();
        (signal.pending_from.load(Ordering::Acquire) != 0, inner.position)
    }

    /// Watchers of all streams.
    pub fn watchers(&self) -> usize {
        let inner = self.inner.lock();
        inner.ranges.len() + inner.exact.values().map(Vec::len).sum::<usize>()
    }
}

/// What a store that is broken on purpose tells its watchers.
#[cfg(test)]
fn forgotten(mut changes: Vec<Change>) -> Vec<Change> {
    if crate::sim::broken(crate::sim::Mutation::DropWatchEvent) && crate::sim::world::chance(30) {
        changes.pop();
    }
    changes
}
