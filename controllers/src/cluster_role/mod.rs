//! ClusterRoles that are sums of others: `rules` of a role with an `aggregationRule` are those of all roles that its
//! label selectors choose.

pub mod execute;
pub mod observe;
pub mod plan;

pub use execute::ClusterRoles;
