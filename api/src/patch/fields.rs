//! Sets of fields: who owns what of an object. The form is that of `FieldsV1` in managed-fields entries.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::apiextensions::schema as custom;
use crate::kind::Kind;
use crate::schema::{Field, ListType, Message, Type, schema};

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
    /// An object of a custom resource.
    Custom(&'a custom::Schema),
    /// A list of a custom resource whose items are found by keys.
    CustomList(&'a custom::Schema),
    /// Something of which nothing is said: objects are maps, everything else is one value.
    Unsaid,
}

/// The keys that a list's items are found by.
#[derive(Debug, Clone, Copy)]
pub enum Keys<'a> {
    /// Of a built-in type.
    Typed(&'a [&'static str]),
    /// Of a custom resource.
    Custom(&'a custom::Schema),
}

impl<'a> Shape<'a> {
    /// Whether members are owned one by one.
    pub fn has_members(self) -> bool {
        matches!(self, Self::Struct(_) | Self::Map(_) | Self::Custom(_) | Self::Unsaid)
    }

    /// The keys of a list's items, and what these are.
    pub fn keyed(self) -> Option<(Keys<'a>, Self)> {
        match self {
            Self::ListMap(keys, item) => Some((Keys::Typed(keys), of_type(item))),
            Self::CustomList(schema) => {
                let item = schema.items.as_deref().map_or(Self::Unsaid, of_schema);
                Some((Keys::Custom(schema), item))
            }
            _ => None,
        }
    }
}

/// The shape of a value under the schema of a custom resource.
pub fn of_schema(schema: &custom::Schema) -> Shape<'_> {
    let described = !schema.properties.is_empty() || schema.additional.is_some() || schema.embedded;
    match schema.r#type.as_str() {
        _ if schema.map_atomic || schema.int_or_string => Shape::Atomic,
        "array" => match schema.list_type {
            custom::ListType::Set => Shape::ListSet,
            custom::ListType::Map => Shape::CustomList(schema),
            custom::ListType::Atomic => Shape::Atomic,
        },
        "object" => Shape::Custom(schema),
        "" if described => Shape::Custom(schema),
        "" if schema.preserve => Shape::Unsaid,
        _ => Shape::Atomic,
    }
}

fn of_custom_member<'a>(schema: &'a custom::Schema, name: &str) -> Shape<'a> {
    if schema.embedded && name == "metadata" {
        return self::schema().named("meta/v1.ObjectMeta").map_or(Shape::Unsaid, Shape::Struct);
    }
    match (schema.member(name), &schema.additional) {
        (Some(inner), _) => of_schema(inner),
        (None, Some(_)) => Shape::Unsaid,
        (None, None) if schema.preserve => Shape::Unsaid,
        (None, None) => Shape::Atomic,
    }
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
pub fn item_key(item: &Value, keys: Keys<'_>) -> Option<String> {
    let given = |key: &str| item.get(key).filter(|value| !value.is_null()).cloned();
    let mut map = Map::new();
    match keys {
        Keys::Typed(keys) => {
            for key in keys {
                // The one key that has a default.
                let default = || (*key == "protocol").then(|| "TCP".into());
                map.extend(given(key).or_else(default).map(|value| ((*key).to_owned(), value)));
            }
        }
        Keys::Custom(schema) => {
            let properties = schema.items.as_ref().map(|item| &item.properties);
            for key in &schema.list_keys {
                let default = || properties?.get(key)?.default.clone();
                map.extend(given(key).or_else(default).map(|value| (key.clone(), value)));
            }
        }
    }
    (!map.is_empty()).then(|| format!("k:{}", Value::Object(map)))
}

/// The shape of what a struct's member or a map's entry holds.
pub fn member<'a>(shape: Shape<'a>, name: &str) -> Shape<'a> {
    match shape {
        Shape::Struct(message) => message.json.get(name).map_or(Shape::Atomic, of_field),
        Shape::Map(value) => of_type(value),
        Shape::Custom(schema) => of_custom_member(schema, name),
        Shape::Unsaid => Shape::Unsaid,
        _ => Shape::Atomic,
    }
}

