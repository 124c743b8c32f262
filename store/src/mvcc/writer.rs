//! The changes of a batch of commands, on top of a view that does not know of them yet.
//!
//! It decides revisions, versions, tombstones and which lease owns a key. It reads its own changes, so that a later
//! command of the same batch sees an earlier one. The disk takes [`Changes`] in one atomic step.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::{Change, KeyRange, LeaseRecord, Position, Version, View, Visit, live};
use crate::error::{Fault, Refusal};
use crate::ledger::Ledger;
use crate::ledger::auth::Tokens;

/// What a batch of commands did.
#[derive(Debug, Default)]
pub struct Changes {
    /// New versions in the order in which they were made.
    pub changes: Vec<Change>,
    /// Leases granted (or, with `None`, revoked).
    pub leases: BTreeMap<i64, Option<LeaseRecord>>,
    /// Which lease owns which key from now on (`true`) or no longer (`false`).
    pub attachments: BTreeMap<(i64, Bytes), bool>,
    /// The ledger, when it changed.
    pub ledger: Option<Arc<Ledger>>,
    /// Tokens that were given out or have ended, in order.
    pub tokens: Vec<Tokens>,
}

/// A view with changes on top.
pub struct Writer<'v, V> {
    base: &'v V,
    position: Position,
    /// Versions made here, by key, oldest first.
    versions: BTreeMap<Bytes, Vec<Version>>,
    changes: Changes,
    ledger: Arc<Ledger>,
    ledger_changed: bool,
    /// Changes made by the command that is being applied.
    sub: i64,
}

impl<'v, V: View> Writer<'v, V> {
    /// Nothing changed yet; an empty ledger.
    pub fn new(base: &'v V, position: Position) -> Self {
        Self::with_ledger(base, position, Arc::default())
    }

    /// Nothing changed yet.
    pub fn with_ledger(base: &'v V, position: Position, ledger: Arc<Ledger>) -> Self {
        Self { base, position, versions: BTreeMap::new(), changes: Changes::default(), ledger, ledger_changed: false, sub: 0 }
    }

    /// The ledger as it is now.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The ledger, to be changed.
    pub fn change_ledger(&mut self) -> &mut Ledger {
        self.ledger_changed = true;
        Arc::make_mut(&mut self.ledger)
    }

    /// Notes what a change means to tokens.
    pub fn note_tokens(&mut self, tokens: Tokens) {
        if tokens != Tokens::Stay {
            self.changes.tokens.push(tokens);
        }
    }

    /// Where the key space stands; inside a command that changed something already, its own revision.
    pub fn position(&self) -> Position {
        let revision = self.position.revision + i64::from(self.sub > 0);
        Position { revision, ..self.position }
    }

    /// Ends a command: what it changed becomes a revision.
    pub fn finish_command(&mut self) {
        self.position = self.position();
        self.sub = 0;
    }

    /// Everything that was changed, and where the key space stands now.
    pub fn into_changes(mut self) -> (Changes, Position) {
        self.changes.ledger = self.ledger_changed.then_some(self.ledger);
        (self.changes, self.position)
    }

    fn record(&mut self, key: Bytes, version: Version, previous: Option<Version>) {
        let (old, new) = (previous.as_ref().map_or(0, |version| version.lease), version.lease);
        if old != new {
            if old != 0 {
                self.changes.attachments.insert((old, key.clone()), false);
            }
            if new != 0 {
                self.changes.attachments.insert((new, key.clone()), true);
            }
        }
        self.versions.entry(key.clone()).or_default().push(version.clone());
        self.changes.changes.push(Change { key, version, previous });
        self.sub += 1;
    }

