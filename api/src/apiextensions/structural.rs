//! Whether a schema is one that custom resources can live under: the rules of structural schemas, and what else
//! apiextensions asks of a `JSONSchemaProps`. Works on the definition's JSON, so that findings show what was written.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::schema::{self, Schema};
use super::{check, prune};
use crate::field::FieldError;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What may stand at the root of a schema whose status is written separately.
const AT_ROOT: [&str; 22] = [
    "Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength",
    "MinLength", "Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties",
    "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations",
];

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn list<'a>(schema: &'a Value, key: &str) -> &'a [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn members<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn object<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema.get(key).filter(|value| value.is_object())
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const VALIDATIONS: &str = "x-kubernetes-validations";

/// Violations of structurality, in the order of their texts.
pub fn violations(path: &str, schema: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    invariants(path, schema, Level::Root, &mut findings);
    complete(Some(schema), schema, path, path, &mut findings);
    findings.sort_by_key(ToString::to_string);
    findings
}

fn is_int_or_string(alternatives: &[Value]) -> bool {
    *alternatives == [json!({"type": "integer"}), json!({"type": "string"})]
}

fn invariants(path: &str, schema: &Value, level: Level, out: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    let at = |name: &str| format!("{path}.{name}");
    match object(schema, "items") {
        Some(items) => invariants(&at("items"), items, Level::Item, out),
        None if kind == "array" => out.push(FieldError::required(at("items"), "must be specified")),
        None => {}
    }
    for (name, inner) in members(schema, "properties") {
        invariants(&format!("{path}.properties[{name}]"), inner, Level::Field, out);
    }
    let additional = schema.get("additionalProperties");
    if let Some(inner) = additional {
        if level == Level::Root {
            out.push(FieldError::forbidden(at("additionalProperties"), "must not be used at the root"));
        }
        if inner.is_object() {
            invariants(&at("additionalProperties"), inner, Level::Field, out);
        }
    }
    let (preserve, embedded, either) = (flag(schema, PRESERVE), flag(schema, EMBEDDED), flag(schema, INT_OR_STRING));
    if either && preserve {
        out.push(FieldError::invalid(at(PRESERVE), true, "must be false if x-kubernetes-int-or-string is true"));
    }
    if either && embedded {
        out.push(FieldError::invalid(at(EMBEDDED), true, "must be false if x-kubernetes-int-or-string is true"));
    }
    let any_of = is_int_or_string(list(schema, "anyOf"));
    let all_of = list(schema, "allOf").first().is_some_and(|first| is_int_or_string(list(first, "anyOf")));
    junctors(path, schema, any_of, all_of, level, out);
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        out.push(match kind {
            "" => FieldError::required(at("type"), detail),
            kind => FieldError::invalid(at("type"), kind, detail),
        });
    } else if kind.is_empty() && !either && !preserve {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        out.push(FieldError::required(at("type"), detail));
    }
    if embedded && additional.is_some() {
        out.push(FieldError::forbidden(at("additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set"));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        out.push(FieldError::invalid(at("type"), kind, "must be object at the root"));
    }
    meta(path, schema, level, embedded, out);
    if embedded && !preserve && members(schema, "properties").next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        out.push(FieldError::required(at("properties"), detail));
    }
}

/// kind, apiVersion and metadata are given; a schema can say little about them.
fn meta(path: &str, schema: &Value, level: Level, embedded: bool, out: &mut Vec<FieldError>) {
    let checked = level == Level::Root || embedded;
    let property = |name: &str| schema.get("properties").and_then(|properties| properties.get(name));
    for name in ["kind", "apiVersion"] {
        if let Some(inner) = property(name).filter(|inner| checked && text(inner, "type") != "string") {
            out.push(FieldError::invalid(format!("{path}.properties[{name}].type"), text(inner, "type"), "must be string"));
        }
    }
    let Some(metadata) = property("metadata") else { return };
    let place = format!("{path}.properties[metadata]");
    if checked && text(metadata, "type") != "object" {
        out.push(FieldError::invalid(format!("{place}.type"), text(metadata, "type"), "must be object"));
    }
    if level == Level::Root {
        let names_only = members(metadata, "properties").all(|(name, _)| matches!(name.as_str(), "name" | "generateName"));
        let bare = metadata.as_object().is_some_and(|map| map.keys().all(|key| matches!(key.as_str(), "type" | "default" | "properties")));
        if !names_only || !bare {
            let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            out.push(FieldError::forbidden(place, detail));
        }
    }
}

