//! NetworkPolicies, Ingresses and IngressClasses: what traffic may flow, and what comes in from outside.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, status_of};
use super::show;
use crate::cursor::{At, find, items_mut, list, make_object, object_mut, set_default, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::validate::text::{
    cidr_problems, ip_problems, label_problems, path_segment_problems, pattern, port_name_problems, port_problems,
    subdomain_problems, wildcard_problems,
};
use crate::validate::{each, label_selector, one_of, unchanged};

type Findings = Vec<FieldError>;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const MAX_CONTROLLER: usize = 250;

/// NetworkPolicy.
pub static NETWORK_POLICY: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy", ["netpol"], []),
    generation: true,
    default: |object| {
        let egress = !list(object, "spec.egress").is_empty();
        let spec = make_object(object, "spec");
        if list(spec, "policyTypes").is_empty() {
            spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
        for rules in ["ingress", "egress"] {
            for rule in items_mut(spec, rules) {
                for port in items_mut(rule, "ports") {
                    set_default(port, "protocol", "TCP");
                }
            }
        }
    },
    validate_create_only: |object| policy(object, &[]),
    validate_update: |new, old, part| if part == Part::Main { policy(new, &policy_networks(old)) } else { Vec::new() },
    columns: &[NAME, column("Pod-Selector"), column("Age")],
    cells: |object, now| {
        vec![show::name(object), show::selector(find(object, "spec.podSelector")).into(), show::age(object, now)]
    },
    ..PLAIN
};

/// Ingress.
pub static INGRESS: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress", ["ing"], []),
    subresources: &[status_of("networking.k8s.io", "v1", "Ingress")],
    status: true,
    generation: true,
    validate: ingress,
    validate_create_only: |object| {
        let (annotation, class) = (annotated_class(object), At::root(object).at("spec.ingressClassName"));
        if annotation.is_some_and(|annotation| class.is_set() && annotation != class.str()) {
            let detail = "must match `ingressClassName` when both are specified";
            let path = format!("annotations.{CLASS_ANNOTATION}");
            return vec![FieldError::invalid(path, annotation.unwrap_or_default(), detail)];
        }
        Vec::new()
    },
    validate_update: |new, _, part| if part == Part::Status { entrances(new) } else { Vec::new() },
    warnings: |object| {
        let deprecated = annotated_class(object).is_some() && !At::root(object).at("spec.ingressClassName").is_set();
        let warning = || format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead");
        deprecated.then(warning).into_iter().collect()
    },
    columns: &[NAME, column("Class"), column("Hosts"), column("Address"), column("Ports"), column("Age")],
    cells: |object, now| {
        let hosts: Vec<&str> =
            list(object, "spec.rules").iter().map(|rule| text(rule, "host")).filter(|host| !host.is_empty()).collect();
        let addresses = list(object, "status.loadBalancer.ingress").iter();
        let addresses = addresses.map(|one| if text(one, "ip").is_empty() { text(one, "hostname") } else { text(one, "ip") });
        let tls = !list(object, "spec.tls").is_empty();
        vec![
            show::name(object),
            show::or_none(text(object, "spec.ingressClassName")),
            if hosts.is_empty() { "*".into() } else { hosts.join(",").into() },
            show::joined(addresses).into(),
            if tls { "80, 443".into() } else { "80".into() },
            show::age(object, now),
        ]
    },
    ..PLAIN
};

/// IngressClass.
pub static INGRESS_CLASS: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "ingressclass", [], []),
    namespaced: false,
    generation: true,
    default: |object| {
        let parameters = object_mut(object, "spec").and_then(|spec| object_mut(spec, "parameters"));
        if let Some(parameters) = parameters {
            set_default(parameters, "scope", "Cluster");
        }
    },
    validate: |object| class(&At::root(object).get("spec")),
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        unchanged(&mut findings, &At::root(new).at("spec.controller"), &At::root(old).at("spec.controller"));
        findings
    },
    columns: &[NAME, column("Controller"), column("Parameters"), column("Age")],
    cells: |object, now| {
        let parameters = match text(object, "spec.parameters.kind") {
            "" => "<none>".to_owned(),
            kind => {
                let group = text(object, "spec.parameters.apiGroup");
                let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
                format!("{kind}/{}", text(object, "spec.parameters.name"))
            }
        };
        vec![show::name(object), text(object, "spec.controller").into(), parameters.into(), show::age(object, now)]
    },
    ..PLAIN
};

/// Rules and their peers, of both directions.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

