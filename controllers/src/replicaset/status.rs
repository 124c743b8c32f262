//! Counts the status of a ReplicaSet from its own pods.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::plan::{Desired, Failure, Observed};
use crate::common::{pods, selector, time};

/// A status, and when it will have to be counted again although nothing changes.
pub struct Counted {
    /// The whole status.
    pub status: ReplicaSetStatus,
    /// Until the next pod becomes available.
    pub recheck_after: Option<Duration>,
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The ReplicaFailure condition follows the last round of writes; the others stay as they are.
fn conditions(
    present: Option<&Vec<ReplicaSetCondition>>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = present.cloned().unwrap_or_default();
    let standing = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match failure {
        // The first failure stays until writes succeed again: its time says since when.
        Some(failure) if !standing => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: time::api(now),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// Counts. Finished pods count nowhere; terminating ones only as terminating.
pub fn count(desired: &Desired, own: &[Arc<Pod>], observed: &Observed, now: Timestamp) -> Counted {
    let template_labels = desired.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let (mut replicas, mut labelled, mut ready, mut available, mut terminating) = (0, 0, 0, 0, 0);
    let mut recheck_after: Option<Duration> = None;
    for pod in own {
        if pods::is_terminating(pod) {
            terminating += usize::from(!pods::is_finished(pod));
            continue;
        }
        if pods::is_finished(pod) {
            continue;
        }
        replicas += 1;
        labelled += usize::from(selector::covers(pod.metadata.labels.as_ref(), template_labels));
        ready += usize::from(pods::is_ready(pod));
        match pods::available_at(pod, desired.min_ready_seconds) {
            Some(at) if at <= now => available += 1,
            Some(at) => {
                let delay = time::since(now, at);
                recheck_after = Some(recheck_after.map_or(delay, |present| present.min(delay)));
            }
            None => {}
        }
    }
    let status = ReplicaSetStatus {
        replicas: number(replicas),
        fully_labeled_replicas: Some(number(labelled)),
        ready_replicas: Some(number(ready)),
        available_replicas: Some(number(available)),
        terminating_replicas: Some(number(terminating)),
        observed_generation: desired.generation,
        conditions: conditions(desired.status.conditions.as_ref(), observed.failure.as_ref(), now),
    };
    // Absent and zero are the same; only a real difference may lead to a write.
    Counted { status: as_stored(status, &desired.status), recheck_after }
}

/// Writes zeros the way the stored status does, so that equal statuses compare equal.
fn as_stored(mut new: ReplicaSetStatus, old: &ReplicaSetStatus) -> ReplicaSetStatus {
    let like = |new: &mut Option<i32>, old: Option<i32>| {
        if new.unwrap_or(0) == old.unwrap_or(0) {
            *new = old;
        }
    };
    like(&mut new.fully_labeled_replicas, old.fully_labeled_replicas);
    like(&mut new.ready_replicas, old.ready_replicas);
    like(&mut new.available_replicas, old.available_replicas);
    like(&mut new.terminating_replicas, old.terminating_replicas);
    if new.conditions.is_none() && old.conditions.as_ref().is_some_and(Vec::is_empty) {
        new.conditions.clone_from(&old.conditions);
    }
    new
}
