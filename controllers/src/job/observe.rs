//! What there is for a Job: its pods, and what the caches do not show yet of our own or a predecessor's writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use balsa_client::{Error, ListParams, revision_of};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::backoff::Backoff;
use super::plan::Observed;
use super::view::has_finalizer;
use crate::common::{owners, pods, selector};
use crate::runtime::PodControl;
use crate::runtime::context::{controlled_by, uncontrolled_in};

/// What is remembered of one Job while it is unfinished.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// UIDs of pods that have lost their finalizer, until neither cache nor status may say otherwise.
    pub released: BTreeSet<String>,
    /// Failures as the last status write booked them.
    pub backoff: Backoff,
    /// Whether what a predecessor wrote has been read.
    pub taken_over: bool,
}

/// By UID of the Job. Clones share it.
#[derive(Clone, Default)]
pub struct Memories(Arc<Mutex<BTreeMap<String, Memory>>>);

impl Memories {
    /// What is remembered.
    pub fn of(&self, uid: &str) -> Memory {
        self.0.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes it.
    pub fn change(&self, uid: &str, change: impl FnOnce(&mut Memory)) {
        change(self.0.lock().entry(uid.to_owned()).or_default());
    }

    /// The Job is finished or gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

/// The UIDs that the stored status lists as finished and not counted yet.
fn uncounted(job: &Job) -> BTreeSet<String> {
    let lists = job.status.as_ref().and_then(|status| status.uncounted_terminated_pods.clone()).unwrap_or_default();
    lists.succeeded.into_iter().chain(lists.failed).flatten().collect()
}

/// Reads all pods of the Job live. What lost its finalizer or is gone is remembered as released, what the cache does
/// not have as being created.
async fn look_live(control: &PodControl, memories: &Memories, job: &Job, now: Timestamp) -> Result<(), Error> {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let wanted = job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let params = ListParams { label_selector: selector::text(&wanted), ..ListParams::default() };
    let live = control.context.client.list::<Pod>(namespace, &params).await?.items;
    let live: BTreeMap<&str, &Pod> =
        live.iter().filter(|pod| owners::is_controlled_by(&pod.metadata, uid)).map(|pod| (pods::uid(pod), pod)).collect();
    let cached = control.context.pods.cache().by_index(&controlled_by(uid));
    for pod in live.values().filter(|pod| !cached.iter().any(|known| pods::uid(known) == pods::uid(pod))) {
        control.flights.created(uid, &pod.metadata, now);
    }
    let tracked = |uid: &str| live.get(uid).is_some_and(|pod| has_finalizer(pod));
    memories.change(uid, |memory| {
        let known = cached.iter().map(|pod| pods::uid(pod).to_owned()).chain(uncounted(job));
        memory.released.extend(known.filter(|uid| !tracked(uid)));
    });
    Ok(())
}

/// Looks at the caches, and live where they may be behind. `None`: they are, look again in a moment.
/// `predecessors`: Jobs that were created before this may have been worked on by another copy.
pub async fn observe(
    control: &PodControl,
    memories: &Memories,
    job: &Job,
    predecessors: Timestamp,
    now: Timestamp,
) -> Result<Option<Observed>, Error> {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let created = job.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    if created < predecessors && !memories.of(uid).taken_over {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let live: Job = control.context.client.get(namespace, name).await?;
        if revision_of(&live.metadata) != revision_of(&job.metadata) {
            return Ok(None);
        }
        // After the Job: so its pods are at least as new as what it says about them.
        look_live(control, memories, job, now).await?;
        memories.change(uid, |memory| memory.taken_over = true);
    }
    control.look_at_doubtful(namespace, uid, now).await?;
    let cache = control.context.pods.cache();
    let listed = uncounted(job);
    let memory = memories.of(uid);
    let in_cache: BTreeSet<String> =
        cache.by_index(&controlled_by(uid)).iter().map(|pod| pods::uid(pod).to_owned()).collect();
    if listed.iter().any(|uid| !in_cache.contains(uid) && !memory.released.contains(uid)) {
        look_live(control, memories, job, now).await?;
    }
    let (creates, deletes_in_flight) = control.flights.of(uid, now);
    let mut own: Vec<Arc<Pod>> = cache.by_index(&controlled_by(uid));
    for pod in &own {
        control.flights.seen(&pod.metadata, false);
    }
    let creates_in_flight = creates.iter().filter(|uid| !own.iter().any(|pod| pods::uid(pod) == uid.as_str())).count();
    // A release is remembered until the cache shows it and the status is done with the pod.
    let shown = |uid: &String| own.iter().find(|pod| pods::uid(pod) == uid).is_none_or(|pod| !has_finalizer(pod));
    memories.change(uid, |memory| memory.released.retain(|uid| listed.contains(uid) || !shown(uid)));
    let memory = memories.of(uid);
    let wanted = job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let orphans = cache.by_index(&uncontrolled_in(namespace));
    own.extend(orphans.into_iter().filter(|pod| selector::matches(&wanted, pod.metadata.labels.as_ref())));
    own.sort_by(|a, b| pods::name(a).cmp(pods::name(b)));
    Ok(Some(Observed {
        pods: own,
        creates_in_flight,
        deletes_in_flight,
        released: memory.released,
        backoff: memory.backoff,
        hold: false,
    }))
}
