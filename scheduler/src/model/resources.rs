//! Amounts of resources, and what a pod asks for in total.

use std::collections::BTreeMap;

use balsa_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// What the scheduler assumes for scoring where a container asks for no CPU: thousandths.
const DEFAULT_MILLI_CPU: i64 = 100;
/// And where it asks for no memory: bytes.
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub ephemeral_storage: i64,
    /// How many pods; only of nodes.
    pub pods: i64,
    /// Extended resources and huge pages.
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; what cannot be parsed counts as nothing (the apiserver lets no such thing pass).
    pub fn from_list(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut resources = Self::default();
        for (name, text) in list.into_iter().flatten() {
            let quantity = Quantity::lenient(&text.0);
            resources.set(name, if name == "cpu" { quantity.millis() } else { quantity.units() });
        }
        resources
    }

    fn slot(&mut self, name: &str) -> Option<&mut i64> {
        match name {
            "cpu" => Some(&mut self.milli_cpu),
            "memory" => Some(&mut self.memory),
            "ephemeral-storage" => Some(&mut self.ephemeral_storage),
            "pods" => Some(&mut self.pods),
            _ => None,
        }
    }

    fn set(&mut self, name: &str, amount: i64) {
        match self.slot(name) {
            Some(slot) => *slot = amount,
            None => {
                self.other.insert(name.to_owned(), amount);
            }
        }
    }

    /// Adds, saturating.
    pub fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    /// Takes away again what was added.
    pub fn sub(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
        self.other.retain(|_, amount| *amount != 0);
    }

    /// The larger of both, resource by resource.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, with: &Self, combine: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = combine(self.milli_cpu, with.milli_cpu);
        self.memory = combine(self.memory, with.memory);
        self.ephemeral_storage = combine(self.ephemeral_storage, with.ephemeral_storage);
        self.pods = combine(self.pods, with.pods);
        for (name, amount) in &with.other {
            let slot = self.other.entry(name.clone()).or_insert(0);
            *slot = combine(*slot, *amount);
        }
    }

    /// Whether some amount that `wanted` has is larger here than in `than`.
    pub fn grew_for(&self, than: &Self, wanted: &Self) -> bool {
        (wanted.milli_cpu > 0 && self.milli_cpu > than.milli_cpu)
            || (wanted.memory > 0 && self.memory > than.memory)
            || (wanted.ephemeral_storage > 0 && self.ephemeral_storage > than.ephemeral_storage)
            || self.pods > than.pods
            || wanted.other.iter().any(|(name, amount)| {
                *amount > 0 && self.other.get(name).unwrap_or(&0) > than.other.get(name).unwrap_or(&0)
            })
    }
}

fn container_requests(pod: &Pod, container: &Container, non_zero: bool) -> Resources {
    let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut requests = Resources::from_list(list);
    // While a resize is under way the larger of what is wanted and what is granted counts.
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    if let Some(status) = statuses.chain(init).find(|status| status.name == container.name) {
        requests.max(&Resources::from_list(status.allocated_resources.as_ref()));
        let actual = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.max(&Resources::from_list(actual));
    }
    if non_zero {
        let asks = |name: &str| list.is_some_and(|list| list.contains_key(name));
        if !asks("cpu") {
            requests.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks("memory") {
            requests.memory = DEFAULT_MEMORY;
        }
    }
    requests
}

/// What a pod needs at once at most: the larger of (all containers and sidecars) and (each init container with the
/// sidecars that were started before it), plus overhead. A request of the pod as a whole replaces the sum.
///
/// Example: containers 100m + 200m, init 500m, overhead 10m: 510m.
///
/// With `non_zero`, containers that ask for no CPU or memory count as 100m and 200Mi: only for scores.
pub(super) fn pod_requests(pod: &Pod, non_zero: bool) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&container_requests(pod, container, non_zero));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let requests = container_requests(pod, container, non_zero);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&requests);
            peak.max(&sidecars);
        } else {
            let mut with_sidecars = sidecars.clone();
            with_sidecars.add(&requests);
            peak.max(&with_sidecars);
        }
    }
    total.add(&sidecars);
    total.max(&peak);
    if let Some(ResourceRequirements { requests: Some(whole), .. }) = &spec.resources {
        for (name, text) in whole {
            let quantity = Quantity::lenient(&text.0);
            total.set(name, if name == "cpu" { quantity.millis() } else { quantity.units() });
        }
    }
    total.add(&Resources::from_list(spec.overhead.as_ref()));
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": format!("c{cpu}"), "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn the_peak_of_a_pods_life_counts() {
        let sidecar = |cpu: &str| {
            let mut sidecar = container(cpu);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        let cases = [
            (json!({"containers": [container("100m"), container("200m")]}), 300),
            (json!({"containers": [container("100m")], "initContainers": [container("500m"), container("1")]}), 1000),
            (json!({"containers": [container("100m")], "initContainers": [sidecar("50m"), container("300m")]}), 350),
            (json!({"containers": [container("100m")], "initContainers": [container("120m"), sidecar("50m")]}), 150),
            (json!({"containers": [container("100m")], "overhead": {"cpu": "10m"}}), 110),
            (json!({"containers": [container("100m")], "resources": {"requests": {"cpu": "2"}}}), 2000),
        ];
        for (spec, expected) in cases {
            assert_eq!(pod_requests(&pod(spec.clone()), false).milli_cpu, expected, "{spec}");
        }
    }

    #[test]
    fn scores_assume_something_for_containers_that_ask_for_nothing() {
        let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "0"}}}]}));
        let requests = pod_requests(&pod, true);
        assert_eq!((requests.milli_cpu, requests.memory), (100, 2 * DEFAULT_MEMORY));
        assert_eq!(pod_requests(&pod, false), Resources::default());
    }
}
