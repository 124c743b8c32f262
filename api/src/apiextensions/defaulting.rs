//! Absent members get their schema's defaults; nulls that are no value go, or get the default.

use serde_json::Value;

use super::schema::{Additional, Schema};

/// Drops nulls that are neither allowed nor replaced by a default.
pub fn prune_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => {
            map.retain(|name, child| {
                let inner = schema.and_then(|schema| schema.member(name));
                !(child.is_null() && inner.is_some_and(|inner| !inner.nullable && inner.default.is_none()))
            });
            for (name, child) in map.iter_mut() {
                prune_nulls(child, schema.and_then(|schema| schema.member(name)));
            }
        }
        Value::Array(items) => {
            let inner = schema.and_then(|schema| schema.items.as_deref());
            items.iter_mut().for_each(|item| prune_nulls(item, inner));
        }
        _ => {}
    }
}

fn is_wrong_null(value: &Value, schema: &Schema) -> bool {
    value.is_null() && !schema.nullable
}

/// Fills in defaults.
pub fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, inner) in &schema.properties {
                let Some(default) = &inner.default else { continue };
                if map.get(name).is_none_or(|value| is_wrong_null(value, inner)) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, child) in map.iter_mut() {
                if let Some(inner) = schema.properties.get(name) {
                    self::default(child, inner);
                } else if let Some(Additional::Fit(inner)) = &schema.additional {
                    if is_wrong_null(child, inner) {
                        *child = inner.default.clone().unwrap_or_default();
                    }
                    self::default(child, inner);
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = &schema.items else { return };
            for item in items {
                if is_wrong_null(item, inner) {
                    *item = inner.default.clone().unwrap_or_default();
                }
                self::default(item, inner);
            }
        }
        _ => {}
    }
}
