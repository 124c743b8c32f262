//! Decides which pods a ReplicaSet adopts, releases, creates and deletes, and what its status says.
//!
//! Not here: who is deleted first (`rank.rs`), how the status is counted (`status.rs`), any writing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{rank, status};
use crate::common::in_flight::LOOK_AFTER;
use crate::common::owners::{self, Claim, Owner};
use crate::common::{Plan, pods};

/// Most pods that one round creates or deletes.
pub const BURST: usize = 500;

/// What a ReplicaSet or ReplicationController asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The set itself, as its pods name it.
    pub owner: Owner,
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// How many pods.
    pub replicas: i32,
    /// Ready for this long (seconds) is available.
    pub min_ready_seconds: i32,
    /// Which pods are its own.
    pub selector: LabelSelector,
    /// What its pods look like.
    pub template: PodTemplateSpec,
    /// Its deletion was asked for.
    pub deleting: bool,
    /// The status as it stands.
    pub status: ReplicaSetStatus,
}

/// Why the last round of writes failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`
    pub reason: &'static str,
    /// The apiserver's words.
    pub message: String,
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Pods of the namespace that the set controls or that its selector matches.
    pub pods: Vec<Arc<Pod>>,
    /// Creations that `pods` does not show yet.
    pub creates_in_flight: usize,
    /// UIDs of pods whose deletion we asked for; `pods` may not show it yet.
    pub deletes_in_flight: BTreeSet<String>,
    /// Active pods per node of all sets with the same controller (old and new ReplicaSets of one Deployment).
    pub related_per_node: BTreeMap<String, usize>,
    /// Set when the last round of writes failed.
    pub failure: Option<Failure>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Put our reference on a pod.
    Adopt {
        /// Name of the pod.
        pod: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Take our reference off a pod.
    Release {
        /// Name of the pod.
        pod: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Create this pod so many times, in batches that grow while they succeed.
    Create {
        /// The whole object.
        pod: Box<Pod>,
        /// How many.
        count: usize,
    },
    /// Delete a pod.
    Delete {
        /// Name of the pod.
        pod: String,
        /// Its UID: the precondition.
        uid: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { pod, .. } => write!(f, "adopt {pod}"),
            Self::Release { pod, .. } => write!(f, "release {pod}"),
            Self::Create { pod, count } => {
                write!(f, "create {count} of {}", pod.metadata.generate_name.as_deref().unwrap_or_default())
            }
            Self::Delete { pod, .. } => write!(f, "delete {pod}"),
        }
    }
}

/// The pod that a template makes for an owner. The apiserver completes the name.
pub fn pod_from_template(template: &PodTemplateSpec, owner: &Owner) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name)),
            namespace: Some(owner.namespace.clone()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner.controller_reference()]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The pods that are ours, after adoption; and the writes that make it so.
fn claim(desired: &Desired, observed: &Observed, actions: &mut Vec<Action>) -> Vec<Arc<Pod>> {
    let mut own = Vec::new();
    for pod in &observed.pods {
        let name = pods::name(pod).to_owned();
        match owners::claim(&desired.owner, desired.deleting, &desired.selector, &pod.metadata) {
            Claim::Keep => own.push(pod.clone()),
            // A finished orphan is no replica: taking it would only get it deleted with us.
            Claim::Adopt if pods::is_active(pod) => {
                let patch = owners::adoption_patch(&desired.owner, &pod.metadata);
                actions.push(Action::Adopt { pod: name, patch });
                own.push(pod.clone());
            }
            Claim::Release => {
                let patch = owners::release_patch(&desired.owner.uid, &pod.metadata);
                actions.push(Action::Release { pod: name, patch });
            }
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    own
}

/// The decision.
pub fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan<Action, ReplicaSetStatus> {
    let mut plan = Plan::default();
    let own = claim(desired, observed, &mut plan.actions);
    let going = |pod: &Pod| observed.deletes_in_flight.contains(pods::uid(pod));
    let active: Vec<&Arc<Pod>> = own.iter().filter(|pod| pods::is_active(pod) && !going(pod)).collect();
    let present = active.len() + observed.creates_in_flight;
    let wanted = usize::try_from(desired.replicas).unwrap_or(0);
    if !desired.deleting {
        if present < wanted {
            let count = (wanted - present).min(BURST);
            plan.reasons.push(format!("{present} of {wanted} replicas: {count} more"));
            let pod = Box::new(pod_from_template(&desired.template, &desired.owner));
            plan.actions.push(Action::Create { pod, count });
        } else if present > wanted && observed.creates_in_flight == 0 {
            // While creations are unconfirmed the best victim may be one that is not seen yet.
            let count = (present - wanted).min(BURST);
            plan.reasons.push(format!("{present} of {wanted} replicas: {count} too many"));
            for pod in rank::victims(&active, count, &observed.related_per_node, now) {
                let (name, uid) = (pods::name(pod).to_owned(), pods::uid(pod).to_owned());
                plan.actions.push(Action::Delete { pod: name, uid });
            }
        }
    }
    let counted = status::count(desired, &own, observed, now);
    if let Some(delay) = counted.recheck_after {
        plan.requeue_within(delay);
    }
    if observed.creates_in_flight > 0 {
        plan.requeue_within(LOOK_AFTER);
    }
    if counted.status != desired.status {
        plan.status = Some(counted.status);
    }
    plan
}
