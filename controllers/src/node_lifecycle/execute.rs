//! Two loops: one keeps conditions and taints of nodes, the other removes pods from tainted nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Cause, DeleteOptions, Error, Patch};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::disruption::Limiter;
use super::eviction::{self, FirstSeen, Verdict, taint_name};
use super::observe;
use super::plan::{self, Action, Grace, Health, Observed, readiness};
use crate::common::{Key, Note, pods, time};
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers};

/// How often all nodes are looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Keeps conditions and taints of nodes.
pub struct NodeLifecycle {
    context: Context,
    grace: Grace,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    health: BTreeMap<String, Health>,
    ready: BTreeMap<String, bool>,
    limiter: Limiter,
}

impl NodeLifecycle {
    /// Runs until `stop`. `grace`: how long a node that has been heard of may be silent.
    pub async fn run(context: Context, grace: Duration, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.nodes.synced().await;
                context.pods.synced().await;
                context.node_leases.synced().await;
            } => {}
        }
        let grace = Grace { running: grace, starting: grace.max(Duration::from_secs(60)) };
        let controller = Arc::new(Self { context: context.clone(), grace, memory: Mutex::default() });
        let mut workers = Workers::default();
        // One key for all: who may lose its pods depends on everybody. Lease renewals are seen at the period.
        workers.tick("nodes".to_owned(), PERIOD.min(grace.running / 4));
        workers.feed(&context.nodes, |change| {
            let same = match (&change.old, &change.new) {
                (Some(old), Some(new)) => old.spec == new.spec && readiness(old) == readiness(new) && conditions(old) == conditions(new),
                _ => false,
            };
            if same { Vec::new() } else { vec!["nodes".to_owned()] }
        });
        workers.run(controller, 1, &context.metrics, &stop).await;
    }

    /// What is remembered now, and for each node what has to be decided.
    fn look(&self, nodes: &[Arc<Node>]) -> Vec<Observed> {
        let now = self.context.now();
        let mut memory = self.memory.lock();
        let memory = &mut *memory;
        let names: BTreeSet<String> = nodes.iter().filter_map(|node| node.metadata.name.clone()).collect();
        for gone in memory.health.keys().filter(|name| !names.contains(*name)) {
            let about = node_reference(gone, None);
            let text = format!("Node {gone} event: Removing Node {gone} from Controller");
            self.context.note_reference(&about, &Note::normal("RemovingNode", text));
        }
        memory.health.retain(|name, _| names.contains(name));
        memory.ready.retain(|name, _| names.contains(name));
        let references: Vec<&Node> = nodes.iter().map(|node| &**node).collect();
        let evicting = memory.limiter.round(&references, observe::is_evicting, now);
        let mut all = Vec::with_capacity(nodes.len());
        for node in nodes {
            let name = node.metadata.name.clone().unwrap_or_default();
            let before = memory.health.get(&name);
            if before.is_none() {
                let text = format!("Node {name} event: Registered Node {name} in Controller");
                self.context.note_reference(&node_reference(&name, node.metadata.uid.clone()), &Note::normal("RegisteredNode", text));
            }
            let health = plan::hear(before, node, observe::lease(&self.context, &name).as_deref(), now);
            memory.health.insert(name.clone(), health.clone());
            let was_ready = memory.ready.insert(name.clone(), readiness(node) == "True");
            let pods = observe::pods(&self.context, &name);
            all.push(Observed { node: node.clone(), health, pods, may_evict: evicting.contains(&name), was_ready });
        }
        all
    }

    async fn act(&self, node: &Node, action: Action, why: &Cause) -> Result<(), Error> {
        let client = &self.context.client;
        let name = node.metadata.name.as_deref().unwrap_or_default();
        match action {
            Action::SetConditions(conditions) => {
                let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}});
                client.patch::<Node>("", name, "status", Patch::Strategic(patch), why).await?;
            }
            Action::SetTaints(taints) => self.set_taints(node, &taints, why).await?,
            Action::MarkNotReady { namespace, pod, uid } => {
                let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [{
                    "type": "Ready", "status": "False", "lastTransitionTime": time::api(self.context.now()),
                }]}});
                match client.patch::<Pod>(&namespace, &pod, "status", Patch::Strategic(patch), why).await {
                    Ok(pod) => self.context.note(&pod, &Note::warning("NodeNotReady", "Node is not ready")),
                    Err(error) if error.is_not_found() || error.is_conflict() => {}
                    Err(error) => return Err(error),
                }
            }
            Action::Note(note) => self.context.note_reference(&node_reference(name, node.metadata.uid.clone()), &note),
        }
        Ok(())
    }

    /// A list without merge key: replaced as a whole, under the version on which it was decided.
    async fn set_taints(&self, node: &Node, taints: &[Taint], why: &Cause) -> Result<(), Error> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let live: Node = self.context.client.get("", name).await?;
        let list = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        if live.metadata.uid != node.metadata.uid || list(&live) != list(node) {
            // Somebody else was faster; the informer will tell.
            return Ok(());
        }
        let patch = json!({
            "metadata": {"uid": live.metadata.uid, "resourceVersion": live.metadata.resource_version},
            "spec": {"taints": taints},
        });
        self.context.client.patch::<Node>("", name, "", Patch::Merge(patch), why).await.map(|_| ())
    }
}

