//! A resize must fit the pod's node as a whole; whether it fits beside the node's other pods is the node agent's word.

use balsa_api::quantity::Quantity;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::{Operation, Review};
use crate::pipeline::{Api, Target};
use crate::value;

/// Whether a write goes through `pods/resize`.
pub fn is_resize(review: &Review<'_>) -> bool {
    let names = review.target.kind.names();
    review.operation == Operation::Update && names.group.is_empty() && names.plural == "pods" && review.subresource == "resize"
}

/// Refuses what the node could not give even if it were empty.
pub async fn admit(api: &Api, review: &Review<'_>, pod: &Value) -> ApiResult<()> {
    let generation = |pod: &Value| pod.pointer("/metadata/generation").and_then(Value::as_i64);
    let node_name = value::text(pod, "/spec/nodeName");
    if node_name.is_empty() || review.old.is_some_and(|old| generation(old) == generation(pod)) {
        return Ok(());
    }
    let kind = balsa_api::kinds::find("", "v1", "nodes").ok_or_else(ApiError::no_such_path)?;
    let forbidden = |detail: &str| ApiError::forbidden(&review.target.kind.gvr(), review.target.name, detail);
    let node = api.lookup(Target { kind, namespace: "", name: node_name }).await?;
    let node = node.ok_or_else(|| forbidden(&format!("node {node_name:?} not found")))?.value;
    let complaints = complaints(pod, &node);
    if complaints.is_empty() {
        return Ok(());
    }
    let detail = format!("node didn't have enough allocatable resources: {}", complaints.join("; "));
    Err(forbidden(&detail).with_cause("NodeCapacity", "", ""))
}

fn amount(container: &Value, name: &str) -> Quantity {
    let resources = container.get("resources");
    let of = |part: &str| resources.and_then(|resources| resources.get(part)).and_then(|list| list.get(name)).and_then(Value::as_str);
    Quantity::lenient(of("requests").or_else(|| of("limits")).unwrap_or("0"))
}

/// The pod's effective request of one resource: what runs together or the largest init step, and overhead.
fn request(pod: &Value, name: &str) -> Quantity {
    let list = |at: &str| pod.pointer(at).and_then(Value::as_array).cloned().unwrap_or_default();
    let (mut sidecars, mut largest) = (Quantity::ZERO, Quantity::ZERO);
    for container in list("/spec/initContainers") {
        let step = sidecars.plus(&amount(&container, name));
        if container["restartPolicy"] == "Always" {
            sidecars = step;
        } else if step.nanos() > largest.nanos() {
            largest = step;
        }
    }
    let together = list("/spec/containers").iter().fold(sidecars, |sum, container| sum.plus(&amount(container, name)));
    let own = pod.pointer(&format!("/spec/resources/requests/{name}")).and_then(Value::as_str).map(Quantity::lenient);
    let containers = if largest.nanos() > together.nanos() { largest } else { together };
    let overhead = pod.pointer(&format!("/spec/overhead/{name}")).and_then(Value::as_str).unwrap_or("0");
    own.unwrap_or(containers).plus(&Quantity::lenient(overhead))
}

/// Pure.
fn complaints(pod: &Value, node: &Value) -> Vec<String> {
    let allocatable = |name: &str| {
        let text = node.pointer(&format!("/status/allocatable/{name}")).and_then(Value::as_str);
        Quantity::lenient(text.unwrap_or("0"))
    };
    let mut complaints = Vec::new();
    for name in ["cpu", "memory"] {
        let (wanted, there) = (request(pod, name), allocatable(name));
        if wanted.nanos() > there.nanos() {
            let shown = |quantity: &Quantity| if name == "cpu" { quantity.millis() } else { quantity.units() };
            complaints.push(format!("{name}, requested: {}, allocatable: {}", shown(&wanted), shown(&there)));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_whole_node_is_the_limit() {
        let node = json!({"status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        let pod = |cpu: &str, memory: &str| json!({"spec": {
            "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"memory": memory}}}]}});
        assert!(complaints(&pod("1500m", "1Gi"), &node).is_empty());
        assert_eq!(
            complaints(&pod("1501m", "2Gi"), &node),
            ["cpu, requested: 2001, allocatable: 2000", "memory, requested: 2147483648, allocatable: 1073741824"]
        );
    }
}
