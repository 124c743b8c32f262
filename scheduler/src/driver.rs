//! The scheduler while it leads: changes in, cycles, bindings out.
//!
//! One task owns queue and snapshot. A pod that was given a node is *assumed* there at once, so that the next cycle
//! counts it, while the binding is on its way; a binding that is refused is undone. A binding whose fate is unknown is
//! sent again (to the same node) until it is known: freeing its place before could commit the node twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::events::{EventRecorder, EventType, object_reference};
use balsa_client::informer::{Change, Informer, Subscription};
use balsa_client::{Cause, Client};
use balsa_process::backoff::Backoff;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::conditions::{Waiting, Writer};
use crate::cycle::{self, Outcome, Turn};
use crate::explain::Explanations;
use crate::framework::{ClusterChange, Framework};
use crate::metrics::Metrics;
use crate::model::{PodInfo, Snapshot};
use crate::plugins::default_framework;
use crate::queue::{Queue, Queued};

/// The pods that are ours.
const SCHEDULER_NAME: &str = "default-scheduler";
/// Bindings on their way at once.
const BINDINGS: usize = 128;
/// Cycles between two looks at what changed.
const CYCLES: usize = 64;
const GATED: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// What the scheduler watches.
#[derive(Clone)]
pub(crate) struct Inputs {
    pub(crate) pods: Informer<Pod>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) namespaces: Informer<Namespace>,
}

struct Changes {
    pods: Subscription<Pod>,
    nodes: Subscription<Node>,
    namespaces: Subscription<Namespace>,
}

struct Assumed {
    queued: Queued,
    node: Arc<str>,
}

/// How a binding ended.
struct Bound {
    uid: Arc<str>,
    result: Result<(), balsa_client::Error>,
}

/// See the module.
pub(crate) struct Driver {
    client: Client,
    recorder: EventRecorder,
    conditions: Writer,
    metrics: Metrics,
    explanations: Explanations,
    lost: CancellationToken,
    framework: Framework,
    snapshot: Snapshot,
    queue: Queue,
    assumed: BTreeMap<Arc<str>, Assumed>,
    bindings: JoinSet<Bound>,
    turn: Turn,
    start: Instant,
}

impl Driver {
    pub(crate) fn new(
        client: Client,
        recorder: EventRecorder,
        metrics: Metrics,
        explanations: Explanations,
        lost: CancellationToken,
    ) -> Self {
        Self {
            conditions: Writer::start(&client, &lost),
            client,
            recorder,
            metrics,
            explanations,
            lost,
            framework: default_framework(),
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            assumed: BTreeMap::new(),
            bindings: JoinSet::new(),
            turn: Turn { start: 0, tie: rand::random() },
            start: Instant::now(),
        }
    }

