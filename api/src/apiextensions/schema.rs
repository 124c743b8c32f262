//! A structural schema, made ready for use: patterns compiled, nothing left to look up by name.
//!
//! The shape is that of `JSONSchemaProps` of apiextensions/v1. What only the publisher reads (descriptions, examples) is
//! not here; it stays in the definition's own JSON.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// How large a compiled pattern may get, bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// How a list's items are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    /// Not at all: the list is one value.
    #[default]
    Atomic,
    /// Each by its value.
    Set,
    /// Each by some of its members.
    Map,
}

/// What members may stand beside the named ones.
#[derive(Debug, Clone)]
pub enum Additional {
    /// Any, or none.
    Allowed(bool),
    /// Those that fit.
    Fit(Box<Schema>),
}

/// Rules about a value, all of which must hold.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `int32`, `date-time`, …; empty: none.
    pub format: String,
    /// Upper bound, and whether it is itself excluded.
    pub maximum: Option<(f64, bool)>,
    /// Lower bound, and whether it is itself excluded.
    pub minimum: Option<(f64, bool)>,
    /// The number is a whole multiple of this.
    pub multiple_of: Option<f64>,
    /// Characters at most.
    pub max_length: Option<i64>,
    /// Characters at least.
    pub min_length: Option<i64>,
    /// What the text must match, as written and compiled.
    pub pattern: Option<(String, Regex)>,
    /// Items at most.
    pub max_items: Option<i64>,
    /// Items at least.
    pub min_items: Option<i64>,
    /// Members at most.
    pub max_properties: Option<i64>,
    /// Members at least.
    pub min_properties: Option<i64>,
    /// Members that must be there.
    pub required: Vec<String>,
    /// The only values allowed.
    pub r#enum: Vec<Value>,
    /// All of these hold.
    pub all_of: Vec<Schema>,
    /// One of these holds at least.
    pub any_of: Vec<Schema>,
    /// Exactly one of these holds.
    pub one_of: Vec<Schema>,
    /// This does not hold.
    pub not: Option<Box<Schema>>,
}

/// A rule in CEL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validation {
    /// Must be true.
    pub rule: String,
    /// Said when it is not; empty: the rule itself is shown.
    pub message: String,
    /// Makes the message.
    pub message_expression: String,
    /// `FieldValueInvalid`, …; empty: that.
    pub reason: String,
    /// Where the finding points, relative to the value.
    pub field_path: String,
    /// Whether `oldSelf` may be absent; `None`: not said.
    pub optional_old_self: Option<bool>,
}

/// A schema.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty: not said.
    pub r#type: String,
    /// null is a value.
    pub nullable: bool,
    /// What an absent member becomes.
    pub default: Option<Value>,
    /// Named members.
    pub properties: BTreeMap<String, Schema>,
    /// The others.
    pub additional: Option<Additional>,
    /// Items of a list.
    pub items: Option<Box<Schema>>,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-list-type`
    pub list_type: ListType,
    /// `x-kubernetes-list-map-keys`
    pub list_keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`
    pub map_atomic: bool,
    /// What a value must fulfil.
    pub rules: Rules,
    /// `x-kubernetes-validations`
    pub validations: Vec<Validation>,
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let list = value.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Compiles a pattern of Go's syntax; the error is a sentence about it. Linear in the text that it is matched with.
pub fn pattern(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(&ascii_classes(text)).size_limit(PATTERN_BYTES).build();
    built.map_err(|error| error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
}

/// Go's `\d`, `\w` and `\s` know ASCII only, this library's all of Unicode.
fn ascii_classes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(letter) = chars.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match chars.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
            Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
            Some('b') => out.push_str("(?-u:\\b)"),
            // The end of the text, not before its last line feed.
            Some('Z') => out.push_str("\\z"),
            Some('Q') => {
                let rest: String = chars.by_ref().collect();
                let (literal, after) = rest.split_once("\\E").map_or((rest.as_str(), ""), |halves| halves);
                out.push_str(&regex::escape(literal));
                out.push_str(&ascii_classes(after));
                return out;
            }
            // Characters that need no escape may have one in Go.
            Some(other) if other.is_ascii_punctuation() => {
                out.push('\\');
                out.push(other);
            }
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    out
}

