//! Deletes Jobs whose `ttlSecondsAfterFinished` is over.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::{DeleteOptions, Error};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::conditions;
use crate::common::{Key, time};
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers};

/// The reconciler of finished Jobs.
pub struct FinishedJobs {
    context: Context,
}

/// How long a finished Job may still stay; `None` where it is not finished, is going, or has no such limit.
pub fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = job.status.as_ref()?;
    let end = conditions::holds(status, "Complete").or_else(|| conditions::holds(status, "Failed"))?;
    let end = end.last_transition_time.as_ref()?.0;
    Some(time::since(now, time::after_seconds(end, i64::from(ttl))))
}

impl FinishedJobs {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.jobs.synced() => {}
        }
        let mut workers = Workers::default();
        workers.feed(&context.jobs, |change| {
            change.new.iter().filter(|job| conditions::is_finished(job)).map(|job| Key::of(&job.metadata)).collect()
        });
        let controller = Arc::new(Self { context: context.clone() });
        workers.run(controller, 2, &context.metrics, &stop).await;
    }
}

impl Reconciler for FinishedJobs {
    type Key = Key;
    const NAME: &'static str = "ttl-after-finished";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(job) = self.context.jobs.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        match time_left(&job, self.context.now()) {
            None => return Ok(None),
            Some(left) if !left.is_zero() => return Ok(Some(left)),
            Some(_) => {}
        }
        // Its time to live may have been changed meanwhile.
        let live: Job = match self.context.client.get(&key.namespace, &key.name).await {
            Err(error) if error.is_not_found() => return Ok(None),
            found => found?,
        };
        if time_left(&live, self.context.now()).is_none_or(|left| !left.is_zero()) {
            return Ok(Some(Duration::from_secs(1)));
        }
        let options = DeleteOptions {
            uid: live.metadata.uid.clone(),
            propagation: Some("Foreground".to_owned()),
            ..DeleteOptions::default()
        };
        let why = cause(Self::NAME, "its time to live is over", &live.metadata);
        match self.context.client.delete::<Job>(&key.namespace, &key.name, options, &why).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}
