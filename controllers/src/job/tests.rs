//! The Job planner in scripts, and against any interleaving of stale caches, failures and restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use goldenscript::Command;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::TRACKING;
use super::conditions::{holds, is_finished};
use super::plan::{Action, Observed, owner, plan};
use super::template::INDEX;
use super::view::has_finalizer;
use crate::common::in_flight::InFlight;
use crate::common::{pods, time};
use crate::testing::{Args, at, pod, run_scripts};

fn job(spec: Value) -> Job {
    let mut job: Job = serde_json::from_value(json!({
        "metadata": {"name": "work", "namespace": "default", "uid": "uid-work", "generation": 1},
        "spec": {
            "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
            "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"app": "work"}},
            "template": {
                "metadata": {"labels": {"app": "work"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "work"}]},
            },
        },
    }))
    .unwrap();
    let mut whole = serde_json::to_value(&job.spec).unwrap();
    for (name, value) in spec.as_object().unwrap() {
        whole[name] = value.clone();
    }
    job.spec = serde_json::from_value(whole).unwrap();
    job
}

fn shown(status: &JobStatus) -> String {
    let mut text = String::new();
    let count = |number: Option<i32>| number.unwrap_or(0);
    let _ = write!(text, "status active={} ready={}", count(status.active), count(status.ready));
    let _ = write!(text, " terminating={} succeeded={} failed={}", count(status.terminating), count(status.succeeded), count(status.failed));
    let lists = status.uncounted_terminated_pods.clone().unwrap_or_default();
    for (name, list) in [("succeeded", lists.succeeded), ("failed", lists.failed)] {
        if let Some(list) = list {
            let _ = write!(text, " uncounted-{name}={}", list.join(","));
        }
    }
    for (name, indexes) in [("completed", &status.completed_indexes), ("failed", &status.failed_indexes)] {
        if let Some(indexes) = indexes {
            let _ = write!(text, " {name}-indexes={indexes:?}");
        }
    }
    for (name, time) in [("started", &status.start_time), ("completed", &status.completion_time)] {
        if let Some(time) = time {
            let _ = write!(text, " {name}={}", time.0.as_second() - at(0).as_second());
        }
    }
    text.push('\n');
    for condition in status.conditions.iter().flatten() {
        let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
        let _ = writeln!(text, "{}={} {}: {}", condition.type_, condition.status, reason.unwrap_or_default(), message.unwrap_or_default());
    }
    text
}

struct Story {
    job: Job,
    observed: Observed,
}