impl Schema {
    /// From the JSON of a `JSONSchemaProps`. The error names what cannot be used: a bad pattern.
    pub fn compile(value: &Value) -> Result<Self, String> {
        let one = |key: &str| -> Result<Option<Box<Self>>, String> {
            match value.get(key) {
                Some(inner) if inner.is_object() => Ok(Some(Box::new(Self::compile(inner)?))),
                _ => Ok(None),
            }
        };
        let mut properties = BTreeMap::new();
        for (name, inner) in value.get("properties").and_then(Value::as_object).into_iter().flatten() {
            properties.insert(name.clone(), Self::compile(inner)?);
        }
        let additional = match value.get("additionalProperties") {
            Some(Value::Bool(allowed)) => Some(Additional::Allowed(*allowed)),
            Some(inner) if inner.is_object() => Some(Additional::Fit(Box::new(Self::compile(inner)?))),
            _ => None,
        };
        let list_type = match text(value, "x-kubernetes-list-type").as_str() {
            "set" => ListType::Set,
            "map" => ListType::Map,
            _ => ListType::Atomic,
        };
        Ok(Self {
            r#type: text(value, "type"),
            nullable: flag(value, "nullable"),
            default: value.get("default").filter(|default| !default.is_null()).cloned(),
            properties,
            additional,
            items: one("items")?,
            preserve: flag(value, "x-kubernetes-preserve-unknown-fields"),
            embedded: flag(value, "x-kubernetes-embedded-resource"),
            int_or_string: flag(value, "x-kubernetes-int-or-string"),
            list_type,
            list_keys: texts(value, "x-kubernetes-list-map-keys"),
            map_atomic: text(value, "x-kubernetes-map-type") == "atomic",
            rules: Rules::compile(value)?,
            validations: validations(value),
        })
    }

    /// Any schema in this tree (value rules included) for which `found` holds.
    pub fn any(&self, found: &dyn Fn(&Self) -> bool) -> bool {
        let additional = match &self.additional {
            Some(Additional::Fit(schema)) => Some(schema.as_ref()),
            _ => None,
        };
        found(self)
            || self.properties.values().any(|schema| schema.any(found))
            || additional.is_some_and(|schema| schema.any(found))
            || self.items.as_ref().is_some_and(|schema| schema.any(found))
            || self.rules.all_of.iter().chain(&self.rules.any_of).chain(&self.rules.one_of).any(|schema| schema.any(found))
            || self.rules.not.as_ref().is_some_and(|schema| schema.any(found))
    }

    /// The schema of a member; `None`: nothing is said of it.
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Fit(schema)) => Some(schema.as_ref()),
            _ => None,
        })
    }
}

fn validations(value: &Value) -> Vec<Validation> {
    let list = value.get("x-kubernetes-validations").and_then(Value::as_array);
    let one = |rule: &Value| Validation {
        rule: text(rule, "rule"),
        message: text(rule, "message"),
        message_expression: text(rule, "messageExpression"),
        reason: text(rule, "reason"),
        field_path: text(rule, "fieldPath"),
        optional_old_self: rule.get("optionalOldSelf").and_then(Value::as_bool),
    };
    list.into_iter().flatten().map(one).collect()
}

impl Rules {
    fn compile(value: &Value) -> Result<Self, String> {
        let number = |key: &str| value.get(key).and_then(Value::as_f64);
        let count = |key: &str| value.get(key).and_then(Value::as_i64);
        let several = |key: &str| -> Result<Vec<Schema>, String> {
            let list = value.get(key).and_then(Value::as_array);
            list.into_iter().flatten().map(Schema::compile).collect()
        };
        let written = text(value, "pattern");
        let pattern = if written.is_empty() { None } else { Some((written.clone(), self::pattern(&written)?)) };
        let not = match value.get("not") {
            Some(inner) if inner.is_object() => Some(Box::new(Schema::compile(inner)?)),
            _ => None,
        };
        Ok(Self {
            format: text(value, "format"),
            maximum: number("maximum").map(|bound| (bound, flag(value, "exclusiveMaximum"))),
            minimum: number("minimum").map(|bound| (bound, flag(value, "exclusiveMinimum"))),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern,
            max_items: count("maxItems"),
            min_items: count("minItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            required: texts(value, "required"),
            r#enum: value.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            all_of: several("allOf")?,
            any_of: several("anyOf")?,
            one_of: several("oneOf")?,
            not,
        })
    }
}
