//! In-place resize: what a pod was given, what its containers have of it, and what is next on the way between the two.
//!
//! Pure. A change of `resources` goes through three states: *desired* (the spec), *allocated* (the node agreed; counts
//! against the node, outlives the agent) and *actuated* (the kernel has it). Until the node agrees the old allocation
//! holds and `PodResizePending` says why; until the kernel has it `PodResizeInProgress` says so. After KEP-1287 and
//! the kubelet's allocation manager and `computePodResizeAction`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::observed::{Admission, Observed, Op, Standing};
use super::plan::{Action, Planner};
use super::view::{self, Role, Unit, after};
use crate::env::resources::{self, Limits};
use crate::quantity::{milli, whole};
use crate::runtime::{ContainerStatus, PodResources};

/// How long a resize that does not fit waits until it is weighed again.
const AGAIN: Duration = Duration::from_secs(10);

/// Requests and limits as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// By resource.
    pub requests: BTreeMap<String, String>,
    /// By resource.
    pub limits: BTreeMap<String, String>,
}

/// What decides over a container's CPU and memory; 0 where nothing is said. CPU in thousandths, memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amounts {
    cpu_request: i64,
    cpu_limit: i64,
    memory_request: i64,
    memory_limit: i64,
}

impl Resources {
    /// From a spec.
    pub fn of(from: Option<&ResourceRequirements>) -> Self {
        let list = |list: Option<&BTreeMap<String, Quantity>>| {
            list.into_iter().flatten().map(|(name, amount)| (name.clone(), amount.0.clone())).collect()
        };
        Self {
            requests: list(from.and_then(|from| from.requests.as_ref())),
            limits: list(from.and_then(|from| from.limits.as_ref())),
        }
    }

    /// As the API has it. Claims are not part of it.
    pub fn to_api(&self) -> ResourceRequirements {
        let list = |list: &BTreeMap<String, String>| {
            (!list.is_empty()).then(|| list.iter().map(|(name, amount)| (name.clone(), Quantity(amount.clone()))).collect())
        };
        ResourceRequirements { claims: None, requests: list(&self.requests), limits: list(&self.limits) }
    }

    fn amounts(&self) -> Amounts {
        let cpu = |list: &BTreeMap<String, String>| list.get("cpu").and_then(|text| milli(text)).unwrap_or(0);
        let memory = |list: &BTreeMap<String, String>| list.get("memory").and_then(|text| whole(text)).unwrap_or(0);
        Amounts {
            cpu_request: cpu(&self.requests),
            cpu_limit: cpu(&self.limits),
            memory_request: memory(&self.requests),
            memory_limit: memory(&self.limits),
        }
    }

    /// Whether both mean the same, however they are spelt.
    fn same(&self, other: &Self) -> bool {
        let equal = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
            a.len() == b.len() && a.iter().all(|(name, text)| b.get(name).is_some_and(|other| text == other || milli(text) == milli(other)))
        };
        equal(&self.requests, &other.requests) && equal(&self.limits, &other.limits)
    }
}

/// What a pod was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// `spec.resources`
    pub pod: Resources,
    /// By container.
    pub containers: BTreeMap<String, Resources>,
}

impl Allocation {
    /// All that the spec asks for.
    pub fn of(pod: &Pod) -> Self {
        let containers = view::units(pod).into_iter().filter(|unit| unit.role != Role::Ephemeral);
        Self {
            pod: Resources::of(view::spec(pod).resources.as_ref()),
            containers: containers
                .map(|unit| (unit.name().to_owned(), Resources::of(unit.container.resources.as_ref())))
                .collect(),
        }
    }

    fn same(&self, other: &Self) -> bool {
        let equal = |name: &String, own: &Resources| other.containers.get(name).is_some_and(|other| own.same(other));
        self.pod.same(&other.pod)
            && self.containers.len() == other.containers.len()
            && self.containers.iter().all(|(name, own)| equal(name, own))
    }

