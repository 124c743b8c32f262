//! pods/binding: a pod gets its node, once.

use balsa_api::kind::Part;
use balsa_api::status::{ApiError, ApiResult};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::admission::{Operation, Review, hooks, topology};
use crate::pipeline::update::Write;
use crate::pipeline::{Api, Call, Found, Target, rules};
use crate::value;

/// The pod with its node, or why it cannot have it. Pure.
pub fn bind(target: Target<'_>, pod: &Value, binding: &Value, now: Timestamp) -> ApiResult<Value> {
    let conflict = |detail: &str| ApiError::conflict(&pod_binding(target), target.name, detail);
    let uid = value::uid(binding);
    let version = value::text(binding, "/metadata/resourceVersion");
    rules::Preconditions {
        uid: (!uid.is_empty()).then(|| uid.to_owned()),
        version: (!version.is_empty()).then(|| version.to_owned()),
    }
    .check(target, pod)?;
    if value::is_deleting(pod) {
        return Err(conflict(&format!("pod {} is being deleted, cannot be assigned to a host", target.name)));
    }
    let current = value::text(pod, "/spec/nodeName");
    if !current.is_empty() {
        return Err(conflict(&format!("pod {} is already assigned to node \"{current}\"", target.name)));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(&format!("pod {} has non-empty .spec.schedulingGates", target.name)));
    }
    let mut pod = pod.clone();
    value::member(&mut pod, "spec").insert("nodeName".to_owned(), binding["target"]["name"].clone());
    for map in ["labels", "annotations"] {
        let Some(added) = binding.pointer(&format!("/metadata/{map}")).and_then(Value::as_object) else { continue };
        let own = value::metadata(&mut pod).entry(map).or_insert_with(|| json!({}));
        if let Some(own) = own.as_object_mut() {
            own.extend(added.clone());
        }
    }
    value::set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null}), now);
    Ok(pod)
}

fn pod_binding(target: Target<'_>) -> balsa_api::meta::GroupVersionResource {
    let mut resource = target.kind.gvr();
    resource.resource = "pods/binding".to_owned();
    resource
}

impl Api {
    /// Binds a pod to the node that `binding` names.
    pub async fn bind(&self, call: &Call, target: Target<'_>, binding: &Value) -> ApiResult<Found> {
        let node = value::text(binding, "/target/name");
        let kind = value::text(binding, "/target/kind");
        let findings: Vec<_> = if !kind.is_empty() && kind != "Node" {
            vec![balsa_api::field::FieldError::not_supported("target.kind", kind, &["Node", "<empty>"])]
        } else if node.is_empty() {
            vec![balsa_api::field::FieldError::required("target.name", "")]
        } else {
            Vec::new()
        };
        if !findings.is_empty() {
            let binding_kind = balsa_api::meta::GroupVersionKind::new("", "v1", "Binding");
            return Err(ApiError::invalid(&binding_kind, target.name, &findings));
        }
        let review = Review { call, target, operation: Operation::Create, subresource: "binding", old: None };
        let mut binding = binding.clone();
        topology::label(self, node, &mut binding);
        let binding = hooks::post(self, &review, binding).await?;
        let write = Write { target, part: Part::Other("binding"), by_rules: false };
        self.modify(call, write, &|pod| bind(target, pod, &binding, call.now)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let kind = balsa_api::kinds::find("", "v1", "pods").unwrap();
        let target = Target { kind, namespace: "d", name: "p" };
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let binding = json!({"metadata": {"annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}});
        let pod = bind(target, &json!({"metadata": {"name": "p"}, "spec": {}}), &binding, now).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["metadata"]["annotations"]["a"], "b");
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        let error = bind(target, &pod, &binding, now).unwrap_err();
        assert_eq!(
            error.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
        );
    }
}
