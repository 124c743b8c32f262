//! LimitRanges: what containers get that ask for nothing, and how much anyone may ask for.

use std::collections::BTreeMap;

use balsa_api::quantity::Quantity;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use super::Review;
use crate::pipeline::Api;
use crate::value;

/// Limits of a namespace: the `spec.limits` of all its LimitRanges.
fn limits(api: &Api, namespace: &str) -> ApiResult<Vec<Value>> {
    let Some(kind) = balsa_api::kinds::find("", "v1", "limitranges") else { return Ok(Vec::new()) };
    let ranges = api.cache(kind)?.list(namespace);
    Ok(ranges
        .iter()
        .flat_map(|range| range.value().pointer("/spec/limits").and_then(Value::as_array).cloned().unwrap_or_default())
        .collect())
}

/// Fills in what is missing.
pub fn default(api: &Api, review: &Review<'_>, pod: &mut Value) -> ApiResult<()> {
    fill(pod, &limits(api, review.target.namespace)?);
    Ok(())
}

/// Refuses what is out of range.
pub fn check(api: &Api, review: &Review<'_>, pod: &Value) -> ApiResult<()> {
    let findings = violations(pod, &limits(api, review.target.namespace)?);
    let detail = match findings.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Err(ApiError::forbidden(&review.target.kind.gvr(), review.target.name, &detail))
}

/// Pure.
fn fill(pod: &mut Value, limits: &[Value]) {
    let mut notes = Vec::new();
    for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
        for list in ["containers", "initContainers"] {
            let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                let name = value::text(container, "/name").to_owned();
                let what = if list == "containers" { "container" } else { "init container" };
                for (part, from, word) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
                    for (resource, amount) in limit.get(from).and_then(Value::as_object).into_iter().flatten() {
                        let resources = value::member(container, "resources");
                        let slot = resources.entry(part).or_insert_with(|| json!({}));
                        if let Some(slot) = slot.as_object_mut()
                            && !slot.contains_key(resource)
                        {
                            slot.insert(resource.clone(), amount.clone());
                            notes.push(format!("{resource} {word} for {what} {name}"));
                        }
                    }
                }
            }
        }
    }
    if !notes.is_empty() {
        let annotations = value::metadata(pod).entry("annotations").or_insert_with(|| json!({}));
        annotations["kubernetes.io/limit-ranger"] = json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

type Amounts = BTreeMap<String, Quantity>;

fn amounts(container: &Value, part: &str) -> Amounts {
    let map = container.pointer(&format!("/resources/{part}")).and_then(Value::as_object);
    map.into_iter().flatten().map(|(key, amount)| (key.clone(), quantity(amount))).collect()
}

fn quantity(amount: &Value) -> Quantity {
    match amount {
        Value::String(text) => Quantity::lenient(text),
        other => Quantity::lenient(&other.to_string()),
    }
}

fn sum(pod: &Value, part: &str) -> Amounts {
    let mut total = Amounts::new();
    for container in pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten() {
        for (key, amount) in amounts(container, part) {
            let before = total.get(&key).cloned().unwrap_or(Quantity::ZERO);
            total.insert(key, before.plus(&amount));
        }
    }
    total
}

/// Everything that is out of range. Pure.
fn violations(pod: &Value, limits: &[Value]) -> Vec<String> {
    let mut findings = Vec::new();
    for limit in limits {
        match value::text(limit, "/type") {
            "Container" => {
                for list in ["containers", "initContainers"] {
                    let containers = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
                    for container in containers.into_iter().flatten() {
                        let (requests, tops) = (amounts(container, "requests"), amounts(container, "limits"));
                        check_one(limit, "Container", &requests, &tops, &mut findings);
                    }
                }
            }
            "Pod" => check_one(limit, "Pod", &sum(pod, "requests"), &sum(pod, "limits"), &mut findings),
            _ => {}
        }
    }
    findings
}

fn bounds<'a>(limit: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    limit.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn shown(amount: &Value) -> String {
    amount.as_str().map_or_else(|| amount.to_string(), str::to_owned)
}

fn check_one(limit: &Value, what: &str, requests: &Amounts, tops: &Amounts, findings: &mut Vec<String>) {
    for (resource, bound) in bounds(limit, "min") {
        let least = quantity(bound);
        match requests.get(resource) {
            None => findings.push(format!("minimum {resource} usage per {what} is {}.  No request is specified", shown(bound))),
            Some(request) if request.nanos() < least.nanos() => findings.push(format!(
                "minimum {resource} usage per {what} is {}, but request is {request}", shown(bound)
            )),
            Some(_) => {}
        }
        if let Some(top) = tops.get(resource).filter(|top| top.nanos() < least.nanos()) {
            findings.push(format!("minimum {resource} usage per {what} is {}, but limit is {top}", shown(bound)));
        }
    }
    for (resource, bound) in bounds(limit, "max") {
        let most = quantity(bound);
        match tops.get(resource) {
            None => findings.push(format!("maximum {resource} usage per {what} is {}.  No limit is specified", shown(bound))),
            Some(top) if top.nanos() > most.nanos() => findings.push(format!(
                "maximum {resource} usage per {what} is {}, but limit is {top}", shown(bound)
            )),
            Some(_) => {}
        }
        if let Some(request) = requests.get(resource).filter(|request| request.nanos() > most.nanos()) {
            findings.push(format!("maximum {resource} usage per {what} is {}, but request is {request}", shown(bound)));
        }
    }
    for (resource, bound) in bounds(limit, "maxLimitRequestRatio") {
        let (Some(request), Some(top)) = (requests.get(resource), tops.get(resource)) else {
            findings.push(format!(
                "{resource} max limit to request ratio per {what} is {}, but no request is specified or request is 0", shown(bound)
            ));
            continue;
        };
        let ratio = if request.is_zero() { f64::INFINITY } else { top.as_f64() / request.as_f64() };
        if ratio > quantity(bound).as_f64() {
            findings.push(format!(
                "{resource} max limit to request ratio per {what} is {}, but provided ratio is {ratio:.6}", shown(bound)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_and_refuses() {
        let limits = [json!({"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"},
            "max": {"cpu": "500m"}})];
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}});
        fill(&mut pod, &limits);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
        assert!(violations(&pod, &limits).is_empty());
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "600m"}});
        assert_eq!(violations(&pod, &limits), ["maximum cpu usage per Container is 500m, but limit is 600m"]);
    }
}
