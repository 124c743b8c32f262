//! Metadata of every object of every kind, and live looks at one object and its owners.

use balsa_api::meta::{GroupVersionResource, split_api_version};
use balsa_client::informer::Cache;
use balsa_client::{Client, Decode, Error};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde::Deserialize;

use super::graph::{Graph, Vertex};
use super::plan::{Observed, OwnerState};
use crate::runtime::definitions::Definition;

/// An object of which only the metadata is kept.
#[derive(Debug, Clone)]
pub struct Metadata(pub ObjectMeta);

/// Where decisions are informed from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The way to the apiserver.
    pub client: &'a Client,
    /// Who names whom as owner.
    pub graph: &'a Mutex<Graph>,
    /// Which custom resources there are.
    pub definitions: &'a Cache<Definition>,
}

#[derive(Deserialize)]
struct Envelope {
    metadata: ObjectMeta,
}

impl Decode for Metadata {
    fn decode(body: &[u8]) -> Result<Self, Error> {
        let envelope: Envelope = serde_json::from_slice(body).map_err(|error| Error::Decode(error.to_string()))?;
        let mut metadata = envelope.metadata;
        metadata.managed_fields = None;
        metadata.annotations = None;
        metadata.labels = None;
        Ok(Self(metadata))
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0
    }
}

/// Every resource that can be watched and deleted. Events live by their own clock.
pub fn resources() -> Vec<GroupVersionResource> {
    let can = |verbs: &[&str], verb: &str| verbs.contains(&verb);
    balsa_api::kinds::all()
        .iter()
        .filter(|kind| ["list", "watch", "delete"].iter().all(|verb| can(kind.verbs(), verb)))
        .filter(|kind| kind.names().plural != "events")
        // The same objects as those of v2.
        .filter(|kind| (kind.names().group, kind.names().version) != ("autoscaling", "v1"))
        .map(|kind| kind.gvr())
        .collect()
}

fn metadata(value: &serde_json::Value) -> Result<ObjectMeta, Error> {
    let meta = value.get("metadata").ok_or_else(|| Error::Decode("an object without metadata".to_owned()))?;
    ObjectMeta::deserialize(meta).map_err(|error| Error::Decode(format!("metadata: {error}")))
}

/// The live metadata of a vertex; `None` where it is gone, or another object has its name.
pub async fn live(client: &Client, vertex: &Vertex) -> Result<Option<ObjectMeta>, Error> {
    match client.get_raw(&vertex.resource, &vertex.namespace, &vertex.name).await {
        Ok(value) => Ok(Some(metadata(&value)?).filter(|meta| meta.uid.as_deref() == Some(vertex.uid.as_str()))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an owner is doing. The graph is believed where it knows the owner: its end would be heard of.
async fn owner_state(source: &Source<'_>, namespace: &str, owner: &OwnerReference) -> Result<OwnerState, Error> {
    let Source { client, graph, definitions } = *source;
    if let Some(vertex) = graph.lock().get(&owner.uid) {
        let unreachable = !vertex.namespace.is_empty() && vertex.namespace != namespace;
        return Ok(match vertex {
            // An owner in another namespace is no owner.
            _ if unreachable && !namespace.is_empty() => OwnerState::Absent,
            _ if unreachable => OwnerState::Unresolvable,
            vertex if vertex.waits_for_dependents() => OwnerState::Waiting,
            _ => OwnerState::Present,
        });
    }
    let (group, version) = split_api_version(&owner.api_version);
    let built_in = balsa_api::kinds::find_kind(group, version, &owner.kind).map(|kind| (kind.gvr(), kind.namespaced()));
    let custom = || {
        let all = definitions.list();
        let mut served = all.iter().filter_map(|definition| definition.served.as_ref());
        let found = served.find(|served| served.is(group, version, &owner.kind))?;
        Some((found.resource.clone(), found.namespaced))
    };
    let Some((resource, namespaced)) = built_in.or_else(custom) else { return Ok(OwnerState::Unresolvable) };
    if namespaced && namespace.is_empty() {
        return Ok(OwnerState::Unresolvable);
    }
    let owner_namespace = if namespaced { namespace } else { "" };
    match client.get_raw(&resource, owner_namespace, &owner.name).await {
        Err(error) if error.is_not_found() => Ok(OwnerState::Absent),
        Err(error) => Err(error),
        Ok(value) => {
            let meta = metadata(&value)?;
            if meta.uid.as_deref() != Some(owner.uid.as_str()) {
                return Ok(OwnerState::Absent);
            }
            let waits = Vertex::new(&resource, &meta).waits_for_dependents();
            Ok(if waits { OwnerState::Waiting } else { OwnerState::Present })
        }
    }
}

/// Everything that a decision about one object needs; `None` where it is gone.
pub async fn observe(source: &Source<'_>, vertex: &Vertex) -> Result<Option<Observed>, Error> {
    let Source { client, graph, .. } = *source;
    let Some(meta) = live(client, vertex).await? else { return Ok(None) };
    let mut owners = Vec::new();
    for reference in meta.owner_references.iter().flatten() {
        owners.push((reference.clone(), owner_state(source, &vertex.namespace, reference).await?));
    }
    let dependents = graph.lock().dependents(&vertex.uid).cloned().collect();
    Ok(Some(Observed { resource: vertex.resource.clone(), meta, owners, dependents }))
}