fn junctors(path: &str, schema: &Value, skip_any: bool, skip_first_all: bool, level: Level, out: &mut Vec<FieldError>) {
    if !skip_any {
        for (index, inner) in list(schema, "anyOf").iter().enumerate() {
            nested(&format!("{path}.anyOf[{index}]"), inner, false, level, out);
        }
    }
    for (index, inner) in list(schema, "allOf").iter().enumerate() {
        nested(&format!("{path}.allOf[{index}]"), inner, skip_first_all && index == 0, level, out);
    }
    for (index, inner) in list(schema, "oneOf").iter().enumerate() {
        nested(&format!("{path}.oneOf[{index}]"), inner, false, level, out);
    }
    if let Some(inner) = object(schema, "not") {
        nested(&format!("{path}.not"), inner, false, level, out);
    }
    let pattern = text(schema, "pattern");
    if let Err(problem) = schema::pattern(pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {problem}");
        out.push(FieldError::invalid(format!("{path}.pattern"), pattern, &detail));
    }
}

/// A schema below `allOf`, `anyOf`, `oneOf` or `not`: it may test values, but not say what they are.
fn nested(path: &str, schema: &Value, skip_any: bool, level: Level, out: &mut Vec<FieldError>) {
    junctors(path, schema, skip_any, false, level, out);
    if let Some(items) = object(schema, "items") {
        nested(&format!("{path}.items"), items, false, level, out);
    }
    for (name, inner) in members(schema, "properties") {
        nested(&format!("{path}.properties[{name}]"), inner, false, Level::Field, out);
    }
    let forbidden = [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        (PRESERVE, "must be false to be structural"),
        (EMBEDDED, "must be false to be structural"),
        (INT_OR_STRING, "must be false to be structural"),
        (LIST_KEYS, "must be empty to be structural"),
        (LIST_TYPE, "must be undefined to be structural"),
        (MAP_TYPE, "must be undefined to be structural"),
        (VALIDATIONS, "must be empty to be structural"),
    ];
    for (key, detail) in forbidden {
        if schema.get(key).is_some_and(|value| !(value.is_null() || value == &json!(false) && key != "additionalProperties")) {
            out.push(FieldError::forbidden(format!("{path}.{key}"), detail));
        }
    }
    if schema.get("properties").is_some_and(|properties| properties.get("metadata").is_some()) {
        out.push(FieldError::forbidden(format!("{path}.properties[metadata]"), "must not be specified in a nested context"));
    }
}

/// Everything that a nested schema tests must be described outside of the nesting.
fn complete(structure: Option<&Value>, tests: &Value, s_path: &str, v_path: &str, out: &mut Vec<FieldError>) {
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in list(tests, key).iter().enumerate() {
            complete_nested(structure, inner, s_path, &format!("{v_path}.{key}[{index}]"), out);
        }
    }
    if let Some(inner) = object(tests, "not") {
        complete_nested(structure, inner, s_path, &format!("{v_path}.not"), out);
    }
}

fn complete_nested(structure: Option<&Value>, tests: &Value, s_path: &str, v_path: &str, out: &mut Vec<FieldError>) {
    let Some(structure) = structure else {
        out.push(FieldError::required(s_path, &format!("because it is defined in {v_path}")));
        return;
    };
    complete(Some(structure), tests, s_path, v_path, out);
    if let Some(items) = object(tests, "items") {
        complete_nested(object(structure, "items"), items, &format!("{s_path}.items"), &format!("{v_path}.items"), out);
    }
    for (name, inner) in members(tests, "properties") {
        let step = format!("properties[{name}]");
        let outside = structure.get("properties").and_then(|properties| properties.get(name));
        complete_nested(outside, inner, &format!("{s_path}.{step}"), &format!("{v_path}.{step}"), out);
    }
}

/// What is known on the way down.
#[derive(Clone, Copy)]
struct Context<'a> {
    root: bool,
    in_meta: bool,
    /// Why defaults are not allowed here, if they are not.
    no_defaults: Option<&'a str>,
}

