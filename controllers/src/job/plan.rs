//! Decides which pods a Job creates and deletes, when and how it ends, and what its status says.
//!
//! Not here: the books of finished pods (`count.rs`), what a pod looks like (`template.rs`), any writing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::backoff::{self, Backoff};
use super::conditions::{self, Ending};
use super::indexes::Indexes;
use super::policy::{Verdict, success};
use super::template::{self, failures};
use super::view::View;
use super::{TRACKING, count};
use crate::common::in_flight::LOOK_AFTER;
use crate::common::owners::{self, Claim, Owner};
use crate::common::{Note, Plan, pods, time};
use crate::replicaset::rank;

/// Most pods that one round creates or deletes.
pub const BURST: usize = 500;

/// Who manages a Job unless it says otherwise.
const US: &str = "kubernetes.io/job-controller";

/// What there is beside the Job itself.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Pods of the namespace that the Job controls, or that its selector matches and nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// Creations that `pods` does not show yet.
    pub creates_in_flight: usize,
    /// UIDs of pods whose deletion we asked for; `pods` may not show it yet.
    pub deletes_in_flight: BTreeSet<String>,
    /// UIDs of pods that have no finalizer any more, whatever `pods` shows.
    pub released: BTreeSet<String>,
    /// The failures that were booked so far.
    pub backoff: Backoff,
    /// Writes of this round failed: no further pods, only the status.
    pub hold: bool,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Put our reference and finalizer on a pod.
    Adopt {
        /// Name of the pod.
        pod: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Take our reference and finalizer off a pod that no longer matches.
    Release {
        /// Name of the pod.
        pod: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Take the finalizer off a pod that is counted, or need not be.
    Untrack {
        /// Name of the pod.
        pod: String,
        /// Its UID: the precondition.
        uid: String,
    },
    /// Create these, in batches that grow while they succeed.
    Create {
        /// Whole objects.
        pods: Vec<Pod>,
    },
    /// Delete a pod.
    Delete {
        /// Name of the pod.
        pod: String,
        /// Its UID: the precondition.
        uid: String,
        /// Whether the finalizer is taken off first: it shall not count as a failure.
        untrack: bool,
    },
    /// Tell.
    Note(Note),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { pod, .. } => write!(f, "adopt {pod}"),
            Self::Release { pod, .. } => write!(f, "release {pod}"),
            Self::Untrack { pod, .. } => write!(f, "untrack {pod}"),
            Self::Create { pods } => {
                let names: Vec<&str> = pods.iter().filter_map(|pod| pod.metadata.generate_name.as_deref()).collect();
                write!(f, "create {}", names.join(" "))
            }
            Self::Delete { pod, untrack: false, .. } => write!(f, "delete {pod}"),
            Self::Delete { pod, .. } => write!(f, "untrack and delete {pod}"),
            Self::Note(note) => note.fmt(f),
        }
    }
}

/// The plan, and what becomes true once its status is written.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Pods and status.
    pub plan: Plan<Action, JobStatus>,
    /// The failures as booked by that status.
    pub backoff: Backoff,
    /// Events that tell of that status.
    pub notes: Vec<Note>,
}

