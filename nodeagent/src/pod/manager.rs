//! All pods of the node: a worker for each, one listing of the engine for all, and what they share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::informer::{Cache, Change, Subscription};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::{Mutex, RwLock};
use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::life::Stage;
use super::actuate;
use super::observed::{Admission, NodeFacts};
use super::resize::Verdict;
use super::worker::{Desired, Inbox, Worker};
use super::{orphans, view};
use crate::api::PodApi;
use crate::env::fields::Surroundings;
use crate::env::files::Dns;
use crate::node::admission;
use crate::runtime::{ContainerStatus, Runtime, RuntimeEvent, SandboxStatus};
use crate::volume::Layout;

/// Between two listings of the engine.
const RELIST: Duration = Duration::from_secs(5);
/// Between two listings that were asked for.
const RELIST_LEAST: Duration = Duration::from_millis(100);

/// What every pod of the node sees.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Shows in statuses.
    pub node: NodeFacts,
    /// How names are resolved.
    pub dns: Dns,
    /// The Node object, once there is one.
    pub object: Node,
    /// Memory of the machine, bytes.
    pub memory_bytes: i64,
}

/// What the engine has of one pod.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When the listing began.
    pub began: Instant,
    /// Its sandboxes.
    pub sandboxes: Vec<SandboxStatus>,
    /// Its containers.
    pub containers: Vec<ContainerStatus>,
}

/// What all workers share.
pub struct Shared {
    /// The engine.
    pub runtime: Arc<dyn Runtime>,
    /// The API server.
    pub api: Arc<dyn PodApi>,
    /// Where files are.
    pub layout: Layout,
    /// No real containers: no files either.
    pub hollow: bool,
    /// Turns for starts.
    pub starts: Semaphore,
    /// Turns for image pulls.
    pub pulls: Semaphore,
    /// Rung for a listing soon.
    pub relist: Notify,
    facts: RwLock<Facts>,
    /// Pods that the node has taken and that have not ended, by UID.
    taken: Mutex<BTreeMap<String, Arc<Pod>>>,
    /// Every pod that has a worker, as last reported, by UID.
    reported: RwLock<BTreeMap<String, Arc<Pod>>>,
    /// Pods that want the next listing in any case.
    again: Mutex<BTreeSet<String>>,
    began: Instant,
}

impl Shared {
    /// Over an engine and an API.
    pub fn new(runtime: Arc<dyn Runtime>, api: Arc<dyn PodApi>, layout: Layout, hollow: bool, facts: Facts) -> Self {
        let turns = if hollow { 64 } else { 4 };
        Self {
            runtime,
            api,
            layout,
            hollow,
            starts: Semaphore::new(turns),
            pulls: Semaphore::new(turns),
            relist: Notify::new(),
            facts: RwLock::new(facts),
            taken: Mutex::default(),
            reported: RwLock::default(),
            again: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// What is known of the node now.
    pub fn facts(&self) -> Facts {
        self.facts.read().clone()
    }

    /// Takes in what changed about the node.
    pub fn set_facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.write());
    }

    /// What a pod may ask about where it is.
    pub fn surroundings(&self, pod: &Pod, pod_ips: Vec<String>) -> Surroundings {
        let facts = self.facts.read();
        let host_ips: Vec<_> = facts.node.host_ips.iter().map(IpAddr::to_string).collect();
        let allocatable = facts.object.status.as_ref().and_then(|status| status.allocatable.as_ref());
        Surroundings {
            pod_ips: if view::host_network(pod) { host_ips.clone() } else { pod_ips },
            host_ips,
            node_name: facts.node.name.clone(),
            allocatable: allocatable.into_iter().flatten().map(|(name, amount)| (name.clone(), amount.0.clone())).collect(),
        }
    }

    /// Weighs a pod against the node and, where it fits, counts it in at once.
    pub fn admit(&self, pod: &Arc<Pod>) -> Admission {
        let node = self.facts.read().object.clone();
        let mut taken = self.taken.lock();
        let uid = view::uid(pod);
        let others: Vec<&Pod> = taken.iter().filter(|(other, _)| *other != uid).map(|(_, pod)| pod.as_ref()).collect();
        let admission = admission::admit(pod, &node, &others);
        if admission == Admission::Accepted {
            taken.insert(uid.to_owned(), pod.clone());
        }
        admission
    }

    /// Weighs a resize against the node and, where it fits, counts it in at once.
    pub fn resize(&self, pod: &Arc<Pod>) -> Verdict {
        let node = self.facts.read().object.clone();
        let mut taken = self.taken.lock();
        let uid = view::uid(pod);
        let others: Vec<&Pod> = taken.iter().filter(|(other, _)| *other != uid).map(|(_, pod)| pod.as_ref()).collect();
        let verdict = admission::resize(pod, &node, &others);
        if verdict == Verdict::Fits {
            taken.insert(uid.to_owned(), pod.clone());
        }
        verdict
    }

