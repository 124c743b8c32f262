//! OpenAPI documents: the schemas of all types and, per kind, the paths and operations that clients look for.
//!
//! Structure (types, references, merge keys) comes from the table of types, descriptions and required fields from
//! `k8s-openapi`. Subresources have no operations here: no client looks for them.

pub mod custom;
mod descriptions;
pub mod gnostic;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::kind::Kind;
use crate::kinds;
use crate::schema::{Field, ListType, Message, Schema, Type, schema};

/// Where references point to.
#[derive(Clone, Copy)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        let prefix = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({ "$ref": format!("{prefix}{name}") })
    }
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// `io.k8s.api.core.v1.Pod`
fn full_name(message: &Message) -> String {
    let (package, name) = message.name.rsplit_once('.').unwrap_or(("", message.name));
    match package {
        "meta/v1" => format!("{META}.{name}"),
        "apiregistration/v1" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.{name}"),
        "apiextensions/v1" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{name}"),
        _ => format!("io.k8s.api.{}.{name}", package.replace('/', ".")),
    }
}

struct Builder {
    schema: &'static Schema,
    dialect: Dialect,
    out: BTreeMap<String, Value>,
    waiting: Vec<&'static Message>,
    known: BTreeSet<&'static str>,
}

impl Builder {
    fn new(dialect: Dialect) -> Self {
        Self { schema: schema(), dialect, out: BTreeMap::new(), waiting: Vec::new(), known: BTreeSet::new() }
    }

    fn want(&mut self, message: &'static Message) {
        if self.known.insert(message.name) {
            self.waiting.push(message);
        }
    }

    fn special(&mut self, name: String, value: Value) -> Value {
        let reference = self.dialect.reference(&name);
        self.out.entry(name).or_insert(value);
        reference
    }

