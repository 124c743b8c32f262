//! Which pods go first when there are too many.
//!
//! In order: not assigned to a node; Pending, then Unknown, then Running; not ready; lower deletion cost; more of its
//! relatives on the same node; ready for a shorter time; more restarts; younger. Ages are compared by order of
//! magnitude (base 2), so that a set which grew over time does not always lose its newest pods.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use crate::common::{pods, time};

/// Lower goes first; a 32-bit number, 0 where it is absent or no number.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn phase_rank(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotation = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    annotation.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The order of magnitude of an age in nanoseconds: 10 s and 12 s are alike, 10 s and 1 h are not.
fn magnitude(at: Timestamp, now: Timestamp) -> u32 {
    let age = time::since(at, now).as_nanos();
    u128::BITS - age.leading_zeros()
}

/// The whole preference as one ordered key: comparing ages pair by pair would not be a total order.
type Rank<'a> = (bool, u8, bool, i32, Reverse<usize>, u32, Reverse<i32>, u32, &'a str);

fn rank<'a>(pod: &'a Pod, related_per_node: &BTreeMap<String, usize>, now: Timestamp) -> Rank<'a> {
    (
        !pods::node(pod).is_empty(),
        phase_rank(pod),
        pods::is_ready(pod),
        deletion_cost(pod),
        Reverse(related_per_node.get(pods::node(pod)).copied().unwrap_or(0)),
        pods::ready_since(pod).map_or(0, |since| magnitude(since, now)),
        Reverse(pods::max_restarts(pod)),
        magnitude(pods::created(pod), now),
        pods::uid(pod),
    )
}

/// The `count` pods that go first, in that order.
pub fn victims<'a>(
    active: &[&'a Arc<Pod>],
    count: usize,
    related_per_node: &BTreeMap<String, usize>,
    now: Timestamp,
) -> Vec<&'a Arc<Pod>> {
    let mut ranked = active.to_vec();
    ranked.sort_by(|a, b| rank(a, related_per_node, now).cmp(&rank(b, related_per_node, now)));
    ranked.truncate(count);
    ranked
}
