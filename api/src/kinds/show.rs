//! Pieces of table cells that several kinds share.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::cursor::{find, list, text};

/// `<none>` for what is empty.
pub fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// The object's name.
pub fn name(object: &Value) -> Value {
    text(object, "metadata.name").into()
}

/// The object's age.
pub fn age(object: &Value, now: Timestamp) -> Value {
    crate::duration::age(object, now).into()
}

/// A number at a path; 0 where there is none.
pub fn number(object: &Value, path: &str) -> i64 {
    find(object, path).as_i64().unwrap_or(0)
}

/// Names of a pod spec's containers, with commas.
pub fn containers(object: &Value, spec: &str) -> Value {
    joined(list(object, &format!("{spec}.containers")).iter().map(|container| text(container, "name"))).into()
}

/// Images of a pod spec's containers, with commas.
pub fn images(object: &Value, spec: &str) -> Value {
    joined(list(object, &format!("{spec}.containers")).iter().map(|container| text(container, "image"))).into()
}

/// Texts with commas.
pub fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

/// A map of labels as `a=b,c=d`; `<none>` where it is empty.
pub fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A label selector as `a=b,c in (d,e),!f`.
pub fn selector(selector: &Value) -> String {
    if !selector.is_object() {
        return "<none>".to_owned();
    }
    let mut parts: Vec<String> = Vec::new();
    if let Some(map) = selector.get("matchLabels").and_then(Value::as_object) {
        parts.extend(map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let mut values: Vec<&str> = list(expression, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.sort();
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

/// A number or percentage as text.
pub fn int_or_string(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
