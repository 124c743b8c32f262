//! What may enter and leave each isolated pod of a node. Pure.
//!
//! The rules are those of the NetworkPolicy API: a pod that some policy selects for a direction is isolated in that
//! direction, and what any of those policies allows is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use balsa_api::selector::matches_label_selector;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Inputs, LocalPod, PolicyPod};
use crate::network::cidr::Cidr;
use crate::network::service::backends::Protocol;

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// Anybody.
    Any,
    /// These addresses.
    Pods(BTreeSet<Ipv4Addr>),
    /// A range but for parts of it.
    Block(Cidr, Vec<Cidr>),
}

/// Inclusive ranges of ports by protocol, in order and apart. `None`: any port of any protocol.
pub type Ports = Option<BTreeMap<Protocol, Vec<(u16, u16)>>>;

/// Something that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allow {
    /// These peers, to these ports.
    Peers(Peers, Ports),
    /// Exactly these ports of these pods: what a named port of an egress rule comes to.
    Pairs(BTreeSet<(Ipv4Addr, Protocol, u16)>),
}

/// The two directions of one pod. `None`: not isolated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodRules {
    /// What may enter.
    pub ingress: Option<Vec<Allow>>,
    /// What may leave.
    pub egress: Option<Vec<Allow>>,
}

/// Rules by address of an isolated pod of this node.
pub type Plan = BTreeMap<Ipv4Addr, PodRules>;

/// Plans for the pods of this node. A pod that is not known yet, in a namespace that has policies, is closed until it
/// is: its labels may be those of the strictest of them.
pub fn plan(inputs: &Inputs, local: &[LocalPod]) -> Plan {
    let known: BTreeMap<(&str, &str), &PolicyPod> =
        inputs.pods.iter().map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), pod.as_ref())).collect();
    let mut plan = Plan::new();
    for pod in local {
        let policies = inputs.policies.iter().filter(|policy| policy.metadata.namespace.as_deref() == Some(&pod.namespace));
        let mut policies = policies.peekable();
        if policies.peek().is_none() {
            continue;
        }
        let rules = match known.get(&(pod.namespace.as_str(), pod.name.as_str())) {
            Some(known) => {
                let selecting: Vec<&NetworkPolicy> = policies.map(AsRef::as_ref).filter(|policy| selects(policy, known)).collect();
                rules_of(&selecting, known, inputs)
            }
            None => PodRules { ingress: Some(Vec::new()), egress: Some(Vec::new()) },
        };
        if rules != PodRules::default() {
            plan.extend(pod.ips.iter().map(|ip| (*ip, rules.clone())));
        }
    }
    plan
}

fn selects(policy: &NetworkPolicy, pod: &PolicyPod) -> bool {
    let Some(spec) = &policy.spec else { return false };
    // An absent selector is an empty one here.
    spec.pod_selector.is_none() || matches_label_selector(spec.pod_selector.as_ref(), Some(&pod.labels))
}

fn has_type(policy: &NetworkPolicy, direction: &str) -> bool {
    let Some(spec) = &policy.spec else { return false };
    match spec.policy_types.as_deref() {
        Some(types) if !types.is_empty() => types.iter().any(|own| own == direction),
        _ => direction == "Ingress" || spec.egress.as_ref().is_some_and(|egress| !egress.is_empty()),
    }
}

fn rules_of(policies: &[&NetworkPolicy], pod: &PolicyPod, inputs: &Inputs) -> PodRules {
    let of_type = |direction: &'static str| policies.iter().filter(move |policy| has_type(policy, direction)).peekable();
    let mut rules = PodRules::default();
    let mut ingress = of_type("Ingress");
    if ingress.peek().is_some() {
        let mut allowed = BTreeSet::new();
        for policy in ingress {
            for rule in policy.spec.iter().flat_map(|spec| spec.ingress.iter().flatten()) {
                add_ingress(policy, rule.from.as_deref(), rule.ports.as_deref(), pod, inputs, &mut allowed);
            }
        }
        rules.ingress = Some(allowed.into_iter().collect());
    }
    let mut egress = of_type("Egress");
    if egress.peek().is_some() {
        let mut allowed = BTreeSet::new();
        for policy in egress {
            for rule in policy.spec.iter().flat_map(|spec| spec.egress.iter().flatten()) {
                add_egress(policy, rule.to.as_deref(), rule.ports.as_deref(), inputs, &mut allowed);
            }
        }
        rules.egress = Some(allowed.into_iter().collect());
    }
    rules
}

/// The named ports of an ingress rule are the selected pod's own.
fn add_ingress(
    policy: &NetworkPolicy,
    from: Option<&[NetworkPolicyPeer]>,
    ports: Option<&[NetworkPolicyPort]>,
    pod: &PolicyPod,
    inputs: &Inputs,
    allowed: &mut BTreeSet<Allow>,
) {
    let given = ports.unwrap_or_default();
    let ports = if given.is_empty() {
        None
    } else {
        let named = given.iter().flat_map(|port| named(port, pod)).map(|(protocol, port)| (protocol, (port, port)));
        let ranges = merged(given.iter().filter_map(range).chain(named));
        if ranges.is_empty() {
            return;
        }
        Some(ranges)
    };
    for peers in peers(policy, from, inputs) {
        allowed.insert(Allow::Peers(peers, ports.clone()));
    }
}

