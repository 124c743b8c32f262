//! What a Service needs of the cluster's addresses and node ports, and what it gives back. Pure.
//!
//! Written after `initIPFamilyFields`, `txnAllocClusterIPs`, `initNodePorts`, `updateNodePorts` and
//! `updateHealthCheckNodePort` of Kubernetes' service allocators, for a cluster whose Services have IPv4 addresses only.

use std::fmt;

use balsa_api::cursor::{At, find, list, text};
use balsa_api::field::FieldError;
use balsa_api::kinds::service::{rules, shape};
use serde_json::{Value, json};

/// Something that at most one Service has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A cluster IP.
    Address(String),
    /// A port of every node.
    Port(u16),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "address {address}"),
            Self::Port(port) => write!(f, "node port {port}"),
        }
    }
}

/// What is needed: this one, or any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish<T> {
    /// Any that is free.
    Any,
    /// This one and no other.
    This(T),
}

/// Where a node port goes once it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `nodePort` of the ports with these indices; the first is the one that a refusal names.
    Ports(Vec<usize>),
    /// `healthCheckNodePort`
    Health,
}

/// What has to be claimed before a Service is written, and what is free afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The cluster IP.
    pub address: Option<Wish<String>>,
    /// Node ports, in the order in which they are claimed.
    pub ports: Vec<(Place, Wish<i64>)>,
    /// What the Service has no use for any more.
    pub leaving: Vec<Claim>,
}

const SPEC_POLICY: &str = "spec.ipFamilyPolicy";

/// Sets what is left of ipFamilyPolicy and ipFamilies, and refuses what this cluster cannot give.
pub fn families(new: &mut Value, old: Option<&Value>) -> Vec<FieldError> {
    if !shape::needs_address(new) || !find(new, "spec").is_object() {
        return Vec::new();
    }
    let bare = shape::is_headless(new) && list_is_empty(find(new, "spec.selector"));
    let former = old.map_or("", |old| text(old, SPEC_POLICY)).to_owned();
    if text(new, SPEC_POLICY).is_empty() {
        let policy = if !former.is_empty() { former.as_str() } else if bare { "RequireDualStack" } else { "SingleStack" };
        new["spec"]["ipFamilyPolicy"] = policy.into();
    }
    let mut findings = rules::families(new);
    if !findings.is_empty() {
        return findings;
    }
    let policy = text(new, SPEC_POLICY).to_owned();
    if policy == "SingleStack" {
        shrink(new, old);
        findings.extend(too_many(new));
    }
    for (index, address) in shape::addresses(new).into_iter().enumerate() {
        let is_known = list(new, "spec.ipFamilies").len() > index;
        if address != "None" && address.contains(':') && !is_known {
            let all = find(new, "spec.clusterIPs").clone();
            findings.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), all, "IPv6 is not configured on this cluster"));
        }
    }
    let single = policy == "SingleStack";
    if findings.is_empty() && list(new, "spec.ipFamilies").is_empty() {
        let both = bare && !single;
        new["spec"]["ipFamilies"] = if both { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
    } else if findings.is_empty() && bare && !single && list(new, "spec.ipFamilies").len() == 1 {
        let first = list(new, "spec.ipFamilies").first().cloned().unwrap_or_default();
        let second = if first == "IPv4" { "IPv6" } else { "IPv4" };
        new["spec"]["ipFamilies"] = json!([first, second]);
    }
    if bare || !findings.is_empty() {
        // Endpoints of any family may be listed behind a name without a selector.
        return findings;
    }
    if policy == "RequireDualStack" {
        findings.push(FieldError::invalid(SPEC_POLICY, policy, "this cluster is not configured for dual-stack services"));
    }
    for family in At::root(new).at("spec.ipFamilies").items().filter(|family| family.str() != "IPv4") {
        findings.push(family.invalid("not configured on this cluster"));
    }
    findings
}

fn list_is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}

/// Back to one family: the second address and family go, if they are what was there.
fn shrink(new: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    for member in ["clusterIPs", "ipFamilies"] {
        let path = format!("spec.{member}");
        let kept = list(new, &path);
        if kept.len() > 1 && kept == list(old, &path) {
            new["spec"][member] = json!([kept[0]]);
        }
    }
}

fn too_many(service: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    let mut about = |what: &str| {
        let detail = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
        findings.push(FieldError::invalid(SPEC_POLICY, text(service, SPEC_POLICY), &detail));
    };
    if shape::addresses(service).len() == 2 {
        about("cluster IPs");
    }
    if list(service, "spec.ipFamilies").len() == 2 {
        about("IP families");
    }
    findings
}

/// What the Service needs beyond what `old` had. `new` has its families already.
pub fn plan(new: &Value, old: Option<&Value>) -> Plan {
    let mut plan = Plan { address: address(new, old), ..Plan::default() };
    match old {
        None => plan.ports = new_ports(new),
        Some(old) => plan.ports = changed_ports(new, old),
    }
    if shape::needs_health_check(new) && !old.is_some_and(shape::needs_health_check) {
        let wish = match shape::health_port(new) {
            0 => Wish::Any,
            number => Wish::This(number),
        };
        plan.ports.push((Place::Health, wish));
    }
    if let Some(old) = old {
        plan.leaving = leaving(new, old);
    }
    plan
}

