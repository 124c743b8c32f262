//! The plan against the specification: packets through what was planned, and through a reading of the API's words that
//! shares nothing with the planner.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Allow, Plan, covers, plan};
use super::{Inputs, LocalPod, PolicyPod, text};
use crate::network::service::backends::Protocol;

/// A new connection.
#[derive(Debug, Clone, Copy)]
struct Packet {
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: Protocol,
    port: u16,
}

/// What the planned rules do with a packet that the node forwards.
fn passes(plan: &Plan, packet: Packet) -> bool {
    let allowed = |rules: &[Allow], other: Ipv4Addr| {
        rules.iter().any(|allow| match allow {
            Allow::Pairs(pairs) => pairs.contains(&(packet.to, packet.protocol, packet.port)),
            Allow::Peers(peers, ports) => {
                let port = ports.as_ref().is_none_or(|ports| {
                    ports.get(&packet.protocol).into_iter().flatten().any(|(first, last)| (*first..=*last).contains(&packet.port))
                });
                covers(peers, other) && port
            }
        })
    };
    if packet.from == packet.to {
        return true;
    }
    let egress = plan.get(&packet.from).and_then(|rules| rules.egress.as_deref());
    let ingress = plan.get(&packet.to).and_then(|rules| rules.ingress.as_deref());
    egress.is_none_or(|rules| allowed(rules, packet.to)) && ingress.is_none_or(|rules| allowed(rules, packet.from))
}

/// The specification, read from JSON word by word.
mod specification {
    use super::*;

    pub fn passes(policies: &[Value], pods: &[Value], namespaces: &Value, packet: Packet) -> bool {
        let find = |ip: Ipv4Addr| pods.iter().find(|pod| pod["status"]["podIP"] == json!(ip.to_string()));
        let (from, to) = (find(packet.from), find(packet.to));
        if packet.from == packet.to {
            return true;
        }
        let out = from.is_none_or(|pod| direction(policies, pods, namespaces, pod, "Egress", packet.to, packet));
        let into = to.is_none_or(|pod| direction(policies, pods, namespaces, pod, "Ingress", packet.from, packet));
        out && into
    }

    fn direction(policies: &[Value], pods: &[Value], namespaces: &Value, pod: &Value, which: &str, other: Ipv4Addr, packet: Packet) -> bool {
        let applies = |policy: &&Value| {
            let types = policy["spec"]["policyTypes"].as_array();
            policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
                && selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"])
                && types.is_some_and(|types| types.contains(&json!(which)))
        };
        let mut applying = policies.iter().filter(applies).peekable();
        if applying.peek().is_none() {
            return true;
        }
        let (rules, peers) = if which == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        let target = if which == "Ingress" { Some(pod) } else { pods.iter().find(|pod| pod["status"]["podIP"] == json!(other.to_string())) };
        applying.any(|policy| {
            policy["spec"][rules].as_array().into_iter().flatten().any(|rule| {
                let peer = |peer: &Value| is_peer(peer, policy, pods, namespaces, other);
                let list = rule[peers].as_array();
                let peers_fit = list.is_none_or(|list| list.is_empty() || list.iter().any(peer));
                let ports = rule["ports"].as_array();
                peers_fit && ports.is_none_or(|ports| ports.is_empty() || ports.iter().any(|port| is_port(port, target, packet)))
            })
        })
    }

    fn is_peer(peer: &Value, policy: &Value, pods: &[Value], namespaces: &Value, ip: Ipv4Addr) -> bool {
        let within = |range: &Value| {
            let (base, bits) = range.as_str().unwrap().split_once('/').unwrap();
            let mask = u32::MAX.checked_shl(32 - bits.parse::<u32>().unwrap()).unwrap_or(0);
            u32::from(ip) & mask == u32::from(base.parse::<Ipv4Addr>().unwrap()) & mask
        };
        if let Some(block) = peer.get("ipBlock") {
            return within(&block["cidr"]) && !block["except"].as_array().into_iter().flatten().any(within);
        }
        let Some(pod) = pods.iter().find(|pod| pod["status"]["podIP"] == json!(ip.to_string())) else { return false };
        let namespace = match peer.get("namespaceSelector") {
            Some(selector) => selects(selector, &namespaces[pod["metadata"]["namespace"].as_str().unwrap()]),
            None => pod["metadata"]["namespace"] == policy["metadata"]["namespace"],
        };
        namespace && peer.get("podSelector").is_none_or(|selector| selects(selector, &pod["metadata"]["labels"]))
    }