/// All findings of a definition's schema. `path` is that of `openAPIV3Schema`.
pub fn validate(path: &str, schema: &Value, status_enabled: bool) -> Vec<FieldError> {
    let mut findings = Vec::new();
    if status_enabled {
        root_with_status(path, schema, &mut findings);
    }
    if flag(schema, "nullable") {
        findings.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let violations = violations(path, schema);
    if violations.is_empty() {
        match Schema::compile(schema) {
            Ok(compiled) => {
                let mut embedded = compiled;
                embedded.embedded = true;
                defaults(path, &embedded, false, &mut findings);
            }
            Err(problem) => findings.push(FieldError::invalid(path, "", &problem)),
        }
    }
    findings.extend(violations);
    open_api(path, schema, Context { root: true, in_meta: false, no_defaults: None }, &mut findings);
    findings
}

fn root_with_status(path: &str, schema: &Value, out: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    if !kind.is_empty() && kind != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        out.push(FieldError::invalid(format!("{path}.type"), kind, detail));
        return;
    }
    let go_name = |key: &str| match key {
        PRESERVE => "XPreserveUnknownFields".to_owned(),
        VALIDATIONS => "XValidations".to_owned(),
        other => {
            let mut letters = other.chars();
            letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
        }
    };
    let is_set = |value: &Value| !(value.is_null() || *value == json!(false) || *value == json!("") || *value == json!([]));
    let stray = schema.as_object().into_iter().flatten().find(|(key, value)| is_set(value) && !AT_ROOT.contains(&go_name(key).as_str()));
    if stray.is_some() {
        let detail = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            AT_ROOT.join(" ")
        );
        out.push(FieldError::invalid(path, schema.clone(), &detail));
    }
}

fn open_api(path: &str, schema: &Value, context: Context<'_>, out: &mut Vec<FieldError>) {
    let at = |name: &str| format!("{path}.{name}");
    unsupported(path, schema, context, out);
    if flag(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        out.push(FieldError::forbidden(at("uniqueItems"), detail));
    }
    let below = Context { root: false, ..context };
    if let Some(additional) = schema.get("additionalProperties") {
        let has_properties = members(schema, "properties").next().is_some();
        if has_properties && *additional != json!(true) {
            let detail = "additionalProperties and properties are mutual exclusive";
            out.push(FieldError::forbidden(at("additionalProperties"), detail));
        }
        if additional.is_object() {
            let reason = "inside additionalProperties applying to object metadata";
            let inner = if context.in_meta { Context { no_defaults: Some(reason), ..below } } else { below };
            open_api(&at("additionalProperties"), additional, inner, out);
        }
    }
    for (name, inner) in members(schema, "properties") {
        let reason = format!("in top-level {name}");
        let mut inside = below;
        if (context.root || flag(schema, EMBEDDED)) && prune::is_meta(name) {
            inside.in_meta = true;
            if context.root {
                inside.no_defaults = Some(&reason);
            }
        }
        open_api(&format!("{path}.properties[{name}]"), inner, inside, out);
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for (index, inner) in list(schema, key).iter().enumerate() {
            open_api(&format!("{path}.{key}[{index}]"), inner, below, out);
        }
    }
    for key in ["not", "items"] {
        if let Some(inner) = object(schema, key) {
            open_api(&at(key), inner, below, out);
        }
    }
    if schema.get(PRESERVE) == Some(&json!(false)) {
        out.push(FieldError::invalid(at(PRESERVE), false, "must be true or undefined"));
    }
    list_types(path, schema, out);
    rules(path, schema, out);
}

/// What OpenAPI knows and definitions may not use.
fn unsupported(path: &str, schema: &Value, context: Context<'_>, out: &mut Vec<FieldError>) {
    let at = |name: &str| format!("{path}.{name}");
    let kind = text(schema, "type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        out.push(FieldError::not_supported(at("type"), kind, &TYPES));
    }
    if schema.get("default").is_some()
        && let Some(reason) = context.no_defaults
    {
        out.push(FieldError::forbidden(at("default"), &format!("must not be set {reason}")));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if schema.get(key).is_some_and(|value| *value != json!("") && *value != json!({}) && !value.is_null()) {
            out.push(FieldError::forbidden(at(key), &format!("{key} is not supported")));
        }
    }
    if kind == "null" {
        out.push(FieldError::forbidden(at("type"), "type cannot be set to null, use nullable as an alternative"));
    }
    if schema.get("items").is_some_and(Value::is_array) {
        out.push(FieldError::forbidden(at("items"), "items must be a schema object and not an array"));
    }
    if context.in_meta && flag(schema, EMBEDDED) {
        out.push(FieldError::forbidden(at(EMBEDDED), "must not be used inside of resource meta"));
    }
}

