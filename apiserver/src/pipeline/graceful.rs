//! How an object goes: at once, after finalizers, after a grace period, with or without its dependents. Pure.

use balsa_api::apiextensions::definition::FINALIZER;
use balsa_api::apiextensions::status::Condition;
use balsa_api::kind::Kind;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::value;

/// What the caller of a delete wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds; `None`: the object's own.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
    /// What the object must be.
    pub preconditions: super::rules::Preconditions,
    /// Only say what would happen.
    pub dry_run: bool,
}

/// What becomes of the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Collected after it.
    Background,
    /// Collected before it.
    Foreground,
    /// Kept, without the reference to it.
    Orphan,
}

impl Propagation {
    /// By its name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Background" => Some(Self::Background),
            "Foreground" => Some(Self::Foreground),
            "Orphan" => Some(Self::Orphan),
            _ => None,
        }
    }
}

/// What a delete does to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It goes now; how it is told to watchers last.
    Remove(Value),
    /// It stays, marked.
    Mark(Value),
    /// It is marked already and nothing changes.
    Keep,
}

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

fn is_pod(kind: &dyn Kind) -> bool {
    let names = kind.names();
    names.group.is_empty() && names.plural == "pods"
}

fn is_namespace(kind: &dyn Kind) -> bool {
    let names = kind.names();
    names.group.is_empty() && names.plural == "namespaces"
}

fn is_definition(kind: &dyn Kind) -> bool {
    let names = kind.names();
    names.group == crate::apiextensions::GROUP && names.plural == crate::apiextensions::PLURAL
}

/// What the server adds to a new object so that its end is orderly.
pub fn prepare_new(kind: &dyn Kind, object: &mut Value) {
    if is_namespace(kind) {
        let name = value::name(object).to_owned();
        let metadata = value::metadata(object);
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
        }
        let spec = value::member(object, "spec");
        if let Some(finalizers) = value::list(spec, "finalizers")
            && !finalizers.contains(&json!("kubernetes"))
        {
            finalizers.push(json!("kubernetes"));
        }
        value::member(object, "status").insert("phase".to_owned(), json!("Active"));
    }
}

/// The finalizers that carry the propagation.
fn propagated(kind: &dyn Kind, object: &Value, wanted: Option<Propagation>) -> Vec<String> {
    let mut finalizers = value::finalizers(object);
    let has = |name: &str| finalizers.iter().any(|own| own == name);
    let names = kind.names();
    let orphans_by_default =
        matches!((names.group, names.plural), ("", "replicationcontrollers") | ("batch", "jobs"));
    let propagation = match wanted {
        Some(wanted) => wanted,
        None if has(ORPHAN) => Propagation::Orphan,
        None if has(FOREGROUND) => Propagation::Foreground,
        None if orphans_by_default => Propagation::Orphan,
        None => Propagation::Background,
    };
    finalizers.retain(|name| name != FOREGROUND && name != ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
    }
    finalizers
}

/// The seconds that a pod gets.
fn pod_grace(object: &Value, options: &DeleteOptions) -> i64 {
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let wanted = options.grace_period_seconds.or(own).unwrap_or(30);
    let scheduled = !value::text(object, "/spec/nodeName").is_empty();
    let ended = matches!(value::text(object, "/status/phase"), "Succeeded" | "Failed");
    if !scheduled || ended {
        return 0;
    }
    if wanted < 0 { 1 } else { wanted }
}

/// Decides what a delete does.
pub fn decide(kind: &dyn Kind, object: &Value, options: &DeleteOptions, now: Timestamp) -> Outcome {
    let mut new = object.clone();
    let mut finalizers = propagated(kind, object, options.propagation);
    if is_definition(kind) && !value::is_deleting(object) {
        // Its objects go first.
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        value::set_condition(&mut new, Condition::deletion_pending().to_value(), now);
    }
    value::set_finalizers(&mut new, &finalizers);
    let grace = if is_pod(kind) { pod_grace(object, options) } else { 0 };
    let waits = !finalizers.is_empty()
        || (is_namespace(kind) && !value::strings(object, "/spec/finalizers").is_empty());
    if value::is_deleting(object) {
        return decide_again(object, new, grace, waits, options, now);
    }
    mark(&mut new, value::seconds_after(now, grace), grace);
    if is_namespace(kind) {
        value::member(&mut new, "status").insert("phase".to_owned(), json!("Terminating"));
    }
    if grace == 0 && !waits {
        return Outcome::Remove(new);
    }
    if kind.has_generation() || is_pod(kind) {
        value::bump_generation(&mut new);
    }
    Outcome::Mark(new)
}

