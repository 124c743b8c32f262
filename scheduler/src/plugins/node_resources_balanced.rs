//! Prefers nodes whose CPU and memory would be used equally.

use crate::framework::{MAX_SCORE, Score};
use crate::model::{NodeInfo, PodInfo, Resources, Snapshot};

pub(super) struct BalancedAllocation;

/// Example: 50 % of the CPU and 30 % of the memory used afterwards: 100 × (1 − |0.5 − 0.3| / 2) = 90.
impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
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
        // A pod that asks for nothing changes no balance.
        if pod.requests == Resources::default() {
            return None;
        }
        Some(Box::new(move |node| {
            let (all, used, more) = (&node.allocatable, &node.requested, &pod.requests);
            let cpu = share(all.milli_cpu, used.milli_cpu.saturating_add(more.milli_cpu));
            let memory = share(all.memory, used.memory.saturating_add(more.memory));
            let spread = match (cpu, memory) {
                (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
                _ => 0.0,
            };
            ((1.0 - spread) * MAX_SCORE as f64) as i64
        }))
    }
}

fn share(all: i64, used: i64) -> Option<f64> {
    (all > 0).then(|| (used as f64 / all as f64).min(1.0))
}
