//! The PATCH that makes the API's status say what ours says.
//!
//! Pure. Conditions of others are kept: a strategic merge patch merges them by type.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};

/// Members of a status that the agent owns.
const OWN: &[&str] = &[
    "phase",
    "reason",
    "message",
    "startTime",
    "qosClass",
    "observedGeneration",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];

/// A strategic merge patch for `/status`; `None` where the API says all of it already.
pub fn status(pod: &Pod, wanted: &PodStatus) -> Option<Value> {
    let old = serde_json::to_value(pod.status.as_ref()).unwrap_or_default();
    let new = serde_json::to_value(wanted).unwrap_or_default();
    let mut changes = Map::new();
    for member in OWN {
        let (old, new) = (old.get(*member), new.get(*member));
        if old == new {
            continue;
        }
        match *member {
            // The text belongs to whoever wrote it last, where we have nothing to say.
            "reason" | "message" if new.is_none() => {}
            "podIPs" | "hostIPs" => {
                changes.insert((*member).to_owned(), addresses(old, new));
            }
            _ => {
                changes.insert((*member).to_owned(), new.cloned().unwrap_or_default());
            }
        }
    }
    let conditions = changed_conditions(old.get("conditions"), new.get("conditions"));
    if !conditions.is_empty() {
        changes.insert("conditions".to_owned(), Value::Array(conditions));
    }
    if changes.is_empty() {
        return None;
    }
    Some(json!({ "metadata": { "uid": pod.metadata.uid }, "status": changes }))
}

/// Addresses are merged by address, so those that are no more have to be taken out by name.
fn addresses(old: Option<&Value>, new: Option<&Value>) -> Value {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, mut patch) = (list(old), list(new));
    let gone: Vec<_> = old
        .iter()
        .filter(|address| !patch.contains(address))
        .map(|address| json!({ "$patch": "delete", "ip": address["ip"] }))
        .collect();
    patch.extend(gone);
    Value::Array(patch)
}

/// Conditions that are ours and go when what they say is over.
const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn changed_conditions(old: Option<&Value>, new: Option<&Value>) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    let has = |all: &[Value], kind: &str| all.iter().any(|condition| condition["type"] == kind);
    let over = PASSING.iter().filter(|kind| has(&old, kind) && !has(&new, kind));
    let over: Vec<Value> = over.map(|kind| json!({ "$patch": "delete", "type": kind })).collect();
    new.into_iter()
        .filter_map(|mut condition| {
            let before = old.iter().find(|before| before["type"] == condition["type"]);
            let same = before.is_some_and(|before| {
                ["status", "reason", "message", "observedGeneration"].iter().all(|key| before.get(*key) == condition.get(*key))
            });
            if same {
                return None;
            }
            let members = condition.as_object_mut()?;
            for key in ["reason", "message"] {
                // Absent in a merge patch means unchanged; we mean none.
                members.entry(key).or_insert(Value::Null);
            }
            Some(condition)
        })
        .chain(over)
        .collect()
}

/// What the pod looks like once the patch is in: the base of the next one, before the watch brings it.
pub fn applied(pod: &Pod, wanted: &PodStatus) -> Pod {
    let mut pod = pod.clone();
    let old = pod.status.take().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    let still = |kind: &str| wanted.conditions.iter().flatten().any(|condition| condition.type_ == kind);
    conditions.retain(|condition| !PASSING.contains(&condition.type_.as_str()) || still(&condition.type_));
    for condition in wanted.conditions.iter().flatten() {
        match conditions.iter_mut().find(|old| old.type_ == condition.type_) {
            Some(old) => *old = condition.clone(),
            None => conditions.push(condition.clone()),
        }
    }
    pod.status = Some(PodStatus {
        conditions: Some(conditions),
        nominated_node_name: old.nominated_node_name,
        resize: old.resize,
        resource_claim_statuses: old.resource_claim_statuses,
        ..wanted.clone()
    });
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p", "uid": "u" }, "status": status })).unwrap()
    }

    #[test]
    fn nothing_changed_means_no_patch() {
        let pod = pod(json!({ "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }] }));
        assert_eq!(status(&pod, &pod.status.clone().unwrap()), None);
    }

    #[test]
    fn foreign_conditions_and_texts_stay() {
        let pod = pod(json!({ "message": "by a test", "conditions": [
            { "type": "Mine", "status": "True" }, { "type": "Ready", "status": "False", "reason": "x" }] }));
        let wanted: PodStatus =
            serde_json::from_value(json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] }))
                .unwrap();
        let patch = status(&pod, &wanted).unwrap();
        assert_eq!(
            patch["status"],
            json!({ "phase": "Running", "conditions": [
                { "type": "Ready", "status": "True", "reason": null, "message": null }] })
        );
        assert_eq!(applied(&pod, &wanted).status.unwrap().conditions.unwrap().len(), 2);
    }

    #[test]
    fn a_resize_that_is_over_takes_its_condition_along() {
        let pod = pod(json!({ "conditions": [{ "type": "PodResizeInProgress", "status": "True" }] }));
        let wanted = PodStatus::default();
        let patch = status(&pod, &wanted).unwrap();
        assert_eq!(patch["status"]["conditions"], json!([{ "$patch": "delete", "type": "PodResizeInProgress" }]));
        assert_eq!(applied(&pod, &wanted).status.unwrap().conditions, Some(Vec::new()));
    }

    #[test]
    fn a_new_address_takes_the_old_one_out() {
        let pod = pod(json!({ "podIPs": [{ "ip": "10.0.0.1" }] }));
        let wanted: PodStatus = serde_json::from_value(json!({ "podIPs": [{ "ip": "10.0.0.2" }] })).unwrap();
        let patch = status(&pod, &wanted).unwrap();
        assert_eq!(patch["status"]["podIPs"], json!([{ "ip": "10.0.0.2" }, { "$patch": "delete", "ip": "10.0.0.1" }]));
    }
}
