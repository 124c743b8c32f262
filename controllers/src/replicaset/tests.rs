//! Stories (`testscripts/`) and the two properties of the planner.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use goldenscript::Command;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::plan::{Action, Desired, Failure, Observed, plan};
use crate::common::in_flight::InFlight;
use crate::common::owners::Owner;
use crate::common::{pods, selector, time};
use crate::testing::{Args, at, pod, run_scripts};

fn desired() -> Desired {
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    Desired {
        owner: Owner {
            api_version: "apps/v1".to_owned(),
            kind: "ReplicaSet".to_owned(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "uid-web".to_owned(),
        },
        generation: Some(1),
        replicas: 1,
        min_ready_seconds: 0,
        selector: selector::exactly(&labels),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
            spec: None,
        },
        deleting: false,
        status: Default::default(),
    }
}

struct Story {
    desired: Desired,
    observed: Observed,
}

impl goldenscript::Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut args = Args::of(command);
        match command.name.as_str() {
            // set replicas=3 min-ready=10 deleting=true
            "set" => {
                self.desired.replicas = args.get("replicas")?.unwrap_or(self.desired.replicas);
                self.desired.min_ready_seconds = args.get("min-ready")?.unwrap_or(0);
                self.desired.deleting = args.get("deleting")?.unwrap_or(false);
            }
            // pod NAME [on=n1] [ready=SECOND] [phase=P] [created=SECOND] [restarts=N] [cost=N] [labels=app:x] [owner=UID|none] [going=true]
            "pod" => {
                let name = args.next().ok_or("a pod needs a name")?;
                let mut built = pod(name).created(args.get("created")?.unwrap_or(0));
                if let Some(node) = args.text("on") {
                    built = built.on(node);
                }
                if let Some(phase) = args.text("phase") {
                    built = built.phase(phase);
                }
                if let Some(second) = args.get("ready")? {
                    built = built.ready_since(second);
                }
                if let Some(count) = args.get("restarts")? {
                    built = built.restarts(count);
                }
                if let Some(cost) = args.text("cost") {
                    built = built.annotation("controller.kubernetes.io/pod-deletion-cost", cost);
                }
                let app = args.text("app").unwrap_or("web");
                built = built.label("app", app);
                let owner = args.text("owner").unwrap_or("uid-web");
                if owner != "none" {
                    built = built.owned_by(owner);
                }
                if args.get("going")?.unwrap_or(false) {
                    built = built.terminating();
                }
                self.observed.pods.push(built.arc());
            }
            "related" => {
                for (node, count) in args.pairs() {
                    self.observed.related_per_node.insert(node, count.parse()?);
                }
            }
            "in-flight" => {
                self.observed.creates_in_flight = args.get("creates")?.unwrap_or(0);
                let deletes = args.text("delete").map(|name| format!("uid-{name}"));
                self.observed.deletes_in_flight = deletes.into_iter().collect();
            }
            "failure" => {
                let message = args.next().unwrap_or_default().to_owned();
                self.observed.failure = (!message.is_empty()).then_some(Failure { reason: "FailedCreate", message });
            }
            // plan [at=SECOND]: the decision; the status is taken over.
            "plan" => {
                let now = at(args.get("at")?.unwrap_or(1000));
                let plan = plan(&self.desired, &self.observed, now);
                let mut text = String::new();
                for action in &plan.actions {
                    writeln!(text, "{action}")?;
                }
                if let Some(status) = plan.status {
                    write!(text, "status replicas={} labelled={}", status.replicas, status.fully_labeled_replicas.unwrap_or(0))?;
                    write!(text, " ready={} available={}", status.ready_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0))?;
                    writeln!(text, " terminating={}", status.terminating_replicas.unwrap_or(0))?;
                    for condition in status.conditions.iter().flatten() {
                        let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
                        writeln!(text, "{}={} {}: {}", condition.type_, condition.status, reason.unwrap_or_default(), message.unwrap_or_default())?;
                    }
                    self.desired.status = status;
                }
                if let Some(delay) = plan.requeue_after {
                    writeln!(text, "again after {} s", delay.as_secs())?;
                }
                args.end()?;
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
    run_scripts("replicaset", || Story { desired: desired(), observed: Observed::default() });
}

/// Pods as they are, as the cache shows them, and what we wrote.
struct Model {
    desired: Desired,
    truth: BTreeMap<String, Arc<Pod>>,
    cache: BTreeMap<String, Arc<Pod>>,
    flight: InFlight,
    created: usize,
}

#[derive(Debug, Clone)]
enum Op {
    Replicas(i32),
    Plan { failing_after: usize },
    Sync,
    SyncOne(prop::sample::Index),
    Ready(prop::sample::Index),
    Fail(prop::sample::Index),
    Vanish(prop::sample::Index),
    Relabel(prop::sample::Index),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = any::<prop::sample::Index>;
    let op = prop_oneof![
        2 => (0..8i32).prop_map(Op::Replicas),
        6 => (0..8usize).prop_map(|failing_after| Op::Plan { failing_after }),
        2 => Just(Op::Sync),
        3 => index().prop_map(Op::SyncOne),
        3 => index().prop_map(Op::Ready),
        1 => index().prop_map(Op::Fail),
        2 => index().prop_map(Op::Vanish),
        1 => index().prop_map(Op::Relabel),
    ];
    prop::collection::vec(op, 1..60)
}

