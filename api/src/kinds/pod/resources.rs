//! What may be wrong with resource requests and limits, and what a pod asks for in all: QoS class, effective requests.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde_json::Value;

use crate::cursor::{At, find, list, text};
use crate::field::FieldError;
use crate::quantity::Quantity;
use crate::validate::text::{label_problems, qualified_name_problems};

/// Whose resources these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A container.
    Container,
    /// A whole pod (`spec.resources`).
    Pod,
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Names without a prefix, and those of Kubernetes' own domain.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A device or the like: `example.com/thing`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && qualified_name_problems(&format!("requests.{name}")).is_empty()
}

/// Requests may be lower than limits.
fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge(name)
}

const STANDARD: [&str; 10] = [
    "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage", "limits.cpu",
    "limits.memory", "limits.ephemeral-storage", "storage",
];

fn name(findings: &mut Vec<FieldError>, at: &At<'_>, name: &str, of: Of) {
    let path = &at.path;
    let problems = qualified_name_problems(name);
    if !problems.is_empty() {
        findings.extend(problems.iter().map(|problem| FieldError::invalid(path.clone(), name, problem)));
        return;
    }
    let plain = !name.contains('/');
    if plain && !STANDARD.contains(&name) && !is_huge(name) {
        let detail = "must be a standard resource type or fully qualified";
        findings.push(FieldError::invalid(path.clone(), name, detail));
        if of == Of::Pod {
            return;
        }
    }
    if of == Of::Pod {
        if !matches!(name, "cpu" | "memory") && !is_huge(name) {
            findings.push(FieldError::not_supported(path.clone(), name, &["cpu", "hugepages-", "memory"]));
        }
    } else if plain {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge(name) {
            findings.push(FieldError::invalid(path.clone(), name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        findings.push(FieldError::invalid(path.clone(), name, "doesn't follow extended resource name standard"));
    }
}

/// A quantity of a resource: not negative; whole for devices.
pub fn quantity(findings: &mut Vec<FieldError>, at: &At<'_>, name: &str) {
    let value = Quantity::lenient(at.str());
    if value.is_negative() {
        findings.push(at.invalid("must be greater than or equal to 0"));
    }
    let whole = name == "pods" || is_extended(name);
    if whole && value.nanos() % 1_000_000_000 != 0 {
        findings.push(at.invalid("must be an integer"));
    }
}

/// Requests and limits of a container or pod.
pub fn requirements(findings: &mut Vec<FieldError>, at: &At<'_>, of: Of, claims: &BTreeSet<&str>) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    for (resource, value) in limits.entries() {
        name(findings, &value, resource, of);
        quantity(findings, &value, resource);
        huge(findings, &value, resource);
    }
    for (resource, value) in requests.entries() {
        name(findings, &value, resource, of);
        quantity(findings, &value, resource);
        let request = Quantity::lenient(value.str());
        match limits.value.get(resource).and_then(Value::as_str) {
            Some(limit_text) => {
                let limit = Quantity::lenient(limit_text);
                let rule = if request != limit && !overcommit_allowed(resource) {
                    "must be equal to"
                } else if request > limit {
                    "must be less than or equal to"
                } else {
                    continue;
                };
                let detail = format!("{rule} {resource} limit of {limit_text}");
                findings.push(FieldError::invalid(requests.path.clone(), value.str(), &detail));
            }
            None if !overcommit_allowed(resource) => {
                findings.push(limits.required("Limit must be set for non overcommitable resources"));
            }
            None => {}
        }
        huge(findings, &value, resource);
    }
    let names: Vec<&str> = limits.entries().chain(requests.entries()).map(|(name, _)| name).collect();
    if names.iter().any(|name| is_huge(name)) && !names.iter().any(|name| matches!(*name, "cpu" | "memory")) {
        findings.push(at.forbidden("HugePages require cpu or memory"));
    }
    claim_names(findings, &at.get("claims"), claims);
}

fn huge(findings: &mut Vec<FieldError>, at: &At<'_>, resource: &str) {
    let Some(size) = resource.strip_prefix("hugepages-") else { return };
    let page = Quantity::lenient(size).nanos();
    if page <= 0 || Quantity::lenient(at.str()).nanos() % page != 0 {
        findings.push(at.invalid(&format!("{} is not positive integer multiple of {resource}", at.str())));
    }
}

fn claim_names(findings: &mut Vec<FieldError>, at: &At<'_>, known: &BTreeSet<&str>) {
    let mut seen = BTreeSet::new();
    for claim in at.items() {
        let (name, request) = (claim.get("name").str(), claim.get("request"));
        if name.is_empty() {
            findings.push(claim.required(""));
            continue;
        }
        if !request.is_empty() {
            crate::validate::each(findings, &request, &label_problems(request.str()));
        }
        if !seen.insert(format!("{name}/{}", request.str())) {
            findings.push(FieldError::duplicate(claim.path.clone(), name));
        }
        if !known.contains(name) {
            let mut finding = FieldError::not_found(claim.path.clone(), name);
            let listed = known.iter().copied().collect::<Vec<_>>().join(", ");
            finding.message.push_str(": must be one of the names in pod.spec.resourceClaims");
            finding.message.push_str(&if listed.is_empty() { " which is empty".to_owned() } else { format!(": {listed}") });
            findings.push(finding);
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the spec alone.
pub fn qos_class(pod: &Value) -> &'static str {
    let own = find(pod, "spec.resources");
    let pod_level = own.get("limits").is_some() || own.get("requests").is_some();
    let holders: Vec<&Value> = if pod_level {
        vec![own]
    } else {
        let containers = list(pod, "spec.containers").iter().chain(list(pod, "spec.initContainers"));
        containers.map(|container| find(container, "resources")).collect()
    };
    let mut requests: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut guaranteed = true;
    for resources in holders {
        let mut limited = 0;
        for (field, sums) in [("requests", &mut requests), ("limits", &mut limits)] {
            for name in ["cpu", "memory"] {
                let value = Quantity::lenient(text(resources, &format!("{field}.{name}")));
                if !value.is_zero() && !value.is_negative() {
                    let sum = sums.entry(name).or_insert(Quantity::ZERO);
                    *sum = sum.plus(&value);
                    limited += usize::from(field == "limits");
                }
            }
        }
        guaranteed &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Amounts of resources by name.
pub type Amounts = BTreeMap<String, Quantity>;

fn add(sum: &mut Amounts, other: &Amounts) {
    for (name, value) in other {
        let entry = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        *entry = entry.plus(value);
    }
}

fn raise(top: &mut Amounts, other: &Amounts) {
    for (name, value) in other {
        let entry = top.entry(name.clone()).or_insert(Quantity::ZERO);
        *entry = (*entry).max(*value);
    }
}

/// Which side of the requirements is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

fn amounts(resources: Option<&ResourceRequirements>, side: Side) -> Amounts {
    let map = resources.and_then(|resources| match side {
        Side::Requests => resources.requests.as_ref(),
        Side::Limits => resources.limits.as_ref(),
    });
    map.into_iter().flatten().map(|(name, value)| (name.clone(), Quantity::lenient(&value.0))).collect()
}

fn sum(pod: &Pod, side: Side) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &amounts(container.resources.as_ref(), side));
    }
    // Init containers run one by one, each beside the sidecars that stand before it.
    let (mut sidecars, mut highest) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let own = amounts(container.resources.as_ref(), side);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut highest, &sidecars);
        } else {
            let mut beside = own;
            add(&mut beside, &sidecars);
            raise(&mut highest, &beside);
        }
    }
    raise(&mut total, &highest);
    // What the pod says as a whole replaces the sum.
    for (name, value) in amounts(spec.resources.as_ref(), side) {
        total.insert(name, value);
    }
    let overhead: Amounts =
        spec.overhead.iter().flatten().map(|(name, value)| (name.clone(), Quantity::lenient(&value.0))).collect();
    match side {
        Side::Requests => add(&mut total, &overhead),
        // Overhead raises only limits that exist.
        Side::Limits => {
            for (name, value) in &overhead {
                if let Some(limit) = total.get_mut(name) {
                    *limit = limit.plus(value);
                }
            }
        }
    }
    total
}

/// What a pod needs from a node: containers summed up, init containers where they need more, overhead.
pub fn requests(pod: &Pod) -> Amounts {
    sum(pod, Side::Requests)
}

/// What a pod may use at most, by the same rules.
pub fn limits(pod: &Pod) -> Amounts {
    sum(pod, Side::Limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn qos() {
        let with = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"requests": full, "limits": full}), "Guaranteed"),
            (json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": full}), "Burstable"),
            (json!({"requests": {"cpu": "0"}}), "BestEffort"),
        ] {
            assert_eq!(qos_class(&with(resources.clone())), class, "{resources}");
        }
    }

    #[test]
    fn effective_requests() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}}, {"name": "b", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": "3"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}},
                {"name": "j", "resources": {"requests": {"memory": "2Gi"}}},
            ],
            "overhead": {"cpu": "10m"},
        }})).expect("pod");
        let requests = requests(&pod);
        assert_eq!(requests["cpu"].millis(), 3010);
        assert_eq!(requests["memory"].units(), (2 << 30) + (64 << 20));
    }
}
