//! Short ways into an object's metadata. Pure.

use balsa_api::kind::Kind;
use k8s_openapi::jiff::{Timestamp, ToSpan as _};
use serde_json::{Map, Value, json};

/// A text member by JSON pointer; empty where it is absent.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// metadata.name
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// metadata.namespace
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// metadata.uid
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// metadata.resourceVersion as a number; 0 where it is absent or no number.
pub fn revision(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or_default()
}

/// Whether deletion was asked for.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// metadata.finalizers
pub fn finalizers(object: &Value) -> Vec<String> {
    strings(object, "/metadata/finalizers")
}

/// A list of texts by JSON pointer.
pub fn strings(object: &Value, pointer: &str) -> Vec<String> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(key)?.as_str()
}

/// The object's metadata, made if it is absent.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    member(object, "metadata")
}

/// A member that is an object, made if it is absent or something else.
pub fn member<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let slot = as_map(object).entry(key).or_insert_with(|| json!({}));
    as_map(slot)
}

/// The value as an object; what is none becomes an empty one.
fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("an object was put there just now"),
    }
}

/// A list member, made if it is absent.
pub fn list<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Vec<Value>> {
    let slot = map.entry(key).or_insert_with(|| json!([]));
    if !slot.is_array() {
        *slot = json!([]);
    }
    slot.as_array_mut()
}

/// Writes metadata.finalizers; no member for an empty list.
pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let metadata = metadata(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), json!(finalizers));
    }
}

/// Takes a member of `old`'s metadata over into `new`'s, or removes it where `old` has none.
pub fn keep(new: &mut Value, old: &Value, key: &str) {
    let before = old.pointer("/metadata").and_then(|metadata| metadata.get(key)).cloned();
    let metadata = metadata(new);
    match before {
        Some(value) => metadata.insert(key.to_owned(), value),
        None => metadata.remove(key),
    };
}

/// A point in time as Kubernetes writes it: whole seconds, UTC.
pub fn timestamp(at: Timestamp) -> String {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    whole.to_string()
}

/// `at` plus a number of seconds.
pub fn seconds_after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(seconds.seconds()).unwrap_or(at)
}

/// Counts metadata.generation up by one.
pub fn bump_generation(object: &mut Value) {
    let next = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default() + 1;
    metadata(object).insert("generation".to_owned(), json!(next));
}

/// Sets apiVersion and kind.
pub fn set_type(object: &mut Value, kind: &dyn Kind) {
    let gvk = kind.gvk();
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), json!(gvk.api_version()));
        map.insert("kind".to_owned(), json!(gvk.kind));
    }
}

/// Sets apiVersion and kind by name.
pub fn set_type_to(object: &mut Value, api_version: &str, kind: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), json!(api_version));
        map.insert("kind".to_owned(), json!(kind));
    }
}

/// Sets or replaces the condition of its type; lastTransitionTime moves only with the status.
pub fn set_condition(object: &mut Value, mut condition: Value, now: Timestamp) {
    let status = member(object, "status");
    let Some(conditions) = list(status, "conditions") else { return };
    let same = |other: &&mut Value| other.get("type") == condition.get("type");
    let previous = conditions.iter_mut().find(same);
    let unchanged = previous.as_ref().is_some_and(|other| other.get("status") == condition.get("status"));
    let transition = match &previous {
        Some(other) if unchanged => other.get("lastTransitionTime").cloned(),
        _ => None,
    };
    condition["lastTransitionTime"] = transition.unwrap_or_else(|| json!(timestamp(now)));
    match previous {
        Some(slot) => *slot = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds() {
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        assert_eq!(timestamp(at), "2026-01-02T03:04:05Z");
        assert_eq!(timestamp(seconds_after(at, 30)), "2026-01-02T03:04:35Z");
    }

    #[test]
    fn a_condition_moves_only_with_its_status() {
        let (early, late): (Timestamp, Timestamp) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap());
        let mut object = json!({});
        set_condition(&mut object, json!({"type": "Ready", "status": "True"}), early);
        set_condition(&mut object, json!({"type": "Ready", "status": "True", "reason": "Still"}), late);
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        set_condition(&mut object, json!({"type": "Ready", "status": "False"}), late);
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T00:00:00Z");
    }
}