    fn r#type(&mut self, r#type: &'static Type) -> Value {
        match r#type {
            Type::String(_) | Type::Duration => json!({ "type": "string" }),
            Type::Bool => json!({ "type": "boolean" }),
            Type::Int { bits, .. } => json!({ "type": "integer", "format": format!("int{bits}") }),
            Type::Float => json!({ "type": "number", "format": "double" }),
            Type::Bytes => json!({ "type": "string", "format": "byte" }),
            Type::Quantity => {
                let value = match self.dialect {
                    Dialect::V2 => json!({ "type": "string" }),
                    Dialect::V3 => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
                };
                self.special(QUANTITY.to_owned(), value)
            }
            Type::IntOrString => {
                let value = match self.dialect {
                    Dialect::V2 => json!({ "type": "string", "format": "int-or-string" }),
                    Dialect::V3 => {
                        json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }], "format": "int-or-string" })
                    }
                };
                self.special(INT_OR_STRING.to_owned(), value)
            }
            Type::Time => self.special(format!("{META}.Time"), json!({ "type": "string", "format": "date-time" })),
            Type::MicroTime => {
                self.special(format!("{META}.MicroTime"), json!({ "type": "string", "format": "date-time" }))
            }
            Type::Raw => self.special(RAW.to_owned(), json!({ "type": "object" })),
            Type::Fields => self.special(format!("{META}.FieldsV1"), json!({ "type": "object" })),
            Type::MessageOr(_, index) => {
                let name = full_name(self.schema.get(*index));
                let name = format!("{}.{}", name.rsplit_once('.').map_or("", |(package, _)| package), self.schema.go_type(r#type).trim_start_matches("v1."));
                self.special(name, json!({ "description": "A schema, or what may stand in its place." }))
            }
            Type::Message(index) => {
                let message = self.schema.get(*index);
                self.want(message);
                self.dialect.reference(&full_name(message))
            }
            Type::List { item, .. } => {
                let items = self.r#type(item);
                json!({ "type": "array", "items": self.wrapped(items) })
            }
            Type::Map(item) => {
                let values = self.r#type(item);
                json!({ "type": "object", "additionalProperties": self.wrapped(values) })
            }
        }
    }

    /// References stand in `allOf` in v3, so that something may stand beside them.
    fn wrapped(&self, value: Value) -> Value {
        match self.dialect {
            Dialect::V3 if value.get("$ref").is_some() => json!({ "allOf": [value] }),
            _ => value,
        }
    }

    fn property(&mut self, field: &'static Field) -> Map<String, Value> {
        let value = self.r#type(&field.r#type);
        let Value::Object(mut map) = self.wrapped(value) else { return Map::new() };
        let mut set = |name: &str, value: Value| {
            map.insert(name.to_owned(), value);
        };
        match (field.merge, field.retain_keys) {
            (true, true) => set("x-kubernetes-patch-strategy", "merge,retainKeys".into()),
            (true, false) => set("x-kubernetes-patch-strategy", "merge".into()),
            (false, true) => set("x-kubernetes-patch-strategy", "retainKeys".into()),
            (false, false) => {}
        }
        if let Some(key) = field.merge_key {
            set("x-kubernetes-patch-merge-key", key.into());
        }
        match &field.list_type {
            Some(ListType::Atomic) => set("x-kubernetes-list-type", "atomic".into()),
            Some(ListType::Set) => set("x-kubernetes-list-type", "set".into()),
            Some(ListType::Map(keys)) => {
                set("x-kubernetes-list-type", "map".into());
                set("x-kubernetes-list-map-keys", json!(keys));
            }
            None => {}
        }
        if field.atomic {
            set("x-kubernetes-map-type", "atomic".into());
        }
        map
    }

    fn message(&mut self, message: &'static Message) {
        let name = full_name(message);
        let told = descriptions::of(&name);
        let mut properties = Map::new();
        for (json, field) in &message.json {
            let mut property = self.property(field);
            let text = told.and_then(|told| told.get("properties")).and_then(|told| told.get(json)?.get("description"));
            if let Some(text) = text {
                property.insert("description".to_owned(), text.clone());
            }
            properties.insert((*json).to_owned(), Value::Object(property));
        }
        let mut out = json!({ "type": "object", "properties": properties });
        for key in ["description", "required"] {
            if let Some(value) = told.and_then(|told| told.get(key)) {
                out[key] = value.clone();
            }
        }
        if message.atomic {
            out["x-kubernetes-map-type"] = "atomic".into();
        }
        self.out.insert(name, out);
    }

    fn finish(&mut self) {
        while let Some(message) = self.waiting.pop() {
            self.message(message);
        }
    }

    /// Adds a kind: its type, marked with its name, and its list's.
    fn kind(&mut self, kind: &dyn Kind) {
        let names = kind.names();
        let Some(message) = self.schema.of_kind(names.group, names.version, names.kind) else { return };
        self.want(message);
        self.finish();
        let name = full_name(message);
        let mark = json!([{ "group": names.group, "version": names.version, "kind": names.kind }]);
        if let Some(own) = self.out.get_mut(&name) {
            own["x-kubernetes-group-version-kind"] = mark;
        }
        if kind.verbs().contains(&"list") {
            let item = self.dialect.reference(&name);
            let Some(meta) = self.schema.named("meta/v1.ListMeta") else { return };
            self.want(meta);
            self.finish();
            let list = json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": { "type": "string" },
                    "kind": { "type": "string" },
                    "items": { "type": "array", "items": self.wrapped(item) },
                    "metadata": self.wrapped(self.dialect.reference(&full_name(meta))),
                },
                "x-kubernetes-group-version-kind": [{ "group": names.group, "version": names.version, "kind": names.list_kind }],
            });
            self.out.insert(format!("{name}List"), list);
        }
    }
}

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// (HTTP method, verb, action) of what can be done at a collection and at an object.
const COLLECTION: [(&str, &str, &str); 3] =
    [("get", "list", "list"), ("post", "create", "post"), ("delete", "deletecollection", "deletecollection")];