impl goldenscript::Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut args = Args::of(command);
        match command.name.as_str() {
            // job '{"completions": 3}': parts of the spec.
            "job" => {
                let status = self.job.status.take();
                self.job = job(serde_json::from_str(args.next().unwrap_or("{}"))?);
                self.job.status = status;
                if args.get("deleting")?.unwrap_or(false) {
                    self.job.metadata.deletion_timestamp = time::api(at(0));
                }
            }
            // pod NAME [phase=P] [index=N] [failures=N] [ended=SECOND] [exit=CODE] [going=true] [ready=SECOND] [tracked=false] [owner=none] [app=x]
            "pod" => {
                let name = args.next().ok_or("a pod needs a name")?.to_owned();
                self.observed.pods.retain(|pod| pods::name(pod) != name);
                let mut built = pod(&name).created(args.get("ended")?.unwrap_or(0)).label("app", args.text("app").unwrap_or("work"));
                if let Some(second) = args.get("ready")? {
                    built = built.ready_since(second);
                }
                if let Some(phase) = args.text("phase") {
                    built = built.phase(phase);
                }
                if let Some(index) = args.text("index") {
                    built = built.annotation(INDEX, index);
                }
                if let Some(count) = args.text("failures") {
                    built = built.annotation("batch.kubernetes.io/job-index-failure-count", count);
                }
                if args.text("owner").unwrap_or("uid-work") != "none" {
                    built = built.owned_by("uid-work");
                }
                if args.get("going")?.unwrap_or(false) {
                    built = built.terminating();
                }
                let mut pod = Pod::clone(&built.arc());
                if args.get("tracked")?.unwrap_or(true) {
                    pod.metadata.finalizers = Some(vec![TRACKING.to_owned()]);
                }
                if let Some(code) = args.get::<i32>("exit")? {
                    let status = pod.status.get_or_insert_default();
                    status.container_statuses = Some(serde_json::from_value(json!([{
                        "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": args.get::<i32>("restarts")?.unwrap_or(0),
                        "state": {"terminated": {"exitCode": code}},
                    }]))?);
                }
                self.observed.pods.push(Arc::new(pod));
            }
            "gone" => {
                let names: Vec<String> = std::iter::from_fn(|| args.next().map(str::to_owned)).collect();
                self.observed.pods.retain(|pod| !names.iter().any(|name| name == pods::name(pod)));
            }
            "in-flight" => {
                self.observed.creates_in_flight = args.get("creates")?.unwrap_or(0);
                self.observed.deletes_in_flight = args.text("delete").map(|name| format!("uid-{name}")).into_iter().collect();
                self.observed.released = args.text("released").map(|name| format!("uid-{name}")).into_iter().collect();
            }
            // plan [at=SECOND] [write=false]: the decision; the status is taken over.
            "plan" => {
                let decision = plan(&self.job, &self.observed, at(args.get("at")?.unwrap_or(100)));
                let mut text = String::new();
                for action in &decision.plan.actions {
                    writeln!(text, "{action}")?;
                }
                if let Some(status) = decision.plan.status {
                    text.push_str(&shown(&status));
                    self.job.status = Some(status);
                    self.observed.backoff = decision.backoff;
                }
                for note in &decision.notes {
                    writeln!(text, "{note}")?;
                }
                if let Some(delay) = decision.plan.requeue_after {
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
    run_scripts("job", || Story { job: job(json!({})), observed: Observed::default() });
}

#[test]
fn pods_of_indexed_jobs_know_their_index() {
    let job = job(json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1}));
    let plan = plan(&job, &Observed::default(), at(0)).plan;
    let Some(Action::Create { pods }) = plan.actions.into_iter().next() else { panic!("a pod is created") };
    let pod = &pods[0];
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("work-0-"));
    assert_eq!(pod.metadata.labels.as_ref().unwrap()[INDEX], "0");
    assert_eq!(pod.metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/job-index-failure-count"], "0");
    assert_eq!(spec.hostname.as_deref(), Some("work-0"));
    let variable = &spec.containers[0].env.as_ref().unwrap()[0];
    assert_eq!(variable.name, "JOB_COMPLETION_INDEX");
    let path = variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap().field_path.as_str();
    assert_eq!(path, "metadata.labels['batch.kubernetes.io/job-completion-index']");
}

/// A Job and its pods as they are, as the caches show them, and what the controller remembers.
struct Model {
    truth: Job,
    job: Job,
    pods: BTreeMap<String, Arc<Pod>>,
    cache: BTreeMap<String, Arc<Pod>>,
    flight: InFlight,
    released: BTreeSet<String>,
    created: usize,
    /// Pods that lost their finalizer because they were done with.
    let_go: i32,
    revision: u64,
}

#[derive(Debug, Clone)]
enum Op {
    Plan { failing_after: usize },
    SyncPods,
    SyncOne(prop::sample::Index),
    SyncJob,
    Succeed(prop::sample::Index),
    Fail(prop::sample::Index),
    Delete(prop::sample::Index),
    Vanish(prop::sample::Index),
    Suspend(bool),
    Parallelism(i32),
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = any::<prop::sample::Index>;
    let op = prop_oneof![
        8 => (0..8usize).prop_map(|failing_after| Op::Plan { failing_after }),
        2 => Just(Op::SyncPods),
        4 => index().prop_map(Op::SyncOne),
        3 => Just(Op::SyncJob),
        4 => index().prop_map(Op::Succeed),
        1 => index().prop_map(Op::Fail),
        1 => index().prop_map(Op::Delete),
        2 => index().prop_map(Op::Vanish),
        1 => any::<bool>().prop_map(Op::Suspend),
        1 => (0..4i32).prop_map(Op::Parallelism),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..80)
}

impl Model {
    fn new(job: Job) -> Self {
        let (pods, cache, released) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut model = Self { truth: job.clone(), job, pods, cache, flight: InFlight::default(), released, created: 0, let_go: 0, revision: 0 };
        model.touch();
        model.job = model.truth.clone();
        model
    }

    fn touch(&mut self) {
        self.revision += 1;
        self.truth.metadata.resource_version = Some(self.revision.to_string());
    }

    fn spec(&mut self, change: impl FnOnce(&mut k8s_openapi::api::batch::v1::JobSpec)) {
        change(self.truth.spec.as_mut().unwrap());
        self.touch();
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        let Some(pod) = self.pods.get_mut(name) else { return };
        change(Arc::make_mut(pod));
        let pod = pod.clone();
        if pods::is_terminating(&pod) && pods::is_finished(&pod) && !has_finalizer(&pod) {
            self.pods.remove(name);
        }
    }

    fn active(&self) -> Vec<&Arc<Pod>> {
        self.pods.values().filter(|pod| pods::is_active(pod)).collect()
    }

