//! What every process of Balsa needs and none of them is about: identity, logging, health and metrics ports,
//! shutdown, back-off.
//!
//! Nothing here knows Kubernetes objects or the store.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod identity;
pub mod observe;
pub mod pki;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