    /// Writes a key and returns what it was before.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<Option<Version>, Fault> {
        let previous = live(self, &key, i64::MAX)?;
        let main = self.position.revision + 1;
        let (create, version) = previous.as_ref().map_or((main, 1), |old| (old.create, old.version + 1));
        let new = Version { main, sub: self.sub, create, version, lease, value };
        self.record(key, new, previous.clone());
        Ok(previous)
    }

    /// Deletes the keys of a range and returns what they were, ascending.
    pub fn delete(&mut self, range: &KeyRange) -> Result<Vec<(Bytes, Version)>, Fault> {
        let mut found = Vec::new();
        self.scan(range, i64::MAX, false, &mut |key, version| {
            found.push((key, version));
            ControlFlow::Continue(())
        })?;
        let main = self.position.revision + 1;
        for (key, previous) in &found {
            let tombstone = Version { main, sub: self.sub, create: 0, version: 0, lease: 0, value: Bytes::new() };
            self.record(key.clone(), tombstone, Some(previous.clone()));
        }
        Ok(found)
    }

    /// Grants a lease with `ttl` seconds.
    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<(), Refusal> {
        if self.lease(id)?.is_some() {
            return Err(Refusal::LeaseExists);
        }
        self.changes.leases.insert(id, Some(LeaseRecord { ttl, remaining: 0 }));
        Ok(())
    }

    /// Notes how much time is left to a lease, seconds; 0 for all of it. A lease that is gone is none of its business.
    pub fn checkpoint(&mut self, id: i64, remaining: i64) -> Result<(), Fault> {
        if let Some(lease) = self.lease(id)? {
            self.changes.leases.insert(id, Some(LeaseRecord { remaining, ..lease }));
        }
        Ok(())
    }

    /// Revokes a lease and deletes its keys, all in one revision.
    pub fn revoke(&mut self, id: i64) -> Result<(), Refusal> {
        if self.lease(id)?.is_none() {
            return Err(Refusal::LeaseNotFound);
        }
        for key in self.lease_keys(id)? {
            self.delete(&KeyRange { start: key, end: super::End::Single })?;
        }
        self.changes.leases.insert(id, None);
        Ok(())
    }

    /// Gives up what is older than `revision`.
    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.position.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.position.revision {
            return Err(Refusal::FutureRevision);
        }
        self.position.compacted = revision;
        Ok(())
    }
}

impl<V: View> View for Writer<'_, V> {
    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>, Fault> {
        let own = self.versions.get(key).and_then(|versions| versions.iter().rev().find(|version| version.main <= at));
        match own {
            Some(version) => Ok(Some(version.clone())),
            None => self.base.newest(key, at),
        }
    }

    fn scan(&self, range: &KeyRange, at: i64, keys_only: bool, visit: Visit<'_>) -> Result<(), Fault> {
        let own = self.versions.range::<[u8], _>((std::ops::Bound::Included(range.start.as_ref()), std::ops::Bound::Unbounded));
        let mut own = own
            .take_while(|(key, _)| range.contains(key))
            .filter_map(|(key, versions)| Some((key, versions.iter().rev().find(|version| version.main <= at)?)))
            .peekable();
        let mut flow = ControlFlow::Continue(());
        self.base.scan(range, at, keys_only, &mut |key, version| {
            while let Some((own_key, own_version)) = own.next_if(|(own_key, _)| **own_key < key) {
                flow = show(own_key, own_version, visit);
                if flow.is_break() {
                    return flow;
                }
            }
            flow = match own.next_if(|(own_key, _)| **own_key == key) {
                Some((own_key, own_version)) => show(own_key, own_version, visit),
                None => visit(key, version),
            };
            flow
        })?;
        while let (ControlFlow::Continue(()), Some((key, version))) = (flow, own.next()) {
            flow = show(key, version, visit);
        }
        Ok(())
    }

    fn count(&self, range: &KeyRange, at: i64) -> Result<i64, Fault> {
        let mut count = self.base.count(range, at)?;
        for (_, versions) in self.versions.range(range.start.clone()..).take_while(|(key, _)| range.contains(key)) {
            let newest = versions.iter().rev().find(|version| version.main <= at);
            if let (Some(oldest), Some(newest)) = (versions.first(), newest) {
                // A key that was there before has its second version here at the earliest, or is deleted.
                let before = oldest.version != 1;
                count += i64::from(!newest.is_tombstone()) - i64::from(before);
            }
        }
        Ok(count)
    }

    fn lease(&self, id: i64) -> Result<Option<LeaseRecord>, Fault> {
        match self.changes.leases.get(&id) {
            Some(lease) => Ok(*lease),
            None => self.base.lease(id),
        }
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, Fault> {
        let mut keys: std::collections::BTreeSet<Bytes> = self.base.lease_keys(id)?.into_iter().collect();
        for ((lease, key), attached) in self.changes.attachments.range((id, Bytes::new())..) {
            match (*lease == id, attached) {
                (false, _) => break,
                (true, true) => keys.insert(key.clone()),
                (true, false) => keys.remove(key),
            };
        }
        Ok(keys.into_iter().collect())
    }
}

fn show(key: &Bytes, version: &Version, visit: Visit<'_>) -> ControlFlow<()> {
    if version.is_tombstone() { ControlFlow::Continue(()) } else { visit(key.clone(), version.clone()) }
}
