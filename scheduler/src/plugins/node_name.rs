//! Keeps pods off nodes that their spec does not name, where it names one.

use crate::framework::{ClusterChange, Filter, Prepared};
use crate::model::{NodeInfo, PodInfo, Snapshot};

pub(super) struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, _: &'s Snapshot) -> Prepared<'s> {
        let Some(name) = pod.node_name() else { return Prepared::Skip };
        Prepared::Check(Box::new(move |node: &NodeInfo| {
            if *node.name == *name {
                Vec::new()
            } else {
                vec!["node(s) didn't match the requested node name".into()]
            }
        }))
    }

    fn may_help(&self, pod: &PodInfo, change: &ClusterChange<'_>) -> bool {
        matches!(change, ClusterChange::NodeAdded(node) if pod.node_name() == Some(&*node.name))
    }
}
