//! Kinds that are two faces of one stored object: events of the core group and of `events.k8s.io`, and the two versions of
//! HorizontalPodAutoscaler. Pure.

use balsa_api::kind::Kind;
use balsa_api::kinds::autoscaling::convert;
use balsa_api::kinds::event;
use serde_json::Value;

/// A face that is not stored itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Face {
    /// An event of `events.k8s.io`.
    NewEvent,
    /// A HorizontalPodAutoscaler of `autoscaling/v1`.
    OldAutoscaler,
}

fn face(kind: &dyn Kind) -> Option<Face> {
    let names = kind.names();
    match (names.group, names.version, names.plural) {
        ("events.k8s.io", _, "events") => Some(Face::NewEvent),
        ("autoscaling", "v1", "horizontalpodautoscalers") => Some(Face::OldAutoscaler),
        _ => None,
    }
}

/// Group and plural under which the kind's objects lie.
pub fn stored_as(kind: &dyn Kind) -> (&str, &str) {
    let names = kind.names();
    match face(kind) {
        Some(Face::NewEvent) => ("", "events"),
        Some(Face::OldAutoscaler) | None => (names.group, names.plural),
    }
}

/// Group and version that stored objects of the kind say they are of.
pub fn stored_version(kind: &dyn Kind) -> (&str, &str) {
    let names = kind.names();
    match face(kind) {
        Some(Face::NewEvent) => ("", "v1"),
        Some(Face::OldAutoscaler) => ("autoscaling", "v2"),
        None => (names.group, names.version),
    }
}

/// Group and plural under which the kind's objects are cached: one cache for each face.
pub fn cached_as(kind: &dyn Kind) -> (&str, &str) {
    let names = kind.names();
    match face(kind) {
        Some(Face::OldAutoscaler) => (names.group, "horizontalpodautoscalers.v1"),
        Some(Face::NewEvent) | None => (names.group, names.plural),
    }
}

/// The names of all caches that show what lies under this resource.
pub fn shown_as(resource: &str) -> &'static [&'static str] {
    match resource {
        "events" => &["events", "events.events.k8s.io"],
        "horizontalpodautoscalers.autoscaling" => {
            &["horizontalpodautoscalers.autoscaling", "horizontalpodautoscalers.v1.autoscaling"]
        }
        _ => &[],
    }
}

/// An object of the kind as it is stored.
pub fn to_stored(kind: &dyn Kind, object: &Value) -> Option<Value> {
    face(kind).map(|face| match face {
        Face::NewEvent => event::to_core(object),
        Face::OldAutoscaler => convert::to_v2(object),
    })
}

/// A stored object as the kind shows it.
pub fn from_stored(kind: &dyn Kind, object: Value) -> Value {
    match face(kind) {
        Some(Face::NewEvent) => event::from_core(&object),
        Some(Face::OldAutoscaler) => convert::to_v1(&object),
        None => object,
    }
}
