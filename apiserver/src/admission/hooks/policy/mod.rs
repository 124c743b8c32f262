//! Admission policies: expressions of the cluster's users that judge or change what is written.

pub mod compiled;
pub mod mutating;
pub mod params;
pub mod patch;
pub mod types;
pub mod validating;
