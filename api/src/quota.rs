//! What objects cost of a ResourceQuota, and which quotas are about them. Rules as in Kubernetes' `pkg/quota/v1`.
//!
//! The API server charges what is created, the quota controller counts what is there: both ask here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Pod, PodAffinityTerm};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value;

use crate::cursor::{find, list, text};
use crate::kinds::pod::resources;
use crate::quantity::{Format, Quantity};

/// Amounts by name: `pods`, `requests.cpu`, `count/deployments.apps`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Core kinds that are also counted under their plain names.
const PLAIN: [&str; 7] =
    ["configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services"];

fn number(units: usize) -> Quantity {
    Quantity::from_units(i64::try_from(units).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// `count/deployments.apps`
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// What the object costs. `now`: a pod whose time to end is over costs no more than its count.
pub fn usage(group: &str, plural: &str, object: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::from([(count_name(group, plural), number(1))]);
    match (group, plural) {
        ("", "pods") => {
            if is_charged(object, now) {
                usage.insert("pods".to_owned(), number(1));
                usage.extend(pod_usage(object));
            }
        }
        ("", "services") => usage.extend(service_usage(object)),
        ("", "persistentvolumeclaims") => usage.extend(claim_usage(object)),
        ("", plain) if PLAIN.contains(&plain) => {
            usage.insert(plain.to_owned(), number(1));
        }
        _ => {}
    }
    usage
}

/// Whether the pod may still use what it asked for.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(pod, "status.phase"), "Succeeded" | "Failed") {
        return false;
    }
    let deleted: Option<Timestamp> = text(pod, "metadata.deletionTimestamp").parse().ok();
    let grace = find(pod, "metadata.deletionGracePeriodSeconds").as_i64();
    match (deleted, grace) {
        (Some(deleted), Some(grace)) => now.as_second() <= deleted.as_second().saturating_add(grace),
        _ => true,
    }
}

/// A pod's requests and limits, under the names that quotas know them by.
pub fn pod_usage(pod: &Value) -> Amounts {
    let Ok(pod) = Pod::deserialize(pod) else { return Amounts::new() };
    let mut usage = Amounts::new();
    for (name, amount) in resources::requests(&pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in resources::limits(&pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
    usage
}

fn service_usage(service: &Value) -> Amounts {
    let mut usage = Amounts::from([("services".to_owned(), number(1))]);
    let ports = list(service, "spec.ports");
    let (node_ports, balancers) = match text(service, "spec.type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" => {
            let allocates = find(service, "spec.allocateLoadBalancerNodePorts").as_bool().unwrap_or(true);
            let own = ports.iter().filter(|port| find(port, "nodePort").as_i64().unwrap_or(0) != 0).count();
            (if allocates { ports.len() } else { own }, 1)
        }
        _ => (0, 0),
    };
    usage.insert("services.nodeports".to_owned(), number(node_ports));
    usage.insert("services.loadbalancers".to_owned(), number(balancers));
    usage
}

fn claim_usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([("persistentvolumeclaims".to_owned(), number(1))]);
    let storage = Quantity::lenient(text(claim, "spec.resources.requests.storage"));
    usage.insert("requests.storage".to_owned(), storage);
    let class = text(claim, "spec.storageClassName");
    if !class.is_empty() {
        let of_class = format!("{class}.storageclass.storage.k8s.io");
        usage.insert(format!("{of_class}/requests.storage"), storage);
        usage.insert(format!("{of_class}/persistentvolumeclaims"), number(1));
    }
    usage
}

/// The kind (group, plural) whose objects an entry of `spec.hard` is about; `None`: a pod's resources.
pub fn counted_kind(name: &str) -> Option<(&str, &str)> {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group, plural));
    }
    match name {
        "services.nodeports" | "services.loadbalancers" => Some(("", "services")),
        "requests.storage" => Some(("", "persistentvolumeclaims")),
        _ if name.contains(".storageclass.storage.k8s.io/") => Some(("", "persistentvolumeclaims")),
        _ => PLAIN.iter().find(|plain| **plain == name).map(|plain| ("", *plain)),
    }
}

/// Whether the entry of `spec.hard` is about pods' resources or their number.
pub fn is_of_pods(name: &str) -> bool {
    match counted_kind(name) {
        Some(kind) => kind == ("", "pods"),
        None => {
            let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
            let native = matches!(bare, "cpu" | "memory" | "ephemeral-storage") || bare.starts_with("hugepages-");
            native || (name.starts_with("requests.") && bare.contains('/'))
        }
    }
}

/// Whether the quota names scopes at all.
pub fn is_scoped(quota: &Value) -> bool {
    !list(quota, "spec.scopes").is_empty() || !list(quota, "spec.scopeSelector.matchExpressions").is_empty()
}