    fn untrack(&mut self, name: &str, counted: bool) {
        let tracked = self.pods.get(name).is_some_and(|pod| has_finalizer(pod));
        self.change(name, |pod| pod.metadata.finalizers = None);
        self.released.insert(format!("uid-{name}"));
        self.let_go += i32::from(tracked && counted);
    }

    fn apply(&mut self, action: Action, budget: &mut usize) -> bool {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        match action {
            Action::Create { pods: new } => {
                for mut pod in new {
                    let name = format!("work-{}", self.created);
                    self.created += 1;
                    pod.metadata.uid = Some(format!("uid-{name}"));
                    pod.metadata.name = Some(name.clone());
                    self.flight.created(&format!("uid-{name}"), &name, at(0));
                    self.pods.insert(name, Arc::new(pod));
                }
            }
            Action::Delete { pod, uid, untrack } => {
                if untrack {
                    self.untrack(&pod, false);
                }
                self.flight.deleted(&uid, at(0));
                self.change(&pod, |pod| pod.metadata.deletion_timestamp = time::api(at(0)));
            }
            Action::Untrack { pod, .. } => self.untrack(&pod, true),
            Action::Adopt { .. } | Action::Release { .. } | Action::Note(_) => {}
        }
        true
    }

    fn observed(&mut self) -> Observed {
        for pod in self.cache.values() {
            self.flight.seen(pods::uid(pod), pods::is_terminating(pod));
        }
        let lists = self.job.status.as_ref().and_then(|status| status.uncounted_terminated_pods.clone()).unwrap_or_default();
        let listed: BTreeSet<String> = lists.succeeded.into_iter().chain(lists.failed).flatten().collect();
        // What a list names and the cache does not have is looked at live.
        for uid in &listed {
            let name = &uid["uid-".len()..];
            if !self.cache.contains_key(name) && !self.pods.get(name).is_some_and(|pod| has_finalizer(pod)) {
                self.released.insert(uid.clone());
            }
        }
        let cache = &self.cache;
        self.released.retain(|uid| listed.contains(uid) || cache.get(&uid["uid-".len()..]).is_some_and(|pod| has_finalizer(pod)));
        let creates = self.flight.creates().into_iter().filter(|uid| !self.cache.contains_key(&uid["uid-".len()..])).count();
        Observed {
            pods: self.cache.values().cloned().collect(),
            creates_in_flight: creates,
            deletes_in_flight: self.flight.deletes(),
            released: self.released.clone(),
            ..Observed::default()
        }
    }

    /// One reconcile with at most `budget` writes that succeed. Says whether there was anything to do.
    fn reconcile(&mut self, mut budget: usize, now: i64) -> bool {
        // Our own writes are waited for.
        if self.job.metadata.resource_version != self.truth.metadata.resource_version {
            return true;
        }
        let (before, most) = (self.active().len(), self.truth.spec.as_ref().unwrap().parallelism.unwrap_or(1) as usize);
        let observed = self.observed();
        let mut decision = plan(&self.job, &observed, at(now));
        let busy = !decision.plan.is_quiet();
        let actions = std::mem::take(&mut decision.plan.actions);
        let all = actions.into_iter().map(|action| self.apply(action, &mut budget)).fold(true, |all, done| all && done);
        if !all {
            let observed = Observed { hold: true, ..self.observed() };
            decision = plan(&self.job, &observed, at(now));
        }
        let after = self.active().len();
        assert!(after <= before.max(most), "{after} active pods, {most} allowed, {before} before");
        let indexes: Vec<&String> = self.active().iter().filter_map(|pod| pod.metadata.annotations.as_ref()?.get(INDEX)).collect();
        let distinct: BTreeSet<&&String> = indexes.iter().collect();
        assert_eq!(distinct.len(), indexes.len(), "two pods of one index: {indexes:?}");
        if let Some(status) = decision.plan.status
            && budget > 0
        {
            let wanted = self.truth.spec.as_ref().unwrap().completions;
            if holds(&status, "Complete").is_some() {
                assert!(status.succeeded.unwrap_or(0) >= wanted.unwrap_or(1), "complete with {status:?}");
                assert_eq!(self.active().len(), 0, "pods run on");
            }
            self.truth.status = Some(status);
            self.touch();
        }
        busy
    }

    fn sync_pods(&mut self) {
        for (name, pod) in &self.cache {
            if !self.pods.contains_key(name) {
                self.flight.seen(pods::uid(pod), true);
            }
        }
        let gone: Vec<String> =
            self.flight.creates().into_iter().filter(|uid| !self.pods.contains_key(&uid["uid-".len()..])).collect();
        for uid in gone {
            self.flight.seen(&uid, true);
        }
        self.cache = self.pods.clone();
    }

