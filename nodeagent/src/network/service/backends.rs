//! Which endpoints of a Service's port are used on a node. Pure.
//!
//! The rules are those of kube-proxy (pkg/proxy/topology.go in Kubernetes).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// A transport protocol, as nft spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `TCP`
    Tcp,
    /// `UDP`
    Udp,
    /// `SCTP`
    Sctp,
}

impl Protocol {
    /// From `TCP`, `UDP` or `SCTP`; absent means TCP. `None` for another word.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" | "" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// An address with a port: where a connection is sent.
pub type Target = (Ipv4Addr, u16);

/// An endpoint as far as routing goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub target: Target,
    /// On this node.
    pub local: bool,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, whether or not it is about to end.
    pub serving: bool,
    /// About to end.
    pub terminating: bool,
    /// Zones that should use it; empty where nothing is said.
    pub zones: BTreeSet<String>,
    /// Nodes that should use it; empty where nothing is said.
    pub nodes: BTreeSet<String>,
}

/// The endpoints of one port of one Service. An endpoint that several slices name is taken once, ready if one says so.
pub fn of_port(slices: &[&EndpointSlice], port_name: &str, protocol: Protocol, node: &str) -> Vec<Backend> {
    let mut found: BTreeMap<Target, Backend> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let ports = slice.ports.iter().flatten().filter(|port| {
            port.name.as_deref().unwrap_or_default() == port_name
                && Protocol::parse(port.protocol.as_deref()) == Some(protocol)
        });
        let numbers: Vec<u16> =
            ports.filter_map(|port| u16::try_from(port.port?).ok()).filter(|port| *port != 0).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            for number in &numbers {
                let Some(backend) = backend(endpoint, *number, node) else { continue };
                match found.get(&backend.target) {
                    Some(known) if known.ready || !backend.ready => {}
                    _ => drop(found.insert(backend.target, backend)),
                }
            }
        }
    }
    found.into_values().collect()
}

/// Of the addresses the first counts, as in kube-proxy: the others are the same endpoint.
fn backend(endpoint: &Endpoint, port: u16, node: &str) -> Option<Backend> {
    let address: Ipv4Addr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let zones = hints.into_iter().flat_map(|hints| hints.for_zones.iter().flatten()).map(|zone| zone.name.clone());
    let nodes = hints.into_iter().flat_map(|hints| hints.for_nodes.iter().flatten()).map(|node| node.name.clone());
    Some(Backend {
        target: (address, port),
        local: endpoint.node_name.as_deref() == Some(node),
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        zones: zones.collect(),
        nodes: nodes.collect(),
    })
}

/// What a Service's port leads to from here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// For the policy `Cluster`.
    pub cluster: Vec<Target>,
    /// For the policy `Local`.
    pub local: Vec<Target>,
    /// Whether anything anywhere would answer: decides between refusing and dropping.
    pub any: bool,
}

/// How the two policies of a Service are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// Some of its addresses have the policy `Cluster`.
    pub cluster: bool,
    /// Some of its addresses have the policy `Local`.
    pub local: bool,
}

/// Chooses among the endpoints.
pub fn choose(backends: &[Backend], uses: Uses, node: &str, zone: &str) -> Choice {
    let lingering = |backend: &&Backend| backend.serving && backend.terminating;
    let targets = |chosen: Vec<&Backend>| chosen.into_iter().map(|backend| backend.target).collect::<Vec<_>>();
    let mut choice = Choice::default();
    if uses.cluster {
        let hint = hint(backends, node, zone);
        let mut chosen: Vec<&Backend> =
            backends.iter().filter(|backend| backend.ready && hint.admits(backend, node, zone)).collect();
        if chosen.is_empty() {
            chosen = backends.iter().filter(lingering).collect();
        }
        choice.any = !chosen.is_empty();
        choice.cluster = targets(chosen);
    }
    if uses.local {
        choice.any |= backends.iter().any(|backend| backend.ready || lingering(&backend));
        let mut chosen: Vec<&Backend> = backends.iter().filter(|backend| backend.local && backend.ready).collect();
        if chosen.is_empty() {
            chosen = backends.iter().filter(|backend| backend.local).filter(lingering).collect();
        }
        choice.local = targets(chosen);
    }
    choice
}