const OBJECT: [(&str, &str, &str); 4] =
    [("get", "get", "get"), ("put", "update", "put"), ("patch", "patch", "patch"), ("delete", "delete", "delete")];

fn parameter(dialect: Dialect, name: &str, r#in: &str, r#type: &str) -> Value {
    let required = r#in == "path";
    let mut out = match dialect {
        Dialect::V2 => json!({ "name": name, "in": r#in, "type": r#type, "uniqueItems": true }),
        Dialect::V3 => json!({ "name": name, "in": r#in, "schema": { "type": r#type, "uniqueItems": true } }),
    };
    if required {
        out["required"] = true.into();
    }
    out
}

fn operation(dialect: Dialect, kind: &dyn Kind, verb: &str, action: &str) -> Value {
    let names = kind.names();
    let name = match kind.custom() {
        Some(_) => custom::model(names.group, names.version, names.kind),
        None => schema().of_kind(names.group, names.version, names.kind).map(full_name).unwrap_or_default(),
    };
    let patches = if kind.custom().is_some() { &PATCH_TYPES[..3] } else { &PATCH_TYPES[..] };
    let list_name = kind.custom().map_or_else(|| format!("{name}List"), |_| custom::model(names.group, names.version, names.list_kind));
    let answer = if verb == "list" { list_name } else { name.clone() };
    let group = if names.group.is_empty() { "core" } else { names.group.split('.').next().unwrap_or_default() };
    let mut parameters: Vec<Value> = Vec::new();
    if matches!(verb, "create" | "update" | "patch") {
        for name in ["dryRun", "fieldManager", "fieldValidation"] {
            parameters.push(parameter(dialect, name, "query", "string"));
        }
    }
    if verb == "patch" {
        parameters.push(parameter(dialect, "force", "query", "boolean"));
    }
    let id = format!("{verb}{}{}{}", capital(group), capital(names.version), names.kind);
    let mut out = json!({
        "operationId": id,
        "tags": [format!("{group}_{}", names.version)],
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": { "group": names.group, "version": names.version, "kind": names.kind },
    });
    let reference = dialect.reference(&answer);
    let body = match verb {
        "create" | "update" => Some(dialect.reference(&name)),
        "patch" => Some(json!({ "type": "object" })),
        _ => None,
    };
    match dialect {
        Dialect::V3 => {
            out["responses"] = json!({ "200": { "description": "OK", "content": { "application/json": { "schema": reference } } } });
            if let Some(body) = body {
                let types: &[&str] = if verb == "patch" { patches } else { &["*/*"] };
                let content: Map<String, Value> =
                    types.iter().map(|name| ((*name).to_owned(), json!({ "schema": body }))).collect();
                out["requestBody"] = json!({ "required": true, "content": content });
            }
        }
        Dialect::V2 => {
            out["responses"] = json!({ "200": { "description": "OK", "schema": reference } });
            if let Some(body) = body {
                parameters.push(json!({ "name": "body", "in": "body", "required": true, "schema": body }));
            }
            out["consumes"] = if verb == "patch" { json!(patches) } else { json!(["*/*"]) };
            out["produces"] = json!(["application/json", "application/yaml"]);
        }
    }
    out["parameters"] = Value::Array(parameters);
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// `api/v1` or `apis/apps/v1`
pub fn prefix(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn paths(dialect: Dialect, kind: &dyn Kind, out: &mut Map<String, Value>) {
    let names = kind.names();
    let root = format!("/{}", prefix(names.group, names.version));
    let can = |verb: &str| kind.verbs().contains(&verb);
    let mut add = |path: String, operations: &[(&str, &str, &str)], in_path: &[&str]| {
        let mut item = Map::new();
        for (method, verb, action) in operations.iter().filter(|(_, verb, _)| can(verb)) {
            item.insert((*method).to_owned(), operation(dialect, kind, verb, action));
        }
        if !item.is_empty() {
            let parameters = in_path.iter().map(|name| parameter(dialect, name, "path", "string")).collect();
            item.insert("parameters".to_owned(), Value::Array(parameters));
            out.insert(path, Value::Object(item));
        }
    };
    if kind.namespaced() {
        let home = format!("{root}/namespaces/{{namespace}}/{}", names.plural);
        add(format!("{root}/{}", names.plural), &COLLECTION[..1], &[]);
        add(home.clone(), &COLLECTION, &["namespace"]);
        add(format!("{home}/{{name}}"), &OBJECT, &["name", "namespace"]);
    } else {
        let home = format!("{root}/{}", names.plural);
        add(home.clone(), &COLLECTION, &[]);
        add(format!("{home}/{{name}}"), &OBJECT, &["name"]);
    }
}

fn kinds_of(group: &str, version: &str) -> impl Iterator<Item = &'static dyn Kind> {
    kinds::all().iter().copied().filter(move |kind| {
        let names = kind.names();
        names.group == group && names.version == version
    })
}

/// The group-versions that have kinds, the core group first.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let set: BTreeSet<_> = kinds::all().iter().map(|kind| (kind.names().group, kind.names().version)).collect();
    set.into_iter().collect()
}

/// The v3 document of a group-version; `None` where it has no kinds. Takes milliseconds: keep it.
pub fn v3(group: &str, version: &str) -> Option<Value> {
    let mut builder = Builder::new(Dialect::V3);
    let mut all_paths = Map::new();
    for kind in kinds_of(group, version) {
        builder.kind(kind);
        paths(Dialect::V3, kind, &mut all_paths);
    }
    if all_paths.is_empty() {
        return None;
    }
    // Deletions carry options in every group.
    if let Some(options) = builder.schema.named("meta/v1.DeleteOptions") {
        builder.want(options);
        builder.finish();
    }
    let schemas: Map<String, Value> = builder.out.into_iter().collect();
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": all_paths,
        "components": { "schemas": schemas },
    }))
}

/// The v2 document of everything. Takes tens of milliseconds: keep it.
pub fn v2() -> Value {
    let mut builder = Builder::new(Dialect::V2);
    let mut all_paths = Map::new();
    for kind in kinds::all() {
        builder.kind(*kind);
        paths(Dialect::V2, *kind, &mut all_paths);
    }
    let definitions: Map<String, Value> = builder.out.into_iter().collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": all_paths,
        "definitions": definitions,
    })
}

