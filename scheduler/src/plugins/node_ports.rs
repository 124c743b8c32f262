//! Keeps pods off nodes where another pod has one of their host ports.

use crate::framework::{ClusterChange, Filter, Prepared};
use crate::model::{NodeInfo, PodInfo, Snapshot};

pub(super) struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, _: &'s Snapshot) -> Prepared<'s> {
        if pod.host_ports.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Check(Box::new(move |node: &NodeInfo| {
            let taken = pod.host_ports.iter().any(|wanted| node.host_ports.iter().any(|port| port.conflicts(wanted)));
            if taken { vec!["node(s) didn't have free ports for the requested pod ports".into()] } else { Vec::new() }
        }))
    }

    fn may_help(&self, pod: &PodInfo, change: &ClusterChange<'_>) -> bool {
        match change {
            ClusterChange::NodeAdded(_) => true,
            ClusterChange::PodFreed(other) => {
                pod.host_ports.iter().any(|wanted| other.host_ports.iter().any(|port| port.conflicts(wanted)))
            }
            ClusterChange::NodeUpdated(..)
            | ClusterChange::NodeRemoved
            | ClusterChange::PodAssigned(_)
            | ClusterChange::Namespace => false,
        }
    }
}