/// Whether every scope of the quota is about such a pod.
pub fn in_scope(quota: &Value, pod: &Value) -> bool {
    let plain = list(quota, "spec.scopes").iter().filter_map(Value::as_str);
    plain.into_iter().all(|scope| scope_fits(scope, &Value::Null, pod))
        && list(quota, "spec.scopeSelector.matchExpressions")
            .iter()
            .all(|expression| scope_fits(text(expression, "scopeName"), expression, pod))
}

fn scope_fits(scope: &str, expression: &Value, pod: &Value) -> bool {
    let terminating = find(pod, "spec.activeDeadlineSeconds").as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = || resources::qos_class(pod) == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => priority_class_fits(expression, text(pod, "spec.priorityClassName")),
        "CrossNamespacePodAffinity" => reaches_elsewhere(pod),
        _ => false,
    }
}

fn priority_class_fits(expression: &Value, class: &str) -> bool {
    let named = || list(expression, "values").iter().any(|value| value == class);
    match text(expression, "operator") {
        "In" => named(),
        "NotIn" => !named(),
        "DoesNotExist" => class.is_empty(),
        // A scope without a selector asks for any class.
        _ => !class.is_empty(),
    }
}

/// Whether the pod's affinity looks at pods of other namespaces.
fn reaches_elsewhere(pod: &Value) -> bool {
    let Ok(affinity) = Affinity::deserialize(find(pod, "spec.affinity")) else { return false };
    let elsewhere = |term: &PodAffinityTerm| {
        term.namespace_selector.is_some() || term.namespaces.as_ref().is_some_and(|names| !names.is_empty())
    };
    let (near, far) = (affinity.pod_affinity.unwrap_or_default(), affinity.pod_anti_affinity.unwrap_or_default());
    let required = near.required_during_scheduling_ignored_during_execution.into_iter();
    let required = required.chain(far.required_during_scheduling_ignored_during_execution).flatten();
    let preferred = near.preferred_during_scheduling_ignored_during_execution.into_iter();
    let preferred = preferred.chain(far.preferred_during_scheduling_ignored_during_execution).flatten();
    required.chain(preferred.map(|weighted| weighted.pod_affinity_term)).any(|term| elsewhere(&term))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    #[test]
    fn what_objects_cost() {
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "100m", "x.com/gpu": "2"}, "limits": {"cpu": "1"}}}]}});
        assert_eq!(
            shown(&usage("", "pods", &pod, now())),
            "count/pods=1 cpu=100m limits.cpu=1 pods=1 requests.cpu=100m requests.x.com/gpu=2"
        );
        let mut done = pod.clone();
        done["status"] = json!({"phase": "Succeeded"});
        assert_eq!(shown(&usage("", "pods", &done, now())), "count/pods=1");
        let mut stuck = pod;
        stuck["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(shown(&usage("", "pods", &stuck, now())), "count/pods=1", "its time is over");
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            shown(&usage("", "services", &service, now())),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"
        );
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            shown(&usage("", "persistentvolumeclaims", &claim, now())),
            "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             gold.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi"
        );
        assert_eq!(shown(&usage("apps", "deployments", &json!({}), now())), "count/deployments.apps=1");
    }

    #[test]
    fn which_kind_an_entry_is_about() {
        assert_eq!(counted_kind("count/deployments.apps"), Some(("apps", "deployments")));
        assert_eq!(counted_kind("services.nodeports"), Some(("", "services")));
        assert_eq!(counted_kind("gold.storageclass.storage.k8s.io/requests.storage"), Some(("", "persistentvolumeclaims")));
        assert!(is_of_pods("pods") && is_of_pods("requests.cpu") && is_of_pods("requests.x.com/gpu") && is_of_pods("memory"));
        assert!(!is_of_pods("secrets") && !is_of_pods("requests.storage") && !is_of_pods("nonsense"));
    }

    #[test]
    fn scopes() {
        let quota = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let best = json!({"spec": {"containers": [{"name": "a"}]}});
        let ending = json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high",
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        for (scope, fits_best, fits_ending) in [
            ("BestEffort", true, false), ("NotBestEffort", false, true), ("Terminating", false, true), ("NotTerminating", true, false),
            ("PriorityClass", false, true), ("CrossNamespacePodAffinity", false, false), ("Else", false, false),
        ] {
            assert_eq!((in_scope(&quota(scope), &best), in_scope(&quota(scope), &ending)), (fits_best, fits_ending), "{scope}");
        }
        let selector = json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}});
        assert!(in_scope(&selector, &ending) && !in_scope(&selector, &best) && is_scoped(&selector));
        let affinity = json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z", "namespaces": ["o"]}]}}}});
        assert!(in_scope(&quota("CrossNamespacePodAffinity"), &affinity));
    }
}
