//! The plugins of the default profile, one file each.

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod taint_toleration;
#[cfg(test)]
mod tests;
mod volumes;

use crate::framework::Framework;

/// The default profile, in Kubernetes' order.
pub fn default_framework() -> Framework {
    Framework {
        filters: vec![
            Box::new(node_unschedulable::NodeUnschedulable),
            Box::new(node_name::NodeName),
            Box::new(taint_toleration::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(node_ports::NodePorts),
            Box::new(node_resources_fit::NodeResourcesFit),
            Box::new(volumes::Volumes),
            Box::new(pod_topology_spread::PodTopologySpread),
            Box::new(inter_pod_affinity::InterPodAffinity),
        ],
        scores: vec![
            Box::new(taint_toleration::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(node_resources_fit::NodeResourcesFit),
            Box::new(node_resources_balanced::BalancedAllocation),
            Box::new(image_locality::ImageLocality),
            Box::new(inter_pod_affinity::InterPodAffinity),
            Box::new(pod_topology_spread::PodTopologySpread),
        ],
    }
}
