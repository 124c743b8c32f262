//! A Service and what is behind it, from the caches.

use std::sync::Arc;

use super::plan::{MANAGER, Observed};
use crate::common::endpoints::{MANAGED_BY, SERVICE_NAME};
use crate::common::{Key, pods, selector};
use crate::runtime::Context;

/// Looks at the caches.
pub fn observe(context: &Context, key: &Key) -> Observed {
    let service = context.services.cache().get(&key.namespace, &key.name);
    let wanted = service.as_ref().and_then(|service| service.spec.as_ref()?.selector.clone());
    let mut observed = Observed { service, ..Observed::default() };
    let labelled = |labels: &Option<selector::Labels>, label: &str, value: &str| {
        labels.as_ref().and_then(|labels| labels.get(label)).is_some_and(|own| own == value)
    };
    observed.slices = context.endpoint_slices.cache().by_namespace(&key.namespace);
    observed.slices.retain(|slice| {
        let labels = &slice.metadata.labels;
        labelled(labels, SERVICE_NAME, &key.name) && labelled(labels, MANAGED_BY, MANAGER)
    });
    let Some(wanted) = wanted else { return observed };
    observed.pods = context.pods.cache().by_namespace(&key.namespace);
    observed.pods.retain(|pod| selector::covers(pod.metadata.labels.as_ref(), Some(&wanted)));
    let nodes = context.nodes.cache();
    for node in observed.pods.iter().filter_map(|pod| nodes.get("", pods::node(pod))) {
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get("topology.kubernetes.io/zone"));
        observed.zones.insert(node.metadata.name.clone().unwrap_or_default(), zone.cloned().unwrap_or_default());
    }
    observed
}

/// The Services that select the labels.
pub fn services_of(context: &Context, namespace: &str, labels: Option<&selector::Labels>) -> Vec<Key> {
    let selects = |wanted: &selector::Labels| !wanted.is_empty() && selector::covers(labels, Some(wanted));
    let services = context.services.cache().by_namespace(namespace);
    let fitting = services.iter().filter(|service| {
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(selects)
    });
    fitting.map(|service: &Arc<_>| Key::of(&service.metadata)).collect()
}
