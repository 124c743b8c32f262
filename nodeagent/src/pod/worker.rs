//! The shell around the planner: one task per pod. It waits for something to happen, plans, starts the actions, writes
//! the status, and does it again.
//!
//! It decides nothing about pods. What it guarantees: one action per [`Op`] at a time; the last status is in the API
//! before anything is torn down, and everything is torn down before the object is deleted; a listing of the engine
//! that is older than an own action never overrides what that action saw.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::actuate;
use super::execute::Executor;
use super::life::{self, Stage};
use super::manager::{Shared, Snapshot};
use super::observed::{Admission, Memory, Observed, Op, Outcome};
use super::plan::{Action, Plan, PodEvent, ProbeKey, plan};
use super::resize::{Allocation, Checkpoint};
use super::{patch, view};
use crate::api::ApiFailure;
use crate::clock;
use crate::probe::prober::{Prober, Told};
use crate::probe::threshold::Row;
use crate::probe::{Answer, Kind};
use crate::runtime::{ContainerState, LogOptions, Output, RuntimeError, RuntimeEvent};
use crate::volume::mount::PodVolumes;

/// A termination message is at most this long.
const MESSAGE_LIMIT: usize = 4096;
/// How often what is projected into volumes is brought up to date.
const REFRESH: Duration = Duration::from_secs(45);

/// What the pod should be.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The object, as the watch brought it last.
    pub pod: Arc<Pod>,
    /// It is gone from the API.
    pub gone: bool,
}

/// The ends through which a worker hears of the world.
pub struct Inbox {
    /// The object; the latest counts.
    pub desired: watch::Receiver<Desired>,
    /// What the engine listed; the latest counts.
    pub listed: watch::Receiver<Snapshot>,
    /// The engine's events.
    pub events: mpsc::Receiver<RuntimeEvent>,
}

/// What an own task tells.
enum Told2 {
    Done { op: Op, token: u64, outcome: Outcome },
    Progress { container: String, text: String },
    Written { status: Box<PodStatus>, result: Result<(), ApiFailure> },
    Refreshed,
}

struct Running {
    token: u64,
    abort: AbortHandle,
}

/// The task of one pod.
pub struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    seen: Observed,
    volumes: Arc<PodVolumes>,
    stage: Option<Stage>,
    tasks: JoinSet<()>,
    running: BTreeMap<Op, Running>,
    next_token: u64,
    /// When an own action last changed what the engine has.
    acted_at: Instant,
    told: mpsc::Sender<Told2>,
    hear: mpsc::Receiver<Told2>,
    probes: BTreeMap<ProbeKey, (AbortHandle, Row)>,
    probed: mpsc::Sender<Told>,
    hear_probes: mpsc::Receiver<Told>,
    events: BTreeSet<PodEvent>,
    writing: bool,
    write_after: Option<Instant>,
    write_failures: u32,
    refresh_at: Instant,
    progress_at: Instant,
    /// What is on disk of the pod's resources.
    kept: Checkpoint,
}

impl Worker {
    /// For a pod that is new to this agent.
    pub fn new(shared: Arc<Shared>, pod: Arc<Pod>, snapshot: &Snapshot) -> Self {
        let (told, hear) = mpsc::channel(64);
        let (probed, hear_probes) = mpsc::channel(32);
        let volumes = PodVolumes::new(shared.layout.clone(), shared.api.clone(), shared.hollow);
        let mut memory = Memory::new(clock::now());
        if !shared.hollow {
            memory.resize.kept = actuate::load(&shared.layout, &pod);
        }
        let kept = memory.resize.kept.clone();
        let seen = Observed {
            sandboxes: snapshot.sandboxes.clone(),
            containers: snapshot.containers.clone(),
            node: shared.facts().node,
            memory,
        };
        Self {
            shared,
            pod,
            seen,
            volumes: Arc::new(volumes),
            stage: None,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            next_token: 0,
            acted_at: Instant::now(),
            told,
            hear,
            probes: BTreeMap::new(),
            probed,
            hear_probes,
            events: BTreeSet::new(),
            writing: false,
            write_after: None,
            write_failures: 0,
            refresh_at: Instant::now() + REFRESH,
            progress_at: Instant::now(),
            kept,
        }
    }

