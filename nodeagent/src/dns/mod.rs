//! The cluster's DNS, answered on every node by its own agent, by Kubernetes' DNS specification 1.1.
//!
//! ```text
//!  pod ─ 10.96.0.10:53 ─▶ an address of the node's loopback ─▶ server ─┬▶ zone: Services, endpoints, pods (pure)
//!                                                                     └▶ the node's own resolvers, for all else
//! ```
//!
//! - [`zone`]: what names mean, over a snapshot of Services, slices and namespaces.
//! - [`wire`]: messages as bytes (RFC 1035, EDNS of RFC 6891).
//! - [`server`]: sockets, aliases that lead outside, questions that are passed on.
//!
//! The Service `kube-system/kube-dns` has the address, so that clients find it, and no endpoints: the address belongs to
//! each node, which is why a node that is cut off still resolves, and why no policy can take DNS away from a pod.
//!
//! # Limits
//! No DNSSEC of its own, no zone transfers, no cache of what others answered. Of reverse names those of IPv4 are known.

pub mod server;
pub mod wire;
pub mod zone;

#[cfg(test)]
mod tests;
