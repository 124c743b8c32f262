//! Names and labels: how an engine object says whose it is. Pure.
//!
//! Labels carry everything that a new agent needs to know its own again; names only keep two agents, or one agent
//! twice, from making the same thing.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::runtime::{ContainerSpec, HostPort, PodRef, SandboxSpec};

/// Cluster that owns the object; `balsa down` deletes by it.
pub const CLUSTER: &str = "balsa.cluster";
/// Node that owns the object.
pub const NODE: &str = "balsa.node";
/// `metadata.namespace` of the pod.
pub const POD_NAMESPACE: &str = "balsa.pod.namespace";
/// `metadata.name` of the pod.
pub const POD_NAME: &str = "balsa.pod.name";
/// `metadata.uid` of the pod.
pub const POD_UID: &str = "balsa.pod.uid";
/// Container name in the pod; [`PAUSE`] for the sandbox.
pub const CONTAINER: &str = "balsa.container";
/// Restart count of a container, or number of the sandbox.
pub const ATTEMPT: &str = "balsa.attempt";
/// Fingerprint of the spec that a container was made from.
pub const SPEC_HASH: &str = "balsa.spec-hash";
/// The sandbox's engine identifier, on containers.
pub const SANDBOX: &str = "balsa.sandbox";
/// `true` on sandboxes whose containers share a process namespace.
pub const SHARE_PROCESSES: &str = "balsa.share-processes";
/// `true` on sandboxes in the node's network.
pub const HOST_NETWORK: &str = "balsa.host-network";
/// Forwards of a sandbox, see [`encode_ports`].
pub const HOST_PORTS: &str = "balsa.host-ports";

/// What [`CONTAINER`] says on a sandbox. No container can have this name: Kubernetes names are lower case.
pub const PAUSE: &str = "POD";

/// Whose an engine object is, read back from its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose.
    pub pod: PodRef,
    /// Container name, or [`PAUSE`].
    pub container: String,
    /// Restart count, or number of the sandbox.
    pub attempt: u32,
    /// Empty on sandboxes.
    pub spec_hash: String,
}

impl Identity {
    /// Whether it is a sandbox's pause container.
    pub fn is_sandbox(&self) -> bool {
        self.container == PAUSE
    }
}

/// `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`, the form that people know from Docker nodes.
pub fn container_name(pod: &PodRef, container: &str, attempt: u32) -> String {
    format!("k8s_{container}_{}_{}_{}_{attempt}", pod.name, pod.namespace, pod.uid)
}

/// The engine's volume behind a memory emptyDir. It is the pod's, so a second sandbox of the pod finds the same.
pub fn volume_name(pod: &PodRef, volume: &str) -> String {
    format!("balsa_{}_{volume}", pod.uid)
}

/// Where the pause container holds a memory volume.
pub fn pause_volume_path(volume: &str) -> String {
    format!("/volumes/{volume}")
}