    fn is_port(port: &Value, target: Option<&Value>, packet: Packet) -> bool {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase();
        if protocol != packet.protocol.to_string() {
            return false;
        }
        match &port["port"] {
            Value::Null => true,
            Value::Number(first) => {
                let first = first.as_u64().unwrap();
                (first..=port["endPort"].as_u64().unwrap_or(first)).contains(&u64::from(packet.port))
            }
            name => target.is_some_and(|pod| {
                pod["spec"]["containers"][0]["ports"].as_array().into_iter().flatten().any(|own| {
                    own["name"] == *name && own["protocol"] == json!(protocol.to_uppercase()) && own["containerPort"] == json!(packet.port)
                })
            }),
        }
    }

    fn selects(selector: &Value, labels: &Value) -> bool {
        selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value)
            && selector["matchExpressions"].as_array().into_iter().flatten().all(|one| {
                let value = &labels[one["key"].as_str().unwrap()];
                let among = one["values"].as_array().is_some_and(|values| values.contains(value));
                match one["operator"].as_str().unwrap() {
                    "In" => among,
                    "NotIn" => !among,
                    "Exists" => !value.is_null(),
                    _ => value.is_null(),
                }
            })
    }
}

fn inputs(policies: &[Value], pods: &[Value], namespaces: &Value) -> Inputs {
    let read = |pod: &Value| Arc::new(PolicyPod::of(&serde_json::from_value::<Pod>(pod.clone()).unwrap()));
    Inputs {
        policies: policies.iter().map(|policy| Arc::new(serde_json::from_value::<NetworkPolicy>(policy.clone()).unwrap())).collect(),
        namespaces: serde_json::from_value(namespaces.clone()).unwrap(),
        pods: pods.iter().map(read).collect(),
    }
}

fn local(pods: &[Value]) -> Vec<LocalPod> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let all = pods.iter().map(|pod| LocalPod {
        namespace: word(&pod["metadata"]["namespace"]),
        name: word(&pod["metadata"]["name"]),
        ips: vec![word(&pod["status"]["podIP"]).parse().unwrap()],
    });
    all.collect()
}

fn pod(namespace: &str, name: &str, ip: &str, labels: Value, ports: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}})
}

const IPS: [&str; 6] = ["10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.2.1", "10.244.2.2", "192.0.2.1"];

