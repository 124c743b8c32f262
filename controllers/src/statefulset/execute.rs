//! Carries out what `plan` decided about a StatefulSet, and runs the controller.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Cause, DeleteOptions, Error, Patch};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use tokio_util::sync::CancellationToken;

use super::observe::observe;
use super::plan::{self, Action};
use crate::common::{Key, Note, owners, pods, selector};
use crate::runtime::context::cause;
use crate::runtime::pod_control::owners_of;
use crate::runtime::revision_control::{self, Outcome};
use crate::runtime::{Context, PodControl, Reconciler, Workers, Written};

const WORKERS: usize = 8;

/// Writes for one parallel set that are under way at a time.
const AT_ONCE: usize = 16;

/// The StatefulSet controller.
pub struct StatefulSets {
    context: Context,
    control: PodControl,
    written: Written,
}

/// Sets of a namespace that may want an object of nobody's with these labels.
fn matching(sets: &[Arc<StatefulSet>], labels: Option<&selector::Labels>) -> Vec<Key> {
    let wants = |set: &&Arc<StatefulSet>| {
        let wanted = set.spec.as_ref().map(|spec| &spec.selector);
        wanted.is_some_and(|wanted| !selector::is_empty(wanted) && selector::matches(wanted, labels))
    };
    sets.iter().filter(wants).map(|set| Key::of(&set.metadata)).collect()
}

