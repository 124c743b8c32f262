//! Endpoints of Services with a selector, for clients that know no EndpointSlices.
//!
//! `plan` decides what the one object of a Service's name should say; `execute` writes it, and removes it with its
//! Service. Limits: 1,000 addresses, as in Kubernetes; what is more is left out and an annotation says so.

pub mod execute;
pub mod plan;

pub use execute::EndpointsController;
