//! Owner references: who controls an object, who owns it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::cursor::{list, text};

/// The reference to the controller, where there is one.
pub fn controller(object: &Value) -> Option<&Value> {
    list(object, "metadata.ownerReferences").iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

/// The same for typed metadata.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object of this UID is its controller.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// Whether the object of this UID is among its owners.
pub fn is_owned_by(object: &Value, uid: &str) -> bool {
    list(object, "metadata.ownerReferences").iter().any(|owner| text(owner, "uid") == uid)
}

/// A reference that makes its holder controlled (and its owner's foreground deletion wait for it).
pub fn controller_reference(api_version: &str, kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
