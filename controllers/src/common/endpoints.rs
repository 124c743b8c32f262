//! What Services make of pods and addresses: who is behind a Service, at which port, and how endpoints are spread over
//! EndpointSlices. Rules as in Kubernetes' `k8s.io/endpointslice`. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods;

/// The label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who looks after a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of what belongs to a Service without an address of its own.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// Whether the Service has no address of its own.
pub fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    matches!(address, "" | "None")
}

/// Whether the pod has an address that may be behind a Service.
pub fn belongs(pod: &Pod, with_terminating: bool) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty() && (with_terminating || !pods::is_terminating(pod))
}

/// The pod's addresses, in their usual spelling.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default().iter();
    let all: Vec<IpAddr> = all.filter_map(|ip| ip.ip.parse().ok()).collect();
    if !all.is_empty() {
        return all;
    }
    status.and_then(|status| status.pod_ip.as_deref()?.parse().ok()).into_iter().collect()
}

/// The name that the pod has within the Service's domain.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.hostname.as_deref().filter(|name| !name.is_empty())?;
    (spec.subdomain == service.metadata.name).then(|| named.to_owned())
}

/// A reference to the pod.
pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The pod's port behind a Service's port; `None`: it has no port of that name.
pub fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => Some(*number),
        None | Some(IntOrString::Int(_)) => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let mut fitting = ports.filter(|own| {
                own.name.as_deref() == Some(name.as_str()) && own.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            fitting.next().map(|own| own.container_port)
        }
    }
}

/// The ports of the pod behind the Service's ports; those that the pod lacks are left out.
pub fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let of = |port: &ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(find_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.iter().filter_map(of).collect()
}

/// Ports as a key: the same set in any order is the same.
pub fn port_key(ports: &[EndpointPort]) -> String {
    let mut all: Vec<String> = ports
        .iter()
        .map(|port| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}/{}/{:?}/{}", text(&port.name), text(&port.protocol), port.port, text(&port.app_protocol))
        })
        .collect();
    all.sort_unstable();
    all.join(",")
}

/// A write of a slice. Updates carry the resourceVersion that was seen.
#[derive(Debug, Clone, PartialEq)]
pub enum SliceAction {
    /// A further slice.
    Create(Box<EndpointSlice>),
    /// Another content.
    Update(Box<EndpointSlice>),
    /// One too many.
    Delete {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
}

impl fmt::Display for SliceAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |slice: &EndpointSlice| {
            let endpoints = slice.endpoints.iter().flatten();
            let addresses: Vec<&str> = endpoints.flat_map(|endpoint| endpoint.addresses.iter().map(String::as_str)).collect();
            addresses.join(",")
        };
        match self {
            Self::Create(slice) => write!(f, "create {} slice [{}]", slice.address_type, shown(slice)),
            Self::Update(slice) => {
                write!(f, "update slice {} [{}]", slice.metadata.name.as_deref().unwrap_or_default(), shown(slice))
            }
            Self::Delete { name, .. } => write!(f, "delete slice {name}"),
        }
    }
}

/// Deletes a slice.
pub fn delete(slice: &EndpointSlice) -> SliceAction {
    SliceAction::Delete {
        name: slice.metadata.name.clone().unwrap_or_default(),
        uid: slice.metadata.uid.clone().unwrap_or_default(),
    }
}

/// What makes an endpoint the same one although its conditions change.
fn identity(endpoint: &Endpoint) -> String {
    let target = endpoint.target_ref.as_ref().map(|target| (target.name.clone(), target.uid.clone()));
    format!("{:?}/{:?}/{:?}", endpoint.addresses, endpoint.hostname, target)
}

