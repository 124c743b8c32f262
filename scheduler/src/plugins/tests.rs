//! Every plugin's decisions and words, through the whole cycle.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::default_framework;
use crate::cycle::{Outcome, Turn, schedule};
use crate::framework::ClusterChange;
use crate::model::{PodInfo, Snapshot};

fn node(name: &str, change: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi", "pods": "10"}},
    });
    merge(&mut node, &change);
    node
}

fn pod(name: &str, change: Value) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut pod, &change);
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
}

fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (name, value) in change {
                merge(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn snapshot(nodes: &[Value], on: &[(&str, &Arc<PodInfo>)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(Arc::new(serde_json::from_value(node.clone()).expect("a node")));
    }
    for (node, pod) in on {
        snapshot.assign(node, (*pod).clone());
    }
    snapshot
}

/// The chosen node, or the message.
fn result(pod: &PodInfo, snapshot: &Snapshot) -> String {
    match schedule(pod, snapshot, &default_framework(), Turn::default()) {
        Outcome::Node(choice) => choice.node.to_string(),
        Outcome::Unschedulable(diagnosis) => diagnosis.message(),
    }
}

fn requests(list: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": list}}]}})
}

fn required_affinity(terms: Value) -> Value {
    let required = json!({"nodeSelectorTerms": terms});
    json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}})
}

#[test]
fn no_nodes() {
    assert_eq!(result(&pod("p", json!({})), &snapshot(&[], &[])), "no nodes available to schedule pods");
}

#[test]
fn each_filter_in_kubernetes_words() {
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let tolerations = |toleration: Value| json!({"spec": {"tolerations": [toleration]}});
    let labelled = json!({"metadata": {"labels": {"disk": "ssd", "gen": "7"}}});
    let expression = |key: &str, operator: &str, values: &[&str]| {
        required_affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
    };
    let cordoned = json!({"spec": {"unschedulable": true}});
    let one = |reason: &str| format!("0/1 nodes are available: 1 {reason}.");
    let affinity = one("node(s) didn't match Pod's node affinity/selector");
    let tainted = one("node(s) had untolerated taint(s)");
    let fits = "n".to_owned();
    let cases: Vec<(&str, Value, Value, String)> = vec![
        ("plain", json!({}), json!({}), fits.clone()),
        ("cordoned", cordoned.clone(), json!({}), one("node(s) were unschedulable")),
        (
            "cordoned, borne",
            cordoned,
            tolerations(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})),
            fits.clone(),
        ),
        ("tainted", taint("NoSchedule"), json!({}), tainted.clone()),
        ("tainted, evicting", taint("NoExecute"), json!({}), tainted.clone()),
        ("soft taint", taint("PreferNoSchedule"), json!({}), fits.clone()),
        ("borne by key", taint("NoSchedule"), tolerations(json!({"key": "k", "operator": "Exists"})), fits.clone()),
        ("borne by value", taint("NoSchedule"), tolerations(json!({"key": "k", "value": "v"})), fits.clone()),
        ("another value", taint("NoSchedule"), tolerations(json!({"key": "k", "value": "w"})), tainted.clone()),
        ("another effect", taint("NoExecute"), tolerations(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})), tainted),
        ("everything borne", taint("NoExecute"), tolerations(json!({"operator": "Exists"})), fits.clone()),
        ("selector", labelled.clone(), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), fits.clone()),
        ("selector, other", labelled.clone(), json!({"spec": {"nodeSelector": {"disk": "hdd"}}}), affinity.clone()),
        ("in", labelled.clone(), expression("disk", "In", &["ssd"]), fits.clone()),
        ("not in", labelled.clone(), expression("disk", "NotIn", &["ssd"]), affinity.clone()),
        ("not in, absent", json!({}), expression("disk", "NotIn", &["ssd"]), fits.clone()),
        ("exists", json!({}), expression("disk", "Exists", &[]), affinity.clone()),
        ("gt", labelled.clone(), expression("gen", "Gt", &["6"]), fits.clone()),
        ("lt", labelled.clone(), expression("gen", "Lt", &["7"]), affinity.clone()),
        ("an empty term matches nothing", labelled, required_affinity(json!([{}])), affinity),
        (
            "another node by name",
            json!({}),
            required_affinity(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]}])),
            one("node(s) didn't satisfy plugin(s) [NodeAffinity]"),
        ),
        ("too much cpu", json!({}), requests(json!({"cpu": "4001m"})), one("Insufficient cpu")),
        (
            "too much of everything",
            json!({}),
            requests(json!({"cpu": "5", "memory": "9Gi", "ephemeral-storage": "11Gi", "example.com/gpu": "1"})),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient example.com/gpu, 1 Insufficient memory.".to_owned(),
        ),
        (
            "extended",
            json!({"status": {"allocatable": {"example.com/gpu": "2"}}}),
            requests(json!({"example.com/gpu": "2"})),
            fits.clone(),
        ),
        ("no place", json!({"status": {"allocatable": {"pods": "0"}}}), json!({}), one("Too many pods")),
        (
            "a claim",
            json!({}),
            json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}),
            "0/1 nodes are available: binding of persistentvolumeclaim \"data\" is not supported by this scheduler yet.".to_owned(),
        ),
    ];
    for (name, node_change, pod_change, expected) in cases {
        let snapshot = snapshot(&[node("n", node_change)], &[]);
        assert_eq!(result(&pod("p", pod_change), &snapshot), expected, "{name}");
    }
}

