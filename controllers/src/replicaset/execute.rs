//! Carries out what `plan` decided about a ReplicaSet or ReplicationController, and runs the two controllers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::informer::Informer;
use balsa_client::{Cause, Error, Object, Patch};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::{Metadata as _, Resource as _};
use k8s_openapi::api::core::v1::ReplicationController;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::observe;
use super::plan::{self, Action, Desired, Failure};
use crate::common::{Key, selector};
use crate::runtime::context::cause;
use crate::runtime::pod_control::owners_of;
use crate::runtime::slow_start::slow_start;
use crate::runtime::{Context, PodControl, Reconciler, Workers};

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
    control: PodControl,
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
            control: PodControl::new(&context),
            failures: Mutex::default(),
            flavour: std::marker::PhantomData,
        });
        let mut workers = Workers::default();
        let flights = controller.control.flights.clone();
        workers.feed(&informer, move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                flights.forget(old.metadata().uid.as_deref().unwrap_or_default());
            }
            change.object().map(|set| Key::of(set.metadata())).into_iter().collect()
        });
        let (flights, sets) = (controller.control.flights.clone(), informer.cache());
        workers.feed(&context.pods, move |change| {
            owners_of(change, F::Set::KIND, &flights, |namespace, pod| {
                let matching = sets.by_namespace(namespace).into_iter().filter(|set| {
                    selector::matches(&F::desired(set).selector, pod.metadata.labels.as_ref())
                });
                matching.map(|set| Key::of(set.metadata())).collect()
            })
        });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    async fn act(&self, set: &F::Set, desired: &Desired, action: Action, why: &Cause) -> Result<(), (&'static str, Error)> {
        match action {
            Action::Adopt { pod, patch } => {
                self.control.adopt(set, &pod, patch, why).await.map_err(|error| ("Adopt", error))
            }
            Action::Release { pod, patch } => {
                let patched = self.control.patch(&desired.owner.namespace, &pod, Patch::Merge(patch), why).await;
                patched.map_err(|error| ("Release", error))
            }
            Action::Create { pod, count } => {
                let (_, failure) = slow_start(count, || self.control.create(set, &pod, why)).await;
                // The namespace controller removes us in a moment.
                let failure = failure.filter(|error| !error.is_namespace_terminating());
                failure.map_or(Ok(()), |error| Err(("FailedCreate", error)))
            }
            Action::Delete { pod, uid } => {
                self.control.delete(set, &pod, &uid, why).await.map_err(|error| ("FailedDelete", error))
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
            observe::observe(&self.control, &desired, set.metadata(), failure.clone(), now).await?;
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
