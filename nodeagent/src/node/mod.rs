//! The node itself: its object, its lease, and whether it takes a pod.

pub mod admission;
pub mod agent;
pub mod facts;
pub mod holder;
pub mod status;
pub mod traffic;
