//! Owner references: whose an object is, and whether it should be adopted or released.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::selector;

/// An owner, as its objects name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `apps/v1`
    pub api_version: String,
    /// `ReplicaSet`
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Owner {
    /// The reference that an object which is controlled by this owner carries.
    pub fn controller_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// The one reference that says who controls the object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|reference| reference.controller == Some(true))
}

/// Whether `uid` controls the object.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|reference| reference.uid == uid)
}

/// What an owner should do about an object of its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours and matches.
    Keep,
    /// It matches, nobody controls it: put our reference on it.
    Adopt,
    /// It is ours but no longer matches: take our reference off.
    Release,
    /// Not our business.
    Ignore,
}

/// Decides about one object. `owner_deleting`: an owner that is going neither adopts nor releases.
pub fn claim(owner: &Owner, owner_deleting: bool, wanted: &LabelSelector, meta: &ObjectMeta) -> Claim {
    let matching = !selector::is_empty(wanted) && selector::matches(wanted, meta.labels.as_ref());
    match controller_of(meta) {
        Some(reference) if reference.uid != owner.uid => Claim::Ignore,
        Some(_) if matching => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matching || owner_deleting || meta.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// A merge patch that replaces the owner references of exactly this version of an object.
fn references_patch(meta: &ObjectMeta, references: &[OwnerReference]) -> Value {
    json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": references,
    }})
}

/// A merge patch that adds our reference to this version of an object.
pub fn adoption_patch(owner: &Owner, meta: &ObjectMeta) -> Value {
    let mut references = meta.owner_references.clone().unwrap_or_default();
    references.retain(|reference| reference.uid != owner.uid);
    references.push(owner.controller_reference());
    references_patch(meta, &references)
}

/// A merge patch that takes the references to `owner_uid` off this version of an object.
pub fn release_patch(owner_uid: &str, meta: &ObjectMeta) -> Value {
    let mut references = meta.owner_references.clone().unwrap_or_default();
    references.retain(|reference| reference.uid != owner_uid);
    references_patch(meta, &references)
}
