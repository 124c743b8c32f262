//! The levels and schemas that every cluster begins with, those of Kubernetes v1.36. Pure data.

use serde_json::{Value, json};

const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}, "spec": spec})
}

fn queued(name: &str, shares: u32, lendable: u32, queues: u32, hand: u32) -> Value {
    let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
    let response = json!({"type": "Queue", "queuing": queuing});
    let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
    object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
}

/// PriorityLevelConfigurations.
pub fn levels() -> Vec<Value> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let refusing = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}});
    vec![
        object("PriorityLevelConfiguration", "exempt", exempt),
        object("PriorityLevelConfiguration", "catch-all", refusing),
        queued("node-high", 40, 25, 64, 6),
        queued("system", 30, 33, 64, 6),
        queued("leader-election", 10, 0, 16, 4),
        queued("workload-high", 40, 50, 128, 6),
        queued("workload-low", 100, 90, 128, 6),
        queued("global-default", 20, 50, 128, 6),
    ]
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn accounts_of_system() -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}})
}

fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}

fn everything(subjects: Vec<Value>) -> Value {
    json!({"subjects": subjects, "resourceRules": [resources(&["*"], &["*"], &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rule: Value) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, spec)
}

/// FlowSchemas.
pub fn schemas() -> Vec<Value> {
    let everybody = || groups(&["system:unauthenticated", "system:authenticated"]);
    let (manager, scheduler) = ("system:kube-controller-manager", "system:kube-scheduler");
    let probes = json!({"subjects": everybody(),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let mut electing = users(&[manager, scheduler]);
    electing.push(accounts_of_system());
    let leases = |verbs: &[&str]| resources(verbs, &["coordination.k8s.io"], &["leases"], false);
    let electing = json!({"subjects": electing, "resourceRules": [leases(&["get", "create", "update"])]});
    let nodes_own = json!({"subjects": groups(&["system:nodes"]),
        "resourceRules": [resources(&["*"], &[""], &["nodes", "nodes/status"], true), leases(&["*"])]});
    vec![
        schema("exempt", "exempt", 1, "", everything(groups(&["system:masters"]))),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", electing),
        schema("system-node-high", "node-high", 400, "ByUser", nodes_own),
        schema("system-nodes", "system", 500, "ByUser", everything(groups(&["system:nodes"]))),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", everything(users(&[manager]))),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(users(&[scheduler]))),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", everything(vec![accounts_of_system()])),
        schema("service-accounts", "workload-low", 9000, "ByUser", everything(groups(&["system:serviceaccounts"]))),
        schema("global-default", "global-default", 9900, "ByUser", everything(everybody())),
        schema("catch-all", "catch-all", 10000, "ByUser", everything(everybody())),
    ]
}
