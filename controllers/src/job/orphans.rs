//! Takes the tracking finalizer off pods that no unfinished Job will count: the Job is gone, is over, or let go of them.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Error, Patch};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use super::execute::untrack_patch;
use super::view::has_finalizer;
use super::{conditions, plan};
use crate::common::{Key, owners, pods};
use crate::runtime::context::{cause, controlled_by};
use crate::runtime::{Context, PodControl, Reconciler, Workers};

/// The reconciler of such pods.
pub struct JobOrphans {
    control: PodControl,
}

/// Whether nobody will count the pod. `job`: the Job of the name that its reference gives, where there is one.
pub fn is_left_behind(pod: &Pod, job: Option<&Job>) -> bool {
    if !has_finalizer(pod) {
        return false;
    }
    let Some(reference) = owners::controller_of(&pod.metadata) else { return true };
    if reference.kind != "Job" || reference.api_version != "batch/v1" {
        return false;
    }
    match job.filter(|job| job.metadata.uid.as_deref() == Some(reference.uid.as_str())) {
        None => true,
        Some(job) => !plan::is_managed_elsewhere(job) && conditions::is_finished(job),
    }
}

impl JobOrphans {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { context.jobs.synced().await; context.pods.synced().await } => {}
        }
        let controller = Arc::new(Self { control: PodControl::new(&context) });
        let mut workers = Workers::default();
        workers.feed(&context.pods, |change| {
            change.new.iter().filter(|pod| has_finalizer(pod)).map(|pod| Key::of(&pod.metadata)).collect()
        });
        // A Job that ends or goes leaves its pods behind.
        let pods = context.pods.cache();
        workers.feed(&context.jobs, move |change| {
            let ended = |job: &Arc<Job>| change.new.is_none() || conditions::is_finished(job);
            let Some(job) = change.object().filter(|job| ended(job)) else { return Vec::new() };
            let own = pods.by_index(&controlled_by(job.metadata.uid.as_deref().unwrap_or_default()));
            own.iter().filter(|pod| has_finalizer(pod)).map(|pod| Key::of(&pod.metadata)).collect()
        });
        workers.run(controller, 2, &context.metrics, &stop).await;
    }
}

impl Reconciler for JobOrphans {
    type Key = Key;
    const NAME: &'static str = "job-orphans";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let context = &self.control.context;
        let Some(pod) = context.pods.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        let name = owners::controller_of(&pod.metadata).map(|reference| reference.name.as_str()).unwrap_or_default();
        let job = context.jobs.cache().get(&key.namespace, name);
        if !is_left_behind(&pod, job.as_deref()) {
            return Ok(None);
        }
        if job.is_none() && !name.is_empty() {
            // The cache may not have it yet.
            match context.client.get::<Job>(&key.namespace, name).await {
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
                Ok(job) if is_left_behind(&pod, Some(&job)) => {}
                Ok(_) => return Ok(None),
            }
        }
        let why = cause(Self::NAME, "no Job will count this pod", &pod.metadata);
        self.control.patch(&key.namespace, &key.name, Patch::Strategic(untrack_patch(pods::uid(&pod))), &why).await?;
        Ok(None)
    }
}
