//! The watchers of one stream: which ids they have, what each was told already, what a change means to it. Pure.

use std::collections::BTreeMap;

use balsa_proto::etcd::etcdserverpb::{WatchCreateRequest, watch_create_request::FilterType};
use balsa_proto::etcd::mvccpb::Event;
use bytes::Bytes;

use crate::mvcc::{Change, End, KeyRange};

/// One watcher.
#[derive(Debug)]
pub struct Watcher {
    /// The keys it is about.
    pub range: KeyRange,
    /// Its registration at the hub.
    pub registration: u64,
    /// Everything before this revision was told, or was not asked for.
    pub next: i64,
    /// Whether it must read the state on disk before it can follow the ring.
    pub behind: bool,
    /// Whether it wants to hear that nothing happened.
    pub progress: bool,
    /// Whether something was sent to it since the last progress round.
    pub told: bool,
    /// Whether large answers are cut.
    pub fragment: bool,
    /// Whether events carry what was before.
    pub previous: bool,
    no_put: bool,
    no_delete: bool,
}

impl Watcher {
    /// As the client asks for it, told nothing yet; `current` is the revision at its registration.
    pub fn new(request: &WatchCreateRequest, range: KeyRange, registration: u64, current: i64) -> Self {
        let has = |filter: FilterType| request.filters.contains(&(filter as i32));
        let next = if request.start_revision > 0 { request.start_revision } else { current + 1 };
        Self {
            range,
            registration,
            next,
            behind: next <= current,
            progress: request.progress_notify,
            told: false,
            fragment: request.fragment,
            previous: request.prev_kv,
            no_put: has(FilterType::Noput),
            no_delete: has(FilterType::Nodelete),
        }
    }

    /// The event that `change` is to it, if any.
    pub fn event(&self, change: &Change) -> Option<Event> {
        let unwanted = if change.version.is_tombstone() { self.no_delete } else { self.no_put };
        let told = change.version.main < self.next;
        (!unwanted && !told && self.range.contains(&change.key)).then(|| change.event(self.previous))
    }

    /// Notes that it was told everything up to `revision`.
    pub fn told_up_to(&mut self, revision: i64) {
        self.next = self.next.max(revision + 1);
    }
}

/// The keys that a create request is about: an absent key means all of them.
pub fn watched_range(request: &WatchCreateRequest) -> Result<KeyRange, &'static str> {
    let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key.clone() };
    let range = KeyRange::new(&key, &request.range_end);
    match &range.end {
        End::Before(end) if *end <= range.start => Err("mvcc: watcher range is empty"),
        _ => Ok(range),
    }
}

/// The watchers of a stream by id.
#[derive(Debug, Default)]
pub struct Watchers {
    by_id: BTreeMap<i64, Watcher>,
    next_id: i64,
}

impl Watchers {
    /// An id for a new watcher: the one asked for, or (for 0) the next free one.
    pub fn choose_id(&mut self, asked: i64) -> Result<i64, &'static str> {
        if asked != 0 {
            let taken = self.by_id.contains_key(&asked);
            return if taken { Err("mvcc: duplicate watch ID provided on the WatchStream") } else { Ok(asked) };
        }
        while self.by_id.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        Ok(id)
    }

    /// Takes a watcher in.
    pub fn insert(&mut self, id: i64, watcher: Watcher) {
        self.by_id.insert(id, watcher);
    }

    /// Takes a watcher out.
    pub fn remove(&mut self, id: i64) -> Option<Watcher> {
        self.by_id.remove(&id)
    }

    /// All of them, ascending by id.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (i64, &mut Watcher)> {
        self.by_id.iter_mut().map(|(id, watcher)| (*id, watcher))
    }

    /// One of them.
    pub fn get_mut(&mut self, id: i64) -> Option<&mut Watcher> {
        self.by_id.get_mut(&id)
    }

    /// The ids of those that must read the disk.
    pub fn behind(&self) -> Vec<i64> {
        self.by_id.iter().filter(|(_, watcher)| watcher.behind).map(|(id, _)| *id).collect()
    }

    /// Those that can follow the ring no longer, because it begins after `from`, must read the disk.
    pub fn lost(&mut self, from: i64) {
        for watcher in self.by_id.values_mut().filter(|watcher| !watcher.behind) {
            watcher.next = watcher.next.max(from);
            watcher.behind = true;
        }
    }

    /// Forgets all and says which registrations they had.
    pub fn drain(&mut self) -> impl Iterator<Item = Watcher> {
        std::mem::take(&mut self.by_id).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Version;

    fn change(key: &'static str, main: i64, deleted: bool) -> Change {
        let version = i64::from(!deleted);
        let version = Version { main, sub: 0, create: main * version, version, lease: 0, value: Bytes::new() };
        Change { key: Bytes::from_static(key.as_bytes()), version, previous: None }
    }

    #[test]
    fn a_watcher_hears_of_its_keys_from_its_revision_on_and_only_what_it_wants() {
        let request = WatchCreateRequest {
            key: "a".into(),
            range_end: "c".into(),
            start_revision: 5,
            filters: vec![FilterType::Nodelete as i32],
            ..Default::default()
        };
        let range = watched_range(&request).unwrap();
        let mut watcher = Watcher::new(&request, range, 1, 7);
        assert!(watcher.behind);
        for (name, change, heard) in [
            ("before its start", change("a", 4, false), false),
            ("in its range", change("b", 5, false), true),
            ("past its range", change("c", 6, false), false),
            ("a deletion", change("b", 6, true), false),
        ] {
            assert_eq!(watcher.event(&change).is_some(), heard, "{name}");
        }
        watcher.told_up_to(7);
        assert_eq!(watcher.event(&change("b", 7, false)), None);
    }

    #[test]
    fn ids_are_the_clients_or_the_next_free_ones() {
        let mut watchers = Watchers::default();
        let watcher = || Watcher::new(&WatchCreateRequest::default(), KeyRange { start: Bytes::new(), end: End::Unbounded }, 0, 1);
        for (asked, given) in [(0, Ok(0)), (1, Ok(1)), (0, Ok(2)), (1, Err(())), (9, Ok(9)), (0, Ok(3))] {
            let id = watchers.choose_id(asked);
            assert_eq!(id.map_err(|_| ()), given);
            if let Ok(id) = id {
                watchers.insert(id, watcher());
            }
        }
    }
}
