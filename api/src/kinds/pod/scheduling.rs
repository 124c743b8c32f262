//! Whether a pod may stand on a node, as far as labels and taints say: tolerations, node selectors, node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use crate::selector::{Operator, Requirement};

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    if !key.is_empty() && key != taint.key {
        return false;
    }
    let (value, tainted) = (text(&toleration.value), text(&taint.value));
    match text(&toleration.operator).as_str() {
        "" | "Equal" => value == tainted && !key.is_empty(),
        "Exists" => true,
        "Lt" | "Gt" => match (tainted.parse::<i64>(), value.parse::<i64>()) {
            (Ok(have), Ok(bound)) => {
                if toleration.operator.as_deref() == Some("Lt") { have < bound } else { have > bound }
            }
            _ => false,
        },
        _ => false,
    }
}

/// The first taint with one of these effects that no toleration covers.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let mut values = requirement.values.clone().unwrap_or_default();
    values.sort();
    let bound = || values.first().and_then(|value| value.parse::<i64>().ok());
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => match bound() {
            Some(bound) => Operator::GreaterThan(bound),
            None => return false,
        },
        "Lt" => match bound() {
            Some(bound) => Operator::LessThan(bound),
            None => return false,
        },
        _ => return false,
    };
    Requirement { key: requirement.key.clone(), operator }.matches(value)
}

/// Whether a node fulfils a term. An empty term is fulfilled by nothing.
pub fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|one| requirement(one, labels.get(&one.key).map(String::as_str)))
        && fields.iter().all(|one| requirement(one, (one.key == "metadata.name").then_some(name)))
}

/// Whether a node fulfils one of a selector's terms.
pub fn selector_matches(selector: &NodeSelector, labels: &BTreeMap<String, String>, name: &str) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, labels, name))
}

/// Whether a node fulfils a pod's node selector and required node affinity.
pub fn pod_wants_node(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| selector_matches(required, labels, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn tolerations() {
        let taint: Taint = from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).expect("taint");
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "x", "operator": "Exists"}), false),
        ] {
            let parsed: Toleration = from_value(toleration.clone()).expect("toleration");
            assert_eq!(tolerates(&parsed, &taint), expected, "{toleration}");
        }
    }

    #[test]
    fn affinity() {
        let node: Node = from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "n": "5"}}})).expect("node");
        let wants = |terms: Value| {
            let pod: Pod = from_value(json!({"spec": {"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}}))
            .expect("pod");
            pod_wants_node(&pod, &node)
        };
        assert!(wants(json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}, {"key": "n", "operator": "Gt", "values": ["4"]}]}])));
        assert!(wants(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])));
        assert!(!wants(json!([{}])));
        assert!(!wants(json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}])));
    }
}
