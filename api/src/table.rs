//! The other shapes in which objects are answered: tables for people, metadata only.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::cursor::find;
use crate::kind::{Column, Kind};

/// How much of the object a table's row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// From the query parameter; empty means [`Self::Metadata`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

fn definitions(columns: &[Column]) -> Value {
    let one = |column: &Column| {
        json!({
            "name": column.name,
            "type": column.r#type,
            "format": column.format,
            "description": if column.description.is_empty() { column.name } else { column.description },
            "priority": column.priority,
        })
    };
    columns.iter().map(one).collect()
}

/// One row.
pub fn row(kind: &dyn Kind, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array(kind.cells(object, now)));
    let names = kind.names();
    if names.kind == "Pod" && names.group.is_empty() {
        if let Some(phase) = crate::kinds::pod::columns::completed(object) {
            let message = if phase == "Succeeded" {
                "The pod has completed successfully."
            } else {
                "The pod failed."
            };
            row.insert(
                "conditions".to_owned(),
                json!([{ "type": "Completed", "status": "True", "reason": phase, "message": message }]),
            );
        }
    }
    let object = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial(object, "meta.k8s.io/v1"),
        IncludeObject::Object => object.clone(),
    };
    row.insert("object".to_owned(), object);
    Value::Object(row)
}

/// A table of objects. `metadata` is the list's (or, of a single object, its resourceVersion).
pub fn table<'a>(
    kind: &dyn Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    include: IncludeObject,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        // A watch sends them only with its first event.
        "columnDefinitions": if with_columns { definitions(&kind.columns()) } else { Value::Array(Vec::new()) },
        "rows": rows,
    })
}

/// The table of a single object.
pub fn of_one(kind: &dyn Kind, object: &Value, include: IncludeObject, with_columns: bool, now: Timestamp) -> Value {
    let version = find(object, "metadata.resourceVersion").clone();
    let metadata = if version.is_null() { json!({}) } else { json!({ "resourceVersion": version }) };
    table(kind, [object], metadata, include, with_columns, now)
}

/// Only the metadata of an object.
pub fn partial(object: &Value, api_version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": api_version,
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// Only the metadata of a list's objects.
pub fn partial_list<'a>(objects: impl IntoIterator<Item = &'a Value>, metadata: Value, api_version: &str) -> Value {
    let items: Vec<Value> = objects.into_iter().map(|object| partial(object, api_version)).collect();
    json!({ "kind": "PartialObjectMetadataList", "apiVersion": api_version, "metadata": metadata, "items": items })
}
