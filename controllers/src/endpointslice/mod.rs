//! EndpointSlices of Services with a selector: who is behind the Service, ready or not, where, at which ports.
//!
//! `observe` looks up the Service, the pods that it selects, their nodes and the slices there are; `plan` decides which
//! slices there should be; `execute` writes. A slice that was created and that the cache does not show yet is waited for,
//! so that a stale cache never leads to a second one.
//!
//! Limits: 100 endpoints per slice. No topology hints, no annotation of the time of the last change.

pub mod execute;
pub mod observe;
pub mod plan;
#[cfg(test)]
mod tests;

pub use execute::EndpointSlices;
