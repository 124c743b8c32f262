//! The kinds that a set of definitions makes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::kind::{self, CustomKind};
use crate::kind::{Kind as _, KindRef};

/// All kinds made by definitions, at one state of these.
#[derive(Debug, Default)]
pub struct Registry {
    /// By group, version and plural.
    kinds: BTreeMap<(String, String, String), Arc<CustomKind>>,
}

/// Which of two versions clients prefer: `v1`, `v2beta1`, `v1alpha1`, `anything`. Higher numbers come first.
pub fn preferred(a: &str, b: &str) -> Ordering {
    /// (stability, major, minor); higher is better.
    fn rank(version: &str) -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (major, word) = rest.split_at(end);
        let major = major.parse().ok()?;
        if word.is_empty() {
            return Some((3, major, 0));
        }
        let (stability, minor) = match (word.strip_prefix("beta"), word.strip_prefix("alpha")) {
            (Some(minor), _) => (2, minor),
            (_, Some(minor)) => (1, minor),
            _ => return None,
        };
        Some((stability, major, minor.parse().ok()?))
    }
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

impl Registry {
    /// From definitions: name, revision, and a way to the object. Kinds that `before` has from the same revision are
    /// taken over. Also says what could not be used.
    pub fn build<'a, Load: FnOnce() -> Value>(
        definitions: impl IntoIterator<Item = (&'a str, u64, Load)>,
        before: &Self,
    ) -> (Self, Vec<String>) {
        let (mut registry, mut problems) = (Self::default(), Vec::new());
        for (name, revision, load) in definitions {
            let known = before.of_definition(name, revision);
            if !known.is_empty() {
                known.into_iter().for_each(|kind| registry.insert(kind));
                continue;
            }
            let (kinds, broken) = kind::of_definition(&load());
            kinds.into_iter().for_each(|kind| registry.insert(Arc::new(kind)));
            problems.extend(broken);
        }
        (registry, problems)
    }

    fn of_definition(&self, name: &str, revision: u64) -> Vec<Arc<CustomKind>> {
        let same = |kind: &&Arc<CustomKind>| kind.shared.revision == revision && kind.shared.definition == name;
        self.kinds.values().filter(same).cloned().collect()
    }

    fn insert(&mut self, kind: Arc<CustomKind>) {
        let names = kind.names();
        let key = (names.group.to_owned(), names.version.to_owned(), names.plural.to_owned());
        self.kinds.insert(key, kind);
    }

    /// A kind as URLs name it.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.kinds.get(&key).cloned().map(KindRef::Custom)
    }

    /// A kind as objects name it.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<KindRef> {
        self.all().find(|known| {
            let names = known.names();
            (names.group, names.version, names.kind) == (group, version, kind)
        }).cloned().map(KindRef::Custom)
    }

    /// All kinds, by group, version and plural.
    pub fn all(&self) -> impl Iterator<Item = &Arc<CustomKind>> {
        self.kinds.values()
    }

    /// Groups with their versions, the preferred one first.
    pub fn groups(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (group, version, _) in self.kinds.keys() {
            let versions = groups.entry(group).or_default();
            if !versions.contains(&version.as_str()) {
                versions.push(version);
            }
        }
        groups.values_mut().for_each(|versions| versions.sort_by(|a, b| preferred(a, b)));
        groups
    }
}
