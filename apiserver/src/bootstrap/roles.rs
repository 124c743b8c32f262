//! The roles and bindings that every cluster has from the start. Pure data.

use serde_json::{Value, json};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}})
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(name), "rules": rules})
}

/// A role that others are added up into, by label.
fn aggregate(name: &str, to: &str, rules: Vec<Value>) -> Value {
    let mut role = role(name, rules);
    role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] = json!("true");
    role
}

fn sum(name: &str, of: &[&str]) -> Value {
    let selectors: Vec<Value> = of
        .iter()
        .map(|one| {
            let mut labels = serde_json::Map::new();
            labels.insert(format!("rbac.authorization.k8s.io/aggregate-to-{one}"), json!("true"));
            json!({"matchLabels": labels})
        })
        .collect();
    let mut role = role(name, Vec::new());
    role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    if name != "admin" {
        let above = if name == "edit" { "admin" } else { "edit" };
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{above}")] = json!("true");
    }
    role
}

fn binding(name: &str, role: &str, subjects: &[(&str, &str)]) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|(kind, name)| json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}))
        .collect();
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": subjects})
}

/// Everything, roles before bindings.
pub fn all() -> Vec<Value> {
    let mut all = people();
    all.extend(discovery());
    all.extend(components());
    all.extend(bindings());
    all
}

fn people() -> Vec<Value> {
    let viewed = &[
        "bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces", "namespaces/status",
        "persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/log", "pods/status",
        "replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status", "resourcequotas",
        "resourcequotas/status", "serviceaccounts", "services", "services/status",
    ];
    let apps = &[
        "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status",
        "replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status",
    ];
    let batch = &["cronjobs", "cronjobs/status", "jobs", "jobs/status"];
    let network = &["ingresses", "ingresses/status", "networkpolicies"];
    let mut everything = rule(&["*"], &["*"], &["*"]);
    let mut paths = json!({"nonResourceURLs": ["*"], "verbs": ["*"]});
    let all = vec![std::mem::take(&mut everything), std::mem::take(&mut paths)];
    vec![
        role("cluster-admin", all),
        sum("admin", &["admin"]),
        sum("edit", &["edit"]),
        sum("view", &["view"]),
        aggregate("system:aggregate-to-view", "view", vec![
            rule(&[""], viewed, READ),
            rule(&["apps"], apps, READ),
            rule(&["batch"], batch, READ),
            rule(&["autoscaling"], &["horizontalpodautoscalers", "horizontalpodautoscalers/status"], READ),
            rule(&["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"], READ),
            rule(&["networking.k8s.io"], network, READ),
            rule(&["discovery.k8s.io"], &["endpointslices"], READ),
            rule(&["events.k8s.io"], &["events"], READ),
        ]),
        aggregate("system:aggregate-to-edit", "edit", vec![
            rule(&[""], &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"], READ),
            rule(&[""], &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"], WRITE),
            rule(&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]),
            rule(&[""], &["serviceaccounts"], &["impersonate"]),
            rule(&[""], &["configmaps", "events", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale",
                "secrets", "serviceaccounts", "services", "services/proxy"], WRITE),
            rule(&["apps"], &["daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets", "replicasets/scale",
                "statefulsets", "statefulsets/scale"], WRITE),
            rule(&["batch"], &["cronjobs", "jobs"], WRITE),
            rule(&["autoscaling"], &["horizontalpodautoscalers"], WRITE),
            rule(&["policy"], &["poddisruptionbudgets"], WRITE),
            rule(&["networking.k8s.io"], &["ingresses", "networkpolicies"], WRITE),
            rule(&["coordination.k8s.io"], &["leases"], ALL),
        ]),
        aggregate("system:aggregate-to-admin", "admin", vec![
            rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
            rule(&["rbac.authorization.k8s.io"], &["rolebindings", "roles"], ALL),
        ]),
    ]
}

fn discovery() -> Vec<Value> {
    let paths = |paths: &[&str]| json!({"nonResourceURLs": paths, "verbs": ["get"]});
    vec![
        role("system:discovery", vec![paths(&["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/", "/"])]),
        role("system:public-info-viewer", vec![paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])]),
        role("system:service-account-issuer-discovery", vec![paths(&["/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/"])]),
        role("system:monitoring", vec![paths(&["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"])]),
        role("system:basic-user", vec![
            rule(&["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]),
            rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
        ]),
        role("system:auth-delegator", vec![
            rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
            rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        ]),
    ]
}

fn components() -> Vec<Value> {
    let leader = || rule(&["coordination.k8s.io"], &["leases"], &["create", "get", "list", "update", "patch", "watch", "delete"]);
    let events = || rule(&["", "events.k8s.io"], &["events"], &["create", "get", "list", "patch", "update", "watch"]);
    let storage = &["storageclasses", "csinodes", "csidrivers", "csistoragecapacities", "volumeattachments"];
    vec![
        role("system:node", vec![
            rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
            rule(&["authorization.k8s.io"], &["localsubjectaccessreviews", "subjectaccessreviews"], &["create"]),
            rule(&[""], &["services", "namespaces", "endpoints"], READ),
            rule(&["discovery.k8s.io"], &["endpointslices"], READ),
            rule(&["networking.k8s.io"], &["networkpolicies"], READ),
            rule(&[""], &["nodes"], &["create", "get", "list", "watch", "update", "patch"]),
            rule(&[""], &["nodes/status"], &["get", "update", "patch"]),
            events(),
            rule(&[""], &["pods"], &["get", "list", "watch", "create", "delete", "patch"]),
            rule(&[""], &["pods/status"], &["get", "update", "patch"]),
            rule(&[""], &["pods/eviction"], &["create"]),
            rule(&[""], &["configmaps", "secrets"], READ),
            rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], READ),
            rule(&[""], &["persistentvolumeclaims/status"], &["get", "update", "patch"]),
            rule(&[""], &["serviceaccounts"], READ),
            rule(&[""], &["serviceaccounts/token"], &["create"]),
            leader(),
            rule(&["storage.k8s.io"], storage, READ),
            rule(&["storage.k8s.io"], &["csinodes"], &["create", "delete", "update", "patch"]),
            rule(&["node.k8s.io"], &["runtimeclasses"], READ),
        ]),
        role("system:kube-scheduler", vec![
            events(),
            leader(),
            rule(&[""], &["nodes", "namespaces", "pods", "replicationcontrollers", "services", "persistentvolumeclaims", "persistentvolumes"], READ),
            rule(&[""], &["pods"], &["delete", "patch", "update"]),
            rule(&[""], &["bindings", "pods/binding"], &["create"]),
            rule(&[""], &["pods/status"], &["patch", "update"]),
            rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], &["patch", "update"]),
            rule(&["apps"], &["replicasets", "statefulsets"], READ),
            rule(&["policy"], &["poddisruptionbudgets"], READ),
            rule(&["scheduling.k8s.io"], &["priorityclasses"], READ),
            rule(&["node.k8s.io"], &["runtimeclasses"], READ),
            rule(&["storage.k8s.io"], storage, READ),
            rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
            rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        ]),
        // Garbage collection and namespace deletion touch every kind.
        role("system:kube-controller-manager", vec![
            rule(&["*"], &["*"], &["*"]),
            json!({"nonResourceURLs": ["*"], "verbs": ["get"]}),
        ]),
        role("system:volume-scheduler", vec![
            rule(&[""], &["persistentvolumes", "persistentvolumeclaims"], &["get", "list", "patch", "update", "watch"]),
            rule(&["storage.k8s.io"], &["storageclasses"], READ),
        ]),
        role("system:node-proxier", vec![
            rule(&[""], &["endpoints", "services", "nodes"], READ),
            rule(&["discovery.k8s.io"], &["endpointslices"], READ),
            events(),
        ]),
        role("system:kube-dns", vec![rule(&[""], &["endpoints", "services"], &["list", "watch"])]),
    ]
}

