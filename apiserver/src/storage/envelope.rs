//! How an object lies in the store: `balsa.api.v1.Object` with revision 0, whose body is JSON without resourceVersion.

use balsa_proto::api;
use bytes::Bytes;
use prost::Message as _;
use serde_json::Value;

use super::StoreError;

/// Encodes an object for the store.
pub fn encode(group: &str, version: &str, kind: &str, namespace: &str, name: &str, object: &Value) -> Bytes {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    let body = serde_json::to_vec(&object).unwrap_or_default();
    let envelope = api::Object {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        revision: 0,
        body: body.into(),
    };
    envelope.encode_to_vec().into()
}

/// Decodes what the store holds and adds its revision as resourceVersion.
pub fn decode(value: Bytes, revision: u64) -> Result<Value, StoreError> {
    let malformed = |what: String| StoreError::Refused(format!("a stored object cannot be read: {what}"));
    let envelope = api::Object::decode(value).map_err(|error| malformed(error.to_string()))?;
    let mut object: Value = serde_json::from_slice(&envelope.body).map_err(|error| malformed(error.to_string()))?;
    set_revision(&mut object, revision);
    Ok(object)
}

/// Writes metadata.resourceVersion.
pub fn set_revision(object: &mut Value, revision: u64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
    }
}
