//! What the pods of a Job are to it: active, terminating, finished and not counted yet, held back for their successor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::TRACKING;
use super::backoff::finished_at;
use super::indexes::Indexes;
use super::plan::Observed;
use super::policy::{Verdict, verdict};
use super::template::{INDEX, failures};
use crate::common::pods;

/// Whether a pod has the finalizer.
pub fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|one| one == TRACKING)
}

/// A Job and its pods, sorted by index, then name.
pub struct View<'a> {
    /// What is asked for.
    pub spec: &'a JobSpec,
    /// As it is stored.
    pub stored: &'a JobStatus,
    /// Its deletion was asked for.
    pub deleting: bool,
    /// All pods that are ours.
    pub own: Vec<Arc<Pod>>,
    /// Those of them that run or will.
    pub active: Vec<Arc<Pod>>,
    released: &'a BTreeSet<String>,
    deleted: &'a BTreeSet<String>,
}

impl<'a> View<'a> {
    /// `own`: pods that are ours, in any order.
    pub fn new(job: &Job, spec: &'a JobSpec, stored: &'a JobStatus, mut own: Vec<Arc<Pod>>, observed: &'a Observed) -> Self {
        own.sort_by(|a, b| (any_index(a), pods::name(a)).cmp(&(any_index(b), pods::name(b))));
        let deleted = &observed.deletes_in_flight;
        let active = own.iter().filter(|pod| pods::is_active(pod) && !deleted.contains(pods::uid(pod))).cloned().collect();
        let deleting = job.metadata.deletion_timestamp.is_some();
        Self { spec, stored, deleting, own, active, released: &observed.released, deleted }
    }

    /// Whether its pods have indexes.
    pub fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// How many indexes there are.
    pub fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    /// Whether every index has a back-off limit of its own.
    pub fn limit_per_index(&self) -> Option<i32> {
        self.spec.backoff_limit_per_index.filter(|_| self.indexed())
    }

    /// Whether a terminating pod is replaced only when it has ended.
    pub fn replaces_only_ended(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }

    /// The index of a pod, if the Job has such an index.
    pub fn index(&self, pod: &Pod) -> Option<i32> {
        any_index(pod).filter(|index| *index < self.completions())
    }

    /// Whether somebody, perhaps we a moment ago, asked for its deletion and it has not ended.
    pub fn is_terminating(&self, pod: &Pod) -> bool {
        !pods::is_finished(pod) && (pods::is_terminating(pod) || self.deleted.contains(pods::uid(pod)))
    }

    /// How many are terminating.
    pub fn terminating(&self) -> usize {
        self.own.iter().filter(|pod| self.is_terminating(pod)).count()
    }

    /// Whether it still has its finalizer: only then it may be uncounted.
    pub fn is_tracked(&self, pod: &Pod) -> bool {
        has_finalizer(pod) && !self.released.contains(pods::uid(pod))
    }

