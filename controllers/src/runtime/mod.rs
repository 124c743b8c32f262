//! What runs the reconcilers: shared informers, work queues, workers, memory of unconfirmed writes. No policy.

pub mod context;
pub mod definitions;
pub mod flights;
pub mod reconcile;
pub mod slow_start;

pub use context::Context;
pub use flights::Flights;
pub use reconcile::{Reconciler, Workers};
