//! What happens next with a pod.
//!
//! Pure: the pod, what is observed and the time in; actions, status, events and the next moment of interest out. A
//! plan never repeats what is under way, so carrying it out and planning again gives nothing new.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::life::Stage;
use super::observed::{Admission, Observed, Op, Standing, Why, has_post_start};
use super::resize::Step;
use super::restart::{self, Backoff};
use super::view::{self, Role, Unit, after, since};
use super::{status, termination};
use crate::probe::Kind;

/// One thing to do. Each names one [`Op`]; no second one of the same op starts before the first has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Weigh the pod against the node.
    Admit,
    /// Mount all volumes.
    MountVolumes,
    /// Make the sandbox.
    CreateSandbox {
        /// Its number.
        attempt: u32,
    },
    /// Image, config, create, start.
    Start {
        /// Container name.
        container: String,
        /// Restart count of the new instance.
        attempt: u32,
        /// The restart back-off that is in force from now on.
        raised: Option<Backoff>,
    },
    /// Run the postStart hook.
    PostStart {
        /// Container name.
        container: String,
        /// Instance.
        id: String,
    },
    /// Run the preStop hook.
    PreStop {
        /// Container name.
        container: String,
        /// Instance.
        id: String,
        /// Cut it off after this time.
        within: Duration,
        /// What for.
        why: Why,
    },
    /// Stop signal, then kill.
    Stop {
        /// Container name.
        container: String,
        /// Instance.
        id: String,
        /// Time between the two.
        grace: Duration,
        /// What for.
        why: Why,
    },
    /// Remove a dead instance that nobody needs any more.
    Remove {
        /// Container name.
        container: String,
        /// Its restart count.
        attempt: u32,
        /// Instance.
        id: String,
    },
    /// Take the network down and stop the pause container.
    StopSandbox {
        /// Which.
        id: String,
    },
    /// Weigh a change of resources against the node.
    Allocate,
    /// Write new limits, in this order.
    Resize {
        /// What.
        steps: Vec<Step>,
    },
    /// Remove containers, sandboxes, volumes, cgroup.
    Teardown,
    /// Delete the object, grace 0; to be done only after the plan's status has been written.
    Delete,
}

impl Action {
    /// What it occupies.
    pub fn op(&self) -> Op {
        match self {
            Self::Admit => Op::Admit,
            Self::MountVolumes => Op::Volumes,
            Self::CreateSandbox { .. } => Op::Sandbox,
            Self::Start { container, .. } => Op::Start(container.clone()),
            Self::PostStart { container, .. } => Op::PostStart(container.clone()),
            Self::PreStop { container, .. } => Op::PreStop(container.clone()),
            Self::Stop { id, .. } => Op::Stop(id.clone()),
            Self::Remove { id, .. } => Op::Remove(id.clone()),
            Self::StopSandbox { id } => Op::StopSandbox(id.clone()),
            Self::Allocate => Op::Allocate,
            Self::Resize { .. } => Op::Resize,
            Self::Teardown => Op::Teardown,
            Self::Delete => Op::Delete,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admit => f.write_str("admit"),
            Self::MountVolumes => f.write_str("mount volumes"),
            Self::CreateSandbox { attempt } => write!(f, "create sandbox {attempt}"),
            Self::Start { container, attempt, raised: None } => write!(f, "start {container}/{attempt}"),
            Self::Start { container, attempt, raised: Some(raised) } => {
                write!(f, "start {container}/{attempt}, next wait {}", restart::display(raised.delay))
            }
            Self::PostStart { container, .. } => write!(f, "postStart {container}"),
            Self::PreStop { container, within, .. } => {
                write!(f, "preStop {container} within {}", restart::display(*within))
            }
            Self::Stop { container, grace, why, .. } => {
                write!(f, "stop {container} with {} grace: {why}", restart::display(*grace))
            }
            Self::Remove { container, attempt, .. } => write!(f, "remove {container}/{attempt}"),
            Self::StopSandbox { .. } => f.write_str("stop sandbox"),
            Self::Allocate => f.write_str("weigh the resize"),
            Self::Resize { steps } => write!(f, "resize in {} steps", steps.len()),
            Self::Teardown => f.write_str("tear down"),
            Self::Delete => f.write_str("delete object"),
        }
    }
}