fn mark(object: &mut Value, at: Timestamp, grace: i64) {
    let metadata = value::metadata(object);
    metadata.insert("deletionTimestamp".to_owned(), json!(value::timestamp(at)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
}

/// A delete of what is being deleted may only hurry.
fn decide_again(
    object: &Value,
    mut new: Value,
    grace: i64,
    waits: bool,
    options: &DeleteOptions,
    now: Timestamp,
) -> Outcome {
    let given = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
    let deadline: Option<Timestamp> = value::text(object, "/metadata/deletionTimestamp").parse().ok();
    let hurries = grace < given && (options.grace_period_seconds.is_some() || grace == 0);
    if hurries {
        let started = deadline.map_or(now, |deadline| value::seconds_after(deadline, -given));
        let at = value::seconds_after(started, grace).max(now);
        // Past already, but only an explicit zero removes without the node's word.
        let seconds = if at <= now && grace != 0 { 1 } else { grace };
        mark(&mut new, at, seconds);
    }
    let left = if hurries { grace } else { given };
    if left == 0 && !waits {
        return Outcome::Remove(new);
    }
    if new == *object { Outcome::Keep } else { Outcome::Mark(new) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(plural: &str) -> &'static dyn Kind {
        balsa_api::kinds::find("", "v1", plural).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn running_pod() -> Value {
        json!({"metadata": {"name": "p", "generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}})
    }

    #[test]
    fn a_running_pod_gets_its_grace_and_an_unscheduled_one_none() {
        let Outcome::Mark(marked) = decide(kind("pods"), &running_pod(), &DeleteOptions::default(), now()) else {
            panic!("a running pod stays until its node is done with it");
        };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["generation"], 2);
        let mut unscheduled = running_pod();
        unscheduled["spec"]["nodeName"] = json!("");
        assert!(matches!(decide(kind("pods"), &unscheduled, &DeleteOptions::default(), now()), Outcome::Remove(_)));
    }

    #[test]
    fn a_second_delete_only_hurries() {
        let Outcome::Mark(marked) = decide(kind("pods"), &running_pod(), &DeleteOptions::default(), now()) else {
            panic!("marked");
        };
        let with = |seconds| DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() };
        assert_eq!(decide(kind("pods"), &marked, &with(60), now()), Outcome::Keep);
        let Outcome::Mark(hurried) = decide(kind("pods"), &marked, &with(10), now()) else { panic!("hurried") };
        assert_eq!(hurried["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
        assert!(matches!(decide(kind("pods"), &marked, &with(0), now()), Outcome::Remove(_)));
    }

    #[test]
    fn finalizers_hold_an_object() {
        let object = json!({"metadata": {"name": "c", "finalizers": ["a/b"]}});
        let Outcome::Mark(marked) = decide(kind("configmaps"), &object, &DeleteOptions::default(), now()) else {
            panic!("held")
        };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(decide(kind("configmaps"), &marked, &DeleteOptions::default(), now()), Outcome::Keep);
    }

    #[test]
    fn propagation_is_a_finalizer() {
        let object = json!({"metadata": {"name": "c"}});
        let with = |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let marked = |propagation| match decide(kind("configmaps"), &object, &with(propagation), now()) {
            Outcome::Mark(marked) => value::finalizers(&marked),
            _ => Vec::new(),
        };
        assert_eq!(marked(Propagation::Foreground), ["foregroundDeletion"]);
        assert_eq!(marked(Propagation::Orphan), ["orphan"]);
        assert!(marked(Propagation::Background).is_empty());
    }
}
