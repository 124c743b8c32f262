//! Requests and limits as the kernel counts them: shares, quota, bytes, the OOM killer's score.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::pod::view::{self, Qos, Role};
use crate::quantity::{milli_of, whole_of};
use crate::runtime::PodResources;

/// Of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// cgroup CPU shares, 2 to 262144.
    pub cpu_shares: u64,
    /// Thousandths of a CPU.
    pub cpu_limit_milli: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<u64>,
}

/// Shares for thousandths of a CPU.
pub fn shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000).unwrap_or(0).clamp(2, 262_144)
}

fn positive(amount: Option<i64>) -> Option<u64> {
    amount.and_then(|amount| u64::try_from(amount).ok()).filter(|amount| *amount > 0)
}

/// What a container asks for and may use. Without a request its limit counts as one.
pub fn of_container(container: &Container) -> Limits {
    let (requests, limits) = lists(container.resources.as_ref());
    let limit = milli_of(limits, "cpu");
    Limits {
        cpu_shares: shares(milli_of(requests, "cpu").or(limit).unwrap_or(0)),
        cpu_limit_milli: positive(limit),
        memory_limit: positive(whole_of(limits, "memory")),
    }
}

type List = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn lists(resources: Option<&ResourceRequirements>) -> (Option<&List>, Option<&List>) {
    (resources.and_then(|r| r.requests.as_ref()), resources.and_then(|r| r.limits.as_ref()))
}

/// What the pod as a whole asks for, in thousandths, by resource: the larger of what runs together and of what each
/// init step needs, plus overhead.
pub fn requests(pod: &Pod) -> BTreeMap<String, i64> {
    let spec = view::spec(pod);
    let units = view::units(pod);
    let (pod_level, _) = lists(spec.resources.as_ref());
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for unit in &units {
        let (requests, limits) = lists(unit.container.resources.as_ref());
        names.extend(requests.into_iter().chain(limits).flat_map(|list| list.keys().map(String::as_str)));
    }
    names.extend(pod_level.into_iter().chain(spec.overhead.as_ref()).flat_map(|list| list.keys().map(String::as_str)));
    let mut out = BTreeMap::new();
    for name in names {
        let own = |container: &Container| {
            let (requests, limits) = lists(container.resources.as_ref());
            milli_of(requests, name).or_else(|| milli_of(limits, name)).unwrap_or(0)
        };
        let (mut sidecars, mut apps, mut largest_step) = (0, 0, 0);
        for unit in &units {
            match unit.role {
                Role::Sidecar => sidecars += own(&unit.container),
                Role::Init => largest_step = largest_step.max(sidecars + own(&unit.container)),
                Role::App => apps += own(&unit.container),
                Role::Ephemeral => {}
            }
        }
        let containers = largest_step.max(sidecars + apps);
        let total = milli_of(pod_level, name).unwrap_or(containers) + milli_of(spec.overhead.as_ref(), name).unwrap_or(0);
        if total > 0 {
            out.insert(name.to_owned(), total);
        }
    }
    out
}

/// Limits of the pod's cgroup: set only where every container has one.
pub fn of_pod(pod: &Pod) -> PodResources {
    let spec = view::spec(pod);
    let requests = requests(pod);
    let (_, pod_limits) = lists(spec.resources.as_ref());
    let sum = |resource: &str| -> Option<u64> {
        if let Some(limit) = milli_of(pod_limits, resource) {
            return positive(Some(limit));
        }
        let (mut sidecars, mut apps, mut largest_step) = (0u64, 0u64, 0u64);
        for unit in view::units(pod).iter().filter(|unit| unit.role != Role::Ephemeral) {
            let (_, limits) = lists(unit.container.resources.as_ref());
            let own = positive(milli_of(limits, resource))?;
            match unit.role {
                Role::Sidecar => sidecars += own,
                Role::Init => largest_step = largest_step.max(sidecars + own),
                Role::App | Role::Ephemeral => apps += own,
            }
        }
        Some(largest_step.max(sidecars + apps))
    };
    PodResources {
        cpu_shares: shares(requests.get("cpu").copied().unwrap_or(0)),
        memory_limit: sum("memory").map(|milli| milli.div_ceil(1000)),
        cpu_limit_milli: sum("cpu"),
    }
}

/// The OOM killer's score. `node_memory` is the node's capacity in bytes.
pub fn oom_score_adj(pod: &Pod, container: &Container, role: Role, node_memory: i64) -> i64 {
    let critical = view::spec(pod).priority.is_some_and(|priority| priority >= 2_000_000_000);
    if critical {
        return -997;
    }
    let of = |container: &Container| {
        let (requests, limits) = lists(container.resources.as_ref());
        let request = whole_of(requests, "memory").or_else(|| whole_of(limits, "memory")).unwrap_or(0);
        (1000 - i128::from(request) * 1000 / i128::from(node_memory.max(1))).clamp(3, 999)
    };
    let score = match view::qos(pod) {
        Qos::Guaranteed => return -997,
        Qos::BestEffort => return 1000,
        Qos::Burstable if role == Role::Sidecar => {
            // A sidecar must not die before the containers that it serves.
            let apps = view::spec(pod).containers.iter().map(of).min().unwrap_or(999);
            of(container).min(apps)
        }
        Qos::Burstable => of(container),
    };
    i64::try_from(score).unwrap_or(999)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": "p" }, "spec": spec })).unwrap()
    }

    #[test]
    fn the_largest_step_counts() {
        let cpu = |amount: &str| serde_json::json!({ "requests": { "cpu": amount } });
        let pod = pod(serde_json::json!({ "overhead": { "cpu": "10m" },
            "initContainers": [{ "name": "s", "restartPolicy": "Always", "resources": cpu("100m") },
                               { "name": "i", "resources": cpu("1") }],
            "containers": [{ "name": "a", "resources": cpu("200m") }, { "name": "b", "resources": cpu("300m") }] }));
        assert_eq!(requests(&pod), [("cpu".to_owned(), 1110)].into());
        assert_eq!(of_pod(&pod).cpu_limit_milli, None);
        assert_eq!(view::qos(&pod), Qos::Burstable);
    }

    #[test]
    fn scores() {
        let burstable = pod(serde_json::json!({ "containers": [
            { "name": "c", "resources": { "requests": { "memory": "500Mi" } } }] }));
        let container = |pod: &Pod| pod.spec.as_ref().map(|spec| spec.containers[0].clone()).unwrap();
        assert_eq!(oom_score_adj(&burstable, &container(&burstable), Role::App, 1000 << 20), 500);
        let best = pod(serde_json::json!({ "containers": [{ "name": "c" }] }));
        assert_eq!(oom_score_adj(&best, &container(&best), Role::App, 1), 1000);
        let guaranteed = pod(serde_json::json!({ "containers": [
            { "name": "c", "resources": { "limits": { "memory": "1Gi", "cpu": "1" } } }] }));
        assert_eq!(view::qos(&guaranteed), Qos::Guaranteed);
        assert_eq!(oom_score_adj(&guaranteed, &container(&guaranteed), Role::App, 1), -997);
        assert_eq!(of_pod(&guaranteed), PodResources { cpu_shares: 1024, memory_limit: Some(1 << 30), cpu_limit_milli: Some(1000) });
        assert_eq!((shares(0), shares(1000), shares(i64::MAX)), (2, 1024, 262_144));
    }
}
