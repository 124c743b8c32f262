//! Counts the status of a StatefulSet from its own pods.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::identity::revision;
use crate::common::{pods, time};

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Whether a pod serves: running, and ready for long enough.
pub fn is_available(pod: &Pod, spec: &StatefulSetSpec, now: Timestamp) -> bool {
    pods::phase(pod) == "Running" && pods::is_available(pod, spec.min_ready_seconds.unwrap_or(0), now)
}

/// Counts; `going`: UIDs of pods whose deletion we asked for.
pub fn count(set: &StatefulSet, spec: &StatefulSetSpec, own: &[Arc<Pod>], going: impl Fn(&Pod) -> bool, revisions: (&str, &str), now: Timestamp) -> StatefulSetStatus {
    let (current, update) = revisions;
    let old = set.status.clone().unwrap_or_default();
    let (mut ready, mut available, mut of_current, mut of_update) = (0, 0, 0, 0);
    for pod in own {
        if pods::phase(pod) == "Running" && pods::is_ready(pod) {
            ready += 1;
            available += usize::from(is_available(pod, spec, now));
        }
        if !going(pod) {
            of_current += usize::from(revision(pod) == current);
            of_update += usize::from(revision(pod) == update);
        }
    }
    StatefulSetStatus {
        replicas: number(own.len()),
        ready_replicas: Some(number(ready)),
        available_replicas: Some(number(available)),
        current_replicas: Some(number(of_current)),
        updated_replicas: Some(number(of_update)),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        observed_generation: set.metadata.generation,
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    }
}

/// When every pod is of the new revision and ready, the update is over.
pub fn complete_update(spec: &StatefulSetSpec, status: &mut StatefulSetStatus) {
    let all = spec.replicas.unwrap_or(1);
    let rolling = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
    if rolling && status.updated_replicas == Some(all) && status.ready_replicas == Some(all) && status.replicas == all {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}

/// Until the next pod that is ready becomes available.
pub fn recheck_after(spec: &StatefulSetSpec, own: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let seconds = spec.min_ready_seconds.unwrap_or(0);
    let due = own.iter().filter_map(|pod| pods::available_at(pod, seconds)).filter(|at| *at > now).min();
    due.map(|at| time::since(now, at))
}

/// Whether they say the same. Absent and zero are alike.
pub fn same(a: &StatefulSetStatus, b: &StatefulSetStatus) -> bool {
    let plain = |status: &StatefulSetStatus| {
        let mut status = status.clone();
        for counter in [
            &mut status.ready_replicas,
            &mut status.available_replicas,
            &mut status.current_replicas,
            &mut status.updated_replicas,
            &mut status.collision_count,
        ] {
            *counter = Some(counter.unwrap_or(0));
        }
        status.conditions = status.conditions.filter(|list| !list.is_empty());
        status
    };
    plain(a) == plain(b)
}