fn bindings() -> Vec<Value> {
    let authenticated = ("Group", "system:authenticated");
    vec![
        binding("cluster-admin", "cluster-admin", &[("Group", "system:masters")]),
        binding("system:discovery", "system:discovery", &[authenticated]),
        binding("system:basic-user", "system:basic-user", &[authenticated]),
        binding("system:public-info-viewer", "system:public-info-viewer", &[authenticated, ("Group", "system:unauthenticated")]),
        binding("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", &[("Group", "system:serviceaccounts")]),
        binding("system:monitoring", "system:monitoring", &[("Group", "system:monitoring")]),
        binding("system:node", "system:node", &[("Group", "system:nodes")]),
        binding("system:kube-scheduler", "system:kube-scheduler", &[("User", "system:kube-scheduler")]),
        binding("system:volume-scheduler", "system:volume-scheduler", &[("User", "system:kube-scheduler")]),
        binding("system:kube-controller-manager", "system:kube-controller-manager", &[("User", "system:kube-controller-manager")]),
        binding("system:node-proxier", "system:node-proxier", &[("User", "system:kube-proxy")]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::Caller;
    use crate::authz::rbac::{Attributes, Policy};

    #[test]
    fn components_may_do_their_work_and_no_more() {
        let everything = all();
        let of = |kind: &str| everything.iter().filter(|object| object["kind"] == kind).cloned().collect::<Vec<_>>();
        let policy = Policy::new(&of("ClusterRole"), &of("ClusterRoleBinding"), &[], &[]);
        let may = |user: &str, group: &str, verb: &str, resource: &str| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let caller = Caller { user: user.into(), groups: vec![group.into()], ..Caller::default() };
            let attributes =
                Attributes { verb: verb.into(), resource: resource.into(), subresource: subresource.into(), ..Attributes::default() };
            policy.allows(&caller, &attributes).is_some()
        };
        assert!(may("system:kube-scheduler", "", "create", "pods/binding"));
        assert!(!may("system:kube-scheduler", "", "create", "pods"));
        assert!(may("system:node:n", "system:nodes", "patch", "nodes/status"));
        assert!(!may("system:node:n", "system:nodes", "delete", "nodes"));
        assert!(may("system:kube-controller-manager", "", "delete", "pods"));
        assert!(!may("x", "system:authenticated", "get", "pods"));
    }
}