#[test]
fn host_ports_conflict_by_port_protocol_and_address() {
    let port = |name: &str, port: i32, protocol: &str, ip: &str| {
        let ports = json!([{"containerPort": 80, "hostPort": port, "protocol": protocol, "hostIP": ip}]);
        pod(name, json!({"spec": {"containers": [{"name": "c", "ports": ports}]}}))
    };
    let holder = port("holder", 80, "TCP", "127.0.0.1");
    let snapshot = snapshot(&[node("n", json!({}))], &[("n", &holder)]);
    let taken = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    for (number, protocol, ip, expected) in [
        (80, "TCP", "127.0.0.1", taken),
        (80, "TCP", "", taken),
        (80, "TCP", "127.0.0.2", "n"),
        (80, "UDP", "127.0.0.1", "n"),
        (81, "TCP", "127.0.0.1", "n"),
    ] {
        assert_eq!(result(&port("p", number, protocol, ip), &snapshot), expected, "{number}/{protocol} on {ip:?}");
    }
}

#[test]
fn reasons_of_several_nodes_are_counted() {
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let nodes = [node("a", taint.clone()), node("b", taint), node("c", json!({}))];
    let full = pod("full", requests(json!({"cpu": "4"})));
    let snapshot = snapshot(&nodes, &[("c", &full)]);
    assert_eq!(
        result(&pod("p", requests(json!({"cpu": "1"}))), &snapshot),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s)."
    );
}

#[test]
fn the_emptier_node_is_preferred_and_wishes_weigh_more() {
    let busy = pod("busy", requests(json!({"cpu": "1", "memory": "2Gi"})));
    let wanted = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let snapshot = snapshot(&[node("a", wanted), node("b", json!({}))], &[("a", &busy)]);
    assert_eq!(result(&pod("p", requests(json!({"cpu": "1", "memory": "2Gi"}))), &snapshot), "b");
    let wish = json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]);
    let wish = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wish}}}});
    assert_eq!(result(&pod("q", wish), &snapshot), "a");
}

fn zone(name: &str, zone: &str) -> Value {
    node(name, json!({"metadata": {"labels": {"zone": zone}}}))
}

fn app(name: &str, change: Value) -> Arc<PodInfo> {
    let mut all = json!({"metadata": {"labels": {"app": "web"}}});
    merge(&mut all, &change);
    pod(name, all)
}

fn pod_rule(kind: &str, key: &str) -> Value {
    let term = json!([{"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": key}]);
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}}}})
}

