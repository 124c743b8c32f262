//! Decides which slices repeat an Endpoints object.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::common::endpoints::{MANAGED_BY, SERVICE_NAME, SliceAction, delete, port_key, reuse};
use crate::common::selector::Labels;
use crate::common::{Note, Plan};

/// What our slices say of who looks after them.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Addresses of a subset that are repeated.
pub const MAX: usize = 1000;
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The Service of the name.
    pub service: Option<Arc<Service>>,
    /// The Endpoints of the name.
    pub endpoints: Option<Arc<Endpoints>>,
    /// The slices of that Service that are ours.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Slices to write, and events about the Endpoints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The writes.
    pub plan: Plan<SliceAction>,
    /// What could not be repeated.
    pub notes: Vec<Note>,
}

/// The decision.
pub fn plan(observed: &Observed) -> Outcome {
    let mut outcome = Outcome::default();
    let wanted = match (&observed.service, &observed.endpoints) {
        (Some(service), Some(endpoints)) if is_by_hand(service, endpoints) => desired(endpoints, &mut outcome.notes),
        _ => Vec::new(),
    };
    let key = |slice: &EndpointSlice| (slice.address_type.clone(), port_key(slice.ports.as_deref().unwrap_or_default()));
    let mut present: BTreeMap<_, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in &observed.slices {
        present.entry(key(slice)).or_default().push(slice);
    }
    let mut new = Vec::new();
    let mut spare: Vec<&EndpointSlice> = Vec::new();
    for slice in wanted {
        let mut same = present.remove(&key(&slice)).unwrap_or_default().into_iter();
        match same.next() {
            Some(old) if is_right(old, &slice) => {}
            Some(old) => outcome.plan.actions.push(changed(old, slice)),
            None => new.push(slice),
        }
        spare.extend(same);
    }
    spare.extend(present.into_values().flatten());
    for slice in new {
        // The type of addresses of a slice stays.
        let at = spare.iter().position(|old| old.address_type == slice.address_type);
        let action = match at.map(|at| spare.remove(at)) {
            Some(old) => changed(old, slice),
            None => reuse(slice, None),
        };
        outcome.plan.actions.push(action);
    }
    outcome.plan.actions.extend(spare.into_iter().map(delete));
    if observed.endpoints.as_ref().is_some_and(|endpoints| endpoints.metadata.deletion_timestamp.is_some()) {
        outcome.plan.actions.retain(|action| !matches!(action, SliceAction::Create(_)));
    }
    outcome.plan.reasons = outcome.plan.actions.iter().map(ToString::to_string).collect();
    outcome
}

fn changed(old: &EndpointSlice, new: EndpointSlice) -> SliceAction {
    let mut metadata = old.metadata.clone();
    metadata.labels.clone_from(&new.metadata.labels);
    metadata.annotations.clone_from(&new.metadata.annotations);
    metadata.owner_references.clone_from(&new.metadata.owner_references);
    SliceAction::Update(Box::new(EndpointSlice { metadata, ..new }))
}

fn is_right(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let some = |map: &Option<Labels>| map.clone().unwrap_or_default();
    old.endpoints.as_deref().unwrap_or_default() == new.endpoints.as_deref().unwrap_or_default()
        && old.ports.as_deref().unwrap_or_default() == new.ports.as_deref().unwrap_or_default()
        && some(&old.metadata.labels) == some(&new.metadata.labels)
        && some(&old.metadata.annotations) == some(&new.metadata.annotations)
        && old.metadata.owner_references == new.metadata.owner_references
}

/// Whether people look after the Endpoints: nobody selects pods for them, and they are neither a lock nor exempt.
fn is_by_hand(service: &Service, endpoints: &Endpoints) -> bool {
    let selects = service.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
    let skips = endpoints.metadata.labels.as_ref().is_some_and(|labels| labels.get(SKIP).is_some_and(|value| value == "true"));
    let lock = crate::endpoints::plan::LOCK;
    let locks = endpoints.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(lock));
    !selects && !skips && !locks
}