    /// Remembers a pod as reported, and with what it counts; one that has ended no longer counts against the node.
    pub fn note(&self, pod: &Arc<Pod>, counted: &Arc<Pod>, stage: Stage) {
        let uid = view::uid(pod);
        match stage {
            Stage::Admitting => {}
            Stage::Preparing | Stage::Initializing | Stage::Running | Stage::Terminating => {
                self.taken.lock().insert(uid.to_owned(), counted.clone());
            }
            Stage::Rejected | Stage::Completed | Stage::Cleaning | Stage::Deleting | Stage::Gone => {
                self.taken.lock().remove(uid);
            }
        }
        let same = self.reported.read().get(uid).is_some_and(|known| Arc::ptr_eq(known, pod));
        if !same {
            self.reported.write().insert(uid.to_owned(), pod.clone());
        }
    }

    /// Nothing is left of a pod.
    pub fn forget(&self, uid: &str) {
        self.taken.lock().remove(uid);
        self.reported.write().remove(uid);
    }

    /// A pod could not use the last listing.
    pub fn ask_again(&self, uid: &str) {
        self.again.lock().insert(uid.to_owned());
    }

    /// Spreads first probes, only shortly after the agent's start.
    pub fn splay(&self) -> Duration {
        if cfg!(test) || self.began.elapsed() > Duration::from_secs(10) {
            return Duration::ZERO;
        }
        Duration::from_millis(rand::rng().random_range(0..1000))
    }

    /// The pod with the status that was reported last.
    pub fn reported(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let reported = self.reported.read();
        // Of two with one name, the younger.
        reported
            .values()
            .filter(|pod| view::namespace(pod) == namespace && view::name(pod) == name)
            .max_by_key(|pod| pod.metadata.creation_timestamp.clone())
            .cloned()
    }
}

struct Handle {
    pod: Arc<Pod>,
    desired: watch::Sender<Desired>,
    listed: watch::Sender<Snapshot>,
    events: mpsc::Sender<RuntimeEvent>,
}

/// Keeps a worker for every pod.
pub struct Manager {
    shared: Arc<Shared>,
    handles: BTreeMap<String, Handle>,
    workers: JoinSet<String>,
    /// What the engine had at the last listing, by UID.
    last: BTreeMap<String, Snapshot>,
    cleaning: BTreeSet<String>,
    cleaners: JoinSet<String>,
}

