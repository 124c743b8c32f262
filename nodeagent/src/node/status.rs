//! What the Node object should say.
//!
//! Pure. What others put into it (capacity of extended resources, conditions, labels, taints) stays.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::facts::Machine;
use crate::runtime::ImageInfo;

/// As in `kubectl get nodes`: the API version that the agent follows, and its own.
pub const VERSION: &str = concat!("v1.36.0-balsa.", env!("CARGO_PKG_VERSION"));

/// Kept back for what is not a pod: bytes of memory.
const MEMORY_RESERVE: u64 = 100 << 20;

/// Everything that the object is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Name of the node.
    pub name: String,
    /// The machine.
    pub machine: Machine,
    /// Most pods at a time.
    pub max_pods: u32,
    /// Its address now.
    pub address: String,
    /// Port of the agent's server.
    pub port: i32,
    /// `docker://20.10.24`; empty where the engine does not answer.
    pub runtime_version: String,
    /// The engine's images.
    pub images: Vec<ImageInfo>,
    /// Why the node is not ready; empty where it is.
    pub problems: Vec<String>,
    /// Memory that is free for use, bytes.
    pub memory_available: u64,
    /// Shares of the disk that are free, percent.
    pub disk_free_percent: u64,
}

/// Labels that the agent puts to its node.
pub fn labels(seen: &Seen) -> BTreeMap<String, String> {
    let arch = &seen.machine.architecture;
    [
        ("kubernetes.io/hostname", seen.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// The object to register.
pub fn object(seen: &Seen, now: Timestamp) -> Node {
    let annotations = [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())];
    Node {
        metadata: ObjectMeta {
            name: Some(seen.name.clone()),
            labels: Some(labels(seen)),
            annotations: Some(annotations.into()),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(status(seen, None, now)),
    }
}

/// The status, given the one that is in the API.
pub fn status(seen: &Seen, old: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
    let amounts = |list: BTreeMap<String, String>| -> BTreeMap<String, Quantity> {
        list.into_iter().map(|(name, amount)| (name, Quantity(amount))).collect()
    };
    let capacity = seen.machine.capacity(seen.max_pods);
    let mut allocatable = capacity.clone();
    let memory = seen.machine.memory.saturating_sub(MEMORY_RESERVE) / 1024;
    allocatable.insert("memory".to_owned(), format!("{memory}Ki"));
    allocatable.insert("ephemeral-storage".to_owned(), (seen.machine.storage / 10 * 9).to_string());
    let address = |kind: &str, address: &str| NodeAddress { type_: kind.to_owned(), address: address.to_owned() };
    NodeStatus {
        addresses: Some(vec![address("InternalIP", &seen.address), address("Hostname", &seen.name)]),
        capacity: Some(amounts(capacity)),
        allocatable: Some(amounts(allocatable)),
        conditions: Some(conditions(seen, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: seen.port }) }),
        images: Some(images(&seen.images)),
        node_info: Some(NodeSystemInfo {
            architecture: seen.machine.architecture.clone(),
            boot_id: seen.machine.boot_id.clone(),
            container_runtime_version: seen.runtime_version.clone(),
            kernel_version: seen.machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.to_owned(),
            machine_id: seen.machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: seen.machine.os_image.clone(),
            swap: None,
            system_uuid: seen.machine.machine_id.clone(),
        }),
        ..NodeStatus::default()
    }
}

/// The fifty largest images, five names each.
fn images(all: &[ImageInfo]) -> Vec<ContainerImage> {
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    all.into_iter()
        .take(50)
        .map(|image| {
            let digest = image.digest.contains('@').then(|| image.digest.clone());
            ContainerImage {
                names: Some(digest.into_iter().chain(image.tags.iter().cloned()).take(5).collect()),
                size_bytes: i64::try_from(image.size).ok(),
            }
        })
        .collect()
}

fn conditions(seen: &Seen, old: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let memory_low = seen.memory_available < MEMORY_RESERVE && seen.machine.memory > 0;
    let disk_low = seen.disk_free_percent < 10;
    let pressure = |kind: &str, yes: bool, when: (&str, &str), otherwise: (&str, &str)| {
        let (reason, message) = if yes { when } else { otherwise };
        (kind.to_owned(), yes, reason.to_owned(), message.to_owned())
    };
    let ready = match seen.problems.is_empty() {
        true => ("KubeletReady", "kubelet is posting ready status".to_owned()),
        false => ("KubeletNotReady", seen.problems.join(", ")),
    };
    let all = [
        pressure(
            "MemoryPressure",
            memory_low,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            disk_low,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            false,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ("Ready".to_owned(), seen.problems.is_empty(), ready.0.to_owned(), ready.1),
    ];
    all.into_iter()
        .map(|(kind, yes, reason, message)| {
            let status = if yes { "True" } else { "False" };
            let before = old
                .and_then(|old| old.conditions.as_ref())
                .and_then(|list| list.iter().find(|before| before.type_ == kind && before.status == status))
                .and_then(|before| before.last_transition_time.clone());
            NodeCondition {
                type_: kind,
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(before.unwrap_or(Time(now))),
            }
        })
        .collect()
}

/// A strategic merge patch for `/status`, and whether anything but heartbeats differs.
pub fn patch(node: &Node, wanted: &NodeStatus) -> (Value, bool) {
    let old = serde_json::to_value(node.status.as_ref()).unwrap_or_default();
    let mut new = serde_json::to_value(wanted).unwrap_or_default();
    let timeless = |conditions: &Value, kind: &Value| {
        let found = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == *kind).cloned();
        found.map(|mut condition| {
            condition["lastHeartbeatTime"] = Value::Null;
            condition
        })
    };
    let mut changed = false;
    for (key, value) in new.as_object_mut().into_iter().flatten() {
        changed |= match key.as_str() {
            "conditions" => value
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| timeless(&old["conditions"], &condition["type"]) != timeless(&json!([condition]), &condition["type"])),
            // Others may have added resources of their own.
            "capacity" | "allocatable" => {
                value.as_object().into_iter().flatten().any(|(name, amount)| old[key].get(name) != Some(amount))
            }
            _ => old.get(key) != Some(value),
        };
        if key == "addresses" {
            // Merged by type, and an address that changed is to replace the old one.
            if let Some(list) = value.as_array_mut() {
                list.insert(0, json!({ "$patch": "replace" }));
            }
        }
    }
    (json!({ "status": new }), changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            name: "node1".to_owned(),
            machine: Machine { cpus: 2, memory: 1 << 30, storage: 1 << 30, ..Machine::default() },
            max_pods: 110,
            address: "10.0.0.1".to_owned(),
            memory_available: 1 << 30,
            disk_free_percent: 50,
            ..Seen::default()
        }
    }

    #[test]
    fn foreign_parts_do_not_count_as_change() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let mut node = object(&seen(), now);
        let later = Timestamp::from_second(1_700_000_010).unwrap();
        let wanted = status(&seen(), node.status.as_ref(), later);
        if let Some(status) = &mut node.status {
            status.capacity.as_mut().unwrap().insert("example.com/dongle".to_owned(), Quantity("3".to_owned()));
            let alien = NodeCondition { type_: "Alien".to_owned(), status: "True".to_owned(), ..NodeCondition::default() };
            status.conditions.as_mut().unwrap().push(alien);
        }
        assert!(!patch(&node, &wanted).1);
        let unready = Seen { problems: vec!["container runtime is down".to_owned()], ..seen() };
        let wanted = status(&unready, node.status.as_ref(), later);
        let (patch, changed) = patch(&node, &wanted);
        assert!(changed);
        let ready = &patch["status"]["conditions"][3];
        assert_eq!((&ready["reason"], &ready["message"]), (&json!("KubeletNotReady"), &json!("container runtime is down")));
    }
}
