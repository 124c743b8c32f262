//! What really happened: the changes of every revision as the first replica applied them, and whether all others agree.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::history::Seen;
use super::history::etcd::text;
use super::world;
use crate::disk::state::{LEDGER, MEMBERSHIP, State};
use crate::error::Fault;
use crate::ledger::Ledger;
use crate::mvcc::writer::Changes;
use crate::mvcc::{Change, End, KeyRange, Position, View as _};
use crate::raft::state_machine::Observer;
use crate::replica::Applied;

/// A key and what it became; nothing when it was deleted.
pub type Became = (String, Option<Seen>);

/// See the module.
#[derive(Default)]
pub struct Truth {
    /// Every revision's changes, in order.
    pub revisions: BTreeMap<i64, Vec<Became>>,
    /// Applied index → hash of the state there, and who was there first.
    hashes: BTreeMap<u64, (u64, usize)>,
    /// When each lease was first seen to be gone, milliseconds.
    pub revoked: BTreeMap<i64, u64>,
    /// The highest compaction.
    pub compacted: i64,
    /// Who led each term.
    pub leaders: BTreeMap<u64, u64>,
}

impl Truth {
    /// The last revision.
    pub fn revision(&self) -> i64 {
        self.revisions.last_key_value().map_or(1, |(revision, _)| *revision)
    }

    fn learn(&mut self, number: usize, changes: &Changes, now: u64) -> Result<(), String> {
        let mut by_revision: BTreeMap<i64, Vec<Became>> = BTreeMap::new();
        for change in &changes.changes {
            by_revision.entry(change.version.main).or_default().push(became(change));
        }
        for (revision, changes) in by_revision {
            match self.revisions.get(&revision) {
                Some(known) if *known != changes => {
                    return Err(format!("store{} applied at revision {revision} {changes:?}, another {known:?}", number + 1));
                }
                Some(_) => {}
                None if revision != self.revision() + 1 => {
                    return Err(format!("store{} applied revision {revision} after {}", number + 1, self.revision()));
                }
                None => {
                    self.revisions.insert(revision, changes);
                }
            }
        }
        for (lease, _) in changes.leases.iter().filter(|(_, record)| record.is_none()) {
            self.revoked.entry(*lease).or_insert(now);
        }
        Ok(())
    }
}

fn became(change: &Change) -> Became {
    let version = &change.version;
    let seen = (!version.is_tombstone()).then(|| Seen {
        value: text(&version.value),
        create: version.create,
        modified: version.main,
        version: version.version,
        lease: version.lease,
    });
    (text(&change.key), seen)
}

/// Everything that a replica can show of its newest revision, and who the members are.
fn hash(state: &State) -> Result<u64, Fault> {
    let (members, ledger) = (state.meta(MEMBERSHIP)?, state.meta(LEDGER)?);
    state.read(|view| {
        crate::disk::counts::check(view)?;
        let position = view.position()?;
        let mut hasher = DefaultHasher::new();
        (members, ledger).hash(&mut hasher);
        (position.revision, position.compacted).hash(&mut hasher);
        let all = KeyRange { start: Bytes::new(), end: End::Unbounded };
        view.scan(&all, position.revision, false, &mut |key, version| {
            (key, version.main, version.sub, version.create, version.version, version.lease, version.value).hash(&mut hasher);
            ControlFlow::Continue(())
        })?;
        for (id, lease) in view.leases()? {
            (id, lease.ttl, lease.remaining, view.lease_keys(id)?).hash(&mut hasher);
        }
        Ok(hasher.finish())
    })
}

/// Between a state machine and those who follow it.
pub struct Recorder {
    pub inner: Arc<Applied>,
    pub state: State,
    pub number: usize,
}

impl Recorder {
    fn compare(&self, index: u64) {
        let hash = match hash(&self.state) {
            Ok(hash) => hash,
            Err(fault) => return world::halt(format!("store{} cannot read its state: {fault}", self.number + 1)),
        };
        let first = world::with(|world| *world.truth.hashes.entry(index).or_insert((hash, self.number)));
        if let Some((known, other)) = first
            && known != hash
        {
            world::violation(format!("store{} and store{} differ at applied index {index}", self.number + 1, other + 1));
        }
    }
}

impl Observer for Recorder {
    fn written(&self, took: Duration) {
        self.inner.written(took);
    }

    fn applied(&self, changes: &mut Changes, position: Position, index: u64) {
        world::note(format_args!("store{} applied {index}, revision {}", self.number + 1, position.revision));
        let now = world::now();
        let learned = world::with(|world| {
            world.truth.compacted = world.truth.compacted.max(position.compacted);
            world.truth.learn(self.number, changes, now)
        });
        if let Some(Err(text)) = learned {
            world::violation(text);
        }
        if index.is_multiple_of(8) {
            self.compare(index);
        }
        self.inner.applied(changes, position, index);
    }

    fn replaced(&self, position: Position, index: u64, ledger: &Arc<Ledger>) {
        world::note(format_args!("store{} is at {index}, revision {}", self.number + 1, position.revision));
        if index > 0 {
            self.compare(index);
        }
        self.inner.replaced(position, index, ledger);
    }
}
