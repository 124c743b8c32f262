//! Which API servers there are, and what the Service `kubernetes` should lead to: all of them. Pure.
//!
//! Each API server renews a Lease of its own that says where it is reached; who does not renew is left out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use balsa_api::cursor::{find, list, text};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Where the Leases lie.
pub const NAMESPACE: &str = "kube-system";
/// The label of an API server's Lease, and its value.
pub const IDENTITY: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
/// The annotations that say where it is reached.
pub const ADDRESS: &str = "balsa/advertise-address";
/// Its port.
pub const PORT: &str = "balsa/advertise-port";
/// Seconds after which an API server that does not renew is taken for gone.
pub const LIFE_SECONDS: i64 = 30;

/// Where one API server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// In the cluster.
    pub address: IpAddr,
    /// REST.
    pub port: u16,
}

/// The Lease of the API server of that name.
pub fn lease(name: &str, place: Place, now: Timestamp) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": format!("apiserver-{name}"), "namespace": NAMESPACE, "labels": {IDENTITY.0: IDENTITY.1},
            "annotations": {ADDRESS: place.address.to_string(), PORT: place.port.to_string()}},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LIFE_SECONDS, "renewTime": format!("{now:.6}")}})
}

/// The places of those whose Leases are in force.
pub fn alive(leases: &[Value], now: Timestamp) -> BTreeSet<Place> {
    let place = |lease: &Value| {
        let renewed: Timestamp = text(lease, "spec.renewTime").parse().ok()?;
        let life = find(lease, "spec.leaseDurationSeconds").as_i64()?;
        let annotations = find(lease, "metadata.annotations");
        let word = |key: &str| annotations.get(key).and_then(Value::as_str).unwrap_or_default();
        let in_force = renewed.as_second() + life >= now.as_second();
        in_force.then_some(Place { address: word(ADDRESS).parse().ok()?, port: word(PORT).parse().ok()? })
    };
    let ours = |lease: &&Value| find(lease, "metadata.labels").get(IDENTITY.0).is_some_and(|own| own == IDENTITY.1);
    leases.iter().filter(ours).filter_map(place).collect()
}

fn by_port(places: &BTreeSet<Place>) -> Vec<(u16, Vec<IpAddr>)> {
    let mut all: Vec<(u16, Vec<IpAddr>)> = Vec::new();
    for place in places {
        match all.iter_mut().find(|(port, _)| *port == place.port) {
            Some((_, addresses)) => addresses.push(place.address),
            None => all.push((place.port, vec![place.address])),
        }
    }
    all
}

/// The Endpoints of the Service.
pub fn endpoints(places: &BTreeSet<Place>) -> Value {
    let subset = |(port, addresses): (u16, Vec<IpAddr>)| {
        let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
        json!({"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
    };
    let subsets: Vec<Value> = by_port(places).into_iter().map(subset).collect();
    json!({"apiVersion": "v1", "kind": "Endpoints", "subsets": subsets,
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}})
}

/// Its EndpointSlice: that of the port with the most API servers, and of one family.
pub fn slice(places: &BTreeSet<Place>) -> Value {
    let most = by_port(places).into_iter().max_by_key(|(_, addresses)| addresses.len());
    let (port, addresses) = most.unwrap_or_default();
    let v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let endpoints: Vec<Value> = addresses
        .iter()
        .filter(|address| address.is_ipv6() == v6)
        .map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints, "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}}})
}

/// Whether the object already says what is wanted.
pub fn is_right(present: &Value, wanted: &Value) -> bool {
    let subsets = |object: &Value| list(object, "subsets").to_vec();
    subsets(present) == subsets(wanted)
        && ["endpoints", "ports", "addressType"].iter().all(|member| find(present, member) == find(wanted, member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_renew_is_left_out() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let early: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let place = |last: u8| Place { address: IpAddr::from([10, 0, 0, last]), port: 6443 };
        let leases = [lease("a", place(1), now), lease("b", place(2), early), lease("c", place(3), now), json!({"metadata": {}})];
        let places = alive(&leases, now);
        assert_eq!(places, BTreeSet::from([place(1), place(3)]));
        let endpoints = endpoints(&places);
        assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.3"}]));
        let slice = slice(&places);
        assert_eq!(slice["endpoints"].as_array().unwrap().len(), 2);
        assert!(is_right(&slice, &slice.clone()) && !is_right(&json!({}), &slice));
    }
}