/// A document's hash, for its URL and `ETag`: upper-case hex.
pub fn hash(document: &[u8]) -> String {
    Sha512::digest(document).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The answer to `/openapi/v3`: one entry per group-version. `hashes` are those of the documents.
pub fn v3_index(hashes: &[(String, String)]) -> Value {
    let paths: Map<String, Value> = hashes
        .iter()
        .map(|(prefix, hash)| {
            (prefix.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{prefix}?hash={hash}") }))
        })
        .collect();
    json!({ "paths": paths })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_looks_for() {
        let core = v3("", "v1").expect("core");
        let patch = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
        let parameters = patch["parameters"].as_array().expect("parameters");
        assert!(parameters.iter().any(|one| one["name"] == "fieldValidation" && one["in"] == "query"));
        let schemas = &core["components"]["schemas"];
        let pod = &schemas["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert!(containers["description"].as_str().is_some_and(|text| !text.is_empty()));
        // Every reference has its target.
        for (group, version) in group_versions() {
            let text = v3(group, version).expect("document").to_string();
            let document: Value = serde_json::from_str(&text).expect("json");
            for part in text.split("#/components/schemas/").skip(1) {
                let name = part.split('"').next().expect("name");
                assert!(document["components"]["schemas"].get(name).is_some(), "{group}/{version}: {name}");
            }
        }
        let all = v2();
        assert!(all["definitions"]["io.k8s.api.apps.v1.Deployment"].is_object());
    }
}
