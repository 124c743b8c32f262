//! Addresses of Services: the ranges they come from (ServiceCIDR) and who has which (IPAddress).
//!
//! What is allocated to whom is decided in the API server; here is what such objects may look like.

use std::net::IpAddr;

use serde_json::Value;

use super::definition::{Definition, NAME, PLAIN, column, names, status_of};
use super::show;
use crate::cursor::{At, find, list, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::validate::meta::NameRule;
use crate::validate::text::{cidr_problems, path_segment_problems, subdomain_problems};
use crate::validate::{IMMUTABLE, each, unchanged};

/// IPAddress: its name is the address, its parent has it.
pub static IP_ADDRESS: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ipaddress", ["ip"], []),
    namespaced: false,
    name_rule: NameRule::Address,
    validate: |object| {
        let parent = At::root(object).at("spec.parentRef");
        let mut findings = Vec::new();
        if !parent.is_set() {
            return vec![parent.required("")];
        }
        let group = parent.get("group");
        if !group.is_empty() {
            each(&mut findings, &group, &subdomain_problems(group.str()));
        }
        for member in ["resource", "name"] {
            let at = parent.get(member);
            if at.is_empty() {
                findings.push(at.required(""));
            } else {
                each(&mut findings, &at, &path_segment_problems(at.str()));
            }
        }
        let namespace = parent.get("namespace");
        if !namespace.is_empty() {
            each(&mut findings, &namespace, &path_segment_problems(namespace.str()));
        }
        findings
    },
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        unchanged(&mut findings, &At::root(new).at("spec.parentRef"), &At::root(old).at("spec.parentRef"));
        findings
    },
    columns: &[NAME, column("ParentRef")],
    cells: |object, _| vec![show::name(object), parent(object).into()],
    ..PLAIN
};

/// ServiceCIDR: one or two networks from which Services get their addresses.
pub static SERVICE_CIDR: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "servicecidr"),
    namespaced: false,
    subresources: &[status_of("networking.k8s.io", "v1", "ServiceCIDR")],
    status: true,
    validate_create_only: |object| networks(&At::root(object).at("spec.cidrs")),
    validate_update: |new, old, part| if part == Part::Main { networks_update(new, old) } else { Vec::new() },
    columns: &[NAME, column("CIDRs"), column("Age")],
    cells: |object, now| {
        let networks = show::joined(list(object, "spec.cidrs").iter().filter_map(Value::as_str));
        vec![show::name(object), networks.into(), show::age(object, now)]
    },
    ..PLAIN
};

/// `services/default/kubernetes`
fn parent(object: &Value) -> String {
    let parent = find(object, "spec.parentRef");
    if !parent.is_object() {
        return "<none>".to_owned();
    }
    let (group, resource) = (text(parent, "group"), text(parent, "resource"));
    let mut shown = if group.is_empty() { resource.to_lowercase() } else { format!("{resource}.{group}").to_lowercase() };
    for part in [text(parent, "namespace"), text(parent, "name")] {
        if !part.is_empty() {
            shown.push('/');
            shown.push_str(part);
        }
    }
    shown
}

fn is_v6(network: &str) -> Option<bool> {
    network.split('/').next()?.parse::<IpAddr>().ok().map(|address| address.is_ipv6())
}

fn networks(at: &At<'_>) -> Vec<FieldError> {
    let mut findings = Vec::new();
    match at.len() {
        0 => return vec![at.required("at least one CIDR required")],
        1 | 2 => {}
        _ => return vec![at.invalid("may only hold up to 2 values")],
    }
    for network in at.items() {
        each(&mut findings, &network, &cidr_problems(network.str()));
    }
    let families: Vec<Option<bool>> = at.items().map(|network| is_v6(network.str())).collect();
    if let [Some(first), Some(second)] = families.as_slice()
        && first == second
    {
        findings.push(at.invalid("may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"));
    }
    findings
}

/// Networks stay; a second one, of the other family, may be added.
fn networks_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let at = At::root(new).at("spec.cidrs");
    let before = list(old, "spec.cidrs");
    let changed = at.items().zip(before).filter(|(network, old)| network.value != *old);
    let mut findings: Vec<FieldError> = changed.map(|(network, _)| network.invalid(IMMUTABLE)).collect();
    match (before.len(), at.len()) {
        (one, other) if one == other => {}
        (1, 2) => findings.extend(networks(&at)),
        _ => findings.push(at.invalid(IMMUTABLE)),
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Kind as _;

    fn texts(findings: &[FieldError]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    fn address(name: &str, parent: Value) -> Value {
        json!({"metadata": {"name": name}, "spec": {"parentRef": parent}})
    }

    #[test]
    fn an_address_is_its_name() {
        let parent = json!({"resource": "services", "namespace": "default", "name": "kubernetes"});
        assert!(IP_ADDRESS.validate_create(&address("10.96.0.1", parent.clone())).is_empty());
        assert!(IP_ADDRESS.validate_create(&address("fe80::42:1dff:fe84:f9e2", parent.clone())).is_empty());
        assert_eq!(
            texts(&IP_ADDRESS.validate_create(&address("10.96.0.01", parent.clone()))),
            ["metadata.name: Invalid value: \"10.96.0.01\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
        );
        assert_eq!(
            texts(&IP_ADDRESS.validate_create(&address("FE80::1", parent.clone()))),
            ["metadata.name: Invalid value: \"FE80::1\": must be in canonical form (\"fe80::1\")"]
        );
        assert_eq!(texts(&IP_ADDRESS.validate_create(&address("10.0.0.1", Value::Null))), ["spec.parentRef: Required value"]);
        let shown = IP_ADDRESS.cells(&address("10.96.0.1", parent), "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(shown, [json!("10.96.0.1"), json!("services/default/kubernetes")]);
    }

    #[test]
    fn networks_may_only_get_a_second_family() {
        let of = |networks: Value| json!({"metadata": {"name": "n"}, "spec": {"cidrs": networks}});
        let check = |networks: Value| texts(&SERVICE_CIDR.validate_create(&of(networks)));
        assert!(check(json!(["10.0.0.0/16", "2001:db8::/64"])).is_empty());
        assert_eq!(check(json!([])), ["spec.cidrs: Required value: at least one CIDR required"]);
        assert_eq!(
            check(json!(["10.0.0.1/16"])),
            ["spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must not have bits set beyond the prefix length"]
        );
        assert!(check(json!(["10.0.0.0/16", "10.1.0.0/16"]))[0].contains("no more than one IP for each IP family"));
        let old = of(json!(["10.0.0.0/16"]));
        let update = |networks: Value| SERVICE_CIDR.validate_update(&of(networks), &old, Part::Main).len();
        assert_eq!(update(json!(["10.0.0.0/16", "2001:db8::/64"])), 0);
        assert_eq!(update(json!(["10.2.0.0/16"])), 1);
        assert_eq!(update(json!([])), 1);
    }
}
