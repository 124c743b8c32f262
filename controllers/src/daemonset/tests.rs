//! The DaemonSet planner in scripts, and against any interleaving of stale caches, failing pods and changing nodes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use goldenscript::Command;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fit::{self, HASH};
use super::plan::{Action, Observed, plan};
use crate::common::history::Write;
use crate::common::in_flight::InFlight;
use crate::common::{hash, pods, time};
use crate::testing::{Args, at, pod, run_scripts};

fn set(parts: &Value, image: &str) -> DaemonSet {
    let mut spec = json!({
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": {"app": "log"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        "template": {
            "metadata": {"labels": {"app": "log"}},
            "spec": {"containers": [{"name": "main", "image": image}]},
        },
    });
    for (name, value) in parts.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "log", "namespace": "default", "uid": "uid-log", "generation": 1}, "spec": spec,
    }))
    .unwrap()
}

fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
    let taints: Vec<Value> = taint.into_iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).unwrap())
}

/// What a write of a revision leaves behind.
fn store(revisions: &mut Vec<Arc<ControllerRevision>>, write: &Write) {
    match write {
        Write::Create(new) | Write::Renumber(new) => {
            revisions.retain(|known| known.metadata.name != new.metadata.name);
            revisions.push(Arc::new(ControllerRevision::clone(new)));
        }
        Write::Delete { name, .. } => revisions.retain(|known| known.metadata.name.as_ref() != Some(name)),
        Write::Adopt { .. } => {}
    }
}

struct Story {
    set: DaemonSet,
    observed: Observed,
    names: Vec<String>,
}

impl goldenscript::Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut args = Args::of(command);
        match command.name.as_str() {
            // set '{"minReadySeconds": 5}' [image=v2]
            "set" => {
                let status = self.set.status.take();
                self.set = set(&serde_json::from_str(args.next().unwrap_or("{}"))?, args.text("image").unwrap_or("v1"));
                self.set.status = status;
            }
            // node NAME [taint=key effect=NoSchedule]
            "node" => {
                let name = args.next().ok_or("a node needs a name")?;
                self.observed.nodes.retain(|node| node.metadata.name.as_deref() != Some(name));
                let taint = args.text("taint").zip(args.text("effect"));
                self.observed.nodes.push(node(name, taint));
            }
            "no-node" => {
                let name = args.next().ok_or("which?")?;
                self.observed.nodes.retain(|node| node.metadata.name.as_deref() != Some(name));
            }
            // pod NAME on=NODE [image=v1] [ready=SECOND] [phase=P] [going=true] [created=SECOND]
            "pod" => {
                let name = args.next().ok_or("a pod needs a name")?.to_owned();
                self.observed.pods.retain(|pod| pods::name(pod) != name);
                let template = set(&json!({}), args.text("image").unwrap_or("v1")).spec.unwrap().template;
                let mut built = pod(&name).label("app", "log").label(HASH, &hash::of(&template, None)).owned_by("uid-log");
                built = built.on(args.text("on").unwrap_or("n1")).created(args.get("created")?.unwrap_or(0));
                if let Some(second) = args.get("ready")? {
                    built = built.ready_since(second);
                }
                if let Some(phase) = args.text("phase") {
                    built = built.phase(phase);
                }
                if args.get("going")?.unwrap_or(false) {
                    built = built.terminating();
                }
                self.observed.pods.push(built.arc());
            }
            "gone" => {
                let names: Vec<String> = std::iter::from_fn(|| args.next().map(str::to_owned)).collect();
                self.observed.pods.retain(|pod| !names.iter().any(|name| name == pods::name(pod)));
            }
            "in-flight" => {
                self.observed.creates_in_flight = args.get("creates")?.unwrap_or(0);
                self.observed.deletes_in_flight = args.text("delete").map(|name| format!("uid-{name}")).into_iter().collect();
            }
            "plan" => {
                let decision = plan(&self.set, &self.observed, at(args.get("at")?.unwrap_or(100)));
                let mut text = String::new();
                for action in &decision.plan.actions {
                    if let Action::Revision(write) = action {
                        store(&mut self.observed.revisions, write);
                        if let Write::Create(revision) = write {
                            self.names.push(revision.metadata.name.clone().unwrap_or_default());
                        }
                    }
                    writeln!(text, "{action}")?;
                }
                self.observed.retries = decision.retries;
                if let Some(status) = decision.plan.status {
                    let count = |number: Option<i32>| number.unwrap_or(0);
                    write!(text, "status desired={} current={}", status.desired_number_scheduled, status.current_number_scheduled)?;
                    write!(text, " misplaced={} ready={}", status.number_misscheduled, status.number_ready)?;
                    write!(text, " updated={} available={}", count(status.updated_number_scheduled), count(status.number_available))?;
                    writeln!(text, " unavailable={}", count(status.number_unavailable))?;
                    self.set.status = Some(status);
                }
                if let Some(delay) = decision.plan.requeue_after {
                    writeln!(text, "again after {} s", delay.as_secs())?;
                }
                args.end()?;
                let numbered = self.names.iter().enumerate();
                let text = numbered.fold(text, |text, (at, name)| text.replace(name, &format!("r{}", at + 1)));
                return Ok(if text.is_empty() { "nothing\n".to_owned() } else { text });
            }
            other => return Err(format!("no command {other}").into()),
        }
        args.end()?;
        Ok(String::new())
    }
}

