//! EndpointSlices that repeat Endpoints which somebody wrote by hand, for a Service without a selector.
//!
//! Limits: 1,000 addresses per subset, as in Kubernetes; events say what was left out.

pub mod execute;
pub mod plan;

pub use execute::Mirroring;
