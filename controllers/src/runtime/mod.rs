//! What runs the reconcilers: shared informers, work queues, workers, memory of unconfirmed writes. No policy.

pub mod context;
pub mod definitions;
pub mod flights;
pub mod pod_control;
pub mod reconcile;
pub mod slow_start;
pub mod written;

pub use context::Context;
pub use flights::Flights;
pub use pod_control::PodControl;
pub use reconcile::{Reconciler, Workers};
pub use written::Written;
