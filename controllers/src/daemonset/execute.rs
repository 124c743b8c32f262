//! Looks for and carries out what `plan` decided about a DaemonSet, and runs the controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balsa_client::informer::Change;
use balsa_client::{Cause, Error, Patch};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::plan::{self, Action, Observed, Retry};
use crate::common::{Key, owners, pods, selector};
use crate::runtime::context::{cause, controlled_by, uncontrolled_in};
use crate::runtime::pod_control::owners_of;
use crate::runtime::revision_control::{self, Outcome};
use crate::runtime::slow_start::slow_start;
use crate::runtime::{Context, PodControl, Reconciler, Workers, Written};

const WORKERS: usize = 4;

/// The DaemonSet controller.
pub struct DaemonSets {
    context: Context,
    control: PodControl,
    written: Written,
    /// How long failed pods of a node are left alone, by UID of the set and node.
    retries: Arc<Mutex<BTreeMap<String, BTreeMap<String, Retry>>>>,
}

fn matching(sets: &[Arc<DaemonSet>], labels: Option<&selector::Labels>) -> Vec<Key> {
    let wants = |set: &&Arc<DaemonSet>| {
        let wanted = set.spec.as_ref().map(|spec| &spec.selector);
        wanted.is_some_and(|wanted| !selector::is_empty(wanted) && selector::matches(wanted, labels))
    };
    sets.iter().filter(wants).map(|set| Key::of(&set.metadata)).collect()
}

/// Whether a change of a node can make a difference to which pods it should have: not its heartbeat.
fn concerns_placement(change: &Change<Node>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
}

impl DaemonSets {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.daemon_sets.synced().await;
                context.pods.synced().await;
                context.nodes.synced().await;
                context.controller_revisions.synced().await;
            } => {}
        }
        let controller = Arc::new(Self {
            context: context.clone(),
            control: PodControl::new(&context),
            written: Written::default(),
            retries: Arc::default(),
        });
        let mut workers = Workers::default();
        let (flights, written, retries) =
            (controller.control.flights.clone(), controller.written.clone(), controller.retries.clone());
        workers.feed(&context.daemon_sets, move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                let uid = old.metadata.uid.as_deref().unwrap_or_default();
                flights.forget(uid);
                retries.lock().remove(uid);
                written.forget(&old.metadata);
            }
            change.object().map(|set| Key::of(&set.metadata)).into_iter().collect()
        });
        let (flights, sets) = (controller.control.flights.clone(), context.daemon_sets.cache());
        workers.feed(&context.pods, move |change| {
            owners_of(change, "DaemonSet", &flights, |namespace, pod| {
                matching(&sets.by_namespace(namespace), pod.metadata.labels.as_ref())
            })
        });
        let sets = context.daemon_sets.cache();
        workers.feed(&context.nodes, move |change| {
            if !concerns_placement(change) {
                return Vec::new();
            }
            sets.list().iter().map(|set| Key::of(&set.metadata)).collect()
        });
        let sets = context.daemon_sets.cache();
        workers.feed(&context.controller_revisions, move |change| {
            let Some(revision) = change.object() else { return Vec::new() };
            let namespace = revision.metadata.namespace.as_deref().unwrap_or_default();
            match owners::controller_of(&revision.metadata) {
                // One that comes or changes is our own doing, or tells nothing new until the set changes.
                Some(reference) if reference.kind == "DaemonSet" && change.new.is_none() => {
                    vec![Key::new(namespace, &reference.name)]
                }
                Some(_) => Vec::new(),
                None => matching(&sets.by_namespace(namespace), revision.metadata.labels.as_ref()),
            }
        });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    async fn observe(&self, set: &DaemonSet, now: Timestamp) -> Result<Observed, Error> {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let wanted = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        self.control.look_at_doubtful(namespace, uid, now).await?;
        let (created, deletes_in_flight) = self.control.flights.of(uid, now);
        let cache = self.context.pods.cache();
        let mut own: Vec<Arc<Pod>> = cache.by_index(&controlled_by(uid));
        for pod in &own {
            self.control.flights.seen(&pod.metadata, false);
        }
        let creates_in_flight = created.iter().filter(|uid| !own.iter().any(|pod| pods::uid(pod) == uid.as_str())).count();
        let orphans = cache.by_index(&uncontrolled_in(namespace));
        own.extend(orphans.into_iter().filter(|pod| selector::matches(&wanted, pod.metadata.labels.as_ref())));
        own.sort_by(|a, b| pods::name(a).cmp(pods::name(b)));
        let mut revisions = self.context.controller_revisions.cache().by_namespace(namespace);
        revisions.retain(|revision| match owners::controller_of(&revision.metadata) {
            Some(reference) => reference.uid == uid,
            None => selector::matches(&wanted, revision.metadata.labels.as_ref()),
        });
        let retries = self.retries.lock().get(uid).cloned().unwrap_or_default();
        let nodes = self.context.nodes.cache().list();
        Ok(Observed { nodes, pods: own, revisions, creates_in_flight, deletes_in_flight, retries })
    }

    async fn act(&self, set: &DaemonSet, action: Action, why: &Cause) -> Result<Outcome, Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        match action {
            Action::Revision(write) => return revision_control::write(&self.context, set, &write, why).await,
            Action::Adopt { pod, patch } => self.control.adopt(set, &pod, patch, why).await?,
            Action::Release { pod, patch } => self.control.patch(namespace, &pod, Patch::Merge(patch), why).await?,
            Action::Create(pods) => {
                let next = AtomicUsize::new(0);
                let create = || async {
                    match pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                        Some(pod) => self.control.create(set, pod, why).await,
                        None => Ok(()),
                    }
                };
                let (_, failure) = slow_start(pods.len(), create).await;
                // The namespace controller removes us in a moment.
                if let Some(error) = failure.filter(|error| !error.is_namespace_terminating()) {
                    return Err(error);
                }
            }
            Action::Delete { pod, uid } => self.control.delete(set, &pod, &uid, why).await?,
            Action::Note(note) => self.context.note(set, &note),
        }
        Ok(Outcome::Done)
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus, why: &Cause) -> Result<(), Error> {
        match self.context.client.update_status(&DaemonSet { status: Some(status), ..set.clone() }, why).await {
            Ok(written) => {
                self.written.note(&written.metadata);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Reconciler for DaemonSets {
    type Key = Key;
    const NAME: &'static str = "daemonset";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = self.context.daemon_sets.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        if self.written.is_ahead_of([&set.metadata]) {
            return Ok(Some(Duration::from_secs(1)));
        }
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let now = self.context.now();
        let observed = self.observe(&set, now).await?;
        let mut decision = plan::plan(&set, &observed, now);
        let why = cause(Self::NAME, &decision.plan.cause(), &set.metadata);
        let mut failed = None;
        for action in std::mem::take(&mut decision.plan.actions) {
            tracing::debug!(controller = Self::NAME, %key, %action);
            match self.act(&set, action, &why).await {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Collision) => {
                    let mut status = set.status.clone().unwrap_or_default();
                    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
                    self.write_status(&set, status, &why).await?;
                    return Ok(Some(Duration::ZERO));
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.retries.lock().insert(uid, decision.retries);
        if let Some(status) = decision.plan.status {
            self.write_status(&set, status, &why).await?;
        }
        failed.map_or(Ok(decision.plan.requeue_after), Err)
    }
}