/// The slices that say the same as the Endpoints.
fn desired(endpoints: &Endpoints, notes: &mut Vec<Note>) -> Vec<EndpointSlice> {
    let (mut invalid, mut skipped) = (0, 0);
    let mut slices: BTreeMap<(bool, String), EndpointSlice> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut added = 0;
        for (address, ready) in ready.chain(not_ready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            if added == MAX {
                skipped += 1;
                continue;
            }
            added += 1;
            let place = (ip.is_ipv6(), port_key(&ports));
            let slice = slices.entry(place).or_insert_with(|| fresh(endpoints, ip.is_ipv6(), &ports));
            slice.endpoints.get_or_insert_default().push(endpoint(ip, address, ready));
        }
    }
    if invalid > 0 {
        let text = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        notes.push(Note::warning("InvalidIPAddress", text));
    }
    if skipped > 0 {
        let text = format!(
            "A max of {MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        notes.push(Note::warning("TooManyAddressesToMirror", text));
    }
    slices.into_values().collect()
}

fn endpoint(ip: IpAddr, address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn fresh(endpoints: &Endpoints, v6: bool, ports: &[EndpointPort]) -> EndpointSlice {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != LAST_CHANGE && key != LAST_APPLIED);
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Endpoints".to_owned(),
        name: name.clone(),
        uid: endpoints.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    EndpointSlice {
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        ports: Some(ports.to_vec()),
        endpoints: Some(Vec::new()),
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn observed(subsets: Value, selector: Value) -> Observed {
        let endpoints = json!({"metadata": {"name": "s", "namespace": "n", "uid": "e", "labels": {"a": "b"},
            "annotations": {"c": "d", LAST_APPLIED: "x"}}, "subsets": subsets});
        let service = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"selector": selector}});
        Observed {
            service: Some(Arc::new(serde_json::from_value(service).unwrap())),
            endpoints: Some(Arc::new(serde_json::from_value(endpoints).unwrap())),
            slices: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_by_hand_is_repeated() {
        let subsets = json!([{"addresses": [{"ip": "10.1.2.3"}, {"ip": "fd00::1"}, {"ip": "x"}], "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]}]);
        let mut world = observed(subsets, Value::Null);
        let outcome = plan(&world);
        assert_eq!(outcome.notes, [Note::warning("InvalidIPAddress", "Skipped 1 invalid IP addresses when mirroring to EndpointSlices")]);
        let shown: Vec<String> = outcome.plan.actions.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["create IPv4 slice [10.1.2.3]", "create IPv6 slice [fd00::1]"]);
        for action in outcome.plan.actions {
            if let SliceAction::Create(mut slice) = action {
                assert_eq!(slice.metadata.annotations.as_ref().map(BTreeMap::len), Some(1));
                assert_eq!(slice.metadata.labels.as_ref().unwrap()[MANAGED_BY], MANAGER);
                slice.metadata.name = Some(format!("s-{}", slice.address_type));
                world.slices.push(Arc::new(*slice));
            }
        }
        assert!(plan(&world).plan.is_quiet());
        let mut other = world.clone();
        other.endpoints = observed(json!([{"addresses": [{"ip": "10.1.2.9"}], "ports": [{"port": 81}]}]), Value::Null).endpoints;
        let shown: Vec<String> = plan(&other).plan.actions.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["update slice s-IPv4 [10.1.2.9]", "delete slice s-IPv6"]);
        world.endpoints = None;
        assert_eq!(plan(&world).plan.actions.len(), 2, "both go with the Endpoints");
    }

    #[test]
    fn a_service_with_a_selector_is_not_repeated() {
        let subsets = json!([{"addresses": [{"ip": "10.1.2.3"}]}]);
        assert!(plan(&observed(subsets, json!({"a": "b"}))).plan.is_quiet());
    }
}