fn of_type(path: &str, schema: &Value, wanted: &str, detail: &str, out: &mut Vec<FieldError>) {
    match text(schema, "type") {
        kind if kind == wanted => {}
        "" => out.push(FieldError::required(format!("{path}.type"), detail)),
        kind => out.push(FieldError::invalid(format!("{path}.type"), kind, detail)),
    }
}

fn list_types(path: &str, schema: &Value, out: &mut Vec<FieldError>) {
    let at = |name: &str| format!("{path}.{name}");
    if let Some(map_type) = schema.get(MAP_TYPE).and_then(Value::as_str) {
        of_type(path, schema, "object", "must be object if x-kubernetes-map-type is specified", out);
        if !matches!(map_type, "atomic" | "granular") {
            out.push(FieldError::not_supported(at(MAP_TYPE), map_type, &["atomic", "granular"]));
        }
    }
    let list_type = schema.get(LIST_TYPE).and_then(Value::as_str);
    let items = object(schema, "items");
    if let Some(list_type) = list_type {
        of_type(path, schema, "array", "must be array if x-kubernetes-list-type is specified", out);
        if let (true, "set", Some(items)) = (text(schema, "type") == "array", list_type, items) {
            let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
            let (inner_list, inner_map) = (text(items, LIST_TYPE), text(items, MAP_TYPE));
            if text(items, "type") == "array" && !matches!(inner_list, "" | "atomic") {
                out.push(FieldError::invalid(at(&format!("items.{LIST_TYPE}")), inner_list, detail));
            }
            if text(items, "type") == "object" && inner_map != "atomic" {
                out.push(FieldError::invalid(at(&format!("items.{MAP_TYPE}")), Value::Null, detail));
            }
        }
        if !matches!(list_type, "atomic" | "set" | "map") {
            out.push(FieldError::not_supported(at(LIST_TYPE), list_type, &["atomic", "set", "map"]));
        }
    }
    let keys = list(schema, LIST_KEYS);
    if !keys.is_empty() {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => out.push(FieldError::required(at(LIST_TYPE), detail)),
            Some("map") => {}
            Some(other) => out.push(FieldError::invalid(at(LIST_TYPE), other, detail)),
        }
    }
    if list_type == Some("map") {
        keyed_list(path, schema, keys, items, out);
    }
    if let (Some(list_type @ ("set" | "map")), Some(items)) = (list_type, items)
        && flag(items, "nullable")
    {
        out.push(FieldError::forbidden(at("items.nullable"), &format!("cannot be nullable when x-kubernetes-list-type is {list_type}")));
    }
}

fn keyed_list(path: &str, schema: &Value, keys: &[Value], items: Option<&Value>, out: &mut Vec<FieldError>) {
    let at = |name: &str| format!("{path}.{name}");
    if keys.is_empty() {
        out.push(FieldError::required(at(LIST_KEYS), "must not be empty if x-kubernetes-list-type is map"));
    }
    let Some(items) = items else {
        out.push(match schema.get("items") {
            None => FieldError::required(at("items"), "must have a schema if x-kubernetes-list-type is map"),
            Some(other) => {
                FieldError::invalid(at("items"), other.clone(), "must only have a single schema if x-kubernetes-list-type is map")
            }
        });
        return;
    };
    if text(items, "type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        out.push(FieldError::invalid(at("items.type"), text(items, "type"), detail));
        return;
    }
    let mut seen = BTreeSet::new();
    let all = Value::Array(keys.to_vec());
    for key in keys.iter().filter_map(Value::as_str) {
        let place = at(&format!("items.properties[{key}]"));
        match items.get("properties").and_then(|properties| properties.get(key)) {
            Some(property) => {
                if matches!(text(property, "type"), "array" | "object") {
                    let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    out.push(FieldError::invalid(format!("{place}.type"), text(items, "type"), detail));
                }
                if !list(items, "required").contains(&json!(key)) && property.get("default").is_none() {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    out.push(FieldError::required(format!("{place}.default"), detail));
                }
                if flag(property, "nullable") {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    out.push(FieldError::forbidden(format!("{place}.nullable"), detail));
                }
            }
            None => out.push(FieldError::invalid(at(LIST_KEYS), all.clone(), "entries must all be names of item properties")),
        }
        if !seen.insert(key) {
            out.push(FieldError::invalid(at(LIST_KEYS), all.clone(), "must not contain duplicate entries"));
        }
    }
}

