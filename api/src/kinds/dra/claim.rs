//! What may be wrong with a claim: what it asks for, and what it was given.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::words::{binding_conditions, driver, fully_qualified, label, pool, toleration, uid};
use crate::cursor::{At, find, list, text};
use crate::field::FieldError;
use crate::validate::text::subdomain_problems;
use crate::validate::{at_most, each, needed, unchanged, unique};

type Findings = Vec<FieldError>;

const MAX_REQUESTS: usize = 32;
const MAX_RESULTS: usize = 32;
const MAX_CONSTRAINTS: usize = 32;
/// Configurations of a claim or a class.
pub const MAX_CONFIG: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_SELECTORS: usize = 32;
const MAX_EXPRESSION: usize = 10 * 1024;
const MAX_PARAMETERS: usize = 10 * 1024;
const MAX_RESERVED: usize = 256;
const MAX_IPS: usize = 16;

/// Requests by name, with the names of their alternatives.
type Names<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn names<'a>(devices: &At<'a>) -> Names<'a> {
    let alternatives = |request: &At<'a>| request.get("firstAvailable").items().map(|one| one.get("name").str()).collect();
    devices.get("requests").items().map(|request| (request.get("name").str(), alternatives(&request))).collect()
}

/// The specification of a claim.
pub fn spec(spec: &At<'_>) -> Findings {
    let devices = spec.get("devices");
    let names = names(&devices);
    let mut findings = Vec::new();
    let requests = devices.get("requests");
    if at_most(&mut findings, &requests, MAX_REQUESTS) {
        requests.items().for_each(|one| request(&mut findings, &one));
        unique(&mut findings, &requests, |one| one.get("name").str().to_owned());
    }
    let constraints = devices.get("constraints");
    if at_most(&mut findings, &constraints, MAX_CONSTRAINTS) {
        constraints.items().for_each(|one| constraint(&mut findings, &one, &names));
    }
    let config = devices.get("config");
    if at_most(&mut findings, &config, MAX_CONFIG) {
        for one in config.items() {
            references(&mut findings, &one.get("requests"), &names);
            configuration(&mut findings, &one);
        }
    }
    findings
}

fn request(findings: &mut Findings, request: &At<'_>) {
    label(findings, &request.get("name"));
    let (exactly, first) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.is_set(), first.len() > 0) {
        (false, false) => findings.push(request.required("exactly one of `exactly` or `firstAvailable` is required")),
        (true, true) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            findings.push(FieldError::invalid(request.path.clone(), Value::Null, detail));
        }
        (true, false) => devices_of_class(findings, &exactly),
        (false, true) => {
            if at_most(findings, &first, MAX_ALTERNATIVES) {
                for one in first.items() {
                    label(findings, &one.get("name"));
                    devices_of_class(findings, &one);
                }
                unique(findings, &first, |one| one.get("name").str().to_owned());
            }
        }
    }
}

fn devices_of_class(findings: &mut Findings, at: &At<'_>) {
    let class = at.get("deviceClassName");
    if needed(findings, &class) {
        each(findings, &class, &subdomain_problems(class.str()));
    }
    selectors(findings, &at.get("selectors"));
    let (mode, count) = (at.get("allocationMode"), at.get("count"));
    let number = count.int().unwrap_or(0);
    match mode.str() {
        "All" if number != 0 => findings.push(count.invalid("must not be specified when allocationMode is 'All'")),
        "All" => {}
        "ExactCount" if number <= 0 => {
            findings.push(FieldError::invalid(count.path, number, "must be greater than zero"));
        }
        "ExactCount" => {}
        _ => findings.push(mode.not_supported(&["All", "ExactCount"])),
    }
    at.get("tolerations").items().for_each(|one| toleration(findings, &one));
}

/// Selectors of devices. Their expressions are not compiled here.
pub fn selectors(findings: &mut Findings, at: &At<'_>) {
    if !at_most(findings, at, MAX_SELECTORS) {
        return;
    }
    for selector in at.items() {
        let cel = selector.get("cel");
        if !cel.is_set() {
            findings.push(cel.required(""));
        } else if cel.get("expression").str().len() > MAX_EXPRESSION {
            findings.push(FieldError::too_long(cel.sub("expression"), MAX_EXPRESSION));
        }
    }
}

fn constraint(findings: &mut Findings, at: &At<'_>, names: &Names<'_>) {
    references(findings, &at.get("requests"), names);
    let (matches, distinct) = (at.get("matchAttribute"), at.get("distinctAttribute"));
    if matches.is_set() {
        fully_qualified(findings, &matches);
    } else if distinct.is_set() {
        fully_qualified(findings, &distinct);
    } else {
        let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
        findings.push(at.required(detail));
    }
}

fn references(findings: &mut Findings, at: &At<'_>, names: &Names<'_>) {
    if at_most(findings, at, MAX_REQUESTS) {
        at.items().for_each(|one| reference(findings, &one, names));
        unique(findings, at, |one| one.str().to_owned());
    }
}

/// `request` or `request/alternative`.
fn reference(findings: &mut Findings, at: &At<'_>, names: &Names<'_>) {
    const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = at.str().split('/').collect();
    if parts.len() > 2 {
        findings.push(at.invalid(UNKNOWN));
        return;
    }
    for part in &parts {
        let value = Value::from(*part);
        label(findings, &At::new(at.path.clone(), &value));
    }
    let known = match parts.as_slice() {
        [request] => names.contains_key(request),
        [request, alternative] => names.get(request).is_some_and(|known| known.contains(alternative)),
        _ => false,
    };
    if !known {
        findings.push(at.invalid(UNKNOWN));
    }
}

