//! How a kind is written down: a table of facts with functions for its rules, and what all kinds have in common
//! (metadata, generation, which part a write may touch).

use std::borrow::Cow;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use crate::cursor::{find, text};
use crate::field::FieldError;
use crate::kind::{Column, Kind, Names, Part, Subresource, TypeMismatch};
use crate::schema::{check, schema};
use crate::validate::meta::{self, NameRule};

/// What can be done with most kinds.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// What can be done with a review.
pub const CREATE_ONLY: &[&str] = &["create"];

/// A kind, written down.
pub struct Definition {
    /// Its names.
    pub names: Names<'static>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// See [`Kind::verbs`].
    pub verbs: &'static [&'static str],
    /// See [`Kind::subresources`].
    pub subresources: &'static [Subresource],
    /// What names are allowed.
    pub name_rule: NameRule,
    /// See [`Kind::has_generation`].
    pub generation: bool,
    /// Its status is written through `/status` only.
    pub status: bool,
    /// A creator may give the status too.
    pub create_status: bool,
    /// See [`Kind::unconditional_update`].
    pub unconditional_update: bool,
    /// See [`Kind::create_on_update`].
    pub create_on_update: bool,
    /// See [`Kind::delete_returns_object`].
    pub delete_returns_object: bool,
    /// Objects are stored, so their metadata must be right. Reviews need no name.
    pub stored: bool,
    /// See [`Kind::default`].
    pub default: fn(&mut Value),
    /// Beyond what is done for all kinds.
    pub prepare_create: fn(&mut Value),
    /// Beyond what is done for all kinds.
    pub prepare_update: fn(&mut Value, &Value, Part<'_>),
    /// Without metadata, which is checked for all kinds. Also run on updates of the main part.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// What only a new object must fulfil, beyond `validate`.
    pub validate_create_only: fn(&Value) -> Vec<FieldError>,
    /// What may not change (the new object's own rules are in `validate`).
    pub validate_update: fn(&Value, &Value, Part<'_>) -> Vec<FieldError>,
    /// See [`Kind::warnings`].
    pub warnings: fn(&Value) -> Vec<String>,
    /// See [`Kind::columns`].
    pub columns: &'static [Column<'static>],
    /// See [`Kind::cells`].
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// See [`Kind::selectable_fields`]: paths into the object, unless `selectable` says otherwise.
    pub fields: &'static [&'static str],
    /// The value of a selectable field.
    pub selectable: fn(&Value, &str) -> String,
}

