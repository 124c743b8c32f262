//! One step of a rolling update: up as far as the surge allows, or down as far as availability allows.
//!
//! Worked example, 10 replicas, surge 3, 2 unavailable, old 10 and new 0: the new set goes to 3 (13 in all); the old
//! one to 8 at once (8 available is the floor); as new pods become available, the old set loses as many.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::scale::{resize, size};
use super::{fence, revision, scale};

/// Pods to count on: a set that is still shrinking reports more available pods than it is going to keep.
fn available(set: &ReplicaSet) -> i32 {
    scale::available(set).min(size(set))
}

/// What size the new ReplicaSet may have now.
pub fn new_size(deployment: &Deployment, sets: &[ReplicaSet], present: i32) -> i32 {
    let wanted = fence::replicas(deployment);
    if !fence::is_rolling(deployment) {
        return wanted;
    }
    let total: i32 = sets.iter().map(size).sum();
    let room = wanted + fence::max_surge(deployment) - total;
    if room <= 0 { present } else { present + room.min(wanted - present) }
}

/// Sizes the new set. Says whether that changed anything.
pub fn step_new(deployment: &Deployment, sets: &mut [ReplicaSet], new: usize) -> bool {
    let wanted = fence::replicas(deployment);
    let present = size(&sets[new]);
    if present == wanted {
        return false;
    }
    let to = if present > wanted { wanted } else { new_size(deployment, sets, present) };
    if to == present {
        return false;
    }
    resize(deployment, &mut sets[new], to);
    true
}

/// Shrinks the old sets: pods that are not available first, then as many as availability allows. Says whether that
/// changed anything.
pub fn step_old(deployment: &Deployment, sets: &mut [ReplicaSet], new: usize) -> bool {
    let mut old: Vec<usize> = (0..sets.len()).filter(|index| *index != new && size(&sets[*index]) > 0).collect();
    if old.is_empty() {
        return false;
    }
    old.sort_by(|a, b| revision::by_age(&sets[*a], &sets[*b]));
    let floor = fence::replicas(deployment) - fence::max_unavailable(deployment);
    let total: i32 = sets.iter().map(size).sum();
    // New pods that are not there yet are not to be counted on.
    let new_missing = size(&sets[new]) - available(&sets[new]);
    let limit = total - floor - new_missing;
    if limit <= 0 {
        return false;
    }
    let unhealthy = drop_unavailable(deployment, sets, &old, limit);
    let healthy = drop_available(deployment, sets, &old, floor);
    unhealthy + healthy > 0
}

fn drop_unavailable(deployment: &Deployment, sets: &mut [ReplicaSet], old: &[usize], limit: i32) -> i32 {
    let mut dropped = 0;
    for index in old {
        let set = &mut sets[*index];
        let part = (size(set) - available(set)).clamp(0, limit - dropped);
        if part > 0 {
            let to = size(set) - part;
            resize(deployment, set, to);
            dropped += part;
        }
    }
    dropped
}

fn drop_available(deployment: &Deployment, sets: &mut [ReplicaSet], old: &[usize], floor: i32) -> i32 {
    let total_available: i32 = sets.iter().map(available).sum();
    let allowed = (total_available - floor).max(0);
    let mut dropped = 0;
    for index in old {
        let set = &mut sets[*index];
        let part = size(set).min(allowed - dropped);
        if part > 0 {
            let to = size(set) - part;
            resize(deployment, set, to);
            dropped += part;
        }
    }
    dropped
}