/// An event that follows from the state; the worker emits it when it first appears in a plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodEvent {
    /// Container's field path; empty for the pod.
    pub field_path: String,
    /// Warning or Normal.
    pub warning: bool,
    /// `BackOff`, …
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// A probe that shall run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeKey {
    /// Container name.
    pub container: String,
    /// Instance.
    pub id: String,
    /// Which of its probes.
    pub kind: Kind,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where the pod is in its life.
    pub stage: Stage,
    /// To be started now; they may run at the same time.
    pub actions: Vec<Action>,
    /// What the API should say.
    pub status: PodStatus,
    /// All probes that shall run; others are to be stopped.
    pub probes: BTreeSet<ProbeKey>,
    /// What to tell.
    pub events: Vec<PodEvent>,
    /// Plan again at the latest after this time.
    pub requeue_after: Option<Duration>,
}

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub(super) pod: &'a Pod,
    pub(super) seen: &'a Observed,
    pub(super) units: Vec<Unit<'a>>,
    pub(super) now: Timestamp,
    pub(super) actions: Vec<Action>,
    /// Why a container waits: reason and message.
    pub(super) waiting: BTreeMap<String, (String, String)>,
    events: Vec<PodEvent>,
    wake: Option<Timestamp>,
}

/// How far the init containers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Init {
    /// App containers may run.
    Done,
    /// This one (index among the units) is next or runs.
    At(usize),
    /// One failed and is not tried again.
    Failed,
}

/// Decides.
pub fn plan(pod: &Pod, seen: &Observed, now: Timestamp) -> Plan {
    let mut planner = Planner {
        pod,
        seen,
        units: view::units(pod),
        now,
        actions: Vec::new(),
        waiting: BTreeMap::new(),
        events: Vec::new(),
        wake: None,
    };
    let stage = planner.stage();
    match stage {
        Stage::Admitting => planner.act(Action::Admit),
        Stage::Rejected | Stage::Gone => {}
        Stage::Preparing => {
            planner.resize();
            planner.prepare();
        }
        Stage::Initializing | Stage::Running => {
            planner.resize();
            planner.keep_running();
        }
        Stage::Completed => termination::complete(&mut planner),
        Stage::Terminating => termination::terminate(&mut planner),
        Stage::Cleaning => planner.act(Action::Teardown),
        Stage::Deleting => planner.act(Action::Delete),
    }
    if let Some(deadline) = seen.deadline(pod) {
        planner.wake_at(deadline);
    }
    let status = status::build(pod, seen, &planner.waiting, now);
    let probes = planner.probes();
    Plan {
        stage,
        status,
        probes,
        requeue_after: planner.wake.map(|wake| since(now, wake).max(Duration::from_millis(10))),
        actions: planner.actions,
        events: planner.events,
    }
}

