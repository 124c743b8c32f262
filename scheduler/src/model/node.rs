//! A node, parsed for scheduling, with what is on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use super::pod::{HostPort, NodeTerm, PodInfo};
use super::resources::Resources;

/// A node and its pods, kept up to date change by change.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// Its name.
    pub name: Arc<str>,
    /// `None` while only pods on it are known.
    pub object: Option<Arc<Node>>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it takes no new pods.
    pub unschedulable: bool,
    /// What can be given to pods.
    pub allocatable: Resources,
    /// What was given.
    pub requested: Resources,
    /// What scores assume was given.
    pub assumed: Resources,
    /// Its pods, by uid.
    pub pods: BTreeMap<Arc<str>, Arc<PodInfo>>,
    /// Ports that are taken.
    pub host_ports: Vec<HostPort>,
    /// Images that are there, with their sizes in bytes.
    pub images: BTreeMap<String, i64>,
    /// How many of its pods have demands or wishes about other pods.
    pub with_pod_terms: usize,
}

impl NodeInfo {
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Takes over what the object says; the pods stay.
    pub fn set_object(&mut self, node: Arc<Node>) {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        self.unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        self.allocatable = Resources::from_list(status.and_then(|status| status.allocatable.as_ref()));
        self.images.clear();
        for image in status.and_then(|status| status.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                self.images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        self.object = Some(node);
    }

    pub(super) fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.assumed.add(&pod.assumed);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.with_pod_terms += usize::from(has_pod_terms(&pod));
        if let Some(old) = self.pods.insert(pod.uid.clone(), pod) {
            self.take_off(&old);
        }
    }

    pub(super) fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.take_off(&pod);
        Some(pod)
    }

    fn take_off(&mut self, pod: &PodInfo) {
        self.requested.sub(&pod.requests);
        self.assumed.sub(&pod.assumed);
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(at);
            }
        }
        self.with_pod_terms -= usize::from(has_pod_terms(pod));
    }

    /// Whether it fulfils all conditions of a term.
    pub fn matches(&self, term: &NodeTerm) -> bool {
        let label = |key: &str| self.labels.get(key).map(String::as_str);
        term.labels.iter().all(|condition| condition.matches(label(&condition.key)))
            && term.name.iter().all(|condition| condition.matches(Some(&self.name)))
    }

    /// Whether the pod's node selector and required node affinity let it be here.
    pub fn matches_affinity_of(&self, pod: &PodInfo) -> bool {
        pod.node_selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
            && pod.node_terms.as_ref().is_none_or(|terms| terms.iter().any(|term| self.matches(term)))
    }

    /// The first taint that keeps the pod away.
    pub fn untolerated_taint(&self, pod: &PodInfo) -> Option<&Taint> {
        self.taints
            .iter()
            .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
            .find(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

fn has_pod_terms(pod: &PodInfo) -> bool {
    !(pod.affinity.is_empty() && pod.anti_affinity.is_empty() && pod.preferred_pods.is_empty())
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}
