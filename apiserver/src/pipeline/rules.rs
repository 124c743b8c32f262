//! What the server owns in an object's metadata, and what a write may not do to it. Pure.

use balsa_api::field::FieldError;
use balsa_api::kind::Kind;
use balsa_api::status::{ApiError, ApiResult};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::Target;
use crate::value;

/// Metadata of a new object: what the creator cannot say is dropped, what the server says is set.
pub fn stamp_new(object: &mut Value, uid: String, now: Timestamp) {
    let metadata = value::metadata(object);
    for key in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.remove(key);
    }
    metadata.insert("uid".to_owned(), json!(uid));
    metadata.insert("creationTimestamp".to_owned(), json!(value::timestamp(now)));
}

/// Metadata of a changed object: identity and life cycle stay as they were.
pub fn stamp_changed(new: &mut Value, old: &Value) {
    for key in [
        "name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation",
        "generateName", "selfLink", "resourceVersion",
    ] {
        value::keep(new, old, key);
    }
}

/// What a delete or an update insists on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// metadata.uid
    pub uid: Option<String>,
    /// metadata.resourceVersion
    pub version: Option<String>,
}

impl Preconditions {
    /// 409 where the object is not the one meant.
    pub fn check(&self, target: Target<'_>, object: &Value) -> ApiResult<()> {
        let conflict = |detail: String| Err(ApiError::conflict(&target.kind.gvr(), target.name, &detail));
        let (uid, version) = (value::uid(object), value::text(object, "/metadata/resourceVersion"));
        if let Some(expected) = &self.uid
            && expected != uid
        {
            return conflict(format!(
                "Precondition failed: UID in precondition: {expected}, UID in object meta: {uid}"
            ));
        }
        if let Some(expected) = &self.version
            && expected != version
        {
            return conflict(format!(
                "Precondition failed: ResourceVersion in precondition: {expected}, ResourceVersion in object meta: {version}"
            ));
        }
        Ok(())
    }
}

/// resourceVersion and uid of a submitted object against the present one.
pub fn check_submitted(target: Target<'_>, new: &Value, old: &Value, is_patch: bool) -> ApiResult<()> {
    let kind = target.kind;
    let version = value::text(new, "/metadata/resourceVersion");
    if version.is_empty() || version == "0" {
        if !is_patch && !kind.unconditional_update() {
            let finding =
                FieldError::invalid("metadata.resourceVersion", version, "must be specified for an update");
            return Err(ApiError::invalid(&kind.gvk(), target.name, &[finding]));
        }
    } else if version.parse::<u64>().is_err() {
        let finding = FieldError::invalid("metadata.resourceVersion", version, "must be an unsigned integer");
        return Err(ApiError::invalid(&kind.gvk(), target.name, &[finding]));
    } else if version != value::text(old, "/metadata/resourceVersion") {
        return Err(ApiError::modified(&kind.gvr(), target.name));
    }
    let uid = value::uid(new);
    if !uid.is_empty() {
        Preconditions { uid: Some(uid.to_owned()), version: None }.check(target, old)?;
    }
    Ok(())
}

/// Finalizers may only go once deletion was asked for.
pub fn check_finalizers(new: &Value, old: &Value) -> Vec<FieldError> {
    if !value::is_deleting(old) {
        return Vec::new();
    }
    let before = value::finalizers(old);
    let added: Vec<String> = value::finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
    if added.is_empty() {
        return Vec::new();
    }
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
    );
    vec![FieldError::forbidden("metadata.finalizers", &detail)]
}

/// Whether two states differ in nothing that counts as a write.
pub fn is_same(new: &Value, old: &Value) -> bool {
    fn bare(object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            // Times of managers move with every write; they alone are no change.
            for entry in metadata.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(entry) = entry.as_object_mut() {
                    entry.remove("time");
                }
            }
        }
        object
    }
    new == old || bare(new) == bare(old)
}

/// Whether this write takes away the last thing that a deleted object waited for.
pub fn is_released(kind: &dyn Kind, new: &Value, old: &Value) -> bool {
    if !value::is_deleting(old) || !value::finalizers(new).is_empty() {
        return false;
    }
    let spec_finalizers = |object: &Value| kind.names().plural == "namespaces" && !value::strings(object, "/spec/finalizers").is_empty();
    if spec_finalizers(new) {
        return false;
    }
    let grace = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
    let waited = !value::finalizers(old).is_empty() || spec_finalizers(old);
    waited && grace == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creator_cannot_choose_what_the_server_owns() {
        let mut object = json!({"metadata": {"name": "a", "uid": "mine", "generation": 9, "resourceVersion": "5",
            "deletionTimestamp": "2020-01-01T00:00:00Z"}});
        stamp_new(&mut object, "u1".into(), "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(
            object,
            json!({"metadata": {"name": "a", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z"}})
        );
    }

    #[test]
    fn times_of_managers_are_no_change() {
        let object = |time: &str, data: &str| {
            json!({"data": data, "metadata": {"resourceVersion": time, "managedFields": [{"manager": "m", "time": time}]}})
        };
        assert!(is_same(&object("1", "x"), &object("2", "x")));
        assert!(!is_same(&object("1", "x"), &object("1", "y")));
    }

    #[test]
    fn finalizers_only_go_while_deleting() {
        let old = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z", "finalizers": ["a/b", "c/d"]}});
        assert!(check_finalizers(&json!({"metadata": {"finalizers": ["c/d"]}}), &old).is_empty());
        assert_eq!(check_finalizers(&json!({"metadata": {"finalizers": ["e/f"]}}), &old).len(), 1);
    }
}
