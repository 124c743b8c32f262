//! A node's agent writes its own Node and its own pods, and nothing of other nodes. Pure.

use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::{Operation, Review};
use crate::value;

/// 403 for what an agent may not touch.
pub fn admit(review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let Some(node) = review.call.caller.node() else { return Ok(()) };
    let names = review.target.kind.names();
    let refuse = |detail: String| Err(ApiError::forbidden(&review.target.kind.gvr(), review.target.name, &detail));
    match (names.group, names.plural) {
        ("", "nodes") => {
            if review.target.name != node {
                return refuse(format!("node \"{node}\" is not allowed to modify node \"{}\"", review.target.name));
            }
            if review.operation == Operation::Delete {
                return refuse(format!("node \"{node}\" is not allowed to delete node \"{node}\""));
            }
            match restricted_label(object, review.old) {
                Some(label) => refuse(format!("is not allowed to modify labels: {label}")),
                None => Ok(()),
            }
        }
        ("", "pods") => {
            let pod = review.old.unwrap_or(object);
            let own = value::text(pod, "/spec/nodeName");
            if review.operation == Operation::Create {
                let mirror = object.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
                return if mirror && own == node {
                    Ok(())
                } else {
                    refuse(format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"))
                };
            }
            if own != node {
                return refuse(format!("node \"{node}\" can only change pods with spec.nodeName set to itself"));
            }
            Ok(())
        }
        ("coordination.k8s.io", "leases") => {
            if review.target.namespace != "kube-node-lease" || review.target.name != node {
                return refuse(format!("can only access node lease with the same name as the requesting node \"{node}\""));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A label that only administrators set, if this write changes one.
fn restricted_label(new: &Value, old: Option<&Value>) -> Option<String> {
    let empty = serde_json::Map::new();
    let labels = |object: Option<&Value>| {
        object.and_then(|object| object.pointer("/metadata/labels")).and_then(Value::as_object).cloned().unwrap_or_else(|| empty.clone())
    };
    let (new, old) = (labels(Some(new)), labels(old));
    new.keys()
        .chain(old.keys())
        .find(|key| {
            let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
            let restricted = prefix == "node-restriction.kubernetes.io" || prefix.ends_with(".node-restriction.kubernetes.io");
            restricted && new.get(*key) != old.get(*key)
        })
        .cloned()
}
