//! Server-side apply, and the bookkeeping of who set which field (`metadata.managedFields`) for all other writes.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::{self, Set, Shape};
use crate::cursor::{list, text};
use crate::kind::Kind;
use crate::schema::check::time_text;
use crate::schema::{Message, Type, schema};
use crate::status::ApiError;

/// More managers than this that only update are put together.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
const BEFORE_FIRST: &str = "before-first-apply";

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `fieldManager`, or what the User-Agent says.
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The time to note.
    pub now: Timestamp,
}

#[derive(Debug, Clone)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: Value,
    set: Set,
}

/// What of the metadata (and type) nobody owns.
fn stripped(object: &Value) -> Value {
    let mut out = object.clone();
    if let Value::Object(map) = &mut out {
        map.remove("apiVersion");
        map.remove("kind");
        let mut empty = false;
        if let Some(Value::Object(meta)) = map.get_mut("metadata") {
            for name in [
                "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
                "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds",
            ] {
                meta.remove(name);
            }
            empty = meta.is_empty();
        }
        if empty {
            map.remove("metadata");
        }
    }
    without_empty(&mut out);
    out
}

/// Go writes empty structs (`resources: {}`) and nulls that nobody set.
fn without_empty(object: &mut Value) {
    if let Value::Object(map) = object {
        map.retain(|_, value| !value.is_null());
        for value in map.values_mut() {
            without_empty(value);
        }
        if let Some(Value::Object(status)) = map.get("status") {
            if status.is_empty() {
                map.remove("status");
            }
        }
    } else if let Value::Array(items) = object {
        items.iter_mut().for_each(without_empty);
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    let read = |entry: &Value| Entry {
        manager: text(entry, "manager").to_owned(),
        operation: text(entry, "operation").to_owned(),
        api_version: text(entry, "apiVersion").to_owned(),
        subresource: text(entry, "subresource").to_owned(),
        time: entry.get("time").cloned().unwrap_or(Value::Null),
        set: Set::from_json(entry.get("fieldsV1").unwrap_or(&Value::Null)),
    };
    list(object, "metadata.managedFields").iter().map(read).filter(|entry| !entry.operation.is_empty()).collect()
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    collapse(&mut entries);
    // Apply before Update, then by time: the order that Kubernetes keeps.
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| (entry.operation.clone(), entry.time.as_str().unwrap_or_default().to_owned(), entry.manager.clone());
        key(a).cmp(&key(b))
    });
    let written: Vec<Value> = entries
        .into_iter()
        .map(|entry| {
            let mut map = Map::new();
            map.insert("manager".to_owned(), entry.manager.into());
            map.insert("operation".to_owned(), entry.operation.into());
            map.insert("apiVersion".to_owned(), entry.api_version.into());
            if !entry.time.is_null() {
                map.insert("time".to_owned(), entry.time);
            }
            map.insert("fieldsType".to_owned(), "FieldsV1".into());
            map.insert("fieldsV1".to_owned(), entry.set.to_json());
            if !entry.subresource.is_empty() {
                map.insert("subresource".to_owned(), entry.subresource.into());
            }
            Value::Object(map)
        })
        .collect();
    if let Some(Value::Object(meta)) = object.get_mut("metadata") {
        if written.is_empty() {
            meta.remove("managedFields");
        } else {
            meta.insert("managedFields".to_owned(), Value::Array(written));
        }
    }
}

/// Puts the oldest updaters together where there are too many.
fn collapse(entries: &mut Vec<Entry>) {
    let updaters = |entries: &[Entry]| entries.iter().filter(|entry| entry.operation == "Update").count();
    while updaters(entries) > MAX_UPDATE_MANAGERS {
        let oldest = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.operation == "Update" && entry.manager != ANCIENT)
            .min_by_key(|(_, entry)| entry.time.as_str().unwrap_or_default().to_owned())
            .map(|(at, _)| at);
        let Some(oldest) = oldest else { return };
        let old = entries.remove(oldest);
        let home = entries.iter_mut().find(|entry| {
            entry.manager == ANCIENT && entry.api_version == old.api_version && entry.subresource == old.subresource
        });
        match home {
            Some(home) => {
                home.set = home.set.union(&old.set);
                home.time = old.time;
            }
            None => {
                entries.push(Entry { manager: ANCIENT.to_owned(), ..old });
                if updaters(entries) > MAX_UPDATE_MANAGERS {
                    continue;
                }
                return;
            }
        }
    }
}

/// A configuration without what Go's types write although nobody said it: empty structs (`strategy: {}`), nulls; and
/// without the part that this way of writing cannot touch.
fn given(kind: &dyn Kind, config: &Value, subresource: &str) -> Value {
    let mut out = config.clone();
    let names = kind.names();
    if let Some(message) = schema().of_kind(names.group, names.version, names.kind) {
        trim(&mut out, message);
    }
    if let Value::Object(map) = &mut out {
        let has_status = kind.subresources().iter().any(|sub| sub.name == "status");
        if subresource.is_empty() && has_status {
            map.remove("status");
        } else if subresource == "status" {
            map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        }
    }
    out
}

