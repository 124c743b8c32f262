//! Keeps pods off nodes that are cordoned, unless they bear that.

use k8s_openapi::api::core::v1::Taint;

use crate::framework::{ClusterChange, Filter, Prepared};
use crate::model::{NodeInfo, PodInfo, Snapshot, tolerates};

pub(super) struct NodeUnschedulable;

fn bears(pod: &PodInfo) -> bool {
    let key = "node.kubernetes.io/unschedulable".to_owned();
    let taint = Taint { key, effect: "NoSchedule".to_owned(), ..Taint::default() };
    pod.tolerations.iter().any(|toleration| tolerates(toleration, &taint))
}

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, _: &'s Snapshot) -> Prepared<'s> {
        if bears(pod) {
            return Prepared::Skip;
        }
        Prepared::Check(Box::new(|node: &NodeInfo| {
            if node.unschedulable { vec!["node(s) were unschedulable".into()] } else { Vec::new() }
        }))
    }

    fn may_help(&self, _: &PodInfo, change: &ClusterChange<'_>) -> bool {
        change.node().is_some_and(|node| !node.unschedulable)
    }
}
