//! Removes pods that no node agent will ever remove: those of nodes that no longer exist, terminating ones that never
//! got a node, finished ones beyond a threshold, and terminating ones on nodes marked out of service.
//!
//! A node has to be missing for a while, and is looked up live, before its pods are removed by force.

pub mod execute;
pub mod observe;
pub mod plan;

pub use execute::PodGc;
