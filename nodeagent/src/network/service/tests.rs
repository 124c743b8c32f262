//! Services as plans: the cases that kube-proxy tells apart; and that whatever comes in, the table hangs together.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Node, Plan, Verdict, plan};
use super::text::{Names, replacement, update};
use crate::network::cidr::Cidr;

pub(in crate::network) fn service(name: &str, spec: Value, status: Value) -> Service {
    let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": status});
    serde_json::from_value(object).unwrap()
}

/// Endpoints as words: `10.244.1.5` on this node, `10.244.2.5` on another; `!` not ready, `~` terminating but serving.
pub(in crate::network) fn slice(service: &str, endpoints: &[&str]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|word| {
            let ip = word.trim_start_matches(['!', '~']);
            let conditions = match word.chars().next() {
                Some('!') => json!({"ready": false, "serving": false}),
                Some('~') => json!({"ready": false, "serving": true, "terminating": true}),
                _ => json!({"ready": true}),
            };
            let node = if ip.starts_with("10.244.1.") { "n1" } else { "n2" };
            json!({"addresses": [ip], "conditions": conditions, "nodeName": node})
        })
        .collect();
    serde_json::from_value(json!({"metadata": {"name": service, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": endpoints}))
    .unwrap()
}

fn cluster() -> Cidr {
    "10.244.0.0/16".parse().unwrap()
}

const OWN: [Ipv4Addr; 1] = [Ipv4Addr::new(10, 96, 0, 10)];

pub(in crate::network) fn planned(services: &[Service], slices: &[EndpointSlice]) -> Plan {
    let node = Node { name: "n1", zone: "", cluster_cidr: cluster(), own: &OWN };
    plan(services, slices, node)
}

fn one(spec: Value, endpoints: &[&str]) -> Plan {
    let mut whole = json!({"type": "ClusterIP", "clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]}});
    planned(&[service("web", whole, status)], &[slice("web", endpoints)])
}

/// Where a destination leads, chain by chain, and what is refused.
fn shown(plan: &Plan) -> String {
    let mut lines: Vec<String> = Vec::new();
    let fronts = plan.fronts.iter().map(|((ip, proto, port), chain)| (format!("{ip}/{proto}/{port}"), chain));
    let ports = plan.node_ports.iter().map(|((proto, port), chain)| (format!("*/{proto}/{port}"), chain));
    for (front, chain) in fronts.chain(ports) {
        lines.push(format!("{front} -> {chain}"));
    }
    let verdict = |verdict: &Verdict| if *verdict == Verdict::Drop { "drop" } else { "refuse" };
    lines.extend(plan.refused.iter().map(|((ip, proto, port), what)| format!("{ip}/{proto}/{port} {}", verdict(what))));
    lines.extend(plan.refused_node_ports.iter().map(|((proto, port), what)| format!("*/{proto}/{port} {}", verdict(what))));
    for (chain, rules) in &plan.chains {
        lines.push(format!("{chain}: {}", rules.join("; ")));
    }
    lines.join("\n")
}

const SPREAD: &str = "meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.1.5 . 8080, 1 : 10.244.2.5 . 8080 }";

#[test]
fn a_cluster_ip_is_spread_over_what_is_ready() {
    let plan = one(json!({}), &["10.244.1.5", "10.244.2.5", "!10.244.2.6"]);
    assert_eq!(shown(&plan), format!("10.96.0.7/tcp/80 -> cluster/ns/web/tcp/80\ncluster/ns/web/tcp/80: {SPREAD}"));
    assert_eq!(plan.hairpins.len(), 1, "only pods of this node can send to themselves from here");
    assert_eq!(shown(&one(json!({}), &["!10.244.2.6"])), "10.96.0.7/tcp/80 refuse");
    assert!(shown(&one(json!({}), &["!10.244.2.6", "~10.244.2.7"])).contains("mod 1 map { 0 : 10.244.2.7 . 8080 }"));
}

#[test]
fn what_has_no_address_or_is_answered_by_others_is_left_alone() {
    for spec in [
        json!({"clusterIP": "None"}),
        json!({"clusterIP": ""}),
        json!({"clusterIP": "fd00::7"}),
        json!({"clusterIP": "10.96.0.10"}),
        json!({"type": "ExternalName"}),
    ] {
        assert_eq!(one(spec.clone(), &["10.244.1.5"]), Plan::default(), "{spec}");
    }
    let mut elsewhere = service("web", json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}), json!({}));
    elsewhere.metadata.labels = Some([("service.kubernetes.io/service-proxy-name".to_owned(), "x".to_owned())].into());
    assert_eq!(planned(&[elsewhere], &[]), Plan::default());
}

#[test]
fn a_node_port_leads_to_every_endpoint_from_an_address_of_the_node() {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]);
    let plan = one(json!({"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": ports}), &["10.244.1.5", "10.244.2.5"]);
    assert_eq!(
        shown(&plan),
        format!(
            "10.96.0.7/tcp/80 -> cluster/ns/web/tcp/80\n*/tcp/30080 -> external/ns/web/tcp/80\n\
             cluster/ns/web/tcp/80: {SPREAD}\nexternal/ns/web/tcp/80: jump mark-for-masquerade; goto cluster/ns/web/tcp/80"
        )
    );
    let none = one(json!({"type": "NodePort", "ports": ports}), &[]);
    assert_eq!(shown(&none), "10.96.0.7/tcp/80 refuse\n*/tcp/30080 refuse");
}

#[test]
fn the_policy_local_keeps_sources_and_stays_on_the_node() {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]);
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports});
    let plan = one(spec.clone(), &["10.244.1.5", "10.244.2.5"]);
    assert_eq!(
        plan.chains["external/ns/web/tcp/80"],
        ["ip saddr 10.244.0.0/16 goto cluster/ns/web/tcp/80", "fib saddr type local jump mark-for-masquerade",
            "fib saddr type local goto cluster/ns/web/tcp/80", "goto local/ns/web/tcp/80"]
    );
    assert!(plan.chains["local/ns/web/tcp/80"][0].ends_with("mod 1 map { 0 : 10.244.1.5 . 8080 }"));
    // Others have it: from outside silence, so that a balancer looks elsewhere; pods still get there.
    let remote = one(spec, &["10.244.2.5"]);
    assert_eq!(remote.refused_node_ports.values().collect::<Vec<_>>(), [&Verdict::Drop]);
    assert_eq!(remote.chains["external/ns/web/tcp/80"].len(), 3);
    let internal = one(json!({"internalTrafficPolicy": "Local"}), &["10.244.2.5"]);
    assert_eq!(shown(&internal), "10.96.0.7/tcp/80 drop");
    let internal = one(json!({"internalTrafficPolicy": "Local"}), &["10.244.2.5", "~10.244.1.5"]);
    assert!(shown(&internal).starts_with("10.96.0.7/tcp/80 -> local/ns/web/tcp/80\nlocal/"), "{}", shown(&internal));
}

