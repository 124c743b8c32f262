//! Decides what of a terminating namespace is deleted next, and what its conditions say.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use balsa_api::meta::GroupVersionResource;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::jiff::Timestamp;

use crate::common::{Plan, time};

/// The finalizer that holds a namespace until its content is gone.
pub const FINALIZER: &str = "kubernetes";

/// One object that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remaining {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Its deletion was asked for already.
    pub deleting: bool,
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// What is left, by resource; resources without objects are left out.
    pub content: Vec<(GroupVersionResource, Vec<Remaining>)>,
    /// Resources that could not be listed, and the last deletions that failed: texts.
    pub failures: Vec<String>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Delete an object.
    Delete {
        /// Where it is served.
        resource: GroupVersionResource,
        /// Its name.
        name: String,
        /// Its UID: the precondition.
        uid: String,
    },
    /// Take our finalizer off the namespace.
    Finalize,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete { resource, name, .. } => write!(f, "delete {resource}/{name}"),
            Self::Finalize => f.write_str("finalize"),
        }
    }
}

fn is_pods(resource: &GroupVersionResource) -> bool {
    resource.group.is_empty() && resource.resource == "pods"
}

fn condition(kind: &str, bad: Option<(&str, String)>, good: (&str, &str)) -> NamespaceCondition {
    let (status, reason, message) = match bad {
        Some((reason, message)) => ("True", reason.to_owned(), message),
        None => ("False", good.0.to_owned(), good.1.to_owned()),
    };
    NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason),
        message: Some(message),
        last_transition_time: None,
    }
}

fn remaining_text(observed: &Observed) -> Option<(&'static str, String)> {
    let parts: Vec<String> = observed
        .content
        .iter()
        .map(|(resource, left)| format!("{}.{} has {} resource instances", resource.resource, resource.group, left.len()))
        .collect();
    (!parts.is_empty()).then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {}", parts.join(", "))))
}

fn finalizers_text(observed: &Observed) -> Option<(&'static str, String)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for finalizer in observed.content.iter().flat_map(|(_, left)| left).flat_map(|object| &object.finalizers) {
        *counts.entry(finalizer).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let text = || format!("Some content in the namespace has finalizers remaining: {}", parts.join(", "));
    (!parts.is_empty()).then(|| ("SomeFinalizersRemain", text()))
}