impl Manager {
    /// Without any pod yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            handles: BTreeMap::new(),
            workers: JoinSet::new(),
            last: BTreeMap::new(),
            cleaning: BTreeSet::new(),
            cleaners: JoinSet::new(),
        }
    }

    /// Works until `stop`. `pods` must be synced before orphans are looked for, so this waits for `synced`.
    pub async fn run(
        mut self,
        cache: Cache<Pod>,
        mut changes: Subscription<Pod>,
        synced: impl Future<Output = ()>,
        stop: CancellationToken,
    ) {
        // Nothing is planned before it is known what runs here already.
        while !self.list().await {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = synced => {}
        }
        // Those that run already count first.
        for pod in cache.list() {
            if view::status(&pod).start_time.is_some() && !view::is_terminal(&pod) {
                // With what an earlier agent gave them, not with what they ask for meanwhile.
                let kept = if self.shared.hollow { None } else { actuate::load(&self.shared.layout, &pod).allocated };
                let counted = kept.map_or_else(|| pod.clone(), |given| Arc::new(given.applied_to(&pod)));
                self.shared.note(&pod, &counted, Stage::Running);
            }
        }
        let mut events = self.shared.runtime.events().await.ok();
        let mut next = Instant::now() + RELIST;
        loop {
            let event = async {
                match &mut events {
                    Some(events) => events.recv().await,
                    None => std::future::pending().await,
                }
            };
            let relist = self.shared.clone();
            tokio::select! {
                () = stop.cancelled() => break,
                change = changes.recv() => match change {
                    Some(change) => self.changed(change),
                    None => break,
                },
                event = event => match event {
                    Some(event) => self.route(event),
                    None => events = None,
                },
                Some(done) = self.workers.join_next() => self.ended(done),
                Some(done) = self.cleaners.join_next() => {
                    if let Ok(uid) = done {
                        self.cleaning.remove(&uid);
                    }
                }
                () = relist.relist.notified() => next = next.min(Instant::now() + RELIST_LEAST),
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + RELIST;
                    if self.list().await {
                        self.clean_orphans(&cache);
                    }
                    if events.is_none() {
                        events = self.shared.runtime.events().await.ok();
                    }
                }
            }
        }
    }

    fn changed(&mut self, change: Change<Pod>) {
        let (old, new) = (change.old, change.new);
        if let Some(old) = old {
            let replaced = new.as_ref().is_none_or(|new| view::uid(new) != view::uid(&old));
            if replaced && let Some(handle) = self.handles.get(view::uid(&old)) {
                // Fails only where the worker has ended.
                let _ = handle.desired.send(Desired { pod: old, gone: true });
            }
        }
        if let Some(new) = new {
            self.desire(new);
        }
    }

    /// Gives a pod to its worker; makes one where there is none.
    pub fn desire(&mut self, pod: Arc<Pod>) {
        let uid = view::uid(&pod).to_owned();
        if let Some(handle) = self.handles.get(&uid) {
            let _ = handle.desired.send(Desired { pod, gone: false });
            return;
        }
        let snapshot = self.last.get(&uid).cloned();
        let nothing = Snapshot { began: Instant::now(), sandboxes: Vec::new(), containers: Vec::new() };
        let snapshot = snapshot.unwrap_or(nothing);
        let (desired, hear_desired) = watch::channel(Desired { pod: pod.clone(), gone: false });
        let (listed, hear_listed) = watch::channel(snapshot.clone());
        let (events, hear_events) = mpsc::channel(64);
        let worker = Worker::new(self.shared.clone(), pod.clone(), &snapshot);
        let inbox = Inbox { desired: hear_desired, listed: hear_listed, events: hear_events };
        let name = uid.clone();
        self.workers.spawn(async move {
            worker.run(inbox).await;
            name
        });
        self.handles.insert(uid, Handle { pod, desired, listed, events });
    }

    fn ended(&mut self, done: Result<String, tokio::task::JoinError>) {
        match done {
            Ok(uid) => {
                self.handles.remove(&uid);
            }
            Err(error) => tracing::error!(%error, "a pod's worker ended without an end"),
        }
    }

    fn route(&mut self, event: RuntimeEvent) {
        // Our own doing: the action that did it has seen it.
        if matches!(event.what.as_str(), "create" | "start") {
            return;
        }
        if let Some(handle) = self.handles.get(&event.pod_uid) {
            // A full queue loses nothing that the next listing does not bring.
            let _ = handle.events.try_send(event);
        }
    }

    /// Lists what the engine has and tells each worker whose pod looks different; whether the engine answered.
    async fn list(&mut self) -> bool {
        let began = Instant::now();
        let runtime = &self.shared.runtime;
        let listed = tokio::join!(runtime.list_sandboxes(), runtime.list_containers());
        let (sandboxes, containers) = match listed {
            (Ok(sandboxes), Ok(containers)) => (sandboxes, containers),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "cannot list containers");
                return false;
            }
        };
        let mut all: BTreeMap<String, Snapshot> = BTreeMap::new();
        let empty = || Snapshot { began, sandboxes: Vec::new(), containers: Vec::new() };
        for sandbox in sandboxes {
            all.entry(sandbox.pod.uid.clone()).or_insert_with(empty).sandboxes.push(sandbox);
        }
        for container in containers {
            all.entry(container.pod.uid.clone()).or_insert_with(empty).containers.push(container);
        }
        let again = std::mem::take(&mut *self.shared.again.lock());
        for (uid, handle) in &self.handles {
            let (old, new) = (self.last.get(uid), all.get(uid));
            let same = match (old, new) {
                (Some(old), Some(new)) => old.sandboxes == new.sandboxes && old.containers == new.containers,
                (None, None) => true,
                _ => false,
            };
            if !same || again.contains(uid) {
                let _ = handle.listed.send(new.cloned().unwrap_or_else(empty));
            }
        }
        self.last = all;
        true
    }

    /// Takes away what belongs to no pod of this node.
    fn clean_orphans(&mut self, cache: &Cache<Pod>) {
        let mut known: BTreeSet<String> = self.handles.keys().cloned().collect();
        known.extend(cache.list().iter().map(|pod| view::uid(pod).to_owned()));
        known.extend(self.cleaning.iter().cloned());
        let sandboxes: Vec<_> = self.last.values().flat_map(|snapshot| snapshot.sandboxes.clone()).collect();
        let containers: Vec<_> = self.last.values().flat_map(|snapshot| snapshot.containers.clone()).collect();
        for uid in orphans::plan(&known, &sandboxes, &containers) {
            tracing::info!(uid, "containers of a pod that is not there any more: taken away");
            self.cleaning.insert(uid.clone());
            let shared = self.shared.clone();
            self.cleaners.spawn(async move {
                if let Err(error) = orphans::remove_all(shared.runtime.as_ref(), &uid).await {
                    tracing::warn!(uid, %error, "orphan not taken away, to be tried again");
                } else if !shared.hollow {
                    // What is missing is as good as removed.
                    let _ = tokio::fs::remove_dir_all(shared.layout.pod(&uid)).await;
                }
                uid
            });
        }
    }

    /// How many pods have a worker.
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// Namespaces and names of pods with a worker.
    pub fn names(&self) -> Vec<String> {
        self.handles.values().map(|handle| format!("{}/{}", view::namespace(&handle.pod), view::name(&handle.pod))).collect()
    }
}