impl StatefulSets {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.stateful_sets.synced().await;
                context.pods.synced().await;
                context.controller_revisions.synced().await;
                context.volume_claims.synced().await;
            } => {}
        }
        let controller =
            Arc::new(Self { context: context.clone(), control: PodControl::new(&context), written: Written::default() });
        let mut workers = Workers::default();
        let (flights, written) = (controller.control.flights.clone(), controller.written.clone());
        workers.feed(&context.stateful_sets, move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                flights.forget(old.metadata.uid.as_deref().unwrap_or_default());
                written.forget(&old.metadata);
            }
            change.object().map(|set| Key::of(&set.metadata)).into_iter().collect()
        });
        let (flights, sets) = (controller.control.flights.clone(), context.stateful_sets.cache());
        workers.feed(&context.pods, move |change| {
            owners_of(change, "StatefulSet", &flights, |namespace, pod| {
                matching(&sets.by_namespace(namespace), pod.metadata.labels.as_ref())
            })
        });
        let sets = context.stateful_sets.cache();
        workers.feed(&context.controller_revisions, move |change| {
            let Some(revision) = change.object() else { return Vec::new() };
            let namespace = revision.metadata.namespace.as_deref().unwrap_or_default();
            match owners::controller_of(&revision.metadata) {
                // One that comes or changes is our own doing, or tells nothing new until the set changes.
                Some(reference) if reference.kind == "StatefulSet" && change.new.is_none() => {
                    vec![Key::new(namespace, &reference.name)]
                }
                Some(_) => Vec::new(),
                None => matching(&sets.by_namespace(namespace), revision.metadata.labels.as_ref()),
            }
        });
        // A claim that is gone lets the pod of its ordinal be made.
        let sets = context.stateful_sets.cache();
        workers.feed(&context.volume_claims, move |change| {
            let Some(claim) = change.object() else { return Vec::new() };
            let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
            matching(&sets.by_namespace(namespace), claim.metadata.labels.as_ref())
        });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    /// Tells how a write about a pod went, in the original's words.
    fn tell(&self, set: &StatefulSet, verb: &str, what: &str, done: &Result<(), Error>) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let note = match done {
            Ok(()) => {
                let end = if what.starts_with("Claim ") { "success" } else { "successful" };
                Note::normal(&format!("Successful{verb}"), format!("{verb} {what} in StatefulSet {name} {end}"))
            }
            Err(error) => {
                let text = format!("{verb} {what} in StatefulSet {name} failed error: {error}");
                Note::warning(&format!("Failed{verb}"), text)
            }
        };
        self.context.note(set, &note);
    }

    async fn create_claims(&self, set: &StatefulSet, pod: &str, claims: Vec<PersistentVolumeClaim>, why: &Cause) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        for claim in claims {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let done = match self.context.client.create(namespace, &claim, why).await {
                Err(error) if error.is_already_exists() => continue,
                done => done.map(|_| ()),
            };
            let what = match done {
                Ok(()) => format!("Claim {name} Pod {pod}"),
                Err(_) => format!("Claim {name} for Pod {pod}"),
            };
            self.tell(set, "Create", &what, &done);
            done?;
        }
        Ok(())
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod, why: &Cause) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let done = match self.context.client.create(namespace, pod, why).await {
            Ok(created) => {
                self.control.flights.created(uid, &created.metadata, self.context.now());
                Ok(())
            }
            // The namespace controller removes us in a moment.
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            // Of a predecessor that is going, or of somebody else: its end will be seen.
            Err(error) if error.is_already_exists() => return Err(error),
            Err(error) => Err(error),
        };
        self.tell(set, "Create", &format!("Pod {}", pods::name(pod)), &done);
        done
    }

    async fn delete(&self, set: &StatefulSet, pod: &str, pod_uid: &str, why: &Cause) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let options = DeleteOptions { uid: Some(pod_uid.to_owned()), ..DeleteOptions::default() };
        let done = match self.context.client.delete::<Pod>(namespace, pod, options, why).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => {
                let uid = set.metadata.uid.as_deref().unwrap_or_default();
                self.control.flights.deleted(uid, pod_uid, self.context.now());
                Ok(())
            }
        };
        self.tell(set, "Delete", &format!("Pod {pod}"), &done);
        done
    }

    async fn act(&self, set: &StatefulSet, action: Action, why: &Cause) -> Result<Outcome, Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        match action {
            Action::Revision(write) => return revision_control::write(&self.context, set, &write, why).await,
            Action::Adopt { pod, patch } => self.control.adopt(set, &pod, patch, why).await?,
            Action::Release { pod, patch } => self.control.patch(namespace, &pod, Patch::Merge(patch), why).await?,
            Action::CreateClaims { pod, claims } => self.create_claims(set, &pod, claims, why).await?,
            Action::OwnClaim { claim, patch } => {
                let patched = self.context.client.patch::<PersistentVolumeClaim>(namespace, &claim, "", Patch::Merge(patch), why).await;
                match patched {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            Action::Create(pod) => self.create(set, &pod, why).await?,
            Action::Update { pod, patch } => {
                let done = self.control.patch(namespace, &pod, Patch::Merge(patch), why).await;
                self.tell(set, "Update", &format!("Pod {pod}"), &done);
                done?;
            }
            Action::Delete { pod, uid } => self.delete(set, &pod, &uid, why).await?,
            Action::Note(note) => self.context.note(set, &note),
        }
        Ok(Outcome::Done)
    }

    /// In order until one fails; what concerns the pods of a parallel set goes out together.
    async fn act_all(&self, key: &Key, set: &StatefulSet, actions: Vec<Action>, why: &Cause) -> Result<Outcome, Error> {
        let parallel = set.spec.as_ref().is_some_and(plan::is_parallel);
        let mut actions = actions.into_iter().peekable();
        while let Some(first) = actions.next() {
            let mut batch = vec![first];
            let alone = |action: &Action| matches!(action, Action::Revision(_) | Action::CreateClaims { .. });
            while parallel && batch.len() < AT_ONCE && !alone(&batch[0]) {
                match actions.next_if(|action| !alone(action)) {
                    Some(action) => batch.push(action),
                    None => break,
                }
            }
            let acts = batch.into_iter().map(|action| {
                tracing::debug!(controller = Self::NAME, %key, %action);
                self.act(set, action, why)
            });
            for outcome in futures::future::join_all(acts).await {
                if outcome? == Outcome::Collision {
                    return Ok(Outcome::Collision);
                }
            }
        }
        Ok(Outcome::Done)
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus, why: &Cause) -> Result<(), Error> {
        match self.context.client.update_status(&StatefulSet { status: Some(status), ..set.clone() }, why).await {
            Ok(written) => {
                self.written.note(&written.metadata);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Reconciler for StatefulSets {
    type Key = Key;
    const NAME: &'static str = "statefulset";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = self.context.stateful_sets.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        if self.written.is_ahead_of([&set.metadata]) {
            return Ok(Some(Duration::from_secs(1)));
        }
        let now = self.context.now();
        let observed = observe(&self.control, &set, now).await?;
        let mut plan = plan::plan(&set, &observed, now);
        let why = cause(Self::NAME, &plan.cause(), &set.metadata);
        let done = self.act_all(key, &set, std::mem::take(&mut plan.actions), &why).await;
        if let Ok(Outcome::Collision) = done {
            let mut status = set.status.clone().unwrap_or_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            self.write_status(&set, status, &why).await?;
            return Ok(Some(Duration::ZERO));
        }
        if let Some(status) = plan.status {
            self.write_status(&set, status, &why).await?;
        }
        done.map(|_| plan.requeue_after)
    }
}
