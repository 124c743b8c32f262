//! What may be wrong with a Service and with a change of it. Written after `validateService` and
//! `ValidateServiceUpdate` of Kubernetes' core validation, whose words the findings are.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::shape::{addresses, is_external, is_headless, needs_address, needs_health_check};
use crate::cursor::{At, list, text};
use crate::field::FieldError;
use crate::validate::text::{cidr_problems, ip_problems, label_problems, port_problems, qualified_name_problems, subdomain_problems};
use crate::validate::{each, labels, one_of};

/// What is wrong with a Service.
pub fn validate(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    by_type(&mut findings, object, &spec);
    ports(&mut findings, &spec);
    labels(&mut findings, &spec.get("selector"));
    affinity(&mut findings, &spec);
    if needs_address(object) {
        findings.extend(families(object));
    }
    for address in spec.get("externalIPs").items() {
        endpoint_address(&mut findings, &address);
    }
    one_of(&mut findings, &spec.get("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    load_balancer(&mut findings, &spec);
    traffic(&mut findings, object, &spec);
    findings
}

fn by_type(findings: &mut Vec<FieldError>, object: &Value, spec: &At<'_>) {
    let kind = spec.get("type").str();
    if spec.get("ports").len() == 0 && !is_headless(object) && kind != "ExternalName" {
        findings.push(spec.get("ports").required(""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if text(object, "spec.clusterIP") == "None" => {
            let detail = format!("may not be set to 'None' for {kind} services");
            findings.push(FieldError::invalid("spec.clusterIPs[0]", "None", &detail));
        }
        "ExternalName" => {
            for member in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let at = spec.get(member);
                if !at.is_empty() {
                    findings.push(at.forbidden("may not be set for ExternalName services"));
                }
            }
            let name = spec.get("externalName");
            let bare = name.str().strip_suffix('.').unwrap_or(name.str());
            if bare.is_empty() {
                findings.push(name.required(""));
            } else {
                findings.extend(subdomain_problems(bare).iter().map(|problem| FieldError::invalid(name.path.clone(), bare, problem)));
            }
        }
        _ => {}
    }
}

fn ports(findings: &mut Vec<FieldError>, spec: &At<'_>) {
    let list = spec.get("ports");
    let several = list.len() > 1;
    let (mut names, mut seen, mut node_ports) = (Vec::new(), Vec::new(), Vec::new());
    for port in list.items() {
        let name = port.get("name");
        if !name.is_empty() {
            each(findings, &name, &label_problems(name.str()));
            if names.contains(&name.str()) {
                findings.push(name.duplicate());
            }
            names.push(name.str());
        } else if several {
            findings.push(name.required(""));
        }
        let number = port.get("port");
        for problem in port_problems(number.int().unwrap_or(0)) {
            findings.push(FieldError::invalid(number.path.clone(), number.int().unwrap_or(0), &problem));
        }
        let protocol = port.get("protocol");
        one_of(findings, &protocol, &["SCTP", "TCP", "UDP"]);
        super::super::pod::container::port(findings, &port.get("targetPort"));
        let app = port.get("appProtocol");
        if app.is_set() {
            each(findings, &app, &qualified_name_problems(app.str()));
        }
        if seen.contains(&(number.int(), protocol.str())) {
            let value = json!({ "protocol": protocol.value, "port": number.value });
            findings.push(FieldError::duplicate(port.path.clone(), value));
        }
        seen.push((number.int(), protocol.str()));
        let node = port.get("nodePort");
        if let Some(value) = node.int().filter(|value| *value != 0) {
            if spec.get("type").str() == "ClusterIP" {
                findings.push(node.forbidden("may not be used when `type` is 'ClusterIP'"));
            }
            if node_ports.contains(&(value, protocol.str())) {
                findings.push(node.duplicate());
            }
            node_ports.push((value, protocol.str()));
        }
    }
}

/// Longest time that a client stays with its endpoint: a day, in seconds.
const MAX_AFFINITY: i64 = 86400;

fn affinity(findings: &mut Vec<FieldError>, spec: &At<'_>) {
    let (kind, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    if kind.is_empty() {
        return findings.push(kind.required(""));
    }
    one_of(findings, &kind, &["ClientIP", "None"]);
    match kind.str() {
        "ClientIP" => {
            let seconds = config.at("clientIP.timeoutSeconds");
            match seconds.int() {
                None => findings.push(seconds.required("when session affinity type is ClientIP")),
                Some(seconds_given) if seconds_given <= 0 || seconds_given > MAX_AFFINITY => {
                    findings.push(seconds.invalid(&format!("must be greater than 0 and less than {MAX_AFFINITY}")));
                }
                Some(_) => {}
            }
        }
        "None" if config.is_set() => findings.push(config.forbidden("must not be set when session affinity is None")),
        _ => {}
    }
}

/// The family of an address as `ipFamilies` names it; `None` for what is no address.
fn family(address: &str) -> Option<&'static str> {
    match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(_) => Some("IPv4"),
        IpAddr::V6(_) => Some("IPv6"),
    }
}

/// How clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy fit together. Not for ExternalName.
pub fn families(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let (one, all) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    let mut findings = Vec::new();
    if one.is_empty() {
        if all.len() > 0 {
            findings.push(all.invalid("must be empty when `clusterIP` is not specified"));
        }
    } else if all.len() == 0 {
        findings.push(all.required(""));
    } else if addresses(object).first() != Some(&one.str()) {
        findings.push(all.invalid("first value must match `clusterIP`"));
    }
    let mut seen = Vec::new();
    for family in spec.get("ipFamilies").items() {
        one_of(&mut findings, &family, &["IPv4", "IPv6"]);
        if seen.contains(&family.str()) {
            findings.push(family.duplicate());
        }
        seen.push(family.str());
    }
    let policy = spec.get("ipFamilyPolicy");
    if policy.is_set() {
        one_of(&mut findings, &policy, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
    let before = findings.len();
    for (index, address) in all.items().enumerate() {
        if index == 0 && address.str() == "None" {
            if all.len() > 1 {
                findings.push(all.invalid("'None' must be the first and only value"));
            }
        } else {
            each(&mut findings, &address, &ip_problems(address.str()));
        }
    }
    let bad = findings.len() > before;
    if all.len() > 2 {
        findings.push(all.invalid("may only hold up to 2 values"));
    }
    if bad {
        return findings;
    }
    if all.len() > 1 {
        let kinds: Vec<_> = addresses(object).iter().map(|address| family(address)).collect();
        let both = kinds.len() == 2 && kinds.first() != kinds.last();
        if !both {
            findings.push(all.invalid("may specify no more than one IP for each IP family"));
        }
    }
    if !is_headless(object) {
        for (index, (address, wanted)) in all.items().zip(list(object, "spec.ipFamilies")).enumerate() {
            let wanted = wanted.as_str().unwrap_or_default();
            if family(address.str()).is_some_and(|own| own != wanted) && matches!(wanted, "IPv4" | "IPv6") {
                let detail = format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
                findings.push(address.invalid(&detail));
            }
        }
    }
    findings
}

fn endpoint_address(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let Ok(address) = at.str().parse::<IpAddr>() else {
        return each(findings, at, &ip_problems(at.str()));
    };
    let (link_local, link_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => (address.segments()[0] & 0xffc0 == 0xfe80, address.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        findings.push(at.invalid(&format!("may not be unspecified ({address})")));
    }
    if address.is_loopback() {
        findings.push(at.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if link_local {
        findings.push(at.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if link_multicast {
        findings.push(at.invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
}

fn load_balancer(findings: &mut Vec<FieldError>, spec: &At<'_>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let is_balancer = spec.get("type").str() == "LoadBalancer";
    let ranges = spec.get("loadBalancerSourceRanges");
    if ranges.len() > 0 {
        let at = At::new("spec.LoadBalancerSourceRanges", ranges.value);
        if !is_balancer {
            findings.push(at.forbidden(ONLY));
        }
        for range in at.items() {
            let trimmed = range.str().trim();
            // Old objects hold networks with bits behind the prefix; only what is no network at all is refused.
            if cidr_problems(trimmed).iter().any(|problem| problem.starts_with("must be a valid CIDR")) {
                findings.push(FieldError::invalid(range.path.clone(), trimmed, &cidr_problems(trimmed).join("; ")));
            }
        }
    }
    if !is_balancer {
        for member in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec.get(member).is_set() {
                findings.push(spec.get(member).forbidden(ONLY));
            }
        }
    } else if spec.get("loadBalancerClass").is_set() {
        let class = spec.get("loadBalancerClass");
        each(findings, &class, &qualified_name_problems(class.str()));
    }
}

fn traffic(findings: &mut Vec<FieldError>, object: &Value, spec: &At<'_>) {
    let outside = spec.get("externalTrafficPolicy");
    if !is_external(object) {
        if !outside.is_empty() {
            findings.push(outside.invalid("may only be set for externally-accessible services"));
        }
    } else if outside.is_empty() {
        findings.push(outside.required(""));
    } else {
        one_of(findings, &outside, &["Cluster", "Local"]);
    }
    let check = spec.get("healthCheckNodePort");
    let number = check.int().unwrap_or(0);
    if !needs_health_check(object) {
        if number != 0 {
            findings.push(check.invalid(
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ));
        }
    } else if number == 0 {
        findings.push(check.required(""));
    } else {
        each(findings, &check, &port_problems(number));
    }
    let inside = spec.get("internalTrafficPolicy");
    if inside.is_set() {
        one_of(findings, &inside, &["Cluster", "Local"]);
    } else if needs_address(object) {
        findings.push(inside.required(""));
    }
    let distribution = spec.get("trafficDistribution");
    if distribution.is_set() {
        one_of(findings, &distribution, &["PreferClose", "PreferSameZone", "PreferSameNode"]);
    }
}

/// What may not change.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    if needs_address(new) && needs_address(old) {
        addresses_update(&mut findings, new, old);
        families_update(&mut findings, new, old);
    }
    let class = At::root(new).at("spec.loadBalancerClass");
    let both = text(new, "spec.type") == "LoadBalancer" && text(old, "spec.type") == "LoadBalancer";
    if both && class.value != At::root(old).at("spec.loadBalancerClass").value {
        findings.push(class.invalid("may not change once set"));
    }
    let check = At::root(new).at("spec.healthCheckNodePort");
    let needed = needs_health_check(new) && needs_health_check(old);
    if needed && check.value != At::root(old).at("spec.healthCheckNodePort").value {
        findings.push(check.forbidden("field is immutable"));
    }
    findings
}

fn addresses_update(findings: &mut Vec<FieldError>, new: &Value, old: &Value) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let all = At::root(new).at("spec.clusterIPs");
    let (now, before) = (addresses(new), addresses(old));
    let mut about = |index: usize, detail: &str| {
        let shown = if all.is_set() { all.value.clone() } else { json!([]) };
        findings.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), shown, detail));
    };
    if before.len() == now.len() {
        for (index, _) in before.iter().zip(&now).enumerate().filter(|(_, (before, now))| before != now) {
            about(index, "may not change once set");
        }
        return;
    }
    if before.len() > now.len() && now.is_empty() {
        about(0, "primary clusterIP can not be unset");
    }
    if let (Some(first), Some(former)) = (now.first(), before.first())
        && first != former
    {
        about(0, "may not change once set");
    }
    let policy = At::root(new).at("spec.ipFamilyPolicy");
    if before.len() > now.len() && now.len() == 1 && policy.str() != "SingleStack" {
        findings.push(policy.invalid("must be set to 'SingleStack' when releasing the secondary clusterIP"));
    }
}

fn families_update(findings: &mut Vec<FieldError>, new: &Value, old: &Value) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let at = At::root(new).at("spec.ipFamilies");
    let (now, before) = (list(new, "spec.ipFamilies"), list(old, "spec.ipFamilies"));
    if let (Some(first), Some(former)) = (now.first(), before.first())
        && first != former
    {
        findings.push(FieldError::invalid("spec.ipFamilies[0]", at.value.clone(), "may not change once set"));
    }
    let policy = At::root(new).at("spec.ipFamilyPolicy");
    if before.len() > now.len() && now.len() == 1 && policy.str() != "SingleStack" {
        findings.push(policy.invalid("must be set to 'SingleStack' when releasing the secondary ipFamily"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(change: Value) -> Value {
        let mut spec = json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]});
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({ "spec": spec })
    }

    fn said(change: Value) -> String {
        validate(&service(change)).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn findings_in_kubernetes_words() {
        let cases = [
            (json!({}), ""),
            (json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": null}), ""),
            (json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.8"]}), "spec.clusterIPs: Invalid value: [\"10.96.0.8\"]: first value must match `clusterIP`"),
            (json!({"clusterIP": "", "clusterIPs": ["10.96.0.8"]}), "spec.clusterIPs: Invalid value: [\"10.96.0.8\"]: must be empty when `clusterIP` is not specified"),
            (json!({"clusterIP": "x", "clusterIPs": ["x"]}), "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            (json!({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"], "externalTrafficPolicy": "Cluster"}), "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"),
            (json!({"ipFamilies": ["IPv6"]}), "spec.clusterIPs[0]: Invalid value: \"10.96.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`"),
            (json!({"externalTrafficPolicy": "Local"}), "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"),
            (json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}), "spec.healthCheckNodePort: Required value"),
            (json!({"healthCheckNodePort": 30000}), "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"),
            (json!({"externalIPs": ["127.0.0.1"], "externalTrafficPolicy": "Cluster"}), "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            (json!({"allocateLoadBalancerNodePorts": true}), "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'"),
        ];
        for (change, expected) in cases {
            assert_eq!(said(change.clone()), expected, "{change}");
        }
        let external = json!({"spec": {"type": "ExternalName", "externalName": "a.example.", "sessionAffinity": "None",
            "clusterIP": "", "clusterIPs": []}});
        assert!(validate(&external).is_empty(), "{:?}", validate(&external));
    }

    #[test]
    fn addresses_stay() {
        let said = |change: Value| {
            let findings = validate_update(&service(change), &service(json!({})));
            findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(said(json!({})), "");
        assert_eq!(
            said(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]})),
            "spec.clusterIPs[0]: Invalid value: [\"10.96.0.1\"]: may not change once set"
        );
        assert_eq!(said(json!({"clusterIPs": []})), "spec.clusterIPs[0]: Invalid value: []: primary clusterIP can not be unset");
        assert_eq!(said(json!({"type": "ExternalName", "clusterIPs": []})), "");
    }
}