#[test]
fn addresses_from_outside_are_served_and_guarded() {
    let spec = json!({"type": "LoadBalancer", "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": ["198.51.100.0/24", "198.51.0.0/16"]});
    let plan = one(spec, &["10.244.2.5"]);
    let fronts: Vec<String> = plan.fronts.iter().map(|((ip, ..), chain)| format!("{ip} {}", &chain[..8])).collect();
    assert_eq!(fronts, ["10.96.0.7 cluster/", "192.0.2.1 external", "192.0.2.9 external"], "an address in mode Proxy is not ours");
    let guarded: Vec<String> = plan.guarded.keys().map(|(ip, ..)| ip.to_string()).collect();
    assert_eq!(guarded, ["192.0.2.9"]);
    assert_eq!(plan.chains["guard/ns/web/tcp/80"], ["ip saddr 198.51.100.0/24 return", "ip saddr 198.51.0.0/16 return", "drop"]);
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let config = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    let plan = one(config, &["10.244.1.5", "10.244.2.5"]);
    let (first, set) = ("endpoint/ns/web/tcp/80/10.244.1.5/8080", "affinity/ns/web/tcp/80/10.244.1.5/8080/60");
    assert_eq!(plan.affinity.iter().next(), Some((&set.to_owned(), &60)));
    assert_eq!(plan.chains[first], [format!("update @{set} {{ ip saddr }}"), "meta l4proto tcp dnat to 10.244.1.5:8080".to_owned()]);
    let chain = &plan.chains["cluster/ns/web/tcp/80"];
    assert_eq!(chain[0], format!("ip saddr @{set} goto {first}"));
    assert!(chain[2].starts_with("numgen random mod 2 vmap { 0 : goto endpoint/"), "{chain:?}");
    // An update leaves sets that stay alone, and removes chains that go before it names new ones.
    let names = Names::of(&plan);
    let fewer = one(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}), &["10.244.1.5"]);
    let text = update("t", &fewer, cluster(), &names);
    assert!(!text.contains("delete table") && !text.contains(&format!("delete set ip t {set}")), "{text}");
    assert!(text.contains("delete set ip t affinity/ns/web/tcp/80/10.244.2.5/8080/60\n"), "{text}");
    assert!(text.contains("delete chain ip t endpoint/ns/web/tcp/80/10.244.2.5/8080\n"), "{text}");
}