/// How far traffic should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    Anywhere,
    SameNode,
    SameZone,
}

impl Hint {
    fn admits(self, backend: &Backend, node: &str, zone: &str) -> bool {
        match self {
            Self::Anywhere => true,
            Self::SameNode => backend.nodes.contains(node),
            Self::SameZone => backend.zones.contains(zone),
        }
    }
}

/// Hints count only where every ready endpoint has one and one is for us.
fn hint(backends: &[Backend], node: &str, zone: &str) -> Hint {
    let ready = || backends.iter().filter(|backend| backend.ready);
    let for_node = ready().any(|backend| backend.nodes.contains(node));
    let for_zone = ready().any(|backend| backend.zones.contains(zone));
    if for_node && ready().all(|backend| !backend.nodes.is_empty()) {
        Hint::SameNode
    } else if for_zone && ready().all(|backend| !backend.zones.is_empty()) {
        Hint::SameZone
    } else {
        Hint::Anywhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(last: u8, words: &str) -> Backend {
        let has = |word: &str| words.split_whitespace().any(|own| own == word);
        let after = |prefix: &str| words.split_whitespace().filter_map(|own| own.strip_prefix(prefix)).map(str::to_owned).collect();
        Backend {
            target: (Ipv4Addr::new(10, 244, 0, last), 80),
            local: has("local"),
            ready: has("ready"),
            serving: has("ready") || has("serving"),
            terminating: has("terminating"),
            zones: after("zone="),
            nodes: after("node="),
        }
    }

    /// Last bytes of the chosen: cluster / local / any.
    fn chosen(backends: &[&str]) -> String {
        let backends: Vec<Backend> = (1u8..).zip(backends).map(|(last, words)| backend(last, words)).collect();
        let choice = choose(&backends, Uses { cluster: true, local: true }, "n1", "z1");
        let last = |targets: &[Target]| targets.iter().map(|(ip, _)| ip.octets()[3].to_string()).collect::<Vec<_>>().join(",");
        format!("{} / {} / {}", last(&choice.cluster), last(&choice.local), choice.any)
    }

    #[test]
    fn endpoints_are_chosen_as_kube_proxy_does() {
        for (backends, expected) in [
            (&[][..], " /  / false"),
            (&["ready local", "ready"], "1,2 / 1 / true"),
            (&["ready", "local"], "1 /  / true"),
            // Nobody is ready: who is ending and still answers.
            (&["serving terminating local", "serving", "terminating"], "1 / 1 / true"),
            (&["serving terminating local", "ready"], "2 / 1 / true"),
            (&["", "serving"], " /  / false"),
            // Hints count where all have one and one is for us.
            (&["ready zone=z1", "ready zone=z2"], "1 /  / true"),
            (&["ready zone=z1", "ready"], "1,2 /  / true"),
            (&["ready zone=z2", "ready zone=z3"], "1,2 /  / true"),
            (&["ready node=n1 zone=z1", "ready node=n2 zone=z1"], "1 /  / true"),
            (&["ready node=n2 zone=z1", "ready node=n2 zone=z2"], "1 /  / true"),
        ] {
            assert_eq!(chosen(backends), expected, "{backends:?}");
        }
    }

    #[test]
    fn slices_are_added_up() {
        let slice = |port: serde_json::Value, endpoints: serde_json::Value| -> EndpointSlice {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "s"}, "addressType": "IPv4",
                "ports": [port], "endpoints": endpoints}))
            .unwrap()
        };
        let http = || serde_json::json!({"name": "http", "port": 8080, "protocol": "TCP"});
        let one = slice(http(), serde_json::json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.2"], "nodeName": "n1"}, {"addresses": ["fd00::1"]}]));
        let two = slice(http(), serde_json::json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]));
        let other = slice(serde_json::json!({"name": "dns", "port": 53, "protocol": "UDP"}), serde_json::json!([{"addresses": ["10.0.0.9"]}]));
        let all = of_port(&[&one, &two, &other], "http", Protocol::Tcp, "n1");
        let shown: Vec<_> = all.iter().map(|backend| (backend.target.0.octets()[3], backend.ready, backend.local)).collect();
        assert_eq!(shown, [(1, true, false), (2, true, true)]);
        assert!(of_port(&[&one], "http", Protocol::Udp, "n1").is_empty());
    }
}