/// The named ports of an egress rule are each destination's own.
fn add_egress(
    policy: &NetworkPolicy,
    to: Option<&[NetworkPolicyPeer]>,
    ports: Option<&[NetworkPolicyPort]>,
    inputs: &Inputs,
    allowed: &mut BTreeSet<Allow>,
) {
    let given = ports.unwrap_or_default();
    let ranges = merged(given.iter().filter_map(range));
    for peers in peers(policy, to, inputs) {
        let mut pairs = BTreeSet::new();
        for pod in &inputs.pods {
            for (protocol, port) in given.iter().flat_map(|port| named(port, pod)) {
                pairs.extend(pod.ips.iter().filter(|ip| covers(&peers, **ip)).map(|ip| (*ip, protocol, port)));
            }
        }
        if !pairs.is_empty() {
            allowed.insert(Allow::Pairs(pairs));
        }
        if given.is_empty() {
            allowed.insert(Allow::Peers(peers, None));
        } else if !ranges.is_empty() {
            allowed.insert(Allow::Peers(peers, Some(ranges.clone())));
        }
    }
}

/// Whether an address is among the peers.
pub fn covers(peers: &Peers, ip: Ipv4Addr) -> bool {
    match peers {
        Peers::Any => true,
        Peers::Pods(ips) => ips.contains(&ip),
        Peers::Block(range, except) => range.contains(ip) && !except.iter().any(|part| part.contains(ip)),
    }
}

fn peers(policy: &NetworkPolicy, list: Option<&[NetworkPolicyPeer]>, inputs: &Inputs) -> Vec<Peers> {
    let list = list.unwrap_or_default();
    if list.is_empty() {
        return vec![Peers::Any];
    }
    let mut pods = BTreeSet::new();
    let mut all = Vec::new();
    for peer in list {
        match &peer.ip_block {
            Some(block) => {
                let Ok(range) = block.cidr.parse::<Cidr>() else { continue };
                let except = block.except.iter().flatten().filter_map(|text| text.parse().ok()).collect();
                all.push(Peers::Block(range, apart(except)));
            }
            None => pods.extend(selected(policy, peer, inputs)),
        }
    }
    if !pods.is_empty() {
        all.push(Peers::Pods(pods));
    }
    all
}

/// Ranges without those that lie in another: two ranges are never partly in each other.
fn apart(mut ranges: Vec<Cidr>) -> Vec<Cidr> {
    ranges.sort_unstable_by_key(|range| (range.prefix(), range.address()));
    let mut kept: Vec<Cidr> = Vec::new();
    for range in ranges {
        if !kept.iter().any(|wide| wide.contains(range.address())) {
            kept.push(range);
        }
    }
    kept
}

fn selected<'a>(
    policy: &'a NetworkPolicy,
    peer: &'a NetworkPolicyPeer,
    inputs: &'a Inputs,
) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let something = peer.namespace_selector.is_some() || peer.pod_selector.is_some();
    let pods = inputs.pods.iter().filter(move |pod| {
        let namespace = match &peer.namespace_selector {
            Some(selector) => {
                let labels = inputs.namespaces.get(&pod.namespace);
                labels.is_some() && matches_label_selector(Some(selector), labels)
            }
            None => policy.metadata.namespace.as_deref() == Some(&pod.namespace),
        };
        let of_pod = || match &peer.pod_selector {
            Some(selector) => matches_label_selector(Some(selector), Some(&pod.labels)),
            None => true,
        };
        something && namespace && of_pod()
    });
    pods.flat_map(|pod| pod.ips.iter().copied())
}

/// A port that is given by number, by range or not at all (then it is the whole protocol).
fn range(port: &NetworkPolicyPort) -> Option<(Protocol, (u16, u16))> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    match &port.port {
        None => Some((protocol, (0, u16::MAX))),
        Some(IntOrString::Int(first)) => {
            let first = u16::try_from(*first).ok()?;
            let last = port.end_port.map_or(Some(first), |last| u16::try_from(last).ok())?;
            (first <= last).then_some((protocol, (first, last)))
        }
        Some(IntOrString::String(_)) => None,
    }
}

/// What a port's name means for a pod.
fn named<'a>(port: &'a NetworkPolicyPort, pod: &'a PolicyPod) -> impl Iterator<Item = (Protocol, u16)> + 'a {
    let wanted = match &port.port {
        Some(IntOrString::String(name)) => Protocol::parse(port.protocol.as_deref()).map(|protocol| (name.as_str(), protocol)),
        _ => None,
    };
    let ports = pod.ports.iter().filter(move |(name, protocol, _)| wanted == Some((name.as_str(), *protocol)));
    ports.map(|(_, protocol, number)| (*protocol, *number))
}

/// Ranges in order, those that touch made one.
fn merged(ranges: impl Iterator<Item = (Protocol, (u16, u16))>) -> BTreeMap<Protocol, Vec<(u16, u16)>> {
    let mut sorted: Vec<(Protocol, (u16, u16))> = ranges.collect();
    sorted.sort_unstable();
    let mut merged: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
    for (protocol, (first, last)) in sorted {
        let list = merged.entry(protocol).or_default();
        match list.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => list.push((first, last)),
        }
    }
    merged
}
