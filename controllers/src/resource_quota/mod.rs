//! ResourceQuota status: how much of what a namespace holds.
//!
//! The API server charges what is created at once; here everything is counted anew when something goes, ends or changes,
//! and every five minutes. Pods come from the shared cache; any other kind is watched from when the first quota names it.
//!
//! Limits: kinds that are not built in are not counted.

pub mod execute;
pub mod plan;

pub use execute::ResourceQuotas;