/// The Job as its pods name it.
pub fn owner(meta: &ObjectMeta) -> Owner {
    Owner {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// Whether another controller takes care of the Job.
pub fn is_managed_elsewhere(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref()).is_some_and(|manager| manager != US)
}

/// The pods that are ours, and the writes that make it so.
fn claim(job: &Job, spec: &JobSpec, observed: &Observed, actions: &mut Vec<Action>) -> Vec<Arc<Pod>> {
    let (owner, deleting) = (owner(&job.metadata), job.metadata.deletion_timestamp.is_some());
    let selector = spec.selector.clone().unwrap_or_default();
    let mut own = Vec::new();
    for pod in &observed.pods {
        let others = || pod.metadata.finalizers.iter().flatten().filter(|one| *one != TRACKING).cloned();
        match owners::claim(&owner, deleting, &selector, &pod.metadata) {
            Claim::Keep => own.push(pod.clone()),
            Claim::Adopt => {
                let mut patch = owners::adoption_patch(&owner, &pod.metadata);
                let finalizers: Vec<String> = others().chain([TRACKING.to_owned()]).collect();
                patch["metadata"]["finalizers"] = json!(finalizers);
                actions.push(Action::Adopt { pod: pods::name(pod).to_owned(), patch });
                let mut adopted = Pod::clone(pod);
                adopted.metadata.finalizers = Some(finalizers);
                own.push(Arc::new(adopted));
            }
            Claim::Release => {
                let mut patch = owners::release_patch(&owner.uid, &pod.metadata);
                patch["metadata"]["finalizers"] = json!(others().collect::<Vec<String>>());
                actions.push(Action::Release { pod: pods::name(pod).to_owned(), patch });
            }
            Claim::Ignore => {}
        }
    }
    own
}

/// The numbers that the decisions need.
struct Numbers {
    succeeded: i64,
    failed: i64,
    succeeded_indexes: Indexes,
    failed_indexes: Option<Indexes>,
    held: BTreeMap<i32, Arc<Pod>>,
}

fn numbers(view: &View<'_>) -> Numbers {
    let lists = view.stored.uncounted_terminated_pods.clone().unwrap_or_default();
    let listed = |list: Option<Vec<String>>| i64::try_from(list.map_or(0, |list| list.len())).unwrap_or(i64::MAX);
    let fresh = |pods: usize| i64::try_from(pods).unwrap_or(i64::MAX);
    let failed = view.fresh_failed();
    let counted = failed.iter().filter(|pod| view.verdict(pod) != Verdict::Ignore).count();
    let mut succeeded =
        i64::from(view.stored.succeeded.unwrap_or(0)) + listed(lists.succeeded) + fresh(view.fresh_succeeded().len());
    let (mut succeeded_indexes, mut held) = (Indexes::default(), BTreeMap::new());
    let failed_indexes = view.failed_indexes();
    if view.indexed() {
        succeeded_indexes = view.succeeded_indexes();
        succeeded = succeeded_indexes.count();
    }
    if let Some(failed) = &failed_indexes {
        held = view.held_back(&succeeded_indexes, failed);
    }
    let failed = i64::from(view.stored.failed.unwrap_or(0)) + listed(lists.failed) + fresh(counted);
    Numbers { succeeded, failed, succeeded_indexes, failed_indexes, held }
}

/// Restarts of containers of running pods have reached the limit (`restartPolicy: OnFailure`).
fn restarted_too_often(view: &View<'_>, limit: i32) -> bool {
    let policy = view.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts: i64 = view
        .own
        .iter()
        .filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"))
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten())
        .map(|status| i64::from(status.restart_count))
        .sum();
    if limit == 0 { restarts > 0 } else { restarts >= i64::from(limit) }
}

fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

