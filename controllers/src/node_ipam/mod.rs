//! A slice of the cluster's address range for every node: `spec.podCIDR`, a /24 out of `--cluster-cidr`.
//!
//! The Node objects are the only record of what is given out, so nothing is lost with this process. One loop gives out
//! all ranges, and remembers what it wrote until the cache shows it; `spec.podCIDR` cannot be changed once it is set.
//!
//! Limits: IPv4 only.

pub mod execute;
pub mod observe;
pub mod plan;

pub use execute::NodeIpam;
