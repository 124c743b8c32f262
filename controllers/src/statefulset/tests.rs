//! The StatefulSet planner in scripts, and against any interleaving of stale caches and failing pods.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use goldenscript::Command;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::identity::{POD_NAME, REVISION, ordinal};
use super::plan::{Action, Observed, plan};
use crate::common::history::Write;
use crate::common::in_flight::InFlight;
use crate::common::{pods, time};
use crate::testing::{Args, at, pod, run_scripts};

/// A set with parts of its spec replaced. `image` is the template's.
fn set(parts: &Value, image: &str) -> StatefulSet {
    let mut spec = json!({
        "replicas": 3, "serviceName": "web", "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": image}]},
        },
    });
    for (name, value) in parts.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "uid-web", "generation": 1}, "spec": spec,
    }))
    .unwrap()
}

struct Story {
    set: StatefulSet,
    observed: Observed,
    /// Names of revisions in the order of their coming: r1, r2, ...
    names: Vec<String>,
}

impl Story {
    /// Hashes are not for people: revisions are called by their number.
    fn readable(&self, text: &str) -> String {
        let numbered = self.names.iter().enumerate();
        numbered.fold(text.to_owned(), |text, (at, name)| text.replace(name, &format!("r{}", at + 1)))
    }
}

impl goldenscript::Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut args = Args::of(command);
        match command.name.as_str() {
            // set '{"replicas": 2}' [image=v2]
            "set" => {
                let status = self.set.status.take();
                self.set = set(&serde_json::from_str(args.next().unwrap_or("{}"))?, args.text("image").unwrap_or("v1"));
                self.set.status = status;
            }
            // pod ORDINAL [revision=N] [ready=SECOND] [phase=P] [going=true] [owner=none] [name=NAME]
            "pod" => {
                let number = args.next().ok_or("a pod needs an ordinal")?;
                let name = args.text("name").map_or_else(|| format!("web-{number}"), str::to_owned);
                self.observed.pods.retain(|pod| pods::name(pod) != name);
                let revision: usize = args.get("revision")?.unwrap_or(1);
                let revision = self.names.get(revision - 1).cloned().unwrap_or_default();
                let mut built = pod(&name).label("app", "web").label(POD_NAME, &name).label(REVISION, &revision);
                if let Some(second) = args.get("ready")? {
                    built = built.ready_since(second);
                }
                if let Some(phase) = args.text("phase") {
                    built = built.phase(phase);
                }
                if args.text("owner").unwrap_or("web") != "none" {
                    built = built.owned_by("uid-web");
                }
                if args.get("going")?.unwrap_or(false) {
                    built = built.terminating();
                }
                self.observed.pods.push(built.arc());
            }
            "gone" => {
                let names: Vec<String> = std::iter::from_fn(|| args.next().map(|number| format!("web-{number}"))).collect();
                self.observed.pods.retain(|pod| !names.iter().any(|name| name == pods::name(pod)));
            }
            // claim NAME [going=true]
            "claim" => {
                let name = args.next().ok_or("a claim needs a name")?;
                let mut claim = PersistentVolumeClaim::default();
                claim.metadata.name = Some(name.to_owned());
                if args.get("going")?.unwrap_or(false) {
                    claim.metadata.deletion_timestamp = time::api(at(0));
                }
                self.observed.claims.insert(name.to_owned(), Arc::new(claim));
            }
            "in-flight" => {
                self.observed.creates_in_flight = args.get("creates")?.unwrap_or(0);
                self.observed.deletes_in_flight = args.text("delete").map(|number| format!("uid-web-{number}")).into_iter().collect();
            }
            "plan" => {
                let plan = plan(&self.set, &self.observed, at(args.get("at")?.unwrap_or(100)));
                let mut text = String::new();
                for action in &plan.actions {
                    if let Action::Revision(write) = action {
                        self.store(write);
                    }
                    writeln!(text, "{action}")?;
                }
                if let Some(status) = plan.status {
                    let count = |number: Option<i32>| number.unwrap_or(0);
                    write!(text, "status replicas={} ready={}", status.replicas, count(status.ready_replicas))?;
                    write!(text, " available={} current={}", count(status.available_replicas), count(status.current_replicas))?;
                    write!(text, " updated={}", count(status.updated_replicas))?;
                    let name = |name: &Option<String>| name.clone().unwrap_or_default();
                    writeln!(text, " {} -> {}", name(&status.current_revision), name(&status.update_revision))?;
                    self.set.status = Some(status);
                }
                if let Some(delay) = plan.requeue_after {
                    writeln!(text, "again after {} s", delay.as_secs())?;
                }
                args.end()?;
                return Ok(if text.is_empty() { "nothing\n".to_owned() } else { self.readable(&text) });
            }
            other => return Err(format!("no command {other}").into()),
        }
        args.end()?;
        Ok(String::new())
    }
}

