//! What the API should say about a pod: container statuses, phase, addresses.
//!
//! Pure. Conditions are in [`super::conditions`]; why a container waits is the planner's word.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodIP, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use super::observed::{Admission, Observed, Standing};
use super::restart;
use super::view::{self, Role, Unit};
use crate::runtime;

/// Reasons and messages of waiting containers, by name.
pub type Waiting = BTreeMap<String, (String, String)>;

/// The whole status, as it should be now.
pub fn build(pod: &Pod, seen: &Observed, waiting: &Waiting, now: Timestamp) -> PodStatus {
    let old = view::status(pod);
    let mut status = PodStatus {
        start_time: Some(Time(seen.memory.start_time)),
        qos_class: Some(view::qos(pod).as_str().to_owned()),
        observed_generation: seen.observed_generation(pod),
        host_ip: seen.node.host_ips.first().map(ToString::to_string),
        host_ips: some(seen.node.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        ..PodStatus::default()
    };
    if let Admission::Rejected { reason, message } = &seen.memory.admission {
        status.phase = Some("Failed".to_owned());
        (status.reason, status.message) = (Some(reason.clone()), Some(message.clone()));
        status.conditions = Some(conditions::build(pod, seen, &status, now));
        return status;
    }
    let ips = pod_ips(pod, seen);
    status.pod_ip = ips.first().cloned();
    status.pod_ips = some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    let mut lists: BTreeMap<Role, Vec<ContainerStatus>> = BTreeMap::new();
    for unit in view::units(pod) {
        let list = if unit.role == Role::Sidecar { Role::Init } else { unit.role };
        lists.entry(list).or_default().push(container(pod, seen, &unit, waiting));
    }
    for list in [Role::App, Role::Ephemeral] {
        lists.entry(list).or_default().sort_by(|a, b| a.name.cmp(&b.name));
    }
    status.container_statuses = lists.remove(&Role::App).and_then(some);
    status.init_container_statuses = lists.remove(&Role::Init).and_then(some);
    status.ephemeral_container_statuses = lists.remove(&Role::Ephemeral).and_then(some);
    status.phase = Some(phase(pod, seen, &status).to_owned());
    // A final phase may not show beside a running container, so its reason comes with it.
    match &seen.memory.kill {
        Some(kill) if is_final(seen) => {
            (status.reason, status.message) = (Some(kill.reason.clone()), Some(kill.message.clone()));
        }
        _ => (status.reason, status.message) = (old.reason.clone(), old.message.clone()),
    }
    let mut conditions = conditions::build(pod, seen, &status, now);
    conditions.extend(seen.resize_conditions(pod, now));
    status.conditions = Some(conditions);
    status
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn pod_ips(pod: &Pod, seen: &Observed) -> Vec<String> {
    if view::host_network(pod) {
        let up = seen.sandbox().is_some() || view::status(pod).pod_ip.is_some();
        return if up { seen.node.host_ips.iter().map(ToString::to_string).collect() } else { Vec::new() };
    }
    match seen.sandbox() {
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.iter().map(ToString::to_string).collect(),
        // Kept after the end: watchers of a finished pod still want to know where it was.
        _ => view::status(pod).pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    }
}

/// Whether the pod is being stopped and nothing of it runs any more.
pub fn is_final(seen: &Observed) -> bool {
    seen.memory.stopping.is_some() && !seen.anything_alive() && !seen.memory.starting()
}

/// One container's status.
fn container(pod: &Pod, seen: &Observed, unit: &Unit<'_>, waiting: &Waiting) -> ContainerStatus {
    let name = unit.name();
    let newest = seen.newest(name);
    if newest.is_none()
        && let Some(record) = record(pod, seen, name)
    {
        return record;
    }
    let standing = newest.map(|newest| seen.standing(newest));
    let state = state(pod, seen, unit, newest.zip(standing.as_ref()), waiting);
    let is_waiting = state.waiting.is_some();
    // What ended last is the last state, unless it is the state.
    let ended = |instance: &runtime::ContainerStatus| match seen.standing(instance) {
        standing @ Standing::Dead { .. } => Some(terminated(seen, instance, &standing)),
        Standing::Created | Standing::Running(_) => None,
    };
    let skip = usize::from(!is_waiting);
    let last = seen.instances(name).skip(skip).find_map(ended);
    let running = matches!(standing, Some(Standing::Running(_)));
    let started = seen.is_started(unit);
    ContainerStatus {
        name: name.to_owned(),
        ready: match (unit.role, &standing) {
            (Role::Init, Some(Standing::Dead { exit_code: 0, .. })) => true,
            (Role::Init | Role::Ephemeral, _) => false,
            (Role::App | Role::Sidecar, _) => started && probed_ready(seen, unit),
        },
        restart_count: newest.map_or(0, |newest| i32::try_from(newest.attempt).unwrap_or(i32::MAX)),
        image: newest.map_or_else(|| unit.container.image.clone().unwrap_or_default(), |newest| newest.image.clone()),
        image_id: newest.map_or_else(String::new, |newest| newest.image_id.clone()),
        container_id: newest.map(|newest| format!("{}://{}", seen.node.runtime, newest.id)),
        started: Some(started),
        last_state: Some(ContainerState { terminated: last, ..ContainerState::default() }),
        state: Some(state),
        allocated_resources: allocated(seen, unit).and_then(|given| given.requests),
        resources: resources(seen, unit, newest, running),
        volume_mounts: mounts(&unit.container),
        ..ContainerStatus::default()
    }
}

/// What the API remembers of a container whose instances the engine no longer has, where it is the better source: the
/// pod is over, so nothing new will come.
fn record(pod: &Pod, seen: &Observed, name: &str) -> Option<ContainerStatus> {
    if !is_final(seen) && !view::is_terminal(pod) {
        return None;
    }
    let status = view::status(pod);
    let old = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flat_map(|list| list.iter().flatten())
        .find(|old| old.name == name)?
        .clone();
    let ended = old.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let state = if ended {
        old.state.clone()
    } else if is_final(seen) {
        Some(ContainerState { terminated: Some(vanished()), ..ContainerState::default() })
    } else {
        old.state.clone()
    };
    Some(ContainerStatus { state, ready: false, started: Some(false), ..old })
}

fn probed_ready(seen: &Observed, unit: &Unit<'_>) -> bool {
    unit.container.readiness_probe.is_none()
        || seen.memory.container(unit.name()).is_some_and(|memory| memory.probes.readiness == Some(true))
}

fn allocated(seen: &Observed, unit: &Unit<'_>) -> Option<ResourceRequirements> {
    let given = seen.memory.resize.kept.allocated.as_ref().and_then(|given| given.containers.get(unit.name()));
    match given {
        Some(given) => Some(given.to_api()),
        None => unit.container.resources.clone().map(|own| ResourceRequirements { claims: None, ..own }),
    }
}

/// What a running instance has; of one that ended, what it was given.
fn resources(
    seen: &Observed,
    unit: &Unit<'_>,
    newest: Option<&runtime::ContainerStatus>,
    running: bool,
) -> Option<ResourceRequirements> {
    let newest = newest.filter(|_| unit.role != Role::Ephemeral)?;
    let actuated = seen.memory.resize.kept.actuated.get(unit.name()).filter(|has| running && has.id == newest.id);
    Some(actuated.map_or_else(|| allocated(seen, unit).unwrap_or_default(), |has| has.resources.to_api()))
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.iter().flatten().map(|mount| VolumeMountStatus {
        mount_path: mount.mount_path.clone(),
        name: mount.name.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| "Disabled".to_owned()),
        volume_status: None,
    });
    some(mounts.collect())
}

fn state(
    pod: &Pod,
    seen: &Observed,
    unit: &Unit<'_>,
    newest: Option<(&runtime::ContainerStatus, &Standing)>,
    waiting: &Waiting,
) -> ContainerState {
    let final_now = is_final(seen);
    match newest {
        // While the postStart hook runs the container is not shown as running.
        Some((instance, Standing::Running(started_at))) => {
            let memory = seen.memory.container(unit.name());
            let hooked = memory.is_some_and(|memory| {
                memory.post_start.as_ref().is_some_and(|(id, result)| *id == instance.id && result.is_ok())
            });
            if super::observed::has_post_start(unit) && !hooked && seen.memory.stopping.is_none() {
                return default_waiting(pod, seen, unit);
            }
            let running = ContainerStateRunning { started_at: Some(Time(*started_at)) };
            ContainerState { running: Some(running), ..ContainerState::default() }
        }
        Some((instance, standing @ Standing::Dead { .. })) if final_now || !waiting.contains_key(unit.name()) => {
            let terminated = terminated(seen, instance, standing);
            ContainerState { terminated: Some(terminated), ..ContainerState::default() }
        }
        _ if final_now => ContainerState { terminated: Some(vanished()), ..ContainerState::default() },
        _ => match waiting.get(unit.name()) {
            Some((reason, message)) => waits(reason, message),
            None => default_waiting(pod, seen, unit),
        },
    }
}

/// A container that never ran although its pod is over.
fn vanished() -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..ContainerStateTerminated::default()
    }
}

