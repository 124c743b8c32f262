//! The books of a Job: which finished pods its status lists, when one moves from a list into a counter, and which pods
//! may lose their finalizer because the stored status has them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::conditions::Ending;
use super::indexes::Indexes;
use super::policy::Verdict;
use super::view::View;
use crate::common::pods;

/// Most pods that the status lists, and that lose their finalizer in one round.
const MOST: usize = 500;

/// What must be in the status before a pod may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Nothing: it does not count.
    Nothing,
    /// Its UID, among the succeeded.
    Succeeded,
    /// Its index.
    Index(i32),
    /// Its UID, among the failed.
    Failed,
}

/// `None`: it is not over with this pod yet.
fn mark(view: &View<'_>, pod: &Arc<Pod>, ending: Option<&Ending>, held: &BTreeMap<i32, Arc<Pod>>) -> Option<Mark> {
    let runs = pods::is_active(pod) && !view.is_terminating(pod);
    if runs && !view.deleting {
        return None;
    }
    let succeeded = pods::phase(pod) == "Succeeded";
    let failed = view.is_failed(pod);
    let is_held = held.values().any(|one| pods::uid(one) == pods::uid(pod));
    if !(view.deleting || ending.is_some() || succeeded || (failed && !is_held)) {
        return None;
    }
    if succeeded && !view.listed_failed(pod) {
        return Some(match view.index(pod) {
            _ if !view.indexed() => Mark::Succeeded,
            Some(index) => Mark::Index(index),
            None => Mark::Nothing,
        });
    }
    // When the Job fails, every pod that has not succeeded did so too.
    if !(failed || ending.is_some_and(|ending| !ending.success)) || (view.indexed() && view.index(pod).is_none()) {
        return Some(Mark::Nothing);
    }
    Some(if view.verdict(pod) == Verdict::Ignore { Mark::Nothing } else { Mark::Failed })
}

/// The finalizers that may go now: (name, UID) of pods whose mark the stored status has.
pub fn released(view: &View<'_>, ending: Option<&Ending>, held: &BTreeMap<i32, Arc<Pod>>) -> Vec<(String, String)> {
    let stored_ending = Ending::stored(view.stored).is_some();
    let completed = view.stored_completed();
    let may_go = |pod: &&Arc<Pod>| match mark(view, pod, ending, held) {
        None => false,
        Some(Mark::Succeeded) => view.listed_succeeded(pod),
        Some(Mark::Failed) => view.listed_failed(pod),
        Some(Mark::Index(index)) => completed.has(index),
        // Where the reason is how the Job ends, that has to be stored first.
        Some(Mark::Nothing) => ending.is_none() || stored_ending || view.deleting,
    };
    let tracked = view.own.iter().filter(|pod| view.is_tracked(pod)).filter(may_go);
    tracked.take(MOST).map(|pod| (pods::name(pod).to_owned(), pods::uid(pod).to_owned())).collect()
}

/// Moves what has lost its finalizer from a list into its counter. Says how many moved.
fn settle(list: &mut Vec<String>, tracked: &BTreeSet<&str>) -> i32 {
    let before = list.len();
    list.retain(|uid| tracked.contains(uid.as_str()));
    i32::try_from(before - list.len()).unwrap_or(i32::MAX)
}

/// Lists, counters and indexes as they should be stored next.
pub fn booked(
    view: &View<'_>,
    ending: Option<&Ending>,
    held: &BTreeMap<i32, Arc<Pod>>,
    failed_indexes: Option<&Indexes>,
) -> JobStatus {
    let mut status = view.stored.clone();
    let lists = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let (mut succeeded, mut failed) = (lists.succeeded.unwrap_or_default(), lists.failed.unwrap_or_default());
    let tracked: BTreeSet<&str> =
        view.own.iter().filter(|pod| view.is_tracked(pod)).map(|pod| pods::uid(pod)).collect();
    status.succeeded = Some(status.succeeded.unwrap_or(0).saturating_add(settle(&mut succeeded, &tracked)));
    status.failed = Some(status.failed.unwrap_or(0).saturating_add(settle(&mut failed, &tracked)));
    let mut indexes = BTreeSet::new();
    for pod in view.own.iter().filter(|pod| view.is_tracked(pod)) {
        if succeeded.len() + failed.len() + indexes.len() >= MOST {
            break;
        }
        let uid = pods::uid(pod).to_owned();
        match mark(view, pod, ending, held) {
            Some(Mark::Succeeded) if !succeeded.contains(&uid) => succeeded.push(uid),
            Some(Mark::Failed) if !failed.contains(&uid) => failed.push(uid),
            Some(Mark::Index(index)) => {
                indexes.insert(index);
            }
            _ => {}
        }
    }
    if view.indexed() {
        let completed = view.stored_completed().with(&indexes);
        status.succeeded = Some(i32::try_from(completed.count()).unwrap_or(i32::MAX));
        status.completed_indexes = Some(completed.to_string()).filter(|text| !text.is_empty());
        status.failed_indexes = failed_indexes.map(ToString::to_string);
    }
    let list = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
    status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { succeeded: list(succeeded), failed: list(failed) });
    status
}

/// Whether every pod is counted: no list holds one, and none has its finalizer.
pub fn is_settled(view: &View<'_>, status: &JobStatus) -> bool {
    let lists = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let empty = |list: Option<Vec<String>>| list.is_none_or(|list| list.is_empty());
    empty(lists.succeeded) && empty(lists.failed) && !view.own.iter().any(|pod| view.is_tracked(pod))
}
