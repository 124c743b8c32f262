//! A pod, parsed for scheduling.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_api::selector::{Operator, Requirement};
use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::resources::{Resources, pod_requests};

/// A port of the node that a pod wants for itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `0.0.0.0` for every address.
    pub ip: String,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// Conditions on a node, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTerm {
    /// On its labels.
    pub labels: Vec<Requirement>,
    /// On its name.
    pub name: Vec<Requirement>,
}

/// A [`NodeTerm`] that is only wished for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferredTerm {
    /// 1 to 100.
    pub weight: i64,
    /// The conditions.
    pub term: NodeTerm,
}

/// Which pods a pod wants, or does not want, beside itself, and how near.
#[derive(Debug, Clone, PartialEq)]
pub struct PodTerm {
    /// Namespaces by name.
    pub namespaces: Vec<String>,
    /// And by label.
    pub namespace_selector: Option<LabelSelector>,
    /// Which pods.
    pub selector: Option<LabelSelector>,
    /// Two nodes are beside each other where this label of theirs is equal.
    pub topology_key: String,
    /// 1 to 100 for wishes; 0 for demands.
    pub weight: i64,
}

/// How evenly pods have to be spread.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// Largest allowed difference.
    pub max_skew: i64,
    /// Domains are the values of this label.
    pub topology_key: String,
    /// Which pods count.
    pub selector: Option<LabelSelector>,
    /// Fewer domains count as an empty one.
    pub min_domains: i64,
    /// Whether it must hold (`DoNotSchedule`).
    pub required: bool,
    /// Whether nodes that the pod's affinity excludes are left out.
    pub honor_affinity: bool,
    /// Whether nodes with untolerated taints are left out.
    pub honor_taints: bool,
}

/// A pod, parsed once.
#[derive(Debug)]
pub struct PodInfo {
    /// The object.
    pub object: Arc<Pod>,
    /// Its uid.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Larger is more urgent.
    pub priority: i32,
    /// What it needs.
    pub requests: Resources,
    /// What scores assume that it needs.
    pub assumed: Resources,
    /// Ports that it needs of the node.
    pub host_ports: Vec<HostPort>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// One of these must match, where there are any.
    pub node_terms: Option<Vec<NodeTerm>>,
    /// These are wished for.
    pub preferred_nodes: Vec<PreferredTerm>,
    /// Must be beside each of these.
    pub affinity: Vec<PodTerm>,
    /// Must not be beside any of these.
    pub anti_affinity: Vec<PodTerm>,
    /// Wants to be beside (weight above 0) or not (below 0).
    pub preferred_pods: Vec<PodTerm>,
    /// How evenly it has to be spread.
    pub spread: Vec<Spread>,
    /// Images of its containers.
    pub images: Vec<String>,
}

fn requirement(expression: &NodeSelectorRequirement) -> Option<Requirement> {
    let mut values = expression.values.clone().unwrap_or_default();
    values.sort();
    let number = || values.first().and_then(|value| value.parse().ok());
    let operator = match expression.operator.as_str() {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan(number()?),
        "Lt" => Operator::LessThan(number()?),
        _ => return None,
    };
    Some(Requirement { key: expression.key.clone(), operator })
}

/// `None` where the term can match nothing: it is empty or malformed.
fn node_term(term: &NodeSelectorTerm) -> Option<NodeTerm> {
    let labels: Option<Vec<_>> = term.match_expressions.iter().flatten().map(requirement).collect();
    let name: Option<Vec<_>> = term.match_fields.iter().flatten().map(requirement).collect();
    let (labels, name) = (labels?, name?);
    let known_fields = name.iter().all(|field| field.key == "metadata.name");
    (known_fields && !(labels.is_empty() && name.is_empty())).then_some(NodeTerm { labels, name })
}

/// Adds what `matchLabelKeys` say: the same value as the pod itself has (or another).
fn with_label_keys(
    selector: Option<&LabelSelector>,
    labels: &BTreeMap<String, String>,
    same: Option<&Vec<String>>,
    different: Option<&Vec<String>>,
) -> Option<LabelSelector> {
    let mut selector = selector.cloned()?;
    for (keys, operator) in [(same, "In"), (different, "NotIn")] {
        for key in keys.into_iter().flatten() {
            if let Some(value) = labels.get(key) {
                let key = key.clone();
                let values = Some(vec![value.clone()]);
                let added = LabelSelectorRequirement { key, operator: operator.to_owned(), values };
                let expressions = selector.match_expressions.get_or_insert_default();
                if !expressions.contains(&added) {
                    expressions.push(added);
                }
            }
        }
    }
    Some(selector)
}

