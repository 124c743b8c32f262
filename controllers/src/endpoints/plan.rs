//! Decides what the Endpoints of a Service should say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::common::endpoints::{HEADLESS, addresses, belongs, hostname, is_headless, ports, reference};
use crate::common::selector::Labels;
use crate::common::{Plan, pods};

/// The label and its value that say who looks after the object.
pub const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// Addresses in one object.
pub const MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The annotation of objects that are locks of old, not endpoints.
pub const LOCK: &str = "control-plane.alpha.kubernetes.io/leader";

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The Service, where it exists.
    pub service: Option<Arc<Service>>,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// The object of the Service's name.
    pub endpoints: Option<Arc<Endpoints>>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// There is none yet.
    Create(Box<Endpoints>),
    /// Another content (with the resourceVersion it was seen with).
    Update(Box<Endpoints>),
    /// The Service is gone.
    Delete,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create(_) => "create endpoints",
            Self::Update(_) => "update endpoints",
            Self::Delete => "delete the endpoints of a service that is gone",
        })
    }
}

/// The decision.
pub fn plan(observed: &Observed) -> Plan<Action> {
    let mut plan = Plan::default();
    let Some(service) = &observed.service else {
        let lock = |endpoints: &Endpoints| endpoints.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(LOCK));
        if observed.endpoints.as_ref().is_some_and(|endpoints| !lock(endpoints)) {
            plan.actions.push(Action::Delete);
        }
        return plan;
    };
    let spec = service.spec.clone().unwrap_or_default();
    if spec.selector.is_none() || spec.type_.as_deref() == Some("ExternalName") {
        return plan;
    }
    let (subsets, truncated) = truncate(subsets(service, &observed.pods));
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    match &observed.endpoints {
        None => plan.actions.push(Action::Create(Box::new(fresh(service, subsets, labels, truncated)))),
        Some(present) if is_right(present, &subsets, &labels, truncated) => {}
        Some(present) => {
            let mut endpoints = Endpoints::clone(present);
            endpoints.subsets = Some(subsets);
            endpoints.metadata.labels = Some(labels);
            note_capacity(&mut endpoints.metadata, truncated);
            plan.actions.push(Action::Update(Box::new(endpoints)));
        }
    }
    plan.reasons = plan.actions.iter().map(ToString::to_string).collect();
    plan
}

fn fresh(service: &Service, subsets: Vec<EndpointSubset>, labels: Labels, truncated: bool) -> Endpoints {
    let mut metadata = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    note_capacity(&mut metadata, truncated);
    Endpoints { metadata, subsets: Some(subsets) }
}

fn note_capacity(metadata: &mut ObjectMeta, truncated: bool) {
    if truncated {
        metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
}

fn is_right(present: &Endpoints, subsets: &[EndpointSubset], labels: &Labels, truncated: bool) -> bool {
    let noted = present.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(OVER_CAPACITY));
    present.subsets.as_deref().unwrap_or_default() == subsets
        && present.metadata.labels.as_ref() == Some(labels)
        && noted == truncated
}

/// The pod's address for the Service: of the Service's first family.
fn address(service: &Service, pod: &Pod) -> Option<IpAddr> {
    let all = addresses(pod);
    let spec = service.spec.as_ref();
    let family = spec.and_then(|spec| spec.ip_families.as_ref()?.first().cloned());
    match family {
        Some(family) => all.into_iter().find(|address| address.is_ipv6() == (family == "IPv6")),
        None => all.first().copied(),
    }
}

type Ports = Vec<(Option<String>, i32, Option<String>, Option<String>)>;

