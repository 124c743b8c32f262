//! Objects as clients asked to see them: whole, as metadata only, as rows of a table. Pure (`now` is an argument).

use std::sync::Arc;

use balsa_api::kind::KindRef;
use balsa_api::table::{self, IncludeObject};
use bytes::{BufMut as _, Bytes, BytesMut};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::negotiate::View;
use crate::pipeline::list::Listed;
use crate::watch_cache::object::Object;

/// A way of showing.
#[derive(Clone)]
pub struct Shown {
    /// The kind.
    pub kind: KindRef,
    /// As what.
    pub view: View,
    /// In rows.
    pub include: IncludeObject,
    /// For ages.
    pub now: Timestamp,
}

const META: &str = "meta.k8s.io/v1";

impl Shown {
    /// One object.
    pub fn one(&self, object: Value) -> Bytes {
        let shown = match self.view {
            View::Plain => object,
            View::Metadata => table::partial(&object, META),
            View::Table => table::of_one(&*self.kind, &object, self.include, true, self.now),
        };
        serde_json::to_vec(&shown).unwrap_or_default().into()
    }

    /// A list.
    pub fn list(&self, listed: &Listed) -> Bytes {
        let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
        if !listed.continue_token.is_empty() {
            metadata["continue"] = json!(listed.continue_token);
        }
        if let Some(remaining) = listed.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        match self.view {
            View::Plain => {
                let names = self.kind.names();
                plain_list(names.list_kind, &self.kind.gvk().api_version(), &metadata, &listed.items)
            }
            View::Metadata => {
                let items: Vec<Value> = listed.items.iter().map(|object| object.value()).collect();
                serde_json::to_vec(&table::partial_list(&items, metadata, META)).unwrap_or_default().into()
            }
            View::Table => {
                let items: Vec<Value> = listed.items.iter().map(|object| object.value()).collect();
                let table = table::table(&*self.kind, &items, metadata, self.include, true, self.now);
                serde_json::to_vec(&table).unwrap_or_default().into()
            }
        }
    }

    /// The object of a watch event. Columns stand only in a table's first event.
    pub fn event(&self, object: &Object, first: bool) -> Bytes {
        match self.view {
            View::Plain => object.json.clone(),
            View::Metadata => serde_json::to_vec(&table::partial(&object.value(), META)).unwrap_or_default().into(),
            View::Table => {
                let table = table::of_one(&*self.kind, &object.value(), self.include, first, self.now);
                serde_json::to_vec(&table).unwrap_or_default().into()
            }
        }
    }

    /// The object of a bookmark.
    pub fn bookmark(&self, revision: u64, initial_events_end: bool, first: bool) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let gvk = self.kind.gvk();
        match self.view {
            View::Plain => json!({"kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": metadata}),
            View::Metadata => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
            View::Table => {
                let object = json!({"kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": metadata});
                let row = json!({"cells": [], "object": table::partial(&object, META)});
                let mut shown = table::table(&*self.kind, [], json!({"resourceVersion": revision.to_string()}), self.include, first, self.now);
                shown["rows"] = json!([row]);
                shown
            }
        }
    }
}

/// A list made of objects that are encoded already.
fn plain_list(kind: &str, api_version: &str, metadata: &Value, items: &[Arc<Object>]) -> Bytes {
    let size: usize = items.iter().map(|object| object.json.len() + 1).sum();
    let mut out = BytesMut::with_capacity(size + 256);
    let head = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}).to_string();
    out.put_slice(head.strip_suffix('}').unwrap_or(&head).as_bytes());
    out.put_slice(b",\"items\":[");
    for (index, object) in items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(&object.json);
    }
    out.put_slice(b"]}");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_put_together_from_encoded_objects() {
        let items = [Arc::new(Object::for_test("", "a", 3)), Arc::new(Object::for_test("", "b", 4))];
        let bytes = plain_list("PodList", "v1", &json!({"resourceVersion": "9"}), &items);
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["kind"], "PodList");
        assert_eq!(value["items"][1]["metadata"]["name"], "b");
    }
}