#[test]
fn stories() {
    run_scripts("daemonset", || Story { set: set(&json!({}), "v1"), observed: Observed::default(), names: Vec::new() });
}

/// Nodes and pods as they are, and pods as the cache shows them.
struct Model {
    set: DaemonSet,
    nodes: BTreeMap<String, Arc<Node>>,
    pods: BTreeMap<String, Arc<Pod>>,
    cache: BTreeMap<String, Arc<Pod>>,
    revisions: Vec<Arc<ControllerRevision>>,
    flight: InFlight,
    retries: BTreeMap<String, super::plan::Retry>,
    made: usize,
}

#[derive(Debug, Clone)]
enum Op {
    Plan { failing_after: usize },
    Sync,
    SyncOne(prop::sample::Index),
    Ready(prop::sample::Index),
    Fail(prop::sample::Index),
    Vanish(prop::sample::Index),
    Image(bool),
    Node(u8, bool, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = any::<prop::sample::Index>;
    let op = prop_oneof![
        8 => (0..5usize).prop_map(|failing_after| Op::Plan { failing_after }),
        3 => Just(Op::Sync),
        3 => index().prop_map(Op::SyncOne),
        6 => index().prop_map(Op::Ready),
        1 => index().prop_map(Op::Fail),
        3 => index().prop_map(Op::Vanish),
        1 => any::<bool>().prop_map(Op::Image),
        2 => (0..4u8, any::<bool>(), any::<bool>()).prop_map(|(number, there, tainted)| Op::Node(number, there, tainted)),
    ];
    prop::collection::vec(op, 1..80)
}

impl Model {
    fn pick(&self, index: prop::sample::Index) -> Option<String> {
        (!self.pods.is_empty()).then(|| self.pods.keys().nth(index.index(self.pods.len())).cloned()).flatten()
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.pods.get_mut(name) {
            change(Arc::make_mut(pod));
        }
    }

    /// Running pods per node.
    fn crowd(&self) -> BTreeMap<String, usize> {
        let mut crowd = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| pods::is_active(pod)) {
            *crowd.entry(fit::node_of(pod).unwrap_or_default().to_owned()).or_default() += 1;
        }
        crowd
    }

    fn serving(&self) -> usize {
        self.pods.values().filter(|pod| pods::is_active(pod) && pods::is_ready(pod)).count()
    }

    fn reconcile(&mut self, now: i64, mut budget: usize, most: usize) -> bool {
        for pod in self.cache.values() {
            self.flight.seen(pods::uid(pod), pods::is_terminating(pod));
        }
        let observed = Observed {
            nodes: self.nodes.values().cloned().collect(),
            pods: self.cache.values().cloned().collect(),
            revisions: self.revisions.clone(),
            creates_in_flight: self.flight.creates().len(),
            deletes_in_flight: self.flight.deletes(),
            retries: self.retries.clone(),
        };
        let decision = plan(&self.set, &observed, at(now));
        let quiet = decision.plan.is_quiet();
        let before = self.crowd();
        for action in decision.plan.actions {
            if budget == 0 {
                break;
            }
            budget -= 1;
            match action {
                Action::Revision(write) => store(&mut self.revisions, &write),
                Action::Create(new) => {
                    for mut new in new {
                        let name = format!("log-{}", self.made);
                        self.made += 1;
                        new.metadata.uid = Some(format!("uid-{name}"));
                        new.metadata.name = Some(name.clone());
                        new.metadata.creation_timestamp = time::api(at(self.made as i64));
                        new.status = pod(&name).arc().status.clone();
                        self.flight.created(&format!("uid-{name}"), &name, at(0));
                        self.pods.insert(name, Arc::new(new));
                    }
                }
                Action::Delete { pod, uid } => {
                    self.flight.deleted(&uid, at(0));
                    self.change(&pod, |pod| pod.metadata.deletion_timestamp = time::api(at(0)));
                }
                _ => {}
            }
        }
        self.retries = decision.retries;
        for (node, count) in self.crowd() {
            let allowed = before.get(&node).copied().unwrap_or(0).max(most);
            assert!(count <= allowed, "{count} pods for {node}, {allowed} allowed");
        }
        if decision.plan.status.is_some() {
            self.set.status = decision.plan.status;
        }
        quiet
    }

