//! What of an object depends on who writes it and when, and therefore is no kind's own rule. Pure.

use balsa_api::cursor::{find, list, text};
use serde_json::{Map, Value, json};

use super::{Operation, Review};
use crate::value;

/// Fills it in, after the kind has prepared the object.
pub fn stamp(review: &Review<'_>, object: &mut Value) {
    let names = review.target.kind.names();
    let now = value::timestamp(review.call.now);
    match (names.group, names.plural, review.operation) {
        ("certificates.k8s.io", "certificatesigningrequests", Operation::Create) => requestor(review, object),
        ("certificates.k8s.io", "certificatesigningrequests", Operation::Update) => {
            condition_times(object, review.old.unwrap_or(&Value::Null), &now);
        }
        ("apiregistration.k8s.io", "apiservices", Operation::Create) => {
            if !balsa_api::kinds::api_service::is_remote(object) {
                object["status"] = json!({"conditions": [balsa_api::kinds::api_service::locally_available(&now)]});
            }
        }
        ("resource.k8s.io", "resourceslices", Operation::Create | Operation::Update) => taint_times(object, &now),
        _ => {}
    }
}

/// A request for a certificate says who asked; nobody says it for himself.
fn requestor(review: &Review<'_>, object: &mut Value) {
    let caller = &review.call.caller;
    let spec = value::member(object, "spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".to_owned(), json!(caller.user));
    if !caller.uid.is_empty() {
        spec.insert("uid".to_owned(), json!(caller.uid));
    }
    if !caller.groups.is_empty() {
        spec.insert("groups".to_owned(), json!(caller.groups));
    }
    if !caller.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(caller.extra));
    }
}

/// Conditions without times get them; the time of the transition stays where the status does.
fn condition_times(object: &mut Value, old: &Value, now: &str) {
    let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    for condition in conditions {
        let same = |other: &&Value| ["type", "status"].iter().all(|field| text(other, field) == text(condition, field));
        let before = list(old, "status.conditions").iter().find(same).map(|other| find(other, "lastTransitionTime").clone());
        for (field, time) in [("lastUpdateTime", None), ("lastTransitionTime", before)] {
            if find(condition, field).is_null() {
                condition[field] = time.filter(|time| !time.is_null()).unwrap_or_else(|| json!(now));
            }
        }
    }
}

fn taint_times(slice: &mut Value, now: &str) {
    let Some(devices) = slice.pointer_mut("/spec/devices").and_then(Value::as_array_mut) else { return };
    let taints = devices.iter_mut().filter_map(|device| device.get_mut("taints").and_then(Value::as_array_mut)).flatten();
    for taint in taints.filter_map(Value::as_object_mut) {
        let taint: &mut Map<String, Value> = taint;
        if taint.get("timeAdded").is_none_or(Value::is_null) {
            taint.insert("timeAdded".to_owned(), json!(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_move_with_the_status() {
        let old = json!({"status": {"conditions": [{"type": "A", "status": "True", "lastTransitionTime": "1"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}});
        condition_times(&mut new, &old, "2");
        assert_eq!(new["status"]["conditions"], json!([
            {"type": "A", "status": "True", "lastTransitionTime": "1", "lastUpdateTime": "2"},
            {"type": "B", "status": "True", "lastTransitionTime": "2", "lastUpdateTime": "2"}]));
        let mut slice = json!({"spec": {"devices": [{"taints": [{"key": "a"}, {"key": "b", "timeAdded": "1"}]}]}});
        taint_times(&mut slice, "2");
        assert_eq!(slice["spec"]["devices"][0]["taints"], json!([{"key": "a", "timeAdded": "2"}, {"key": "b", "timeAdded": "1"}]));
    }
}
