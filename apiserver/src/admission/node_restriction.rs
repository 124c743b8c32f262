//! A node's agent writes its own Node and what belongs to its own pods, and nothing of other nodes.
//!
//! The authorizer sees no bodies; what depends on them is decided here. The rules are those of Kubernetes
//! (plugin/pkg/admission/noderestriction); the decisions are pure.

use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Map, Value};

use super::{Operation, Review};
use crate::authz::node::references;
use crate::pipeline::{Api, Call, Target};
use crate::value;

/// Labels of `kubernetes.io` and `k8s.io` that an agent sets on its own Node.
const AGENT_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// 403 for what an agent may not write.
pub async fn admit(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let Some(node) = review.call.caller.node() else { return Ok(()) };
    if review.creates("pods") {
        let kind = balsa_api::kinds::find("", "v1", "nodes").ok_or_else(ApiError::no_such_path)?;
        let target = Target { kind, namespace: "", name: node };
        let own = api.lookup(target).await?.map(|found| found.value);
        return decided(review.target, mirror_pod(node, object, own.as_ref()));
    }
    decided(review.target, decide(node, review, object))
}

/// 403 for an eviction of another node's pod.
pub fn admit_eviction(call: &Call, target: Target<'_>, pod: &Value) -> ApiResult<()> {
    let Some(node) = call.caller.node() else { return Ok(()) };
    let own = value::text(pod, "/spec/nodeName") == node;
    let refusal = format!("node {node} can only evict pods with spec.nodeName set to itself");
    decided(target, if own { Ok(()) } else { Err(refusal) })
}

