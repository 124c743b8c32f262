//! A ClusterRole and all others, from the cache.

use super::plan::Observed;
use crate::runtime::Context;

/// Looks at the cache.
pub fn observe(context: &Context, name: &str) -> Observed {
    let cache = context.cluster_roles.cache();
    Observed { role: cache.get("", name), all: cache.list() }
}
