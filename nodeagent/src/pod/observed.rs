//! What is known of a pod when a plan is made: what the engine has, what the node is, what the agent remembers.
//!
//! Pure. The memory changes only by [`Observed::notice`], [`Observed::begin`] and [`Observed::finish`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

pub use super::doom::{Doom, Why};
use super::resize::{Allocation, Resizing, Step, Verdict};
use super::restart::{self, Backoff};
use super::view::{self, Role, Unit, after, since};
use crate::runtime::{ContainerState, ContainerStatus, SandboxStatus};

/// Facts about the node that show in a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its addresses, primary first.
    pub host_ips: Vec<IpAddr>,
    /// `docker`: the scheme of container identifiers.
    pub runtime: String,
    /// Why pods cannot have a network yet; `None` where they can.
    pub network_problem: Option<String>,
}

/// What the node said to the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Admission {
    /// Nothing yet.
    #[default]
    Pending,
    /// It may run.
    Accepted,
    /// It may not.
    Rejected {
        /// `OutOfcpu`, `NodeAffinity`, …
        reason: String,
        /// For a person.
        message: String,
    },
}

/// The node ends the pod by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// `DeadlineExceeded`, `Evicted`, …
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Instead of the pod's own grace, seconds.
    pub grace_seconds: Option<i64>,
    /// Whether the condition DisruptionTarget is set.
    pub disruption: bool,
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// `ErrImagePull`, `CreateContainerConfigError`, `RunContainerError`, …
    pub reason: String,
    /// For a person.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// The instance, where one was made; it counts as having ended.
    pub id: Option<String>,
    /// Of which container spec.
    pub spec_hash: String,
    /// The instance as the engine has it, where one was made.
    pub instance: Option<Box<ContainerStatus>>,
}

/// What the probes of one instance say. `None`: not yet known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// Which instance.
    pub id: String,
    /// `startupProbe`
    pub startup: Option<bool>,
    /// `readinessProbe`
    pub readiness: Option<bool>,
    /// `livenessProbe`
    pub liveness: Option<bool>,
}

/// What is remembered of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerMemory {
    /// Restart back-off.
    pub crash: Option<Backoff>,
    /// Image pull back-off.
    pub pull: Option<Backoff>,
    /// The last start's failure, until a start succeeds.
    pub failure: Option<StartFailure>,
    /// The instance whose postStart hook is done, and how: `Err` is a failure.
    pub post_start: Option<(String, Result<(), String>)>,
    /// The instance whose preStop hook is done.
    pub pre_stop: Option<String>,
    /// Probe results.
    pub probes: Probes,
    /// It has to end.
    pub doom: Option<Doom>,
    /// The instance that ended for a resize: its successor is due, whatever the restart policy.
    pub resized: Option<String>,
    /// What a running start is busy with, for a person.
    pub progress: String,
}

/// What may be under way, at most once at a time each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Node admission.
    Admit,
    /// Mounting.
    Volumes,
    /// Making the sandbox.
    Sandbox,
    /// Image, config, create, start of a container.
    Start(String),
    /// postStart of a container.
    PostStart(String),
    /// preStop of a container.
    PreStop(String),
    /// Stopping an instance.
    Stop(String),
    /// Removing an instance.
    Remove(String),
    /// Stopping a sandbox.
    StopSandbox(String),
    /// Weighing a resize.
    Allocate,
    /// Changing limits.
    Resize,
    /// Removing everything.
    Teardown,
    /// Deleting the object.
    Delete,
}

/// Something that failed and will be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often in a row.
    pub failures: u32,
    /// Not before.
    pub at: Timestamp,
    /// For a person.
    pub message: String,
}

