//! How many pods a second the pure half of the scheduler places on 5,000 nodes. One JSON line per case.
//!
//! `cargo bench -p balsa-scheduler`; figures are of the machine that it runs on.

use std::sync::Arc;
use std::time::Instant;

use balsa_scheduler::cycle::{Outcome, Turn, schedule};
use balsa_scheduler::model::{PodInfo, Snapshot};
use balsa_scheduler::plugins::default_framework;
use serde_json::{Value, json};

const NODES: usize = 5_000;
const PODS: usize = 5_000;

fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for index in 0..NODES {
        let node = json!({
            "metadata": {"name": format!("node-{index:05}"), "labels": {"zone": format!("z{}", index % 10)}},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}},
        });
        snapshot.set_node(Arc::new(serde_json::from_value(node).expect("a node")));
    }
    snapshot
}

fn run(name: &str, spec: &Value) {
    let mut snapshot = cluster();
    let framework = default_framework();
    let mut turn = Turn::default();
    let mut placed = 0;
    let started = Instant::now();
    for index in 0..PODS {
        let mut pod = json!({
            "metadata": {"name": format!("p{index}"), "namespace": "default", "uid": format!("u{index}"), "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}]},
        });
        for (field, value) in spec.as_object().expect("an object") {
            pod["spec"][field] = value.clone();
        }
        let pod = Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))));
        turn.tie = index as u64;
        if let Outcome::Node(choice) = schedule(&pod, &snapshot, &framework, turn) {
            turn.start = choice.next_start;
            snapshot.assign(&choice.node, pod);
            placed += 1;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let line = json!({"bench": "scheduler-cycle", "case": name, "nodes": NODES, "placed": placed,
        "pods_per_second": (PODS as f64 / seconds).round()});
    println!("{line}");
}

fn main() {
    run("plain", &json!({}));
    run("fits nowhere", &json!({"nodeSelector": {"disk": "none"}}));
    run("spread over zones", &json!({"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]}));
}
