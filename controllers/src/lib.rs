//! What retries, replaces and cleans up: the controllers of Balsa.
//!
//! Each controller is a folder: `mod.rs` (what it is about), `observe.rs` (looks, gives plain data), `plan.rs` (pure:
//! decides), `execute.rs` (writes, no policy). [`manager`] says which of them run; [`runtime`] is the loop they share;
//! [`common`] the rules they share.

#![forbid(unsafe_code)]

#[cfg(test)]
mod cluster_tests;
pub mod common;
pub mod config;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod garbage_collector;
pub mod job;
pub mod manager;
pub mod metrics;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod replicaset;
pub mod resource_quota;
pub mod runtime;
pub mod service_account;
#[cfg(test)]
pub mod testing;

pub use config::Config;
pub use manager::run;