/// What of the conditions matters here.
fn conditions(node: &Node) -> Vec<(String, String)> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().map(|condition| (condition.type_.clone(), condition.status.clone())).collect()
}

/// As node agents and controllers name a node in events: its name is its UID there.
fn node_reference(name: &str, uid: Option<String>) -> k8s_openapi::api::core::v1::ObjectReference {
    k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid,
        ..Default::default()
    }
}

impl Reconciler for NodeLifecycle {
    type Key = String;
    const NAME: &'static str = "node-lifecycle";

    async fn reconcile(&self, _: &String) -> Result<Option<Duration>, Error> {
        let mut nodes = self.context.nodes.cache().list();
        nodes.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut result = Ok(());
        for observed in self.look(&nodes) {
            let plan = plan::plan(self.grace, &observed, self.context.now());
            let why = cause(Self::NAME, &plan.cause(), &observed.node.metadata);
            for action in plan.actions {
                tracing::debug!(controller = Self::NAME, node = observed.node.metadata.name, %action);
                match self.act(&observed.node, action, &why).await {
                    Err(error) if error.is_not_found() => {}
                    Err(error) => result = Err(error),
                    Ok(()) => {}
                }
            }
        }
        result.map(|()| None)
    }
}

/// Removes pods from nodes with NoExecute taints, each when its tolerations run out.
pub struct TaintEviction {
    context: Context,
    memory: Mutex<EvictionMemory>,
}

#[derive(Default)]
struct EvictionMemory {
    /// Since when taints without a time of their own are seen, by node.
    first_seen: BTreeMap<String, FirstSeen>,
    /// Pods (UID) that are waiting for their time.
    waiting: BTreeSet<String>,
}

impl TaintEviction {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { context.nodes.synced().await; context.pods.synced().await } => {}
        }
        let controller = Arc::new(Self { context: context.clone(), memory: Mutex::default() });
        let mut workers = Workers::default();
        let no_execute = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
            taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect::<Vec<_>>()
        };
        let cache = context.pods.cache();
        workers.feed(&context.nodes, move |change| {
            let list = |node: &Option<Arc<Node>>| node.as_ref().map(|node| no_execute(node)).unwrap_or_default();
            if list(&change.old) == list(&change.new) {
                return Vec::new();
            }
            let name = change.object().and_then(|node| node.metadata.name.clone()).unwrap_or_default();
            let pods = cache.by_index(&crate::runtime::context::on_node(&name));
            pods.iter().map(|pod| Key::of(&pod.metadata)).collect()
        });
        workers.feed(&context.pods, |change| change.object().map(|pod| Key::of(&pod.metadata)).into_iter().collect());
        workers.run(controller, 4, &context.metrics, &stop).await;
    }

    fn taints(&self, node: &str) -> (Vec<Taint>, FirstSeen) {
        let taints = self.context.nodes.cache().get("", node).and_then(|node| node.spec.clone()?.taints).unwrap_or_default();
        let taints: Vec<Taint> = taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect();
        let now = self.context.now();
        let mut memory = self.memory.lock();
        if taints.is_empty() {
            memory.first_seen.remove(node);
            return (taints, FirstSeen::new());
        }
        let seen = memory.first_seen.entry(node.to_owned()).or_default();
        seen.retain(|name, _| taints.iter().any(|taint| taint_name(taint) == *name));
        for taint in &taints {
            seen.entry(taint_name(taint)).or_insert(now);
        }
        (taints.clone(), seen.clone())
    }

    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let key = Key::of(&pod.metadata);
        self.context.note(pod, &Note::normal("TaintManagerEviction", format!("Marking for deletion Pod {key}")));
        let why = cause("taint-eviction", "a NoExecute taint is not tolerated (any longer)", &pod.metadata);
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": time::api(self.context.now()),
            "observedGeneration": pod.metadata.generation,
        }]}});
        let client = &self.context.client;
        match client.patch::<Pod>(&key.namespace, &key.name, "status", Patch::Strategic(patch), &why).await {
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        match client.delete::<Pod>(&key.namespace, &key.name, options, &why).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Reconciler for TaintEviction {
    type Key = Key;
    const NAME: &'static str = "taint-eviction";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.context.pods.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        let uid = pods::uid(&pod).to_owned();
        if pods::node(&pod).is_empty() || pods::is_terminating(&pod) {
            self.memory.lock().waiting.remove(&uid);
            return Ok(None);
        }
        let (taints, first_seen) = self.taints(pods::node(&pod));
        let now = self.context.now();
        match eviction::verdict(&pod, &taints, &first_seen, now) {
            Verdict::Stay => {
                if self.memory.lock().waiting.remove(&uid) {
                    let text = format!("Cancelling deletion of Pod {key}");
                    self.context.note(&*pod, &Note::normal("TaintManagerEviction", text));
                }
                Ok(None)
            }
            Verdict::LeaveAt(at) if at > now => {
                self.memory.lock().waiting.insert(uid);
                Ok(Some(time::since(now, at)))
            }
            Verdict::LeaveAt(_) => {
                self.evict(&pod).await?;
                self.memory.lock().waiting.remove(&uid);
                Ok(None)
            }
        }
    }
}
