//! Decides which Jobs of a CronJob are started, stopped and forgotten, what its status says, when to look again.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::schedule::Schedule;
use crate::common::owners::Owner;
use crate::common::{Note, Plan, time};
use crate::job::conditions::holds;

/// Clocks differ a little: the next look comes so much after the time.
const SLACK: Duration = Duration::from_millis(100);

/// More times missed than this are told.
const MANY: i64 = 100;

/// What there is beside the CronJob itself.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Its Jobs.
    pub jobs: Vec<Arc<Job>>,
    /// UIDs that the status says are active, of Jobs that are certainly gone.
    pub missing: BTreeSet<String>,
    /// The zone that the spec names, where it names one; an error says why it is none.
    pub zone: Option<Result<TimeZone, String>>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Delete a Job and, later, its pods.
    Delete {
        /// Its name.
        job: String,
        /// Its UID: the precondition.
        uid: String,
    },
    /// Start a Job, for this time.
    Start {
        /// The whole object.
        job: Box<Job>,
        /// What becomes the last schedule time.
        at: Timestamp,
    },
    /// Tell.
    Note(Note),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete { job, .. } => write!(f, "delete {job}"),
            Self::Start { job, at } => write!(f, "start {} for {at}", job.metadata.name.as_deref().unwrap_or_default()),
            Self::Note(note) => note.fmt(f),
        }
    }
}

/// The CronJob as its Jobs name it.
pub fn owner(meta: &ObjectMeta) -> Owner {
    Owner {
        api_version: "batch/v1".to_owned(),
        kind: "CronJob".to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

fn uid(job: &Job) -> &str {
    job.metadata.uid.as_deref().unwrap_or_default()
}

/// `Complete` or `Failed`.
fn end(job: &Job) -> Option<&'static str> {
    let status = job.status.as_ref()?;
    ["Complete", "Failed"].into_iter().find(|kind| holds(status, kind).is_some())
}

fn delete(job: &Job) -> Action {
    Action::Delete { job: name(job).to_owned(), uid: uid(job).to_owned() }
}

/// Finished Jobs beyond what is kept of each sort, oldest first.
fn surplus(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut gone = Vec::new();
    for (kind, limit) in [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)] {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut ended: Vec<&Arc<Job>> = jobs.iter().filter(|job| end(job) == Some(kind)).collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
            (start.is_none(), start, name(job))
        });
        let surplus = ended.len().saturating_sub(limit);
        gone.extend(ended.into_iter().take(surplus).cloned());
    }
    gone
}

/// Brings the list of active Jobs and the last success up to date.
fn review(observed: &Observed, status: &mut CronJobStatus, actions: &mut Vec<Action>) {
    let active = status.active.get_or_insert_default();
    for job in &observed.jobs {
        let position = active.iter().position(|reference| reference.uid.as_deref() == Some(uid(job)));
        let Some(kind) = end(job) else {
            if position.is_none() {
                let text = format!("Saw a job that the controller did not create or forgot: {}", name(job));
                actions.push(Action::Note(Note::warning("UnexpectedJob", text)));
            }
            continue;
        };
        if let Some(position) = position {
            active.remove(position);
            let text = format!("Saw completed job: {}, condition: {kind}", name(job));
            actions.push(Action::Note(Note::normal("SawCompletedJob", text)));
        }
        let done = job.status.as_ref().and_then(|status| status.completion_time.clone()).filter(|_| kind == "Complete");
        if done.as_ref().map(|time| time.0) > status.last_successful_time.as_ref().map(|time| time.0) {
            status.last_successful_time = done;
        }
    }
    active.retain(|reference| {
        let missing = reference.uid.as_ref().is_some_and(|uid| observed.missing.contains(uid));
        if missing {
            let text = format!("Active job went missing: {}", reference.name.as_deref().unwrap_or_default());
            actions.push(Action::Note(Note::normal("MissingJob", text)));
        }
        !missing
    });
}

/// What has become of the times until now.
struct Missed {
    /// From where on times count.
    earliest: Timestamp,
    /// The last time that has come, if any.
    last: Option<Timestamp>,
    /// Roughly how many have come.
    count: i64,
}

fn missed(cron: &CronJob, status: &CronJobStatus, schedule: &Schedule, zone: &TimeZone, deadline: Option<i64>, now: Timestamp) -> Result<Missed, String> {
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let mut earliest = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    if let Some(deadline) = deadline {
        let oldest = now.checked_sub(SignedDuration::from_secs(deadline.max(0))).unwrap_or(Timestamp::MIN);
        earliest = earliest.max(oldest);
    }
    let none = |earliest| Ok(Missed { earliest, last: None, count: 0 });
    let Some(first) = schedule.next(earliest, zone).filter(|first| *first <= now) else { return none(earliest) };
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Ok(Missed { earliest, last: Some(first), count: 0 });
    };
    let between = second.as_second() - first.as_second();
    if between < 1 {
        return Err("time difference between two schedules is less than 1 second".to_owned());
    }
    // Roughly: intervals need not be equal. From one interval before the estimate the exact times are walked.
    let count = (now.as_second() - first.as_second()) / between + 1;
    let from = first.checked_add(SignedDuration::from_secs((count - 2) * between)).unwrap_or(first);
    let mut last = None;
    let mut next = schedule.next(from, zone);
    while let Some(at) = next.filter(|at| *at <= now) {
        last = Some(at);
        next = schedule.next(at, zone);
    }
    Ok(Missed { earliest, last, count })
}

