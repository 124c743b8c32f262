//! PodDisruptionBudget status: how many of its pods may be disrupted now.
//!
//! `observe` finds the pods and what their controllers want, `plan` counts, `execute` writes. The eviction subresource of
//! the API server takes from `disruptionsAllowed` and notes whom it evicts; here both are put right.
//!
//! Limits: the scale of controllers is known for ReplicaSets, Deployments, ReplicationControllers and StatefulSets.

pub mod execute;
pub mod observe;
pub mod plan;

pub use execute::Disruption;
