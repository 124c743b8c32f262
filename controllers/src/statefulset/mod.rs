//! StatefulSet: pods with names, in order, each with claims of its own.
//!
//! A pod's name is its ordinal, so that the apiserver itself refuses a second pod of one. Ordered sets take one step at
//! a time and only while every lower ordinal is available; parallel sets take all at once. Updates replace pods from
//! the highest ordinal down to the partition. Templates are kept as ControllerRevisions. While a creation is not in the
//! cache yet nothing else is started, and what we deleted counts as terminating whatever the cache says.

pub mod claims;
pub mod execute;
pub mod identity;
pub mod observe;
pub mod plan;
pub mod status;

pub use execute::StatefulSets;

#[cfg(test)]
mod tests;
