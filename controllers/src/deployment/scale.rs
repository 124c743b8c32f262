//! Sizes of ReplicaSets, and how a change of `spec.replicas` in the middle of a rollout is spread over them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{fence, revision};

/// `spec.replicas` of a ReplicaSet.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Available pods of a ReplicaSet.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Sets the size, and with it what the Deployment wanted at this moment.
pub fn resize(deployment: &Deployment, set: &mut ReplicaSet, to: i32) {
    set.spec.get_or_insert_default().replicas = Some(to.max(0));
    revision::note_size(deployment, set.metadata.annotations.get_or_insert_default());
}

fn annotation(set: &ReplicaSet, key: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

/// Whether `spec.replicas` of the Deployment is not what the active ReplicaSets were last sized for.
pub fn is_resize(deployment: &Deployment, sets: &[ReplicaSet]) -> bool {
    let wanted = fence::replicas(deployment);
    sets.iter()
        .filter(|set| size(set) > 0)
        .any(|set| annotation(set, revision::DESIRED).is_some_and(|desired| desired != wanted))
}

/// The new ReplicaSet has all the pods that there should be, and all are available.
fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = fence::replicas(deployment);
    annotation(set, revision::DESIRED) == Some(wanted) && size(set) == wanted && available(set) == wanted
}

/// How much of `to_add` (which may be negative) falls to this ReplicaSet by its share.
fn share(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if size(set) == 0 || to_add == added {
        return 0;
    }
    let wanted = fence::replicas(deployment);
    let fraction = if wanted == 0 {
        -size(set)
    } else {
        let reported = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let before = annotation(set, revision::MAX).filter(|max| *max > 0).unwrap_or(reported);
        if before == 0 {
            return 0;
        }
        let scaled = i64::from(size(set)) * i64::from(wanted + fence::max_surge(deployment));
        // To the nearest, halves away from zero: sizes are never negative here.
        let rounded = (2 * scaled + i64::from(before)).div_euclid(2 * i64::from(before));
        i32::try_from(rounded).unwrap_or(i32::MAX) - size(set)
    };
    let allowed = to_add - added;
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

/// Scales to what the Deployment wants without going on with the rollout: the single active set takes it all, a
/// finished rollout empties the old sets, otherwise everyone gets a share of the difference.
pub fn scale(deployment: &Deployment, sets: &mut [ReplicaSet], new: Option<usize>) {
    let wanted = fence::replicas(deployment);
    let active: Vec<usize> = (0..sets.len()).filter(|index| size(&sets[*index]) > 0).collect();
    let latest = (0..sets.len()).max_by(|a, b| revision::by_age(&sets[*a], &sets[*b]));
    let single = match active.as_slice() {
        [] => new.or(latest),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(single) = single {
        if size(&sets[single]) != wanted || is_resize(deployment, std::slice::from_ref(&sets[single])) {
            resize(deployment, &mut sets[single], wanted);
        }
        return;
    }
    if let Some(new) = new
        && is_saturated(deployment, &sets[new])
    {
        for index in active.into_iter().filter(|index| *index != new) {
            resize(deployment, &mut sets[index], 0);
        }
        return;
    }
    if fence::is_rolling(deployment) {
        spread(deployment, sets, active);
    } else {
        for index in active {
            let to = size(&sets[index]);
            resize(deployment, &mut sets[index], to);
        }
    }
}

fn spread(deployment: &Deployment, sets: &mut [ReplicaSet], mut active: Vec<usize>) {
    let wanted = fence::replicas(deployment);
    let total: i32 = active.iter().map(|index| size(&sets[*index])).sum();
    let allowed = if wanted > 0 { wanted + fence::max_surge(deployment) } else { 0 };
    let to_add = allowed - total;
    // The largest first; among equals the newest grows and the oldest shrinks.
    active.sort_by(|a, b| {
        let (a, b) = (&sets[*a], &sets[*b]);
        let age = revision::by_age(a, b);
        size(b).cmp(&size(a)).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for index in &active {
        let part = if to_add == 0 { 0 } else { share(deployment, &sets[*index], to_add, added) };
        added += part;
        sizes.push(size(&sets[*index]) + part);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (index, to) in active.into_iter().zip(sizes) {
        resize(deployment, &mut sets[index], to);
    }
}