fn pod_term(term: &PodAffinityTerm, weight: i64, namespace: &str, labels: &BTreeMap<String, String>) -> PodTerm {
    let mut namespaces = term.namespaces.clone().unwrap_or_default();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(namespace.to_owned());
    }
    let (same, different) = (term.match_label_keys.as_ref(), term.mismatch_label_keys.as_ref());
    PodTerm {
        namespaces,
        namespace_selector: term.namespace_selector.clone(),
        selector: with_label_keys(term.label_selector.as_ref(), labels, same, different),
        topology_key: term.topology_key.clone(),
        weight,
    }
}

fn spread(constraint: &TopologySpreadConstraint, labels: &BTreeMap<String, String>) -> Spread {
    Spread {
        max_skew: i64::from(constraint.max_skew),
        topology_key: constraint.topology_key.clone(),
        selector: with_label_keys(
            constraint.label_selector.as_ref(),
            labels,
            constraint.match_label_keys.as_ref(),
            None,
        ),
        min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
        required: constraint.when_unsatisfiable == "DoNotSchedule",
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let or = |text: &Option<String>, default: &str| {
                text.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
            };
            Some(HostPort { port: number, protocol: or(&port.protocol, "TCP"), ip: or(&port.host_ip, "0.0.0.0") })
        })
        .collect()
}

impl PodInfo {
    /// Parses a pod.
    pub fn new(object: Arc<Pod>) -> Self {
        let meta = &object.metadata;
        let spec = object.spec.clone().unwrap_or_default();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let labels = meta.labels.clone().unwrap_or_default();
        let affinity = spec.affinity.clone().unwrap_or_default();
        let nodes = affinity.node_affinity.unwrap_or_default();
        let (near, apart) = (affinity.pod_affinity.unwrap_or_default(), affinity.pod_anti_affinity.unwrap_or_default());
        let terms = |terms: Option<Vec<PodAffinityTerm>>| -> Vec<PodTerm> {
            terms.iter().flatten().map(|term| pod_term(term, 0, &namespace, &labels)).collect()
        };
        let wishes = |terms: Option<Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<PodTerm> {
            let wish = |wish: &WeightedPodAffinityTerm| {
                pod_term(&wish.pod_affinity_term, sign * i64::from(wish.weight), &namespace, &labels)
            };
            terms.iter().flatten().map(wish).collect()
        };
        let mut preferred_pods = wishes(near.preferred_during_scheduling_ignored_during_execution, 1);
        preferred_pods.extend(wishes(apart.preferred_during_scheduling_ignored_during_execution, -1));
        let node_terms = nodes.required_during_scheduling_ignored_during_execution;
        let node_terms = node_terms.map(|required| required.node_selector_terms.iter().filter_map(node_term).collect());
        let preferred_nodes = nodes.preferred_during_scheduling_ignored_during_execution;
        let preferred_nodes = preferred_nodes
            .iter()
            .flatten()
            .filter_map(|wish| {
                Some(PreferredTerm { weight: i64::from(wish.weight), term: node_term(&wish.preference)? })
            })
            .collect();
        Self {
            uid: meta.uid.clone().unwrap_or_default().into(),
            name: meta.name.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests: pod_requests(&object, false),
            assumed: pod_requests(&object, true),
            host_ports: host_ports(&spec),
            affinity: terms(near.required_during_scheduling_ignored_during_execution),
            anti_affinity: terms(apart.required_during_scheduling_ignored_during_execution),
            preferred_pods,
            spread: spec.topology_spread_constraints.iter().flatten().map(|c| spread(c, &labels)).collect(),
            tolerations: spec.tolerations.unwrap_or_default(),
            node_selector: spec.node_selector.unwrap_or_default(),
            node_terms,
            preferred_nodes,
            images: spec.containers.iter().filter_map(|container| container.image.clone()).collect(),
            namespace,
            labels,
            object,
        }
    }

    /// `NAMESPACE/NAME`
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The node that its spec names.
    pub fn node_name(&self) -> Option<&str> {
        self.object.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether it uses nothing any more.
    pub fn is_over(&self) -> bool {
        let phase = self.object.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Whether it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Whether somebody still holds it back from scheduling.
    pub fn is_gated(&self) -> bool {
        self.object.spec.as_ref().is_some_and(|spec| spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()))
    }
}
