//! Carries out what `plan` decided about a Deployment, and runs the controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Cause, DeleteOptions, Error, Patch};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::plan::{self, Action, CreateFailure};
use super::{observe, revision, scale};
use crate::common::{Key, Note, owners, selector};
use crate::runtime::context::cause;
use crate::runtime::{Context, Flights, Reconciler, Workers, Written};

const WORKERS: usize = 8;

/// The Deployment controller.
pub struct Deployments {
    context: Context,
    flights: Flights,
    failures: Mutex<BTreeMap<String, CreateFailure>>,
    /// Until the cache shows our writes to ReplicaSets, no sum of their sizes is to be trusted.
    written: Written,
}

impl Deployments {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.deployments.synced().await;
                context.replica_sets.synced().await;
                context.pods.synced().await;
            } => {}
        }
        let controller = Arc::new(Self {
            context: context.clone(),
            flights: Flights::default(),
            failures: Mutex::default(),
            written: Written::default(),
        });
        let mut workers = Workers::default();
        let flights = controller.flights.clone();
        workers.feed(&context.deployments, move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                flights.forget(old.metadata.uid.as_deref().unwrap_or_default());
            }
            change.object().map(|deployment| Key::of(&deployment.metadata)).into_iter().collect()
        });
        let (flights, deployments) = (controller.flights.clone(), context.deployments.cache());
        let written = controller.written.clone();
        workers.feed(&context.replica_sets, move |change| {
            if let Some(set) = change.object() {
                flights.seen(&set.metadata, change.new.is_none());
            }
            if let (Some(old), None) = (&change.old, &change.new) {
                written.forget(&old.metadata);
            }
            let mut keys = Vec::new();
            for set in change.old.iter().chain(&change.new) {
                let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                match owners::controller_of(&set.metadata) {
                    Some(reference) if reference.kind == "Deployment" => keys.push(Key::new(namespace, &reference.name)),
                    Some(_) => {}
                    None => keys.extend(matching(&deployments.by_namespace(namespace), set)),
                }
            }
            keys
        });
        // Recreate waits for the last old pod to be gone.
        let sets = context.replica_sets.cache();
        workers.feed(&context.pods, move |change| {
            let (Some(pod), None) = (&change.old, &change.new) else { return Vec::new() };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let set = owners::controller_of(&pod.metadata).and_then(|reference| sets.get(namespace, &reference.name));
            let owner = set.as_ref().and_then(|set| owners::controller_of(&set.metadata));
            owner.map(|reference| Key::new(namespace, &reference.name)).into_iter().collect()
        });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    async fn act(&self, deployment: &Deployment, action: Action, why: &Cause) -> Result<(), Error> {
        let client = &self.context.client;
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        match action {
            Action::Adopt { set, patch } => {
                let name = deployment.metadata.name.as_deref().unwrap_or_default();
                let live: Deployment = client.get(namespace, name).await?;
                if live.metadata.uid != deployment.metadata.uid || live.metadata.deletion_timestamp.is_some() {
                    return Ok(());
                }
                client.patch::<ReplicaSet>(namespace, &set, "", Patch::Merge(patch), why).await?;
            }
            Action::Release { set, patch } => {
                client.patch::<ReplicaSet>(namespace, &set, "", Patch::Merge(patch), why).await?;
            }
            Action::Create { set } => self.create(deployment, &set, why).await?,
            Action::Update { set, from } => {
                let updated = client.update(&*set, why).await?;
                self.written.note(&updated.metadata);
                let to = scale::size(&set);
                if to != from {
                    let name = set.metadata.name.as_deref().unwrap_or_default();
                    let direction = if to > from { "up" } else { "down" };
                    let text = format!("Scaled {direction} replica set {name} from {from} to {to}");
                    self.context.note(deployment, &Note::normal("ScalingReplicaSet", text));
                }
            }
            Action::Delete { set, uid, resource_version } => {
                let options = DeleteOptions {
                    uid: Some(uid),
                    resource_version: Some(resource_version),
                    ..DeleteOptions::default()
                };
                match client.delete::<ReplicaSet>(namespace, &set, options, why).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            Action::SetRevision { revision } => {
                let patch = json!({"metadata": {
                    "uid": deployment.metadata.uid,
                    "annotations": {revision::REVISION: revision.to_string()},
                }});
                let name = deployment.metadata.name.as_deref().unwrap_or_default();
                client.patch::<Deployment>(namespace, name, "", Patch::Merge(patch), why).await?;
            }
            Action::Note(note) => self.context.note(deployment, &note),
        }
        Ok(())
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet, why: &Cause) -> Result<(), Error> {
        let client = &self.context.client;
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let failure = match client.create(namespace, set, why).await {
            Ok(created) => {
                self.flights.created(&uid, &created.metadata, self.context.now());
                let size = scale::size(set);
                if size > 0 {
                    let text = format!("Scaled up replica set {name} from 0 to {size}");
                    self.context.note(deployment, &Note::normal("ScalingReplicaSet", text));
                }
                self.failures.lock().remove(&uid);
                return Ok(());
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) if error.is_already_exists() => {
                let live: ReplicaSet = client.get(namespace, name).await?;
                let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
                let ours = owners::is_controlled_by(&live.metadata, &uid);
                if ours && revision::same_template(&template(&live), &template(set)) {
                    // Ours from before; the cache will show it.
                    self.flights.created(&uid, &live.metadata, self.context.now());
                    return Ok(());
                }
                self.failures.lock().insert(uid, CreateFailure::Collision);
                return Err(error);
            }
            Err(error) => error,
        };
        let text = format!("Failed to create new replica set {name:?}: {failure}");
        self.context.note(deployment, &Note::warning("FailedCreate", text));
        self.failures.lock().insert(uid, CreateFailure::Refused(failure.to_string()));
        Err(failure)
    }

    async fn write_status(&self, deployment: &Deployment, status: DeploymentStatus, why: &Cause) -> Result<(), Error> {
        let collided = status.collision_count > deployment.status.as_ref().and_then(|status| status.collision_count);
        self.context.client.update_status(&Deployment { status: Some(status), ..deployment.clone() }, why).await?;
        if collided {
            self.failures.lock().remove(deployment.metadata.uid.as_deref().unwrap_or_default());
        }
        Ok(())
    }
}

