//! Writes the status that `plan` decided on.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::Error;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use tokio_util::sync::CancellationToken;

use super::{observe, plan};
use crate::common::{Key, Note, owners, pods};
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers};

/// The disruption controller.
pub struct Disruption {
    context: Context,
}

impl Disruption {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.disruption_budgets.synced().await;
                context.pods.synced().await;
                context.replica_sets.synced().await;
                context.replication_controllers.synced().await;
                context.deployments.synced().await;
            } => {}
        }
        let controller = Arc::new(Self { context: context.clone() });
        let mut workers = Workers::default();
        workers.feed(&context.disruption_budgets, |change| change.new.iter().map(|budget| Key::of(&budget.metadata)).collect());
        let own = context.clone();
        workers.feed(&context.pods, move |change| {
            let same = match (&change.old, &change.new) {
                (Some(old), Some(new)) => {
                    old.metadata.labels == new.metadata.labels
                        && pods::is_ready(old) == pods::is_ready(new)
                        && pods::is_terminating(old) == pods::is_terminating(new)
                        && old.metadata.owner_references == new.metadata.owner_references
                }
                _ => false,
            };
            if same {
                return Vec::new();
            }
            [&change.old, &change.new].into_iter().flatten().flat_map(|pod| observe::budgets_of(&own, pod)).collect()
        });
        // A controller that is scaled changes what is expected.
        let own = context.clone();
        workers.feed(&context.replica_sets, move |change| {
            let wanted = |set: &Option<Arc<k8s_openapi::api::apps::v1::ReplicaSet>>| set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
            if wanted(&change.old) == wanted(&change.new) {
                return Vec::new();
            }
            let uid = change.object().and_then(|set| set.metadata.uid.clone()).unwrap_or_default();
            budgets_controlled_by(&own, &uid)
        });
        let own = context.clone();
        workers.feed(&context.replication_controllers, move |change| {
            let uid = change.object().and_then(|controller| controller.metadata.uid.clone()).unwrap_or_default();
            budgets_controlled_by(&own, &uid)
        });
        let own = context.clone();
        workers.feed(&context.deployments, move |change| {
            let Some(deployment) = change.object() else { return Vec::new() };
            let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
            let sets = own.replica_sets.cache().by_namespace(deployment.metadata.namespace.as_deref().unwrap_or_default());
            let sets = sets.iter().filter(|set| owners::is_controlled_by(&set.metadata, uid));
            sets.flat_map(|set| budgets_controlled_by(&own, set.metadata.uid.as_deref().unwrap_or_default())).collect()
        });
        workers.run(controller, 2, &context.metrics, &stop).await;
    }
}

/// The budgets of the pods that `uid` controls. One pod stands for all: they have the labels of one template.
fn budgets_controlled_by(context: &Context, uid: &str) -> Vec<Key> {
    let pods = context.pods.cache().by_index(&crate::runtime::context::controlled_by(uid));
    pods.first().map(|pod| observe::budgets_of(context, pod)).unwrap_or_default()
}

impl Reconciler for Disruption {
    type Key = Key;
    const NAME: &'static str = "disruption";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(budget) = self.context.disruption_budgets.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        let observed = observe::observe(&self.context, &budget).await?;
        let outcome = plan::plan(&budget, &observed);
        for name in &outcome.not_deleted {
            if let Some(pod) = observed.pods.iter().find(|pod| pods::name(pod) == name) {
                let text = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                self.context.note(&**pod, &Note::warning("NotDeleted", text));
            }
        }
        if let Some(status) = outcome.plan.status.clone() {
            let why = cause(Self::NAME, &outcome.plan.cause(), &budget.metadata);
            outcome.notes.iter().for_each(|note| self.context.note(&*budget, note));
            let mut budget = PodDisruptionBudget::clone(&budget);
            budget.status = Some(status);
            match self.context.client.update_status(&budget, &why).await {
                Err(error) if error.is_not_found() => return Ok(None),
                other => drop(other?),
            }
        }
        Ok(outcome.plan.requeue_after)
    }
}
