//! Counts the status of a DaemonSet: nodes, each by its oldest pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSetStatus;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::plan::{Site, oldest_first};
use crate::common::pods;

/// Pods by the node they are on or for, by node.
pub type Placed = BTreeMap<String, Vec<Arc<Pod>>>;

/// Counts. `generation`: what to say was observed.
pub fn count(
    old: &DaemonSetStatus,
    sites: &[Site],
    placed: &Placed,
    is_updated: impl Fn(&Pod) -> bool,
    (min_ready_seconds, generation, now): (i32, Option<i64>, Timestamp),
) -> DaemonSetStatus {
    let (mut desired, mut current, mut misplaced, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
    for site in sites {
        let mut here = placed.get(&site.node).cloned().unwrap_or_default();
        oldest_first(&mut here);
        let first = here.first();
        if !site.wanted {
            misplaced += i32::from(first.is_some());
            continue;
        }
        desired += 1;
        let Some(pod) = first else { continue };
        current += 1;
        ready += i32::from(pods::is_ready(pod));
        available += i32::from(pods::is_available(pod, min_ready_seconds, now));
        updated += i32::from(is_updated(pod));
    }
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misplaced,
        number_ready: ready,
        updated_number_scheduled: Some(updated),
        number_available: Some(available),
        number_unavailable: Some(desired - available),
        observed_generation: generation,
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    }
}

/// Whether they say the same. Absent and zero are alike.
pub fn same(a: &DaemonSetStatus, b: &DaemonSetStatus) -> bool {
    let plain = |status: &DaemonSetStatus| {
        let mut status = status.clone();
        for counter in [
            &mut status.updated_number_scheduled,
            &mut status.number_available,
            &mut status.number_unavailable,
            &mut status.collision_count,
        ] {
            *counter = Some(counter.unwrap_or(0));
        }
        status.conditions = status.conditions.filter(|list| !list.is_empty());
        status
    };
    plain(a) == plain(b)
}
