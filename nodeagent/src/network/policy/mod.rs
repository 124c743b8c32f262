//! NetworkPolicy on a node: what enters and leaves its pods, as one nftables table.
//!
//! - [`plan`]: (policies, namespaces, pods, the addresses given out here) → per isolated pod, what is allowed.
//! - [`text`]: that in nft's language.
//!
//! Filtered is what the node forwards. What the node itself sends to its pods is not forwarded: probes always pass, as
//! the specification has it, and so does what a pod sends to its own node, where the cluster's DNS answers. Replies
//! pass by the kernel's flow table; so does the rest of a connection that was allowed when it was opened. Packets
//! between two pods of one bridge are seen because the bridge hands them to the IP hooks (`bridge-nf-call-iptables`).
//!
//! Endpoints behind Services are judged by their own addresses, after translation; sources before it. What comes
//! through another node's node port (policy `Cluster`) has that node's address.
//!
//! # Limits
//! IPv4. What is not allowed is dropped, not refused.

pub mod plan;
pub mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::service::backends::Protocol;

/// A pod as policies see it, wherever it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyPod {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// Its addresses; none while it has none, has ended, or has its node's.
    pub ips: Vec<Ipv4Addr>,
    /// Its containers' ports that have names.
    pub ports: Vec<(String, Protocol, u16)>,
}

impl PolicyPod {
    /// From an object.
    pub fn of(pod: &Pod) -> Self {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let ended = matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
        let on_host = spec.is_some_and(|spec| spec.host_network == Some(true));
        let ips = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|ip| ip.ip.as_str());
        let ips = ips.chain(status.and_then(|status| status.pod_ip.as_deref()));
        let mut ips: Vec<Ipv4Addr> = ips.filter(|_| !ended && !on_host).filter_map(|ip| ip.parse().ok()).collect();
        ips.sort_unstable();
        ips.dedup();
        let sidecars = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let containers = spec.into_iter().flat_map(|spec| &spec.containers).chain(sidecars);
        let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            Some((port.name.clone().filter(|name| !name.is_empty())?, protocol, u16::try_from(port.container_port).ok()?))
        });
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ips,
            ports: ports.collect(),
        }
    }
}

/// What the cluster says.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// All policies.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// Labels of all namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// All pods.
    pub pods: Vec<Arc<PolicyPod>>,
}

/// A pod of this node that has a network of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Addresses given out to it.
    pub ips: Vec<Ipv4Addr>,
}
