//! Carries out what `plan` decided about a Job, and runs the controller.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balsa_client::{Cause, Error, Patch};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::observe::{Memories, observe};
use super::plan::{self, Action, Observed};
use super::{TRACKING, conditions};
use crate::common::{Key, selector};
use crate::runtime::context::cause;
use crate::runtime::pod_control::owners_of;
use crate::runtime::slow_start::slow_start;
use crate::runtime::{Context, PodControl, Reconciler, Workers, Written};

const WORKERS: usize = 8;

/// How much younger than our start a Job must be to be certain that nobody else has worked on it.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// The strategic patch that takes the finalizer off the pod of this UID.
pub fn untrack_patch(uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}})
}

/// The Job controller.
pub struct Jobs {
    context: Context,
    control: PodControl,
    memories: Memories,
    written: Written,
    predecessors: Timestamp,
}

impl Jobs {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { context.jobs.synced().await; context.pods.synced().await } => {}
        }
        let controller = Arc::new(Self {
            context: context.clone(),
            control: PodControl::new(&context),
            memories: Memories::default(),
            written: Written::default(),
            predecessors: context.now().saturating_add(CLOCK_SKEW).unwrap_or(Timestamp::MAX),
        });
        let mut workers = Workers::default();
        let (flights, written, memories) =
            (controller.control.flights.clone(), controller.written.clone(), controller.memories.clone());
        workers.feed(&context.jobs, move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                let uid = old.metadata.uid.as_deref().unwrap_or_default();
                flights.forget(uid);
                memories.forget(uid);
                written.forget(&old.metadata);
            }
            change.object().map(|job| Key::of(&job.metadata)).into_iter().collect()
        });
        let (flights, jobs) = (controller.control.flights.clone(), context.jobs.cache());
        workers.feed(&context.pods, move |change| {
            owners_of(change, "Job", &flights, |namespace, pod| {
                let wants = |job: &Arc<Job>| {
                    let wanted = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                    wanted.is_some_and(|wanted| {
                        !selector::is_empty(wanted) && selector::matches(wanted, pod.metadata.labels.as_ref())
                    })
                };
                jobs.by_namespace(namespace).iter().filter(|job| wants(job)).map(|job| Key::of(&job.metadata)).collect()
            })
        });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    async fn untrack(&self, job: &Job, pod: &str, uid: &str, why: &Cause) -> Result<(), Error> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        self.control.patch(namespace, pod, Patch::Strategic(untrack_patch(uid)), why).await?;
        let owner = job.metadata.uid.as_deref().unwrap_or_default();
        self.memories.change(owner, |memory| {
            memory.released.insert(uid.to_owned());
        });
        Ok(())
    }

    async fn act(&self, job: &Job, action: Action, why: &Cause) -> Result<(), Error> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        match action {
            Action::Adopt { pod, patch } => self.control.adopt(job, &pod, patch, why).await,
            Action::Release { pod, patch } => self.control.patch(namespace, &pod, Patch::Merge(patch), why).await,
            Action::Untrack { pod, uid } => self.untrack(job, &pod, &uid, why).await,
            Action::Create { pods } => {
                let next = AtomicUsize::new(0);
                let create = || async {
                    match pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                        Some(pod) => self.control.create(job, pod, why).await,
                        None => Ok(()),
                    }
                };
                let (_, failure) = slow_start(pods.len(), create).await;
                // The namespace controller removes us in a moment.
                failure.filter(|error| !error.is_namespace_terminating()).map_or(Ok(()), Err)
            }
            Action::Delete { pod, uid, untrack } => {
                if untrack {
                    self.untrack(job, &pod, &uid, why).await?;
                }
                self.control.delete(job, &pod, &uid, why).await
            }
            Action::Note(note) => {
                self.context.note(job, &note);
                Ok(())
            }
        }
    }

    /// What is independent of each other goes out together.
    async fn act_all(&self, key: &Key, job: &Job, actions: Vec<Action>, why: &Cause) -> Option<Error> {
        const AT_ONCE: usize = 16;
        let mut failed = None;
        let mut actions = actions.into_iter().peekable();
        while actions.peek().is_some() {
            let batch: Vec<Action> = actions.by_ref().take(AT_ONCE).collect();
            let acts = batch.into_iter().map(|action| {
                tracing::debug!(controller = Self::NAME, %key, %action);
                self.act(job, action, why)
            });
            failed = futures::future::join_all(acts).await.into_iter().fold(failed, |first, done| first.or(done.err()));
        }
        failed
    }

    async fn write_status(&self, job: &Job, status: JobStatus, why: &Cause) -> Result<(), Error> {
        match self.context.client.update_status(&Job { status: Some(status), ..job.clone() }, why).await {
            Ok(written) => {
                self.written.note(&written.metadata);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Reconciler for Jobs {
    type Key = Key;
    const NAME: &'static str = "job";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(job) = self.context.jobs.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        if conditions::is_finished(&job) || plan::is_managed_elsewhere(&job) {
            self.memories.forget(uid);
            self.control.flights.forget(uid);
            return Ok(None);
        }
        if self.written.is_ahead_of([&job.metadata]) {
            return Ok(Some(Duration::from_secs(1)));
        }
        let now = self.context.now();
        let Some(observed) = observe(&self.control, &self.memories, &job, self.predecessors, now).await? else {
            return Ok(Some(Duration::from_millis(200)));
        };
        let mut decision = plan::plan(&job, &observed, now);
        let why = cause(Self::NAME, &decision.plan.cause(), &job.metadata);
        let failed = self.act_all(key, &job, std::mem::take(&mut decision.plan.actions), &why).await;
        if failed.is_some() {
            // The status tells what is, not what was tried.
            if let Some(observed) = observe(&self.control, &self.memories, &job, self.predecessors, now).await? {
                decision = plan::plan(&job, &Observed { hold: true, ..observed }, now);
            }
        }
        if let Some(status) = decision.plan.status {
            self.write_status(&job, status, &why).await?;
            self.memories.change(uid, |memory| memory.backoff = decision.backoff);
            for note in &decision.notes {
                self.context.note(&*job, note);
            }
        }
        failed.map_or(Ok(decision.plan.requeue_after), Err)
    }
}
