//! What each node's pods need: pod → secrets, config maps, claims, accounts; claim → volume → secrets; attachments.
//! Pure: changes in, yes or no out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::references::{self, Reference, What};
use crate::value;

/// (namespace, name)
type Place = (String, String);

#[derive(Debug, Default)]
struct PodRecord {
    node: String,
    references: BTreeSet<Reference>,
}

#[derive(Debug)]
struct VolumeRecord {
    claim: Place,
    secrets: BTreeSet<Place>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Graph {
    pods: BTreeMap<Place, PodRecord>,
    /// node → what its pods name → by how many of them.
    needed: BTreeMap<String, BTreeMap<Reference, usize>>,
    volumes: BTreeMap<String, VolumeRecord>,
    /// secret → the volumes that name it.
    volume_secrets: BTreeMap<Place, BTreeSet<String>>,
    /// VolumeAttachments, ResourceSlices and the like: (resource, name) → node.
    owned: BTreeMap<(&'static str, String), String>,
}

fn place(object: &Value) -> Place {
    (value::namespace(object).to_owned(), value::name(object).to_owned())
}

impl Graph {
    /// A pod that is new or changed. Only what runs on a node counts.
    pub fn put_pod(&mut self, pod: &Value) {
        let key = place(pod);
        let node = value::text(pod, "/spec/nodeName");
        if node.is_empty() {
            return self.remove_pod(&key.0, &key.1);
        }
        let references = references::of_pod(pod);
        if self.pods.get(&key).is_some_and(|known| known.node == node && known.references == references) {
            return;
        }
        self.remove_pod(&key.0, &key.1);
        let needed = self.needed.entry(node.to_owned()).or_default();
        for reference in &references {
            *needed.entry(reference.clone()).or_default() += 1;
        }
        self.pods.insert(key, PodRecord { node: node.to_owned(), references });
    }

    /// A pod that is gone.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some(record) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        let Some(needed) = self.needed.get_mut(&record.node) else { return };
        for reference in &record.references {
            if let Some(count) = needed.get_mut(reference) {
                *count -= 1;
                if *count == 0 {
                    needed.remove(reference);
                }
            }
        }
        if needed.is_empty() {
            self.needed.remove(&record.node);
        }
    }

    /// A PersistentVolume that is new or changed.
    pub fn put_volume(&mut self, volume: &Value) {
        let name = value::name(volume);
        self.remove_volume(name);
        let Some((claim, secrets)) = references::of_volume_object(volume) else { return };
        for secret in &secrets {
            self.volume_secrets.entry(secret.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), VolumeRecord { claim, secrets });
    }

    /// A PersistentVolume that is gone.
    pub fn remove_volume(&mut self, name: &str) {
        let Some(record) = self.volumes.remove(name) else { return };
        for secret in &record.secrets {
            if let Some(volumes) = self.volume_secrets.get_mut(secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.volume_secrets.remove(secret);
                }
            }
        }
    }

    /// An object that belongs to the node that its spec names.
    pub fn put_owned(&mut self, resource: &'static str, object: &Value) {
        let key = (resource, value::name(object).to_owned());
        match value::text(object, "/spec/nodeName") {
            "" => drop(self.owned.remove(&key)),
            node => drop(self.owned.insert(key, node.to_owned())),
        }
    }

    /// Such an object that is gone.
    pub fn remove_owned(&mut self, resource: &'static str, name: &str) {
        self.owned.remove(&(resource, name.to_owned()));
    }

    /// Forgets all objects of one resource.
    pub fn clear(&mut self, resource: &'static str) {
        match resource {
            "pods" => {
                self.pods.clear();
                self.needed.clear();
            }
            "persistentvolumes" => {
                self.volumes.clear();
                self.volume_secrets.clear();
            }
            _ => self.owned.retain(|(own, _), _| *own != resource),
        }
    }

    fn needs(&self, node: &str, what: What, namespace: &str, name: &str) -> bool {
        let reference = (what, namespace.to_owned(), name.to_owned());
        self.needed.get(node).is_some_and(|needed| needed.contains_key(&reference))
    }

    /// Whether a pod of the node, or a volume of such a pod, names the object.
    pub fn reaches(&self, node: &str, what: What, namespace: &str, name: &str) -> bool {
        self.needs(node, what, namespace, name)
            || (what == What::Secret
                && self
                    .volume_secrets
                    .get(&(namespace.to_owned(), name.to_owned()))
                    .is_some_and(|volumes| volumes.iter().any(|volume| self.reaches_volume(node, volume))))
    }

    /// Whether the PersistentVolume is bound to a claim of a pod of the node.
    pub fn reaches_volume(&self, node: &str, volume: &str) -> bool {
        let record = self.volumes.get(volume);
        record.is_some_and(|record| self.needs(node, What::Claim, &record.claim.0, &record.claim.1))
    }

    /// Whether the pod runs on the node.
    pub fn runs(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.pods.get(&(namespace.to_owned(), pod.to_owned())).is_some_and(|record| record.node == node)
    }

    /// Whether such an object belongs to the node.
    pub fn owns(&self, node: &str, resource: &'static str, name: &str) -> bool {
        self.owned.get(&(resource, name.to_owned())).is_some_and(|own| own == node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, secret: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"nodeName": node, "volumes": [
            {"name": "s", "secret": {"secretName": secret}}, {"name": "c", "persistentVolumeClaim": {"claimName": "pvc"}}]}})
    }

    #[test]
    fn a_node_reaches_what_its_pods_name_and_only_as_long() {
        let mut graph = Graph::default();
        graph.put_pod(&pod("a", "n1", "s"));
        graph.put_pod(&pod("b", "n1", "s"));
        graph.put_pod(&pod("c", "n2", "t"));
        graph.put_pod(&pod("unbound", "", "u"));
        let secret = |graph: &Graph, node: &str, name: &str| graph.reaches(node, What::Secret, "d", name);
        assert!(secret(&graph, "n1", "s") && secret(&graph, "n2", "t"));
        assert!(!secret(&graph, "n2", "s") && !secret(&graph, "n1", "t") && !secret(&graph, "n1", "u"));
        assert!(!graph.reaches("n1", What::Secret, "other", "s") && !graph.reaches("n1", What::ConfigMap, "d", "s"));
        graph.remove_pod("d", "a");
        assert!(secret(&graph, "n1", "s"), "another pod still names it");
        graph.remove_pod("d", "b");
        assert!(!secret(&graph, "n1", "s"));
        assert!(graph.needed.len() == 1, "nothing is kept of what is gone");
    }

    #[test]
    fn volumes_are_reached_through_their_claims() {
        let mut graph = Graph::default();
        graph.put_pod(&pod("a", "n1", "s"));
        graph.put_volume(&json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "d", "name": "pvc"},
            "csi": {"nodeStageSecretRef": {"namespace": "csi", "name": "key"}, "controllerExpandSecretRef": {"namespace": "csi", "name": "no"}}}}));
        assert!(graph.reaches_volume("n1", "pv") && !graph.reaches_volume("n2", "pv"));
        assert!(graph.reaches("n1", What::Secret, "csi", "key") && !graph.reaches("n1", What::Secret, "csi", "no"));
        graph.remove_volume("pv");
        assert!(!graph.reaches_volume("n1", "pv") && !graph.reaches("n1", What::Secret, "csi", "key"));
        graph.put_owned("volumeattachments", &json!({"metadata": {"name": "va"}, "spec": {"nodeName": "n1"}}));
        assert!(graph.owns("n1", "volumeattachments", "va") && !graph.owns("n2", "volumeattachments", "va"));
    }
}