fn trim(value: &mut Value, message: &'static Message) {
    let Value::Object(map) = value else { return };
    map.retain(|key, value| {
        let Some(field) = message.json.get(key.as_str()) else { return true };
        trim_type(value, &field.r#type);
        let said_nothing = value.as_object().is_some_and(Map::is_empty);
        !(value.is_null() || said_nothing && !field.pointer && matches!(field.r#type, Type::Message(_)))
    });
}

fn trim_type(value: &mut Value, r#type: &'static Type) {
    match (r#type, value) {
        (Type::Message(index), value) => trim(value, schema().get(*index)),
        (Type::List { item, .. }, Value::Array(items)) => items.iter_mut().for_each(|one| trim_type(one, item)),
        (Type::Map(item), Value::Object(map)) => map.values_mut().for_each(|one| trim_type(one, item)),
        _ => {}
    }
}

fn shape(kind: &dyn Kind) -> Shape<'_> {
    fields::of_kind(kind)
}

/// Applies a configuration. `live` is absent where the object is to be created. The configuration has been checked
/// (so it has no unknown fields). The answer has not been defaulted or validated yet.
pub fn apply(
    kind: &dyn Kind,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    if writer.manager.is_empty() {
        let finding = crate::field::FieldError::required("fieldManager", "is required for apply patch");
        let kind = crate::meta::GroupVersionKind::new("meta.k8s.io", "", "PatchOptions");
        return Err(ApiError::invalid(&kind, "", &[finding]));
    }
    if !list(config, "metadata.managedFields").is_empty() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let shape = shape(kind);
    let api_version = text(config, "apiVersion").to_owned();
    let given = given(kind, config, writer.subresource);
    let config_set = fields::of_value(&stripped(&given), shape);
    let config_set = if config_set.children.is_empty() { Set::default() } else { config_set };
    let Some(live) = live else {
        let mut created = config.clone();
        if let Value::Object(map) = &mut created {
            map.entry("metadata").or_insert_with(|| json!({}));
        }
        write(&mut created, vec![entry(&writer, "Apply", &api_version, config_set)]);
        return Ok(created);
    };
    let mut entries = entries(live);
    if entries.is_empty() {
        // What was there before anybody kept books belongs to somebody too.
        let set = fields::of_value(&stripped(live), shape);
        let first = Writer { manager: BEFORE_FIRST, ..writer };
        entries.push(entry(&first, "Update", &api_version, set));
    }
    let own = entries.iter().position(|entry| {
        entry.manager == writer.manager && entry.operation == "Apply" && entry.subresource == writer.subresource
    });
    let before = own.map(|at| entries.remove(at));
    let mut merged = fields::merge(live, &given, shape);
    let touched = fields::changed(&stripped(&merged), &stripped(live), shape);
    settle_conflicts(&mut entries, &touched, force)?;
    if let Some(before) = &before {
        let others = entries.iter().fold(config_set.clone(), |all, entry| all.union(&entry.set));
        let gone = before.set.minus(&config_set).minus(&others);
        fields::prune(&mut merged, &gone, &others, shape);
    }
    let mut mine = entry(&writer, "Apply", &api_version, config_set);
    if let Some(before) = before {
        if before.set == mine.set && before.api_version == mine.api_version {
            mine.time = before.time;
        }
    }
    entries.push(mine);
    write(&mut merged, entries);
    Ok(merged)
}

fn entry(writer: &Writer<'_>, operation: &str, api_version: &str, set: Set) -> Entry {
    Entry {
        manager: writer.manager.to_owned(),
        operation: operation.to_owned(),
        api_version: api_version.to_owned(),
        subresource: writer.subresource.to_owned(),
        time: time_text(writer.now).into(),
        set,
    }
}

fn named(entry: &Entry) -> String {
    let mut out = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        out.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if entry.operation == "Update" {
        out.push_str(&format!(" using {}", entry.api_version));
    }
    out
}

/// Refuses the write where others own what it changes; with `force`, takes it from them.
fn settle_conflicts(entries: &mut [Entry], touched: &Set, force: bool) -> Result<(), ApiError> {
    let mut found: Vec<(String, String)> = Vec::new();
    for entry in entries.iter_mut() {
        let clash = entry.set.common(touched);
        if clash.is_empty() {
            continue;
        }
        if force {
            entry.set = entry.set.minus(&clash);
        } else {
            let name = named(entry);
            found.extend(clash.paths().into_iter().map(|path| (name.clone(), path)));
        }
    }
    found.sort();
    let message = match found.as_slice() {
        [] => return Ok(()),
        [(manager, path)] => format!("Apply failed with 1 conflict: conflict with {manager}: {path}"),
        several => {
            let mut lines: Vec<String> = Vec::new();
            let mut last = "";
            for (manager, path) in several {
                if manager != last {
                    lines.push(format!("conflicts with {manager}:"));
                    last = manager;
                }
                lines.push(format!("- {path}"));
            }
            format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n"))
        }
    };
    let error = ApiError::new(409, "Conflict", message);
    Err(found.into_iter().fold(error, |error, (manager, path)| {
        error.with_cause("FieldManagerConflict", format!("conflict with {manager}"), &path)
    }))
}

/// Notes who changed what in an ordinary write (create, update, patch): call it after all defaulting, with the stored
/// object (`None` on create). A write of `managedFields: [{}]` forgets all owners.
pub fn track(kind: &dyn Kind, old: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let shape = shape(kind);
    let sent = list(new, "metadata.managedFields");
    let reset = matches!(sent, [only] if only.as_object().is_some_and(Map::is_empty));
    let mut entries = match old {
        _ if reset => Vec::new(),
        // Leaving the list out keeps it; sending one (with entries) sets it.
        Some(old) if sent.is_empty() => entries(old),
        _ => entries(new),
    };
    let api_version = text(new, "apiVersion").to_owned();
    let (after, before) = (stripped(new), old.map_or(Value::Null, stripped));
    if reset {
        write(new, Vec::new());
        return;
    }
    let touched = match old {
        Some(_) => fields::changed(&after, &before, shape),
        None => fields::of_value(&after, shape),
    };
    let gone = match old {
        Some(_) => fields::of_value(&before, shape).minus(&fields::of_value(&after, shape)),
        None => Set::default(),
    };
    if !touched.is_empty() || !gone.is_empty() {
        let own = entries.iter().position(|entry| {
            entry.manager == writer.manager
                && entry.operation == "Update"
                && entry.api_version == api_version
                && entry.subresource == writer.subresource
        });
        for (at, entry) in entries.iter_mut().enumerate() {
            entry.set = entry.set.minus(&gone);
            if Some(at) != own {
                entry.set = entry.set.minus(&touched);
            }
        }
        match own {
            Some(at) => {
                entries[at].set = entries[at].set.union(&touched);
                entries[at].time = time_text(writer.now).into();
            }
            None => entries.push(entry(&writer, "Update", &api_version, touched)),
        }
    }
    write(new, entries);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> &'static dyn Kind {
        crate::kinds::find_kind("", "v1", "ConfigMap").expect("kind")
    }

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, subresource: "", now: Timestamp::UNIX_EPOCH }
    }

    fn config(data: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data})
    }

    #[test]
    fn creates_changes_and_removes() {
        let one = apply(kind(), None, &config(json!({"a": "1", "b": "2"})), writer("m1"), false).expect("created");
        assert_eq!(one["metadata"]["managedFields"], json!([{"manager": "m1", "operation": "Apply", "apiVersion": "v1",
            "time": "1970-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}, "f:b": {}}}}]));
        let two = apply(kind(), Some(&one), &config(json!({"a": "1", "c": "3"})), writer("m1"), false).expect("applied");
        assert_eq!(two["data"], json!({"a": "1", "c": "3"}));
    }

    #[test]
    fn conflicts() {
        let one = apply(kind(), None, &config(json!({"a": "1", "b": "2"})), writer("m1"), false).expect("created");
        let error = apply(kind(), Some(&one), &config(json!({"a": "9"})), writer("m2"), false).expect_err("conflict");
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"m1\": .data.a");
        assert_eq!((error.code, error.details.causes[0].field.as_str()), (409, ".data.a"));
        let forced = apply(kind(), Some(&one), &config(json!({"a": "9"})), writer("m2"), true).expect("forced");
        assert_eq!(forced["data"], json!({"a": "9", "b": "2"}));
        // The same value is shared, not fought over.
        let shared = apply(kind(), Some(&one), &config(json!({"a": "1"})), writer("m2"), false).expect("shared");
        let gone = apply(kind(), Some(&shared), &config(json!({"b": "2"})), writer("m1"), false).expect("given up");
        assert_eq!(gone["data"], json!({"a": "1", "b": "2"}));
        let mut updated = one.clone();
        updated["data"]["a"] = "7".into();
        track(kind(), Some(&one), &mut updated, writer("kubectl"));
        let error = apply(kind(), Some(&updated), &config(json!({"a": "1", "b": "2"})), writer("m1"), false).expect_err("conflict");
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"kubectl\" using v1: .data.a");
    }

    #[test]
    fn lists_by_key() {
        let pods = crate::kinds::find_kind("", "v1", "Pod").expect("kind");
        let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
        let one = apply(pods, None, &pod(json!([{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "y"}])), writer("m"), false).expect("created");
        assert_eq!(
            one["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"],
            json!({".": {}, "f:name": {}, "f:image": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}})
        );
        let two = apply(pods, Some(&one), &pod(json!([{"name": "b", "image": "z"}])), writer("m"), false).expect("applied");
        assert_eq!(two["spec"]["containers"], json!([{"name": "b", "image": "z"}]));
    }
}
