//! What a schema does not know is dropped, and named.
//!
//! The rules are those of apiextensions' structural pruning: `x-kubernetes-preserve-unknown-fields` keeps everything that
//! is not described more closely below it; apiVersion, kind and metadata of an (embedded) object are never touched.

use serde_json::Value;

use super::schema::{Additional, Schema};
use crate::kind::TypeMismatch;
use crate::schema::{check, schema};

const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Whether a member belongs to every object rather than to its schema.
pub fn is_meta(name: &str) -> bool {
    META.contains(&name)
}

/// Drops from a whole object what its schema does not know. Returns the paths, in order of the alphabet.
pub fn prune(object: &mut Value, schema: &Schema) -> Vec<String> {
    let mut walk = Walk { path: String::new(), unknown: Vec::new() };
    walk.object(object, Some(schema), true);
    walk.unknown.sort();
    walk.unknown
}

/// As [`prune`], of a part of an object (a default).
pub fn prune_part(value: &mut Value, schema: &Schema) {
    let mut walk = Walk { path: String::new(), unknown: Vec::new() };
    walk.value(value, Some(schema), schema.embedded);
}

struct Walk {
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    fn at(&mut self, step: &str, visit: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        visit(self);
        self.path.truncate(length);
    }

    fn note(&mut self, name: &str) {
        self.at(name, |walk| {
            let path = walk.path.clone();
            walk.unknown.push(path);
        });
    }

    fn value(&mut self, value: &mut Value, schema: Option<&Schema>, embedded: bool) {
        match value {
            Value::Object(_) => self.object(value, schema, embedded),
            Value::Array(items) => {
                let preserve = schema.is_some_and(|schema| schema.preserve);
                let inner = schema.and_then(|schema| schema.items.as_deref());
                // Below a preserved list only what is described is looked at.
                if preserve && inner.is_none() {
                    return;
                }
                for (index, item) in items.iter_mut().enumerate() {
                    self.at(&format!("[{index}]"), |walk| {
                        walk.value(item, inner, inner.is_some_and(|schema| schema.embedded));
                    });
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, value: &mut Value, schema: Option<&Schema>, embedded: bool) {
        let Value::Object(map) = value else { return };
        let preserve = schema.is_some_and(|schema| schema.preserve);
        let at_root = self.path.is_empty();
        let mut dropped = Vec::new();
        for (name, child) in map.iter_mut() {
            if embedded && is_meta(name) {
                continue;
            }
            let property = schema.and_then(|schema| schema.properties.get(name));
            let other = schema.and_then(|schema| schema.additional.as_ref());
            match (property, other) {
                (Some(inner), _) => self.at(name, |walk| walk.value(child, Some(inner), inner.embedded)),
                (None, Some(Additional::Fit(inner))) => {
                    self.at(name, |walk| walk.value(child, Some(inner), inner.embedded));
                }
                (None, Some(Additional::Allowed(_))) if preserve => {}
                (None, Some(Additional::Allowed(_))) => self.at(name, |walk| walk.value(child, None, false)),
                (None, None) if preserve => {}
                (None, None) => {
                    if !(at_root && is_meta(name)) {
                        self.note(name);
                    }
                    dropped.push(name.clone());
                }
            }
        }
        for name in dropped {
            map.remove(&name);
        }
    }
}

/// Brings the metadata of an object and of those embedded in it into the form of its type. Returns unknown members.
/// The error says what of it is malformed.
pub fn coerce_metadata(object: &mut Value, schema: &Schema) -> Result<Vec<String>, TypeMismatch> {
    let mut unknown = Vec::new();
    coerce(object, schema, true, String::new(), &mut unknown)?;
    unknown.sort();
    Ok(unknown)
}

/// As [`coerce_metadata`], of a part of an object (a default).
pub fn coerce_metadata_of(value: &mut Value, schema: &Schema) -> Result<Vec<String>, TypeMismatch> {
    let mut unknown = Vec::new();
    coerce(value, schema, schema.embedded, String::new(), &mut unknown)?;
    Ok(unknown)
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn coerce(value: &mut Value, of: &Schema, resource: bool, path: String, unknown: &mut Vec<String>) -> Result<(), TypeMismatch> {
    match value {
        Value::Object(map) => {
            if resource {
                for name in ["apiVersion", "kind"] {
                    if map.get(name).is_some_and(|value| !value.is_string()) {
                        let place = joined(&path, name);
                        return Err(TypeMismatch(format!("{place}: Invalid value: must be a string")));
                    }
                }
                if let (Some(metadata), Some(message)) = (map.get_mut("metadata"), schema().named("meta/v1.ObjectMeta")) {
                    if metadata.is_null() {
                        map.remove("metadata");
                    } else {
                        let place = joined(&path, "metadata");
                        let found = check::check(metadata, message)
                            .map_err(|mismatch| TypeMismatch(mismatch.0.replace("Go struct field ObjectMeta.", "Go struct field ObjectMeta.metadata.")))?;
                        unknown.extend(found.into_iter().map(|name| joined(&place, &name)));
                        // What Go's types write although nobody said it.
                        if let Value::Object(metadata) = metadata
                            && metadata.get("creationTimestamp").is_some_and(Value::is_null)
                        {
                            metadata.remove("creationTimestamp");
                        }
                    }
                }
            }
            for (name, child) in map.iter_mut() {
                if resource && is_meta(name) {
                    continue;
                }
                if let Some(inner) = of.member(name) {
                    coerce(child, inner, inner.embedded, joined(&path, name), unknown)?;
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            if let Some(inner) = &of.items {
                for (index, item) in items.iter_mut().enumerate() {
                    coerce(item, inner, inner.embedded, format!("{path}[{index}]"), unknown)?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
