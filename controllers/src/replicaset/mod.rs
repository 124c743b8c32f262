//! ReplicaSet and ReplicationController: as many pods of one template as `spec.replicas` says.
//!
//! `observe` turns either kind and the pods of its namespace into plain data, `plan` decides, `execute` writes. A pod
//! that is terminating or finished is no replica; a pod that matches the selector and that nobody controls is adopted;
//! one of ours that stops matching is released. What we created or deleted and the cache does not show yet is part of
//! the observation, so that a stale cache never leads to a second pod for one slot.
//!
//! Limits: at most 500 pods are created or deleted per round.

pub mod execute;
pub mod observe;
pub mod plan;
pub mod rank;
pub mod status;

pub use execute::{Controller, Flavour, ReplicaSets, ReplicationControllers};

#[cfg(test)]
mod tests;
