//! What goes over the wire in terms that callers use: objects, parameters of calls, watch events.
//!
//! Decides how an envelope becomes an object; no IO.

use std::fmt::Debug;

use balsa_api::meta::GroupVersionResource;
use balsa_proto::api as wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// Any Kubernetes object of `k8s-openapi` that has metadata.
pub trait Object:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// What a list, a watch or an informer can hold: typed objects and [`DynamicObject`]s.
pub trait Decode: Clone + Debug + Send + Sync + 'static {
    /// From the JSON body of an envelope.
    fn decode(body: &[u8]) -> Result<Self>;
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
}

impl<K: Object> Decode for K {
    fn decode(body: &[u8]) -> Result<Self> {
        serde_json::from_slice(body).map_err(|error| Error::Decode(format!("{}: {error}", K::KIND)))
    }

    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
}

/// An object of a kind that is only known at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct DynamicObject {
    /// Its metadata, parsed.
    pub metadata: ObjectMeta,
    /// All of it, metadata included.
    pub value: Value,
}

impl Decode for DynamicObject {
    fn decode(body: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(body).map_err(|error| Error::Decode(error.to_string()))?;
        Self::from_value(value)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl DynamicObject {
    /// Fails where `metadata` is missing or malformed.
    pub fn from_value(value: Value) -> Result<Self> {
        let metadata = value.get("metadata").ok_or_else(|| Error::Decode("an object without metadata".to_owned()))?;
        let metadata = serde::Deserialize::deserialize(metadata).map_err(|error| Error::Decode(format!("metadata: {error}")))?;
        Ok(Self { metadata, value })
    }
}

/// The resource under which `K` is served.
pub fn resource_of<K: Object>() -> GroupVersionResource {
    GroupVersionResource::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT)
}

/// The revision that an object carries in its resourceVersion; 0 where there is none.
pub fn revision_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Why a write is made: recorded with it, never interpreted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// One line for a person: `pod web-1 observed Failed`.
    pub text: String,
    /// Revisions of the objects that led to the decision.
    pub revisions: Vec<u64>,
}

impl Cause {
    /// A cause in words.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), revisions: Vec::new() }
    }

    /// Adds the revision of an object that led to the decision.
    #[must_use]
    pub fn seen(mut self, meta: &ObjectMeta) -> Self {
        self.revisions.push(revision_of(meta));
        self
    }

    pub(crate) fn to_wire(&self) -> Option<wire::Cause> {
        Some(wire::Cause { text: self.text.clone(), revisions: self.revisions.clone() })
    }
}

/// Which objects a list returns, and how fresh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListParams {
    /// As in a URL: `app=web,tier!=db`; empty for all.
    pub label_selector: String,
    /// As in a URL: `spec.nodeName=node1`; empty for all.
    pub field_selector: String,
    /// At most so many per answer; 0 for no limit.
    pub limit: u64,
    /// From the previous answer; empty for the first page.
    pub continue_token: String,
    /// `""` reads linearizably, `"0"` may be answered from any cache.
    pub resource_version: String,
}

/// One page of objects.
#[derive(Debug, Clone)]
pub struct ListOf<K> {
    /// In the order of the keys.
    pub items: Vec<K>,
    /// The revision of the whole list: a watch may start after it.
    pub revision: u64,
    /// Not empty where there is more.
    pub continue_token: String,
}

/// Which changes a watch returns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchParams {
    /// As in a URL; empty for all.
    pub label_selector: String,
    /// As in a URL; empty for all.
    pub field_selector: String,
    /// Changes after this revision; `""` or `"0"` first sends the present state as ADDED.
    pub resource_version: String,
    /// The present state as ADDED, then a bookmark with `initial_events_end`.
    pub send_initial_events: bool,
    /// The apiserver ends the stream after this long; 0 for its own choice.
    pub timeout_seconds: u32,
}

/// A change that a watch saw.
#[derive(Debug, Clone)]
pub enum WatchEvent<K> {
    /// It is new, or new to the selector.
    Added(K),
    /// It was changed.
    Modified(K),
    /// It is gone, or the selector does not match it any more: the last state.
    Deleted(K),
    /// Everything up to this revision was sent.
    Bookmark {
        /// Where a later watch may start.
        revision: u64,
        /// Whether the present state has been sent in full.
        initial_events_end: bool,
    },
}

/// How a patch is to be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge: lists by their merge keys.
    Strategic(Value),
    /// Server-side apply; takes over fields of others (`force`).
    Apply(Value),
}

impl Patch {
    pub(crate) fn to_wire(&self) -> Result<(wire::patch_request::Type, bytes::Bytes)> {
        use wire::patch_request::Type;
        let (kind, value) = match self {
            Self::Json(value) => (Type::Json, value),
            Self::Merge(value) => (Type::Merge, value),
            Self::Strategic(value) => (Type::StrategicMerge, value),
            Self::Apply(value) => (Type::Apply, value),
        };
        Ok((kind, encode(value)?))
    }

    /// Whether sending it twice is as good as sending it once, others' writes in between included.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::Json(_) => false,
            Self::Apply(_) => true,
            Self::Merge(value) | Self::Strategic(value) => value.pointer("/metadata/resourceVersion").is_some(),
        }
    }
}

/// How an object is to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds; `None` for what the object says, 0 for at once.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
    /// Only if it is this very object.
    pub uid: Option<String>,
    /// Only if nobody wrote since.
    pub resource_version: Option<String>,
}

/// What a deletion led to.
#[derive(Debug, Clone)]
pub struct Deleted<K> {
    /// As it is now (deletionTimestamp set) or as it was last; `None` where the apiserver sent none.
    pub object: Option<K>,
    /// Whether it is gone from the store.
    pub gone: bool,
}

pub(crate) fn encode(value: &impl Serialize) -> Result<bytes::Bytes> {
    serde_json::to_vec(value).map(Into::into).map_err(|error| Error::Decode(format!("cannot encode: {error}")))
}

pub(crate) fn decode_object<K: Decode>(object: &wire::Object) -> Result<K> {
    K::decode(&object.body).map_err(|error| match error {
        Error::Decode(text) => Error::Decode(format!("{} {}/{}: {text}", object.kind, object.namespace, object.name)),
        other => other,
    })
}

pub(crate) fn wire_resource(resource: &GroupVersionResource) -> Option<wire::Resource> {
    Some(wire::Resource {
        group: resource.group.clone(),
        version: resource.version.clone(),
        resource: resource.resource.clone(),
    })
}