/// 403 for a token that is not for a pod of the node, or for an audience that the pod does not ask for.
pub async fn admit_token(api: &Api, call: &Call, target: Target<'_>, request: &Value) -> ApiResult<()> {
    let Some(node) = call.caller.node() else { return Ok(()) };
    let reference = request.pointer("/spec/boundObjectRef").unwrap_or(&Value::Null);
    let name = value::text(reference, "/name");
    let bound = value::text(reference, "/apiVersion") == "v1" && value::text(reference, "/kind") == "Pod" && !name.is_empty();
    if !bound {
        return decided(target, Err("node requested token not bound to a pod".to_owned()));
    }
    let kind = balsa_api::kinds::find("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
    let pod_target = Target { kind, namespace: target.namespace, name };
    let pod = api.lookup(pod_target).await?.ok_or_else(|| pod_target.not_found())?.value;
    decided(target, token(node, request, &pod))?;
    let audiences = value::strings(request, "/spec/audiences");
    let asked = audiences.first().map(String::as_str).unwrap_or_default();
    if audiences.len() > 1 {
        return decided(target, Err("node may only request 0 or 1 audiences".to_owned()));
    }
    if asks_for_audience(&pod, asked) || driver_asks(api, &pod, asked).await? {
        return Ok(());
    }
    let attributes = crate::authz::rbac::Attributes {
        verb: "request-serviceaccounts-token-audience".to_owned(),
        version: "v1".to_owned(),
        resource: asked.to_owned(),
        namespace: target.namespace.to_owned(),
        name: target.name.to_owned(),
        ..Default::default()
    };
    if api.authorizer.policy().allows(&call.caller, &attributes).is_some() {
        return Ok(());
    }
    let user = &call.caller.user;
    decided(target, Err(format!(
        "audience {asked:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    )))
}

fn decided(target: Target<'_>, outcome: Result<(), String>) -> ApiResult<()> {
    outcome.map_err(|detail| ApiError::forbidden(&target.kind.gvr(), target.name, &detail))
}

fn decide(node: &str, review: &Review<'_>, object: &Value) -> Result<(), String> {
    let names = review.target.kind.names();
    let same_name = |what: &str| {
        if review.target.name == node {
            Ok(())
        } else {
            Err(format!("can only access {what} with the same name as the requesting node"))
        }
    };
    match (names.group, names.plural) {
        ("", "nodes") => own_node(node, review, object),
        ("", "pods") => pods(node, review, object),
        ("", "persistentvolumeclaims") => claim_status(node, review, object),
        ("coordination.k8s.io", "leases") if review.target.namespace != "kube-node-lease" => {
            Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned())
        }
        ("coordination.k8s.io", "leases") => same_name("node lease"),
        ("storage.k8s.io", "csinodes") => same_name("CSINode"),
        ("resource.k8s.io", "resourceslices") => {
            let own = value::text(review.old.unwrap_or(object), "/spec/nodeName") == node;
            match review.operation {
                Operation::Create if !own => Err("can only create ResourceSlice with the same NodeName as the requesting node".to_owned()),
                Operation::Delete if !own => Err("can only delete ResourceSlice with the same NodeName as the requesting node".to_owned()),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn pods(node: &str, review: &Review<'_>, object: &Value) -> Result<(), String> {
    let old = review.old.unwrap_or(object);
    let own = value::text(old, "/spec/nodeName") == node;
    match (review.subresource, review.operation) {
        ("", Operation::Delete) if own => Ok(()),
        ("", Operation::Delete) => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        ("", _) => Err(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods")),
        ("status", _) if !own => Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")),
        ("status", _) => {
            if old.pointer("/metadata/labels") != object.pointer("/metadata/labels") {
                return Err(format!("node {node:?} cannot update labels through pod status"));
            }
            if old.pointer("/status/resourceClaimStatuses") != object.pointer("/status/resourceClaimStatuses") {
                return Err(format!("node {node:?} cannot update resource claim statues"));
            }
            if old.pointer("/status/extendedResourceClaimStatus") != object.pointer("/status/extendedResourceClaimStatus") {
                return Err(format!("node {node:?} cannot update extended resource claim status"));
            }
            Ok(())
        }
        ("eviction", _) => Ok(()),
        (other, _) => Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")),
    }
}

/// A pod that an agent makes shows one that runs from a file on its node, and names nothing of the cluster.
fn mirror_pod(node: &str, pod: &Value, own: Option<&Value>) -> Result<(), String> {
    if !references::is_mirror(pod) {
        return Err(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
        ));
    }
    if value::text(pod, "/spec/nodeName") != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let owner = match owners {
        [] => return Err(format!("node {node:?} can only create pods with an owner reference set to itself")),
        [owner] => owner,
        _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let Some(own) = own else { return Err(format!("error looking up node {node} to verify uid: node \"{node}\" not found")) };
    let (given, uid) = (value::text(owner, "/uid"), value::uid(own));
    if given != uid {
        return Err(format!("node {node} UID mismatch: expected {given} got {uid}"));
    }
    let mut bare = pod.clone();
    value::metadata(&mut bare).remove("annotations");
    let resource = references::of_pod(&bare).into_iter().next().map(|(what, ..)| match what {
        references::What::Secret => "secrets",
        references::What::ConfigMap => "configmaps",
        references::What::Claim => "persistentvolumeclaims",
        references::What::Account => "serviceaccounts",
        references::What::ResourceClaim => "resourceclaims",
    });
    match resource {
        Some(resource) => Err(format!("node {node:?} can not create pods that reference {resource}")),
        None => Ok(()),
    }
}

/// Capacity and conditions are what an agent says of a claim; nothing else of it may change.
fn claim_status(node: &str, review: &Review<'_>, object: &Value) -> Result<(), String> {
    let Some(old) = review.old.filter(|_| review.subresource == "status") else {
        return Err("may only update PVC status".to_owned());
    };
    let bare = |object: &Value| {
        let mut object = object.clone();
        value::metadata(&mut object).retain(|key, _| key != "resourceVersion" && key != "managedFields");
        let status = value::member(&mut object, "status");
        status.retain(|key, _| !matches!(key.as_str(), "capacity" | "conditions" | "allocatedResourceStatuses" | "allocatedResources"));
        object
    };
    if bare(old) == bare(object) {
        Ok(())
    } else {
        Err(format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions"))
    }
}

fn own_node(node: &str, review: &Review<'_>, object: &Value) -> Result<(), String> {
    let name = review.target.name;
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    match (review.operation, review.old) {
        (Operation::Delete, _) => Err(format!("node {node:?} is not allowed to delete node {node:?}")),
        (Operation::Update, Some(old)) => {
            for (pointer, what) in [("/spec/taints", "taints"), ("/metadata/ownerReferences", "ownerReferences")] {
                if old.pointer(pointer) != object.pointer(pointer) {
                    return Err(format!("node {node:?} is not allowed to modify {what}"));
                }
            }
            match forbidden_labels(object, Some(old)) {
                labels if labels.is_empty() => Ok(()),
                labels => Err(format!("is not allowed to modify labels: {labels}")),
            }
        }
        _ => match forbidden_labels(object, None) {
            labels if labels.is_empty() => Ok(()),
            labels => Err(format!("node {node:?} is not allowed to set the following labels: {labels}")),
        },
    }
}

/// Labels that this write changes and that only others may, by name.
fn forbidden_labels(new: &Value, old: Option<&Value>) -> String {
    let empty = Map::new();
    let labels = |object: Option<&Value>| {
        let labels = object.and_then(|object| object.pointer("/metadata/labels")).and_then(Value::as_object);
        labels.cloned().unwrap_or_else(|| empty.clone())
    };
    let (new, old) = (labels(Some(new)), labels(old));
    let changed = new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key));
    let mut forbidden: Vec<&str> = changed.map(String::as_str).filter(|key| is_forbidden_label(key)).collect();
    forbidden.sort_unstable();
    forbidden.dedup();
    forbidden.join(", ")
}

fn is_forbidden_label(key: &str) -> bool {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    let within = |domain: &str| prefix.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    of_kubernetes && !AGENT_LABELS.contains(&key) && !within("kubelet.kubernetes.io") && !within("node.kubernetes.io")
}

fn token(node: &str, request: &Value, pod: &Value) -> Result<(), String> {
    let uid = value::text(request, "/spec/boundObjectRef/uid");
    if uid.is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    if uid != value::uid(pod) {
        return Err(format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"));
    }
    if value::text(pod, "/spec/nodeName") != node {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    Ok(())
}

fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten()
}

fn asks_for_audience(pod: &Value, audience: &str) -> bool {
    let sources = volumes(pod).filter_map(|volume| volume.pointer("/projected/sources")?.as_array()).flatten();
    sources.filter_map(|source| source.get("serviceAccountToken")).any(|token| value::text(token, "/audience") == audience)
}

/// Whether a CSI driver of one of the pod's volumes asks for tokens of this audience.
async fn driver_asks(api: &Api, pod: &Value, audience: &str) -> ApiResult<bool> {
    let find = async |group: &str, version: &str, plural: &str, namespace: &str, name: &str| -> ApiResult<Value> {
        let Some(kind) = balsa_api::kinds::find(group, version, plural) else { return Ok(Value::Null) };
        let found = api.lookup(Target { kind, namespace, name }).await?;
        Ok(found.map(|found| found.value).unwrap_or_default())
    };
    for volume in volumes(pod) {
        let claim = match volume.get("ephemeral") {
            Some(template) if template.is_object() => format!("{}-{}", value::name(pod), value::text(volume, "/name")),
            _ => value::text(volume, "/persistentVolumeClaim/claimName").to_owned(),
        };
        let driver = if claim.is_empty() {
            value::text(volume, "/csi/driver").to_owned()
        } else {
            let claim = find("", "v1", "persistentvolumeclaims", value::namespace(pod), &claim).await?;
            let bound = find("", "v1", "persistentvolumes", "", value::text(&claim, "/spec/volumeName")).await?;
            value::text(&bound, "/spec/csi/driver").to_owned()
        };
        if driver.is_empty() {
            continue;
        }
        let driver = find("storage.k8s.io", "v1", "csidrivers", "", &driver).await?;
        let requests = driver.pointer("/spec/tokenRequests").and_then(Value::as_array);
        if requests.into_iter().flatten().any(|request| value::text(request, "/audience") == audience) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_that_steer_work_are_not_the_agents() {
        let allowed = ["own", "example.com/x", "kubernetes.io/hostname", "node.kubernetes.io/x", "x.kubelet.kubernetes.io/y"];
        let refused = [
            "node-restriction.kubernetes.io/x", "a.node-restriction.kubernetes.io/x", "node-role.kubernetes.io/master",
            "kubernetes.io/x", "k8s.io/x", "a.k8s.io/x",
        ];
        assert!(allowed.iter().all(|key| !is_forbidden_label(key)));
        assert!(refused.iter().all(|key| is_forbidden_label(key)));
        let node = |labels: Value| json!({"metadata": {"labels": labels}});
        let old = node(json!({"k8s.io/x": "1", "own": "1"}));
        assert_eq!(forbidden_labels(&node(json!({"k8s.io/x": "1"})), Some(&old)), "");
        assert_eq!(forbidden_labels(&node(json!({"own": "1"})), Some(&old)), "k8s.io/x", "nor may it take one away");
    }

    #[test]
    fn a_mirror_pod_names_nothing_of_the_cluster() {
        let own = json!({"metadata": {"name": "n", "uid": "u"}});
        let mut pod = json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true}]},
            "spec": {"nodeName": "n", "containers": []}});
        assert_eq!(mirror_pod("n", &pod, Some(&own)), Ok(()));
        assert!(mirror_pod("m", &pod, Some(&own)).is_err());
        pod["spec"]["volumes"] = json!([{"secret": {"secretName": "s"}}]);
        assert_eq!(mirror_pod("n", &pod, Some(&own)), Err("node \"n\" can not create pods that reference secrets".to_owned()));
    }

    #[test]
    fn tokens_are_for_pods_of_the_node() {
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "n", "volumes": [
            {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"serviceAccountToken": {"audience": "vault"}}]}}]}});
        let request = |uid: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "uid": uid}}});
        assert!(token("n", &request("u"), &pod).is_ok());
        assert!(token("m", &request("u"), &pod).is_err() && token("n", &request(""), &pod).is_err() && token("n", &request("w"), &pod).is_err());
        assert!(asks_for_audience(&pod, "") && asks_for_audience(&pod, "vault") && !asks_for_audience(&pod, "x"));
    }
}
