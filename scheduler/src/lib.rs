//! Which node a pod goes to.
//!
//! | what | where |
//! |---|---|
//! | one pod, one decision (pure) | `cycle.rs`, with the plugins in `plugins/` |
//! | who is next, who waits for what (pure) | `queue.rs` |
//! | nodes and pods as the plugins see them | `model/` |
//! | watches in, bindings out | `driver.rs` |
//!
//! Limits: no preemption, no volume binding, one profile (`default-scheduler`).

#![forbid(unsafe_code)]

pub mod conditions;
pub mod cycle;
mod driver;
mod explain;
pub mod framework;
mod metrics;
pub mod model;
pub mod plugins;
pub mod queue;
mod service;

pub use self::service::{Config, run};
