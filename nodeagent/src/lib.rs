//! The node agent.
pub mod runtime;
