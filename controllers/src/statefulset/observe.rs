//! What there is for a StatefulSet: pods, revisions and claims, as the caches show them.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_client::Error;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::identity::{claim_name, ordinal};
use super::plan::Observed;
use crate::common::{owners, pods, selector};
use crate::runtime::PodControl;
use crate::runtime::context::{controlled_by, uncontrolled_in};

/// Looks at the caches, and live at creations that stay unconfirmed.
pub async fn observe(control: &PodControl, set: &StatefulSet, now: Timestamp) -> Result<Observed, Error> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let spec = set.spec.clone().unwrap_or_default();
    control.look_at_doubtful(namespace, uid, now).await?;
    let (created, deletes_in_flight) = control.flights.of(uid, now);
    let cache = control.context.pods.cache();
    let mut own: Vec<Arc<Pod>> = cache.by_index(&controlled_by(uid));
    for pod in &own {
        control.flights.seen(&pod.metadata, false);
    }
    let creates_in_flight = created.iter().filter(|uid| !own.iter().any(|pod| pods::uid(pod) == uid.as_str())).count();
    let orphans = cache.by_index(&uncontrolled_in(namespace));
    own.extend(orphans.into_iter().filter(|pod| selector::matches(&spec.selector, pod.metadata.labels.as_ref())));
    own.sort_by(|a, b| pods::name(a).cmp(pods::name(b)));

    let mut revisions = control.context.controller_revisions.cache().by_namespace(namespace);
    revisions.retain(|revision| match owners::controller_of(&revision.metadata) {
        Some(reference) => reference.uid == uid,
        None => selector::matches(&spec.selector, revision.metadata.labels.as_ref()),
    });

    let mut claims = BTreeMap::new();
    let templates = spec.volume_claim_templates.unwrap_or_default();
    if !templates.is_empty() {
        let start = spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0);
        let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1).max(0));
        let known = own.iter().filter_map(|pod| ordinal(name, pods::name(pod)));
        let cache = control.context.volume_claims.cache();
        for at in wanted.clone().chain(known.filter(|at| !wanted.contains(at))) {
            for claim in templates.iter().filter_map(|one| cache.get(namespace, &claim_name(name, one, at))) {
                claims.insert(claim.metadata.name.clone().unwrap_or_default(), claim);
            }
        }
    }
    Ok(Observed { pods: own, revisions, claims, creates_in_flight, deletes_in_flight })
}