impl Planner<'_> {
    fn stage(&self) -> Stage {
        let memory = &self.seen.memory;
        if memory.stopping.is_some() {
            return self.stopping_stage();
        }
        if let Admission::Rejected { .. } = memory.admission {
            return Stage::Rejected;
        }
        if view::is_terminal(self.pod) {
            return Stage::Completed;
        }
        if memory.admission == Admission::Pending {
            return Stage::Admitting;
        }
        let init = self.init();
        if init == Init::Failed || self.apps_ended() {
            return Stage::Completed;
        }
        match (self.seen.sandbox(), init) {
            (None, _) => Stage::Preparing,
            (Some(_), _) if !memory.volumes_mounted => Stage::Preparing,
            (Some(_), Init::Done) => Stage::Running,
            (Some(_), _) => Stage::Initializing,
        }
    }

    fn stopping_stage(&self) -> Stage {
        let memory = &self.seen.memory;
        let removes = view::is_deleted(self.pod) || memory.gone;
        match () {
            () if memory.deleted || memory.gone && memory.torn_down => Stage::Gone,
            () if memory.torn_down => Stage::Deleting,
            () if self.seen.anything_alive() || memory.starting() => Stage::Terminating,
            () if removes => Stage::Cleaning,
            () => Stage::Completed,
        }
    }

    /// Plans an action unless it is under way or failed a short while ago.
    pub(super) fn act(&mut self, action: Action) {
        let op = action.op();
        let memory = &self.seen.memory;
        if let Some(retry) = memory.retries.get(&op).filter(|retry| retry.at > self.now) {
            self.wake_at(retry.at);
        } else if !memory.busy.contains_key(&op) {
            self.actions.push(action);
        }
    }

    /// Asks for a plan at `at`.
    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    pub(super) fn init(&self) -> Init {
        let app_has_run = self.units.iter().any(|unit| {
            unit.role == Role::App && self.seen.newest(unit.name()).is_some_and(|newest| self.seen.is_current(newest))
        });
        for (index, unit) in self.units.iter().enumerate() {
            match unit.role {
                Role::App | Role::Ephemeral => break,
                Role::Sidecar if app_has_run || self.seen.is_started(unit) => {}
                Role::Sidecar => return Init::At(index),
                Role::Init if app_has_run => {}
                Role::Init => match self.seen.newest(unit.name()) {
                    Some(newest) => match self.seen.standing(newest) {
                        Standing::Dead { exit_code: 0, .. } if self.seen.is_current(newest) || self.ended_before() => {}
                        Standing::Dead { exit_code, .. }
                            if exit_code != 0 && !restart::wanted(self.pod, unit.role, &unit.container, exit_code) =>
                        {
                            return Init::Failed;
                        }
                        _ => return Init::At(index),
                    },
                    None => return Init::At(index),
                },
            }
        }
        Init::Done
    }

    /// The sandbox is gone because the pod had ended: what succeeded then still counts.
    fn ended_before(&self) -> bool {
        self.seen.sandbox().is_none() && self.apps_ended()
    }

    /// Whether every app container has ended for good.
    pub(super) fn apps_ended(&self) -> bool {
        let mut apps = self.units.iter().filter(|unit| unit.role == Role::App).peekable();
        apps.peek().is_some()
            && apps.all(|unit| {
                self.seen.newest(unit.name()).is_some_and(|newest| match self.seen.standing(newest) {
                    Standing::Dead { exit_code, .. } => {
                        !self.seen.ended_for_resize(newest)
                            && !restart::wanted(self.pod, unit.role, &unit.container, exit_code)
                    }
                    Standing::Created | Standing::Running(_) => false,
                })
            })
    }

    fn prepare(&mut self) {
        if let Some(problem) = self.seen.node.network_problem.clone()
            && !view::host_network(self.pod)
            && self.seen.sandbox().is_none()
        {
            self.event("", true, "NetworkNotReady", format!("network is not ready: {problem}"));
            self.wake_at(after(self.now, Duration::from_secs(5)));
            return;
        }
        if !self.seen.memory.volumes_mounted {
            return self.act(Action::MountVolumes);
        }
        if !self.seen.sandboxes.is_empty() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.event("", false, "SandboxChanged", message);
        }
        if self.seen.anything_alive() {
            // Containers outlive their pause process, but nothing can be started beside them.
            return self.end_doomed();
        }
        let attempt = self.seen.sandboxes.first().map_or(0, |sandbox| sandbox.attempt + 1);
        if self.resize_first() {
            return;
        }
        self.act(Action::CreateSandbox { attempt });
    }

    fn keep_running(&mut self) {
        self.end_doomed();
        let init = self.init();
        for index in 0..self.units.len() {
            let unit = self.units[index].clone();
            let due = match (unit.role, init) {
                (Role::Init, Init::At(at)) => at == index,
                (Role::Init, _) => false,
                (Role::Sidecar, Init::At(at)) => index <= at,
                (Role::Sidecar | Role::App | Role::Ephemeral, Init::Done) => true,
                (Role::Sidecar | Role::App | Role::Ephemeral, _) => false,
            };
            if due {
                self.keep(&unit);
            }
            self.remove_old(&unit);
        }
    }

    /// Starts a container where it is its turn.
    fn keep(&mut self, unit: &Unit<'_>) {
        let name = unit.name().to_owned();
        // The wait is raised when a start begins: until that start has ended it says nothing about this instance.
        if self.seen.memory.busy.contains_key(&Op::Start(name.clone())) {
            return;
        }
        let hash = view::spec_hash(&unit.container);
        let newest = self.seen.newest(&name).cloned();
        let (attempt, raised) = match newest.as_ref().map(|newest| (newest, self.seen.standing(newest))) {
            None => (self.next_after_record(&name), None),
            Some((newest, Standing::Created)) => (newest.attempt, None),
            Some((newest, Standing::Running(_))) => return self.post_start(unit, &newest.id),
            Some((newest, Standing::Dead { finished_at, exit_code, .. })) => {
                let resized = self.seen.ended_for_resize(newest);
                let again = unit.role == Role::Init && !self.seen.is_current(newest)
                    || resized
                    || restart::wanted(self.pod, unit.role, &unit.container, exit_code);
                if !again {
                    return;
                }
                let crash = self.seen.memory.container(&name).and_then(|memory| memory.crash.as_ref());
                if resized {
                    return self.start_again(unit, newest.attempt + 1);
                }
                if let Some((delay, until)) = restart::waits(crash, &hash, finished_at, self.now) {
                    return self.crash_loop(unit, delay, finished_at, until);
                }
                (newest.attempt + 1, Some(restart::raised(crash, &hash, finished_at, self.now)))
            }
        };
        if self.start_failed_lately(unit, &hash) {
            return;
        }
        // The wait is raised once per instance that ended, not once per try to start the next one.
        let failed_before = self.seen.memory.container(&name).is_some_and(|memory| {
            memory.failure.as_ref().is_some_and(|failure| failure.id.is_none() && failure.reason != "PostStartHookError")
        });
        if !self.resize_first() {
            self.act(Action::Start { container: name, attempt, raised: raised.filter(|_| !failed_before) });
        }
    }

    /// The successor of a container that ended for a resize waits for nothing but the pod's own limits.
    fn start_again(&mut self, unit: &Unit<'_>, attempt: u32) {
        let hash = view::spec_hash(&unit.container);
        if !self.start_failed_lately(unit, &hash) && !self.resize_first() {
            self.act(Action::Start { container: unit.name().to_owned(), attempt, raised: None });
        }
    }

    /// The engine knows no instance. Where the API remembers one, its number is used up.
    fn next_after_record(&self, name: &str) -> u32 {
        let status = view::status(self.pod);
        let mut lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
            .into_iter()
            .flat_map(|list| list.iter().flatten());
        lists
            .find(|old| old.name == name && old.container_id.is_some())
            .map_or(0, |old| u32::try_from(old.restart_count).unwrap_or(0) + 1)
    }

    fn crash_loop(&mut self, unit: &Unit<'_>, delay: Duration, finished_at: Timestamp, until: Timestamp) {
        self.wake_at(until);
        let pod = view::full_name(self.pod);
        // For a moment the end itself is shown, as watchers expect to see it.
        let failure = self.seen.memory.container(unit.name()).and_then(|memory| memory.failure.clone());
        let newest = self.seen.newest(unit.name()).map(|newest| newest.id.clone());
        let failure = failure.filter(|failure| failure.id.is_some() && failure.id == newest);
        let shown_until = after(finished_at, Duration::from_secs(if failure.is_some() { 3 } else { 1 }));
        if self.now < shown_until {
            if let Some(failure) = failure {
                self.waiting.insert(unit.name().to_owned(), (failure.reason, failure.message));
            }
            return self.wake_at(shown_until);
        }
        let name = unit.name();
        let message = format!("back-off {} restarting failed container={name} pod={pod}", restart::display(delay));
        self.waiting.insert(name.to_owned(), ("CrashLoopBackOff".to_owned(), message));
        let message = format!("Back-off restarting failed container {name} in pod {pod}");
        self.event(&unit.field_path(), true, "BackOff", message);
    }

    /// Whether the last try to start it failed so lately that the next has to wait; says why it waits.
    fn start_failed_lately(&mut self, unit: &Unit<'_>, hash: &str) -> bool {
        let Some(memory) = self.seen.memory.container(unit.name()) else { return false };
        let Some(failure) = memory.failure.clone().filter(|failure| failure.spec_hash == hash) else { return false };
        let pulled = failure.reason == "ErrImagePull";
        let until = match restart::waits(memory.pull.as_ref(), hash, failure.at, self.now) {
            Some((_, until)) if pulled => until,
            _ if pulled || failure.id.is_some() => self.now,
            _ => after(failure.at, Duration::from_secs(5)),
        };
        let image = unit.container.image.as_deref().unwrap_or_default();
        let (mut reason, mut message) = (failure.reason.clone(), failure.message.clone());
        // The first refusal is shown as such, the wait after it as a wait.
        let shown_until = after(failure.at, Duration::from_secs(3));
        if pulled && self.now >= shown_until {
            reason = "ImagePullBackOff".to_owned();
            message = format!("Back-off pulling image \"{image}\": ErrImagePull: {message}");
            self.event(&unit.field_path(), false, "BackOff", format!("Back-off pulling image \"{image}\""));
            self.event(&unit.field_path(), true, "Failed", "Error: ImagePullBackOff".to_owned());
        } else if pulled {
            self.wake_at(shown_until);
        }
        self.waiting.insert(unit.name().to_owned(), (reason, message));
        if self.now < until {
            self.wake_at(until);
        }
        self.now < until
    }

    fn post_start(&mut self, unit: &Unit<'_>, id: &str) {
        let done = self.seen.memory.container(unit.name()).is_some_and(|memory| {
            memory.post_start.as_ref().is_some_and(|(of, _)| of == id)
        });
        if has_post_start(unit) && !done {
            self.act(Action::PostStart { container: unit.name().to_owned(), id: id.to_owned() });
        }
    }

    /// Stops the containers that have to end although the pod goes on.
    fn end_doomed(&mut self) {
        for unit in self.units.clone() {
            let doom = self.seen.memory.container(unit.name()).and_then(|memory| memory.doom.clone());
            if let Some(doom) = doom {
                termination::end(self, &unit, &doom.id, doom.since, doom.grace_seconds, doom.why);
            }
        }
    }

    /// Keeps the newest instance and the one before it, for `logs --previous` and `lastState`.
    fn remove_old(&mut self, unit: &Unit<'_>) {
        let old: Vec<_> = self
            .seen
            .instances(unit.name())
            .skip(2)
            .filter(|old| !matches!(self.seen.standing(old), Standing::Running(_)))
            .map(|old| Action::Remove { container: old.name.clone(), attempt: old.attempt, id: old.id.clone() })
            .collect();
        old.into_iter().for_each(|action| self.act(action));
    }

    pub(super) fn event(&mut self, field_path: &str, warning: bool, reason: &str, message: String) {
        let (field_path, reason) = (field_path.to_owned(), reason.to_owned());
        self.events.push(PodEvent { field_path, warning, reason, message });
    }

    /// Startup first and alone; liveness until the pod or the container has to end; readiness to the very end.
    fn probes(&self) -> BTreeSet<ProbeKey> {
        let mut wanted = BTreeSet::new();
        let stopping = self.seen.memory.stopping.is_some();
        for unit in self.units.iter().filter(|unit| matches!(unit.role, Role::App | Role::Sidecar)) {
            let Some(newest) = self.seen.newest(unit.name()) else { continue };
            let Standing::Running(_) = self.seen.standing(newest) else { continue };
            let memory = self.seen.memory.container(unit.name());
            let doomed = memory.is_some_and(|memory| memory.doom.is_some());
            let mut want = |kind| {
                wanted.insert(ProbeKey { container: unit.name().to_owned(), id: newest.id.clone(), kind });
            };
            let startup_due = unit.container.startup_probe.is_some()
                && memory.and_then(|memory| memory.probes.startup).is_none_or(|result| !result);
            if startup_due {
                if !stopping && !doomed {
                    want(Kind::Startup);
                }
                continue;
            }
            if unit.container.readiness_probe.is_some() {
                want(Kind::Readiness);
            }
            if unit.container.liveness_probe.is_some() && !stopping && !doomed {
                want(Kind::Liveness);
            }
        }
        wanted
    }
}
