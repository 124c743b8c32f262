//! What may be wrong with a slice of a driver's devices.

use serde_json::Value;

use super::words::{binding_conditions, driver, label, pool, qualified, taint};
use crate::cursor::{At, list};
use crate::field::FieldError;
use crate::kinds::pod::spec::node_selector;
use crate::quantity::Quantity;
use crate::validate::text::subdomain_problems;
use crate::validate::{at_most, each, needed, unique};

type Findings = Vec<FieldError>;

const MAX_DEVICES: usize = 128;
/// Where devices carry taints, counters or lists: they are larger then.
const MAX_LARGE_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_ATTRIBUTES: usize = 32;
const MAX_VALUES: usize = 48;
const MAX_TAINTS: usize = 16;
const MAX_VALUE: usize = 64;
const MAX_CHOICES: usize = 10;

/// A slice without its metadata.
pub fn validate(object: &Value) -> Findings {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    driver(&mut findings, &spec.get("driver"));
    pool(&mut findings, &spec.at("pool.name"));
    let (count, generation) = (spec.at("pool.resourceSliceCount"), spec.at("pool.generation"));
    if count.int().unwrap_or(0) <= 0 {
        findings.push(FieldError::invalid(count.path, count.value.clone(), "must be greater than zero"));
    }
    if generation.int().is_some_and(|generation| generation < 0) {
        findings.push(generation.invalid("must be greater than or equal to zero"));
    }
    placement(&mut findings, &spec);
    let (shared, devices) = (spec.get("sharedCounters"), spec.get("devices"));
    if shared.is_set() && devices.is_set() {
        findings.push(FieldError::invalid(spec.path.clone(), "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let max = if devices.items().any(|device| is_large(device.value)) { MAX_LARGE_DEVICES } else { MAX_DEVICES };
    if at_most(&mut findings, &devices, max) {
        let per_device = spec.get("perDeviceNodeSelection").is_true();
        devices.items().for_each(|one| device(&mut findings, &one, per_device));
        unique(&mut findings, &devices, |one| one.get("name").str().to_owned());
    }
    if at_most(&mut findings, &shared, MAX_COUNTER_SETS) {
        for set in shared.items() {
            if needed(&mut findings, &set.get("name")) {
                label(&mut findings, &set.get("name"));
            }
            counters(&mut findings, &set.get("counters"));
        }
        unique(&mut findings, &shared, |set| set.get("name").str().to_owned());
    }
    findings
}

/// Exactly one way of saying which nodes have the devices.
fn placement(findings: &mut Findings, spec: &At<'_>) {
    let mut given = Vec::new();
    let (name, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    if name.is_set() {
        if name.is_empty() {
            findings.push(name.invalid("must be either unset or set to a non-empty string"));
        } else {
            given.push("`nodeName`");
            each(findings, &name, &subdomain_problems(name.str()));
        }
    }
    if selector.is_set() {
        given.push("`nodeSelector`");
        node_selector(findings, &selector);
        if selector.get("nodeSelectorTerms").len() != 1 {
            findings.push(selector.get("nodeSelectorTerms").invalid("must have exactly one node selector term"));
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        let flag = spec.get(field);
        if flag.is_true() {
            given.push(shown);
        } else if flag.is_set() {
            findings.push(flag.invalid("must be either unset or set to true"));
        }
    }
    let rule = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    one_place(findings, spec, &given, rule, &format!("{rule}, but multiple fields are set"));
}

fn one_place(findings: &mut Findings, at: &At<'_>, given: &[&str], none: &str, several: &str) {
    match given.len() {
        0 => findings.push(at.required(none)),
        1 => {}
        _ => findings.push(FieldError::invalid(at.path.clone(), format!("{{{}}}", given.join(", ")), several)),
    }
}

const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

fn is_large(device: &Value) -> bool {
    let attributes = device.get("attributes").and_then(Value::as_object);
    !list(device, "taints").is_empty()
        || !list(device, "consumesCounters").is_empty()
        || attributes.into_iter().flatten().any(|(_, one)| LISTS.iter().any(|name| one.get(name).is_some()))
}

fn device(findings: &mut Findings, device: &At<'_>, per_device: bool) {
    label(findings, &device.get("name"));
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let total = attributes.len() + capacity.len();
    if total > MAX_ATTRIBUTES {
        let detail = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        findings.push(FieldError::invalid(device.path.clone(), total, &detail));
    }
    let values = |one: &At<'_>| LISTS.iter().map(|name| one.get(name).len()).sum::<usize>().max(1);
    let values: usize = attributes.entries().map(|(_, one)| values(&one)).sum();
    if values > MAX_VALUES {
        let detail = format!("the total number of attribute values must not exceed {MAX_VALUES}");
        findings.push(FieldError::invalid(device.path.clone(), values, &detail));
    }
    for (name, one) in attributes.entries() {
        qualified(findings, &attributes.path, name);
        attribute(findings, &one);
    }
    let shared = device.get("allowMultipleAllocations").is_true();
    for (name, one) in capacity.entries() {
        qualified(findings, &capacity.path, name);
        let policy = one.get("requestPolicy");
        if policy.is_set() && shared {
            request_policy(findings, &one.get("value"), &policy);
        } else if policy.is_set() {
            findings.push(policy.forbidden("allowMultipleAllocations must be true"));
        }
    }
    if at_most(findings, &device.get("taints"), MAX_TAINTS) {
        device.get("taints").items().for_each(|one| taint(findings, &one));
    }
    let consumed = device.get("consumesCounters");
    if at_most(findings, &consumed, MAX_CONSUMPTIONS) {
        for one in consumed.items() {
            if needed(findings, &one.get("counterSet")) {
                label(findings, &one.get("counterSet"));
            }
            counters(findings, &one.get("counters"));
        }
        unique(findings, &consumed, |one| one.get("counterSet").str().to_owned());
    }
    device_placement(findings, device, per_device);
    binding_conditions(findings, device);
    mappings(findings, device);
}

fn counters(findings: &mut Findings, at: &At<'_>) {
    if needed(findings, at) && at_most(findings, at, MAX_COUNTERS) {
        for (name, _) in at.entries() {
            let value = Value::from(name);
            label(findings, &At::new(at.path.clone(), &value));
        }
    }
}

fn device_placement(findings: &mut Findings, device: &At<'_>, per_device: bool) {
    let [name, selector, all] = ["nodeName", "nodeSelector", "allNodes"].map(|field| device.get(field));
    if !per_device {
        if name.is_set() || selector.is_set() || all.is_set() {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in \
                          the ResourceSlice spec";
            findings.push(FieldError::invalid(device.path.clone(), Value::Null, detail));
        }
        return;
    }
    let mut given = Vec::new();
    if name.is_set() {
        if name.is_empty() {
            findings.push(name.invalid("must not be empty"));
        } else {
            given.push("`nodeName`");
            each(findings, &name, &subdomain_problems(name.str()));
        }
    }
    if selector.is_set() {
        given.push("`nodeSelector`");
        node_selector(findings, &selector);
    }
    if all.is_true() {
        given.push("`allNodes`");
    } else if all.is_set() {
        findings.push(all.invalid("must be either unset or set to true"));
    }
    let rule = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true \
                in the ResourceSlice spec";
    one_place(findings, device, &given, rule, rule);
}

/// What a device takes of the node's own resources.
fn mappings(findings: &mut Findings, device: &At<'_>) {
    for (name, mapping) in device.get("nodeAllocatableResourceMappings").entries() {
        if name.contains('/') && !name.contains("kubernetes.io/") {
            findings.push(FieldError::invalid(mapping.path.clone(), name, "must be a node allocatable resource name"));
        }
        let (factor, key) = (mapping.get("allocationMultiplier"), mapping.get("capacityKey"));
        if !factor.is_set() && !key.is_set() {
            let detail = "at least one of allocationMultiplier or capacityKey must be set";
            findings.push(FieldError::invalid(mapping.path.clone(), "", detail));
        }
        let amount = Quantity::lenient(factor.str());
        if factor.is_set() && (amount.is_negative() || amount.is_zero()) {
            findings.push(factor.invalid("must be positive"));
        }
        if key.is_set() && key.is_empty() {
            findings.push(key.invalid("capacityKey must not be an empty string"));
        } else if key.is_set() && device.get("capacity").value.get(key.str()).is_none() {
            findings.push(FieldError::not_found(key.path, key.value.clone()));
        }
    }
}

fn attribute(findings: &mut Findings, at: &At<'_>) {
    let text = |findings: &mut Findings, at: &At<'_>, version: bool| {
        if version && !is_version(at.str()) {
            findings.push(at.invalid("must be a string compatible with semver.org spec 2.0.0"));
        }
        if at.str().len() > MAX_VALUE {
            findings.push(FieldError::too_long(at.path.clone(), MAX_VALUE));
        }
    };
    for field in ["string", "version"] {
        if at.get(field).is_set() {
            text(findings, &at.get(field), field == "version");
        }
    }
    for field in LISTS {
        let list = at.get(field);
        if list.is_set() && list.len() == 0 {
            findings.push(list.invalid("must not be empty if specified"));
        }
        if matches!(field, "strings" | "versions") {
            list.items().for_each(|item| text(findings, &item, field == "versions"));
        }
    }
    let given = ["bool", "int", "string", "version"].iter().chain(&LISTS).filter(|field| at.get(field).is_set()).count();
    if given == 0 {
        findings.push(FieldError::invalid(at.path.clone(), "", "exactly one value must be specified"));
    } else if given > 1 {
        findings.push(at.invalid("exactly one value must be specified"));
    }
}

/// `1.2.3-alpha.1+build`, as semver.org has it.
fn is_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, release) = rest.split_once('-').map_or((rest, None), |(core, release)| (core, Some(release)));
    let release_part = |part: &str| word(part) && (number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && release.is_none_or(|release| release.split('.').all(release_part))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// How much of a capacity one request may take.
fn request_policy(findings: &mut Findings, capacity: &At<'_>, policy: &At<'_>) {
    let (values, range, default) = (policy.get("validValues"), policy.get("validRange"), policy.get("default"));
    let has_values = values.len() > 0;
    if has_values && range.is_set() {
        let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        findings.push(policy.forbidden(detail));
        return;
    }
    if !has_values && !range.is_set() {
        return;
    }
    if !default.is_set() {
        let of = if has_values { "validValues" } else { "validRange" };
        findings.push(default.required(&format!("required when {of} is defined")));
    } else if has_values {
        choices(findings, &values, default.str(), capacity.str());
    } else {
        span(findings, &range, default.str(), capacity.str());
    }
}

fn choices(findings: &mut Findings, values: &At<'_>, default: &str, capacity: &str) {
    let amounts: Vec<Quantity> = values.items().map(|value| Quantity::lenient(value.str())).collect();
    for (at, pair) in values.items().skip(1).zip(amounts.windows(2)) {
        if let [one, next] = pair
            && one.nanos() > next.nanos()
        {
            findings.push(at.invalid("values must be sorted in ascending order"));
        }
    }
    if !at_most(findings, values, MAX_CHOICES) {
        return;
    }
    for (at, amount) in values.items().zip(&amounts) {
        if amount.nanos() > Quantity::lenient(capacity).nanos() {
            findings.push(at.invalid(&format!("option is larger than capacity value: {capacity}")));
        }
    }
    unique(findings, values, |value| Quantity::lenient(value.str()).nanos());
    if !amounts.iter().any(|amount| amount.nanos() == Quantity::lenient(default).nanos()) {
        let detail = "default value is not valid according to the requestPolicy";
        findings.push(FieldError::invalid(values.path.clone(), default, detail));
    }
}

fn span(findings: &mut Findings, range: &At<'_>, default: &str, capacity: &str) {
    let [min, max, step] = ["min", "max", "step"].map(|field| range.get(field));
    if !min.is_set() {
        findings.push(min.required("required when validRange is defined"));
        return;
    }
    let nanos = |text: &str| Quantity::lenient(text).nanos();
    let (low, whole, wanted) = (nanos(min.str()), nanos(capacity), nanos(default));
    if low > whole {
        findings.push(min.invalid(&format!("min is larger than capacity value: {capacity}")));
    }
    if wanted < low {
        findings.push(FieldError::invalid(min.path.clone(), default, &format!("default is less than min: {}", min.str())));
    }
    if max.is_set() {
        let high = nanos(max.str());
        if low > high {
            findings.push(FieldError::invalid(max.path.clone(), min.str(), &format!("min is larger than max: {}", max.str())));
        }
        if high > whole {
            findings.push(max.invalid(&format!("max is larger than capacity value: {capacity}")));
        }
        if wanted > high {
            findings.push(FieldError::invalid(max.path.clone(), default, &format!("default is more than max: {}", max.str())));
        }
    }
    if !step.is_set() {
        return;
    }
    let size = nanos(step.str());
    if low + size > whole {
        let added = Quantity::lenient(min.str()).plus(&Quantity::lenient(step.str())).to_string();
        findings.push(step.invalid(&format!("one step {added} is larger than capacity value: {capacity}")));
    }
    for value in [default, max.str()].into_iter().filter(|value| !value.is_empty()) {
        if size == 0 || (nanos(value) - low) % size != 0 {
            let detail = format!("value is not a multiple of a given step ({}) from ({})", step.str(), min.str());
            findings.push(FieldError::invalid(step.path.clone(), value, &detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in ["1.2.3", "0.0.0-alpha.1+x-1.2", "1.0.0-0a"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["1.2", "01.2.3", "1.2.3-", "1.2.3-01", "v1.2.3", "1.2.3+", ""] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