    /// Works until nothing is left of the pod.
    pub async fn run(mut self, mut inbox: Inbox) {
        loop {
            let now = clock::now();
            self.seen.node = self.shared.facts().node;
            self.note_messages().await;
            self.seen.notice(&self.pod, now);
            self.keep_resources().await;
            let plan = plan(&self.pod, &self.seen, now);
            self.check_stage(plan.stage);
            if plan.stage == Stage::Gone {
                break;
            }
            self.shared.note(&self.pod, &self.allocated(), plan.stage);
            self.tell_events(&plan);
            self.keep_probes(&plan);
            let unwritten = self.write_status(&plan, now);
            let requeue = plan.requeue_after;
            for action in plan.actions {
                self.start(action, unwritten, now);
            }
            self.refresh();
            if !self.wait(&mut inbox, requeue).await {
                return;
            }
        }
        self.shared.forget(view::uid(&self.pod));
    }

    /// Waits for something worth a plan; `false` where the agent stops.
    async fn wait(&mut self, inbox: &mut Inbox, requeue: Option<Duration>) -> bool {
        let forever = Duration::from_secs(3600);
        let mut until = Instant::now() + requeue.unwrap_or(forever).min(forever);
        if let Some(write_after) = self.write_after.filter(|_| !self.writing) {
            until = until.min(write_after);
        }
        if self.volumes.needs_refresh(&self.pod) {
            until = until.min(self.refresh_at);
        }
        tokio::select! {
            changed = inbox.desired.changed() => {
                if changed.is_err() {
                    return false;
                }
                let desired = inbox.desired.borrow_and_update().clone();
                self.take(desired);
            }
            changed = inbox.listed.changed() => {
                if changed.is_err() {
                    return false;
                }
                let snapshot = inbox.listed.borrow_and_update().clone();
                self.take_listing(&snapshot);
            }
            event = inbox.events.recv() => match event {
                Some(event) => self.take_event(event).await,
                None => return false,
            },
            Some(told) = self.hear.recv() => self.take_told(told),
            Some(told) = self.hear_probes.recv() => self.take_probe(told),
            Some(_) = self.tasks.join_next() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        // What else has happened meanwhile goes into the same plan.
        while let Ok(told) = self.hear.try_recv() {
            self.take_told(told);
        }
        while let Ok(told) = self.hear_probes.try_recv() {
            self.take_probe(told);
        }
        true
    }

    fn take(&mut self, desired: Desired) {
        self.seen.memory.gone |= desired.gone;
        if desired.gone {
            return;
        }
        let mut pod = Pod::clone(&desired.pod);
        let meta = &self.pod.metadata;
        if meta.labels != pod.metadata.labels || meta.annotations != pod.metadata.annotations {
            // Volumes may show them.
            self.refresh_at = Instant::now();
        }
        if view::is_terminal(&self.pod) && !view::is_terminal(&pod) {
            // An older word of the watch: what we reported as the end stays the end.
            pod.status.clone_from(&self.pod.status);
        }
        self.pod = Arc::new(pod);
    }

    fn take_listing(&mut self, snapshot: &Snapshot) {
        if snapshot.began <= self.acted_at {
            return self.shared.ask_again(view::uid(&self.pod));
        }
        if self.running.is_empty() {
            self.seen.sandboxes.clone_from(&snapshot.sandboxes);
            self.seen.containers.clone_from(&snapshot.containers);
            return;
        }
        self.shared.ask_again(view::uid(&self.pod));
        for listed in &snapshot.containers {
            if self.seen.containers.iter().any(|known| known.id == listed.id) {
                self.seen.put(listed.clone());
            }
        }
        for known in &mut self.seen.sandboxes {
            if let Some(listed) = snapshot.sandboxes.iter().find(|listed| listed.id == known.id) {
                *known = listed.clone();
            }
        }
    }

    async fn take_event(&mut self, event: RuntimeEvent) {
        if !self.seen.containers.iter().any(|known| known.id == event.container_id) {
            return self.shared.relist.notify_one();
        }
        match self.shared.runtime.inspect_container(&event.container_id).await {
            Ok(status) => self.seen.put(status),
            Err(RuntimeError::NotFound(_)) => self.seen.containers.retain(|known| known.id != event.container_id),
            Err(_) => self.shared.relist.notify_one(),
        }
    }

    fn take_told(&mut self, told: Told2) {
        match told {
            Told2::Done { op, token, outcome } => {
                if self.running.get(&op).is_none_or(|running| running.token != token) {
                    return;
                }
                self.running.remove(&op);
                self.acted_at = Instant::now();
                if let Outcome::Failed(problem) = &outcome {
                    tracing::warn!(pod = %view::full_name(&self.pod), ?op, problem, "failed, to be tried again");
                }
                self.seen.finish(&op, outcome, clock::now());
            }
            Told2::Progress { container, text } => {
                // Each line that is shown is a write: only for those who wait long.
                if text != CREATING && self.progress_at.elapsed() < Duration::from_secs(3) {
                    return;
                }
                self.progress_at = Instant::now();
                if let Some(memory) = self.seen.memory.containers.get_mut(&container) {
                    memory.progress = text;
                }
            }
            Told2::Written { status, result } => self.written(*status, result),
            Told2::Refreshed => {}
        }
    }

    fn take_probe(&mut self, told: Told) {
        let Told { key, answer } = told;
        let Some((_, row)) = self.probes.get_mut(&key) else { return };
        let units = view::units(&self.pod);
        let Some(unit) = units.iter().find(|unit| unit.name() == key.container) else { return };
        let Some(probe) = key.kind.of(&unit.container) else { return };
        let tell = |reason: &str, text: String| self.shared.api.event(&self.pod, &unit.field_path(), true, reason, &text);
        match &answer {
            Answer::Success => {}
            Answer::Warning(text) => tell("ProbeWarning", format!("{} probe warning: {text}", key.kind)),
            Answer::Failure(text) => tell("Unhealthy", format!("{} probe failed: {text}", key.kind)),
            Answer::Unknown(text) => {
                tell("Unhealthy", format!("{} probe errored and resulted in unknown state: {text}", key.kind));
            }
        }
        let Some(result) = row.record(probe, &answer) else { return };
        let Some(memory) = self.seen.memory.containers.get_mut(&key.container) else { return };
        if memory.probes.id != key.id {
            return;
        }
        match key.kind {
            Kind::Startup => memory.probes.startup = Some(result),
            Kind::Liveness => memory.probes.liveness = Some(result),
            Kind::Readiness => memory.probes.readiness = Some(result),
        }
    }

    fn check_stage(&mut self, stage: Stage) {
        if let Some(before) = self.stage.filter(|before| !life::allowed(*before, stage)) {
            tracing::error!(pod = %view::full_name(&self.pod), %before, after = %stage, "a way that the life cycle does not have");
        }
        if self.stage != Some(stage) {
            tracing::debug!(pod = %view::full_name(&self.pod), %stage, "pod stage");
            self.stage = Some(stage);
        }
        if matches!(stage, Stage::Terminating | Stage::Cleaning | Stage::Completed) {
            self.give_up_starts();
        }
    }

    /// A pod that stops waits for no image, no volume and no hook of its start.
    fn give_up_starts(&mut self) {
        let given_up: Vec<_> = self
            .running
            .keys()
            .filter(|op| match op {
                Op::Volumes | Op::PostStart(_) => true,
                Op::Start(name) => self.seen.memory.container(name).is_none_or(|memory| memory.progress != CREATING),
                _ => false,
            })
            .filter(|op| self.seen.memory.stopping.is_some() || !matches!(op, Op::PostStart(_)))
            .cloned()
            .collect();
        for op in given_up {
            if let Some(running) = self.running.remove(&op) {
                running.abort.abort();
            }
            self.seen.memory.busy.remove(&op);
        }
    }

    fn start(&mut self, action: Action, unwritten: bool, now: Timestamp) {
        let last = matches!(action, Action::Teardown | Action::Delete);
        if last && unwritten && !self.seen.memory.gone {
            return;
        }
        tracing::debug!(pod = %view::full_name(&self.pod), %action, "start");
        let op = action.op();
        let until = match &action {
            Action::Stop { grace, .. } => view::after(now, *grace),
            _ => now,
        };
        let raised = match &action {
            Action::Start { raised, .. } => raised.clone(),
            _ => None,
        };
        if let Action::Start { container, .. } = &action {
            self.seen.memory.containers.entry(container.clone()).or_default();
            self.progress_at = Instant::now();
        }
        if action == Action::Admit {
            self.seen.memory.resize.kept.allocated = Some(Allocation::of(&self.pod));
        }
        let executor = self.executor(&action);
        self.seen.begin(op.clone(), raised, until);
        self.next_token += 1;
        let (token, told, key) = (self.next_token, self.told.clone(), op.clone());
        let abort = self.tasks.spawn(async move {
            let outcome = executor.run(action).await;
            // Only fails where the worker is gone.
            let _ = told.send(Told2::Done { op: key, token, outcome }).await;
        });
        if let Some(overtaken) = self.running.insert(op, Running { token, abort }) {
            overtaken.abort.abort();
        }
    }

    /// The pod with what it was given.
    fn allocated(&self) -> Arc<Pod> {
        match self.seen.allocated_pod(&self.pod) {
            Cow::Owned(allocated) => Arc::new(allocated),
            Cow::Borrowed(_) => self.pod.clone(),
        }
    }

    /// What was given is on disk before anything is done with it.
    async fn keep_resources(&mut self) {
        let kept = &self.seen.memory.resize.kept;
        if self.shared.hollow || self.seen.memory.torn_down || self.seen.memory.admission != Admission::Accepted || *kept == self.kept {
            return;
        }
        match actuate::save(&self.shared.layout, view::uid(&self.pod), kept).await {
            Ok(()) => self.kept.clone_from(kept),
            Err(error) => tracing::warn!(pod = %view::full_name(&self.pod), %error, "resources not remembered, to be tried again"),
        }
    }

    fn executor(&self, action: &Action) -> Executor {
        let hooked = match action {
            Action::Stop { container, id, .. } => {
                self.seen.memory.container(container).is_some_and(|memory| memory.pre_stop.as_deref() == Some(id))
            }
            _ => false,
        };
        let container = match action {
            Action::Start { container, .. } => container.clone(),
            _ => String::new(),
        };
        let told = self.told.clone();
        let host_ips = || self.seen.node.host_ips.iter().map(ToString::to_string).collect();
        Executor {
            shared: self.shared.clone(),
            pod: if *action == Action::Allocate { self.pod.clone() } else { self.allocated() },
            volumes: self.volumes.clone(),
            sandbox: self.seen.sandbox().map(|sandbox| {
                let ips = sandbox.ips.iter().map(ToString::to_string).collect();
                (sandbox.id.clone(), if view::host_network(&self.pod) { host_ips() } else { ips })
            }),
            hooked,
            progress: Arc::new(move |text| {
                // A full queue only loses a line that the next one replaces.
                let _ = told.try_send(Told2::Progress { container: container.clone(), text });
            }),
        }
    }

    fn tell_events(&mut self, plan: &Plan) {
        let now: BTreeSet<_> = plan.events.iter().cloned().collect();
        for event in now.difference(&self.events) {
            self.shared.api.event(&self.pod, &event.field_path, event.warning, &event.reason, &event.message);
        }
        self.events = now;
    }

    fn keep_probes(&mut self, plan: &Plan) {
        self.probes.retain(|key, (abort, _)| {
            let wanted = plan.probes.contains(key);
            if !wanted {
                abort.abort();
            }
            wanted
        });
        for key in &plan.probes {
            if !self.probes.contains_key(key)
                && let Some(prober) = self.prober(key)
            {
                let task = self.tasks.spawn(prober.run(self.shared.runtime.clone(), self.probed.clone()));
                self.probes.insert(key.clone(), (task, Row::default()));
            }
        }
    }

    fn prober(&self, key: &ProbeKey) -> Option<Prober> {
        let units = view::units(&self.pod);
        let container = units.iter().find(|unit| unit.name() == key.container)?.container.clone().into_owned();
        let instance = self.seen.containers.iter().find(|instance| instance.id == key.id)?;
        let ContainerState::Running { started_at } = instance.state else { return None };
        let pod_ip = match view::host_network(&self.pod) {
            true => self.seen.node.host_ips.first(),
            false => self.seen.sandbox().and_then(|sandbox| sandbox.ips.first()),
        };
        Some(Prober {
            key: key.clone(),
            probe: key.kind.of(&container)?.clone(),
            container,
            started_at,
            pod_ip: pod_ip.map(ToString::to_string).unwrap_or_default(),
            splay: self.shared.splay(),
        })
    }

    /// Starts a write where the API does not say what it should; whether that is so.
    fn write_status(&mut self, plan: &Plan, _now: Timestamp) -> bool {
        let memory = &self.seen.memory;
        if memory.gone || matches!(plan.stage, Stage::Deleting | Stage::Gone) {
            return false;
        }
        let Some(patch) = patch::status(&self.pod, &plan.status) else { return self.writing };
        let early = self.write_after.is_some_and(|after| after > Instant::now());
        if self.writing || early {
            return true;
        }
        self.writing = true;
        let (api, pod, told, status) = (self.shared.api.clone(), self.pod.clone(), self.told.clone(), plan.status.clone());
        let why = format!("pod is {}", plan.stage);
        self.tasks.spawn(async move {
            let result = api.patch_status(&pod, patch, &why).await;
            let _ = told.send(Told2::Written { status: Box::new(status), result }).await;
        });
        true
    }

    fn written(&mut self, status: PodStatus, result: Result<(), ApiFailure>) {
        self.writing = false;
        match result {
            Ok(()) => {
                self.pod = Arc::new(patch::applied(&self.pod, &status));
                (self.write_after, self.write_failures) = (None, 0);
            }
            // The object (or this one of its name) is gone; the watch will say so.
            Err(ApiFailure::NotFound(_) | ApiFailure::Conflict(_)) if view::is_deleted(&self.pod) => {
                self.seen.memory.gone = true;
            }
            Err(error) => {
                self.write_failures += 1;
                let wait = Duration::from_millis(250).saturating_mul(1 << self.write_failures.min(6));
                tracing::warn!(pod = %view::full_name(&self.pod), %error, "status not written, to be tried again");
                self.write_after = Some(Instant::now() + wait.min(Duration::from_secs(10)));
            }
        }
    }

    /// Brings volumes up to date, now and then.
    fn refresh(&mut self) {
        let due = Instant::now() >= self.refresh_at && self.seen.memory.volumes_mounted;
        if !due || self.seen.memory.stopping.is_some() || !self.volumes.needs_refresh(&self.pod) {
            self.refresh_at = self.refresh_at.max(Instant::now() + Duration::from_secs(1));
            return;
        }
        self.refresh_at = Instant::now() + REFRESH;
        let ips = self.seen.sandbox().map(|sandbox| sandbox.ips.iter().map(ToString::to_string).collect());
        let around = self.shared.surroundings(&self.pod, ips.unwrap_or_default());
        let (volumes, pod, told) = (self.volumes.clone(), self.pod.clone(), self.told.clone());
        self.tasks.spawn(async move {
            volumes.refresh(&pod, &around).await;
            let _ = told.send(Told2::Refreshed).await;
        });
    }

    /// Reads the last words of instances that have ended.
    async fn note_messages(&mut self) {
        let ended: Vec<_> = self
            .seen
            .containers
            .iter()
            .filter(|instance| !self.seen.memory.messages.contains_key(&instance.id))
            .filter_map(|instance| match instance.state {
                ContainerState::Exited { exit_code, .. } => Some((instance.clone(), exit_code)),
                ContainerState::Created | ContainerState::Running { .. } => None,
            })
            .collect();
        for (instance, exit_code) in ended {
            let path = self.shared.layout.termination_log(view::uid(&self.pod), &instance.name, instance.attempt);
            let mut text = match self.shared.hollow {
                true => Vec::new(),
                false => tokio::fs::read(&path).await.unwrap_or_default(),
            };
            text.truncate(MESSAGE_LIMIT);
            let units = view::units(&self.pod);
            let falls_back = units.iter().any(|unit| {
                unit.name() == instance.name
                    && unit.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
            });
            if text.is_empty() && exit_code != 0 && falls_back {
                let tail = tokio::time::timeout(Duration::from_secs(2), self.log_tail(&instance.id)).await;
                text = tail.unwrap_or_default();
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            self.seen.memory.messages.insert(instance.id, text);
        }
    }

    /// The last 80 lines of a log, of those at most the last 2048 bytes.
    async fn log_tail(&self, id: &str) -> Vec<u8> {
        let options = LogOptions { tail_lines: Some(80), stdout: true, stderr: true, ..LogOptions::default() };
        let Ok(mut log) = self.shared.runtime.logs(id, &options).await else { return Vec::new() };
        let mut text = Vec::new();
        while let Some(Ok(Output::Stdout(bytes) | Output::Stderr(bytes))) = log.recv().await {
            text.extend_from_slice(&bytes);
        }
        text.split_off(text.len().saturating_sub(2048))
    }
}

/// What a start says of itself once it must not be given up any more.
pub const CREATING: &str = "creating the container";
