//! What there is for a Deployment: its ReplicaSets and, per ReplicaSet, the pods that still hold on.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::jiff::Timestamp;

use super::plan::{CreateFailure, Observed};
use crate::common::{owners, pods, selector};
use crate::runtime::context::controlled_by;
use crate::runtime::{Context, Flights};

/// Looks at the caches.
pub async fn observe(
    context: &Context,
    flights: &Flights,
    deployment: &Deployment,
    failure: Option<CreateFailure>,
    now: Timestamp,
) -> Result<Observed, balsa_client::Error> {
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    for (set_uid, name) in flights.doubtful(uid, now) {
        match context.client.get::<ReplicaSet>(namespace, &name).await {
            Ok(set) if set.metadata.uid.as_deref() == Some(set_uid.as_str()) => {}
            Ok(_) => flights.confirm(uid, &set_uid, true),
            Err(error) if error.is_not_found() => flights.confirm(uid, &set_uid, true),
            Err(error) => return Err(error),
        }
    }
    let (created, _) = flights.of(uid, now);
    let wanted = deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
    let mut sets: Vec<Arc<ReplicaSet>> = context.replica_sets.cache().by_namespace(namespace);
    sets.retain(|set| match owners::controller_of(&set.metadata) {
        Some(reference) => reference.uid == uid,
        None => selector::matches(&wanted, set.metadata.labels.as_ref()),
    });
    sets.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let seen = |uid: &String| sets.iter().any(|set| set.metadata.uid.as_ref() == Some(uid));
    let create_in_flight = created.iter().any(|uid| !seen(uid));
    let pods_of = |set: &Arc<ReplicaSet>| {
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let pods = context.pods.cache().by_index(&controlled_by(&uid));
        (uid, pods.iter().filter(|pod| !pods::is_finished(pod)).count())
    };
    let pods_per_set = sets.iter().map(pods_of).collect();
    for set in &sets {
        flights.seen(&set.metadata, false);
    }
    Ok(Observed { sets, pods_per_set, create_in_flight, failure })
}
