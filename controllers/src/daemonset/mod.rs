//! DaemonSet: one pod on every node that fits, and no other.
//!
//! Which nodes fit is decided here (`fit.rs`), by node selector, affinity and taints; each pod is then made for one
//! node by a node affinity on its name, and placed by the scheduler like any other. A rolling update takes pods down
//! (`maxUnavailable`) or puts second ones beside them (`maxSurge`). While a creation is not in the cache yet nothing
//! else is started, so that no node gets a second pod by mistake.
//!
//! Limits: at most 250 pods are created or deleted per round.

pub mod execute;
pub mod fit;
pub mod plan;
pub mod rolling;
pub mod status;

pub use execute::DaemonSets;

#[cfg(test)]
mod tests;