    /// The pod with what it was given in the place of what it asks for.
    pub fn applied_to(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let Some(spec) = &mut pod.spec else { return pod };
        if spec.resources.is_some() {
            spec.resources = Some(self.pod.to_api());
        }
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(own) = self.containers.get(&container.name) {
                let claims = container.resources.take().and_then(|resources| resources.claims);
                container.resources = Some(ResourceRequirements { claims, ..own.to_api() });
            }
        }
        pod
    }
}

/// What one instance of a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actuated {
    /// Which instance.
    pub id: String,
    /// What it has.
    pub resources: Resources,
}

/// The node's word on a resize.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It fits.
    Fits,
    /// Not now.
    Deferred(String),
    /// Never on this node.
    Infeasible(String),
}

/// A resize that the node has not agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Never, or not now.
    pub infeasible: bool,
    /// For a person.
    pub message: String,
    /// `metadata.generation` that was weighed.
    pub generation: i64,
    /// When it is weighed again.
    pub again: Timestamp,
}

/// A resize that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// `metadata.generation` that was agreed to.
    pub generation: i64,
    /// What went wrong last; empty: nothing.
    pub error: String,
}

/// What outlives the agent, in the pod's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What the pod was given; `None`: nothing was decided yet.
    pub allocated: Option<Allocation>,
    /// What containers have, by name.
    pub actuated: BTreeMap<String, Actuated>,
    /// What the pod's control group has.
    pub cgroup: Option<PodResources>,
}

/// What is remembered of a pod's resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resizing {
    /// What outlives the agent.
    pub kept: Checkpoint,
    /// Not agreed to.
    pub pending: Option<Pending>,
    /// Agreed to, not carried out.
    pub progress: Option<Progress>,
    /// The generations of the last resize that began and of the last one that was completed: for events.
    pub began: Option<i64>,
    /// See `began`.
    pub completed: Option<i64>,
}

/// One write to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Limits of the pod's control group.
    Pod(PodResources),
    /// Limits of a container.
    Container {
        /// Its name.
        name: String,
        /// Which instance.
        id: String,
        /// From now on.
        limits: Limits,
        /// Its memory limit, where that goes down: it must not be below what is in use.
        shrinks_to: Option<u64>,
    },
}

fn generation(pod: &Pod) -> i64 {
    pod.metadata.generation.unwrap_or_default()
}

fn policy_restarts(container: &Container, resource: &str) -> bool {
    let policy = container.resize_policy.iter().flatten().find(|policy| policy.resource_name == resource);
    policy.is_some_and(|policy| policy.restart_policy == "RestartContainer")
}

/// Whether a container has to end for a change to take effect.
fn restarts(container: &Container, from: Amounts, to: Amounts) -> bool {
    let cpu = (from.cpu_request, from.cpu_limit) != (to.cpu_request, to.cpu_limit);
    let memory = (from.memory_request, from.memory_limit) != (to.memory_request, to.memory_limit);
    (cpu && policy_restarts(container, "cpu")) || (memory && policy_restarts(container, "memory"))
}

/// Grows as far as either; a limit that is not there is beyond all others, and is never taken away again.
fn wider(current: &PodResources, target: &PodResources) -> PodResources {
    let limit = |current: Option<u64>, target: Option<u64>| current.map(|current| target.map_or(current, |target| target.max(current)));
    PodResources {
        cpu_shares: current.cpu_shares.max(target.cpu_shares),
        memory_limit: limit(current.memory_limit, target.memory_limit),
        cpu_limit_milli: limit(current.cpu_limit_milli, target.cpu_limit_milli),
    }
}

