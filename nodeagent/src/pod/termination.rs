//! How containers end: hook, stop signal, kill, and in which order.
//!
//! Pure. All app containers end at the same time; sidecars after them, last one first, while there is time; the whole
//! pod within its grace period, and whatever the time is, a container gets 2 seconds between signal and kill.

use std::time::Duration;

use jiff::Timestamp;

use super::observed::{Op, Standing, Why, has_pre_stop};
use super::plan::{Action, Planner};
use super::view::{self, Role, Unit, after, since};

/// The least time between stop signal and kill.
pub const LEAST_GRACE: Duration = Duration::from_secs(2);

/// The seconds that the pod has to stop. Later deletions may shorten it.
pub(super) fn grace_seconds(planner: &Planner<'_>) -> i64 {
    let memory = &planner.seen.memory;
    let own = view::spec_grace_seconds(planner.pod);
    let deletion = planner.pod.metadata.deletion_grace_period_seconds.filter(|_| view::is_deleted(planner.pod));
    let kill = memory.kill.as_ref().map(|kill| kill.grace_seconds.unwrap_or(own));
    match (deletion, kill) {
        (Some(deletion), Some(kill)) => deletion.min(kill).max(1),
        (Some(seconds), None) | (None, Some(seconds)) => seconds.max(1),
        // Gone from the API without a word: somebody forced it.
        (None, None) => 1,
    }
}

/// The pod is being stopped.
pub(super) fn terminate(planner: &mut Planner<'_>) {
    let started = planner.seen.memory.stopping.unwrap_or(planner.now);
    let grace = grace_seconds(planner);
    stop_all(planner, started, grace, true);
    planner.wake_at(after(planner.now, Duration::from_secs(5)));
}

/// All app containers have ended (or the node ended the pod): what is left goes, the object stays.
pub(super) fn complete(planner: &mut Planner<'_>) {
    if planner.seen.anything_alive() {
        let finished = last_app_end(planner).unwrap_or(planner.now);
        let grace = view::spec_grace_seconds(planner.pod);
        return stop_all(planner, finished, grace, false);
    }
    if planner.seen.memory.starting() {
        return;
    }
    let ready: Vec<_> =
        planner.seen.sandboxes.iter().filter(|sandbox| sandbox.ready).map(|sandbox| sandbox.id.clone()).collect();
    ready.into_iter().for_each(|id| planner.act(Action::StopSandbox { id }));
}

fn last_app_end(planner: &Planner<'_>) -> Option<Timestamp> {
    let apps = planner.units.iter().filter(|unit| unit.role == Role::App);
    apps.filter_map(|unit| match planner.seen.standing(planner.seen.newest(unit.name())?) {
        Standing::Dead { finished_at, .. } => Some(finished_at),
        Standing::Created | Standing::Running(_) => None,
    })
    .max()
}

fn stop_all(planner: &mut Planner<'_>, started: Timestamp, grace_seconds: i64, apps_too: bool) {
    let units = planner.units.clone();
    let deadline = after(started, seconds(grace_seconds));
    let alive = |planner: &Planner<'_>, unit: &Unit<'_>| {
        let instances: Vec<_> = planner.seen.instances(unit.name()).cloned().collect();
        instances.into_iter().find(|instance| matches!(planner.seen.standing(instance), Standing::Running(_)))
    };
    let mut in_the_way = false;
    for unit in units.iter().filter(|unit| unit.role != Role::Sidecar) {
        let Some(instance) = alive(planner, unit) else { continue };
        in_the_way |= unit.role == Role::App;
        if apps_too || unit.role != Role::App {
            end(planner, unit, &instance.id, started, grace_seconds, Why::PodStops);
        }
    }
    for unit in units.iter().rev().filter(|unit| unit.role == Role::Sidecar) {
        let Some(instance) = alive(planner, unit) else { continue };
        if in_the_way && planner.now < deadline {
            planner.wake_at(deadline);
            // Its turn has not come, but its hook may use the time.
            pre_stop(planner, unit, &instance.id, started, grace_seconds, Why::PodStops);
        } else {
            end(planner, unit, &instance.id, started, grace_seconds, Why::PodStops);
        }
        in_the_way = true;
    }
    // Instances of containers that the spec no longer has.
    let strangers: Vec<_> = planner
        .seen
        .containers
        .iter()
        .filter(|container| !units.iter().any(|unit| unit.name() == container.name))
        .filter(|container| matches!(planner.seen.standing(container), Standing::Running(_)))
        .cloned()
        .collect();
    for stranger in strangers {
        let (container, id) = (stranger.name, stranger.id);
        planner.act(Action::Stop { container, id, grace: LEAST_GRACE, why: Why::PodStops });
    }
}

/// Ends one instance: its hook, then its stop with what the hook has left of the grace.
pub(super) fn end(
    planner: &mut Planner<'_>,
    unit: &Unit<'_>,
    id: &str,
    started: Timestamp,
    grace_seconds: i64,
    why: Why,
) {
    if !pre_stop(planner, unit, id, started, grace_seconds, why) {
        return;
    }
    let deadline = after(started, seconds(grace_seconds));
    let grace = since(planner.now, deadline).max(LEAST_GRACE);
    let stop = Action::Stop { container: unit.name().to_owned(), id: id.to_owned(), grace, why };
    // A later deletion may have shortened the grace: the stop under way is then overtaken by a shorter one.
    let until = planner.seen.memory.busy.get(&Op::Stop(id.to_owned()));
    if until.is_some_and(|until| after(planner.now, grace + Duration::from_secs(1)) < *until) {
        planner.actions.push(stop);
    } else {
        planner.act(stop);
    }
}

/// Runs the preStop hook where there is one and time for it; whether it is over.
fn pre_stop(
    planner: &mut Planner<'_>,
    unit: &Unit<'_>,
    id: &str,
    started: Timestamp,
    grace_seconds: i64,
    why: Why,
) -> bool {
    let memory = &planner.seen.memory;
    let done = memory.container(unit.name()).is_some_and(|memory| memory.pre_stop.as_deref() == Some(id));
    if done || !has_pre_stop(unit) || memory.gone {
        return true;
    }
    let deadline = after(started, seconds(grace_seconds));
    let within = since(planner.now, deadline);
    if within.is_zero() {
        return true;
    }
    planner.wake_at(deadline);
    planner.act(Action::PreStop { container: unit.name().to_owned(), id: id.to_owned(), within, why });
    false
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