/// All networks of a policy: those that it already has may stay, however they are written.
fn policy_networks(object: &Value) -> Vec<&str> {
    let mut networks = Vec::new();
    for (rules, peers) in DIRECTIONS {
        let rules = find(object, "spec").get(rules).and_then(Value::as_array).into_iter().flatten();
        for peer in rules.flat_map(|rule| list(rule, peers)) {
            networks.push(text(peer, "ipBlock.cidr"));
            networks.extend(list(peer, "ipBlock.except").iter().filter_map(Value::as_str));
        }
    }
    networks
}

fn policy(object: &Value, known: &[&str]) -> Findings {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    label_selector(&mut findings, &spec.get("podSelector"));
    for (rules, peers) in DIRECTIONS {
        for rule in spec.get(rules).items() {
            rule.get("ports").items().for_each(|port| policy_port(&mut findings, &port));
            rule.get(peers).items().for_each(|peer| policy_peer(&mut findings, &peer, known));
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        findings.push(types.invalid("may not specify more than two policyTypes"));
        return findings;
    }
    types.items().for_each(|one| one_of(&mut findings, &one, &["Ingress", "Egress"]));
    findings
}

fn policy_port(findings: &mut Findings, at: &At<'_>) {
    if at.get("protocol").is_set() {
        one_of(findings, &at.get("protocol"), &["TCP", "UDP", "SCTP"]);
    }
    let (port, end) = (at.get("port"), at.get("endPort"));
    match port.int() {
        Some(number) => {
            each(findings, &port, &port_problems(number));
            if let Some(last) = end.int() {
                if last < number {
                    findings.push(FieldError::invalid(end.path.clone(), number, "must be greater than or equal to `port`"));
                }
                each(findings, &end, &port_problems(last));
            }
        }
        None if port.is_set() => {
            if end.is_set() {
                findings.push(end.invalid("may not be specified when `port` is non-numeric"));
            }
            each(findings, &port, &port_name_problems(port.str()));
        }
        None if end.is_set() => findings.push(end.invalid("may not be specified when `port` is not specified")),
        None => {}
    }
}

fn policy_peer(findings: &mut Findings, at: &At<'_>, known: &[&str]) {
    let (pods, namespaces, block) = (at.get("podSelector"), at.get("namespaceSelector"), at.get("ipBlock"));
    label_selector(findings, &pods);
    label_selector(findings, &namespaces);
    if block.is_set() {
        ip_block(findings, &block, known);
    }
    if !pods.is_set() && !namespaces.is_set() && !block.is_set() {
        findings.push(at.required("must specify a peer"));
    } else if block.is_set() && (pods.is_set() || namespaces.is_set()) {
        findings.push(at.forbidden("may not specify both ipBlock and another peer"));
    }
}

fn ip_block(findings: &mut Findings, at: &At<'_>, known: &[&str]) {
    let whole = at.get("cidr");
    if whole.is_empty() {
        findings.push(whole.required(""));
        return;
    }
    let check = |findings: &mut Findings, network: &At<'_>| {
        if !known.contains(&network.str()) {
            each(findings, network, &cidr_problems(network.str()));
        }
    };
    check(findings, &whole);
    let Some(outer) = network(whole.str()) else { return };
    for except in at.get("except").items() {
        check(findings, &except);
        let Some(inner) = network(except.str()) else { continue };
        if !strictly_within(inner, outer) {
            findings.push(except.invalid("must be a strict subset of `cidr`"));
        }
    }
}

fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = text.split_once('/')?;
    Some((address.parse().ok()?, bits.parse().ok()?))
}

fn strictly_within((inner, inner_bits): (IpAddr, u32), (outer, outer_bits): (IpAddr, u32)) -> bool {
    let same = match (inner, outer) {
        (IpAddr::V4(inner), IpAddr::V4(outer)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(outer_bits)).unwrap_or(0);
            u32::from(inner) & mask == u32::from(outer) & mask
        }
        (IpAddr::V6(inner), IpAddr::V6(outer)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(outer_bits)).unwrap_or(0);
            u128::from(inner) & mask == u128::from(outer) & mask
        }
        _ => false,
    };
    same && inner_bits > outer_bits
}

fn annotated_class(object: &Value) -> Option<&str> {
    find(object, "metadata.annotations").get(CLASS_ANNOTATION).and_then(Value::as_str)
}

