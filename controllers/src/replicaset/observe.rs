//! What a ReplicaSet or ReplicationController asks for and what there is, as plain data.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_client::Object;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::plan::{Desired, Failure, Observed};
use crate::common::owners::{self, Owner};
use crate::common::{pods, selector};
use crate::runtime::context::{controlled_by, uncontrolled_in};
use crate::runtime::{Context, PodControl};

fn owner<K: Object>(object: &K) -> Owner {
    let meta = object.metadata();
    Owner {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// What a ReplicaSet asks for.
pub fn replica_set(set: &ReplicaSet) -> Desired {
    let spec = set.spec.clone().unwrap_or_default();
    Desired {
        owner: owner(set),
        generation: set.metadata.generation,
        replicas: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        selector: spec.selector,
        template: spec.template.unwrap_or_default(),
        deleting: set.metadata.deletion_timestamp.is_some(),
        status: set.status.clone().unwrap_or_default(),
    }
}

/// What a ReplicationController asks for, in the words of a ReplicaSet.
pub fn replication_controller(controller: &ReplicationController) -> Desired {
    let spec = controller.spec.clone().unwrap_or_default();
    let status = controller.status.clone().unwrap_or_default();
    let condition = |condition: ReplicationControllerCondition| ReplicaSetCondition {
        type_: condition.type_,
        status: condition.status,
        reason: condition.reason,
        message: condition.message,
        last_transition_time: condition.last_transition_time,
    };
    let template = spec.template.unwrap_or_default();
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    Desired {
        owner: owner(controller),
        generation: controller.metadata.generation,
        replicas: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        selector: selector::exactly(&spec.selector.or(labels).unwrap_or_default()),
        template,
        deleting: controller.metadata.deletion_timestamp.is_some(),
        status: ReplicaSetStatus {
            replicas: status.replicas,
            available_replicas: status.available_replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            observed_generation: status.observed_generation,
            terminating_replicas: None,
            conditions: status.conditions.map(|conditions| conditions.into_iter().map(condition).collect()),
        },
    }
}

/// The status of a ReplicationController from that of a ReplicaSet.
pub fn controller_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let condition = |condition: ReplicaSetCondition| ReplicationControllerCondition {
        type_: condition.type_,
        status: condition.status,
        reason: condition.reason,
        message: condition.message,
        last_transition_time: condition.last_transition_time,
    };
    ReplicationControllerStatus {
        replicas: status.replicas,
        available_replicas: status.available_replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        observed_generation: status.observed_generation,
        conditions: status.conditions.map(|conditions| conditions.into_iter().map(condition).collect()),
    }
}

/// Active pods per node of all ReplicaSets with the same controller as this one.
fn related_per_node(context: &Context, meta: &ObjectMeta) -> BTreeMap<String, usize> {
    let own = meta.uid.clone().unwrap_or_default();
    let mut uids = vec![own.clone()];
    if let Some(controller) = owners::controller_of(meta) {
        let siblings = context.replica_sets.cache().by_namespace(meta.namespace.as_deref().unwrap_or_default());
        let siblings = siblings.iter().filter(|set| owners::is_controlled_by(&set.metadata, &controller.uid));
        uids.extend(siblings.filter_map(|set| set.metadata.uid.clone()).filter(|uid| *uid != own));
    }
    let mut per_node = BTreeMap::new();
    for pod in uids.iter().flat_map(|uid| context.pods.cache().by_index(&controlled_by(uid))) {
        if pods::is_active(&pod) && !pods::node(&pod).is_empty() {
            *per_node.entry(pods::node(&pod).to_owned()).or_default() += 1;
        }
    }
    per_node
}

/// Looks at the caches, and live at creations that stay unconfirmed.
pub async fn observe(
    control: &PodControl,
    desired: &Desired,
    meta: &ObjectMeta,
    failure: Option<Failure>,
    now: Timestamp,
) -> Result<Observed, balsa_client::Error> {
    let owner = &desired.owner;
    let (context, flights) = (&control.context, &control.flights);
    control.look_at_doubtful(&owner.namespace, &owner.uid, now).await?;
    let (created, deletes_in_flight) = flights.of(&owner.uid, now);
    let cache = context.pods.cache();
    let mut own: Vec<Arc<Pod>> = cache.by_index(&controlled_by(&owner.uid));
    for pod in &own {
        flights.seen(&pod.metadata, false);
    }
    let creates_in_flight = created.iter().filter(|uid| !own.iter().any(|pod| pods::uid(pod) == uid.as_str())).count();
    let orphans = cache.by_index(&uncontrolled_in(&owner.namespace));
    own.extend(orphans.into_iter().filter(|pod| selector::matches(&desired.selector, pod.metadata.labels.as_ref())));
    own.sort_by(|a, b| pods::name(a).cmp(pods::name(b)));
    let related_per_node = related_per_node(context, meta);
    Ok(Observed { pods: own, creates_in_flight, deletes_in_flight, related_per_node, failure })
}