/// How the Job ends, decided before anything is created. The first reason that holds.
fn ending(view: &View<'_>, numbers: &Numbers, now: Timestamp, again: &mut Option<Duration>) -> Option<Ending> {
    if let Some(stored) = Ending::stored(view.stored) {
        return Some(stored);
    }
    let spec = view.spec;
    if spec.pod_failure_policy.is_some() {
        let failed = view.own.iter().filter(|pod| view.is_failed(pod));
        let message = failed.map(|pod| view.verdict(pod)).find_map(|verdict| match verdict {
            Verdict::FailJob(message) => Some(message),
            Verdict::Count | Verdict::Ignore | Verdict::FailIndex => None,
        });
        if let Some(message) = message {
            return Some(Ending::failure("PodFailurePolicy", message));
        }
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if numbers.failed > i64::from(limit) || restarted_too_often(view, limit) {
        return Some(Ending::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if let (Some(deadline), Some(start), false) =
        (spec.active_deadline_seconds, view.stored.start_time.as_ref(), is_suspended(spec))
    {
        let end = time::after_seconds(start.0, deadline);
        if end <= now {
            return Some(Ending::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        *again = Some(time::since(now, end));
    }
    if let Some(failed) = &numbers.failed_indexes {
        if spec.max_failed_indexes.is_some_and(|most| failed.count() > i64::from(most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Ending::failure("MaxFailedIndexesExceeded", message));
        }
        let all = failed.count() + numbers.succeeded_indexes.count();
        if failed.count() > 0 && all >= i64::from(view.completions()) {
            return Some(Ending::failure("FailedIndexes", "Job has failed indexes"));
        }
    }
    if view.indexed() {
        let message = success(spec.success_policy.as_ref(), view.completions(), &numbers.succeeded_indexes);
        return message.map(|message| Ending::success("SuccessPolicy", message));
    }
    None
}

/// Active pods to delete: of an indexed Job those without a valid index and all but the best of an index; then, up to
/// `at_least`, the least advanced.
fn too_many(view: &View<'_>, at_least: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let nowhere = BTreeMap::new();
    let (mut remove, mut keep): (Vec<Arc<Pod>>, Vec<&Arc<Pod>>) = (Vec::new(), Vec::new());
    if view.indexed() {
        let mut by_index: BTreeMap<i32, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in &view.active {
            match view.index(pod) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => remove.push(pod.clone()),
            }
        }
        for twins in by_index.values() {
            let ranked = rank::victims(twins, twins.len(), &nowhere, now);
            let best = ranked.len().saturating_sub(1);
            remove.extend(ranked.iter().take(best).map(|pod| Arc::clone(pod)));
            keep.extend(ranked.into_iter().skip(best));
        }
    } else {
        keep.extend(&view.active);
    }
    let more = at_least.saturating_sub(remove.len());
    remove.extend(rank::victims(&keep, more, &nowhere, now).into_iter().cloned());
    remove
}

/// The indexes to create pods of, and how long to wait where none may be created yet.
fn next_indexes(view: &View<'_>, numbers: &Numbers, count: usize, now: Timestamp) -> (Vec<i32>, Duration) {
    let mut taken = numbers.succeeded_indexes.with(&view.active_indexes());
    if view.replaces_only_ended() {
        taken = taken.with(&view.terminating_indexes());
    }
    if let Some(failed) = &numbers.failed_indexes {
        taken = taken.union(failed);
    }
    let (mut ready, mut wait): (Vec<i32>, Option<Duration>) = (Vec::new(), None);
    for index in taken.free(count, view.completions()) {
        let left = numbers.held.get(&index).map_or(Duration::ZERO, |pod| {
            let so_far = u32::try_from(failures(pod).all()).unwrap_or(0).saturating_add(1);
            backoff::remaining(so_far, backoff::finished_at(pod), now)
        });
        if left.is_zero() {
            ready.push(index);
        } else {
            wait = Some(wait.map_or(left, |known| known.min(left)));
        }
    }
    let wait = if ready.is_empty() { wait.unwrap_or_default() } else { Duration::ZERO };
    (ready, wait)
}

/// What becomes of the running pods in this round.
#[derive(Default)]
struct Moves {
    created: usize,
    deleted: Vec<Arc<Pod>>,
    /// Whether the number of pods was looked at: only then the Job may be told suspended or resumed.
    looked: bool,
}

/// Creates and deletes pods of a Job that goes on.
fn manage(job: &Job, view: &View<'_>, numbers: &Numbers, backoff: Backoff, now: Timestamp, plan: &mut Plan<Action, JobStatus>) -> Moves {
    let mut moves = Moves { looked: true, ..Moves::default() };
    let active = view.active.len();
    let parallelism = usize::try_from(view.spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match view.spec.completions {
        _ if is_suspended(view.spec) => 0,
        None if numbers.succeeded > 0 => active,
        None => parallelism,
        Some(all) => usize::try_from(i64::from(all) - numbers.succeeded).unwrap_or(0).min(parallelism),
    };
    let mut remove = too_many(view, active.saturating_sub(wanted), now);
    remove.truncate(BURST);
    if !remove.is_empty() {
        plan.reasons.push(format!("{active} pods run, {wanted} wanted: {} go", remove.len()));
        for pod in &remove {
            let (name, uid) = (pods::name(pod).to_owned(), pods::uid(pod).to_owned());
            plan.actions.push(Action::Delete { pod: name, uid, untrack: true });
        }
        moves.deleted = remove;
        return moves;
    }
    let terminating = if view.replaces_only_ended() { view.terminating() } else { 0 };
    let missing = wanted.saturating_sub(terminating + active).min(BURST);
    if missing == 0 {
        return moves;
    }
    let (owner, spec) = (owner(&job.metadata), view.spec);
    let wait = if view.limit_per_index().is_some() { Duration::ZERO } else { backoff.remaining(now) };
    if !wait.is_zero() {
        plan.requeue_within(wait);
        return moves;
    }
    let new: Vec<Pod> = if view.indexed() {
        let (indexes, wait) = next_indexes(view, numbers, missing, now);
        if !wait.is_zero() {
            plan.requeue_within(wait);
        }
        let before = |index: i32| numbers.held.get(&index).map(|pod| &**pod);
        indexes.into_iter().map(|index| template::pod(job, spec, &owner, Some(index), before(index))).collect()
    } else {
        vec![template::pod(job, spec, &owner, None, None); missing]
    };
    if !new.is_empty() {
        moves.created = new.len();
        plan.reasons.push(format!("{active} pods run, {wanted} wanted: {} more", new.len()));
        plan.actions.push(Action::Create { pods: new });
    }
    moves
}

/// Deletes what still runs of a Job that is ending.
fn wind_up(view: &View<'_>, ending: &Ending, plan: &mut Plan<Action, JobStatus>) -> Moves {
    plan.reasons.push(ending.reason.clone());
    for pod in &view.active {
        let (name, uid) = (pods::name(pod).to_owned(), pods::uid(pod).to_owned());
        plan.actions.push(Action::Delete { pod: name, uid, untrack: ending.success });
    }
    Moves { deleted: view.active.clone(), ..Moves::default() }
}

/// Tells the Job suspended or resumed.
fn suspension(spec: &JobSpec, status: &mut JobStatus, notes: &mut Vec<Note>, now: Timestamp) {
    let (reason, message) = if is_suspended(spec) { ("JobSuspended", "Job suspended") } else { ("JobResumed", "Job resumed") };
    let mut wanted = conditions::condition("Suspended", reason, message, now);
    if !is_suspended(spec) {
        wanted.status = "False".to_owned();
    }
    if conditions::set(status, wanted) {
        notes.push(Note::normal(reason.trim_start_matches("Job"), message));
        // The deadline counts the time that the Job is active without a break.
        status.start_time = if is_suspended(spec) { None } else { time::api(now) };
    }
}

/// Absent and zero counters are one and the same, and so are absent and empty lists.
fn same(a: &JobStatus, b: &JobStatus) -> bool {
    let plain = |status: &JobStatus| {
        let mut status = status.clone();
        for counter in [&mut status.active, &mut status.succeeded, &mut status.failed] {
            *counter = counter.filter(|count| *count != 0);
        }
        status.completed_indexes = status.completed_indexes.filter(|text| !text.is_empty());
        status.conditions = status.conditions.filter(|list| !list.is_empty());
        let lists = status.uncounted_terminated_pods.get_or_insert_default();
        lists.succeeded = lists.succeeded.take().filter(|list| !list.is_empty());
        lists.failed = lists.failed.take().filter(|list| !list.is_empty());
        status
    };
    plain(a) == plain(b)
}

fn number(count: usize) -> Option<i32> {
    Some(i32::try_from(count).unwrap_or(i32::MAX))
}

/// The decision.
pub fn plan(job: &Job, observed: &Observed, now: Timestamp) -> Decision {
    let mut decision = Decision { plan: Plan::default(), backoff: observed.backoff, notes: Vec::new() };
    let Some(spec) = job.spec.as_ref().filter(|_| !is_managed_elsewhere(job) && !conditions::is_finished(job)) else {
        return decision;
    };
    let plan = &mut decision.plan;
    if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
        let text = "Skipped Job sync because completion mode is unknown";
        plan.actions.push(Action::Note(Note::warning("UnknownCompletionMode", text)));
        return decision;
    }
    let nothing = JobStatus::default();
    let stored = job.status.as_ref().unwrap_or(&nothing);
    let own = claim(job, spec, observed, &mut plan.actions);
    let view = View::new(job, spec, stored, own, observed);
    let numbers = numbers(&view);
    decision.backoff = observed.backoff.after(&view.fresh_succeeded(), &view.fresh_failed());

    let mut again = None;
    let mut ending = ending(&view, &numbers, now, &mut again);
    if let Some(delay) = again {
        plan.requeue_within(delay);
    }
    let settled = observed.creates_in_flight == 0 && !observed.hold;
    if observed.creates_in_flight > 0 {
        plan.requeue_within(LOOK_AFTER);
    }
    let moves = match &ending {
        Some(ending) if !observed.hold => wind_up(&view, ending, plan),
        None if settled && !view.deleting => manage(job, &view, &numbers, decision.backoff, now, plan),
        _ => Moves::default(),
    };
    let active = view.active.len() + observed.creates_in_flight + moves.created - moves.deleted.len();
    if ending.is_none() && active == 0 {
        let enough = spec.completions.map_or(numbers.succeeded > 0, |all| numbers.succeeded >= i64::from(all));
        if enough {
            ending = Some(Ending::success("CompletionsReached", "Reached expected number of succeeded pods"));
        }
    }

    let released = count::released(&view, ending.as_ref(), &numbers.held);
    plan.actions.extend(released.into_iter().map(|(pod, uid)| Action::Untrack { pod, uid }));
    let mut status = count::booked(&view, ending.as_ref(), &numbers.held, numbers.failed_indexes.as_ref());
    if status.start_time.is_none() && !is_suspended(spec) {
        status.start_time = time::api(now);
        // A deadline runs from now on.
        if let Some(seconds) = spec.active_deadline_seconds {
            plan.requeue_within(time::since(now, time::after_seconds(now, seconds)));
        }
    }
    let ready = |pods: &[Arc<Pod>]| pods.iter().filter(|pod| pods::is_ready(pod)).count();
    status.active = number(active);
    status.ready = number(ready(&view.active) - ready(&moves.deleted));
    status.terminating = number(view.terminating() + moves.deleted.len());
    match &ending {
        None if moves.looked => suspension(spec, &mut status, &mut decision.notes, now),
        None => {}
        Some(ending) if Ending::stored(stored).is_none() => {
            status.conditions.get_or_insert_default().push(ending.announced(now));
        }
        Some(ending) => {
            let over = active == 0 && view.terminating() == 0 && moves.deleted.is_empty();
            if over && count::is_settled(&view, &status) {
                finish(spec, ending, &mut status, &mut decision.notes, now);
            }
        }
    }
    if !same(&status, stored) {
        plan.status = Some(status);
    }
    decision
}

/// The last write.
fn finish(spec: &JobSpec, ending: &Ending, status: &mut JobStatus, notes: &mut Vec<Note>, now: Timestamp) {
    conditions::set(status, ending.done(now));
    if !ending.success {
        notes.push(Note::warning(&ending.reason, ending.message.clone()));
        return;
    }
    status.completion_time = time::api(now);
    if spec.completions.is_some_and(|all| status.succeeded.unwrap_or(0) > all) {
        let text = "Too many succeeded pods running after completion count reached";
        notes.push(Note::warning("TooManySucceededPods", text));
    }
    notes.push(Note::normal("Completed", "Job completed"));
}
