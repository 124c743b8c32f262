//! Services and what stands behind them: Endpoints, EndpointSlices.

use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, status_of, wide};
use super::show;
use crate::cursor::{At, find, items_mut, list, make_object, set_default, set_default_text, text};
use crate::field::FieldError;
use crate::kind::{Part, Subresource};
use crate::validate::meta::NameRule;
use crate::validate::text::{label_problems, port_problems};
use crate::validate::{each, labels, one_of};

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
        set_default_text(spec, "type", "ClusterIP");
        for port in items_mut(spec, "ports") {
            set_default_text(port, "protocol", "TCP");
            let target = port.get("targetPort").cloned().unwrap_or(Value::Null);
            if target.is_null() || target == 0 || target == "" {
                port["targetPort"] = port.get("port").cloned().unwrap_or_else(|| json!(0));
            }
        }
        let kind = text(spec, "type").to_owned();
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            set_default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        if kind != "ExternalName" {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
    },
    prepare_create: |object| object["status"] = json!({ "loadBalancer": {} }),
    prepare_update: |new, old, part| {
        // Addresses that an update leaves out stay.
        let kept = text(old, "spec.type") != "ExternalName" && text(new, "spec.type") != "ExternalName";
        if part == Part::Main && kept {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let old = find(old, "spec").get(field).cloned();
                if let (Some(old), Some(spec)) = (old, new.get_mut("spec")) {
                    set_default(spec, field, old);
                }
            }
        }
    },
    validate: service,
    validate_update: |new, old, part| {
        let mut findings = Vec::new();
        let fixed = |object: &Value| text(object, "spec.type") != "ExternalName";
        let (ip, before) = (At::root(new).at("spec.clusterIP"), text(old, "spec.clusterIP"));
        if part == Part::Main && fixed(new) && fixed(old) && !before.is_empty() && ip.str() != before {
            findings.push(FieldError::invalid("spec.clusterIPs[0]", json!([ip.str()]), "may not change once set"));
        }
        findings
    },
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
    validate: |object| {
        let at = At::root(object);
        let mut findings = Vec::new();
        let kind = at.get("addressType");
        if kind.is_empty() {
            findings.push(kind.required(""));
        } else {
            one_of(&mut findings, &kind, &["FQDN", "IPv4", "IPv6"]);
        }
        for endpoint in at.get("endpoints").items() {
            if endpoint.get("addresses").len() == 0 {
                findings.push(endpoint.get("addresses").required("must contain at least 1 address"));
            }
        }
        for port in at.get("ports").items() {
            if let Some(number) = port.get("port").int() {
                each(&mut findings, &port.get("port"), &port_problems(number));
            }
        }
        findings
    },
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        crate::validate::unchanged(&mut findings, &At::root(new).get("addressType"), &At::root(old).get("addressType"));
        findings
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

fn service(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    let kind = spec.get("type");
    one_of(&mut findings, &kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    let headless = spec.get("clusterIP").str() == "None";
    let list = spec.get("ports");
    if list.len() == 0 && !headless && kind.str() != "ExternalName" {
        findings.push(list.required(""));
    }
    if kind.str() == "ExternalName" && spec.get("externalName").is_empty() {
        findings.push(spec.get("externalName").required(""));
    }
    let several = list.len() > 1;
    let (mut names, mut seen, mut node_ports) = (Vec::new(), Vec::new(), Vec::new());
    for port in list.items() {
        let name = port.get("name");
        if name.is_empty() {
            if several {
                findings.push(name.required(""));
            }
        } else {
            each(&mut findings, &name, &label_problems(name.str()));
            if names.contains(&name.str()) {
                findings.push(name.duplicate());
            }
            names.push(name.str());
        }
        let number = port.get("port");
        for problem in port_problems(number.int().unwrap_or(0)) {
            findings.push(FieldError::invalid(number.path.clone(), number.int().unwrap_or(0), &problem));
        }
        let protocol = port.get("protocol");
        one_of(&mut findings, &protocol, &["SCTP", "TCP", "UDP"]);
        super::pod::container::port(&mut findings, &port.get("targetPort"));
        if seen.contains(&(number.int(), protocol.str())) {
            let value = json!({ "protocol": protocol.value, "port": number.value });
            findings.push(FieldError::duplicate(port.path.clone(), value));
        }
        seen.push((number.int(), protocol.str()));
        let node = port.get("nodePort");
        if let Some(value) = node.int().filter(|value| *value != 0) {
            if kind.str() == "ClusterIP" {
                findings.push(node.forbidden("may not be used when `type` is 'ClusterIP'"));
            }
            if node_ports.contains(&(value, protocol.str())) {
                findings.push(node.duplicate());
            }
            node_ports.push((value, protocol.str()));
        }
    }
    labels(&mut findings, &spec.get("selector"));
    one_of(&mut findings, &spec.get("sessionAffinity"), &["ClientIP", "None"]);
    let ip = spec.get("clusterIP");
    if !ip.is_empty() && !headless {
        each(&mut findings, &ip, &crate::validate::text::ip_problems(ip.str()));
    }
    for policy in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        let at = spec.get(policy);
        if at.is_set() && !at.is_empty() {
            one_of(&mut findings, &at, &["Cluster", "Local"]);
        }
    }
    findings
}