fn waits(reason: &str, message: &str) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn default_waiting(pod: &Pod, seen: &Observed, unit: &Unit<'_>) -> ContainerState {
    let has_init = view::units(pod).iter().any(|unit| matches!(unit.role, Role::Init | Role::Sidecar));
    let progress = seen.memory.container(unit.name()).map_or("", |memory| memory.progress.as_str());
    // Too short a time to be worth a write.
    let progress = if progress == super::worker::CREATING { "" } else { progress };
    let failure = seen.memory.container(unit.name()).and_then(|memory| memory.failure.as_ref());
    match failure.filter(|failure| failure.id.is_none() && failure.reason != "PostStartHookError") {
        // The next try is under way: the reason of the last one stays until there is a better one.
        Some(failure) => waits(&failure.reason, &failure.message),
        None => waits(if has_init { "PodInitializing" } else { "ContainerCreating" }, progress),
    }
}

fn terminated(seen: &Observed, instance: &runtime::ContainerStatus, standing: &Standing) -> ContainerStateTerminated {
    let Standing::Dead { started_at, finished_at, exit_code, reason, message } = standing else { return vanished() };
    let noted = seen.memory.messages.get(&instance.id).filter(|noted| !noted.is_empty());
    ContainerStateTerminated {
        container_id: Some(format!("{}://{}", seen.node.runtime, instance.id)),
        exit_code: *exit_code,
        reason: Some((*reason).to_owned()),
        message: noted.cloned().or_else(|| (!message.is_empty()).then(|| message.clone())),
        started_at: Some(Time(started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(*finished_at)),
        signal: None,
    }
}

/// The pod's phase. A final one never changes.
fn phase(pod: &Pod, seen: &Observed, status: &PodStatus) -> &'static str {
    match view::status(pod).phase.as_deref() {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    if is_final(seen) {
        let all_well = status.container_statuses.iter().flatten().all(|container| exit_code(container) == Some(0));
        let killed = seen.memory.kill.is_some();
        return if all_well && !killed { "Succeeded" } else { "Failed" };
    }
    let (mut pending_init, mut failed_init) = (false, false);
    let apps: Vec<_> = status.container_statuses.iter().flatten().collect();
    let app_has_run = apps.iter().any(|app| app.state.as_ref().is_some_and(|state| state.waiting.is_none()));
    let units = view::units(pod);
    for unit in units.iter().filter(|unit| matches!(unit.role, Role::Init | Role::Sidecar)) {
        let newest = seen.newest(unit.name()).map(|newest| seen.standing(newest));
        match (unit.role, newest) {
            (Role::Sidecar, _) => pending_init |= !app_has_run && !seen.is_started(unit),
            (_, Some(Standing::Dead { exit_code: 0, .. })) => {}
            (_, Some(Standing::Dead { exit_code, .. }))
                if !restart::wanted(pod, unit.role, &unit.container, exit_code) =>
            {
                failed_init = true;
            }
            (_, _) => pending_init |= !app_has_run,
        }
    }
    if failed_init {
        return if seen.anything_alive() { "Pending" } else { "Failed" };
    }
    if pending_init {
        return "Pending";
    }
    app_phase(pod, seen, &units, &apps)
}

fn app_phase(pod: &Pod, seen: &Observed, units: &[Unit<'_>], apps: &[&ContainerStatus]) -> &'static str {
    let waits = |app: &&&ContainerStatus| {
        let waiting = app.state.as_ref().is_some_and(|state| state.waiting.is_some());
        waiting && app.last_state.as_ref().is_none_or(|last| last.terminated.is_none())
    };
    let hooked = |app: &&&ContainerStatus| {
        seen.newest(&app.name).is_some_and(|newest| matches!(seen.standing(newest), Standing::Running(_)))
    };
    if apps.is_empty() || apps.iter().any(|app| waits(&app)) {
        return "Pending";
    }
    if apps.iter().any(|app| hooked(&app)) {
        return "Running";
    }
    let comes_back = |app: &&&ContainerStatus| {
        let unit = units.iter().find(|unit| unit.role == Role::App && unit.name() == app.name);
        let code = exit_code(app);
        let resized = seen.newest(&app.name).is_some_and(|newest| seen.ended_for_resize(newest));
        resized || unit.zip(code).is_some_and(|(unit, code)| restart::wanted(pod, Role::App, &unit.container, code))
    };
    if apps.iter().any(|app| comes_back(&app)) || seen.anything_alive() {
        // The last one holds while sidecars are still being stopped.
        return "Running";
    }
    if apps.iter().all(|app| exit_code(app) == Some(0)) { "Succeeded" } else { "Failed" }
}

fn exit_code(container: &ContainerStatus) -> Option<i32> {
    let of = |state: &Option<ContainerState>| state.as_ref()?.terminated.as_ref().map(|ended| ended.exit_code);
    of(&container.state).or_else(|| of(&container.last_state))
}
