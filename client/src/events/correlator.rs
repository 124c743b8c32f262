//! Which events are written anew, which only counted, which merged, which dropped: client-go's rules. Pure.
//!
//! - The same event again (same source, object, type, reason and message) only counts up the one that exists.
//! - More than ten different messages within ten minutes that are the same otherwise become one event, whose message
//!   is `(combined from similar events): ` and the last message.
//! - One source may write 25 events about one object, then one per five minutes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::events::EventType;

const REMEMBERED: usize = 4096;
const SIMILAR: usize = 10;
const SIMILAR_SECONDS: i64 = 600;
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Who says so.
    pub component: String,
    /// Where; may be empty.
    pub host: String,
    /// What it happened to.
    pub object: ObjectReference,
    /// How bad.
    pub kind: EventType,
    /// One CamelCase word.
    pub reason: String,
    /// What was done; mostly empty.
    pub action: String,
    /// For a person.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Write {
    /// The whole event.
    pub event: Event,
    /// Whether it is new; else its count, lastTimestamp and message are to be patched.
    pub create: bool,
    key: Key,
}

/// Everything but the message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    component: String,
    host: String,
    object: [String; 6],
    kind: EventType,
    reason: String,
}

type Key = (Group, String);

#[derive(Debug, Default)]
struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

#[derive(Debug)]
struct Seen {
    count: i32,
    name: String,
    first: Timestamp,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// A map that forgets what was not used longest.
#[derive(Debug)]
struct Recent<K, V> {
    values: BTreeMap<K, (u64, V)>,
    used: VecDeque<(u64, K)>,
    clock: u64,
}

impl<K: Ord + Clone, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), used: VecDeque::new(), clock: 0 }
    }
}

impl<K: Ord + Clone, V> Recent<K, V> {
    fn entry(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        let clock = self.clock;
        self.used.push_back((clock, key.clone()));
        // Stale marks of keys that were used again are skipped; there are never more than two marks per key.
        while self.used.len() > 2 * REMEMBERED || self.values.len() >= REMEMBERED {
            let Some((mark, oldest)) = self.used.pop_front() else { break };
            if self.values.get(&oldest).is_some_and(|(last, _)| *last == mark) && oldest != *key {
                self.values.remove(&oldest);
            }
        }
        let slot = self.values.entry(key.clone()).or_insert_with(|| (clock, new()));
        slot.0 = clock;
        &mut slot.1
    }
}

/// What was seen lately. Bounded: it remembers 4096 events, groups and objects each.
#[derive(Debug, Default)]
pub struct Correlator {
    similar: Recent<Group, Similar>,
    seen: Recent<Key, Seen>,
    spam: Recent<Vec<String>, Bucket>,
    names: u64,
}

impl Correlator {
    /// What to write for an observation; `None` where it is one too many.
    pub fn observe(&mut self, observed: &Observation) -> Option<Write> {
        let group = group_of(observed);
        let (key, message) = self.merge(group, observed);
        let at = observed.at;
        let fresh = format!("{}.{:x}", observed.object.name.as_deref().unwrap_or_default(), self.unique(at));
        let seen = self.seen.entry(&key, || Seen { count: 0, name: fresh, first: at });
        seen.count = seen.count.saturating_add(1);
        let (count, name, first) = (seen.count, seen.name.clone(), seen.first);
        if !self.allowed(observed) {
            return None;
        }
        // An event whose creation was suppressed as spam was never written: patching it finds nothing, and the writer
        // then calls `recreate`.
        Some(Write { event: event(observed, message, name, count, first), create: count == 1, key })
    }

    /// The event that was to be patched does not exist any more: it is written anew, count kept.
    pub fn recreate(&mut self, write: Write) -> Write {
        let mut event = write.event;
        let object = event.involved_object.name.clone().unwrap_or_default();
        let at = event.last_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let name = format!("{object}.{:x}", self.unique(at));
        let first = at;
        let seen = self.seen.entry(&write.key, || Seen { count: 0, name: name.clone(), first });
        seen.name.clone_from(&name);
        event.metadata.name = Some(name);
        Write { event, create: true, key: write.key }
    }

    /// The key to count under, and the message, both perhaps merged with those of similar events.
    fn merge(&mut self, group: Group, observed: &Observation) -> (Key, String) {
        let at = observed.at;
        let similar = self.similar.entry(&group, || Similar { messages: BTreeSet::new(), last: at });
        if at.as_second() - similar.last.as_second() > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.last = at;
        if similar.messages.len() < SIMILAR || similar.messages.contains(&observed.message) {
            similar.messages.insert(observed.message.clone());
            if similar.messages.len() < SIMILAR {
                return ((group, observed.message.clone()), observed.message.clone());
            }
        }
        // No message can be empty and merged at once, so the empty one stands for the merged ones.
        ((group, String::new()), format!("(combined from similar events): {}", observed.message))
    }

