//! A budget's pods, and what their controllers want.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_client::Error;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::plan::Observed;
use crate::common::{Key, owners, selector};
use crate::runtime::Context;

/// Whether the budget is about the pod.
pub fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    wanted.is_some_and(|wanted| selector::matches(wanted, pod.metadata.labels.as_ref()))
}

/// The budgets that are about the pod.
pub fn budgets_of(context: &Context, pod: &Pod) -> Vec<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let budgets = context.disruption_budgets.cache().by_namespace(namespace);
    budgets.iter().filter(|budget| selects(budget, pod)).map(|budget| Key::of(&budget.metadata)).collect()
}

/// Looks at the caches; at the API server for controllers that are not cached.
pub async fn observe(context: &Context, budget: &PodDisruptionBudget) -> Result<Observed, Error> {
    let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
    let mut pods = context.pods.cache().by_namespace(namespace);
    pods.retain(|pod: &Arc<Pod>| selects(budget, pod));
    let mut scales = BTreeMap::new();
    for owner in pods.iter().filter_map(|pod| owners::controller_of(&pod.metadata)) {
        if !scales.contains_key(&owner.uid)
            && let Some(scale) = scale(context, namespace, owner).await?
        {
            scales.insert(owner.uid.clone(), scale);
        }
    }
    Ok(Observed { pods, scales, now: context.now() })
}

/// What a controller wants; of a ReplicaSet what its Deployment wants. `None`: it is not there, or has no scale.
async fn scale(context: &Context, namespace: &str, owner: &OwnerReference) -> Result<Option<i32>, Error> {
    let same = |uid: Option<&String>| uid == Some(&owner.uid);
    Ok(match (owner.kind.as_str(), owner.api_version.split('/').next().unwrap_or_default()) {
        ("ReplicaSet", "apps" | "extensions") => {
            let set = context.replica_sets.cache().get(namespace, &owner.name).filter(|set| same(set.metadata.uid.as_ref()));
            let Some(set) = set else { return Ok(None) };
            let deployment = owners::controller_of(&set.metadata).filter(|above| above.kind == "Deployment").and_then(|above| {
                let deployment = context.deployments.cache().get(namespace, &above.name)?;
                (deployment.metadata.uid.as_ref() == Some(&above.uid)).then_some(deployment)
            });
            let own = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            Some(deployment.map_or(own, |deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)))
        }
        ("ReplicationController", "v1") => {
            let found = context.replication_controllers.cache().get(namespace, &owner.name);
            let found = found.filter(|controller| same(controller.metadata.uid.as_ref()));
            found.map(|controller| controller.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
        }
        ("StatefulSet", "apps") => match context.client.get::<StatefulSet>(namespace, &owner.name).await {
            Ok(set) if same(set.metadata.uid.as_ref()) => Some(set.spec.and_then(|spec| spec.replicas).unwrap_or(1)),
            Ok(_) => None,
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
        _ => None,
    })
}