/// Spreads `wanted` over the slices there are with as few writes as possible: what is wanted stays where it is, what is
/// new goes where something is written anyway, then into the fullest slice with room, then into new ones (`fresh`).
/// `relabel`: brings a slice's labels up to date; true: they were not.
pub fn spread(
    wanted: Vec<Endpoint>,
    present: &[&EndpointSlice],
    max: usize,
    fresh: impl Fn() -> EndpointSlice,
    relabel: impl Fn(&mut EndpointSlice) -> bool,
) -> Vec<SliceAction> {
    let mut left: BTreeMap<String, Endpoint> = BTreeMap::new();
    let mut order = Vec::new();
    for endpoint in wanted {
        let key = identity(&endpoint);
        if left.insert(key.clone(), endpoint).is_none() {
            order.push(key);
        }
    }
    // (slice, whether it must be written)
    let mut kept: Vec<(EndpointSlice, bool)> = Vec::new();
    let mut gone: Vec<EndpointSlice> = Vec::new();
    for slice in present {
        let before = slice.endpoints.clone().unwrap_or_default();
        let now: Vec<Endpoint> = before.iter().filter_map(|endpoint| left.remove(&identity(endpoint))).collect();
        let mut slice = EndpointSlice::clone(slice);
        if now.is_empty() {
            gone.push(slice);
            continue;
        }
        let changed = now != before;
        slice.endpoints = Some(now);
        let relabelled = relabel(&mut slice);
        kept.push((slice, changed || relabelled));
    }
    let mut rest: Vec<Endpoint> = order.iter().filter_map(|key| left.remove(key)).collect();
    fill(&mut kept, &mut rest, max, true);
    fill(&mut kept, &mut rest, max, false);
    let mut actions: Vec<SliceAction> =
        kept.into_iter().filter(|(_, changed)| *changed).map(|(slice, _)| SliceAction::Update(Box::new(slice))).collect();
    while !rest.is_empty() {
        let part: Vec<Endpoint> = rest.drain(..rest.len().min(max)).collect();
        let mut slice = fresh();
        slice.endpoints = Some(part);
        actions.push(reuse(slice, gone.pop()));
    }
    actions.extend(gone.iter().map(delete));
    actions
}

/// A new slice, or one that is no longer needed made into it.
pub fn reuse(new: EndpointSlice, old: Option<EndpointSlice>) -> SliceAction {
    match old {
        Some(old) => {
            let mut slice = EndpointSlice { metadata: old.metadata, ..new.clone() };
            slice.metadata.labels = new.metadata.labels;
            SliceAction::Update(Box::new(slice))
        }
        None => SliceAction::Create(Box::new(new)),
    }
}

/// Puts what is left into slices with room, the fullest first; `written`: only those that are written anyway.
fn fill(slices: &mut [(EndpointSlice, bool)], rest: &mut Vec<Endpoint>, max: usize, written: bool) {
    let count = |slice: &EndpointSlice| slice.endpoints.as_ref().map_or(0, Vec::len);
    let mut order: Vec<usize> = (0..slices.len()).filter(|at| slices.get(*at).is_some_and(|(_, changed)| *changed == written)).collect();
    order.sort_by_key(|at| std::cmp::Reverse(slices.get(*at).map_or(0, |(slice, _)| count(slice))));
    for at in order {
        let Some((slice, changed)) = slices.get_mut(at) else { continue };
        let room = max.saturating_sub(count(slice)).min(rest.len());
        if room > 0 {
            slice.endpoints.get_or_insert_default().extend(rest.drain(..room));
            *changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str) -> Endpoint {
        Endpoint { addresses: vec![address.to_owned()], ..Endpoint::default() }
    }

    fn slice(name: &str, addresses: &[&str]) -> EndpointSlice {
        let mut slice = EndpointSlice { endpoints: Some(addresses.iter().map(|text| endpoint(text)).collect()), ..EndpointSlice::default() };
        slice.metadata.name = Some(name.to_owned());
        slice
    }

    fn spread_over(wanted: &[&str], present: &[EndpointSlice]) -> Vec<String> {
        let wanted = wanted.iter().map(|text| endpoint(text)).collect();
        let present: Vec<&EndpointSlice> = present.iter().collect();
        let actions = spread(wanted, &present, 3, EndpointSlice::default, |_| false);
        actions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn few_writes() {
        assert_eq!(spread_over(&["a", "b"], &[slice("x", &["b", "a"])]), Vec::<String>::new());
        assert_eq!(spread_over(&["a", "b", "c", "d"], &[]), ["create  slice [a,b,c]", "create  slice [d]"]);
        assert_eq!(spread_over(&["a", "c"], &[slice("x", &["a", "b"])]), ["update slice x [a,c]"]);
        let two = [slice("x", &["a"]), slice("y", &["b", "c"])];
        assert_eq!(spread_over(&["a", "b", "c", "d"], &two), ["update slice y [b,c,d]"], "the fullest with room");
        assert_eq!(spread_over(&["a"], &two), ["delete slice y"]);
        assert_eq!(spread_over(&["d", "b", "c"], &two), ["update slice y [b,c,d]", "delete slice x"]);
    }
}