    /// Whether a pod that ended, or never will, counts as a failure.
    pub fn is_failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            // It may vanish with its node without ever being told Failed.
            _ => !self.replaces_only_ended() && self.is_terminating(pod),
        }
    }

    /// What the failure policy says about a failed pod.
    pub fn verdict(&self, pod: &Pod) -> Verdict {
        verdict(self.spec.pod_failure_policy.as_ref(), pod)
    }

    fn listed(list: Option<&Vec<String>>, pod: &Pod) -> bool {
        list.into_iter().flatten().any(|uid| uid == pods::uid(pod))
    }

    /// Whether the stored status lists it among the succeeded.
    pub fn listed_succeeded(&self, pod: &Pod) -> bool {
        Self::listed(self.stored.uncounted_terminated_pods.as_ref().and_then(|pods| pods.succeeded.as_ref()), pod)
    }

    /// Whether the stored status lists it among the failed.
    pub fn listed_failed(&self, pod: &Pod) -> bool {
        Self::listed(self.stored.uncounted_terminated_pods.as_ref().and_then(|pods| pods.failed.as_ref()), pod)
    }

    /// Pods that may have to be counted: tracked, in no list, of a valid index where there are indexes.
    fn fresh(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.own.iter().filter(|pod| {
            self.is_tracked(pod)
                && !self.listed_succeeded(pod)
                && !self.listed_failed(pod)
                && (!self.indexed() || self.index(pod).is_some())
        })
    }

    /// Pods that succeeded since the stored status was written.
    pub fn fresh_succeeded(&self) -> Vec<&Pod> {
        let completed = self.stored_completed();
        let known = |pod: &Pod| self.index(pod).is_some_and(|index| self.indexed() && completed.has(index));
        self.fresh().filter(|pod| pods::phase(pod) == "Succeeded" && !known(pod)).map(|pod| &**pod).collect()
    }

    /// Pods that failed since the stored status was written, ignored ones included.
    pub fn fresh_failed(&self) -> Vec<&Pod> {
        self.fresh().filter(|pod| self.is_failed(pod)).map(|pod| &**pod).collect()
    }

    /// Succeeded indexes that the stored status knows.
    pub fn stored_completed(&self) -> Indexes {
        Indexes::parse(self.stored.completed_indexes.as_deref().unwrap_or_default(), self.completions())
    }

    /// All succeeded indexes.
    pub fn succeeded_indexes(&self) -> Indexes {
        // One that was listed as failed while it was going stays a failure: its index is tried again.
        let succeeded = |pod: &&Arc<Pod>| pods::phase(pod) == "Succeeded" && !self.listed_failed(pod);
        let fresh = self.own.iter().filter(|pod| self.is_tracked(pod)).filter(succeeded);
        self.stored_completed().with(&fresh.filter_map(|pod| self.index(pod)).collect())
    }

    /// All failed indexes, of a Job with limits per index.
    pub fn failed_indexes(&self) -> Option<Indexes> {
        let limit = self.limit_per_index()?;
        let failed = |pod: &&Arc<Pod>| {
            self.is_tracked(pod)
                && self.is_failed(pod)
                && match self.verdict(pod) {
                    Verdict::FailIndex => true,
                    Verdict::Ignore => false,
                    Verdict::Count | Verdict::FailJob(_) => failures(pod).counted >= limit,
                }
        };
        let fresh = self.own.iter().filter(failed).filter_map(|pod| self.index(pod)).collect();
        let stored = self.stored.failed_indexes.as_deref().unwrap_or_default();
        Some(Indexes::parse(stored, self.completions()).with(&fresh))
    }

    /// Indexes that active pods have.
    pub fn active_indexes(&self) -> BTreeSet<i32> {
        self.active.iter().filter_map(|pod| any_index(pod)).collect()
    }

    /// Indexes that terminating pods have.
    pub fn terminating_indexes(&self) -> BTreeSet<i32> {
        self.own.iter().filter(|pod| self.is_terminating(pod)).filter_map(|pod| any_index(pod)).collect()
    }

    /// The last failed pod of each index that is neither done nor running: it hands its count of failures to the next.
    pub fn held_back(&self, succeeded: &Indexes, failed: &Indexes) -> BTreeMap<i32, Arc<Pod>> {
        let active = self.active_indexes();
        let mut held: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in self.own.iter().filter(|pod| self.is_tracked(pod) && self.is_failed(pod)) {
            let Some(index) = self.index(pod) else { continue };
            if succeeded.has(index) || failed.has(index) || active.contains(&index) {
                continue;
            }
            let rank = |pod: &Pod| (failures(pod).all(), finished_at(pod));
            if held.get(&index).is_none_or(|known| rank(known) <= rank(pod)) {
                held.insert(index, pod.clone());
            }
        }
        held
    }
}

/// The index that a pod carries.
fn any_index(pod: &Pod) -> Option<i32> {
    let text = pod.metadata.annotations.as_ref()?.get(INDEX)?;
    text.parse().ok().filter(|index| *index >= 0)
}