/// A column of text.
pub const fn column(name: &'static str) -> Column<'static> {
    Column { name, r#type: "string", format: "", description: "", priority: 0 }
}
/// A column of text that only `-o wide` shows.
pub const fn wide(name: &'static str) -> Column<'static> {
    Column { name, r#type: "string", format: "", description: "", priority: 1 }
}
/// A column of another type.
pub const fn typed(name: &'static str, r#type: &'static str) -> Column<'static> {
    Column { name, r#type, format: "", description: "", priority: 0 }
}
/// The first column.
pub const NAME: Column =
    Column { name: "Name", r#type: "string", format: "name", description: "The object's name, unique in its namespace.", priority: 0 };

/// Columns of kinds that have none of their own.
pub const PLAIN_COLUMNS: &[Column] = &[NAME, typed("Created At", "date")];

fn plain_cells(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![text(object, "metadata.name").into(), text(object, "metadata.creationTimestamp").into()]
}

/// The field at the path; numbers and flags as text.
pub fn selectable_path(object: &Value, field: &str) -> String {
    match find(object, field) {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn nothing(_: &mut Value) {}
fn no_preparation(_: &mut Value, _: &Value, _: Part<'_>) {}
fn no_findings(_: &Value) -> Vec<FieldError> {
    Vec::new()
}
fn no_update_findings(_: &Value, _: &Value, _: Part<'_>) -> Vec<FieldError> {
    Vec::new()
}
fn no_warnings(_: &Value) -> Vec<String> {
    Vec::new()
}

/// What a kind is unless it says otherwise.
pub const PLAIN: Definition = Definition {
    names: Names {
        group: "",
        version: "v1",
        kind: "",
        list_kind: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
    },
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    name_rule: NameRule::Subdomain,
    generation: false,
    status: false,
    create_status: false,
    unconditional_update: true,
    create_on_update: false,
    delete_returns_object: false,
    stored: true,
    default: nothing,
    prepare_create: nothing,
    prepare_update: no_preparation,
    validate: no_findings,
    validate_create_only: no_findings,
    validate_update: no_update_findings,
    warnings: no_warnings,
    columns: PLAIN_COLUMNS,
    cells: plain_cells,
    fields: &[],
    selectable: selectable_path,
};

/// `/status` of a kind.
pub const fn status_of(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", group, version, kind, verbs: &["get", "patch", "update"] }
}
/// `/scale`.
pub const SCALE: Subresource =
    Subresource { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: &["get", "patch", "update"] };

/// Names of a kind: `names!("apps", "v1", "Deployment", "deployments", "deployment", ["deploy"], ["all"])`.
macro_rules! names {
    ($group:literal, $version:literal, $kind:literal, $plural:literal, $singular:literal) => {
        names!($group, $version, $kind, $plural, $singular, [], [])
    };
    ($group:literal, $version:literal, $kind:literal, $plural:literal, $singular:literal, [$($short:literal),*], [$($category:literal),*]) => {
        $crate::kind::Names {
            group: $group,
            version: $version,
            kind: $kind,
            list_kind: concat!($kind, "List"),
            plural: $plural,
            singular: $singular,
            short_names: &[$($short),*],
            categories: &[$($category),*],
        }
    };
}
pub(crate) use names;

/// Members of an object that are neither its identity nor its status: what a generation counts.
fn same_main(new: &Value, old: &Value) -> bool {
    let skip = |key: &str| matches!(key, "metadata" | "status" | "kind" | "apiVersion");
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return new == old };
    new.iter().filter(|(key, _)| !skip(key)).all(|(key, value)| old.get(key).unwrap_or(&Value::Null) == value)
        && old.iter().filter(|(key, value)| !skip(key) && !value.is_null()).all(|(key, _)| new.contains_key(key))
}

fn take_over(new: &mut Value, old: &Value, key: &str) {
    if let Value::Object(new) = new {
        match old.get(key) {
            Some(value) => {
                new.insert(key.to_owned(), value.clone());
            }
            None => {
                new.remove(key);
            }
        }
    }
}

/// Takes over all metadata but the managed fields: for kinds whose `/status` changes the status alone.
pub fn keep_metadata(new: &mut Value, old: &Value) {
    let fields = new.pointer("/metadata/managedFields").cloned();
    take_over(new, old, "metadata");
    if let (Some(fields), Some(Value::Object(metadata))) = (fields, new.get_mut("metadata")) {
        metadata.insert("managedFields".to_owned(), fields);
    }
}

/// What no writer decides: taken from the stored object.
const SYSTEM_METADATA: [&str; 4] = ["generation", "creationTimestamp", "selfLink", "deletionGracePeriodSeconds"];

impl Definition {
    fn prepare_metadata(new: &mut Value, old: &Value) {
        let Some(old_meta) = old.get("metadata") else { return };
        let Some(meta) = new.get_mut("metadata") else { return };
        for key in SYSTEM_METADATA {
            take_over(meta, old_meta, key);
        }
        // Left out means unchanged; a different one is refused by validation.
        for key in ["uid", "deletionTimestamp", "namespace", "name"] {
            if meta.get(key).is_none_or(Value::is_null) {
                take_over(meta, old_meta, key);
            }
        }
    }
}

impl Kind for Definition {
    fn names(&self) -> Names<'_> {
        self.names
    }
    fn namespaced(&self) -> bool {
        self.namespaced
    }
    fn verbs(&self) -> &'static [&'static str] {
        self.verbs
    }
    fn subresources(&self) -> &'static [Subresource] {
        self.subresources
    }
    fn has_generation(&self) -> bool {
        self.generation
    }
    fn unconditional_update(&self) -> bool {
        self.unconditional_update
    }
    fn create_on_update(&self) -> bool {
        self.create_on_update
    }
    fn delete_returns_object(&self) -> bool {
        self.delete_returns_object
    }

    fn check(&self, object: &mut Value) -> Result<Vec<String>, TypeMismatch> {
        let names = &self.names;
        let Some(message) = schema().of_kind(names.group, names.version, names.kind) else {
            return Err(TypeMismatch(format!("no type is registered for {}", names.kind)));
        };
        let unknown = check::check(object, message)?;
        // What the URL says is what the object is.
        if let Value::Object(map) = object {
            map.insert("kind".to_owned(), names.kind.into());
            map.insert("apiVersion".to_owned(), crate::meta::api_version(names.group, names.version).into());
        }
        Ok(unknown)
    }

    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if self.status && !self.create_status {
            if let Value::Object(map) = object {
                map.insert("status".to_owned(), Value::Object(Map::new()));
            }
        }
        if let Some(Value::Object(meta)) = object.get_mut("metadata") {
            for key in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
                meta.remove(key);
            }
            if self.generation {
                meta.insert("generation".to_owned(), 1.into());
            }
        }
        (self.prepare_create)(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, part: Part<'_>) {
        Self::prepare_metadata(new, old);
        match part {
            Part::Main => {
                if self.status {
                    take_over(new, old, "status");
                }
            }
            Part::Status => {
                let keys: Vec<String> = [&*new, old]
                    .iter()
                    .filter_map(|object| object.as_object())
                    .flat_map(|map| map.keys().cloned())
                    .filter(|key| !matches!(key.as_str(), "metadata" | "status" | "kind" | "apiVersion"))
                    .collect();
                for key in keys {
                    take_over(new, old, &key);
                }
            }
            Part::Other(_) => {}
        }
        (self.prepare_update)(new, old, part);
        if self.generation && !matches!(part, Part::Status) && !same_main(new, old) {
            let generation = find(old, "metadata.generation").as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = generation.into();
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut findings =
            if self.stored { meta::validate(object, self.namespaced, self.name_rule) } else { Vec::new() };
        findings.extend((self.validate)(object));
        findings.extend((self.validate_create_only)(object));
        findings
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError> {
        let mut findings = meta::validate_update(new, old);
        if part == Part::Main {
            findings.extend((self.validate)(new));
        }
        findings.extend((self.validate_update)(new, old, part));
        findings
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        (self.warnings)(object)
    }
    fn columns(&self) -> Cow<'_, [Column<'_>]> {
        Cow::Borrowed(self.columns)
    }
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(object, now)
    }
    fn selectable_fields(&self) -> Cow<'_, [&str]> {
        Cow::Borrowed(self.fields)
    }
    fn selectable(&self, object: &Value, field: &str) -> String {
        match field {
            "metadata.name" | "metadata.namespace" => text(object, field).to_owned(),
            _ => (self.selectable)(object, field),
        }
    }
}