fn ingress(object: &Value) -> Findings {
    let spec = At::root(object).get("spec");
    let (backend, rules, class) = (spec.get("defaultBackend"), spec.get("rules"), spec.get("ingressClassName"));
    let mut findings = Vec::new();
    if rules.len() == 0 && !backend.is_set() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        findings.push(FieldError::invalid(spec.path.clone(), rules.value.clone(), detail));
    }
    if backend.is_set() {
        ingress_backend(&mut findings, &backend);
    }
    for rule in rules.items() {
        host(&mut findings, &rule.get("host"));
        let http = rule.get("http");
        if http.is_set() {
            let paths = http.get("paths");
            if paths.len() == 0 {
                findings.push(paths.required(""));
            }
            paths.items().for_each(|path| ingress_path(&mut findings, &path));
        }
    }
    for tls in spec.get("tls").items() {
        for host in tls.get("hosts").items() {
            each(&mut findings, &host, &host_problems(host.str()));
        }
        let secret = tls.get("secretName");
        if !secret.is_empty() {
            each(&mut findings, &secret, &subdomain_problems(secret.str()));
        }
    }
    if class.is_set() {
        each(&mut findings, &class, &subdomain_problems(class.str()));
    }
    findings
}

fn host_problems(host: &str) -> Vec<String> {
    if host.contains('*') { wildcard_problems(host) } else { subdomain_problems(host) }
}

fn host(findings: &mut Findings, at: &At<'_>) {
    if at.is_empty() {
        return;
    }
    if at.str().parse::<IpAddr>().is_ok() {
        findings.push(at.invalid("must be a DNS name, not an IP address"));
    }
    each(findings, at, &host_problems(at.str()));
}