/// What the agent remembers of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// `status.startTime`
    pub start_time: Timestamp,
    /// The node's word.
    pub admission: Admission,
    /// Volumes are mounted.
    pub volumes_mounted: bool,
    /// By container.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// Under way: until when at the latest a stop takes; the beginning for everything else.
    pub busy: BTreeMap<Op, Timestamp>,
    /// Failed, to be tried again.
    pub retries: BTreeMap<Op, Retry>,
    /// Ended by the node.
    pub kill: Option<Kill>,
    /// Since when the pod is being stopped.
    pub stopping: Option<Timestamp>,
    /// The object is gone from the API.
    pub gone: bool,
    /// Everything of it on this node is gone.
    pub torn_down: bool,
    /// The object was deleted for good.
    pub deleted: bool,
    /// Termination messages and log tails, by instance.
    pub messages: BTreeMap<String, String>,
    /// Resources: given, had, on the way.
    pub resize: Resizing,
}

/// Everything a plan is made from, besides the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Sandboxes of this pod, newest first.
    pub sandboxes: Vec<SandboxStatus>,
    /// Containers of this pod, all instances, newest first.
    pub containers: Vec<ContainerStatus>,
    /// The node.
    pub node: NodeFacts,
    /// What the agent remembers.
    pub memory: Memory,
}

/// What became of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of `Admit`.
    Admitted(Admission),
    /// Of `CreateSandbox`.
    Sandbox(SandboxStatus),
    /// Of `Start`: the new instance, running.
    Started(ContainerStatus),
    /// Of `Start`: reason and the instance, where there is one.
    NotStarted(StartFailure),
    /// Of `PostStart`: which instance, and the failure.
    PostStart(String, Result<(), String>),
    /// Of `PreStop`: which instance. A failure has been reported and changes nothing.
    PreStop(String),
    /// Of `Stop` and `Remove`: how the instance is now, `None` for gone.
    Instance(String, Option<ContainerStatus>),
    /// Of `StopSandbox`.
    SandboxStopped(String),
    /// Of `Allocate`: the node's word on what was asked for.
    Weighed {
        /// The word.
        verdict: Verdict,
        /// On this.
        allocation: Allocation,
        /// Which `metadata.generation` asked.
        generation: i64,
    },
    /// Of `Resize`: what was written, and the error that ended it.
    Resized {
        /// In order.
        done: Vec<Step>,
        /// Empty: none.
        error: String,
    },
    /// Of the others: it is done.
    Done,
    /// Of any: it failed, to be tried again.
    Failed(String),
}

/// How an instance stands, start failures included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Made, not started.
    Created,
    /// Runs.
    Running(Timestamp),
    /// Ended.
    Dead {
        /// From when; `None` where it never ran.
        started_at: Option<Timestamp>,
        /// Until when.
        finished_at: Timestamp,
        /// Exit code.
        exit_code: i32,
        /// `Completed`, `Error`, `OOMKilled`, `StartError`
        reason: &'static str,
        /// The engine's words where it could not be started.
        message: String,
    },
}

impl Memory {
    /// Of a pod that the agent sees for the first time.
    pub fn new(start_time: Timestamp) -> Self {
        Self {
            start_time,
            admission: Admission::Pending,
            volumes_mounted: false,
            containers: BTreeMap::new(),
            busy: BTreeMap::new(),
            retries: BTreeMap::new(),
            kill: None,
            stopping: None,
            gone: false,
            torn_down: false,
            deleted: false,
            messages: BTreeMap::new(),
            resize: Resizing::default(),
        }
    }

    /// What is remembered of a container; nothing yet reads as empty.
    pub fn container(&self, name: &str) -> Option<&ContainerMemory> {
        self.containers.get(name)
    }

    /// Whether a start of any container is under way.
    pub fn starting(&self) -> bool {
        self.busy.keys().any(|op| matches!(op, Op::Start(_) | Op::Sandbox))
    }

    fn container_mut(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }
}

impl Observed {
    /// The sandbox that is good for containers.
    pub fn sandbox(&self) -> Option<&SandboxStatus> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// All instances of a container, newest first.
    pub fn instances<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerStatus> {
        self.containers.iter().filter(move |container| container.name == name)
    }