    /// Schedules until leadership is lost.
    pub(crate) async fn run(mut self, inputs: &Inputs) {
        let lost = self.lost.clone();
        let synced = async {
            inputs.nodes.synced().await;
            inputs.namespaces.synced().await;
            inputs.pods.synced().await;
        };
        tokio::select! {
            () = lost.cancelled() => return,
            () = synced => {}
        }
        let mut changes = Changes {
            pods: inputs.pods.subscribe(),
            nodes: inputs.nodes.subscribe(),
            namespaces: inputs.namespaces.subscribe(),
        };
        loop {
            self.take_in(&mut changes);
            while let Some(bound) = self.bindings.try_join_next() {
                self.bound(bound.ok());
            }
            let more = self.cycles();
            self.metrics.lengths(self.queue.lengths());
            if more {
                tokio::task::yield_now().await;
                if lost.is_cancelled() {
                    return;
                }
                continue;
            }
            // While all bindings are taken, nobody would be scheduled anyway.
            let timer = self.queue.next_timer().filter(|_| self.bindings.len() < BINDINGS).map(|at| self.start + at);
            tokio::select! {
                () = lost.cancelled() => return,
                Some(change) = changes.nodes.recv() => self.node_changed(&change),
                Some(change) = changes.namespaces.recv() => self.namespace_changed(&change),
                Some(change) = changes.pods.recv() => self.pod_changed(&change),
                Some(bound) = self.bindings.join_next() => self.bound(bound.ok()),
                () = tokio::time::sleep_until(timer.unwrap_or_else(far)), if timer.is_some() => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Everything that changed until now; nodes first, so that pods find them.
    fn take_in(&mut self, changes: &mut Changes) {
        while let Some(change) = changes.namespaces.try_recv() {
            self.namespace_changed(&change);
        }
        while let Some(change) = changes.nodes.try_recv() {
            self.node_changed(&change);
        }
        while let Some(change) = changes.pods.try_recv() {
            self.pod_changed(&change);
        }
    }

    /// Runs some cycles; returns whether there is more to do at once.
    fn cycles(&mut self) -> bool {
        for _ in 0..CYCLES {
            if self.bindings.len() >= BINDINGS {
                return false;
            }
            let Some(queued) = self.queue.pop(self.now()) else { return false };
            self.cycle(queued);
        }
        true
    }

    fn cycle(&mut self, queued: Queued) {
        let started = Instant::now();
        self.turn.tie = self.turn.tie.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let turn = Turn { tie: self.turn.tie >> 33, ..self.turn };
        let outcome = cycle::schedule(&queued.pod, &self.snapshot, &self.framework, turn);
        self.metrics.cycle(started.elapsed().as_secs_f64());
        self.explanations.attempt(&queued.pod, &outcome, Timestamp::now().as_millisecond());
        match outcome {
            Outcome::Node(choice) => {
                self.turn.start = choice.next_start;
                self.assume(queued, choice.node);
            }
            Outcome::Unschedulable(diagnosis) => {
                self.metrics.attempt("unschedulable");
                let message = diagnosis.message();
                tracing::debug!(pod = queued.pod.key(), message, "unschedulable");
                self.failed(&queued.pod, "Unschedulable", message);
                let now = self.now();
                self.queue.unschedulable(queued, diagnosis.plugins, now);
            }
        }
    }

    /// Says that the pod could not be scheduled: event and condition.
    fn failed(&self, pod: &Arc<PodInfo>, reason: &'static str, message: String) {
        let reference = object_reference(&*pod.object);
        let action = "Scheduling";
        self.recorder.event_with_action(&reference, EventType::Warning, "FailedScheduling", action, message.clone());
        self.conditions.write(pod.clone(), Waiting { reason, message });
    }

    fn assume(&mut self, queued: Queued, node: Arc<str>) {
        let pod = queued.pod.clone();
        self.conditions.cancel(&pod.uid);
        self.snapshot.assign(&node, pod.clone());
        let assumed = Assumed { queued, node: node.clone() };
        self.assumed.insert(pod.uid.clone(), assumed);
        let (client, recorder) = (self.client.clone(), self.recorder.clone());
        self.bindings.spawn(async move {
            let result = bind(&client, &pod, &node).await;
            if result.is_ok() {
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                let reference = object_reference(&*pod.object);
                recorder.event_with_action(&reference, EventType::Normal, "Scheduled", "Binding", message);
            }
            Bound { uid: pod.uid.clone(), result }
        });
    }

    /// A binding ended; `None` where its task failed, which leaves the pod to the next leader.
    fn bound(&mut self, bound: Option<Bound>) {
        let Some(Bound { uid, result }) = bound else { return };
        let error = match result {
            Ok(()) => {
                self.metrics.attempt("scheduled");
                return;
            }
            Err(error) => error,
        };
        self.metrics.attempt("error");
        // Where the watch has reported meanwhile that it is bound or gone, that stands.
        let Some(Assumed { queued, node }) = self.assumed.remove(&uid) else { return };
        tracing::info!(pod = queued.pod.key(), %node, %error, "the binding was refused");
        self.snapshot.unassign(&uid);
        let freed = queued.pod.clone();
        if !freed.is_deleting() {
            // Where the pod itself was not found, the watch will tell so; saying more about it is no use.
            if !error.is_not_found() {
                self.failed(&freed, "SchedulerError", format!("binding rejected: {error}"));
            }
            let now = self.now();
            self.queue.retry(queued, now);
        }
        self.changed(&ClusterChange::PodFreed(&freed));
    }

    fn changed(&mut self, change: &ClusterChange<'_>) {
        let framework = &self.framework;
        let now = self.start.elapsed();
        self.queue.changed(now, |pod, rejected_by| framework.may_help(pod, rejected_by, change));
    }

    fn node_changed(&mut self, change: &Change<Node>) {
        let Some(new) = &change.new else {
            if let Some(name) = change.old.as_ref().and_then(|old| old.metadata.name.clone()) {
                self.snapshot.remove_node(&name);
                self.changed(&ClusterChange::NodeRemoved);
            }
            return;
        };
        let Some(name) = new.metadata.name.clone() else { return };
        let old = change.old.as_ref();
        // Heartbeats change the status only, and nothing in it that scheduling looks at.
        self.snapshot.set_node(new.clone());
        if old.is_some_and(|old| looks_alike(old, new)) {
            return;
        }
        let (framework, now) = (&self.framework, self.start.elapsed());
        let Some(node) = self.snapshot.node(&name) else { return };
        let change = match old {
            Some(old) => ClusterChange::NodeUpdated(node, old),
            None => ClusterChange::NodeAdded(node),
        };
        self.queue.changed(now, |pod, rejected_by| framework.may_help(pod, rejected_by, &change));
    }

    fn namespace_changed(&mut self, change: &Change<Namespace>) {
        match (&change.new, &change.old) {
            (Some(new), old) => {
                let Some(name) = &new.metadata.name else { return };
                let labels = new.metadata.labels.clone().unwrap_or_default();
                self.snapshot.set_namespace(name, labels);
                if old.as_ref().is_none_or(|old| old.metadata.labels != new.metadata.labels) {
                    self.changed(&ClusterChange::Namespace);
                }
            }
            (None, Some(old)) => self.snapshot.remove_namespace(old.metadata.name.as_deref().unwrap_or_default()),
            (None, None) => {}
        }
    }

    fn pod_changed(&mut self, change: &Change<Pod>) {
        let uid = |pod: &Option<Arc<Pod>>| pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        let (old, new) = (uid(&change.old), uid(&change.new));
        if let Some(old) = old.filter(|old| new.as_ref() != Some(old)) {
            self.pod_gone(&old);
        }
        let Some(object) = &change.new else { return };
        let pod = Arc::new(PodInfo::new(object.clone()));
        if pod.is_over() {
            self.pod_gone(&pod.uid);
        } else if let Some(node) = pod.node_name() {
            let node = node.to_owned();
            self.pod_assigned(&node, &pod);
        } else {
            self.pod_waits(pod);
        }
    }

    /// The pod uses nothing any more.
    fn pod_gone(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.assumed.remove(uid);
        self.conditions.cancel(uid);
        if let Some(assigned) = self.snapshot.unassign(uid) {
            self.changed(&ClusterChange::PodFreed(&assigned.pod));
        }
    }

    /// The pod is on a node, says the apiserver.
    fn pod_assigned(&mut self, node: &str, pod: &Arc<PodInfo>) {
        self.queue.remove(&pod.uid);
        let assumed = self.assumed.remove(&pod.uid).is_some();
        self.conditions.cancel(&pod.uid);
        let before = self.snapshot.assigned(&pod.uid).cloned();
        self.snapshot.assign(node, pod.clone());
        match before {
            Some(before) => {
                let moved = *before.node != *node;
                let shrank = before.pod.requests.grew_for(&pod.requests, &before.pod.requests);
                let relabelled = before.pod.labels != pod.labels;
                if moved || shrank || relabelled {
                    self.changed(&ClusterChange::PodFreed(&before.pod));
                }
                if relabelled || assumed {
                    self.changed(&ClusterChange::PodAssigned(pod));
                }
            }
            None => self.changed(&ClusterChange::PodAssigned(pod)),
        }
    }

    /// The pod has no node yet.
    fn pod_waits(&mut self, pod: Arc<PodInfo>) {
        let ours = pod.object.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
        let ours = ours.is_none_or(|name| name.is_empty() || name == SCHEDULER_NAME);
        if let Some(assumed) = self.assumed.get_mut(&pod.uid) {
            // Its binding is on its way; if that is refused, this is what is tried again.
            assumed.queued.pod = pod;
            return;
        }
        if !ours || pod.is_deleting() {
            self.queue.remove(&pod.uid);
            return;
        }
        if pod.is_gated() {
            self.conditions.write(pod.clone(), Waiting { reason: "SchedulingGated", message: GATED.to_owned() });
        }
        let now = self.now();
        self.queue.set(pod, now);
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Whether two states of a node are the same to every plugin.
fn looks_alike(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.metadata.labels == new.metadata.labels && old.spec == new.spec && allocatable(old) == allocatable(new)
}

/// Binds; returns only when the outcome is known.
async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), balsa_client::Error> {
    let cause = Cause::new(format!("scheduler: chose {node}")).seen(&pod.object.metadata);
    let mut backoff = Backoff::connection();
    loop {
        let error = match client.bind(&pod.namespace, &pod.name, &pod.uid, node, &cause).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error.is_conflict() && backoff.failures() > 0 && is_there(client, pod, node).await {
            return Ok(());
        }
        if !error.is_retryable() {
            return Err(error);
        }
        tracing::info!(pod = pod.key(), %error, "the fate of a binding is unknown: asking again");
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Whether an earlier sending of the binding did happen.
async fn is_there(client: &Client, pod: &PodInfo, node: &str) -> bool {
    client.get::<Pod>(&pod.namespace, &pod.name).await.is_ok_and(|now| {
        now.metadata.uid.as_deref() == Some(&*pod.uid)
            && now.spec.and_then(|spec| spec.node_name).is_some_and(|name| name == node)
    })
}