/// The five conditions of a terminating namespace; transition times are kept where the status stays.
fn conditions(namespace: &Namespace, observed: &Observed, now: Timestamp) -> Vec<NamespaceCondition> {
    let failure = (!observed.failures.is_empty()).then(|| {
        let text = format!("Failed to delete all resource types, {} remaining: {}", observed.failures.len(), observed.failures.join(", "));
        ("ContentDeletionFailed", text)
    });
    let mut new = vec![
        condition(
            "NamespaceDeletionDiscoveryFailure",
            None,
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        condition(
            "NamespaceDeletionContentFailure",
            failure,
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        condition(
            "NamespaceContentRemaining",
            remaining_text(observed),
            ("ContentRemoved", "All content successfully removed"),
        ),
        condition(
            "NamespaceFinalizersRemaining",
            finalizers_text(observed),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let present = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for condition in &mut new {
        let before = present.iter().find(|before| before.type_ == condition.type_ && before.status == condition.status);
        condition.last_transition_time =
            before.map_or_else(|| time::api(now), |before| before.last_transition_time.clone());
    }
    let others = present.into_iter().filter(|before| !new.iter().any(|condition| condition.type_ == before.type_));
    let others: Vec<NamespaceCondition> = others.collect();
    new.splice(0..0, others);
    new
}

/// The decision. The status in the plan is the list of conditions.
pub fn plan(namespace: &Namespace, observed: &Observed, now: Timestamp) -> Plan<Action, Vec<NamespaceCondition>> {
    let mut plan = Plan::default();
    let ours = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    let is_ours = ours.is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == FINALIZER));
    if namespace.metadata.deletion_timestamp.is_none() || !is_ours {
        return plan;
    }
    let wanted = conditions(namespace, observed, now);
    let present = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
    if present != Some(&wanted) {
        plan.status = Some(wanted);
    }
    if observed.content.is_empty() && observed.failures.is_empty() {
        plan.reasons.push("the namespace is empty".to_owned());
        plan.actions.push(Action::Finalize);
        return plan;
    }
    // Pods may need what is beside them (a Secret in a preStop hook): they go first.
    let pods_left = observed.content.iter().any(|(resource, _)| is_pods(resource));
    for (resource, left) in observed.content.iter().filter(|(resource, _)| !pods_left || is_pods(resource)) {
        for object in left.iter().filter(|object| !object.deleting) {
            plan.actions.push(Action::Delete {
                resource: resource.clone(),
                name: object.name.clone(),
                uid: object.uid.clone(),
            });
        }
    }
    plan.reasons.push("the namespace is terminating".to_owned());
    plan.requeue_within(Duration::from_secs(1));
    plan
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NamespaceSpec, NamespaceStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn terminating() -> Namespace {
        Namespace {
            metadata: ObjectMeta {
                name: Some("ns".to_owned()),
                deletion_timestamp: time::api(Timestamp::UNIX_EPOCH),
                ..ObjectMeta::default()
            },
            spec: Some(NamespaceSpec { finalizers: Some(vec![FINALIZER.to_owned()]) }),
            status: Some(NamespaceStatus::default()),
        }
    }

    fn left(name: &str, finalizers: &[&str], deleting: bool) -> Remaining {
        let finalizers = finalizers.iter().map(|finalizer| (*finalizer).to_owned()).collect();
        Remaining { name: name.to_owned(), uid: format!("uid-{name}"), finalizers, deleting }
    }

    fn texts(plan: &Plan<Action, Vec<NamespaceCondition>>) -> Vec<String> {
        plan.actions.iter().map(ToString::to_string).collect()
    }

    fn message<'a>(plan: &'a Plan<Action, Vec<NamespaceCondition>>, kind: &str) -> &'a str {
        let conditions = plan.status.as_ref().expect("conditions change");
        conditions.iter().find(|condition| condition.type_ == kind).and_then(|c| c.message.as_deref()).unwrap_or_default()
    }

    #[test]
    fn pods_then_the_rest_then_the_finalizer() {
        let now = Timestamp::UNIX_EPOCH;
        let pods = GroupVersionResource::new("", "v1", "pods");
        let maps = GroupVersionResource::new("", "v1", "configmaps");
        let mut observed = Observed {
            content: vec![
                (maps.clone(), vec![left("m", &["example.com/hold"], false)]),
                (pods, vec![left("a", &[], true), left("b", &[], false)]),
            ],
            failures: Vec::new(),
        };
        let mut namespace = terminating();
        let first = plan(&namespace, &observed, now);
        assert_eq!(texts(&first), ["delete pods/b"], "a is on its way");
        assert_eq!(
            message(&first, "NamespaceContentRemaining"),
            "Some resources are remaining: configmaps. has 1 resource instances, pods. has 2 resource instances"
        );
        assert_eq!(
            message(&first, "NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        namespace.status.as_mut().unwrap().conditions = first.status;
        assert_eq!(plan(&namespace, &observed, now).status, None, "nothing new to say");
        observed.content.pop();
        assert_eq!(texts(&plan(&namespace, &observed, now)), ["delete configmaps/m"]);
        observed.content.clear();
        let last = plan(&namespace, &observed, now);
        assert_eq!(texts(&last), ["finalize"]);
        assert_eq!(message(&last, "NamespaceContentRemaining"), "All content successfully removed");
        observed.failures.push("cannot list pods".to_owned());
        assert!(!texts(&plan(&namespace, &observed, now)).contains(&"finalize".to_owned()), "unknown is not empty");
    }

    #[test]
    fn a_namespace_that_lives_or_is_finalized_is_left_alone() {
        let mut namespace = terminating();
        namespace.spec = Some(NamespaceSpec::default());
        assert!(plan(&namespace, &Observed::default(), Timestamp::UNIX_EPOCH).is_quiet());
        let mut namespace = terminating();
        namespace.metadata.deletion_timestamp = None;
        assert!(plan(&namespace, &Observed::default(), Timestamp::UNIX_EPOCH).is_quiet());
    }
}