    /// The newest instance of a container.
    pub fn newest<'a>(&'a self, name: &'a str) -> Option<&'a ContainerStatus> {
        self.instances(name).next()
    }

    /// Whether an instance was made in the sandbox that is good now.
    pub fn is_current(&self, instance: &ContainerStatus) -> bool {
        self.sandbox().is_some_and(|sandbox| instance.created_at >= sandbox.created_at)
    }

    /// How an instance stands.
    pub fn standing(&self, instance: &ContainerStatus) -> Standing {
        let failure = self
            .memory
            .container(&instance.name)
            .and_then(|memory| memory.failure.as_ref())
            .filter(|failure| failure.id.as_deref() == Some(instance.id.as_str()));
        match (&instance.state, failure) {
            (ContainerState::Running { started_at }, _) => Standing::Running(*started_at),
            (ContainerState::Created, None) => Standing::Created,
            (ContainerState::Created, Some(failure)) => start_error(failure.at, failure.message.clone()),
            (ContainerState::Exited { finished_at, error, .. }, _) if !error.is_empty() => {
                start_error(*finished_at, error.clone())
            }
            (ContainerState::Exited { started_at, finished_at, exit_code, oom_killed, .. }, _) => Standing::Dead {
                started_at: Some(*started_at),
                finished_at: *finished_at,
                exit_code: *exit_code,
                reason: match (oom_killed, exit_code) {
                    (true, _) => "OOMKilled",
                    (false, 0) => "Completed",
                    (false, _) => "Error",
                },
                message: String::new(),
            },
        }
    }

    /// Whether any instance of any container runs.
    pub fn anything_alive(&self) -> bool {
        self.containers.iter().any(|container| matches!(container.state, ContainerState::Running { .. }))
    }

    /// Whether a container runs, its postStart hook is done and its startup probe has succeeded.
    pub fn is_started(&self, unit: &Unit<'_>) -> bool {
        let Some(newest) = self.newest(unit.name()) else { return false };
        if !matches!(newest.state, ContainerState::Running { .. }) {
            return false;
        }
        let memory = self.memory.container(unit.name());
        let hook_done = !has_post_start(unit)
            || memory.is_some_and(|memory| matches!(&memory.post_start, Some((id, Ok(()))) if *id == newest.id));
        let probe_done = unit.container.startup_probe.is_none()
            || memory.is_some_and(|memory| memory.probes.id == newest.id && memory.probes.startup == Some(true));
        hook_done && probe_done
    }

    /// Takes in what follows from the pod, the engine's state and the time alone: the start of a stop, a deadline
    /// that passed, containers that have to end, back-off after a restart of the agent.
    pub fn notice(&mut self, pod: &Pod, now: Timestamp) {
        if let Some(start_time) = view::status(pod).start_time.as_ref() {
            self.memory.start_time = start_time.0;
        }
        self.sandboxes.sort_by(|a, b| b.attempt.cmp(&a.attempt).then_with(|| b.created_at.cmp(&a.created_at)));
        self.containers.sort_by(|a, b| b.attempt.cmp(&a.attempt).then_with(|| b.created_at.cmp(&a.created_at)));
        if self.memory.admission == Admission::Pending && !self.containers.is_empty() {
            // It runs here already: an agent that comes back never asks again.
            self.memory.admission = Admission::Accepted;
        }
        self.notice_deadline(pod, now);
        let ends = view::is_deleted(pod) || self.memory.gone || self.memory.kill.is_some();
        if ends && self.memory.stopping.is_none() {
            self.memory.stopping = Some(now);
        }
        for unit in view::units(pod) {
            self.notice_container(pod, &unit, now);
        }
        self.notice_resize(pod);
        let ids: BTreeSet<&str> = self.containers.iter().map(|container| container.id.as_str()).collect();
        self.memory.messages.retain(|id, _| ids.contains(id.as_str()));
    }

