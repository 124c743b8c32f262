//! Services on a node: what kube-proxy does, as one nftables table that the agent replaces.
//!
//! ```text
//!  services + slices + this node ── plan ──▶ Plan (maps, chains, affinity sets) ── text ──▶ one `nft -f`
//! ```
//!
//! - [`backends`]: which endpoints of a Service are used here: ready ones; where there are none, those that are
//!   terminating and still serve; by topology hints; local ones for the policy `Local`. (kube-proxy's rules.)
//! - [`plan`]: what happens to a packet for a cluster IP, an external address, a load balancer's or a node port.
//! - [`text`]: the plan in nft's language, to replace the table or to update it with its affinity kept.
//! - [`conntrack`]: which UDP flows still lead to endpoints that are gone; the kernel is told to forget those.
//!
//! A packet's way: `nat prerouting` (from pods and from outside) or `nat output` (from the node itself) looks up
//! destination, protocol and port, and goes to a chain of the Service, which picks an endpoint. Only the first packet of
//! a flow comes here; the kernel treats the others alike. What has no endpoint is refused in the `filter` hooks, because
//! `reject` does not exist in `nat`.
//!
//! The source address stays what it was, except where the answer would not find its way back: from outside the pod
//! network to a cluster IP or through a node port to any node's endpoint (policy `Cluster`), and from a pod to itself.
//!
//! # Limits
//! IPv4. No `healthCheckNodePort`. Node ports do not answer on 127.0.0.1.

pub mod backends;
pub mod conntrack;
pub mod plan;
pub mod text;

#[cfg(test)]
pub(super) mod tests;
