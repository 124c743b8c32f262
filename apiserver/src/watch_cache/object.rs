//! An object as the cache holds it: encoded once, with what selectors ask of it beside the bytes.

use std::collections::BTreeMap;

use balsa_api::kind::Kind;
use bytes::Bytes;
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
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
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
            labels: labels
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            fields: kind.selectable_fields().iter().map(|field| kind.selectable(value, field)).collect(),
        }
    }

    /// From what the store holds.
    pub fn from_entry(kind: &dyn Kind, entry: &Entry) -> Result<Self, StoreError> {
        let value = faces::from_stored(kind, envelope::decode(entry.value.clone(), entry.revision)?);
        Ok(Self::from_value(kind, &value, entry.revision))
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
        }
    }
}
