//! Deletes what has lost its last owner, and keeps the promises of foreground and orphaning deletion.
//!
//! `graph.rs` holds who names whom as owner, over every kind that can be watched (metadata only), and says which
//! objects deserve a look after a change. `plan.rs` decides about one object from live facts: an owner counts as absent
//! only after the apiserver said so, or answered with another UID under its name.
//!
//! - background: the owner is gone, its dependents follow;
//! - foreground (finalizer `foregroundDeletion`): dependents first; those with `blockOwnerDeletion` hold the owner;
//! - orphan (finalizer `orphan`): the references are taken off the dependents, then the owner goes;
//! - a circle of objects that wait for each other is broken by unblocking the one that was asked last.
//!
//! Custom resources come and go: `custom.rs` follows those that definitions make.
//!
//! Limits: an owner of a kind that this API does not serve is neither present nor absent: its dependents stay. Events
//! are never collected (they end by their own time to live).

mod custom;
pub mod execute;
pub mod graph;
pub mod observe;
pub mod plan;

pub use execute::GarbageCollector;

#[cfg(test)]
mod tests;
