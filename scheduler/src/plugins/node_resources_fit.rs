//! Keeps pods off nodes that have too little left, and prefers those with most left.

use crate::framework::{ClusterChange, Filter, MAX_SCORE, Prepared, Reasons, Score};
use crate::model::{NodeInfo, PodInfo, Resources, Snapshot};

pub(super) struct NodeResourcesFit;

/// What is lacking on a node, in Kubernetes' order and words.
fn lacking(wanted: &Resources, node: &NodeInfo) -> Reasons {
    let mut reasons = Reasons::new();
    let (all, used) = (&node.allocatable, &node.requested);
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= all.pods {
        reasons.push("Too many pods".into());
    }
    let mut amount = |name: &str, wanted: i64, all: i64, used: i64| {
        if wanted > 0 && wanted > all.saturating_sub(used) {
            reasons.push(format!("Insufficient {name}").into());
        }
    };
    amount("cpu", wanted.milli_cpu, all.milli_cpu, used.milli_cpu);
    amount("memory", wanted.memory, all.memory, used.memory);
    amount("ephemeral-storage", wanted.ephemeral_storage, all.ephemeral_storage, used.ephemeral_storage);
    for (name, wanted) in &wanted.other {
        let of = |resources: &Resources| resources.other.get(name).copied().unwrap_or(0);
        amount(name, *wanted, of(all), of(used));
    }
    reasons
}

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, _: &'s Snapshot) -> Prepared<'s> {
        Prepared::Check(Box::new(move |node: &NodeInfo| lacking(&pod.requests, node)))
    }

    fn may_help(&self, pod: &PodInfo, change: &ClusterChange<'_>) -> bool {
        match change {
            ClusterChange::NodeAdded(node) => lacking(&pod.requests, node).is_empty(),
            ClusterChange::NodeUpdated(node, old) => {
                let before = old.status.as_ref().and_then(|status| status.allocatable.as_ref());
                node.allocatable.grew_for(&Resources::from_list(before), &pod.requests)
                    && lacking(&pod.requests, node).is_empty()
            }
            // Every pod that goes frees at least its own place.
            ClusterChange::PodFreed(_) => true,
            ClusterChange::NodeRemoved | ClusterChange::PodAssigned(_) | ClusterChange::Namespace => false,
        }
    }
}

/// Least allocated: the mean over CPU and memory of the free share after the pod was put there.
///
/// Example: 1 of 4 CPUs and 4 of 8 GiB used afterwards: (75 + 50) / 2 = 62.
impl Score for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn prepare<'s>(
        &self,
        pod: &'s PodInfo,
        _: &'s Snapshot,
        _: &[&'s NodeInfo],
    ) -> Option<Box<dyn Fn(&NodeInfo) -> i64 + 's>> {
        Some(Box::new(move |node| {
            let (all, used, more) = (&node.allocatable, &node.assumed, &pod.assumed);
            let parts = [
                (all.milli_cpu, used.milli_cpu.saturating_add(more.milli_cpu)),
                (all.memory, used.memory.saturating_add(more.memory)),
            ];
            let parts: Vec<i64> = parts.iter().filter(|(all, _)| *all > 0).map(|(all, used)| free(*all, *used)).collect();
            if parts.is_empty() { 0 } else { parts.iter().sum::<i64>() / parts.len() as i64 }
        }))
    }
}

fn free(all: i64, used: i64) -> i64 {
    if used > all {
        return 0;
    }
    let share = i128::from(all - used) * i128::from(MAX_SCORE) / i128::from(all);
    i64::try_from(share).unwrap_or(MAX_SCORE)
}