/// Until the next time. What was missed because of a starting deadline counts as come.
fn next_look(cron: &CronJob, status: &CronJobStatus, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<Duration> {
    let from = match missed(cron, status, schedule, zone, None, now) {
        Ok(Missed { last: Some(last), .. }) => last,
        Ok(Missed { earliest, count: 0, .. }) => earliest,
        _ => now,
    };
    Some(time::since(now, schedule.next(from, zone)?) + SLACK)
}

/// The Job for a time.
fn job(cron: &CronJob, spec: &CronJobSpec, zone: &TimeZone, at: Timestamp) -> Job {
    let meta = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let stamp = if local.offset().seconds() == 0 { at.to_string() } else { local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string() };
    annotations.insert("batch.kubernetes.io/cronjob-scheduled-timestamp".to_owned(), stamp);
    let name = format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), at.as_second().div_euclid(60));
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner(&cron.metadata).controller_reference()]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// Starts the Job of a time that has come, if the deadline and the policy allow.
fn start(cron: &CronJob, spec: &CronJobSpec, observed: &Observed, zone: &TimeZone, at: Timestamp, status: &mut CronJobStatus, now: Timestamp) -> Vec<Action> {
    let deadline = spec.starting_deadline_seconds.map(|seconds| time::after_seconds(at, seconds));
    if deadline.is_some_and(|deadline| deadline < now) {
        let when = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        return vec![Action::Note(Note::warning("MissSchedule", format!("Missed scheduled time to start a job: {when}")))];
    }
    let new = job(cron, spec, zone, at);
    let active = status.active.get_or_insert_default();
    let started = active.iter().any(|reference| reference.name == new.metadata.name);
    if started || status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at) {
        return Vec::new();
    }
    // One that we started and could not write down runs all the same.
    let listed: BTreeSet<String> = active.iter().filter_map(|reference| reference.uid.clone()).collect();
    let unlisted = observed.jobs.iter().filter(|job| end(job).is_none() && !listed.contains(uid(job)));
    let mut actions = Vec::new();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() || unlisted.clone().next().is_some() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return vec![Action::Note(Note::normal("JobAlreadyActive", text))];
        }
        Some("Replace") => {
            for reference in std::mem::take(active) {
                let job = observed.jobs.iter().find(|job| Some(uid(job)) == reference.uid.as_deref());
                let (job, uid) = match job {
                    Some(job) => (name(job).to_owned(), uid(job).to_owned()),
                    None => (reference.name.unwrap_or_default(), reference.uid.unwrap_or_default()),
                };
                actions.push(Action::Delete { job, uid });
            }
            actions.extend(unlisted.map(|job| delete(job)));
        }
        _ => {}
    }
    actions.push(Action::Start { job: Box::new(new), at });
    actions
}

fn same(a: &CronJobStatus, b: &CronJobStatus) -> bool {
    let plain = |status: &CronJobStatus| {
        let mut status = status.clone();
        status.active = status.active.filter(|list| !list.is_empty());
        status
    };
    plain(a) == plain(b)
}

/// The decision. A started Job is added to the status by whoever starts it.
pub fn plan(cron: &CronJob, observed: &Observed, now: Timestamp) -> Plan<Action, CronJobStatus> {
    let mut plan = Plan::default();
    let spec = &cron.spec;
    let stored = cron.status.clone().unwrap_or_default();
    let mut status = stored.clone();
    review(observed, &mut status, &mut plan.actions);
    for job in surplus(spec, &observed.jobs) {
        plan.actions.push(delete(&job));
        status.active.get_or_insert_default().retain(|reference| reference.uid.as_deref() != Some(uid(&job)));
    }
    if cron.metadata.deletion_timestamp.is_none() {
        schedule(cron, spec, observed, &mut status, &mut plan, now);
    }
    if !same(&status, &stored) {
        plan.status = Some(status);
    }
    plan
}

fn schedule(cron: &CronJob, spec: &CronJobSpec, observed: &Observed, status: &mut CronJobStatus, plan: &mut Plan<Action, CronJobStatus>, now: Timestamp) {
    let zone = match (&observed.zone, spec.time_zone.as_deref()) {
        (Some(Err(why)), named) => {
            let text = format!("invalid timeZone: {:?}: {why}", named.unwrap_or_default());
            plan.actions.push(Action::Note(Note::warning("UnknownTimeZone", text)));
            return;
        }
        (Some(Ok(zone)), _) => zone.clone(),
        (None, _) => TimeZone::UTC,
    };
    if spec.suspend == Some(true) {
        return;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            let text = format!("unparseable schedule: {:?} : {why}", spec.schedule);
            plan.actions.push(Action::Note(Note::warning("UnparseableSchedule", text)));
            return;
        }
    };
    match missed(cron, status, &schedule, &zone, spec.starting_deadline_seconds, now) {
        Err(why) => {
            let text = format!("invalid schedule: {} : {why}", spec.schedule);
            plan.actions.push(Action::Note(Note::warning("InvalidSchedule", text)));
        }
        Ok(Missed { last: Some(at), count, .. }) => {
            if count > MANY {
                let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                plan.actions.push(Action::Note(Note::warning("TooManyMissedTimes", text)));
            }
            let actions = start(cron, spec, observed, &zone, at, status, now);
            plan.reasons.extend(actions.iter().map(ToString::to_string));
            plan.actions.extend(actions);
        }
        Ok(_) => {}
    }
    if let Some(delay) = next_look(cron, status, &schedule, &zone, now) {
        plan.requeue_within(delay);
    }
}