fn ingress_path(findings: &mut Findings, at: &At<'_>) {
    let (kind, path) = (at.get("pathType"), at.get("path"));
    if !kind.is_set() {
        findings.push(kind.required("pathType must be specified"));
        return;
    }
    let absolute = path.str().starts_with('/');
    match kind.str() {
        "Exact" | "Prefix" => {
            if !absolute {
                findings.push(path.invalid("must be an absolute path"));
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|bad| path.str().contains(**bad)) {
                findings.push(path.invalid(&format!("must not contain '{bad}'")));
            }
            for bad in ["/..", "/."].iter().filter(|bad| path.str().ends_with(**bad)) {
                findings.push(path.invalid(&format!("cannot end with '{bad}'")));
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !absolute {
                findings.push(path.invalid("must be an absolute path"));
            }
        }
        _ => findings.push(kind.not_supported(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
    ingress_backend(findings, &at.get("backend"));
}

fn ingress_backend(findings: &mut Findings, at: &At<'_>) {
    let wrong = |detail: &str| FieldError::invalid(at.path.clone(), "", detail);
    let (resource, service) = (at.get("resource"), at.get("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => findings.push(wrong("cannot set both resource and service backends")),
        (true, false) => local_reference(findings, &resource),
        (false, true) => {
            let (name, port_name, number) = (service.get("name"), service.at("port.name"), service.at("port.number"));
            if name.is_empty() {
                findings.push(name.required(""));
            } else {
                each(findings, &name, &label_problems(name.str()));
            }
            match (!port_name.is_empty(), number.int().unwrap_or(0)) {
                (true, 0) => each(findings, &port_name, &port_name_problems(port_name.str())),
                (true, _) => findings.push(wrong("cannot set both port name & port number")),
                (false, 0) => findings.push(at.required("port name or number is required")),
                (false, given) => each(findings, &number, &port_problems(given)),
            }
        }
        (false, false) => findings.push(wrong("resource or service backend is required")),
    }
}

fn local_reference(findings: &mut Findings, at: &At<'_>) {
    let group = at.get("apiGroup");
    if group.is_set() {
        each(findings, &group, &subdomain_problems(group.str()));
    }
    for member in ["kind", "name"] {
        let member = at.get(member);
        if member.is_empty() {
            findings.push(member.required(""));
        } else {
            each(findings, &member, &path_segment_problems(member.str()));
        }
    }
}

/// What an Ingress' status says about where it can be reached.
fn entrances(object: &Value) -> Findings {
    let mut findings = Vec::new();
    for entrance in At::root(object).at("status.loadBalancer.ingress").items() {
        let (ip, name) = (entrance.get("ip"), entrance.get("hostname"));
        if !ip.is_empty() {
            each(&mut findings, &ip, &ip_problems(ip.str()));
        }
        if !name.is_empty() {
            each(&mut findings, &name, &subdomain_problems(name.str()));
            if name.str().parse::<IpAddr>().is_ok() {
                findings.push(name.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
    findings
}

/// `acme.io/foo`
fn domain_and_path(findings: &mut Findings, at: &At<'_>) {
    const PATH: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";
    if at.is_empty() {
        findings.push(at.required(""));
        return;
    }
    let Some((domain, path)) = at.str().split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty()) else {
        findings.push(at.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
        return;
    };
    for problem in subdomain_problems(domain) {
        findings.push(FieldError::invalid(at.path.clone(), domain, &problem));
    }
    if !path.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c)) {
        findings.push(FieldError::invalid(at.path.clone(), path, &pattern("Invalid path", PATH, &[])));
    }
}

fn class(spec: &At<'_>) -> Findings {
    let (controller, parameters) = (spec.get("controller"), spec.get("parameters"));
    let mut findings = Vec::new();
    if controller.str().len() > MAX_CONTROLLER {
        findings.push(FieldError::too_long(controller.path.clone(), MAX_CONTROLLER));
    }
    domain_and_path(&mut findings, &controller);
    if !parameters.is_set() {
        return findings;
    }
    local_reference(&mut findings, &parameters);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match (scope.str(), namespace.is_set()) {
        _ if !scope.is_set() => findings.push(scope.required("")),
        ("Namespace", true) => each(&mut findings, &namespace, &label_problems(namespace.str())),
        ("Namespace", false) => findings.push(namespace.required("`parameters.scope` is set to 'Namespace'")),
        ("Cluster", true) => findings.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'")),
        ("Cluster", false) => {}
        _ => findings.push(scope.not_supported(&["Cluster", "Namespace"])),
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind as _;

    fn check(kind: &Definition, spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "x", "namespace": "n"}, "spec": spec});
        if !kind.namespaced {
            object["metadata"] = json!({"name": "x"});
        }
        kind.default(&mut object);
        kind.validate_create(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn policies() {
        let rule = |rule: Value| check(&NETWORK_POLICY, json!({"podSelector": {}, "ingress": [rule]}));
        let block = |cidr: &str, except: &str| rule(json!({"from": [{"ipBlock": {"cidr": cidr, "except": [except]}}]}));
        assert!(rule(json!({"ports": [{"port": 80, "endPort": 90}], "from": [{"podSelector": {}}]})).is_empty());
        assert!(block("10.0.0.0/8", "10.1.0.0/16").is_empty());
        assert_eq!(
            block("10.0.0.0/8", "11.0.0.0/16"),
            ["spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"]
        );
        assert_eq!(block("10.0.0.0/8", "10.0.0.0/8").len(), 1);
        assert_eq!(rule(json!({"from": [{}]})), ["spec.ingress[0].from[0]: Required value: must specify a peer"]);
        assert_eq!(
            rule(json!({"ports": [{"port": 80, "endPort": 79}, {"endPort": 1}]})),
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].ports[1].endPort: Invalid value: 1: may not be specified when `port` is not specified",
            ]
        );
        let odd = json!({"metadata": {"name": "x"}, "spec": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]}});
        assert!(NETWORK_POLICY.validate_update(&odd, &odd, Part::Main).is_empty(), "what was there may stay");
    }

    #[test]
    fn ingresses() {
        let path = |kind: &str, path: &str| {
            let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
            check(&INGRESS, json!({"rules": [{"host": "*.a.b", "http": {"paths": [{"pathType": kind, "path": path, "backend": backend}]}}]}))
        };
        assert!(path("Prefix", "/a").is_empty() && path("ImplementationSpecific", "").is_empty());
        assert_eq!(
            path("Exact", "a/../b"),
            [
                "spec.rules[0].http.paths[0].path: Invalid value: \"a/../b\": must be an absolute path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a/../b\": must not contain '/../'",
            ]
        );
        assert_eq!(check(&INGRESS, json!({})), ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]);
        assert_eq!(
            check(&INGRESS, json!({"defaultBackend": {"service": {"name": "s"}}})),
            ["spec.defaultBackend: Required value: port name or number is required"]
        );
    }

    #[test]
    fn classes() {
        let parameters = |extra: Value| {
            let mut parameters = json!({"kind": "K", "name": "n"});
            if let (Value::Object(all), Value::Object(extra)) = (&mut parameters, extra) {
                all.extend(extra);
            }
            check(&INGRESS_CLASS, json!({"controller": "a.io/b", "parameters": parameters}))
        };
        assert!(parameters(json!({})).is_empty());
        assert_eq!(
            parameters(json!({"scope": "Namespace"})),
            ["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"]
        );
        assert_eq!(
            check(&INGRESS_CLASS, json!({"controller": "a"})),
            ["spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")"]
        );
    }
}
