//! The way of every request, whichever wire it came by: default → admit → validate → one store transaction.
//!
//! Decoding, authentication and authorization lie before ([`crate::rest`], [`crate::grpc`], [`crate::authz`]). What a kind
//! is comes from `balsa_api`; this machinery is the same for all of them.

pub mod body;
pub mod create;
pub mod delete;
pub mod graceful;
pub mod list;
mod managers;
pub mod patch;
pub mod read;
pub mod rules;
pub mod subresources;
pub mod update;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use balsa_api::decode::FieldValidation;
use balsa_api::kind::{Kind, KindRef};
use balsa_api::status::{ApiError, ApiResult};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::authn::Caller;
use crate::authn::token::Signer;
use crate::authz::Authorizer;
use crate::storage::{Entry, Store, StoreError, envelope, faces, place, resource_prefix};
use crate::apiextensions::Kinds;
use crate::apiextensions::convert::Converter;
use crate::watch_cache::{Caches, ResourceCache};

/// Who calls, why, and how.
#[derive(Debug)]
pub struct Call {
    /// The authenticated caller (after impersonation).
    pub caller: Caller,
    /// The component's reason; empty for people.
    pub cause: String,
    /// Everything but the store.
    pub dry_run: bool,
    /// The field manager.
    pub manager: String,
    /// Whether this is a server-side apply, which keeps the books on field owners itself.
    pub applies: bool,
    /// Unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// When the request came in.
    pub now: Timestamp,
    /// What the answer warns of.
    pub warnings: Mutex<Vec<String>>,
    /// What admission adds to the audit log.
    pub annotations: Mutex<BTreeMap<String, String>>,
}

impl Call {
    /// A call of the apiserver itself.
    pub fn internal(cause: &str) -> Self {
        Self {
            caller: Caller::apiserver(),
            cause: cause.to_owned(),
            dry_run: false,
            manager: "balsa-apiserver".to_owned(),
            applies: false,
            field_validation: FieldValidation::Ignore,
            now: Timestamp::now(),
            warnings: Mutex::default(),
            annotations: Mutex::default(),
        }
    }

    /// Adds to what the audit log says of this call. The first value of a key stays.
    pub fn annotate(&self, key: String, text: String) {
        self.annotations.lock().entry(key).or_insert(text);
    }

    /// Adds a warning for the caller.
    pub fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock();
        let text = text.into();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
}

/// Values that flags decide.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This apiserver's name.
    pub name: String,
    /// The network that Services' addresses come from; its first address is `kubernetes.default`.
    pub service_cidr: String,
    /// The ports of nodes that Services may have.
    pub node_ports: crate::allocation::range::PortRange,
}

/// Everything that a request needs.
pub struct Api {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// What this apiserver has heard of them.
    pub caches: Arc<Caches>,
    /// What is served.
    pub kinds: Arc<Kinds>,
    /// Converts custom resources between versions.
    pub converter: Arc<Converter>,
    /// Makes and checks ServiceAccount tokens.
    pub signer: Arc<Signer>,
    /// Says who may do what.
    pub authorizer: Authorizer,
    /// From the flags.
    pub settings: Settings,
    /// Webhooks and admission policies.
    pub hooks: crate::admission::hooks::Hooks,
}

/// One object with its revision.
#[derive(Debug, Clone)]
pub struct Found {
    /// The object, resourceVersion included.
    pub value: Value,
    /// Its revision.
    pub revision: u64,
}

/// How an object of this kind is addressed.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The kind.
    pub kind: &'a dyn Kind,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The object's name.
    pub name: &'a str,
}

impl Target<'_> {
    /// The object's key in the store.
    pub fn key(&self) -> String {
        let (group, plural) = storage_resource(self.kind);
        format!("{}{}", resource_prefix(group, plural), place(self.namespace, self.name))
    }

    /// `pods "x" not found`
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.kind.gvr(), self.name)
    }
}

pub use crate::storage::faces::stored_as as storage_resource;

/// An error of the store as an answer. `writing`: the outcome may be unknown.
pub fn store_error(error: StoreError, writing: bool) -> ApiError {
    match error {
        StoreError::Unavailable(text) if writing => {
            ApiError::timeout(format!("the store did not answer, the write may or may not have happened: {text}"), 1)
        }
        StoreError::Unavailable(text) => {
            ApiError::unavailable(format!("the store cannot be reached: {text}")).with_retry_after(1)
        }
        StoreError::Compacted => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        StoreError::Future => ApiError::timeout("Too large resource version", 1),
        StoreError::TooLarge(text) => ApiError::too_large(format!("Request entity too large: {text}")),
        StoreError::Refused(text) => ApiError::internal(text),
    }
}

impl Api {
    /// The cache of a kind's objects.
    pub fn cache(&self, kind: &dyn Kind) -> ApiResult<Arc<ResourceCache>> {
        let (group, plural) = faces::cached_as(kind);
        if kind.custom().is_some() {
            return Ok(self.caches.custom(group, plural));
        }
        self.caches.resource(group, plural).cloned().ok_or_else(ApiError::no_such_path)
    }

    /// The kind behind a resource's name; 404 where nothing is served there.
    pub async fn kind(&self, group: &str, version: &str, plural: &str) -> ApiResult<KindRef> {
        if let Some(kind) = self.kinds.find(group, version, plural) {
            return Ok(kind);
        }
        if !group.contains('.') || !self.caches.is_loaded() {
            return Err(ApiError::no_such_path());
        }
        // Another apiserver may have established it just now, and the client seen that there.
        let now = self.store.revision().await.map_err(|error| store_error(error, false))?;
        self.wait_until_fresh(now).await?;
        self.kinds.find(group, version, plural).ok_or_else(ApiError::no_such_path)
    }

    /// The object as the store has it now.
    pub async fn fetch(&self, target: Target<'_>) -> ApiResult<Option<Found>> {
        let (entry, _) = self.store.get(&target.key()).await.map_err(|error| store_error(error, false))?;
        match entry {
            Some(entry) => Ok(Some(self.open(target.kind, &entry).await?)),
            None => Ok(None),
        }
    }

    /// The object as the cache has it, else as the store has it.
    pub async fn lookup(&self, target: Target<'_>) -> ApiResult<Option<Found>> {
        if let Some(object) = self.cache(target.kind)?.get(target.namespace, target.name) {
            return self.show_one(target.kind, object).await.map(Some);
        }
        self.fetch(target).await
    }
}

/// Decodes what the store holds, as the kind shows it.
pub fn decode(kind: &dyn Kind, entry: &Entry) -> ApiResult<Found> {
    let value = envelope::decode(entry.value.clone(), entry.revision).map_err(|error| store_error(error, false))?;
    Ok(Found { value: faces::from_stored(kind, value), revision: entry.revision })
}

/// Encodes an object for the store.
pub fn encode(kind: &dyn Kind, object: &Value) -> bytes::Bytes {
    let names = kind.names();
    let (namespace, name) = (crate::value::namespace(object), crate::value::name(object));
    match faces::to_stored(kind, object) {
        Some(stored) => {
            let (group, version) = faces::stored_version(kind);
            envelope::encode(group, version, names.kind, namespace, name, &stored)
        }
        None => envelope::encode(names.group, names.version, names.kind, namespace, name, object),
    }
}