impl Model {
    fn observed(&mut self) -> Observed {
        for pod in self.cache.values() {
            self.flight.seen(pods::uid(pod), pods::is_terminating(pod));
        }
        Observed {
            pods: self.cache.values().cloned().collect(),
            creates_in_flight: self.flight.creates().len(),
            deletes_in_flight: self.flight.deletes(),
            ..Observed::default()
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.truth.get_mut(name) {
            change(Arc::make_mut(pod));
        }
    }

    fn apply(&mut self, action: Action, budget: &mut usize) {
        match action {
            Action::Create { pod: template, count } => {
                for _ in 0..count {
                    if *budget == 0 {
                        return;
                    }
                    *budget -= 1;
                    let mut pod = *template.clone();
                    let name = format!("web-{}", self.created);
                    self.created += 1;
                    pod.metadata.uid = Some(format!("uid-{name}"));
                    pod.metadata.name = Some(name.clone());
                    self.flight.created(&format!("uid-{name}"), &name, at(0));
                    self.truth.insert(name, Arc::new(pod));
                }
            }
            Action::Delete { pod, uid } => {
                self.flight.deleted(&uid, at(0));
                self.change(&pod, |pod| pod.metadata.deletion_timestamp = time::api(at(0)));
            }
            Action::Adopt { pod, .. } => {
                let reference = self.desired.owner.controller_reference();
                self.change(&pod, |pod| pod.metadata.owner_references = Some(vec![reference]));
            }
            Action::Release { pod, .. } => self.change(&pod, |pod| pod.metadata.owner_references = None),
        }
    }

    fn sync(&mut self) {
        for (name, pod) in &self.cache {
            if !self.truth.contains_key(name) {
                self.flight.seen(pods::uid(pod), true);
            }
        }
        // What came and went unseen: the live look of `observe`.
        let gone: Vec<String> =
            self.flight.creates().into_iter().filter(|uid| !self.truth.contains_key(&uid["uid-".len()..])).collect();
        for uid in gone {
            self.flight.seen(&uid, true);
        }
        self.cache = self.truth.clone();
    }

    fn active(&self) -> usize {
        self.truth.values().filter(|pod| pods::is_active(pod) && pod.metadata.owner_references.is_some()).count()
    }

    fn pick(&self, index: prop::sample::Index) -> Option<String> {
        (!self.truth.is_empty()).then(|| self.truth.keys().nth(index.index(self.truth.len())).cloned()).flatten()
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Replicas(replicas) => self.desired.replicas = replicas,
            Op::Plan { failing_after } => {
                let observed = self.observed();
                let plan = plan(&self.desired, &observed, at(100));
                let (before, wanted) = (self.active(), self.desired.replicas as usize);
                let mut budget = failing_after;
                for action in plan.actions {
                    self.apply(action, &mut budget);
                }
                let after = self.active();
                assert!(after <= before.max(wanted), "{after} active pods, {wanted} wanted, {before} before");
            }
            Op::Sync => self.sync(),
            Op::SyncOne(index) => {
                if let Some(name) = self.pick(index) {
                    self.cache.insert(name.clone(), self.truth[&name].clone());
                }
            }
            Op::Ready(index) => {
                if let Some(name) = self.pick(index) {
                    let ready = pod(&name).ready_since(1).arc().status.clone();
                    self.change(&name, |pod| if !pods::is_finished(pod) { pod.status = ready });
                }
            }
            Op::Fail(index) => {
                if let Some(name) = self.pick(index) {
                    self.change(&name, |pod| pod.status.get_or_insert_default().phase = Some("Failed".to_owned()));
                }
            }
            Op::Vanish(index) => {
                if let Some(name) = self.pick(index) {
                    self.truth.remove(&name);
                }
            }
            Op::Relabel(index) => {
                if let Some(name) = self.pick(index) {
                    self.change(&name, |pod| pod.metadata.labels = None);
                }
            }
        }
    }
}

proptest! {
    // Whatever happens, however late the cache: never more pods than asked for, and in the end exactly as many.
    #[test]
    fn never_too_many_and_quiet_in_the_end(ops in ops()) {
        let (truth, cache, flight) = (BTreeMap::new(), BTreeMap::new(), InFlight::default());
        let mut model = Model { desired: desired(), truth, cache, flight, created: 0 };
        for op in ops {
            model.step(op);
        }
        for round in 0.. {
            model.sync();
            let observed = model.observed();
            let plan = plan(&model.desired, &observed, at(200));
            if plan.is_quiet() {
                break;
            }
            prop_assert!(round < 10, "still to do: {:?}", plan.actions);
            for action in plan.actions {
                model.apply(action, &mut usize::MAX.clone());
            }
            if let Some(status) = plan.status {
                model.desired.status = status;
            }
        }
        prop_assert_eq!(model.active(), model.desired.replicas as usize);
        prop_assert_eq!(model.desired.status.replicas, model.desired.replicas);
    }
}