/// The form of CEL rules; what they say is compiled elsewhere.
fn rules(path: &str, schema: &Value, out: &mut Vec<FieldError>) {
    const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (index, rule) in list(schema, VALIDATIONS).iter().enumerate() {
        let at = |name: &str| format!("{path}.{VALIDATIONS}[{index}].{name}");
        let (expression, message) = (text(rule, "rule").trim(), text(rule, "message"));
        if expression.is_empty() {
            out.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            out.push(FieldError::invalid(at("message"), message, "must be non-empty if specified"));
        } else if breaks(message.trim()) {
            out.push(FieldError::invalid(at("message"), message, "must not contain line breaks"));
        } else if breaks(expression) && message.trim().is_empty() {
            out.push(FieldError::required(at("message"), "message must be specified if rule contains line breaks"));
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            out.push(FieldError::required(at("messageExpression"), "messageExpression must be non-empty if specified"));
        }
        if let Some(reason) = rule.get("reason").and_then(Value::as_str).filter(|reason| !REASONS.contains(reason)) {
            out.push(FieldError::not_supported(at("reason"), reason, &REASONS));
        }
        let place = text(rule, "fieldPath");
        if !place.is_empty() {
            if place.trim().is_empty() {
                out.push(FieldError::invalid(at("fieldPath"), place, "must be non-empty if specified"));
            }
            if breaks(place) {
                out.push(FieldError::invalid(at("fieldPath"), place, "must not contain line breaks"));
            }
            if field_path(place, schema, true).is_err() {
                out.push(FieldError::invalid(at("fieldPath"), place, "must be a valid path"));
            }
        }
    }
}

/// Follows `.spec.a['b.c']` through a schema: the path as findings show it, and the schema that it leads to.
pub fn field_path<'a>(path: &str, schema: &'a Value, brackets: bool) -> Result<(String, &'a Value), String> {
    let (mut shown, mut place, mut rest) = (String::new(), schema, path);
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[', ']']).unwrap_or(after.len());
            if end == 0 {
                return Err("unexpected end of JSON path".to_owned());
            }
            name = after[..end].to_owned();
            rest = &after[end..];
        } else if let Some(after) = rest.strip_prefix('[') {
            if !brackets {
                return Err("array notation is not allowed".to_owned());
            }
            let Some(inner) = after.strip_prefix('\'') else {
                return Err(format!("expected single quoted string but got {}", after.split(']').next().unwrap_or_default()));
            };
            let Some((quoted, after)) = inner.split_once("']") else { return Err("unexpected end of JSON path".to_owned()) };
            name = quoted.replace("\\'", "'").replace("\\\\", "\\");
            rest = after;
        } else {
            return Err(format!("expected [ or . but got: {rest}"));
        }
        let properties = place.get("properties").and_then(Value::as_object).filter(|properties: &&Map<String, Value>| !properties.is_empty());
        (place, shown) = match (properties, object(place, "additionalProperties")) {
            (Some(properties), _) => {
                let dot = if shown.is_empty() { "" } else { "." };
                (properties.get(&name).ok_or("does not refer to a valid field")?, format!("{shown}{dot}{name}"))
            }
            (None, Some(values)) => (values, format!("{shown}[{name}]")),
            (None, None) => return Err("does not refer to a valid field".to_owned()),
        };
    }
    Ok((shown, place))
}

/// Defaults must be what the schema itself would accept and keep.
fn defaults(path: &str, schema: &Schema, in_meta: bool, out: &mut Vec<FieldError>) {
    if let Some(default) = schema.default.as_ref().filter(|_| !in_meta) {
        let place = format!("{path}.default");
        let mut pruned = default.clone();
        prune::prune_part(&mut pruned, schema);
        if pruned != *default {
            out.push(FieldError::invalid(place.clone(), default.clone(), "must not have unknown fields"));
        }
        let mut coerced = default.clone();
        match prune::coerce_metadata_of(&mut coerced, schema) {
            Err(mismatch) => out.push(FieldError::invalid(place, default.clone(), &mismatch.0)),
            Ok(_) => {
                out.extend(check::validate(&place, schema, default, None));
            }
        }
    }
    if let Some(items) = &schema.items {
        defaults(&format!("{path}.items"), items, in_meta, out);
    }
    for (name, inner) in &schema.properties {
        let inside = in_meta && !schema.embedded || schema.embedded && prune::is_meta(name);
        defaults(&format!("{path}.properties[{name}]"), inner, inside, out);
    }
}
