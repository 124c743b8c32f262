//! Decides which EndpointSlices a Service with a selector should have.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::common::endpoints::{
    HEADLESS, MANAGED_BY, SERVICE_NAME, SliceAction, addresses, belongs, delete, hostname, is_headless, port_key, ports,
    reference, reuse, spread,
};
use crate::common::selector::Labels;
use crate::common::{Plan, pods};

/// What our slices say of who looks after them.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice.
pub const MAX: usize = 100;

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The Service, where it exists.
    pub service: Option<Arc<Service>>,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// The zones (may be empty) of the nodes of those pods; a node that is missing does not exist.
    pub zones: BTreeMap<String, String>,
    /// The slices of the Service that are ours.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// The decision.
pub fn plan(observed: &Observed) -> Plan<SliceAction> {
    let mut plan = Plan::default();
    let Some(service) = &observed.service else { return plan };
    let Some(spec) = &service.spec else { return plan };
    // Without a selector somebody else says who is behind it; when the Service is gone its slices are collected.
    if spec.selector.is_none() || spec.type_.as_deref() == Some("ExternalName") {
        return plan;
    }
    let families = families(service);
    let (fitting, other): (Vec<_>, Vec<_>) = observed.slices.iter().partition(|slice| families.contains(&slice.address_type.as_str()));
    for family in &families {
        let present: Vec<&EndpointSlice> =
            fitting.iter().filter(|slice| slice.address_type == *family).map(|slice| &***slice).collect();
        plan.actions.extend(of_family(observed, service, family, &present));
    }
    plan.actions.extend(other.iter().map(|slice| delete(slice)));
    if service.metadata.deletion_timestamp.is_some() {
        // What is new now would only have to be collected.
        plan.actions.retain(|action| !matches!(action, SliceAction::Create(_)));
    }
    plan.reasons = plan.actions.iter().map(ToString::to_string).collect();
    plan
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let known: Vec<&str> = named
        .iter()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if !known.is_empty() {
        return known;
    }
    match spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default() {
        "" | "None" => vec!["IPv4", "IPv6"],
        address if address.contains(':') => vec!["IPv6"],
        _ => vec!["IPv4"],
    }
}

fn owner(service: &Service) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service.metadata.name.clone().unwrap_or_default(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    slice.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid && owner.kind == "Service")
}

/// The labels of the Service, and those that say what the slice is.
fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn fresh(service: &Service, family: &str, ports: &[EndpointPort]) -> EndpointSlice {
    EndpointSlice {
        address_type: family.to_owned(),
        ports: Some(ports.to_vec()),
        metadata: ObjectMeta {
            generate_name: service.metadata.name.as_ref().map(|name| format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![owner(service)]),
            ..ObjectMeta::default()
        },
        endpoints: Some(Vec::new()),
    }
}

fn of_family(observed: &Observed, service: &Service, family: &str, present: &[&EndpointSlice]) -> Vec<SliceAction> {
    let (ours, foreign): (Vec<&EndpointSlice>, Vec<&EndpointSlice>) = present.iter().partition(|slice| is_owned(slice, service));
    let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| belongs(pod, true)) {
        let Some(endpoint) = endpoint(observed, service, family, pod) else { continue };
        let ports = ports(service, pod);
        groups.entry(port_key(&ports)).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    let relabel = |slice: &mut EndpointSlice| {
        let wanted = Some(labels(service));
        let changed = slice.metadata.labels != wanted;
        slice.metadata.labels = wanted;
        changed
    };
    let mut by_key: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in ours {
        by_key.entry(port_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    let mut actions = Vec::new();
    let mut spare: Vec<EndpointSlice> = Vec::new();
    for (key, slices) in &by_key {
        if !groups.contains_key(key) {
            spare.extend(slices.iter().map(|slice| EndpointSlice::clone(slice)));
        }
    }
    if groups.is_empty() {
        return placeholder(service, family, spare, &foreign);
    }
    for (key, (ports, endpoints)) in groups {
        let slices = by_key.remove(&key).unwrap_or_default();
        for action in spread(endpoints, &slices, MAX, || fresh(service, family, &ports), relabel) {
            actions.push(match action {
                SliceAction::Create(slice) => reuse(*slice, spare.pop()),
                other => other,
            });
        }
    }
    actions.extend(spare.iter().chain(foreign.iter().copied()).map(delete));
    actions
}

/// A Service with nobody behind it has one slice that says so.
fn placeholder(service: &Service, family: &str, mut spare: Vec<EndpointSlice>, foreign: &[&EndpointSlice]) -> Vec<SliceAction> {
    let wanted = fresh(service, family, &[]);
    let is_it = |slice: &EndpointSlice| {
        slice.endpoints.as_ref().is_none_or(Vec::is_empty)
            && slice.ports.as_ref().is_none_or(Vec::is_empty)
            && slice.metadata.labels == wanted.metadata.labels
    };
    let mut actions = Vec::new();
    match spare.iter().position(is_it) {
        Some(at) => drop(spare.remove(at)),
        None => actions.push(reuse(wanted, spare.pop())),
    }
    actions.extend(spare.iter().chain(foreign.iter().copied()).map(delete));
    actions
}

/// The pod as an endpoint; `None`: it has no address of the family, or its node is gone.
fn endpoint(observed: &Observed, service: &Service, family: &str, pod: &Pod) -> Option<Endpoint> {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let node = pods::node(pod);
    let zone = observed.zones.get(node);
    if zone.is_none() && !publish {
        return None;
    }
    let v6 = family == "IPv6";
    let addresses: Vec<String> = addresses(pod).iter().filter(|address| address.is_ipv6() == v6).map(ToString::to_string).collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(pod, service),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        target_ref: Some(reference(pod)),
        zone: zone.filter(|zone| !zone.is_empty()).cloned(),
        ..Endpoint::default()
    })
}