    fn pick(&self, index: prop::sample::Index) -> Option<String> {
        (!self.pods.is_empty()).then(|| self.pods.keys().nth(index.index(self.pods.len())).cloned()).flatten()
    }

    fn end(&mut self, index: prop::sample::Index, phase: &str) {
        if let Some(name) = self.pick(index) {
            self.change(&name, |pod| {
                if !pods::is_finished(pod) {
                    pod.status.get_or_insert_default().phase = Some(phase.to_owned());
                }
            });
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Plan { failing_after } => {
                self.reconcile(failing_after, 100);
            }
            Op::SyncPods => self.sync_pods(),
            Op::SyncOne(index) => {
                if let Some(name) = self.pick(index) {
                    self.cache.insert(name.clone(), self.pods[&name].clone());
                }
            }
            Op::SyncJob => self.job = self.truth.clone(),
            Op::Succeed(index) => self.end(index, "Succeeded"),
            Op::Fail(index) => self.end(index, "Failed"),
            Op::Delete(index) => {
                if let Some(name) = self.pick(index) {
                    self.change(&name, |pod| pod.metadata.deletion_timestamp = time::api(at(0)));
                }
            }
            // A terminating pod goes when nothing holds it.
            Op::Vanish(index) => {
                if let Some(name) = self.pick(index)
                    && pods::is_terminating(&self.pods[&name])
                    && !has_finalizer(&self.pods[&name])
                {
                    self.pods.remove(&name);
                }
            }
            Op::Suspend(suspend) => self.spec(|spec| spec.suspend = Some(suspend)),
            Op::Parallelism(count) => self.spec(|spec| spec.parallelism = Some(count)),
            // Another copy takes over: it has read everything live.
            Op::Restart => {
                self.flight = InFlight::default();
                self.released.clear();
                self.cache = self.pods.clone();
                self.job = self.truth.clone();
            }
        }
    }

    /// Everything works from now on, until nothing is left to do.
    fn settle(&mut self) {
        self.spec(|spec| {
            spec.suspend = Some(false);
            spec.parallelism = Some(2);
        });
        for round in 0.. {
            assert!(round < 200, "never ends: {}", shown(self.truth.status.as_ref().unwrap()));
            self.sync_pods();
            self.job = self.truth.clone();
            let busy = self.reconcile(usize::MAX, 1_000_000 + round);
            for name in self.pods.keys().cloned().collect::<Vec<_>>() {
                let going = self.pods.get(&name).is_some_and(|pod| pods::is_terminating(pod));
                let phase = if going { "Failed" } else { "Succeeded" };
                self.change(&name, |pod| {
                    if !pods::is_finished(pod) {
                        pod.status.get_or_insert_default().phase = Some(phase.to_owned());
                    }
                });
            }
            if !busy && is_finished(&self.truth) {
                return;
            }
        }
    }
}

fn never_twice_never_lost(spec: Value, ops: Vec<Op>) {
    let mut model = Model::new(job(spec));
    for op in ops {
        model.step(op);
    }
    model.settle();
    let status = model.truth.status.clone().unwrap();
    assert!(model.pods.values().all(|pod| !has_finalizer(pod)), "a pod was forgotten");
    let lists = status.uncounted_terminated_pods.clone().unwrap_or_default();
    assert_eq!((lists.succeeded, lists.failed), (None, None));
    if status.completed_indexes.is_none() {
        let counted = status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0);
        assert_eq!(counted, model.let_go, "{}", shown(&status));
    }
    assert_eq!(owner(&model.truth.metadata).uid, "uid-work");
}

proptest! {
    #[test]
    fn every_finished_pod_is_counted_once(ops in ops(), only_failed in any::<bool>()) {
        let policy = if only_failed { "Failed" } else { "TerminatingOrFailed" };
        never_twice_never_lost(json!({"completions": 4, "parallelism": 2, "backoffLimit": 100, "podReplacementPolicy": policy}), ops);
    }

    #[test]
    fn a_job_that_fails_counts_its_pods_too(ops in ops()) {
        never_twice_never_lost(json!({"completions": 4, "parallelism": 2, "backoffLimit": 1}), ops);
    }

    #[test]
    fn one_pod_per_index(ops in ops(), per_index in any::<bool>()) {
        let limit = if per_index { json!(1) } else { Value::Null };
        never_twice_never_lost(json!({"completions": 4, "parallelism": 2, "backoffLimit": 100, "completionMode": "Indexed", "backoffLimitPerIndex": limit}), ops);
    }
}