#[test]
fn pods_beside_and_away_from_each_other() {
    let nodes = [zone("a1", "a"), zone("b1", "b")];
    let there = app("there", json!({}));
    let with_one = snapshot(&nodes, &[("a1", &there)]);
    assert_eq!(result(&pod("p", pod_rule("podAffinity", "zone")), &with_one), "a1");
    assert_eq!(result(&pod("p", pod_rule("podAntiAffinity", "zone")), &with_one), "b1");
    let empty = snapshot(&nodes, &[]);
    assert_eq!(
        result(&pod("p", pod_rule("podAffinity", "zone")), &empty),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
    );
    assert!(!result(&app("first", pod_rule("podAffinity", "zone")), &empty).starts_with("0/2"), "the first of a group");
    let (x, y) = (app("x", json!({})), app("y", json!({})));
    let both = snapshot(&nodes, &[("a1", &x), ("b1", &y)]);
    assert_eq!(
        result(&pod("p", pod_rule("podAntiAffinity", "zone")), &both),
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
    );
    let hermit = app("hermit", pod_rule("podAntiAffinity", "zone"));
    let guarded = snapshot(&nodes[..1], &[("a1", &hermit)]);
    assert_eq!(
        result(&app("p", json!({})), &guarded),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
}

#[test]
fn pods_are_spread_over_zones() {
    let spread = |max_skew: i32| {
        json!({"spec": {"topologySpreadConstraints": [{
            "maxSkew": max_skew, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
        }]}})
    };
    let nodes = [zone("a1", "a"), zone("b1", "b"), node("nowhere", json!({}))];
    let there = app("there", json!({}));
    assert_eq!(result(&app("p", spread(1)), &snapshot(&nodes, &[("a1", &there)])), "b1");
    let full = node("b1", json!({"metadata": {"labels": {"zone": "b"}}, "status": {"allocatable": {"pods": "0"}}}));
    let nodes = [zone("a1", "a"), full, node("nowhere", json!({}))];
    assert_eq!(
        result(&app("p", spread(1)), &snapshot(&nodes, &[("a1", &there)])),
        "0/3 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints, \
         1 node(s) didn't match pod topology spread constraints (missing required label)."
    );
    assert_eq!(result(&app("p", spread(2)), &snapshot(&nodes, &[("a1", &there)])), "a1");
}

#[test]
fn only_changes_that_can_help_wake_a_pod() {
    let framework = default_framework();
    let wants = pod("p", requests(json!({"cpu": "2"})));
    let by = std::collections::BTreeSet::from(["NodeResourcesFit"]);
    let snapshot = snapshot(&[node("small", json!({"status": {"allocatable": {"cpu": "1"}}})), node("big", json!({}))], &[]);
    let help = |change| framework.may_help(&wants, &by, &change);
    assert!(help(ClusterChange::NodeAdded(snapshot.node("big").expect("big"))));
    assert!(!help(ClusterChange::NodeAdded(snapshot.node("small").expect("small"))));
    assert!(!help(ClusterChange::PodAssigned(&wants)));
    assert!(help(ClusterChange::PodFreed(&wants)));
    assert!(!help(ClusterChange::Namespace));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, no node is ever given more than it has; and the same input gives the same answer.
    #[test]
    fn a_node_is_never_overcommitted(
        sizes in proptest::collection::vec((1u32..8, 1u32..16, 1u32..6), 1..6),
        pods in proptest::collection::vec((0u32..3000, 0u32..4096, any::<u64>(), any::<bool>()), 1..60),
    ) {
        let nodes: Vec<Value> = sizes.iter().enumerate().map(|(index, (cpu, memory, pods))| {
            let allocatable = json!({"cpu": cpu.to_string(), "memory": format!("{memory}Gi"), "pods": pods.to_string()});
            node(&format!("n{index}"), json!({"status": {"allocatable": allocatable}}))
        }).collect();
        let mut snapshot = snapshot(&nodes, &[]);
        let framework = default_framework();
        let mut placed: BTreeMap<usize, Arc<PodInfo>> = BTreeMap::new();
        for (index, (cpu, memory, tie, leaves)) in pods.into_iter().enumerate() {
            let pod = pod(&format!("p{index}"), requests(json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")})));
            let turn = Turn { start: index, tie };
            let outcome = schedule(&pod, &snapshot, &framework, turn);
            prop_assert_eq!(&outcome, &schedule(&pod, &snapshot, &framework, turn));
            if let Outcome::Node(choice) = outcome {
                snapshot.assign(&choice.node, pod.clone());
                placed.insert(index, pod);
            }
            if leaves && let Some((_, gone)) = placed.pop_first() {
                snapshot.unassign(&gone.uid);
            }
            for node in snapshot.nodes() {
                prop_assert!(node.requested.milli_cpu <= node.allocatable.milli_cpu);
                prop_assert!(node.requested.memory <= node.allocatable.memory);
                prop_assert!(node.pods.len() as i64 <= node.allocatable.pods);
            }
        }
        for pod in placed.values() {
            snapshot.unassign(&pod.uid);
        }
        for node in snapshot.nodes() {
            prop_assert_eq!(&node.requested, &crate::model::Resources::default());
        }
    }
}
