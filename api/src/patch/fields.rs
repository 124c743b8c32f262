//! Sets of fields: who owns what of an object. The form is that of `FieldsV1` in managed-fields entries.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{Field, ListType, Message, Schema, Type, schema};

/// A set of fields, as a tree. Keys are path elements: `f:NAME`, `k:{KEYS}`, `v:VALUE`, `i:INDEX`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// The node itself is in the set.
    pub member: bool,
    /// What is in the set below it.
    pub children: BTreeMap<String, Set>,
}

impl Set {
    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// From the `fieldsV1` of an entry.
    pub fn from_json(fields: &Value) -> Self {
        fn node(fields: &Value, depth: usize) -> Set {
            let mut set = Set::default();
            let Value::Object(map) = fields else { return set };
            if map.is_empty() || depth > 64 {
                set.member = true;
            }
            for (key, below) in map.iter().filter(|_| depth <= 64) {
                if key == "." {
                    set.member = true;
                } else {
                    set.children.insert(key.clone(), node(below, depth + 1));
                }
            }
            set
        }
        match fields.as_object() {
            Some(map) if !map.is_empty() => node(fields, 0),
            _ => Self::default(),
        }
    }

    /// As the `fieldsV1` of an entry.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (key, below) in &self.children {
            map.insert(key.clone(), below.to_json());
        }
        Value::Object(map)
    }

    fn clean(mut self) -> Self {
        self.children.retain(|_, below| !below.is_empty());
        self
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.member |= other.member;
        for (key, below) in &other.children {
            let merged = out.children.get(key).map_or_else(|| below.clone(), |known| known.union(below));
            out.children.insert(key.clone(), merged);
        }
        out
    }

    /// What is in this but not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let children = self.children.iter().map(|(key, below)| {
            let below = other.children.get(key).map_or_else(|| below.clone(), |gone| below.minus(gone));
            (key.clone(), below)
        });
        Self { member: self.member && !other.member, children: children.collect() }.clean()
    }

    /// What is in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let children =
            self.children.iter().filter_map(|(key, below)| other.children.get(key).map(|o| (key.clone(), below.common(o))));
        Self { member: self.member && other.member, children: children.collect() }.clean()
    }

    /// The paths as messages name them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        fn walk(set: &Set, path: &str, out: &mut Vec<String>) {
            if set.member {
                out.push(path.to_owned());
            }
            for (key, below) in &set.children {
                walk(below, &format!("{path}{}", shown(key)), out);
            }
        }
        let mut out = Vec::new();
        walk(self, "", &mut out);
        out
    }
}

fn shown(element: &str) -> String {
    match element.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", value)) => format!("[={value}]"),
        Some(("i:", index)) => format!("[{index}]"),
        Some(("k:", keys)) => {
            let parsed: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = parsed.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        _ => element.to_owned(),
    }
}

/// How a place in an object is merged and owned.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// One value.
    Atomic,
    /// A struct with known fields.
    Struct(&'static Message),
    /// A map whose values are of this type.
    Map(&'a Type),
    /// A list of scalars.
    ListSet,
    /// A list whose items are found by keys.
    ListMap(&'a [&'static str], &'a Type),
}

/// The shape of a field.
pub fn of_field(field: &Field) -> Shape<'_> {
    if field.atomic {
        return Shape::Atomic;
    }
    match (&field.r#type, &field.list_type) {
        (Type::List { .. }, Some(ListType::Set)) => Shape::ListSet,
        (Type::List { item, .. }, Some(ListType::Map(keys))) => Shape::ListMap(keys, item),
        (Type::List { .. }, _) => Shape::Atomic,
        (other, _) => of_type(other),
    }
}

/// The shape of a value of a type, outside a list.
pub fn of_type(r#type: &Type) -> Shape<'_> {
    match r#type {
        Type::Message(index) => {
            let message = schema().get(*index);
            if message.atomic { Shape::Atomic } else { Shape::Struct(message) }
        }
        Type::Map(value) => Shape::Map(value),
        _ => Shape::Atomic,
    }
}

/// The path element of a list's item; `None` where a key is missing.
pub fn item_key(item: &Value, keys: &[&str]) -> Option<String> {
    let mut map = Map::new();
    for key in keys {
        let value = match item.get(key) {
            Some(value) if !value.is_null() => value.clone(),
            // The one key that has a default.
            _ if *key == "protocol" => "TCP".into(),
            _ => continue,
        };
        map.insert((*key).to_owned(), value);
    }
    (!map.is_empty()).then(|| format!("k:{}", Value::Object(map)))
}

/// Where the items of a list stand, by their keys; of equal keys the first counts.
fn places(items: &[Value], keys: &[&str]) -> BTreeMap<String, usize> {
    items.iter().enumerate().rev().filter_map(|(at, item)| Some((item_key(item, keys)?, at))).collect()
}

/// The shape of what a struct's member or a map's entry holds.
pub fn member<'a>(shape: Shape<'a>, name: &str) -> Shape<'a> {
    match shape {
        Shape::Struct(message) => message.json.get(name).map_or(Shape::Atomic, of_field),
        Shape::Map(value) => of_type(value),
        _ => Shape::Atomic,
    }
}