    fn allowed(&mut self, observed: &Observation) -> bool {
        let [api_version, kind, namespace, name, uid, _] = object_fields(&observed.object);
        let key = vec![observed.component.clone(), observed.host.clone(), api_version, kind, namespace, name, uid];
        let bucket = self.spam.entry(&key, || Bucket { tokens: BURST, at: observed.at });
        let seconds = (observed.at.as_millisecond() - bucket.at.as_millisecond()).max(0) as f64 / 1000.0;
        bucket.tokens = (bucket.tokens + seconds / REFILL_SECONDS).min(BURST);
        bucket.at = bucket.at.max(observed.at);
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    /// Nanoseconds, as in client-go's event names, but never twice the same.
    fn unique(&mut self, at: Timestamp) -> u64 {
        let now = u64::try_from(at.as_nanosecond()).unwrap_or(0);
        self.names = now.max(self.names + 1);
        self.names
    }
}

fn object_fields(object: &ObjectReference) -> [String; 6] {
    [&object.api_version, &object.kind, &object.namespace, &object.name, &object.uid, &object.field_path]
        .map(|field| field.clone().unwrap_or_default())
}

fn group_of(observed: &Observation) -> Group {
    Group {
        component: observed.component.clone(),
        host: observed.host.clone(),
        object: object_fields(&observed.object),
        kind: observed.kind,
        reason: observed.reason.clone(),
    }
}

fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn event(observed: &Observation, message: String, name: String, count: i32, first: Timestamp) -> Event {
    let namespace = observed.object.namespace.clone().filter(|namespace| !namespace.is_empty());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: observed.object.clone(),
        type_: Some(observed.kind.as_str().to_owned()),
        reason: Some(observed.reason.clone()),
        action: Some(observed.action.clone()).filter(|action| !action.is_empty()),
        message: Some(message),
        count: Some(count),
        first_timestamp: Some(seconds(first)),
        last_timestamp: Some(seconds(observed.at)),
        source: Some(EventSource {
            component: Some(observed.component.clone()),
            host: Some(observed.host.clone()).filter(|host| !host.is_empty()),
        }),
        reporting_component: Some(observed.component.clone()),
        reporting_instance: Some(observed.host.clone()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(pod: &str, message: &str, second: i64) -> Observation {
        Observation {
            component: "kubelet".into(),
            host: "node1".into(),
            object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some("default".into()),
                name: Some(pod.into()),
                uid: Some(format!("uid-{pod}")),
                ..ObjectReference::default()
            },
            kind: EventType::Warning,
            reason: "BackOff".into(),
            action: String::new(),
            message: message.into(),
            at: Timestamp::from_second(1_700_000_000 + second).expect("a valid time"),
        }
    }

    #[test]
    fn the_same_event_again_is_counted() {
        let mut correlator = Correlator::default();
        let first = correlator.observe(&observation("web", "Back-off", 0)).expect("written");
        let again = correlator.observe(&observation("web", "Back-off", 5)).expect("written");
        assert!(first.create && !again.create);
        assert_eq!(again.event.metadata.name, first.event.metadata.name);
        assert_eq!(again.event.count, Some(2));
        assert_eq!(again.event.first_timestamp, first.event.first_timestamp);
        assert_ne!(again.event.last_timestamp, first.event.last_timestamp);
        let other = correlator.observe(&observation("db", "Back-off", 5)).expect("written");
        assert!(other.create);
        assert_ne!(other.event.metadata.name, first.event.metadata.name);
    }

    #[test]
    fn the_tenth_similar_message_is_merged() {
        let mut correlator = Correlator::default();
        for number in 0..9 {
            let write = correlator.observe(&observation("web", &format!("try {number}"), number)).expect("written");
            assert!(write.create);
            assert_eq!(write.event.message, Some(format!("try {number}")));
        }
        let tenth = correlator.observe(&observation("web", "try 9", 9)).expect("written");
        assert_eq!(tenth.event.message.as_deref(), Some("(combined from similar events): try 9"));
        assert!(tenth.create);
        let next = correlator.observe(&observation("web", "try 10", 10)).expect("written");
        assert!(!next.create);
        assert_eq!(next.event.count, Some(2));
        let later = correlator.observe(&observation("web", "try 11", 700)).expect("written");
        assert_eq!(later.event.message.as_deref(), Some("try 11"), "ten minutes of silence end the merging");
    }

    #[test]
    fn one_object_cannot_flood_the_apiserver() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|_| correlator.observe(&observation("web", "x", 0)).is_some()).count();
        assert_eq!(written, 25);
        assert!(correlator.observe(&observation("db", "x", 0)).is_some());
        assert!(correlator.observe(&observation("web", "x", 299)).is_none());
        assert!(correlator.observe(&observation("web", "x", 301)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for number in 0..3 * REMEMBERED {
            correlator.observe(&observation(&format!("pod-{number}"), "x", 0));
        }
        assert!(correlator.seen.values.len() <= REMEMBERED);
        assert!(correlator.seen.used.len() <= 2 * REMEMBERED);
    }
}