impl Story {
    fn store(&mut self, write: &Write) {
        store(&mut self.observed.revisions, write);
        if let Write::Create(revision) = write {
            self.names.push(revision.metadata.name.clone().unwrap_or_default());
        }
    }
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

#[test]
fn stories() {
    run_scripts("statefulset", || Story { set: set(&json!({}), "v1"), observed: Observed::default(), names: Vec::new() });
}

#[test]
fn a_pod_has_its_name_its_labels_and_its_claims() {
    let templates = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}], "ordinals": {"start": 5}});
    let plan = plan(&set(&templates, "v1"), &Observed::default(), at(0));
    let made = plan.actions.iter().find_map(|action| if let Action::Create(pod) = action { Some(pod) } else { None }).unwrap();
    let labels = made.metadata.labels.as_ref().unwrap();
    assert_eq!((pods::name(made), labels["apps.kubernetes.io/pod-index"].as_str()), ("web-5", "5"));
    let spec = made.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-5"), Some("web")));
    let volume = &spec.volumes.as_ref().unwrap()[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-web-5");
}

/// Pods as they are and as the cache shows them.
struct Model {
    set: StatefulSet,
    pods: BTreeMap<String, Arc<Pod>>,
    cache: BTreeMap<String, Arc<Pod>>,
    revisions: Vec<Arc<ControllerRevision>>,
    flight: InFlight,
    made: usize,
}

