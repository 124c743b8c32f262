//! Which nodes a DaemonSet wants a pod on, what a pod for a node looks like, and for which node a pod is.

use std::collections::BTreeMap;

use balsa_api::kinds::pod::scheduling::{pod_wants_node, untolerated};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::common::owners::Owner;
use crate::common::pods;
use crate::replicaset::plan::pod_from_template;

/// Label: the hash of the template that a pod was made from.
pub const HASH: &str = "controller-revision-hash";
/// Label: the number of the template, kept for pods of old.
const GENERATION: &str = "pod-template-generation";
/// Annotation of the set: the same number.
const SET_GENERATION: &str = "deprecated.daemonset.template.generation";

fn tolerate(spec: &mut PodSpec) {
    let network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    let mut add = |key: &str, effect: &str| {
        let wanted = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        // A toleration of the same taint gives way.
        match tolerations.iter_mut().find(|one| one.key == wanted.key && one.effect == wanted.effect && one.operator == wanted.operator && one.value == wanted.value) {
            Some(one) => *one = wanted,
            None => tolerations.push(wanted),
        }
    };
    add("not-ready", "NoExecute");
    add("unreachable", "NoExecute");
    for key in ["disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"] {
        add(key, "NoSchedule");
    }
    if network {
        add("network-unavailable", "NoSchedule");
    }
}

/// The pod of the template with the tolerations that every daemon has, for no node yet.
pub fn bare(spec: &DaemonSetSpec, owner: &Owner) -> Pod {
    let mut pod = pod_from_template(&spec.template, owner);
    tolerate(pod.spec.get_or_insert_default());
    pod
}

/// (a pod should be there, a pod that is there may stay)
pub fn wants(bare: &Pod, node: &Node) -> (bool, bool) {
    let Some(spec) = &bare.spec else { return (false, false) };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let named = spec.node_name.as_deref().unwrap_or_default();
    if !(named.is_empty() || named == name) || !pod_wants_node(bare, node) {
        return (false, false);
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if untolerated(taints, tolerations, &["NoExecute", "NoSchedule"]).is_none() {
        return (true, true);
    }
    (false, untolerated(taints, tolerations, &["NoExecute"]).is_none())
}

/// The number of the template, where the set carries one.
pub fn generation(set: &DaemonSet) -> Option<&str> {
    set.metadata.annotations.as_ref()?.get(SET_GENERATION).map(String::as_str).filter(|text| text.parse::<i64>().is_ok())
}

/// The pod for a node.
pub fn pod(bare: &Pod, generation: Option<&str>, hash: &str, node: &str) -> Pod {
    let mut pod = bare.clone();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    if let Some(generation) = generation {
        labels.insert(GENERATION.to_owned(), generation.to_owned());
    }
    let affinity = pod.spec.get_or_insert_default().affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    });
    pod
}

/// The node that a pod is on, or is for.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let assigned = pods::node(pod);
    if !assigned.is_empty() {
        return Some(assigned);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
    named.filter_map(|field| field.values.as_deref()).find_map(|values| match values {
        [one] => Some(one.as_str()),
        _ => None,
    })
}

/// Whether a pod was made from the present template.
pub fn is_updated(pod: &Pod, generation: Option<&str>, hash: &str) -> bool {
    let empty = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    labels.get(HASH).is_some_and(|label| label == hash)
        || generation.is_some_and(|generation| labels.get(GENERATION).is_some_and(|label| label == generation))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(labels: Value, taints: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}})).unwrap()
    }

    #[test]
    fn which_nodes_fit() {
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let cases = [
            (json!({}), json!({}), json!([]), (true, true)),
            (json!({"nodeSelector": {"disk": "ssd"}}), json!({}), json!([]), (false, false)),
            (json!({"nodeSelector": {"disk": "ssd"}}), json!({"disk": "ssd"}), json!([]), (true, true)),
            (json!({"nodeName": "n2"}), json!({}), json!([]), (false, false)),
            (json!({}), json!({}), taint("dedicated", "NoSchedule"), (false, true)),
            (json!({}), json!({}), taint("dedicated", "NoExecute"), (false, false)),
            (json!({}), json!({}), taint("dedicated", "PreferNoSchedule"), (true, true)),
            (json!({}), json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), (true, true)),
            (json!({}), json!({}), taint("node.kubernetes.io/not-ready", "NoExecute"), (true, true)),
            (json!({}), json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), (false, true)),
            (json!({"hostNetwork": true}), json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), (true, true)),
            (json!({"tolerations": [{"operator": "Exists"}]}), json!({}), taint("dedicated", "NoExecute"), (true, true)),
        ];
        for (mut template, labels, taints, expected) in cases {
            template["containers"] = json!([]);
            let spec: DaemonSetSpec = serde_json::from_value(json!({"selector": {}, "template": {"spec": template}})).unwrap();
            let owner = Owner { api_version: String::new(), kind: String::new(), namespace: String::new(), name: "d".to_owned(), uid: String::new() };
            let bare = bare(&spec, &owner);
            assert_eq!(wants(&bare, &node(labels.clone(), taints.clone())), expected, "{template} {labels} {taints}");
            let made = pod(&bare, None, "abc", "n1");
            assert_eq!(node_of(&made), Some(template["nodeName"].as_str().unwrap_or("n1")));
        }
    }
}
