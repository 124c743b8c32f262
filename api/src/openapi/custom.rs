//! What OpenAPI says of custom resources: their schemas with what every object has, and the usual paths.
//!
//! The v3 form is the schema as written. The v2 form is what kubectl of old can use: alternatives, `nullable` and
//! whatever may be unknown are left out, as apiextensions does it.

use serde_json::{Map, Value, json};

use super::{Builder, Dialect, paths};
use crate::apiextensions::{CustomKind, format};
use crate::kind::Kind as _;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const DOCS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// `com.example.stable.v1.CronTab`
pub fn model(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

fn is(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&json!(true))
}

fn type_text(what: &str) -> Value {
    let text = match what {
        "apiVersion" => format!(
            "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized \
             schemas to the latest internal value, and may reject unrecognized values. More info: {DOCS}#resources"
        ),
        _ => format!(
            "Kind is a string value representing the REST resource this object represents. Servers may infer this from the \
             endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: {DOCS}#types-kinds"
        ),
    };
    json!({ "type": "string", "description": text })
}

fn meta_reference(dialect: Dialect, name: &str, description: &str) -> Value {
    let mut out = match dialect {
        Dialect::V2 => dialect.reference(name),
        Dialect::V3 => json!({ "allOf": [dialect.reference(name)] }),
    };
    out["description"] = description.into();
    out
}

fn object_meta(dialect: Dialect) -> Value {
    let more = format!("Standard object's metadata. More info: {DOCS}#metadata");
    meta_reference(dialect, OBJECT_META, &more)
}

/// Applies a change to each schema that stands in this one.
fn each(schema: &mut Map<String, Value>, change: &mut dyn FnMut(&mut Value)) {
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key).filter(|inner| inner.is_object()) {
            change(inner);
        }
    }
    for inner in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        change(inner);
    }
}

/// What is only for people who write definitions, and formats that nobody knows, go.
fn tidy(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    map.remove("example");
    map.remove("externalDocs");
    let named = map.get("format").and_then(Value::as_str).unwrap_or_default();
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if !named.is_empty() && format::known(kind, named).is_empty() {
        map.remove("format");
    }
    each(map, &mut tidy);
}

fn to_v2(schema: &mut Value) {
    let (nullable, preserve) = (is(schema, "nullable"), is(schema, PRESERVE));
    let Value::Object(map) = schema else { return };
    for key in ["allOf", "oneOf", "anyOf", "not"] {
        map.remove(key);
    }
    if nullable {
        map.remove("nullable");
        map.remove("type");
    }
    if nullable || preserve {
        map.remove("items");
        map.remove("properties");
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if (kind == "array" && !map.contains_key("items")) || (kind == "object" && preserve) {
        map.remove("type");
    }
    let nullable: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, inner)| is(inner, "nullable"))
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !nullable.iter().any(|gone| name == gone));
        if required.is_empty() {
            map.remove("required");
        }
    }
    each(map, &mut to_v2);
}

/// Objects within the object have what every object has.
fn embed(dialect: Dialect, schema: &mut Value) {
    let (embedded, preserve) = (is(schema, "x-kubernetes-embedded-resource"), is(schema, PRESERVE));
    let Value::Object(map) = schema else { return };
    each(map, &mut |inner| embed(dialect, inner));
    if !embedded || (preserve && matches!(dialect, Dialect::V2)) {
        return;
    }
    complete(dialect, map);
    let required = map.entry("required").or_insert_with(|| json!([]));
    if let Value::Array(required) = required {
        for name in ["kind", "apiVersion"] {
            if !required.contains(&json!(name)) {
                required.push(name.into());
            }
        }
    }
}

fn complete(dialect: Dialect, schema: &mut Map<String, Value>) {
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    if let Value::Object(properties) = properties {
        properties.insert("apiVersion".to_owned(), type_text("apiVersion"));
        properties.insert("kind".to_owned(), type_text("kind"));
        properties.insert("metadata".to_owned(), object_meta(dialect));
    }
}

fn object(dialect: Dialect, kind: &CustomKind) -> Value {
    let names = kind.names();
    let written = &kind.written;
    let root_preserves = is(written, PRESERVE) || kind.schema.preserve;
    let mut out = if !written.is_object() || (root_preserves && matches!(dialect, Dialect::V2)) {
        json!({ "type": "object" })
    } else {
        let mut out = written.clone();
        tidy(&mut out);
        if matches!(dialect, Dialect::V2) {
            to_v2(&mut out);
        }
        embed(dialect, &mut out);
        if let Value::Object(map) = &mut out {
            complete(dialect, map);
        }
        out
    };
    out["x-kubernetes-group-version-kind"] =
        json!([{ "group": names.group, "version": names.version, "kind": names.kind }]);
    with_selectable(kind, &mut out);
    out
}

fn with_selectable(kind: &CustomKind, out: &mut Value) {
    let fields = kind.selectable_fields();
    if !fields.is_empty() {
        let fields: Vec<Value> = fields.iter().map(|path| json!({ "fieldPath": path })).collect();
        out["x-kubernetes-selectable-fields"] = fields.into();
    }
}

fn list(dialect: Dialect, kind: &CustomKind) -> Value {
    let names = kind.names();
    let item = dialect.reference(&model(names.group, names.version, names.kind));
    let items = match dialect {
        Dialect::V2 => item,
        Dialect::V3 => json!({ "allOf": [item] }),
    };
    let mut out = json!({
        "type": "object",
        "description": format!("{} is a list of {}", names.list_kind, names.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": type_text("apiVersion"),
            "kind": type_text("kind"),
            "items": { "type": "array", "items": items, "description": format!("List of {}. More info: {DOCS}", names.plural) },
            "metadata": meta_reference(dialect, LIST_META, &format!("Standard list metadata. More info: {DOCS}#types-kinds")),
        },
        "x-kubernetes-group-version-kind": [{ "group": names.group, "version": names.version, "kind": names.list_kind }],
    });
    with_selectable(kind, &mut out);
    out
}

fn schemas(dialect: Dialect, kind: &CustomKind, out: &mut Map<String, Value>) {
    let names = kind.names();
    out.insert(model(names.group, names.version, names.kind), object(dialect, kind));
    out.insert(model(names.group, names.version, names.list_kind), list(dialect, kind));
}

/// `paths` and `definitions` that custom resources add to the v2 document.
pub fn v2<'a>(kinds: impl IntoIterator<Item = &'a CustomKind>) -> (Map<String, Value>, Map<String, Value>) {
    let (mut all_paths, mut definitions) = (Map::new(), Map::new());
    for kind in kinds {
        paths(Dialect::V2, kind, &mut all_paths);
        schemas(Dialect::V2, kind, &mut definitions);
    }
    (all_paths, definitions)
}

/// The v3 document of one group and version that only custom resources have.
pub fn v3<'a>(kinds: impl IntoIterator<Item = &'a CustomKind>) -> Value {
    let mut builder = Builder::new(Dialect::V3);
    let (mut all_paths, mut all) = (Map::new(), Map::new());
    for name in ["meta/v1.ObjectMeta", "meta/v1.ListMeta", "meta/v1.DeleteOptions"] {
        if let Some(message) = builder.schema.named(name) {
            builder.want(message);
        }
    }
    builder.finish();
    for kind in kinds {
        paths(Dialect::V3, kind, &mut all_paths);
        schemas(Dialect::V3, kind, &mut all);
    }
    all.extend(builder.out);
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes CRD Swagger", "version": "v0.1.0" },
        "paths": all_paths,
        "components": { "schemas": all },
    })
}