    /// When `activeDeadlineSeconds` is over, where it is set and still matters.
    pub fn deadline(&self, pod: &Pod) -> Option<Timestamp> {
        let seconds = view::spec(pod).active_deadline_seconds?;
        let counts = !view::is_terminal(pod)
            && self.memory.admission == Admission::Accepted
            && self.memory.kill.is_none()
            && self.memory.stopping.is_none();
        counts.then(|| after(self.memory.start_time, Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
    }

    fn notice_deadline(&mut self, pod: &Pod, now: Timestamp) {
        if self.memory.kill.is_none() && self.deadline(pod).is_some_and(|deadline| deadline <= now) {
            self.memory.kill = Some(Kill {
                reason: "DeadlineExceeded".to_owned(),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
                grace_seconds: None,
                disruption: false,
            });
        }
    }

    fn notice_container(&mut self, pod: &Pod, unit: &Unit<'_>, now: Timestamp) {
        let Some(newest) = self.newest(unit.name()).cloned() else { return };
        let hash = view::spec_hash(&unit.container);
        let running = matches!(newest.state, ContainerState::Running { .. });
        let known = self.memory.containers.contains_key(unit.name());
        let sandbox_lost = !self.is_current(&newest);
        let resize_restarts = self.resize_restarts(unit);
        let memory = self.memory.container_mut(unit.name());
        if !known {
            let started_at = match newest.state {
                ContainerState::Running { started_at } | ContainerState::Exited { started_at, .. } => started_at,
                ContainerState::Created => newest.created_at,
            };
            memory.crash = restart::rebuilt(newest.attempt, started_at, &hash);
            if has_post_start(unit) && running && since(started_at, now) > Duration::ZERO {
                // Whether the hook had run is not known; a hook that runs twice is worse than one that was cut off
                // with its agent.
                memory.post_start = Some((newest.id.clone(), Ok(())));
            }
        }
        if memory.probes.id != newest.id {
            memory.probes = Probes { id: newest.id.clone(), ..Probes::default() };
        }
        if memory.doom.as_ref().is_some_and(|doom| doom.id != newest.id || !running) {
            memory.doom = None;
        }
        if !running || memory.doom.is_some() {
            return;
        }
        let hook_failed = matches!(&memory.post_start, Some((id, Err(_))) if *id == newest.id);
        let grace = |probe: Option<&k8s_openapi::api::core::v1::Probe>| {
            probe.and_then(|probe| probe.termination_grace_period_seconds).unwrap_or_else(|| view::spec_grace_seconds(pod))
        };
        let own = view::spec_grace_seconds(pod);
        let doom = if sandbox_lost && unit.role != Role::Ephemeral {
            Some((Why::Sandbox, own))
        } else if hook_failed {
            Some((Why::PostStart, own))
        } else if memory.probes.startup == Some(false) {
            Some((Why::Startup, grace(unit.container.startup_probe.as_ref())))
        } else if memory.probes.liveness == Some(false) {
            Some((Why::Liveness, grace(unit.container.liveness_probe.as_ref())))
        } else if newest.spec_hash != hash && !newest.spec_hash.is_empty() {
            Some((Why::Changed, own))
        } else if resize_restarts {
            memory.resized = Some(newest.id.clone());
            Some((Why::Resize, own))
        } else {
            None
        };
        memory.doom = doom.map(|(why, grace_seconds)| Doom { id: newest.id, since: now, grace_seconds, why });
    }

    /// An action starts. `until` is when it ends at the latest, where that is known.
    pub fn begin(&mut self, op: Op, raised: Option<Backoff>, until: Timestamp) {
        if let (Op::Start(name), Some(raised)) = (&op, raised) {
            self.memory.container_mut(name).crash = Some(raised);
        }
        self.memory.busy.insert(op, until);
    }

    /// The outcome of an action arrives.
    pub fn finish(&mut self, op: &Op, outcome: Outcome, now: Timestamp) {
        self.memory.busy.remove(op);
        if let Outcome::Failed(message) = outcome {
            return self.failed(op, message, now);
        }
        if let Outcome::Resized { done, error } = &outcome {
            self.resized(done, error);
            if !error.is_empty() {
                return self.failed(op, error.clone(), now);
            }
        }
        self.memory.retries.remove(op);
        match (op, outcome) {
            (Op::Admit, Outcome::Admitted(admission)) => self.memory.admission = admission,
            (Op::Volumes, Outcome::Done) => self.memory.volumes_mounted = true,
            (Op::Sandbox, Outcome::Sandbox(sandbox)) => {
                self.sandboxes.retain(|other| other.id != sandbox.id);
                self.sandboxes.insert(0, sandbox);
                // Its group was made from what had been given.
                self.memory.resize.kept.cgroup = None;
            }
            (Op::Start(name), Outcome::Started(status)) => {
                let memory = self.memory.container_mut(name);
                (memory.failure, memory.pull) = (None, None);
                memory.progress.clear();
                memory.probes = Probes { id: status.id.clone(), ..Probes::default() };
                self.put(status);
            }
            (Op::Start(name), Outcome::NotStarted(failure)) => self.not_started(name, failure, now),
            (Op::PostStart(name), Outcome::PostStart(id, result)) => {
                let memory = self.memory.container_mut(name);
                if let Err(message) = &result {
                    memory.failure = Some(StartFailure {
                        reason: "PostStartHookError".to_owned(),
                        message: message.clone(),
                        at: now,
                        id: None,
                        spec_hash: String::new(),
                        instance: None,
                    });
                }
                memory.post_start = Some((id, result));
            }
            (Op::PreStop(name), Outcome::PreStop(id)) => self.memory.container_mut(name).pre_stop = Some(id),
            (_, Outcome::Instance(id, status)) => match status {
                Some(status) => self.put(status),
                None => self.containers.retain(|container| container.id != id),
            },
            (_, Outcome::SandboxStopped(id)) => {
                for sandbox in self.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id) {
                    sandbox.ready = false;
                }
            }
            (Op::Teardown, Outcome::Done) => {
                self.memory.torn_down = true;
                self.containers.clear();
                self.sandboxes.clear();
            }
            (Op::Delete, Outcome::Done) => self.memory.deleted = true,
            (_, Outcome::Weighed { verdict, allocation, generation }) => self.weighed(verdict, allocation, generation, now),
            _ => {}
        }
    }

    fn not_started(&mut self, name: &str, mut failure: StartFailure, now: Timestamp) {
        if let Some(instance) = failure.instance.take() {
            self.put(*instance);
        }
        let memory = self.memory.container_mut(name);
        memory.progress.clear();
        if failure.reason == "ErrImagePull" {
            memory.pull = Some(restart::raised(memory.pull.as_ref(), &failure.spec_hash, now, now));
        }
        memory.failure = Some(failure);
    }

    fn failed(&mut self, op: &Op, message: String, now: Timestamp) {
        let failures = self.memory.retries.get(op).map_or(0, |retry| retry.failures) + 1;
        let wait = Duration::from_millis(500).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(15));
        self.memory.retries.insert(op.clone(), Retry { failures, at: after(now, wait), message });
    }

    /// Takes in what the engine says of one instance now.
    pub fn put(&mut self, status: ContainerStatus) {
        match self.containers.iter_mut().find(|container| container.id == status.id) {
            Some(old) => *old = status,
            None => self.containers.insert(0, status),
        }
    }
}

fn start_error(at: Timestamp, message: String) -> Standing {
    Standing::Dead { started_at: None, finished_at: at, exit_code: 128, reason: "StartError", message }
}

/// Whether a container has a postStart hook.
pub fn has_post_start(unit: &Unit<'_>) -> bool {
    unit.container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some())
}

/// Whether a container has a preStop hook.
pub fn has_pre_stop(unit: &Unit<'_>) -> bool {
    unit.container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
}
