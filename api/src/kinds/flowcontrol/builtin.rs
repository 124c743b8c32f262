//! The flow schemas and priority levels that every cluster has from the start, with the values of Kubernetes'
//! `apiserver/pkg/apis/flowcontrol/bootstrap`. Two of each are mandatory: their specification may not be changed.

use serde_json::{Value, json};

/// A level that may have `shares` and lend `lendable` percent of them; `queues`, where it queues: (queues, hand size).
fn level(name: &str, shares: i64, lendable: i64, queues: Option<(i64, i64)>) -> Value {
    let response = match queues {
        Some((queues, hand)) => {
            json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}})
        }
        None => json!({"type": "Reject"}),
    };
    named("PriorityLevelConfiguration", name, json!({"type": "Limited",
        "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}}))
}

fn named(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "spec": spec,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}})
}

fn schema(name: &str, level: &str, precedence: i64, by: &str, rule: Value) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    named("FlowSchema", name, spec)
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn system_accounts() -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}})
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}

fn everything_by(subjects: &[Value]) -> Value {
    json!({"subjects": subjects, "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
}

fn mandatory_levels() -> [Value; 2] {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    [level("catch-all", 5, 0, None), named("PriorityLevelConfiguration", "exempt", exempt)]
}

fn mandatory_schemas() -> [Value; 2] {
    [
        schema("exempt", "exempt", 1, "", everything_by(&groups(&["system:masters"]))),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything_by(&groups(EVERYBODY))),
    ]
}

const EVERYBODY: &[&str] = &["system:unauthenticated", "system:authenticated"];

fn suggested_levels() -> [Value; 6] {
    [
        level("system", 30, 33, Some((64, 6))),
        level("node-high", 40, 25, Some((64, 6))),
        level("leader-election", 10, 0, Some((16, 4))),
        level("workload-high", 40, 50, Some((128, 6))),
        level("workload-low", 100, 90, Some((128, 6))),
        level("global-default", 20, 50, Some((128, 6))),
    ]
}

fn suggested_schemas() -> [Value; 9] {
    let nodes = groups(&["system:nodes"]);
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let probes = json!({"subjects": groups(EVERYBODY),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let mut leaders = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    leaders.push(system_accounts());
    let election = json!({"subjects": leaders, "resourceRules": [leases(&["get", "create", "update"])]});
    let heartbeats = json!({"subjects": nodes,
        "resourceRules": [resources(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"])]});
    let of = |name: &str| everything_by(&users(&[name]));
    [
        schema("system-nodes", "system", 500, "ByUser", everything_by(&nodes)),
        schema("system-node-high", "node-high", 400, "ByUser", heartbeats),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", election),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", of("system:kube-controller-manager")),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", of("system:kube-scheduler")),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", everything_by(&[system_accounts()])),
        schema("service-accounts", "workload-low", 9000, "ByUser", everything_by(&groups(&["system:serviceaccounts"]))),
        schema("global-default", "global-default", 9900, "ByUser", everything_by(&groups(EVERYBODY))),
    ]
}

/// All of them, priority levels first.
pub fn all() -> Vec<Value> {
    let mut all: Vec<Value> = mandatory_levels().into();
    all.extend(suggested_levels());
    all.extend(mandatory_schemas());
    all.extend(suggested_schemas());
    all
}

fn by_name(objects: [Value; 2], name: &str) -> Option<Value> {
    objects.into_iter().find(|object| object["metadata"]["name"] == name)
}

/// The flow schema of that name whose specification is fixed.
pub fn mandatory_flow_schema(name: &str) -> Option<Value> {
    by_name(mandatory_schemas(), name)
}

/// The priority level of that name whose specification is fixed.
pub fn mandatory_priority_level(name: &str) -> Option<Value> {
    by_name(mandatory_levels(), name)
}
