//! The components' way to the apiserver: typed and untyped client, informer, work queue, leader election, events.
//!
//! | what | where | decided in |
//! |---|---|---|
//! | one call: endpoints, fail-over, deadlines, errors | [`Client`] | `endpoints.rs`, `error.rs` |
//! | a kept copy of a list | [`informer::Informer`] | `informer/state.rs` |
//! | keys to work on, one worker per key, back-off | [`workqueue::WorkQueue`] | `workqueue/core.rs` |
//! | one leader among the copies of a process | [`leader::run`] | `leader/rules.rs` |
//! | Kubernetes events, aggregated | [`events::EventRecorder`] | `events/correlator.rs` |
//!
//! The deciding halves are pure; time, network and tasks are in the halves beside them.

#![forbid(unsafe_code)]

mod client;
mod endpoints;
mod error;
pub mod events;
pub mod informer;
pub mod leader;
mod object;
#[cfg(feature = "test-util")]
pub mod testing;
mod untyped;
mod watch;
pub mod workqueue;

pub use balsa_api::meta::GroupVersionResource;
pub use balsa_api::status::ApiError;

pub use crate::client::{Client, ClientConfig};
pub use crate::error::{Error, Result};
pub use crate::events::object_reference;
pub use crate::object::{
    Cause, Decode, DeleteOptions, Deleted, DynamicObject, ListOf, ListParams, Object, Patch, WatchEvent, WatchParams,
    resource_of, revision_of,
};
pub use crate::watch::WatchStream;