/// Everything that a value sets.
pub fn of_value(value: &Value, shape: Shape<'_>) -> Set {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) if !map.is_empty() => {
            let children =
                map.iter().map(|(name, below)| (format!("f:{name}"), of_value(below, member(shape, name)))).collect();
            Set { member: false, children }
        }
        (Shape::ListSet, Value::Array(items)) if !items.is_empty() => {
            let one = |item: &Value| (format!("v:{item}"), Set { member: true, children: BTreeMap::new() });
            Set { member: false, children: items.iter().map(one).collect() }
        }
        (Shape::ListMap(keys, r#type), Value::Array(items)) if !items.is_empty() => {
            let mut children = BTreeMap::new();
            for item in items {
                let Some(key) = item_key(item, keys) else { continue };
                let mut below = of_value(item, of_type(r#type));
                below.member = true;
                children.insert(key, below);
            }
            Set { member: false, children }
        }
        _ => Set { member: true, children: BTreeMap::new() },
    }
}

/// What of `new` is not in `old`, or different there.
pub fn changed(new: &Value, old: &Value, shape: Shape<'_>) -> Set {
    if new == old {
        return Set::default();
    }
    match (shape, new, old) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(new), Value::Object(old)) => {
            let children = new.iter().filter_map(|(name, below)| {
                let shape = member(shape, name);
                let set = old.get(name).map_or_else(|| of_value(below, shape), |old| changed(below, old, shape));
                (!set.is_empty()).then(|| (format!("f:{name}"), set))
            });
            Set { member: false, children: children.collect() }
        }
        (Shape::ListMap(keys, r#type), Value::Array(new), Value::Array(old)) => {
            let mut children = BTreeMap::new();
            let places = places(old, keys);
            for item in new {
                let Some(key) = item_key(item, keys) else { continue };
                let known = places.get(&key).and_then(|at| old.get(*at));
                let set = match known {
                    Some(known) => changed(item, known, of_type(r#type)),
                    None => {
                        let mut set = of_value(item, of_type(r#type));
                        set.member = true;
                        set
                    }
                };
                if !set.is_empty() {
                    children.insert(key, set);
                }
            }
            Set { member: false, children }
        }
        (Shape::ListSet, Value::Array(items), Value::Array(known)) => {
            let added = items.iter().filter(|item| !known.contains(item));
            let one = |item: &Value| (format!("v:{item}"), Set { member: true, children: BTreeMap::new() });
            Set { member: false, children: added.map(one).collect() }
        }
        _ => of_value(new, shape),
    }
}

/// `live` with everything that `config` sets.
pub fn merge(live: &Value, config: &Value, shape: Shape<'_>) -> Value {
    match (shape, live, config) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(live), Value::Object(config)) => {
            let mut out = live.clone();
            for (name, value) in config {
                let merged = live.get(name).map_or_else(|| value.clone(), |live| merge(live, value, member(shape, name)));
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Shape::ListSet, Value::Array(live), Value::Array(config)) => {
            let added = config.iter().filter(|item| !live.contains(item));
            live.iter().chain(added).cloned().collect()
        }
        (Shape::ListMap(keys, r#type), Value::Array(live), Value::Array(config)) => {
            let (in_live, in_config) = (places(live, keys), places(config, keys));
            let find = |places: &BTreeMap<String, usize>, key: &Option<String>| {
                key.as_ref().and_then(|key| places.get(key).copied())
            };
            let mut merged: Vec<Value> = Vec::new();
            let mut waiting = config.iter();
            for item in live {
                let key = item_key(item, keys);
                if find(&in_config, &key).is_none() {
                    merged.push(item.clone());
                    continue;
                }
                // Places that the config names are filled in the config's order.
                for next in waiting.by_ref() {
                    let key = item_key(next, keys);
                    let known = find(&in_live, &key);
                    merged.push(known.map_or_else(|| next.clone(), |at| self::merge(&live[at], next, of_type(r#type))));
                    if known.is_some() {
                        break;
                    }
                }
            }
            for next in waiting {
                let known = find(&in_live, &item_key(next, keys));
                merged.push(known.map_or_else(|| next.clone(), |at| self::merge(&live[at], next, of_type(r#type))));
            }
            Value::Array(merged)
        }
        _ => config.clone(),
    }
}

/// Removes from a value what is in `gone` and of which nothing is in `kept`.
pub fn prune(value: &mut Value, gone: &Set, kept: &Set, shape: Shape<'_>) {
    let none = Set::default();
    match (shape, &mut *value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (key, below) in &gone.children {
                let Some(name) = key.strip_prefix("f:") else { continue };
                let kept = kept.children.get(key).unwrap_or(&none);
                let Some(child) = map.get_mut(name) else { continue };
                if !below.children.is_empty() {
                    prune(child, below, kept, member(shape, name));
                }
                let empty = match child {
                    Value::Object(map) => map.is_empty(),
                    Value::Array(items) => items.is_empty(),
                    _ => false,
                };
                if kept.is_empty() && (below.member && below.children.is_empty() || empty) {
                    map.remove(name);
                }
            }
        }
        (Shape::ListMap(keys, r#type), Value::Array(items)) => {
            items.retain_mut(|item| {
                let Some(key) = item_key(item, keys) else { return true };
                let Some(below) = gone.children.get(&key) else { return true };
                let kept = kept.children.get(&key).unwrap_or(&none);
                if below.member && kept.is_empty() {
                    return false;
                }
                prune(item, below, kept, of_type(r#type));
                true
            });
        }
        (Shape::ListSet, Value::Array(items)) => {
            items.retain(|item| {
                let key = format!("v:{item}");
                !gone.children.contains_key(&key) || kept.children.contains_key(&key)
            });
        }
        _ => {}
    }
}

/// The shape of an object of a kind.
pub fn of_kind(group: &str, version: &str, kind: &str) -> Shape<'static> {
    let schema: &'static Schema = schema();
    schema.of_kind(group, version, kind).map_or(Shape::Atomic, Shape::Struct)
}
