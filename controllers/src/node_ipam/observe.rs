//! All nodes, and the ranges that were given out but are not seen yet.

use std::collections::BTreeMap;

use super::plan::{Cidr, Observed};
use crate::runtime::Context;

/// Looks at the cache; confirmed entries of `in_flight` are dropped.
pub fn observe(context: &Context, in_flight: &mut BTreeMap<String, Cidr>) -> Observed {
    let nodes = context.nodes.cache().list();
    in_flight.retain(|uid, _| {
        let node = nodes.iter().find(|node| node.metadata.uid.as_deref() == Some(uid));
        // A node that is gone gives its range back; one that shows its range speaks for itself.
        node.is_some_and(|node| node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none()))
    });
    Observed { nodes, in_flight: in_flight.clone() }
}
