//! The node agent: the pods of one node, as real containers.
//!
//! - [`pod`]: a pod's life, decided by a pure planner, carried out by one worker per pod
//! - [`probe`], [`volume`], [`env`]: what containers need while they live
//! - [`node`]: the Node object, its lease, and whether the node takes a pod
//! - [`network`]: pods' addresses, Services and network policies on the node; [`dns`]: the cluster's names
//! - [`runtime`]: the container engine behind a trait
//! - [`server`]: what the apiserver asks of this node: logs, exec, attach, port-forward, stats
//!
//! It knows the apiserver and the engine; never the store.

pub mod api;
pub mod clock;
pub mod quantity;

pub mod env;
pub mod pod;
pub mod probe;
pub mod volume;

pub mod node;

pub mod dns;
pub mod network;
pub mod runtime;
pub mod server;

pub mod config;
mod service;

pub use crate::config::Config;
pub use crate::service::run;
