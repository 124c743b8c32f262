//! Carries out what `plan` decided about a ReplicaSet or ReplicationController, and runs the two controllers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::informer::Informer;
use balsa_client::{Cause, DeleteOptions, Error, Object, Patch};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::{Metadata as _, Resource as _};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::observe;
use super::plan::{self, Action, Desired, Failure};
use crate::common::{Key, Note, owners, pods, selector};
use crate::runtime::context::cause;
use crate::runtime::slow_start::slow_start;
use crate::runtime::{Context, Flights, Reconciler, Workers};

/// Keys that are worked on at a time.
const WORKERS: usize = 8;

/// One of the two kinds that this controller serves.
pub trait Flavour: Send + Sync + 'static {
    /// The kind.
    type Set: Object;
    /// Name of the controller.
    const NAME: &'static str;
    /// Its informer.
    fn informer(context: &Context) -> &Informer<Self::Set>;
    /// What an object asks for.
    fn desired(set: &Self::Set) -> Desired;
    /// The object with another status.
    fn with_status(set: &Self::Set, status: ReplicaSetStatus) -> Self::Set;
}

/// ReplicaSets.
#[derive(Debug)]
pub struct ReplicaSets;

impl Flavour for ReplicaSets {
    type Set = ReplicaSet;
    const NAME: &'static str = "replicaset";
    fn informer(context: &Context) -> &Informer<ReplicaSet> {
        &context.replica_sets
    }
    fn desired(set: &ReplicaSet) -> Desired {
        observe::replica_set(set)
    }
    fn with_status(set: &ReplicaSet, status: ReplicaSetStatus) -> ReplicaSet {
        ReplicaSet { status: Some(status), ..set.clone() }
    }
}

/// ReplicationControllers.
#[derive(Debug)]
pub struct ReplicationControllers;

impl Flavour for ReplicationControllers {
    type Set = ReplicationController;
    const NAME: &'static str = "replicationcontroller";
    fn informer(context: &Context) -> &Informer<ReplicationController> {
        &context.replication_controllers
    }
    fn desired(set: &ReplicationController) -> Desired {
        observe::replication_controller(set)
    }
    fn with_status(set: &ReplicationController, status: ReplicaSetStatus) -> ReplicationController {
        ReplicationController { status: Some(observe::controller_status(status)), ..set.clone() }
    }
}

/// The controller of one flavour.
pub struct Controller<F> {
    context: Context,
    flights: Flights,
    /// Why the last round of writes failed, by UID of the set.
    failures: Mutex<BTreeMap<String, Failure>>,
    flavour: std::marker::PhantomData<F>,
}