#[test]
fn several_ports_and_protocols_are_apart() {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 80, "protocol": "UDP", "nodePort": 30053}]);
    let plan = one(json!({"type": "NodePort", "ports": ports}), &["10.244.1.5", "~10.244.2.5"]);
    let chains: Vec<&String> = plan.fronts.values().collect();
    assert_eq!(chains, ["cluster/ns/web/tcp/80", "cluster/ns/web/udp/80"]);
    assert_eq!(plan.udp.values().next().map(BTreeSet::len), Some(2), "flows to what still serves go on");
    assert_eq!(plan.udp_node_ports.keys().collect::<Vec<_>>(), [&30053]);
}

#[test]
fn names_of_a_table_are_read_from_what_nft_prints() {
    let json = r#"{"nftables":[{"metainfo":{}},{"table":{"name":"t"}},{"chain":{"name":"services"}},{"chain":{"name":"cluster/ns/a/tcp/1"}},
        {"set":{"name":"hairpins"}},{"set":{"name":"affinity/x"}},{"rule":{"chain":"y/z"}}]}"#;
    let names = Names::from_json(json);
    assert_eq!((names.chains.len(), names.sets.len()), (1, 1));
    assert_eq!(Names::from_json("no"), Names::default());
}

fn any_service() -> impl Strategy<Value = (Value, Vec<u8>)> {
    let policy = || prop_oneof![Just("Cluster"), Just("Local")];
    let kind = prop_oneof![Just("ClusterIP"), Just("NodePort"), Just("LoadBalancer")];
    let endpoints = proptest::collection::vec(any::<u8>(), 0..6);
    (kind, policy(), policy(), any::<[bool; 3]>(), endpoints).prop_map(|(kind, internal, external, [sticky, outside, guarded], endpoints)| {
        let node_port = if kind == "ClusterIP" { 0 } else { 30000 };
        let spec = json!({"type": kind, "clusterIP": "10.96.0.7", "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
            "sessionAffinity": if sticky { "ClientIP" } else { "None" }, "externalIPs": if outside { json!(["192.0.2.1"]) } else { json!([]) },
            "loadBalancerSourceRanges": if guarded { json!(["10.0.0.0/8"]) } else { json!([]) },
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": node_port},
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": node_port}]});
        (spec, endpoints)
    })
}

fn endpoint(word: u8) -> String {
    let mark = ["", "", "!", "~"][usize::from(word) % 4];
    format!("{mark}10.244.{}.{}", 1 + word / 4 % 2, 1 + word / 8 % 4)
}

proptest! {
    #[test]
    fn every_chain_that_is_gone_to_is_there_and_every_front_has_one_end(services in proptest::collection::vec(any_service(), 1..4)) {
        let (mut objects, mut slices) = (Vec::new(), Vec::new());
        for (index, (mut spec, endpoints)) in services.into_iter().enumerate() {
            let name = format!("s{index}");
            spec["clusterIP"] = json!(format!("10.96.1.{index}"));
            let words: Vec<String> = endpoints.into_iter().map(endpoint).collect();
            objects.push(service(&name, spec, json!({"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{}", 100 + index)}]}})));
            slices.push(slice(&name, &words.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        let plan = planned(&objects, &slices);
        let rules = || plan.chains.values().flatten();
        let mut named: BTreeSet<&str> = plan.fronts.values().chain(plan.node_ports.values()).chain(plan.guarded.values()).map(String::as_str).collect();
        for rule in rules() {
            named.extend(rule.split(['{', '}', ',', ' ']).filter(|word| word.contains('/') && !word.starts_with(|c: char| c.is_ascii_digit() || c == '@')));
        }
        let there: BTreeSet<&str> = plan.chains.keys().map(String::as_str).collect();
        prop_assert!(named.is_subset(&there), "{:?}", named.difference(&there).collect::<Vec<_>>());
        let sets: BTreeSet<&str> = rules().flat_map(|rule| rule.split(' ')).filter_map(|word| word.strip_prefix('@')).collect();
        prop_assert_eq!(sets, plan.affinity.keys().map(String::as_str).collect());
        // A cluster IP either leads somewhere or is refused, never both.
        for object in &objects {
            let ip: Ipv4Addr = object.spec.as_ref().unwrap().cluster_ip.as_deref().unwrap().parse().unwrap();
            let leads = plan.fronts.keys().filter(|(own, ..)| *own == ip).count();
            let refused = plan.refused.keys().filter(|(own, ..)| *own == ip).count();
            prop_assert_eq!(leads + refused, 2);
        }
        // The same input in another order is the same text.
        objects.reverse();
        slices.reverse();
        prop_assert_eq!(replacement("t", &planned(&objects, &slices), cluster()), replacement("t", &plan, cluster()));
    }
}
