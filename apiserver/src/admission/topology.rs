//! A pod on a node carries the labels of where the node stands.

use serde_json::{Value, json};

use crate::pipeline::Api;
use crate::value;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Copies the labels of the node to a pod, or to a Binding, whose labels become the pod's.
pub fn label(api: &Api, node: &str, object: &mut Value) {
    let cache = api.caches.resource("", "nodes");
    let Some(node) = cache.filter(|_| !node.is_empty()).and_then(|cache| cache.get("", node)) else { return };
    let found: Vec<(&str, &String)> = LABELS.iter().filter_map(|key| Some((*key, node.labels.get(*key)?))).collect();
    if found.is_empty() {
        return;
    }
    let labels = value::metadata(object).entry("labels").or_insert_with(|| json!({}));
    if !labels.is_object() {
        *labels = json!({});
    }
    for (key, text) in found {
        labels[key] = json!(text);
    }
}