/// Labels that every object of a pod has.
pub fn pod_labels(cluster: &str, node: &str, pod: &PodRef) -> HashMap<String, String> {
    [
        (CLUSTER, cluster),
        (NODE, node),
        (POD_NAMESPACE, &pod.namespace),
        (POD_NAME, &pod.name),
        (POD_UID, &pod.uid),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Labels of a sandbox.
pub fn sandbox_labels(cluster: &str, node: &str, spec: &SandboxSpec) -> HashMap<String, String> {
    let mut labels = pod_labels(cluster, node, &spec.pod);
    labels.insert(CONTAINER.to_owned(), PAUSE.to_owned());
    labels.insert(ATTEMPT.to_owned(), spec.attempt.to_string());
    labels.insert(SHARE_PROCESSES.to_owned(), spec.share_processes.to_string());
    labels.insert(HOST_NETWORK.to_owned(), spec.host_network.to_string());
    labels.insert(HOST_PORTS.to_owned(), encode_ports(&spec.host_ports));
    labels
}

/// Labels of a container.
pub fn container_labels(cluster: &str, node: &str, sandbox: &str, spec: &ContainerSpec) -> HashMap<String, String> {
    let mut labels = pod_labels(cluster, node, &spec.pod);
    labels.insert(CONTAINER.to_owned(), spec.name.clone());
    labels.insert(ATTEMPT.to_owned(), spec.attempt.to_string());
    labels.insert(SPEC_HASH.to_owned(), spec.spec_hash.clone());
    labels.insert(SANDBOX.to_owned(), sandbox.to_owned());
    labels
}

/// Reads an identity back; `None` for what no agent made.
pub fn identify(labels: &HashMap<String, String>) -> Option<Identity> {
    let get = |key: &str| labels.get(key).cloned();
    Some(Identity {
        pod: PodRef { namespace: get(POD_NAMESPACE)?, name: get(POD_NAME)?, uid: get(POD_UID)? },
        container: get(CONTAINER)?,
        attempt: get(ATTEMPT)?.parse().ok()?,
        spec_hash: get(SPEC_HASH).unwrap_or_default(),
    })
}

/// The engine's `filters` parameter that selects by labels.
pub fn label_filter<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> HashMap<String, Vec<String>> {
    let wanted = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    HashMap::from([("label".to_owned(), wanted)])
}

/// Forwards as one label value: `<ip or *>/<host port>/<container port>/<protocol>`, joined by commas.
pub fn encode_ports(ports: &[HostPort]) -> String {
    let each = ports.iter().map(|port| {
        let ip = port.host_ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        format!("{ip}/{}/{}/{}", port.host_port, port.container_port, port.protocol)
    });
    each.collect::<Vec<_>>().join(",")
}

/// The inverse of [`encode_ports`]; skips what it cannot read.
pub fn decode_ports(label: &str) -> Vec<HostPort> {
    label.split(',').filter_map(decode_port).collect()
}

fn decode_port(text: &str) -> Option<HostPort> {
    let mut parts = text.split('/');
    let host_ip = match parts.next()? {
        "*" => None,
        ip => Some(ip.parse::<IpAddr>().ok()?),
    };
    Some(HostPort {
        host_ip,
        host_port: parts.next()?.parse().ok()?,
        container_port: parts.next()?.parse().ok()?,
        protocol: parts.next()?.to_owned(),
    })
}

/// A volume's driver options: a tmpfs of that size. Mode 0777 without the sticky bit is what an emptyDir has.
pub fn tmpfs_options(size_limit: Option<u64>) -> BTreeMap<String, String> {
    let options = match size_limit {
        Some(bytes) if bytes > 0 => format!("size={bytes},mode=0777"),
        _ => "mode=0777".to_owned(),
    };
    [("type", "tmpfs".to_owned()), ("device", "tmpfs".to_owned()), ("o", options)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodRef {
        PodRef { namespace: "default".into(), name: "web-0".into(), uid: "u-1".into() }
    }

    #[test]
    fn names_are_those_of_docker_nodes() {
        assert_eq!(container_name(&pod(), "nginx", 3), "k8s_nginx_web-0_default_u-1_3");
        assert_eq!(container_name(&pod(), PAUSE, 0), "k8s_POD_web-0_default_u-1_0");
    }

    #[test]
    fn labels_say_everything_back() {
        let mut labels = pod_labels("c", "n", &pod());
        assert_eq!(identify(&labels), None, "a volume has no container");
        labels.insert(CONTAINER.into(), "nginx".into());
        labels.insert(ATTEMPT.into(), "2".into());
        labels.insert(SPEC_HASH.into(), "abc".into());
        let found = identify(&labels).expect("complete");
        assert_eq!(found, Identity { pod: pod(), container: "nginx".into(), attempt: 2, spec_hash: "abc".into() });
        labels.insert(ATTEMPT.into(), "-1".into());
        assert_eq!(identify(&labels), None);
    }

    #[test]
    fn ports_survive_a_label() {
        let ports = vec![
            HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: "TCP".into() },
            HostPort { host_ip: "::1".parse().ok(), host_port: 53, container_port: 5353, protocol: "UDP".into() },
        ];
        assert_eq!(encode_ports(&ports), "*/8080/80/TCP,::1/53/5353/UDP");
        assert_eq!(decode_ports(&encode_ports(&ports)), ports);
        assert_eq!(decode_ports(""), vec![]);
        assert_eq!(decode_ports("*/x/80/TCP,*/1/2/UDP").len(), 1);
    }
}
