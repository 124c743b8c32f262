//! What Endpoints and EndpointSlices may say: addresses that can be reached, ports with their names, hints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::cursor::At;
use crate::field::FieldError;
use crate::validate::text::{
    address_problems, ip_problems, label_problems, label_value_problems, port_problems, qualified_name_problems,
    subdomain_problems,
};
use crate::validate::{at_most, each, needed, one_of};

type Findings = Vec<FieldError>;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
const MAX_TOPOLOGY: usize = 16;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// The subsets of Endpoints.
pub fn subsets(at: &At<'_>) -> Findings {
    let mut findings = Vec::new();
    for subset in at.items() {
        let (ready, not_ready, ports) = (subset.get("addresses"), subset.get("notReadyAddresses"), subset.get("ports"));
        if ready.len() == 0 && not_ready.len() == 0 {
            findings.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        ready.items().chain(not_ready.items()).for_each(|address| subset_address(&mut findings, &address));
        ports.items().for_each(|port| subset_port(&mut findings, &port, ports.len() > 1));
    }
    findings
}

fn subset_address(findings: &mut Findings, at: &At<'_>) {
    let (ip, hostname, node) = (at.get("ip"), at.get("hostname"), at.get("nodeName"));
    each(findings, &ip, &ip_problems(ip.str()));
    if !hostname.is_empty() {
        each(findings, &hostname, &label_problems(hostname.str()));
    }
    if node.is_set() {
        each(findings, &node, &subdomain_problems(node.str()));
    }
    reachable(findings, &ip);
}

fn subset_port(findings: &mut Findings, at: &At<'_>, named: bool) {
    let (name, port, protocol, app) = (at.get("name"), at.get("port"), at.get("protocol"), at.get("appProtocol"));
    if !name.is_empty() {
        each(findings, &name, &label_problems(name.str()));
    } else if named {
        findings.push(name.required(""));
    }
    let number = port.int().unwrap_or(0);
    for problem in port_problems(number) {
        findings.push(FieldError::invalid(port.path.clone(), number, &problem));
    }
    if needed(findings, &protocol) {
        one_of(findings, &protocol, &PROTOCOLS);
    }
    if app.is_set() {
        each(findings, &app, &qualified_name_problems(app.str()));
    }
}

/// An address that others can use: not one that means something else on each machine.
fn reachable(findings: &mut Findings, at: &At<'_>) {
    let Ok(address) = at.str().parse::<IpAddr>() else {
        findings.push(at.invalid("must be a valid IP address"));
        return;
    };
    if address.is_unspecified() {
        findings.push(at.invalid(&format!("may not be unspecified ({})", at.str())));
    }
    if address.is_loopback() {
        findings.push(at.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    let (link_local, multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        findings.push(at.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if multicast {
        findings.push(at.invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
}

/// An EndpointSlice; endpoints that it had before are not looked at again.
pub fn slice(object: &Value, old: Option<&Value>) -> Findings {
    let at = At::root(object);
    let (kind, endpoints) = (at.get("addressType"), at.get("endpoints"));
    let mut findings = Vec::new();
    if needed(&mut findings, &kind) {
        one_of(&mut findings, &kind, &["FQDN", "IPv4", "IPv6"]);
    }
    slice_ports(&mut findings, &at.get("ports"));
    let same = old.is_some_and(|old| old.get("endpoints").unwrap_or(&Value::Null) == endpoints.value);
    if !same && at_most(&mut findings, &endpoints, MAX_ENDPOINTS) {
        endpoints.items().for_each(|one| endpoint(&mut findings, &one, kind.str()));
    }
    findings
}

fn slice_ports(findings: &mut Findings, at: &At<'_>) {
    if !at_most(findings, at, MAX_PORTS) {
        return;
    }
    let mut names = BTreeSet::new();
    for port in at.items() {
        let (name, protocol, app) = (port.get("name"), port.get("protocol"), port.get("appProtocol"));
        if !name.is_empty() {
            each(findings, &name, &label_problems(name.str()));
        }
        if !names.insert(name.str()) {
            findings.push(name.duplicate());
        }
        if needed(findings, &protocol) {
            one_of(findings, &protocol, &PROTOCOLS);
        }
        if app.is_set() {
            each(findings, &app, &qualified_name_problems(app.str()));
        }
    }
}

fn endpoint(findings: &mut Findings, at: &At<'_>, kind: &str) {
    let (addresses, node, hostname) = (at.get("addresses"), at.get("nodeName"), at.get("hostname"));
    if addresses.len() == 0 {
        findings.push(addresses.required("must contain at least 1 address"));
    } else {
        at_most(findings, &addresses, MAX_ADDRESSES);
    }
    addresses.items().for_each(|address| slice_address(findings, &addresses, &address, kind));
    if node.is_set() {
        each(findings, &node, &subdomain_problems(node.str()));
    }
    let topology = at.get("deprecatedTopology");
    at_most(findings, &topology, MAX_TOPOLOGY);
    crate::validate::labels(findings, &topology);
    if hostname.is_set() {
        each(findings, &hostname, &label_problems(hostname.str()));
    }
    hints(findings, &at.at("hints.forZones"), label_value_problems);
    hints(findings, &at.at("hints.forNodes"), subdomain_problems);
}

fn slice_address(findings: &mut Findings, all: &At<'_>, at: &At<'_>, kind: &str) {
    let parsed = at.str().parse::<IpAddr>().ok();
    let (problems, fits) = match kind {
        "IPv4" => (ip_problems(at.str()), parsed.is_none_or(|address| address.is_ipv4())),
        "IPv6" => (address_problems(at.str()), parsed.is_none_or(|address| address.is_ipv6())),
        "FQDN" => {
            let name = at.str().strip_suffix('.').unwrap_or(at.str());
            let mut problems = subdomain_problems(name);
            if problems.is_empty() && !name.contains('.') {
                problems.push("should be a domain with at least two segments separated by dots".to_owned());
            }
            each(findings, at, &problems);
            return;
        }
        _ => return,
    };
    if !problems.is_empty() {
        each(findings, at, &problems);
        return;
    }
    if !fits {
        findings.push(FieldError::invalid(all.path.clone(), at.str(), &format!("must be an {kind} address")));
    }
    reachable(findings, at);
}

fn hints(findings: &mut Findings, at: &At<'_>, problems: fn(&str) -> Vec<String>) {
    if !at_most(findings, at, MAX_HINTS) {
        return;
    }
    let mut names = BTreeSet::new();
    for hint in at.items() {
        let name = hint.get("name");
        if !names.insert(name.str()) {
            findings.push(name.duplicate());
        }
        each(findings, &name, &problems(name.str()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(findings: &[FieldError]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_can_be_reached() {
        let check = |ip: &str| texts(&subsets(&At::new("subsets", &json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80, "protocol": "TCP"}]}]))));
        assert!(check("10.0.0.1").is_empty());
        assert_eq!(
            check("127.0.0.1"),
            ["subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"]
        );
        assert_eq!(check("169.254.1.1").len(), 1);
        assert_eq!(check("x").len(), 2);
        assert_eq!(
            texts(&subsets(&At::new("subsets", &json!([{"ports": [{"port": 1, "protocol": "TCP"}, {"name": "b", "port": 0, "protocol": "TCP"}]}])))),
            [
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ]
        );
    }

    #[test]
    fn slices() {
        let of = |kind: &str, address: &str| json!({"addressType": kind, "endpoints": [{"addresses": [address]}], "ports": []});
        assert!(slice(&of("IPv4", "10.0.0.1"), None).is_empty() && slice(&of("IPv6", "2001:db8::1"), None).is_empty());
        assert!(slice(&of("FQDN", "a.example"), None).is_empty());
        assert_eq!(
            texts(&slice(&of("IPv4", "2001:db8::1"), None)),
            ["endpoints[0].addresses: Invalid value: \"2001:db8::1\": must be an IPv4 address"]
        );
        let bad = of("IPv4", "127.0.0.1");
        assert_eq!((slice(&bad, None).len(), slice(&bad, Some(&bad)).len()), (1, 0));
        let twice = json!({"addressType": "IPv4", "ports": [{"name": "a", "protocol": "TCP"}, {"name": "a", "protocol": "QUIC"}]});
        assert_eq!(
            texts(&slice(&twice, None)),
            [
                "ports[1].name: Duplicate value: \"a\"",
                "ports[1].protocol: Unsupported value: \"QUIC\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ]
        );
    }
}
