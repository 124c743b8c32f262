//! Addresses and node ports through the whole apiserver: what a client sees, and what lies in the store.

use std::collections::BTreeSet;

use http::Method;
use k8s_openapi::jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use super::claim::Owner;
use super::plan::Claim;
use super::repair;
use crate::storage::{Store as _, Written, prefix_end};
use crate::tests::Server;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, spec: Value) -> Value {
    let mut all = json!({"ports": [{"port": 80}], "selector": {"a": "b"}});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": all})
}

fn address(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned()
}

async fn claimed_ports(server: &Server) -> Vec<u16> {
    let held = server.rest.api.held_ports().await.unwrap();
    held.iter().filter_map(|held| if let Claim::Port(port) = held.claim { Some(port) } else { None }).collect()
}

async fn claimed(server: &Server, address: &str) -> bool {
    server.rest.api.held(&Claim::Address(address.into())).await.unwrap().is_some()
}

#[tokio::test]
async fn a_service_gets_an_address_and_gives_it_back() {
    let server = Server::start().await;
    let (_, kubernetes) = server.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!((address(&kubernetes).as_str(), claimed(&server, "10.96.0.1").await), ("10.96.0.1", true));
    let (_, network) = server.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    assert_eq!((&network["spec"]["cidrs"], &network["status"]["conditions"][0]["status"]), (&json!(["10.96.0.0/16"]), &json!("True")));

    let made = server.create(SERVICES, service("a", json!({}))).await;
    let own = address(&made);
    assert!(own.starts_with("10.96."), "{made}");
    assert_eq!(made["spec"]["clusterIPs"], json!([own]));
    assert_eq!((&made["spec"]["ipFamilies"], &made["spec"]["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    let (_, claim) = server.get(&format!("{ADDRESSES}/{own}")).await;
    assert_eq!(claim["spec"]["parentRef"], json!({"resource": "services", "namespace": "default", "name": "a"}));
    assert_eq!(claim["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"], "ipallocator.k8s.io");

    let asked = json!({"clusterIP": own});
    let (code, error) = server.post(SERVICES, service("b", asked.clone())).await;
    assert_eq!(code, 422);
    assert_eq!(
        error["message"],
        format!("Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{own}\"]: failed to allocate IP {own}: provided IP is already allocated")
    );
    let (code, error) = server.post(SERVICES, service("b", json!({"clusterIP": "10.97.0.1"}))).await;
    assert_eq!((code, error["message"].as_str().unwrap().contains("does not match the current range")), (422, true), "{error}");
    assert_eq!(server.delete(&format!("{SERVICES}/a"), json!({})).await.0, 200);
    assert!(!claimed(&server, &own).await);
    assert_eq!(address(&server.create(SERVICES, service("b", asked)).await), own);
}

#[tokio::test]
async fn a_change_of_type_moves_what_a_service_has() {
    let server = Server::start().await;
    let one = format!("{SERVICES}/a");
    let made = server.create(SERVICES, service("a", json!({"type": "NodePort", "ports": [
        {"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]}))).await;
    let (own, port) = (address(&made), made["spec"]["ports"][0]["nodePort"].as_u64().unwrap());
    assert_eq!(made["spec"]["ports"][1]["nodePort"], port, "ports with one number share it");
    assert_eq!(claimed_ports(&server).await, [u16::try_from(port).unwrap()]);
    // What kubectl apply sends again, without what was given, changes nothing.
    let (code, again) = server.put(&one, &service("a", json!({"type": "NodePort", "ports": [
        {"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]}))).await;
    assert_eq!((code, &again["metadata"]["resourceVersion"]), (200, &made["metadata"]["resourceVersion"]), "{again}");
    let change = |spec: Value| json!({ "spec": spec });
    let merge = "merge-patch+json";
    let (code, balancer) = server.patch(&one, merge, change(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))).await;
    assert_eq!(code, 200, "{balancer}");
    let health = u16::try_from(balancer["spec"]["healthCheckNodePort"].as_u64().unwrap()).unwrap();
    assert_eq!(claimed_ports(&server).await.len(), 2);
    let (code, cluster) = server.patch(&one, merge, change(json!({"type": "ClusterIP"}))).await;
    assert_eq!(code, 200, "{cluster}");
    assert!(cluster["spec"]["ports"][0].get("nodePort").is_none() && claimed_ports(&server).await.is_empty(), "{health} and {port} are free");
    assert_eq!(address(&cluster), own);
    let (code, error) = server.patch(&one, merge, change(json!({"clusterIP": "10.96.200.1", "clusterIPs": ["10.96.200.1"]}))).await;
    assert_eq!((code, error["message"].as_str().unwrap().contains("may not change once set")), (422, true), "{error}");
    let (code, external) = server.patch(&one, merge, change(json!({"type": "ExternalName", "externalName": "example.org"}))).await;
    assert_eq!((code, external["spec"].get("clusterIP"), claimed(&server, &own).await), (200, None, false), "{external}");
    let (code, back) = server.patch(&one, merge, change(json!({"type": "ClusterIP", "externalName": null}))).await;
    assert_eq!((code, claimed(&server, &address(&back)).await), (200, true), "{back}");
}

#[tokio::test]
async fn node_ports_that_are_asked_for_are_checked() {
    let server = Server::start().await;
    let ask = |name: &str, port: i64| service(name, json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    server.create(SERVICES, ask("a", 30080)).await;
    let (code, error) = server.post(SERVICES, ask("b", 30080)).await;
    assert_eq!(code, 422);
    assert_eq!(
        error["message"],
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    let (_, error) = server.post(SERVICES, ask("b", 8080)).await;
    assert_eq!(
        error["message"],
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 8080: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    // What a refused Service had claimed is free again.
    let (_, addresses) = server.get(ADDRESSES).await;
    // The cluster's DNS has a Service in another namespace.
    let (_, services) = server.get("/api/v1/services").await;
    let of_services: BTreeSet<String> = services["items"].as_array().unwrap().iter().map(address).collect();
    let of_claims: BTreeSet<String> =
        addresses["items"].as_array().unwrap().iter().map(|claim| claim["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(of_services, of_claims);
}

#[tokio::test]
async fn headless_named_and_dry_services_claim_nothing() {
    let server = Server::start().await;
    let headless = server.create(SERVICES, service("h", json!({"clusterIP": "None"}))).await;
    assert_eq!((&headless["spec"]["clusterIPs"], &headless["spec"]["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
    let external = server.create(SERVICES, service("e", json!({"type": "ExternalName", "externalName": "example.org"}))).await;
    assert!(external["spec"].get("clusterIP").is_none(), "{external}");
    let dry = format!("{SERVICES}?dryRun=All");
    let (code, shown) = server.post(&dry, service("d", json!({"type": "NodePort"}))).await;
    assert_eq!((code, shown["spec"]["ports"][0]["nodePort"].is_u64()), (201, true), "{shown}");
    assert!(!claimed(&server, &address(&shown)).await && claimed_ports(&server).await.is_empty());
    let (code, _) = server.post(&dry, service("d", json!({"clusterIP": "10.96.0.1"}))).await;
    assert_eq!(code, 422);
    assert_eq!(server.ask(Method::DELETE, &format!("{SERVICES}/kubernetes?dryRun=All"), "application/json", "{}".into()).await.0, 200);
    assert!(claimed(&server, "10.96.0.1").await);
}

#[tokio::test]
async fn many_at_once_never_share() {
    let server = Server::start().await;
    let names: Vec<String> = (0..40).map(|index| format!("s{index}")).collect();
    let made = futures::future::join_all(names.iter().map(|name| server.create(SERVICES, service(name, json!({"type": "NodePort"}))))).await;
    let addresses: BTreeSet<String> = made.iter().map(address).collect();
    let ports: BTreeSet<u64> = made.iter().map(|service| service["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).collect();
    assert_eq!((addresses.len(), ports.len()), (40, 40));
    let fixed = || service("x", json!({"clusterIP": "10.96.9.9"}));
    let racing = (0..8).map(|index| {
        let mut service = fixed();
        service["metadata"]["name"] = format!("x{index}").into();
        server.post(SERVICES, service)
    });
    let codes: Vec<u16> = futures::future::join_all(racing).await.into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
}

#[tokio::test]
async fn what_a_crash_left_is_repaired() {
    let server = Server::start().await;
    let api = &server.rest.api;
    let made = server.create(SERVICES, service("a", json!({"type": "NodePort"}))).await;
    let owner = Owner { namespace: "default".into(), name: "gone".into(), uid: "u".into() };
    let (address_claim, port_claim) = (Claim::Address("10.96.7.7".into()), Claim::Port(32000));
    let now = Timestamp::now();
    // A crash between the claims and the Service.
    api.claim(&address_claim, &owner, now).await.unwrap();
    api.claim(&port_claim, &owner, now).await.unwrap();
    // A Service whose claims are gone: from before there were any.
    api.release(&Claim::Address(address(&made)), &Owner::of(&made)).await;
    let port = Claim::Port(u16::try_from(made["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).unwrap());
    api.release(&port, &Owner::of(&made)).await;
    assert!(api.held(&port).await.unwrap().is_none());
    let caught_up = || async {
        let written = server.store.revision().await.unwrap();
        assert!(api.caches.wait_for(written, std::time::Duration::from_secs(30)).await);
    };
    caught_up().await;
    repair::once(api, now).await.unwrap();
    assert!(claimed(&server, &address(&made)).await && api.held(&port).await.unwrap().is_some());
    assert!(api.held(&address_claim).await.unwrap().is_some(), "its Service may still come");
    caught_up().await;
    repair::once(api, now.checked_add(3.minutes()).unwrap()).await.unwrap();
    assert!(api.held(&address_claim).await.unwrap().is_none() && api.held(&port_claim).await.unwrap().is_none());
    assert!(claimed(&server, &address(&made)).await && claimed(&server, "10.96.0.1").await);
}

#[tokio::test]
async fn a_successor_keeps_what_its_predecessor_releases_late() {
    let server = Server::start().await;
    let api = &server.rest.api;
    let spec = json!({"clusterIP": "10.96.8.8"});
    let first = server.create(SERVICES, service("a", spec.clone())).await;
    assert_eq!(server.delete(&format!("{SERVICES}/a"), json!({})).await.0, 200);
    let second = server.create(SERVICES, service("a", spec)).await;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    api.release(&Claim::Address("10.96.8.8".into()), &Owner::of(&first)).await;
    assert!(claimed(&server, "10.96.8.8").await);
}

#[tokio::test]
async fn an_address_object_of_somebody_else_blocks_its_address() {
    let server = Server::start().await;
    let foreign = json!({"metadata": {"name": "10.96.5.5"}, "spec": {"parentRef": {"group": "g", "resource": "things", "name": "t"}}});
    server.create(ADDRESSES, foreign).await;
    let (code, _) = server.post(SERVICES, service("a", json!({"clusterIP": "10.96.5.5"}))).await;
    assert_eq!(code, 422);
    assert_eq!(server.delete(&format!("{ADDRESSES}/10.96.5.5"), json!({})).await.0, 200);
    server.create(SERVICES, service("a", json!({"clusterIP": "10.96.5.5"}))).await;
    let prefix = super::claim::port_prefix();
    assert!(server.store.range(&prefix, &prefix_end(&prefix), 0, 0).await.unwrap().entries.is_empty());
    let malformed = server.store.put(&format!("{prefix}junk"), bytes::Bytes::from_static(b"{"), 0, None).await.unwrap();
    assert!(matches!(malformed, Written::Done(_)));
    server.create(SERVICES, service("b", json!({"type": "NodePort"}))).await;
}
