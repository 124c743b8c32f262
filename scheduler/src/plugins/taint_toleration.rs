//! Keeps pods off nodes with taints that they do not bear, and prefers nodes with fewer soft ones.

use crate::framework::{ClusterChange, Filter, Prepared, Score, scale};
use crate::model::{NodeInfo, PodInfo, Snapshot, tolerates};

pub(super) struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, _: &'s Snapshot) -> Prepared<'s> {
        Prepared::Check(Box::new(move |node: &NodeInfo| match node.untolerated_taint(pod) {
            None => Vec::new(),
            Some(_) => vec!["node(s) had untolerated taint(s)".into()],
        }))
    }

    fn may_help(&self, pod: &PodInfo, change: &ClusterChange<'_>) -> bool {
        change.node().is_some_and(|node| node.untolerated_taint(pod).is_none())
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn prepare<'s>(
        &self,
        pod: &'s PodInfo,
        _: &'s Snapshot,
        nodes: &[&'s NodeInfo],
    ) -> Option<Box<dyn Fn(&NodeInfo) -> i64 + 's>> {
        let soft = |node: &NodeInfo| node.taints.iter().any(|taint| taint.effect == "PreferNoSchedule");
        if !nodes.iter().any(|node| soft(node)) {
            return None;
        }
        Some(Box::new(move |node| {
            let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
            let borne = |taint| pod.tolerations.iter().any(|toleration| tolerates(toleration, taint));
            i64::try_from(soft.filter(|taint| !borne(taint)).count()).unwrap_or(i64::MAX)
        }))
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, true);
    }
}