    fn sync(&mut self) {
        for uid in self.flight.creates().into_iter().chain(self.flight.deletes()) {
            if !self.pods.contains_key(&uid["uid-".len()..]) {
                self.flight.seen(&uid, true);
            }
        }
        self.cache = self.pods.clone();
    }

    fn ready(&mut self, name: &str) {
        let ready = pod(name).ready_since(1).arc().status.clone();
        self.change(name, |pod| if pods::is_active(pod) { pod.status = ready });
    }

    fn step(&mut self, op: Op, most: usize) {
        match op {
            Op::Plan { failing_after } => drop(self.reconcile(100, failing_after, most)),
            Op::Sync => self.sync(),
            Op::SyncOne(index) => {
                if let Some(name) = self.pick(index) {
                    self.cache.insert(name.clone(), self.pods[&name].clone());
                }
            }
            Op::Ready(index) => {
                if let Some(name) = self.pick(index) {
                    self.ready(&name);
                }
            }
            Op::Fail(index) => {
                let failed = pod("x").phase("Failed").arc().status.clone();
                if let Some(name) = self.pick(index) {
                    self.change(&name, |pod| pod.status = failed);
                }
            }
            Op::Vanish(index) => {
                if let Some(name) = self.pick(index).filter(|name| pods::is_terminating(&self.pods[name])) {
                    self.pods.remove(&name);
                }
            }
            Op::Image(second) => {
                let container = &mut self.set.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0];
                container.image = Some(if second { "v2" } else { "v1" }.to_owned());
            }
            Op::Node(number, there, tainted) => {
                let name = format!("n{number}");
                if there {
                    self.nodes.insert(name.clone(), node(&name, tainted.then_some(("dedicated", "NoSchedule"))));
                } else {
                    self.nodes.remove(&name);
                    // The pods of a node that is gone are collected.
                    self.pods.retain(|_, pod| pods::node(pod) != name);
                }
            }
        }
    }
}

fn one_per_node(rolling: Value, most: usize, ops: Vec<Op>) {
    let set = set(&json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}), "v1");
    let nodes = ["n0", "n1", "n2"].map(|name| (name.to_owned(), node(name, None))).into();
    let (pods, cache, retries) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut model = Model { set, nodes, pods, cache, revisions: Vec::new(), flight: InFlight::default(), retries, made: 0 };
    for op in ops {
        model.step(op, most);
    }
    for round in 0.. {
        assert!(round < 100, "never ends: {:?}", model.set.status);
        for name in model.pods.keys().cloned().collect::<Vec<_>>() {
            if pods::is_terminating(&model.pods[&name]) {
                model.pods.remove(&name);
            } else {
                model.ready(&name);
            }
        }
        model.sync();
        let serving = model.serving();
        let quiet = model.reconcile(1000 + 1000 * round, usize::MAX, most);
        let lost = serving.saturating_sub(model.serving());
        let misplaced = model.set.status.as_ref().map_or(0, |status| status.number_misscheduled as usize);
        // Twins and misplaced pods go at once; after that one at a time.
        assert!(round < 3 || lost <= 1 + misplaced, "{lost} pods that serve were taken down at once");
        if quiet {
            break;
        }
    }
    let status = model.set.status.clone().unwrap();
    let desired = status.desired_number_scheduled;
    assert_eq!((status.current_number_scheduled, status.number_ready, status.updated_number_scheduled), (desired, desired, Some(desired)));
    assert!(model.crowd().values().all(|count| *count == 1));
}

proptest! {
    #[test]
    fn never_two_pods_on_a_node(ops in ops()) {
        one_per_node(json!({"maxUnavailable": 1, "maxSurge": 0}), 1, ops);
    }

    #[test]
    fn two_while_surging(ops in ops()) {
        one_per_node(json!({"maxUnavailable": 0, "maxSurge": 1}), 2, ops);
    }
}
