//! Services and what stands behind them: Endpoints, EndpointSlices.

mod addresses;
pub mod rules;
pub mod shape;
mod update;

use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, status_of, wide};
use super::show;
use crate::cursor::{At, find, items_mut, list, make_object, set_default, set_default_text, text};
use crate::kind::{Part, Subresource};
use crate::validate::meta::NameRule;

/// Service. Cluster IPs and node ports are given by the API server.
pub static SERVICE: Definition = Definition {
    names: names!("", "v1", "Service", "services", "service", ["svc"], ["all"]),
    subresources: &[
        Subresource {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "ServiceProxyOptions",
            verbs: &["create", "delete", "get", "patch", "update"],
        },
        status_of("", "v1", "Service"),
    ],
    name_rule: NameRule::Label,
    status: true,
    create_on_update: true,
    delete_returns_object: true,
    default: |object| {
        let spec = make_object(object, "spec");
        set_default_text(spec, "sessionAffinity", "None");
        if text(spec, "sessionAffinity") == "ClientIP" {
            let client = make_object(make_object(spec, "sessionAffinityConfig"), "clientIP");
            set_default(client, "timeoutSeconds", 10800);
        }
        if text(spec, "sessionAffinity") == "None"
            && let Some(spec) = spec.as_object_mut()
        {
            spec.remove("sessionAffinityConfig");
        }
        set_default_text(spec, "type", "ClusterIP");
        for port in items_mut(spec, "ports") {
            set_default_text(port, "protocol", "TCP");
            let target = port.get("targetPort").cloned().unwrap_or(Value::Null);
            if target.is_null() || target == 0 || target == "" {
                port["targetPort"] = port.get("port").cloned().unwrap_or_else(|| json!(0));
            }
        }
        let kind = text(spec, "type").to_owned();
        let given_addresses = kind == "ClusterIP" && !list(spec, "externalIPs").is_empty();
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || given_addresses {
            set_default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
    },
    prepare_create: |object| {
        object["status"] = json!({ "loadBalancer": {} });
        // Clients that know one address only give only that.
        let one = text(object, "spec.clusterIP").to_owned();
        if !one.is_empty() && list(object, "spec.clusterIPs").is_empty() {
            object["spec"]["clusterIPs"] = json!([one]);
        }
    },
    prepare_update: |new, old, part| {
        if part == Part::Main {
            update::prepare(new, old);
        }
    },
    validate: rules::validate,
    validate_update: |new, old, part| if part == Part::Main { rules::validate_update(new, old) } else { Vec::new() },
    columns: &[
        NAME,
        column("Type"),
        column("Cluster-IP"),
        column("External-IP"),
        column("Port(s)"),
        column("Age"),
        wide("Selector"),
    ],
    cells: |object, now| {
        vec![
            show::name(object),
            text(object, "spec.type").into(),
            show::or_none(text(object, "spec.clusterIP")),
            external(object).into(),
            ports(object).into(),
            show::age(object, now),
            show::labels(find(object, "spec.selector")).into(),
        ]
    },
    fields: &["spec.clusterIP", "spec.type"],
    ..PLAIN
};

/// Endpoints.
pub static ENDPOINTS: Definition = Definition {
    names: names!("", "v1", "Endpoints", "endpoints", "endpoints", ["ep"], []),
    create_on_update: true,
    default: |object| {
        for subset in items_mut(object, "subsets") {
            for port in items_mut(subset, "ports") {
                set_default_text(port, "protocol", "TCP");
            }
        }
    },
    validate_create_only: |object| addresses::subsets(&At::root(object).get("subsets")),
    validate_update: |new, old, _| {
        let subsets = At::root(new).get("subsets");
        // What is already there may stay.
        if subsets.value == find(old, "subsets") { Vec::new() } else { addresses::subsets(&subsets) }
    },
    columns: &[NAME, column("Endpoints"), column("Age")],
    cells: |object, now| vec![show::name(object), endpoints(object).into(), show::age(object, now)],
    ..PLAIN
};

/// EndpointSlice.
pub static ENDPOINT_SLICE: Definition = Definition {
    names: names!("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice"),
    generation: true,
    default: |object| {
        for port in items_mut(object, "ports") {
            set_default(port, "name", "");
            set_default(port, "protocol", "TCP");
        }
    },
    validate_create_only: |object| addresses::slice(object, None),
    prepare_update: |new, old, _| {
        // Here labels count as what the object says.
        if find(new, "metadata.labels") != find(old, "metadata.labels") {
            let generation = find(old, "metadata.generation").as_i64().unwrap_or(0) + 1;
            make_object(new, "metadata")["generation"] = generation.into();
        }
    },
    validate_update: |new, old, _| {
        let mut findings = addresses::slice(new, Some(old));
        crate::validate::unchanged(&mut findings, &At::root(new).get("addressType"), &At::root(old).get("addressType"));
        findings
    },
    warnings: |object| {
        let fqdn = text(object, "addressType") == "FQDN";
        fqdn.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned()).into_iter().collect()
    },
    columns: &[NAME, column("AddressType"), column("Ports"), column("Endpoints"), column("Age")],
    cells: |object, now| {
        let ports: Vec<String> = list(object, "ports")
            .iter()
            .map(|port| find(port, "port").as_i64().map_or_else(|| "*".to_owned(), |port| port.to_string()))
            .collect();
        let addresses: Vec<&str> = list(object, "endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "addresses"))
            .filter_map(Value::as_str)
            .collect();
        vec![
            show::name(object),
            text(object, "addressType").into(),
            if ports.is_empty() { "<unset>".into() } else { shortened(&ports).into() },
            if addresses.is_empty() { "<unset>".into() } else { shortened(&addresses).into() },
            show::age(object, now),
        ]
    },
    ..PLAIN
};

/// The first three, and how many more there are.
fn shortened<T: AsRef<str>>(texts: &[T]) -> String {
    let first: Vec<&str> = texts.iter().take(3).map(AsRef::as_ref).collect();
    let more = texts.len().saturating_sub(3);
    if more == 0 { first.join(",") } else { format!("{} + {more} more...", first.join(",")) }
}

fn endpoints(object: &Value) -> String {
    let mut all: Vec<String> = Vec::new();
    for subset in list(object, "subsets") {
        let addresses = list(subset, "addresses").iter().map(|address| text(address, "ip"));
        let ports = list(subset, "ports");
        for address in addresses {
            if ports.is_empty() {
                all.push(address.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{address}:{}", show::number(port, "port"))));
        }
    }
    if all.is_empty() { "<none>".to_owned() } else { shortened(&all) }
}

fn external(object: &Value) -> String {
    let ips: Vec<&str> = list(object, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match text(object, "spec.type") {
        "ExternalName" => text(object, "spec.externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = list(object, "status.loadBalancer.ingress").iter();
            let names = ingress.map(|one| if text(one, "ip").is_empty() { text(one, "hostname") } else { text(one, "ip") });
            let all: Vec<&str> = names.chain(ips.iter().copied()).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ if ips.is_empty() => "<none>".to_owned(),
        _ => ips.join(","),
    }
}

fn ports(object: &Value) -> String {
    let shown: Vec<String> = list(object, "spec.ports")
        .iter()
        .map(|port| {
            let (number, node, protocol) = (show::number(port, "port"), show::number(port, "nodePort"), text(port, "protocol"));
            if node == 0 { format!("{number}/{protocol}") } else { format!("{number}:{node}/{protocol}") }
        })
        .collect();
    if shown.is_empty() { "<none>".to_owned() } else { shown.join(",") }
}