#[derive(Debug, Clone)]
enum Op {
    Plan { failing_after: usize },
    Sync,
    SyncOne(prop::sample::Index),
    Ready(prop::sample::Index),
    Unready(prop::sample::Index),
    Fail(prop::sample::Index),
    Vanish(prop::sample::Index),
    Replicas(i32),
    Image(bool),
    Partition(i32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = any::<prop::sample::Index>;
    let op = prop_oneof![
        8 => (0..5usize).prop_map(|failing_after| Op::Plan { failing_after }),
        3 => Just(Op::Sync),
        3 => index().prop_map(Op::SyncOne),
        6 => index().prop_map(Op::Ready),
        1 => index().prop_map(Op::Unready),
        1 => index().prop_map(Op::Fail),
        3 => index().prop_map(Op::Vanish),
        1 => (0..5i32).prop_map(Op::Replicas),
        1 => any::<bool>().prop_map(Op::Image),
        1 => (0..4i32).prop_map(Op::Partition),
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

    fn is_up(pod: &Pod) -> bool {
        pods::is_active(pod) && pods::is_ready(pod)
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Revision(write) => store(&mut self.revisions, &write),
            Action::Create(new) => {
                let name = pods::name(&new).to_owned();
                // The name is taken: the apiserver refuses.
                if self.pods.contains_key(&name) {
                    return;
                }
                let mut new = *new;
                self.made += 1;
                let uid = format!("uid-{name}-{}", self.made);
                new.metadata.uid = Some(uid.clone());
                new.status = pod(&name).arc().status.clone();
                self.flight.created(&uid, &name, at(0));
                self.pods.insert(name, Arc::new(new));
            }
            Action::Delete { pod, uid } => {
                if self.pods.get(&pod).is_some_and(|live| pods::uid(live) == uid) {
                    self.change(&pod, |pod| pod.metadata.deletion_timestamp = time::api(at(0)));
                }
                self.flight.deleted(&uid, at(0));
            }
            _ => {}
        }
    }

    fn reconcile(&mut self, budget: usize) -> bool {
        for pod in self.cache.values() {
            self.flight.seen(pods::uid(pod), pods::is_terminating(pod));
        }
        let shown = |uid: &String| self.cache.values().any(|pod| pods::uid(pod) == uid);
        let observed = Observed {
            pods: self.cache.values().cloned().collect(),
            revisions: self.revisions.clone(),
            claims: BTreeMap::new(),
            creates_in_flight: self.flight.creates().iter().filter(|uid| !shown(uid)).count(),
            deletes_in_flight: self.flight.deletes(),
        };
        let plan = plan(&self.set, &observed, at(100));
        let quiet = plan.is_quiet();
        let up = |model: &Self| model.pods.values().filter(|pod| Self::is_up(pod)).count();
        let (before, size) = (up(self), self.pods.len());
        let ordered = self.set.spec.as_ref().unwrap().pod_management_policy.as_deref() != Some("Parallel");
        for action in plan.actions.into_iter().take(budget) {
            if let (Action::Create(new), true) = (&action, ordered) {
                let own = ordinal("web", pods::name(new)).unwrap();
                let lower = self.cache.values().filter(|pod| ordinal("web", pods::name(pod)).is_some_and(|at| at < own));
                assert!(lower.clone().all(|pod| Self::is_up(pod)) && lower.count() == own as usize, "{own} comes too early");
            }
            self.apply(action);
        }
        if ordered {
            assert!(up(self) + 1 >= before, "more than one pod was taken down in a step");
            assert!(self.pods.len() <= size + 1, "more than one pod was made in a step");
        }
        if budget > 0 && plan.status.is_some() {
            self.set.status = plan.status;
        }
        quiet
    }

    fn sync(&mut self) {
        for (name, pod) in &self.cache {
            if self.pods.get(name).is_none_or(|live| pods::uid(live) != pods::uid(pod)) {
                self.flight.seen(pods::uid(pod), true);
            }
        }
        for uid in self.flight.creates().into_iter().chain(self.flight.deletes()) {
            if !self.pods.values().any(|pod| pods::uid(pod) == uid) {
                self.flight.seen(&uid, true);
            }
        }
        self.cache = self.pods.clone();
    }

    fn rebuild(&mut self, change: impl FnOnce(&mut k8s_openapi::api::apps::v1::StatefulSetSpec)) {
        change(self.set.spec.as_mut().unwrap());
        *self.set.metadata.generation.get_or_insert(0) += 1;
    }

    fn ready(&mut self, name: &str) {
        let ready = pod(name).ready_since(1).arc().status.clone();
        self.change(name, |pod| if pods::is_active(pod) { pod.status = ready });
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Plan { failing_after } => drop(self.reconcile(failing_after)),
            Op::Sync => self.sync(),
            Op::SyncOne(index) => {
                if let Some(name) = self.pick(index) {
                    if let Some(old) = self.cache.insert(name.clone(), self.pods[&name].clone())
                        && pods::uid(&old) != pods::uid(&self.pods[&name])
                    {
                        self.flight.seen(pods::uid(&old), true);
                    }
                }
            }
            Op::Ready(index) => {
                if let Some(name) = self.pick(index) {
                    self.ready(&name);
                }
            }
            Op::Unready(index) => {
                let pending = pod("x").phase("Running").arc().status.clone();
                if let Some(name) = self.pick(index) {
                    self.change(&name, |pod| if pods::is_active(pod) { pod.status = pending });
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
            Op::Replicas(replicas) => self.rebuild(|spec| spec.replicas = Some(replicas)),
            Op::Image(second) => self.rebuild(|spec| {
                let container = &mut spec.template.spec.as_mut().unwrap().containers[0];
                container.image = Some(if second { "v2" } else { "v1" }.to_owned());
            }),
            Op::Partition(partition) => self.rebuild(|spec| {
                let rolling = spec.update_strategy.as_mut().unwrap().rolling_update.get_or_insert_default();
                rolling.partition = Some(partition);
            }),
        }
    }
}

fn in_order_and_quiet_in_the_end(policy: &str, ops: Vec<Op>) {
    let (pods, cache) = (BTreeMap::new(), BTreeMap::new());
    let set = set(&json!({ "podManagementPolicy": policy }), "v1");
    let mut model = Model { set, pods, cache, revisions: Vec::new(), flight: InFlight::default(), made: 0 };
    for op in ops {
        model.step(op);
    }
    model.step(Op::Partition(0));
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
        if model.reconcile(usize::MAX) {
            break;
        }
    }
    let wanted = model.set.spec.as_ref().unwrap().replicas.unwrap();
    let names: Vec<String> = (0..wanted).map(|at| format!("web-{at}")).collect();
    assert_eq!(model.pods.keys().cloned().collect::<Vec<_>>(), names);
    let status = model.set.status.clone().unwrap();
    assert_eq!((status.replicas, status.updated_replicas, &status.current_revision), (wanted, Some(wanted), &status.update_revision));
    assert!(model.revisions.len() <= 3, "{} revisions", model.revisions.len());
}

proptest! {
    #[test]
    fn one_step_at_a_time(ops in ops()) {
        in_order_and_quiet_in_the_end("OrderedReady", ops);
    }

    #[test]
    fn all_at_once(ops in ops()) {
        in_order_and_quiet_in_the_end("Parallel", ops);
    }
}
