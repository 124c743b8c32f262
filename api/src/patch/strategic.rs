//! Strategic merge patch: like a merge patch, but lists of objects are merged by a key that the type names, and
//! directives (`$patch`, `$retainKeys`, `$setElementOrder`, `$deleteFromPrimitiveList`) say what else to do.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::schema::{Field, Message, Schema, Type, schema};
use crate::status::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch to an object of a built-in kind.
pub fn apply(kind: &dyn Kind, object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let names = kind.names();
    let Some(message) = schema().of_kind(names.group, names.version, names.kind) else {
        return Err(ApiError::unsupported_media_type(
            "strategic merge patch is not supported for this resource".to_owned(),
        ));
    };
    if !patch.is_object() {
        return Err(ApiError::bad_request("error decoding patch: json: cannot unmarshal into a JSON object"));
    }
    let merger = Merger { schema: schema() };
    let merged = merger.object(object.clone(), patch, Some(message), 0)?;
    Ok(merged.unwrap_or_else(|| Value::Object(Map::new())))
}

struct Merger {
    schema: &'static Schema,
}

type Merged<T> = Result<T, ApiError>;

fn refused<T>(message: impl Into<String>) -> Merged<T> {
    Err(ApiError::bad_request(message.into()))
}

impl Merger {
    fn inner(&self, r#type: &Type) -> Option<&'static Message> {
        match r#type {
            Type::Message(index) => Some(self.schema.get(*index)),
            Type::List { item, .. } | Type::Map(item) => self.inner(item),
            _ => None,
        }
    }

    /// Merges a patch into an object. `None`: the patch deletes it.
    fn object(&self, target: Value, patch: &Value, message: Option<&'static Message>, depth: usize) -> Merged<Option<Value>> {
        if depth > 128 {
            return refused("the patch is nested too deeply");
        }
        let Value::Object(patch) = patch else { return Ok(Some(patch.clone())) };
        match patch.get(DIRECTIVE).and_then(Value::as_str) {
            Some("replace") => {
                let mut replaced = patch.clone();
                replaced.remove(DIRECTIVE);
                return Ok(Some(Value::Object(replaced)));
            }
            Some("delete") => return Ok(None),
            Some("merge") | None => {}
            Some(other) => return refused(format!("Unknown patch type found: {other}")),
        }
        let mut map = match target {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        if let Some(Value::Array(keep)) = patch.get(RETAIN) {
            map.retain(|key, _| keep.iter().any(|kept| kept.as_str() == Some(key)));
        }
        for (key, value) in patch {
            if key == DIRECTIVE || key == RETAIN || key.starts_with(ORDER) || key.starts_with(DELETE) {
                continue;
            }
            if value.is_null() {
                map.remove(key);
                continue;
            }
            let field = message.and_then(|message| message.json.get(key.as_str()));
            let before = map.remove(key).unwrap_or(Value::Null);
            let order = patch.get(&format!("{ORDER}{key}"));
            let after = match (value, field) {
                (Value::Object(_), _) => {
                    let inner = field.and_then(|field| self.inner(&field.r#type));
                    self.object(before, value, inner, depth + 1)?
                }
                (Value::Array(items), Some(field)) if field.merge => {
                    Some(self.list(before, items, field, order, depth + 1)?)
                }
                _ => Some(strip(value)),
            };
            if let Some(after) = after {
                map.insert(key.clone(), after);
            }
        }
        self.leftovers(&mut map, patch, message)?;
        Ok(Some(Value::Object(map)))
    }

    /// Directives about lists that the patch itself does not hold.
    fn leftovers(&self, map: &mut Map<String, Value>, patch: &Map<String, Value>, message: Option<&'static Message>) -> Merged<()> {
        for (key, value) in patch {
            if let (Some(name), Value::Array(gone)) = (key.strip_prefix(DELETE), value) {
                if let Some(Value::Array(items)) = map.get_mut(name) {
                    items.retain(|item| !gone.contains(item));
                }
            }
        }
        for (key, value) in patch {
            let (Some(name), Value::Array(order)) = (key.strip_prefix(ORDER), value) else { continue };
            if patch.contains_key(name) {
                continue;
            }
            let field = message.and_then(|message| message.json.get(name));
            if let (Some(field), Some(Value::Array(items))) = (field, map.get_mut(name)) {
                let sorted = ordered(std::mem::take(items), order, field.merge_key);
                *items = sorted;
            }
        }
        Ok(())
    }

    fn list(&self, before: Value, patch: &[Value], field: &'static Field, order: Option<&Value>, depth: usize) -> Merged<Value> {
        let mut items = match before {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        if patch.iter().any(|item| directive(item) == Some("replace")) {
            let kept = patch.iter().filter(|item| directive(item) != Some("replace") || item.as_object().is_some_and(|map| map.len() > 1));
            let replaced = kept.filter(|item| directive(item) != Some("delete")).map(strip).collect();
            return Ok(Value::Array(replaced));
        }
        let Some(key) = field.merge_key else {
            // Plain values: a set.
            for item in patch {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
            return Ok(Value::Array(sorted_by(items, order, None)));
        };
        let message = self.inner(&field.r#type);
        for item in patch {
            let Some(name) = item.get(key) else {
                return refused(format!("map: {item} does not contain declared merge key: {key}"));
            };
            let found = items.iter().position(|known| known.get(key) == Some(name));
            if directive(item) == Some("delete") {
                items.retain(|known| known.get(key) != Some(name));
                continue;
            }
            match found {
                Some(at) => {
                    let known = items[at].take();
                    match self.object(known, item, message, depth)? {
                        Some(merged) => items[at] = merged,
                        None => {
                            items.remove(at);
                        }
                    }
                }
                None => {
                    if let Some(new) = self.object(Value::Object(Map::new()), item, message, depth)? {
                        items.push(new);
                    }
                }
            }
        }
        Ok(Value::Array(sorted_by(items, order, Some(key))))
    }
}

fn directive(item: &Value) -> Option<&str> {
    item.get(DIRECTIVE).and_then(Value::as_str)
}

fn sorted_by(items: Vec<Value>, order: Option<&Value>, key: Option<&str>) -> Vec<Value> {
    match order {
        Some(Value::Array(order)) => ordered(items, order, key),
        _ => items,
    }
}

/// Items in the order asked for; those that the order does not name keep their place relative to the ones around them.
fn ordered(items: Vec<Value>, order: &[Value], key: Option<&str>) -> Vec<Value> {
    let identity = |value: &Value| match key {
        Some(key) => value.get(key).cloned(),
        None => Some(value.clone()),
    };
    // The first place of each identity; as text, because values have no order.
    let places: BTreeMap<String, usize> = order
        .iter()
        .enumerate()
        .rev()
        .filter_map(|(place, item)| Some((identity(item)?.to_string(), place)))
        .collect();
    let rank = |item: &Value| identity(item).and_then(|identity| places.get(&identity.to_string()).copied());
    let (mut named, free): (Vec<(usize, Value)>, Vec<(usize, Value)>) =
        items.into_iter().enumerate().partition(|(_, item)| rank(item).is_some());
    named.sort_by_cached_key(|(_, item)| rank(item));
    // Server-only items go before the first named item that stood after them.
    let mut out: Vec<Value> = Vec::with_capacity(named.len() + free.len());
    let mut free = free.into_iter().peekable();
    for (at, item) in named {
        while let Some((_, item)) = free.next_if(|(place, _)| *place < at) {
            out.push(item);
        }
        out.push(item);
    }
    out.extend(free.map(|(_, item)| item));
    out
}

/// A new value without directives and nulls.
fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), strip(value))).collect())
        }
        Value::Array(items) => {
            items.iter().filter(|item| directive(item) != Some("delete")).map(strip).collect::<Vec<_>>().into()
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(object: Value, patch: Value) -> Value {
        let kind = crate::kinds::find_kind("", "v1", "Pod").expect("pod");
        apply(kind, &object, &patch).expect("patch")
    }

    #[test]
    fn lists_are_merged_by_key() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}], "ports": [{"containerPort": 80}]}, {"name": "b", "image": "y"}]}});
        let out = patched(pod.clone(), json!({"spec": {"containers": [{"name": "a", "image": "z", "env": [{"name": "F", "value": "2"}]}, {"name": "c", "image": "w"}]}}));
        assert_eq!(out["spec"]["containers"], json!([
            {"name": "a", "image": "z", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}], "ports": [{"containerPort": 80}]},
            {"name": "b", "image": "y"}, {"name": "c", "image": "w"}]));
        let out = patched(pod.clone(), json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}]}}));
        assert_eq!(out["spec"]["containers"].as_array().map(Vec::len), Some(1));
        let out = patched(pod.clone(), json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "q"}]}}));
        assert_eq!(out["spec"]["containers"][0]["name"], "b");
        let out = patched(pod.clone(), json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "n", "image": "i"}]}}));
        assert_eq!(out["spec"]["containers"], json!([{"name": "n", "image": "i"}]));
        let kind = crate::kinds::find_kind("", "v1", "Pod").expect("pod");
        assert_eq!(apply(kind, &pod, &json!({"spec": {"containers": [{"image": "x"}]}})).expect_err("no key").code, 400);
    }

    #[test]
    fn directives() {
        let meta = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}});
        let out = patched(meta.clone(), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "labels": {"x": null, "z": "3"}}}));
        assert_eq!(out, json!({"metadata": {"finalizers": ["b"], "labels": {"y": "2", "z": "3"}}}));
        let out = patched(meta.clone(), json!({"metadata": {"finalizers": ["c", "a"]}}));
        assert_eq!(out["metadata"]["finalizers"], json!(["a", "b", "c"]));
        let out = patched(meta, json!({"metadata": {"labels": {"$patch": "replace", "n": "1"}}}));
        assert_eq!(out["metadata"]["labels"], json!({"n": "1"}));
        let volume = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "a"}]}});
        let out = patched(volume, json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}], "tolerations": [{"key": "b"}]}}));
        assert_eq!(out["spec"], json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}], "tolerations": [{"key": "b"}]}));
    }
}
