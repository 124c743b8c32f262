//! A key space in memory, as naive as can be: what the tests compare everything else with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::writer::Changes;
use super::{KeyRange, LeaseRecord, Version, View, Visit};
use crate::error::Fault;

/// Every version of every key, oldest first.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    keys: BTreeMap<Bytes, Vec<Version>>,
    leases: BTreeMap<i64, LeaseRecord>,
    attached: BTreeSet<(i64, Bytes)>,
}

impl Memory {
    /// Takes in what a batch of commands did.
    pub fn write(&mut self, changes: Changes) {
        for change in changes.changes {
            self.keys.entry(change.key).or_default().push(change.version);
        }
        for (id, lease) in changes.leases {
            match lease {
                Some(lease) => self.leases.insert(id, lease),
                None => self.leases.remove(&id),
            };
        }
        for (attachment, attached) in changes.attachments {
            if attached {
                self.attached.insert(attachment);
            } else {
                self.attached.remove(&attachment);
            }
        }
    }
}

impl View for Memory {
    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>, Fault> {
        let versions = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        Ok(versions.iter().rev().find(|version| version.main <= at).cloned())
    }

    fn scan(&self, range: &KeyRange, at: i64, _keys_only: bool, visit: Visit<'_>) -> Result<(), Fault> {
        for key in self.keys.keys().filter(|key| range.contains(key)) {
            if let Some(version) = super::live(self, key, at)?
                && visit(key.clone(), version).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn count(&self, range: &KeyRange, at: i64) -> Result<i64, Fault> {
        super::walk(self, range, at)
    }

    fn lease(&self, id: i64) -> Result<Option<LeaseRecord>, Fault> {
        Ok(self.leases.get(&id).copied())
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, Fault> {
        Ok(self.attached.iter().filter(|(lease, _)| *lease == id).map(|(_, key)| key.clone()).collect())
    }
}