impl<F: Flavour> Controller<F> {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        let informer = F::informer(&context).clone();
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { informer.synced().await; context.pods.synced().await; context.replica_sets.synced().await } => {}
        }
        let controller = Arc::new(Self {
            context: context.clone(),
            flights: Flights::default(),
            failures: Mutex::default(),
            flavour: std::marker::PhantomData,
        });
        let mut workers = Workers::default();
        let flights = controller.flights.clone();
        workers.feed(&informer, move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                flights.forget(old.metadata().uid.as_deref().unwrap_or_default());
            }
            change.object().map(|set| Key::of(set.metadata())).into_iter().collect()
        });
        let (flights, sets) = (controller.flights.clone(), informer.cache());
        workers.feed(&context.pods, move |change| {
            let mut keys = Vec::new();
            for (pod, gone) in [(&change.old, change.new.is_none()), (&change.new, false)] {
                let Some(pod) = pod else { continue };
                if gone || change.new.as_ref().is_some_and(|new| Arc::ptr_eq(new, pod)) {
                    flights.seen(&pod.metadata, gone);
                }
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                match owners::controller_of(&pod.metadata) {
                    Some(reference) if reference.kind == F::Set::KIND => keys.push(Key::new(namespace, &reference.name)),
                    Some(_) => {}
                    None => {
                        let matching = sets.by_namespace(namespace).into_iter().filter(|set| {
                            selector::matches(&F::desired(set).selector, pod.metadata.labels.as_ref())
                        });
                        keys.extend(matching.map(|set| Key::of(set.metadata())));
                    }
                }
            }
            keys
        });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    async fn act(&self, set: &F::Set, desired: &Desired, action: Action, why: &Cause) -> Result<(), (&'static str, Error)> {
        let client = &self.context.client;
        let owner = &desired.owner;
        match action {
            Action::Adopt { pod, patch } => {
                // The cache may not know yet that we are being deleted, or that another took our name.
                let live: F::Set = client.get(&owner.namespace, &owner.name).await.map_err(|error| ("Adopt", error))?;
                let meta = live.metadata();
                if meta.uid.as_deref() != Some(owner.uid.as_str()) || meta.deletion_timestamp.is_some() {
                    return Ok(());
                }
                self.patch(&owner.namespace, &pod, patch, why).await.map_err(|error| ("Adopt", error))
            }
            Action::Release { pod, patch } => {
                self.patch(&owner.namespace, &pod, patch, why).await.map_err(|error| ("Release", error))
            }
            Action::Create { pod, count } => self.create(set, desired, &pod, count, why).await,
            Action::Delete { pod, uid } => {
                let options = DeleteOptions { uid: Some(uid.clone()), ..DeleteOptions::default() };
                match client.delete::<Pod>(&owner.namespace, &pod, options, why).await {
                    Ok(_) => {
                        self.flights.deleted(&owner.uid, &uid, self.context.now());
                        self.context.note(set, &Note::normal("SuccessfulDelete", format!("Deleted pod: {pod}")));
                        Ok(())
                    }
                    Err(error) if error.is_not_found() => {
                        self.flights.deleted(&owner.uid, &uid, self.context.now());
                        Ok(())
                    }
                    Err(error) => {
                        self.context.note(set, &Note::warning("FailedDelete", format!("Error deleting: {error}")));
                        Err(("FailedDelete", error))
                    }
                }
            }
        }
    }

    async fn patch(&self, namespace: &str, pod: &str, patch: serde_json::Value, why: &Cause) -> Result<(), Error> {
        match self.context.client.patch::<Pod>(namespace, pod, "", Patch::Merge(patch), why).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn create(
        &self,
        set: &F::Set,
        desired: &Desired,
        pod: &Pod,
        count: usize,
        why: &Cause,
    ) -> Result<(), (&'static str, Error)> {
        let owner = &desired.owner;
        let (_, failure) = slow_start(count, || async {
            let created = self.context.client.create(&owner.namespace, pod, why).await?;
            self.flights.created(&owner.uid, &created.metadata, self.context.now());
            self.context.note(set, &Note::normal("SuccessfulCreate", format!("Created pod: {}", pods::name(&created))));
            Ok::<_, Error>(())
        })
        .await;
        match failure {
            None => Ok(()),
            // The namespace controller removes us in a moment.
            Some(error) if error.is_namespace_terminating() => Ok(()),
            Some(error) => {
                self.context.note(set, &Note::warning("FailedCreate", format!("Error creating: {error}")));
                Err(("FailedCreate", error))
            }
        }
    }

    async fn write_status(&self, set: &F::Set, status: ReplicaSetStatus, why: &Cause) -> Result<(), Error> {
        match self.context.client.update_status(&F::with_status(set, status), why).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl<F: Flavour> Reconciler for Controller<F> {
    type Key = Key;
    const NAME: &'static str = F::NAME;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = F::informer(&self.context).cache().get(&key.namespace, &key.name) else { return Ok(None) };
        let desired = F::desired(&set);
        let uid = desired.owner.uid.clone();
        let failure = self.failures.lock().get(&uid).cloned();
        let now = self.context.now();
        let observed =
            observe::observe(&self.context, &self.flights, &desired, set.metadata(), failure.clone(), now).await?;
        let mut plan = plan::plan(&desired, &observed, now);
        let why = cause(F::NAME, &plan.cause(), set.metadata());
        let mut failed = None;
        for action in std::mem::take(&mut plan.actions) {
            tracing::debug!(controller = F::NAME, %key, %action);
            if let Err(error) = self.act(&set, &desired, action, &why).await {
                failed = failed.or(Some(error));
            }
        }
        let latest = failed.as_ref().filter(|(reason, _)| reason.starts_with("Failed"));
        let latest = latest.map(|(reason, error)| Failure { reason, message: error.to_string() });
        if latest != failure {
            // The condition follows the writes just made.
            let again = plan::Observed { failure: latest.clone(), ..observed };
            plan.status = plan::plan(&desired, &again, now).status;
            let mut failures = self.failures.lock();
            match latest {
                Some(failure) => failures.insert(uid, failure),
                None => failures.remove(&uid),
            };
        }
        if let Some(status) = plan.status {
            self.write_status(&set, status, &why).await?;
        }
        match failed {
            Some((_, error)) => Err(error),
            None => Ok(plan.requeue_after),
        }
    }
}