impl Observed {
    /// The pod as the node has agreed to it.
    pub fn allocated_pod<'a>(&self, pod: &'a Pod) -> Cow<'a, Pod> {
        match &self.memory.resize.kept.allocated {
            Some(allocation) if self.wants_resize(pod) => Cow::Owned(allocation.applied_to(pod)),
            _ => Cow::Borrowed(pod),
        }
    }

    /// Whether the spec asks for something else than was given.
    pub fn wants_resize(&self, pod: &Pod) -> bool {
        self.memory.resize.kept.allocated.as_ref().is_some_and(|allocated| !Allocation::of(pod).same(allocated))
    }

    /// The running instance of a container, what it has, and what it was given.
    fn gap(&self, unit: &Unit<'_>) -> Option<(String, Amounts, Amounts)> {
        let kept = &self.memory.resize.kept;
        let newest = self.newest(unit.name())?;
        let Standing::Running(_) = self.standing(newest) else { return None };
        let has = kept.actuated.get(unit.name()).filter(|has| has.id == newest.id)?.resources.amounts();
        let given = kept.allocated.as_ref()?.containers.get(unit.name())?.amounts();
        (has != given).then(|| (newest.id.clone(), has, given))
    }

    /// Whether the running instance has to end so that its successor has what was given.
    pub fn resize_restarts(&self, unit: &Unit<'_>) -> bool {
        self.gap(unit).is_some_and(|(_, has, given)| restarts(&unit.container, has, given))
    }

    /// Whether this instance ended because its resources could not be changed while it ran.
    pub fn ended_for_resize(&self, instance: &ContainerStatus) -> bool {
        let ended = self.memory.container(&instance.name).and_then(|memory| memory.resized.as_ref());
        self.memory.stopping.is_none() && ended == Some(&instance.id)
    }

    /// What has to be written so that everything has what it was given: the pod's group grows first and shrinks last.
    pub fn resize_steps(&self, pod: &Pod) -> Vec<Step> {
        let kept = &self.memory.resize.kept;
        if kept.allocated.is_none() || self.sandbox().is_none() {
            return Vec::new();
        }
        let allocated = self.allocated_pod(pod);
        let mut target = resources::of_pod(&allocated);
        let current = kept.cgroup.clone().unwrap_or_else(|| target.clone());
        target.memory_limit = target.memory_limit.or(current.memory_limit);
        target.cpu_limit_milli = target.cpu_limit_milli.or(current.cpu_limit_milli);
        let (mut shrinking, mut growing, mut restarting) = (Vec::new(), Vec::new(), false);
        for unit in view::units(&allocated) {
            let Some((id, has, given)) = self.gap(&unit) else { continue };
            if restarts(&unit.container, has, given) {
                restarting = true;
                continue;
            }
            let limits = resources::of_container(&unit.container);
            let shrinks = given.memory_limit > 0 && (has.memory_limit == 0 || given.memory_limit < has.memory_limit);
            let shrinks_to = limits.memory_limit.filter(|_| shrinks);
            let grows = given.memory_limit > has.memory_limit || given.cpu_limit > has.cpu_limit || given.cpu_request > has.cpu_request;
            let step = Step::Container { name: unit.name().to_owned(), id, limits, shrinks_to };
            if grows { growing.push(step) } else { shrinking.push(step) }
        }
        let wide = wider(&current, &target);
        // What is about to be restarted still has its old limits.
        let last = if restarting { wide.clone() } else { target };
        let mut steps = Vec::new();
        if wide != current {
            steps.push(Step::Pod(wide.clone()));
        }
        steps.append(&mut shrinking);
        steps.append(&mut growing);
        if last != wide {
            steps.push(Step::Pod(last));
        }
        steps
    }

    /// What follows from the pod and the engine's state: records of instances, the end of a resize.
    pub fn notice_resize(&mut self, pod: &Pod) {
        if self.memory.admission != Admission::Accepted {
            return;
        }
        let given = self.memory.resize.kept.allocated.get_or_insert_with(|| Allocation::of(pod)).clone();
        for unit in view::units(pod).iter().filter(|unit| unit.role != Role::Ephemeral) {
            let Some(newest) = self.newest(unit.name()).cloned() else { continue };
            let actuated = &mut self.memory.resize.kept.actuated;
            let resources = given.containers.get(unit.name()).cloned().unwrap_or_default();
            match actuated.get_mut(unit.name()) {
                Some(known) if known.id == newest.id && known.resources.amounts() == resources.amounts() => known.resources = resources,
                Some(known) if known.id == newest.id => {}
                // It was made from what had been given when it was: that has not changed meanwhile.
                _ => drop(actuated.insert(unit.name().to_owned(), Actuated { id: newest.id, resources })),
            }
        }
        if self.sandbox().is_some() && self.memory.resize.kept.cgroup.is_none() {
            let made = resources::of_pod(&given.applied_to(pod));
            self.memory.resize.kept.cgroup = Some(made);
        }
        let over = self.memory.stopping.is_some() || view::is_terminal(pod);
        let unfinished = !over
            && (!self.resize_steps(pod).is_empty()
                || self.memory.busy.contains_key(&Op::Resize)
                || view::units(pod).iter().any(|unit| self.resize_restarts(unit)));
        let wants = !over && self.wants_resize(pod);
        let resize = &mut self.memory.resize;
        if !wants {
            resize.pending = None;
        }
        if unfinished {
            resize.progress.get_or_insert_with(|| Progress { generation: generation(pod), error: String::new() });
        } else if let Some(progress) = resize.progress.take().filter(|_| !over) {
            resize.completed = Some(progress.generation);
        }
    }

    /// The node's word arrives.
    pub fn weighed(&mut self, verdict: Verdict, allocation: Allocation, generation: i64, now: Timestamp) {
        let resize = &mut self.memory.resize;
        let pending = |infeasible, message| Some(Pending { infeasible, message, generation, again: after(now, AGAIN) });
        match verdict {
            Verdict::Fits => {
                resize.kept.allocated = Some(allocation);
                resize.pending = None;
                resize.progress = Some(Progress { generation, error: String::new() });
                resize.began = Some(generation);
            }
            Verdict::Deferred(message) => resize.pending = pending(false, message),
            Verdict::Infeasible(message) => resize.pending = pending(true, message),
        }
    }

    /// Steps were carried out, up to an error.
    pub fn resized(&mut self, done: &[Step], error: &str) {
        let kept = &mut self.memory.resize.kept;
        for step in done {
            match step {
                Step::Pod(resources) => kept.cgroup = Some(resources.clone()),
                Step::Container { name, id, .. } => {
                    let given = kept.allocated.as_ref().and_then(|given| given.containers.get(name)).cloned();
                    kept.actuated.insert(name.clone(), Actuated { id: id.clone(), resources: given.unwrap_or_default() });
                }
            }
        }
        if let Some(progress) = &mut self.memory.resize.progress {
            error.clone_into(&mut progress.error);
        }
    }

    /// `status.observedGeneration`: a resize that was not weighed yet has not been seen.
    pub fn observed_generation(&self, pod: &Pod) -> Option<i64> {
        let current = pod.metadata.generation?;
        let over = self.memory.stopping.is_some() || view::is_terminal(pod);
        let weighed = self.memory.resize.pending.as_ref().is_some_and(|pending| pending.generation == current);
        if over || weighed || !self.wants_resize(pod) {
            return Some(current);
        }
        let before = view::status(pod).observed_generation.unwrap_or(current - 1);
        Some(before.min(current - 1)).filter(|generation| *generation > 0)
    }

    /// The conditions of a resize.
    pub fn resize_conditions(&self, pod: &Pod, now: Timestamp) -> Vec<PodCondition> {
        let resize = &self.memory.resize;
        let pending = resize.pending.as_ref().map(|pending| {
            let reason = if pending.infeasible { "Infeasible" } else { "Deferred" };
            ("PodResizePending", reason, pending.message.clone(), pending.generation)
        });
        let progress = resize.progress.as_ref().map(|progress| {
            let reason = if progress.error.is_empty() { "" } else { "Error" };
            ("PodResizeInProgress", reason, progress.error.clone(), progress.generation)
        });
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let conditions = [pending, progress].into_iter().flatten().map(|(kind, reason, message, generation)| {
            let known = view::status(pod).conditions.iter().flatten().find(|old| old.type_ == kind).cloned();
            PodCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                reason: some(reason),
                message: some(&message),
                last_transition_time: known.and_then(|old| old.last_transition_time).or(Some(Time(now))),
                last_probe_time: None,
                observed_generation: Some(generation),
            }
        });
        conditions.collect()
    }
}

