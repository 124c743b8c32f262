//! Lists of type `set` and `map`: no item stands twice.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{Additional, ListType, Schema};
use crate::field::FieldError;

/// Findings in an object; `path` is where the value stands, empty at the root.
pub fn validate(path: &str, schema: &Schema, value: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    walk(path, schema, value, &mut findings);
    findings
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn walk(path: &str, schema: &Schema, value: &Value, findings: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(Additional::Fit(schema)) = &schema.additional {
                    walk(&format!("{path}[{name}]"), schema, inner, findings);
                }
                if let Some(schema) = schema.properties.get(name) {
                    walk(&child(path, name), schema, inner, findings);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type {
                ListType::Set => {
                    for index in repeated(items.iter().map(Value::to_string)) {
                        findings.push(FieldError::duplicate(format!("{path}[{index}]"), items[index].clone()));
                    }
                }
                ListType::Map => by_keys(path, schema, items, findings),
                ListType::Atomic => {}
            }
            if let Some(inner) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    walk(&format!("{path}[{index}]"), inner, item, findings);
                }
            }
        }
        _ => {}
    }
}

fn by_keys(path: &str, schema: &Schema, items: &[Value], findings: &mut Vec<FieldError>) {
    if let Some(index) = items.iter().position(|item| !item.is_object() && !item.is_null()) {
        let detail = "must be an object for an array of list-type map";
        findings.push(FieldError::invalid(format!("{path}[{index}]"), items[index].clone(), detail));
        return;
    }
    let key = |item: &Value| -> Map<String, Value> {
        let named = schema.list_keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
        named.collect()
    };
    for index in repeated(items.iter().map(|item| Value::Object(key(item)).to_string())) {
        findings.push(FieldError::duplicate(format!("{path}[{index}]"), json!(key(&items[index]))));
    }
}

/// Places of the second appearance of each value that stands more than once.
fn repeated(values: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut places = Vec::new();
    for (index, value) in values.enumerate() {
        let times = seen.entry(value).or_insert(0);
        *times += 1;
        if *times == 2 {
            places.push(index);
        }
    }
    places
}
