//! Who names whom as owner. Pure: fed with changes, answers with objects that deserve a look.

use std::collections::{BTreeMap, BTreeSet};

use balsa_api::meta::GroupVersionResource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Finalizer of foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of orphaning deletion.
pub const ORPHAN: &str = "orphan";

/// An object as the graph knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Vertex {
    /// Where it is served.
    pub resource: GroupVersionResource,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Its deletion was asked for.
    pub deleting: bool,
    /// Its finalizers.
    pub finalizers: Vec<String>,
}

impl Vertex {
    /// From an object's metadata.
    pub fn new(resource: &GroupVersionResource, meta: &ObjectMeta) -> Self {
        Self {
            resource: resource.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|own| own == finalizer)
    }

    /// It is going, but only after its dependents.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    /// It is going, and its dependents are to stay.
    pub fn is_orphaning(&self) -> bool {
        self.deleting && self.has(ORPHAN)
    }

    /// Whether it holds back a foreground deletion of `owner`.
    pub fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

/// An object that deserves a look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Should it be deleted, or may it go now? By UID.
    Collect(String),
    /// Its dependents are to be set free. By UID.
    Orphan(String),
}

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    vertices: BTreeMap<String, Vertex>,
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// An object by UID.
    pub fn get(&self, uid: &str) -> Option<&Vertex> {
        self.vertices.get(uid)
    }

    /// The UIDs of everything that is known of a resource.
    pub fn of_resource(&self, resource: &GroupVersionResource) -> Vec<String> {
        self.vertices.values().filter(|vertex| vertex.resource == *resource).map(|vertex| vertex.uid.clone()).collect()
    }

    /// Who names this object as owner.
    pub fn dependents<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Vertex> + use<'a> {
        let uids = self.dependents.get(uid);
        uids.into_iter().flatten().filter_map(|uid| self.vertices.get(uid))
    }

    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    fn unlink(&mut self, uid: &str, owners: &[OwnerReference]) {
        for reference in owners {
            if let Some(dependents) = self.dependents.get_mut(&reference.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&reference.uid);
                }
            }
        }
    }

    /// Owners among `owners` that wait for their dependents.
    fn waiting(&self, owners: &[OwnerReference], looks: &mut BTreeSet<Look>) {
        for reference in owners {
            if self.vertices.get(&reference.uid).is_some_and(Vertex::waits_for_dependents) {
                looks.insert(Look::Collect(reference.uid.clone()));
            }
        }
    }

    /// An object is new or has changed.
    pub fn upsert(&mut self, vertex: Vertex) -> BTreeSet<Look> {
        let mut looks = BTreeSet::new();
        let uid = vertex.uid.clone();
        if uid.is_empty() {
            return looks;
        }
        let before = self.vertices.remove(&uid);
        let old_owners = before.as_ref().map(|before| before.owners.clone()).unwrap_or_default();
        self.unlink(&uid, &old_owners);
        for reference in &vertex.owners {
            self.dependents.entry(reference.uid.clone()).or_default().insert(uid.clone());
        }
        if before.is_none() || old_owners != vertex.owners {
            let lost = |reference: &OwnerReference| {
                self.vertices.get(&reference.uid).is_none_or(Vertex::waits_for_dependents)
            };
            if vertex.owners.iter().any(lost) {
                looks.insert(Look::Collect(uid.clone()));
            }
            // A dependent that let go, or no longer blocks, may set its owner free.
            self.waiting(&old_owners, &mut looks);
        }
        if vertex.waits_for_dependents() && !before.as_ref().is_some_and(Vertex::waits_for_dependents) {
            looks.insert(Look::Collect(uid.clone()));
            looks.extend(self.dependents(&uid).map(|dependent| Look::Collect(dependent.uid.clone())));
        }
        if vertex.is_orphaning() && !before.as_ref().is_some_and(Vertex::is_orphaning) {
            looks.insert(Look::Orphan(uid.clone()));
        }
        self.vertices.insert(uid, vertex);
        looks
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str) -> BTreeSet<Look> {
        let mut looks = BTreeSet::new();
        let Some(vertex) = self.vertices.remove(uid) else { return looks };
        self.unlink(uid, &vertex.owners);
        looks.extend(self.dependents(uid).map(|dependent| Look::Collect(dependent.uid.clone())));
        self.waiting(&vertex.owners, &mut looks);
        looks
    }
}