fn matching(deployments: &[Arc<Deployment>], set: &ReplicaSet) -> Vec<Key> {
    let matches = |deployment: &&Arc<Deployment>| {
        let wanted = deployment.spec.as_ref().map(|spec| &spec.selector);
        wanted.is_some_and(|wanted| !selector::is_empty(wanted) && selector::matches(wanted, set.metadata.labels.as_ref()))
    };
    deployments.iter().filter(matches).map(|deployment| Key::of(&deployment.metadata)).collect()
}

impl Reconciler for Deployments {
    type Key = Key;
    const NAME: &'static str = "deployment";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(deployment) = self.context.deployments.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let now = self.context.now();
        let failure = self.failures.lock().get(&uid).cloned();
        let observed = observe::observe(&self.context, &self.flights, &deployment, failure, now).await?;
        if self.written.is_ahead_of(observed.sets.iter().map(|set| &set.metadata)) {
            return Ok(Some(Duration::from_secs(1)));
        }
        let mut plan = plan::plan(&deployment, &observed, now);
        let why = cause(Self::NAME, &plan.cause(), &deployment.metadata);
        // The revision is written to the Deployment itself, so it comes last: before, it would cost the status a conflict.
        let (own, others): (Vec<Action>, Vec<Action>) =
            std::mem::take(&mut plan.actions).into_iter().partition(|action| matches!(action, Action::SetRevision { .. }));
        let mut result = Ok(());
        for action in others {
            tracing::debug!(controller = Self::NAME, %key, %action);
            result = self.act(&deployment, action, &why).await;
            if result.is_err() {
                break;
            }
        }
        if result.is_err() {
            let failure = self.failures.lock().get(&uid).cloned();
            if failure != observed.failure {
                let again = plan::Observed { failure, ..observed };
                plan.status = plan::plan(&deployment, &again, now).status;
            }
        }
        if let Some(status) = plan.status {
            self.write_status(&deployment, status, &why).await?;
        }
        result?;
        for action in own {
            tracing::debug!(controller = Self::NAME, %key, %action);
            self.act(&deployment, action, &why).await?;
        }
        Ok(plan.requeue_after)
    }
}
