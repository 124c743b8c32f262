//! The status of a Deployment: numbers, Available, Progressing, ReplicaFailure, and the progress deadline.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;

use super::fence;
use crate::common::time;

/// Condition type: enough pods are available.
pub const AVAILABLE: &str = "Available";
/// Condition type: the rollout moves or has arrived.
pub const PROGRESSING: &str = "Progressing";
/// Condition type: pods cannot be created or deleted.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";
/// Reason: the rollout has arrived.
pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
/// Reason: nothing moved for `progressDeadlineSeconds`.
pub const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";

/// A condition of now.
pub fn condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: time::api(now),
        last_transition_time: time::api(now),
    }
}

/// One of the conditions.
pub fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Sets a condition; the same status and reason leave it as it is, the same status keeps the transition time.
pub fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(present) = conditions.iter().find(|condition| condition.type_ == new.type_) {
        if present.status == new.status && present.reason == new.reason {
            return;
        }
        if present.status == new.status {
            new.last_transition_time.clone_from(&present.last_transition_time);
        }
    }
    conditions.retain(|condition| condition.type_ != new.type_);
    conditions.push(new);
}

/// Takes a condition away.
pub fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// The deadline; `None` where there is none (absent, or the largest number).
pub fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn sum(sets: &[ReplicaSet], number: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>) -> i32 {
    sets.iter().filter_map(|set| set.status.as_ref()).filter_map(number).sum()
}

/// The numbers and the Available condition; other conditions as they were.
pub fn count(deployment: &Deployment, sets: &[ReplicaSet], new: Option<usize>, now: Timestamp) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let total = sum(sets, |status| Some(status.replicas));
    let available = sum(sets, |status| status.available_replicas);
    let updated = new.and_then(|new| sets[new].status.as_ref()).map_or(0, |status| status.replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(total),
        updated_replicas: Some(updated),
        ready_replicas: Some(sum(sets, |status| status.ready_replicas)),
        available_replicas: Some(available),
        unavailable_replicas: Some((total - available).max(0)),
        terminating_replicas: Some(sum(sets, |status| status.terminating_replicas)),
        collision_count: before.collision_count,
        conditions: before.conditions,
    };
    let enough = available >= fence::replicas(deployment) - fence::max_unavailable(deployment);
    let (value, reason, text) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, condition(AVAILABLE, value, reason, text.to_owned(), now));
    status
}

/// Everything is of the new template and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Some(fence::replicas(deployment));
    status.updated_replicas.or(Some(0)) == wanted
        && status.replicas.or(Some(0)) == wanted
        && status.available_replicas.or(Some(0)) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_moved(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let get = |number: Option<i32>| number.unwrap_or(0);
    let old = |status: &DeploymentStatus| get(status.replicas) - get(status.updated_replicas);
    get(after.updated_replicas) > get(before.updated_replicas)
        || old(after) < old(before)
        || get(after.ready_replicas) > get(before.ready_replicas)
        || get(after.available_replicas) > get(before.available_replicas)
}

fn has_timed_out(deadline: Duration, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(condition) = find(status, PROGRESSING) else { return false };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(DEADLINE_EXCEEDED) => true,
        _ => condition.last_update_time.as_ref().is_some_and(|from| time::since(from.0, now) > deadline),
    }
}

/// Brings Progressing and ReplicaFailure up to date during a rollout.
pub fn judge(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    sets: &[ReplicaSet],
    new: Option<usize>,
    now: Timestamp,
) {
    let before = deployment.status.clone().unwrap_or_default();
    match deadline(deployment) {
        None => remove(status, PROGRESSING),
        Some(deadline) => judge_progress(deployment, &before, status, new.map(|new| &sets[new]), deadline, now),
    }
    match replica_failure(sets, new, now) {
        Some(failure) => set(status, failure),
        None => remove(status, REPLICA_FAILURE),
    }
}

fn judge_progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    new: Option<&ReplicaSet>,
    deadline: Duration,
    now: Timestamp,
) {
    let present = find(status, PROGRESSING).cloned();
    let arrived = present.as_ref().is_some_and(|condition| condition.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if arrived && status.replicas == status.updated_replicas {
        return;
    }
    let subject = match new {
        Some(set) => format!("ReplicaSet \"{}\"", set.metadata.name.as_deref().unwrap_or_default()),
        None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    if is_complete(deployment, status) {
        let text = format!("{subject} has successfully progressed.");
        set(status, condition(PROGRESSING, "True", NEW_SET_AVAILABLE, text, now));
    } else if has_moved(before, status) {
        // A move counts anew even where the reason stays: the deadline runs from the last one.
        let text = format!("{subject} is progressing.");
        let mut moved = condition(PROGRESSING, "True", "ReplicaSetUpdated", text, now);
        if let Some(present) = present.filter(|present| present.status == "True") {
            moved.last_transition_time = present.last_transition_time;
        }
        remove(status, PROGRESSING);
        set(status, moved);
    } else if has_timed_out(deadline, status, now) {
        let text = format!("{subject} has timed out progressing.");
        set(status, condition(PROGRESSING, "False", DEADLINE_EXCEEDED, text, now));
    }
}

fn replica_failure(sets: &[ReplicaSet], new: Option<usize>, now: Timestamp) -> Option<DeploymentCondition> {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        let found = conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)?;
        Some(DeploymentCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: found.status.clone(),
            reason: found.reason.clone(),
            message: found.message.clone(),
            last_update_time: time::api(now),
            last_transition_time: found.last_transition_time.clone(),
        })
    };
    new.and_then(|new| failure(&sets[new])).or_else(|| sets.iter().find_map(failure))
}

/// When the deadline will have passed, if nothing moves. One second more, so that it then has.
pub fn recheck_after(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let condition = find(status, PROGRESSING)?;
    if is_complete(deployment, status) || condition.reason.as_deref() == Some(DEADLINE_EXCEEDED) {
        return None;
    }
    let from = condition.last_update_time.as_ref()?.0;
    Some(time::since(now, time::after(from, deadline)) + Duration::from_secs(1))
}

/// Whether two statuses say the same: absent numbers are zero, the order of conditions does not matter.
pub fn same(a: &DeploymentStatus, b: &DeploymentStatus) -> bool {
    let numbers = |status: &DeploymentStatus| {
        let get = |number: Option<i32>| number.unwrap_or(0);
        (
            status.observed_generation,
            [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas].map(get),
            [status.unavailable_replicas, status.terminating_replicas, status.collision_count].map(get),
        )
    };
    let sorted = |status: &DeploymentStatus| {
        let mut conditions = status.conditions.clone().unwrap_or_default();
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        conditions
    };
    numbers(a) == numbers(b) && sorted(a) == sorted(b)
}