fn address(new: &Value, old: Option<&Value>) -> Option<Wish<String>> {
    let given = text(new, "spec.clusterIP");
    if !shape::needs_address(new) || given == "None" {
        return None;
    }
    // An object from before addresses were allocated gets one with its next update.
    let had = old.is_some_and(|old| shape::needs_address(old) && !shape::addresses(old).is_empty());
    if had {
        return None;
    }
    Some(if given.is_empty() { Wish::Any } else { Wish::This(given.to_owned()) })
}

fn ports_of(service: &Value) -> impl Iterator<Item = (usize, i64, i64)> + '_ {
    let number = |port: &Value, member: &str| find(port, member).as_i64().unwrap_or(0);
    list(service, "spec.ports").iter().enumerate().map(move |(index, port)| (index, number(port, "port"), number(port, "nodePort")))
}

/// Of a new Service the ports with one number (TCP and UDP) share a node port, unless they ask for different ones.
fn new_ports(new: &Value) -> Vec<(Place, Wish<i64>)> {
    let mut needs: Vec<(i64, Vec<usize>, Wish<i64>)> = Vec::new();
    let mut extra = Vec::new();
    if !shape::has_node_ports(new) {
        return Vec::new();
    }
    for (index, port, node_port) in ports_of(new) {
        if node_port == 0 && !shape::allocates_node_ports(new) {
            continue;
        }
        let group = needs.iter_mut().find(|(number, _, _)| *number == port);
        match group {
            Some((_, places, Wish::This(shared))) if node_port == 0 || node_port == *shared => places.push(index),
            Some((_, places, Wish::Any)) => places.push(index),
            Some(_) => extra.push((Place::Ports(vec![index]), Wish::This(node_port))),
            None => {
                let asked = ports_of(new).find(|(_, number, asked)| *number == port && *asked != 0);
                let wish = asked.map_or(Wish::Any, |(_, _, asked)| Wish::This(asked));
                needs.push((port, vec![index], wish));
            }
        }
    }
    let shared = needs.into_iter().map(|(_, places, wish)| (Place::Ports(places), wish));
    shared.chain(extra).collect()
}

fn changed_ports(new: &Value, old: &Value) -> Vec<(Place, Wish<i64>)> {
    let before = shape::node_ports(old);
    let mut asked: Vec<i64> = Vec::new();
    let mut needs = Vec::new();
    if !shape::has_node_ports(new) {
        return needs;
    }
    for (index, _, node_port) in ports_of(new) {
        let place = Place::Ports(vec![index]);
        if node_port == 0 {
            if shape::allocates_node_ports(new) {
                needs.push((place, Wish::Any));
            }
        } else if !before.contains(&node_port) && !asked.contains(&node_port) {
            asked.push(node_port);
            needs.push((place, Wish::This(node_port)));
        }
    }
    needs
}

fn leaving(new: &Value, old: &Value) -> Vec<Claim> {
    // Ports that are still to be allocated do not show in `new` yet, but they are none of the old ones.
    let keeps = holdings(new);
    holdings(old).into_iter().filter(|claim| !keeps.contains(claim)).collect()
}

/// Everything that a Service has of the cluster's.
pub fn holdings(service: &Value) -> Vec<Claim> {
    let mut all = Vec::new();
    if shape::needs_address(service) {
        let addresses = shape::addresses(service).into_iter().filter(|address| !address.is_empty() && *address != "None");
        all.extend(addresses.map(|address| Claim::Address(address.to_owned())));
    }
    let mut numbers = if shape::has_node_ports(service) { shape::node_ports(service) } else { Vec::new() };
    if shape::needs_health_check(service) && shape::health_port(service) != 0 {
        numbers.push(shape::health_port(service));
    }
    for claim in numbers.into_iter().filter_map(|number| u16::try_from(number).ok()).map(Claim::Port) {
        if !all.contains(&claim) {
            all.push(claim);
        }
    }
    all
}

/// Writes the address that was claimed.
pub fn set_address(service: &mut Value, address: &str) {
    let mut all: Vec<Value> = list(service, "spec.clusterIPs").to_vec();
    if all.is_empty() {
        all.push(Value::Null);
    }
    all[0] = address.into();
    service["spec"]["clusterIP"] = address.into();
    service["spec"]["clusterIPs"] = all.into();
}

/// Writes a node port that was claimed.
pub fn set_port(service: &mut Value, place: &Place, port: u16) {
    match place {
        Place::Health => service["spec"]["healthCheckNodePort"] = port.into(),
        Place::Ports(indices) => {
            let Some(spec) = service.get_mut("spec") else { return };
            let ports = balsa_api::cursor::items_mut(spec, "ports");
            for index in indices {
                if let Some(entry) = ports.get_mut(*index) {
                    entry["nodePort"] = port.into();
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
