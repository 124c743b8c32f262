//! All nodes with their pods, as one cycle sees them.
//!
//! There is one, changed in place between cycles by the one task that runs them, so nothing is copied per pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::node::NodeInfo;
use super::pod::PodInfo;

/// A pod and the node that it is on.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// The node.
    pub node: Arc<str>,
    /// The pod.
    pub pod: Arc<PodInfo>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By name; boxed, so that an insertion moves pointers only.
    nodes: Vec<Box<NodeInfo>>,
    known: usize,
    pods: BTreeMap<Arc<str>, Assigned>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// On how many nodes an image is.
    images: BTreeMap<String, usize>,
}

impl Snapshot {
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| (*node.name).cmp(name))
    }

    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        let at = match self.position(name) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, Box::new(NodeInfo::named(name)));
                at
            }
        };
        &mut self.nodes[at]
    }

    /// A node, if its object is known.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        let at = self.position(name).ok()?;
        Some(&*self.nodes[at]).filter(|node| node.object.is_some())
    }

    /// All known nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().map(|node| &**node).filter(|node| node.object.is_some())
    }

    /// All known nodes, by name, from the `start`th on and around.
    pub fn nodes_from(&self, start: usize) -> impl Iterator<Item = &NodeInfo> {
        let (tail, head) = self.nodes.split_at(start.min(self.nodes.len()));
        head.iter().chain(tail).map(|node| &**node).filter(|node| node.object.is_some())
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.known
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.known == 0
    }

    /// A node is new or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let Some(name) = node.metadata.name.clone() else { return };
        let info = self.entry(&name);
        let new = info.object.is_none();
        let before = std::mem::take(&mut info.images);
        info.set_object(node);
        let now: Vec<String> = info.images.keys().cloned().collect();
        self.known += usize::from(new);
        self.forget_images(before.keys());
        for image in now {
            *self.images.entry(image).or_insert(0) += 1;
        }
    }

    /// A node is gone. Its pods stay counted until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        let Ok(at) = self.position(name) else { return };
        if self.nodes[at].object.take().is_none() {
            return;
        }
        self.known -= 1;
        let images = std::mem::take(&mut self.nodes[at].images);
        self.forget_images(images.keys());
        if self.nodes[at].pods.is_empty() {
            self.nodes.remove(at);
        }
    }

    fn forget_images<'i>(&mut self, images: impl Iterator<Item = &'i String>) {
        for image in images {
            if let Some(count) = self.images.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(image);
                }
            }
        }
    }

    /// The pod is on `node` now; it is taken off any other.
    pub fn assign(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.unassign(&pod.uid);
        let info = self.entry(node);
        let name = info.name.clone();
        info.add(pod.clone());
        self.pods.insert(pod.uid.clone(), Assigned { node: name, pod });
    }

    /// The pod uses nothing any more.
    pub fn unassign(&mut self, uid: &str) -> Option<Assigned> {
        let assigned = self.pods.remove(uid)?;
        if let Ok(at) = self.position(&assigned.node) {
            self.nodes[at].remove(uid);
            if self.nodes[at].pods.is_empty() && self.nodes[at].object.is_none() {
                self.nodes.remove(at);
            }
        }
        Some(assigned)
    }

    /// Where a pod is.
    pub fn assigned(&self, uid: &str) -> Option<&Assigned> {
        self.pods.get(uid)
    }

    /// All pods that are somewhere.
    pub fn pods(&self) -> impl Iterator<Item = &Assigned> {
        self.pods.values()
    }

    /// A namespace's labels.
    pub fn set_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A namespace's labels.
    pub fn namespace(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name)
    }

    /// On how many nodes an image is.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }
}
