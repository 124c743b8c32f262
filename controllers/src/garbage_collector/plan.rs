//! Decides about one object, from its live state, the state of its owners and what depends on it.

use std::fmt;

use balsa_api::meta::GroupVersionResource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::graph::{FOREGROUND, ORPHAN, Vertex};
use crate::common::Plan;

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerState {
    /// It certainly does not exist (any more).
    Absent,
    /// It exists.
    Present,
    /// It is going, and waits for its dependents.
    Waiting,
    /// It cannot be looked up: its kind is not served here, or it may not be named from here.
    Unresolvable,
}

/// One object and what is around it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Where it is served.
    pub resource: GroupVersionResource,
    /// Its live metadata.
    pub meta: ObjectMeta,
    /// Its owners, in order.
    pub owners: Vec<(OwnerReference, OwnerState)>,
    /// What names it as owner.
    pub dependents: Vec<Vertex>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Delete the object with this UID.
    Delete {
        /// Where it is served.
        resource: GroupVersionResource,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID: the precondition.
        uid: String,
        /// The version on which this was decided: the other precondition.
        resource_version: String,
        /// `Background`, `Foreground` or `Orphan`
        propagation: &'static str,
    },
    /// A merge patch of metadata, with UID and resourceVersion as preconditions.
    Patch {
        /// Where it is served.
        resource: GroupVersionResource,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the patch does, for a person.
        what: &'static str,
        /// The patch.
        patch: Value,
    },
    /// Look at another object too.
    Look {
        /// Its UID.
        uid: String,
        /// Its name, for a person.
        name: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete { resource, name, propagation, .. } => write!(f, "delete {resource}/{name} {propagation}"),
            Self::Patch { resource, name, what, .. } => write!(f, "patch {resource}/{name}: {what}"),
            Self::Look { name, .. } => write!(f, "look at {name}"),
        }
    }
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|own| own == finalizer)
}

fn patch(observed: &Observed, what: &'static str, key: &str, value: &Value) -> Action {
    let meta = &observed.meta;
    let mut body = json!({"uid": meta.uid, "resourceVersion": meta.resource_version});
    body[key] = value.clone();
    Action::Patch {
        resource: observed.resource.clone(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        what,
        patch: json!({"metadata": body}),
    }
}

fn without_finalizer(observed: &Observed, finalizer: &str, what: &'static str) -> Action {
    let rest: Vec<&String> = observed.meta.finalizers.iter().flatten().filter(|own| *own != finalizer).collect();
    patch(observed, what, "finalizers", &json!(rest))
}

fn delete(observed: &Observed, propagation: &'static str) -> Action {
    let meta = &observed.meta;
    Action::Delete {
        resource: observed.resource.clone(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        propagation,
    }
}

/// Whether the object should go, or may go now.
pub fn collect(observed: &Observed) -> Plan<Action> {
    let mut plan = Plan::default();
    let meta = &observed.meta;
    let uid = meta.uid.as_deref().unwrap_or_default();
    if meta.deletion_timestamp.is_some() {
        if has(meta, FOREGROUND) {
            let blocking: Vec<&Vertex> = observed.dependents.iter().filter(|vertex| vertex.blocks(uid)).collect();
            if blocking.is_empty() {
                plan.reasons.push("no dependent holds it any more".to_owned());
                plan.actions.push(without_finalizer(observed, FOREGROUND, "dependents are gone"));
            }
            for vertex in blocking.into_iter().filter(|vertex| !vertex.waits_for_dependents()) {
                plan.actions.push(Action::Look { uid: vertex.uid.clone(), name: vertex.name.clone() });
            }
        }
        return plan;
    }
    let in_state = |state: OwnerState| observed.owners.iter().filter(move |(_, own)| *own == state);
    let (absent, waiting) = (in_state(OwnerState::Absent).count(), in_state(OwnerState::Waiting).count());
    if absent + waiting == 0 {
        return plan;
    }
    if absent + waiting < observed.owners.len() {
        // Somebody still owns it: only the lost references go.
        let keeps = |state: OwnerState| matches!(state, OwnerState::Present | OwnerState::Unresolvable);
        let rest: Vec<&OwnerReference> =
            observed.owners.iter().filter(|(_, state)| keeps(*state)).map(|(reference, _)| reference).collect();
        plan.reasons.push(format!("{absent} owners absent, {waiting} going, {} left", rest.len()));
        plan.actions.push(patch(observed, "lost owners come off", "ownerReferences", &json!(rest)));
        return plan;
    }
    if waiting > 0 && !observed.dependents.is_empty() {
        plan.reasons.push("its owner waits for it, and it has dependents of its own".to_owned());
        if observed.dependents.iter().any(Vertex::waits_for_dependents) {
            // A circle: somebody down there may be waiting for us. We stop holding our owner.
            let unblocked: Vec<OwnerReference> = observed
                .owners
                .iter()
                .map(|(reference, _)| OwnerReference { block_owner_deletion: Some(false), ..reference.clone() })
                .collect();
            let blocks = observed.owners.iter().any(|(reference, _)| reference.block_owner_deletion == Some(true));
            if blocks {
                plan.actions.push(patch(observed, "unblock its owner", "ownerReferences", &json!(unblocked)));
                // The patch moved the version on: the deletion is decided on the next look.
                plan.actions.push(Action::Look { uid: uid.to_owned(), name: meta.name.clone().unwrap_or_default() });
                return plan;
            }
        }
        plan.actions.push(delete(observed, "Foreground"));
        return plan;
    }
    plan.reasons.push("no owner is left".to_owned());
    let propagation = if has(meta, ORPHAN) {
        "Orphan"
    } else if has(meta, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    plan.actions.push(delete(observed, propagation));
    plan
}

/// Takes one dependent's reference to an owner off; `None` where it has none.
pub fn free(dependent: &Observed, owner_uid: &str) -> Option<Action> {
    let references = dependent.meta.owner_references.as_deref().unwrap_or_default();
    let rest: Vec<&OwnerReference> = references.iter().filter(|reference| reference.uid != owner_uid).collect();
    (rest.len() < references.len()).then(|| patch(dependent, "set free", "ownerReferences", &json!(rest)))
}

/// Lets an orphaning owner go, once its dependents are free; `None` where it is not orphaning.
pub fn release(owner: &Observed) -> Option<Action> {
    let orphaning = owner.meta.deletion_timestamp.is_some() && has(&owner.meta, ORPHAN);
    orphaning.then(|| without_finalizer(owner, ORPHAN, "dependents are free"))
}
