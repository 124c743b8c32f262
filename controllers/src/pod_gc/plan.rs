//! Decides which pods are removed by force, and why.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;

use crate::common::{Plan, pods, time};

/// Finished pods are kept up to this number.
pub const TERMINATED_THRESHOLD: usize = 12_500;

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// All pods.
    pub pods: Vec<Arc<Pod>>,
    /// Names of all nodes.
    pub nodes: BTreeSet<String>,
    /// Names of nodes that are certainly gone: missing for a while, and a live look found nothing.
    pub gone_nodes: BTreeSet<String>,
    /// Names of nodes that are not ready and carry `node.kubernetes.io/out-of-service`.
    pub out_of_service: BTreeSet<String>,
}

/// Why a pod goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its node no longer exists.
    Orphaned,
    /// Its deletion was asked for before it had a node.
    Unscheduled,
    /// It has finished, and there are too many of those.
    Terminated,
    /// Its node is shut down for good.
    OutOfService,
}

/// Removal of one pod: grace 0, after the status below where there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its UID: the precondition.
    pub uid: String,
    /// Why.
    pub why: Why,
    /// Set phase Failed before, for those who watch.
    pub fail: bool,
    /// A condition to set with it.
    pub condition: Option<PodCondition>,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remove {}/{} ({:?})", self.namespace, self.pod, self.why)
    }
}

fn removal(pod: &Pod, why: Why, now: Timestamp) -> Action {
    let disruption = |message: &str| PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("DeletionByPodGC".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: time::api(now),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    Action {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        pod: pods::name(pod).to_owned(),
        uid: pods::uid(pod).to_owned(),
        why,
        fail: !pods::is_finished(pod),
        condition: (why == Why::Orphaned && !pods::is_finished(pod)).then(|| disruption("PodGC: node no longer exists")),
    }
}

/// The decision.
pub fn plan(observed: &Observed, threshold: usize, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::default();
    let mut finished: Vec<&Arc<Pod>> = Vec::new();
    for pod in &observed.pods {
        let node = pods::node(pod);
        if !node.is_empty() && observed.gone_nodes.contains(node) && !observed.nodes.contains(node) {
            plan.actions.push(removal(pod, Why::Orphaned, now));
        } else if node.is_empty() && pods::is_terminating(pod) {
            plan.actions.push(removal(pod, Why::Unscheduled, now));
        } else if pods::is_terminating(pod) && observed.out_of_service.contains(node) {
            plan.actions.push(removal(pod, Why::OutOfService, now));
        } else if pods::is_finished(pod) {
            finished.push(pod);
        }
    }
    // Evicted ones first, then the oldest.
    let evicted = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.reason.as_deref() == Some("Evicted"));
    finished.sort_by_key(|pod| (!evicted(pod), pods::created(pod), pods::uid(pod).to_owned()));
    let surplus = finished.len().saturating_sub(threshold);
    plan.actions.extend(finished.into_iter().take(surplus).map(|pod| removal(pod, Why::Terminated, now)));
    if !plan.actions.is_empty() {
        plan.reasons.push(format!("{} pods that no node agent will remove", plan.actions.len()));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn each_reason_once() {
        let now = Timestamp::UNIX_EPOCH;
        let observed = Observed {
            pods: vec![
                pod("fine").on("n1").arc(),
                pod("orphan").on("gone").arc(),
                pod("unsure").on("missing").arc(),
                pod("never-scheduled").terminating().arc(),
                pod("pending").arc(),
                pod("done-old").on("n1").phase("Succeeded").created(10).arc(),
                pod("done-young").on("n1").phase("Failed").created(20).arc(),
                pod("stuck").on("dead").terminating().arc(),
            ],
            nodes: ["n1", "dead"].map(str::to_owned).into(),
            gone_nodes: ["gone"].map(str::to_owned).into(),
            out_of_service: ["dead"].map(str::to_owned).into(),
        };
        let texts: Vec<String> = plan(&observed, 1, now).actions.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "remove default/orphan (Orphaned)",
                "remove default/never-scheduled (Unscheduled)",
                "remove default/stuck (OutOfService)",
                "remove default/done-old (Terminated)",
            ]
        );
        assert!(plan(&Observed { pods: vec![pod("fine").on("n1").arc()], ..observed }, 1, now).is_quiet());
    }
}
