//! Patches, as far as tests need them: JSON merge, and strategic merge for the lists that components patch.

use serde_json::Value;

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// By which member the elements of a list are told apart; `None`: the list is replaced.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "conditions" | "addresses" => Some("type"),
        "containers" | "initContainers" | "volumes" | "env" | "schedulingGates" | "imagePullSecrets" => Some("name"),
        "ownerReferences" => Some("uid"),
        "podIPs" | "hostIPs" | "hostAliases" => Some("ip"),
        _ => None,
    }
}

/// Strategic merge with `$patch: delete` and `$deleteFromPrimitiveList`; `finalizers` are united.
pub(super) fn strategic(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if let (Some(list), Value::Array(gone)) = (name.strip_prefix("$deleteFromPrimitiveList/"), value) {
            if let Some(Value::Array(list)) = target.get_mut(list) {
                list.retain(|element| !gone.contains(element));
            }
            continue;
        }
        if name.starts_with('$') {
            continue;
        }
        match (value, merge_key(name)) {
            (Value::Null, _) => {
                target.remove(name);
            }
            (Value::Array(elements), Some(key)) => {
                let list = target.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    elements.iter().for_each(|element| merge_element(list, element, key));
                }
            }
            (Value::Array(elements), None) if name == "finalizers" => {
                let list = target.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    let new: Vec<Value> = elements.iter().filter(|element| !list.contains(element)).cloned().collect();
                    list.extend(new);
                }
            }
            _ => strategic(target.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

fn merge_element(list: &mut Vec<Value>, element: &Value, key: &str) {
    let position = list.iter().position(|known| known.get(key) == element.get(key));
    match (position, element.get("$patch").and_then(Value::as_str)) {
        (Some(at), Some("delete")) => {
            list.remove(at);
        }
        (None, Some("delete")) => {}
        (Some(at), _) => strategic(&mut list[at], element),
        (None, _) => list.push(element.clone()),
    }
}
