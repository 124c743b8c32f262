//! Decides what one node's conditions and taints should be, and which of its pods are to be marked not ready.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::jiff::Timestamp;

use crate::common::{Note, Plan, pods, time};

/// Taint of a node whose Ready condition is False.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node whose Ready condition is Unknown.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of a cordoned node.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, status, taint: NoSchedule taints that follow conditions.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that nobody reports any more when a node is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// How long silence is borne.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// For a node that has been heard of.
    pub running: Duration,
    /// For a node that never reported anything.
    pub starting: Duration,
}

/// What the controller remembers of a node between looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Renewal of its Lease and heartbeat of its Ready condition, as last seen.
    pub sign: (Option<Timestamp>, Option<Timestamp>),
    /// When we saw that change.
    pub heard_at: Timestamp,
}

/// The memory after another look.
pub fn hear(before: Option<&Health>, node: &Node, lease: Option<&Lease>, now: Timestamp) -> Health {
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
    let heartbeat = condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
    // What we ourselves write (status Unknown) keeps the heartbeat, so it is no sign of life.
    let sign = (renewed, heartbeat);
    match before {
        Some(before) if before.sign == sign => before.clone(),
        None if heartbeat.is_none() && renewed.is_none() => {
            let created = node.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
            Health { sign, heard_at: created.min(now) }
        }
        _ => Health { sign, heard_at: now },
    }
}

/// One of a node's conditions.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Status of the Ready condition; `Unknown` where it was never reported.
pub fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |ready| ready.status.as_str())
}

/// What there is about one node.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The node.
    pub node: Arc<Node>,
    /// What we know of its life.
    pub health: Health,
    /// Its pods.
    pub pods: Vec<Arc<Pod>>,
    /// Whether its pods may be driven out now.
    pub may_evict: bool,
    /// Whether it was ready when we last looked; `None` the first time.
    pub was_ready: Option<bool>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Replace these conditions in the node's status.
    SetConditions(Vec<NodeCondition>),
    /// Replace the whole list of taints.
    SetTaints(Vec<Taint>),
    /// Set a pod's Ready condition to False.
    MarkNotReady {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
        /// Its UID: the precondition.
        uid: String,
    },
    /// Tell a person, about the node.
    Note(Note),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetConditions(conditions) => {
                let texts = conditions.iter().map(|condition| {
                    format!("{}={} {}", condition.type_, condition.status, condition.reason.as_deref().unwrap_or_default())
                });
                write!(f, "conditions {}", texts.collect::<Vec<_>>().join(", "))
            }
            Self::SetTaints(taints) => {
                let texts: Vec<String> = taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect();
                write!(f, "taints [{}]", texts.join(", "))
            }
            Self::MarkNotReady { namespace, pod, .. } => write!(f, "not ready {namespace}/{pod}"),
            Self::Note(note) => note.fmt(f),
        }
    }
}

/// The conditions of a node that fell silent, as far as they have to change.
fn silent_conditions(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let mut changed = Vec::new();
    for kind in REPORTED {
        match condition(node, kind) {
            None => changed.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: time::api(now),
            }),
            Some(present) if present.status != "Unknown" => changed.push(NodeCondition {
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusUnknown".to_owned()),
                message: Some("Kubelet stopped posting node status.".to_owned()),
                last_transition_time: time::api(now),
                ..present.clone()
            }),
            Some(_) => {}
        }
    }
    changed
}

fn is_ours(taint: &Taint) -> bool {
    let by_condition = || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
    match taint.effect.as_str() {
        "NoSchedule" => by_condition(),
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

/// The taints that a node should have, in a stable order: others' first, then ours.
pub fn taints(node: &Node, may_evict: bool, now: Timestamp) -> Vec<Taint> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let status = |kind: &str| condition(node, kind).map(|condition| condition.status.clone());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, value, key) in BY_CONDITION {
        if status(kind).as_deref() == Some(value) {
            wanted.push((key, "NoSchedule"));
        }
    }
    if condition(node, "Ready").is_none() {
        // Nothing was reported yet: the taint that admission put there stays.
        wanted.push((NOT_READY, "NoSchedule"));
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if may_evict {
        match status("Ready").as_deref() {
            Some("False") => wanted.push((NOT_READY, "NoExecute")),
            Some("Unknown") => wanted.push((UNREACHABLE, "NoExecute")),
            _ => {}
        }
    }
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut result: Vec<Taint> = present.iter().filter(|taint| !is_ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !result.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            let (key, effect) = ((*key).to_owned(), (*effect).to_owned());
            result.push(Taint { key, effect, value: None, time_added: time::api(now) });
        }
    }
    result
}

/// Pods that were ready before their node stopped being so.
fn pods_to_mark(node: &Node, pods_of_node: &[Arc<Pod>]) -> Vec<Action> {
    let Some(ready) = condition(node, "Ready").filter(|ready| ready.status != "True") else { return Vec::new() };
    let lost_at = ready.last_transition_time.as_ref().map(|time| time.0);
    // A node that is alive but not ready may say so itself of its pods, and may take it back: ours is said once.
    let before = |pod: &Pod| ready.status == "Unknown" || pods::ready_since(pod) < lost_at;
    let marked = pods_of_node.iter().filter(|pod| pods::is_ready(pod) && before(pod));
    marked
        .map(|pod| Action::MarkNotReady {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            pod: pods::name(pod).to_owned(),
            uid: pods::uid(pod).to_owned(),
        })
        .collect()
}

/// The decision about one node.
pub fn plan(grace: Grace, observed: &Observed, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::default();
    let mut node = Node::clone(&observed.node);
    let name = node.metadata.name.clone().unwrap_or_default();
    let never_heard = observed.health.sign == (None, None);
    let borne = if never_heard { grace.starting } else { grace.running };
    let silence = time::since(observed.health.heard_at, now);
    if silence > borne {
        let changed = silent_conditions(&node, now);
        if !changed.is_empty() {
            plan.reasons.push(format!("node {name} silent for {} s", silence.as_secs()));
            let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
            for condition in &changed {
                conditions.retain(|present| present.type_ != condition.type_);
                conditions.push(condition.clone());
            }
            plan.actions.push(Action::SetConditions(changed));
        }
    } else {
        plan.requeue_within(borne.saturating_sub(silence) + Duration::from_millis(100));
    }
    let is_ready = readiness(&node) == "True";
    if observed.was_ready == Some(true) && !is_ready {
        plan.actions.push(Action::Note(Note::normal("NodeNotReady", format!("Node {name} status is now: NodeNotReady"))));
    }
    let wanted = taints(&node, observed.may_evict, now);
    if wanted != node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default() {
        plan.reasons.push(format!("taints of node {name} follow its conditions"));
        plan.actions.push(Action::SetTaints(wanted));
    }
    plan.actions.extend(pods_to_mark(&node, &observed.pods));
    plan
}