/// What a driver is told; only it understands it.
pub fn configuration(findings: &mut Findings, at: &At<'_>) {
    let opaque = at.get("opaque");
    if !opaque.is_set() {
        findings.push(opaque.required(""));
        return;
    }
    driver(findings, &opaque.get("driver"));
    raw(findings, &opaque.get("parameters"));
}

fn raw(findings: &mut Findings, at: &At<'_>) {
    if !at.is_set() {
        findings.push(at.required(""));
    } else if at.value.to_string().len() > MAX_PARAMETERS {
        findings.push(FieldError::too_long(at.path.clone(), MAX_PARAMETERS));
    } else if !at.value.is_object() {
        findings.push(FieldError::invalid(at.path.clone(), "<value omitted>", "must be a valid JSON object"));
    }
}

/// Driver, pool, device and share: one device, or one share of it.
fn device_id(value: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(value, field))
}

fn allocated(claim: &Value) -> BTreeSet<[&str; 4]> {
    list(claim, "status.allocation.devices.results").iter().map(device_id).collect()
}

/// What drivers said of devices that the claim no longer has goes with them.
pub fn drop_given_back(new: &mut Value, old: &Value) {
    let kept = allocated(new);
    let gone: Vec<[String; 4]> =
        allocated(old).into_iter().filter(|id| !kept.contains(id)).map(|id| id.map(str::to_owned)).collect();
    if gone.is_empty() {
        return;
    }
    let Some(Value::Object(status)) = new.get_mut("status") else { return };
    let Some(Value::Array(devices)) = status.get_mut("devices") else { return };
    devices.retain(|device| !gone.iter().any(|id| device_id(device) == [&id[0], &id[1], &id[2], &id[3]]));
    if devices.is_empty() {
        status.remove("devices");
    }
}

/// A change of a claim's status.
pub fn status(new: &Value, old: &Value) -> Findings {
    let status = At::root(new).get("status");
    let names = names(&At::root(new).at("spec.devices"));
    let mut findings = Vec::new();
    let reserved = status.get("reservedFor");
    if at_most(&mut findings, &reserved, MAX_RESERVED) {
        for consumer in reserved.items() {
            for field in ["resource", "name", "uid"] {
                needed(&mut findings, &consumer.get(field));
            }
        }
        unique(&mut findings, &reserved, |consumer| consumer.get("uid").str().to_owned());
    }
    let given = allocated(new);
    let devices = status.get("devices");
    devices.items().for_each(|device| device_status(&mut findings, &device, &given));
    unique(&mut findings, &devices, |device| device_id(device.value).map(str::to_owned));
    let allocation = status.get("allocation");
    if reserved.len() > 0 && !allocation.is_set() {
        findings.push(reserved.forbidden("may not be specified when `allocated` is not set"));
    } else if !text(new, "metadata.deletionTimestamp").is_empty() {
        let known = list(old, "status.reservedFor");
        if reserved.items().any(|consumer| !known.contains(consumer.value)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            findings.push(reserved.forbidden(detail));
        }
    }
    if find(old, "status.allocation").is_object() && allocation.is_set() {
        unchanged(&mut findings, &allocation, &At::root(old).at("status.allocation"));
    } else if allocation.is_set() {
        allocation_result(&mut findings, &allocation, &names);
    }
    findings
}

fn allocation_result(findings: &mut Findings, at: &At<'_>, names: &Names<'_>) {
    let (results, config) = (at.at("devices.results"), at.at("devices.config"));
    if at_most(findings, &results, MAX_RESULTS) {
        for result in results.items() {
            reference(findings, &result.get("request"), names);
            driver(findings, &result.get("driver"));
            pool(findings, &result.get("pool"));
            label(findings, &result.get("device"));
            binding_conditions(findings, &result);
            if result.get("shareID").is_set() {
                uid(findings, &result.get("shareID"));
            }
        }
    }
    if at_most(findings, &config, 2 * MAX_CONFIG) {
        for one in config.items() {
            let source = one.get("source");
            if needed(findings, &source) {
                crate::validate::one_of(findings, &source, &["FromClaim", "FromClass"]);
            }
            references(findings, &one.get("requests"), names);
            configuration(findings, &one);
        }
    }
    if at.get("nodeSelector").is_set() {
        crate::kinds::pod::spec::node_selector(findings, &at.get("nodeSelector"));
    }
}

fn device_status(findings: &mut Findings, at: &At<'_>, given: &BTreeSet<[&str; 4]>) {
    driver(findings, &at.get("driver"));
    pool(findings, &at.get("pool"));
    label(findings, &at.get("device"));
    if at.get("shareID").is_set() {
        uid(findings, &at.get("shareID"));
    }
    if !given.contains(&device_id(at.value)) {
        let id = device_id(at.value)[..3].join("/");
        findings.push(FieldError::invalid(at.path.clone(), id, "must be an allocated device in the claim"));
    }
    at_most(findings, &at.get("conditions"), 8);
    crate::validate::conditions(findings, &at.get("conditions"));
    if at.get("data").is_set() {
        raw(findings, &at.get("data"));
    }
    let network = at.get("networkData");
    for (field, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.get(field).str().len() > max {
            findings.push(FieldError::too_long(network.sub(field), max));
        }
    }
    let ips = network.get("ips");
    if at_most(findings, &ips, MAX_IPS) {
        for ip in ips.items() {
            let (address, bits) = ip.str().split_once('/').unwrap_or_default();
            let max = address.parse::<std::net::IpAddr>().map(|address| if address.is_ipv6() { 128 } else { 32 });
            let fits = max.is_ok_and(|max| bits.parse::<u32>().is_ok_and(|bits| bits <= max));
            if !fits {
                findings.push(ip.invalid("must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"));
            }
        }
        unique(findings, &ips, |ip| ip.str().to_owned());
    }
}
