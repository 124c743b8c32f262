//! Kinds that are two faces of one stored object: events of the core group and of `events.k8s.io`. Pure.

use balsa_api::kind::Kind;
use balsa_api::kinds::event;
use serde_json::Value;

/// Whether the kind is the face that is not stored.
fn is_new_event(kind: &dyn Kind) -> bool {
    kind.names().group == "events.k8s.io" && kind.names().plural == "events"
}

/// Group and plural under which the kind's objects lie.
pub fn stored_as(kind: &dyn Kind) -> (&str, &str) {
    let names = kind.names();
    if is_new_event(kind) { ("", "events") } else { (names.group, names.plural) }
}

/// The names of all resources that show what lies under this one.
pub fn shown_as(resource: &str) -> &'static [&'static str] {
    if resource == "events" { &["events", "events.events.k8s.io"] } else { &[] }
}

/// An object of the kind as it is stored.
pub fn to_stored(kind: &dyn Kind, object: &Value) -> Option<Value> {
    is_new_event(kind).then(|| event::to_core(object))
}

/// A stored object as the kind shows it.
pub fn from_stored(kind: &dyn Kind, object: Value) -> Value {
    if is_new_event(kind) { event::from_core(&object) } else { object }
}
