//! Deployment: replaces the pods of one template by those of the next, a ReplicaSet per template.
//!
//! | question | file |
//! |---|---|
//! | which ReplicaSet is the new one, its name, its revision | `revision.rs` |
//! | how far a rolling update goes now | `rolling.rs` |
//! | how a resize is spread over several ReplicaSets | `scale.rs` |
//! | status, Available, Progressing, the deadline | `progress.rs` |
//! | what happens at all (paused, recreate, history) | `plan.rs` |
//!
//! A Deployment never touches pods: it changes `spec.replicas` of its ReplicaSets, each change with the
//! resourceVersion that the decision was made on, so a stale cache ends in a conflict and another look. The name of a
//! new ReplicaSet is a function of the template, so it cannot be created twice.
//!
//! `kubectl rollout undo` patches the template back; the old ReplicaSet is then found to be the new one and gets the
//! next revision.

pub mod execute;
pub mod fence;
pub mod observe;
pub mod plan;
pub mod progress;
pub mod revision;
pub mod rolling;
pub mod scale;

pub use execute::Deployments;

#[cfg(test)]
mod tests;
