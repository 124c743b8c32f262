//! Nodes that fall silent, and what becomes of their pods.
//!
//! | question | file |
//! |---|---|
//! | is a node silent; its conditions and taints; its pods not ready | `plan.rs` |
//! | how many nodes may lose their pods now (zones, full disruption) | `disruption.rs` |
//! | when does a pod have to leave a tainted node | `eviction.rs` |
//!
//! A node speaks through its Lease and its status. What counts is when *we* last saw either change, by our own clock:
//! clocks of nodes do not matter, and a new leader gives every node a whole grace period. When every node is silent at
//! once the fault is more likely ours: then nobody is evicted, and NoExecute taints are taken off.
//!
//! Limits: deletion of pods by `node.kubernetes.io/out-of-service` is in `pod_gc`; Node objects are never deleted (no
//! cloud provider).

pub mod disruption;
pub mod eviction;
pub mod execute;
pub mod observe;
pub mod plan;

pub use execute::{NodeLifecycle, TaintEviction};

#[cfg(test)]
mod tests;
