//! The node agent.
pub mod network;
pub mod runtime;
