//! An object as the cache holds it: encoded once, with what selectors ask of it beside the bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_api::kind::Kind;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

use crate::storage::{Entry, StoreError, envelope, faces};

/// One object at one revision. Its bytes are shared by every reader.
#[derive(Debug)]
pub struct Object {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// metadata.name
    pub name: String,
    /// metadata.resourceVersion
    pub revision: u64,
    /// The object as JSON, resourceVersion included.
    pub json: Bytes,
    /// metadata.labels
    pub labels: BTreeMap<String, String>,
    /// What field selectors may ask, in the order of the kind's `selectable_fields`.
    pub fields: Vec<String>,
    /// Of a custom resource as it is stored: how versions show it, by their serials.
    shown: Mutex<Vec<(u64, Arc<Object>)>>,
}

/// Versions of one object that are kept beside it.
const SHOWN: usize = 4;

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn labels_of(labels: Option<&serde_json::Map<String, Value>>) -> BTreeMap<String, String> {
    let text = |(key, value): (&String, &Value)| (key.clone(), value.as_str().unwrap_or_default().to_owned());
    labels.into_iter().flatten().map(text).collect()
}

impl Object {
    /// From a decoded object that carries its resourceVersion.
    pub fn from_value(kind: &dyn Kind, value: &Value, revision: u64) -> Self {
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        Self {
            namespace: text(value, "/metadata/namespace"),
            name: text(value, "/metadata/name"),
            revision,
            json: serde_json::to_vec(value).unwrap_or_default().into(),
            labels: labels_of(labels),
            fields: kind.selectable_fields().iter().map(|field| kind.selectable(value, field)).collect(),
            shown: Mutex::default(),
        }
    }

    /// From what the store holds.
    pub fn from_entry(kind: &dyn Kind, entry: &Entry) -> Result<Self, StoreError> {
        let value = faces::from_stored(kind, envelope::decode(entry.value.clone(), entry.revision)?);
        Ok(Self::from_value(kind, &value, entry.revision))
    }

    /// A custom resource's object as the store holds it, in whatever version that is.
    pub fn as_stored(entry: &Entry) -> Result<Self, StoreError> {
        let value = envelope::decode(entry.value.clone(), entry.revision)?;
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        Ok(Self {
            namespace: text(&value, "/metadata/namespace"),
            name: text(&value, "/metadata/name"),
            revision: entry.revision,
            json: serde_json::to_vec(&value).unwrap_or_default().into(),
            labels: labels_of(labels),
            fields: Vec::new(),
            shown: Mutex::default(),
        })
    }

    /// How the version with this serial shows it, if that is known.
    pub fn shown(&self, serial: u64) -> Option<Arc<Self>> {
        self.shown.lock().iter().find(|(known, _)| *known == serial).map(|(_, object)| object.clone())
    }

    /// Remembers how a version shows it.
    pub fn remember(&self, serial: u64, mut object: Self) -> Arc<Self> {
        if object.json == self.json {
            object.json = self.json.clone();
        }
        let object = Arc::new(object);
        let mut shown = self.shown.lock();
        if shown.len() >= SHOWN {
            shown.remove(0);
        }
        shown.push((serial, object.clone()));
        object
    }

    /// The object decoded.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The same state under another revision: what a deletion or the leaving of a selection shows.
    pub fn at(&self, revision: u64) -> Self {
        let mut value = self.value();
        envelope::set_revision(&mut value, revision);
        Self {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            revision,
            json: serde_json::to_vec(&value).unwrap_or_default().into(),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            shown: Mutex::default(),
        }
    }

    /// A value that a field selector asks for.
    pub fn field(&self, kind: &dyn Kind, field: &str) -> &str {
        match field {
            "metadata.name" => &self.name,
            "metadata.namespace" => &self.namespace,
            other => kind
                .selectable_fields()
                .iter()
                .position(|known| *known == other)
                .and_then(|index| self.fields.get(index))
                .map_or("", String::as_str),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(namespace: &str, name: &str, revision: u64) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            revision,
            json: Bytes::from(format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{revision}"}}}}"#)),
            labels: BTreeMap::new(),
            fields: Vec::new(),
            shown: Mutex::default(),
        }
    }
}