/// Everything that a value sets.
pub fn of_value(value: &Value, shape: Shape<'_>) -> Set {
    match (shape, value) {
        (_, Value::Object(map)) if shape.has_members() && !map.is_empty() => {
            let children =
                map.iter().map(|(name, below)| (format!("f:{name}"), of_value(below, member(shape, name)))).collect();
            Set { member: false, children }
        }
        (Shape::ListSet, Value::Array(items)) if !items.is_empty() => {
            let one = |item: &Value| (format!("v:{item}"), Set { member: true, children: BTreeMap::new() });
            Set { member: false, children: items.iter().map(one).collect() }
        }
        (Shape::ListMap(..) | Shape::CustomList(_), Value::Array(items)) if !items.is_empty() => {
            let mut children = BTreeMap::new();
            let Some((keys, inner)) = shape.keyed() else { return Set::default() };
            for item in items {
                let Some(key) = item_key(item, keys) else { continue };
                let mut below = of_value(item, inner);
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
        (_, Value::Object(new), Value::Object(old)) if shape.has_members() => {
            let children = new.iter().filter_map(|(name, below)| {
                let shape = member(shape, name);
                let set = old.get(name).map_or_else(|| of_value(below, shape), |old| changed(below, old, shape));
                (!set.is_empty()).then(|| (format!("f:{name}"), set))
            });
            Set { member: false, children: children.collect() }
        }
        (Shape::ListMap(..) | Shape::CustomList(_), Value::Array(new), Value::Array(old)) => {
            let mut children = BTreeMap::new();
            let Some((keys, inner)) = shape.keyed() else { return Set::default() };
            let known: BTreeMap<String, &Value> = old.iter().filter_map(|item| Some((item_key(item, keys)?, item))).collect();
            for item in new {
                let Some(key) = item_key(item, keys) else { continue };
                let set = match known.get(&key) {
                    Some(known) => changed(item, known, inner),
                    None => {
                        let mut set = of_value(item, inner);
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
        (_, Value::Object(live), Value::Object(config)) if shape.has_members() => {
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
        (Shape::ListMap(..) | Shape::CustomList(_), Value::Array(live), Value::Array(config)) => {
            let Some((keys, inner)) = shape.keyed() else { return Value::Array(config.clone()) };
            let places = |items: &[Value]| -> BTreeMap<String, usize> {
                // The first of several counts.
                items.iter().enumerate().rev().filter_map(|(at, item)| Some((item_key(item, keys)?, at))).collect()
            };
            let (in_live, in_config) = (places(live), places(config));
            let find = |known: &BTreeMap<String, usize>, key: &Option<String>| key.as_ref().and_then(|key| known.get(key)).copied();
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
                    merged.push(known.map_or_else(|| next.clone(), |at| self::merge(&live[at], next, inner)));
                    if known.is_some() {
                        break;
                    }
                }
            }
            for next in waiting {
                let known = find(&in_live, &item_key(next, keys));
                merged.push(known.map_or_else(|| next.clone(), |at| self::merge(&live[at], next, inner)));
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
        (_, Value::Object(map)) if shape.has_members() => {
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
        (Shape::ListMap(..) | Shape::CustomList(_), Value::Array(items)) => {
            let Some((keys, inner)) = shape.keyed() else { return };
            items.retain_mut(|item| {
                let Some(key) = item_key(item, keys) else { return true };
                let Some(below) = gone.children.get(&key) else { return true };
                let kept = kept.children.get(&key).unwrap_or(&none);
                if below.member && kept.is_empty() {
                    return false;
                }
                prune(item, below, kept, inner);
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
pub fn of_kind(kind: &dyn Kind) -> Shape<'_> {
    if let Some(custom) = kind.custom() {
        return Shape::Custom(&custom.schema);
    }
    let names = kind.names();
    schema().of_kind(names.group, names.version, names.kind).map_or(Shape::Atomic, Shape::Struct)
}