/// Addresses with the same ports stand together; each address stands once for its ports, ready or not.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let has_ports = spec.ports.as_ref().is_some_and(|ports| !ports.is_empty());
    // (address, UID) → (the address as it is shown, ready, its ports)
    let mut found: BTreeMap<(IpAddr, String), (EndpointAddress, bool, BTreeSet<Ports>)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| belongs(pod, publish)) {
        let Some(ip) = address(service, pod) else { continue };
        let ports: Ports = ports(service, pod)
            .into_iter()
            .map(|port| (port.name.filter(|name| !name.is_empty()), port.port.unwrap_or(0), port.protocol, port.app_protocol))
            .collect();
        if ports.is_empty() && (has_ports || !is_headless(service)) {
            continue;
        }
        let shown = EndpointAddress {
            ip: ip.to_string(),
            hostname: hostname(pod, service),
            node_name: Some(pods::node(pod).to_owned()).filter(|node| !node.is_empty()),
            target_ref: Some(reference(pod)),
        };
        let ready = publish || pods::is_ready(pod);
        let entry = found.entry((ip, pods::uid(pod).to_owned())).or_insert_with(|| (shown, ready, BTreeSet::new()));
        entry.2.insert(ports);
    }
    let mut by_ports: BTreeMap<Ports, EndpointSubset> = BTreeMap::new();
    for (shown, ready, groups) in found.into_values() {
        for ports in groups {
            let subset = by_ports.entry(ports).or_default();
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            list.get_or_insert_default().push(shown.clone());
        }
    }
    let with_ports = |(ports, mut subset): (Ports, EndpointSubset)| {
        let ports = ports.into_iter().map(|(name, port, protocol, app_protocol)| EndpointPort { name, port, protocol, app_protocol });
        let mut ports: Vec<EndpointPort> = ports.collect();
        ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
        subset.ports = Some(ports).filter(|ports| !ports.is_empty());
        subset
    };
    by_ports.into_iter().map(with_ports).collect()
}

/// The first [`MAX`] addresses, those that are ready before the others; true: there were more.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let mut room = MAX;
    let mut truncated = false;
    for ready in [true, false] {
        for subset in &mut subsets {
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            let Some(addresses) = list else { continue };
            truncated |= addresses.len() > room;
            addresses.truncate(room);
            room -= addresses.len();
            if addresses.is_empty() {
                *list = None;
            }
        }
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (subsets, truncated)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Arc<Service> {
        let object = json!({"metadata": {"name": "s", "namespace": "n", "labels": {"l": "1"}}, "spec": spec});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let object = json!({"metadata": {"name": name, "namespace": "n", "uid": format!("u-{name}")}, "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn made(observed: &Observed) -> Endpoints {
        let mut actions = plan(observed).actions;
        assert_eq!(actions.len(), 1, "{actions:?}");
        match actions.remove(0) {
            Action::Create(endpoints) | Action::Update(endpoints) => *endpoints,
            Action::Delete => panic!("nothing is to be deleted"),
        }
    }

    #[test]
    fn addresses_with_the_same_ports_stand_together() {
        let ports = json!([{"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 81, "protocol": "TCP", "targetPort": 9}]);
        let service = service(json!({"selector": {"a": "b"}, "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"], "ports": ports}));
        let mut observed = Observed {
            service: Some(service),
            pods: vec![pod("y", "10.1.0.10", true), pod("x", "10.1.0.9", true), pod("z", "10.1.0.11", false)],
            endpoints: None,
        };
        let endpoints = made(&observed);
        let shown = serde_json::to_value(&endpoints).unwrap();
        assert_eq!(shown["subsets"].as_array().unwrap().len(), 1);
        assert_eq!(shown["subsets"][0]["addresses"][0], json!({"ip": "10.1.0.9", "nodeName": "n1",
            "targetRef": {"kind": "Pod", "namespace": "n", "name": "x", "uid": "u-x"}}));
        assert_eq!(shown["subsets"][0]["notReadyAddresses"][0]["ip"], "10.1.0.11");
        assert_eq!(shown["subsets"][0]["ports"], json!([{"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 9, "protocol": "TCP"}]));
        assert_eq!(shown["metadata"]["labels"], json!({"l": "1", "endpoints.kubernetes.io/managed-by": "endpoint-controller"}));
        observed.endpoints = Some(Arc::new(endpoints));
        assert!(plan(&observed).is_quiet());
        observed.pods.remove(0);
        assert_eq!(made(&observed).subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1);
        observed.service = None;
        assert_eq!(plan(&observed).actions, [Action::Delete]);
    }

    #[test]
    fn nobody_and_too_many() {
        let service = service(json!({"selector": {"a": "b"}, "clusterIP": "None"}));
        let mut observed = Observed { service: Some(service), ..Observed::default() };
        assert_eq!(made(&observed).subsets, Some(Vec::new()));
        observed.pods = (0..1200).map(|number| pod(&format!("p{number}"), &format!("10.1.{}.{}", number / 250, number % 250 + 1), true)).collect();
        let endpoints = made(&observed);
        assert_eq!(endpoints.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len(), MAX);
        assert_eq!(endpoints.metadata.annotations.as_ref().unwrap()[OVER_CAPACITY], "truncated");
        assert!(endpoints.metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
        observed.endpoints = Some(Arc::new(endpoints));
        assert!(plan(&observed).is_quiet());
    }
}