impl Planner<'_> {
    /// Has a change weighed, and what was agreed to carried out.
    pub(super) fn resize(&mut self) {
        let resize = &self.seen.memory.resize;
        // What is being started is started with what was given when it began.
        let busy = self.seen.memory.starting() || self.seen.memory.busy.contains_key(&Op::Resize);
        if self.seen.wants_resize(self.pod) && !busy {
            let weighed = resize.pending.clone().filter(|pending| pending.generation == generation(self.pod));
            match weighed {
                Some(pending) if pending.infeasible => {}
                Some(pending) if pending.again > self.now => self.wake_at(pending.again),
                _ => self.act(Action::Allocate),
            }
        }
        let weighing = self.actions.contains(&Action::Allocate) || self.seen.memory.busy.contains_key(&Op::Allocate);
        let steps = self.seen.resize_steps(self.pod);
        if !steps.is_empty() && !weighing {
            self.act(Action::Resize { steps });
        }
        self.resize_events();
    }

    /// Whether a container must not be started yet: the pod's group does not have room for it, or is being changed.
    pub(super) fn resize_first(&self) -> bool {
        let busy = &self.seen.memory.busy;
        busy.contains_key(&Op::Allocate) || busy.contains_key(&Op::Resize) || !self.seen.resize_steps(self.pod).is_empty()
            || self.actions.contains(&Action::Allocate)
    }

    fn resize_events(&mut self) {
        let resize = self.seen.memory.resize.clone();
        let (pod, allocated) = (self.pod, self.seen.allocated_pod(self.pod));
        let mut tell = |warning: bool, reason: &str, what: &str, generation: i64, error: &str, of: &Pod| {
            let message = format!("Pod resize {what}: {}", summary(of, generation, error));
            self.event("", warning, reason, message);
        };
        if let Some(generation) = resize.began {
            tell(false, "ResizeStarted", "started", generation, "", &allocated);
        }
        if let Some(pending) = resize.pending {
            let (reason, what) =
                if pending.infeasible { ("ResizeInfeasible", "Infeasible") } else { ("ResizeDeferred", "Deferred") };
            tell(true, reason, what, pending.generation, &pending.message, pod);
        }
        if let Some(progress) = resize.progress.filter(|progress| !progress.error.is_empty()) {
            tell(true, "ResizeError", "error", progress.generation, &progress.error, &allocated);
        }
        if let Some(generation) = resize.completed {
            tell(false, "ResizeCompleted", "completed", generation, "", &allocated);
        }
    }
}

/// What a resize event says of the resources.
fn summary(pod: &Pod, generation: i64, error: &str) -> Value {
    let list = |roles: &[Role]| -> Vec<Value> {
        view::units(pod)
            .iter()
            .filter(|unit| roles.contains(&unit.role))
            .map(|unit| json!({"name": unit.name(), "resources": Resources::of(unit.container.resources.as_ref()).to_api()}))
            .collect()
    };
    let mut said = json!({ "generation": generation });
    for (member, list) in [("initContainers", list(&[Role::Init, Role::Sidecar])), ("containers", list(&[Role::App]))] {
        if !list.is_empty() {
            said[member] = list.into();
        }
    }
    if !error.is_empty() {
        said["error"] = error.into();
    }
    said
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