fn labels() -> impl Strategy<Value = Value> {
    (0..3u8, 0..3u8).prop_map(|(app, tier)| {
        let mut labels = json!({"app": format!("a{app}")});
        if tier > 0 {
            labels["tier"] = json!(format!("t{tier}"));
        }
        labels
    })
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        labels().prop_map(|labels| json!({"matchLabels": labels})),
        (prop_oneof![Just("In"), Just("NotIn")], 0..3u8)
            .prop_map(|(operator, app)| json!({"matchExpressions": [{"key": "app", "operator": operator, "values": [format!("a{app}")]}]})),
        prop_oneof![Just("Exists"), Just("DoesNotExist")]
            .prop_map(|operator| json!({"matchExpressions": [{"key": "tier", "operator": operator}]})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let range = || prop_oneof![Just("10.244.1.0/24"), Just("10.244.0.0/16"), Just("0.0.0.0/0"), Just("192.0.2.0/24"), Just("10.244.1.2/32")];
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector()).prop_map(|(namespaces, pods)| json!({"namespaceSelector": namespaces, "podSelector": pods})),
        (range(), proptest::collection::vec(range(), 0..3)).prop_map(|(cidr, except)| json!({"ipBlock": {"cidr": cidr, "except": except}})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = || prop_oneof![Just("TCP"), Just("UDP"), Just("SCTP")];
    prop_oneof![
        protocol().prop_map(|protocol| json!({"protocol": protocol})),
        (protocol(), 79..84u16).prop_map(|(protocol, port)| json!({"protocol": protocol, "port": port})),
        (protocol(), 79..84u16, 0..3u16).prop_map(|(protocol, port, more)| json!({"protocol": protocol, "port": port, "endPort": port + more})),
        (protocol(), prop_oneof![Just("http"), Just("other")]).prop_map(|(protocol, name)| json!({"protocol": protocol, "port": name})),
    ]
}

fn policy() -> impl Strategy<Value = Value> {
    let rules = |peers: &'static str| {
        let rule = (proptest::collection::vec(peer(), 0..3), proptest::collection::vec(port(), 0..3));
        proptest::collection::vec(rule.prop_map(move |(list, ports)| json!({peers: list, "ports": ports})), 0..3)
    };
    let types = prop_oneof![Just(json!(["Ingress"])), Just(json!(["Egress"])), Just(json!(["Ingress", "Egress"]))];
    (0..2u8, selector(), types, rules("from"), rules("to")).prop_map(|(namespace, pods, types, ingress, egress)| {
        json!({"metadata": {"namespace": format!("ns{namespace}"), "name": "p"},
            "spec": {"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}})
    })
}

fn pods() -> impl Strategy<Value = Vec<Value>> {
    let one = (0..2u8, labels(), 79..84u16, prop_oneof![Just("TCP"), Just("UDP")]);
    proptest::collection::vec(one, 5).prop_map(|all| {
        let named = all.into_iter().zip(IPS).enumerate();
        named
            .map(|(index, ((namespace, labels, port, protocol), ip))| {
                let ports = json!([{"name": "http", "containerPort": port, "protocol": protocol}]);
                pod(&format!("ns{namespace}"), &format!("p{index}"), ip, labels, ports)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn packets_go_where_the_specification_lets_them(
        policies in proptest::collection::vec(policy(), 0..4),
        pods in pods(),
        of_namespaces in (labels(), labels()),
    ) {
        let namespaces = json!({"ns0": of_namespaces.0, "ns1": of_namespaces.1});
        let plan = plan(&inputs(&policies, &pods, &namespaces), &local(&pods));
        for (from, to) in IPS.iter().flat_map(|from| IPS.iter().map(move |to| (from, to))) {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                for port in 78..86 {
                    let packet = Packet { from: from.parse().unwrap(), to: to.parse().unwrap(), protocol, port };
                    let expected = specification::passes(&policies, &pods, &namespaces, packet);
                    prop_assert_eq!(passes(&plan, packet), expected, "{:?} by {:#?}", packet, plan);
                }
            }
        }
        // The text hangs together: what is named is defined.
        let text = text::table("t", &plan);
        for word in text.split(|c: char| c.is_whitespace() || c == ',') {
            let set = word.strip_prefix('@').unwrap_or_default();
            let defined = set.is_empty() || text.contains(&format!(" {set} {{"));
            prop_assert!(defined, "{} is not defined: {}", word, text);
        }
    }
}

#[test]
fn a_pod_that_is_not_known_yet_is_closed_where_there_are_policies() {
    let policy = json!({"metadata": {"namespace": "ns0", "name": "p"}, "spec": {"podSelector": {"matchLabels": {"app": "x"}}, "policyTypes": ["Ingress"]}});
    let pods = [pod("ns0", "new", "10.244.1.1", json!({}), json!([])), pod("ns1", "other", "10.244.1.2", json!({}), json!([]))];
    let unknown = plan(&inputs(std::slice::from_ref(&policy), &[], &json!({})), &local(&pods));
    assert_eq!(unknown.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.1"]);
    assert!(unknown.values().all(|rules| rules.ingress == Some(vec![]) && rules.egress == Some(vec![])));
    let known = plan(&inputs(&[policy], &pods, &json!({"ns0": {}})), &local(&pods));
    assert!(known.is_empty(), "once its labels are known it is not selected");
}

#[test]
fn what_has_ended_or_has_its_nodes_address_is_nobodys_peer() {
    let with = |change: fn(&mut Value)| {
        let mut pod = pod("ns", "p", "10.244.1.1", json!({}), json!([{"containerPort": 80}, {"name": "http", "containerPort": 80}]));
        change(&mut pod);
        PolicyPod::of(&serde_json::from_value::<Pod>(pod).unwrap())
    };
    assert_eq!(with(|_| {}).ips.len(), 1);
    assert_eq!(with(|_| {}).ports, [("http".to_owned(), Protocol::Tcp, 80)]);
    assert!(with(|pod| pod["status"]["phase"] = json!("Succeeded")).ips.is_empty());
    assert!(with(|pod| pod["spec"]["hostNetwork"] = json!(true)).ips.is_empty());
}

#[test]
fn the_table_reads_as_it_is_meant() {
    let policy = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24"]}}],
            "ports": [{"port": 80}, {"port": 81, "endPort": 90}, {"port": 100}, {"protocol": "UDP"}]}],
        "egress": [{"to": [{"podSelector": {}}]}]}});
    let pods = [pod("ns", "a", "10.244.1.1", json!({}), json!([])), pod("ns", "b", "10.244.2.1", json!({}), json!([]))];
    let inputs = inputs(&[policy], &pods, &json!({"ns": {}}));
    let text = text::table("t", &plan(&inputs, &local(&pods[..1])));
    for line in [
        "    ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16 } tcp dport { 80-90, 100 } accept\n",
        "    ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16 } meta l4proto udp accept\n",
        "    ip daddr @peers-1 goto enter\n    drop\n",
        "elements = { 10.244.1.1 : goto ingress-1 }",
        "elements = { 10.244.1.1 : goto egress-1 }",
        "elements = { 10.244.1.1 . 10.244.1.1 }",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let empty: BTreeMap<_, _> = Plan::new();
    assert!(text::table("t", &empty).contains("goto enter"));
}
