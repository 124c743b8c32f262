//! etcd's key space as simple as it can be said: one call at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Call, Compare, Op, Outcome, Seen};

/// Everything that a call can see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub revision: i64,
    pub keys: BTreeMap<String, Seen>,
    pub leases: BTreeSet<i64>,
}

impl Default for State {
    fn default() -> Self {
        Self { revision: 1, keys: BTreeMap::new(), leases: BTreeSet::new() }
    }
}

impl State {
    /// Does a call and says what it answers.
    pub fn step(&mut self, call: &Call) -> Outcome {
        let before = self.revision;
        let done = |state: &Self| Outcome::Done { revision: state.revision, succeeded: true, answers: Vec::new() };
        match call {
            Call::Grant(lease) => {
                if self.leases.insert(*lease) { done(self) } else { Outcome::Refused }
            }
            Call::Revoke(lease) | Call::Expire(lease) => {
                if !self.leases.remove(lease) {
                    return Outcome::Refused;
                }
                let count = self.keys.len();
                self.keys.retain(|_, seen| seen.lease != *lease);
                self.revision = before + i64::from(self.keys.len() < count);
                done(self)
            }
            Call::Txn { compare, then, otherwise } => {
                let succeeded = compare.iter().all(|compare| self.holds(compare));
                let ops = if succeeded { then } else { otherwise };
                let missing = |op: &Op| matches!(op, Op::Put { lease, .. } if *lease != 0 && !self.leases.contains(lease));
                if ops.iter().any(missing) {
                    return Outcome::Refused;
                }
                let answers = ops.iter().map(|op| self.op(op, before + 1)).collect();
                Outcome::Done { revision: self.revision, succeeded, answers }
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Modified(key, revision) => self.keys.get(key).map_or(0, |seen| seen.modified) == *revision,
            Compare::Value(key, value) => self.keys.get(key).is_some_and(|seen| seen.value == *value),
        }
    }

    fn op(&mut self, op: &Op, next: i64) -> Answer {
        match op {
            Op::Put { key, value, lease } => {
                let old = self.keys.get(key);
                let (create, version) = old.map_or((next, 1), |old| (old.create, old.version + 1));
                let seen = Seen { value: value.clone(), create, modified: next, version, lease: *lease };
                self.keys.insert(key.clone(), seen);
                self.revision = next;
                Answer::Put
            }
            Op::Delete { from, to } => {
                let doomed: Vec<String> = self.within(from, to).map(|(key, _)| key.clone()).collect();
                doomed.iter().for_each(|key| drop(self.keys.remove(key)));
                if !doomed.is_empty() {
                    self.revision = next;
                }
                Answer::Deleted(i64::try_from(doomed.len()).unwrap_or(i64::MAX))
            }
            Op::Range { from, to } => Answer::Range(self.within(from, to).map(|(key, seen)| (key.clone(), seen.clone())).collect()),
        }
    }

    /// The keys of a range, ascending.
    pub fn within<'a>(&'a self, from: &str, to: &'a str) -> impl Iterator<Item = (&'a String, &'a Seen)> {
        self.keys.range(from.to_owned()..).take_while(move |(key, _)| key.as_str() < to)
    }
}
