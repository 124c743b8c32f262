//! Whether a value fulfils a schema's rules: type, bounds, patterns, enums, `allOf`, `anyOf`, `oneOf`, `not`.
//!
//! Findings are worded as kube-openapi's validator words them. On updates, what was wrong before and has not changed is
//! let through (validation ratcheting), where old and new value belong together: members of objects, items of keyed
//! lists.

use serde_json::{Map, Value};

use super::format;
use super::schema::{Additional, ListType, Schema};
use crate::field::{FieldError, FieldErrorKind};

/// More findings than this are not collected.
const MAX_FINDINGS: usize = 200;
/// How many schemas are tried on one object in all: alternatives within alternatives multiply.
const MAX_STEPS: usize = 2_000_000;

/// Findings in a value that stands at `path` (empty: the root). `old`: its state before.
pub fn validate(path: &str, schema: &Schema, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut walk = Walk { steps: 0 };
    let outcome = walk.value(path, schema, value, old);
    let mut findings = outcome.findings;
    findings.truncate(MAX_FINDINGS);
    if walk.steps > MAX_STEPS {
        let shown = if path.is_empty() { "<nil>" } else { path };
        findings.push(FieldError::invalid(shown, "", "the object and its schema are too large to be validated"));
    }
    findings
}

struct Walk {
    steps: usize,
}

#[derive(Default)]
struct Outcome {
    findings: Vec<FieldError>,
    /// How much of the schema the value fulfilled: tells which of several alternatives was meant.
    matches: usize,
}

impl Outcome {
    fn fail(&mut self, finding: FieldError) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    fn merge(&mut self, other: Self) {
        self.matches += other.matches;
        for finding in other.findings {
            self.fail(finding);
        }
    }

    fn is_valid(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A path as a finding's field.
fn field(path: &str) -> String {
    match path.trim_start_matches('.') {
        "" => "<nil>".to_owned(),
        path => path.to_owned(),
    }
}

fn wrong(path: &str, value: impl Into<Value>, problem: &str) -> FieldError {
    FieldError::invalid(field(path), value, &format!("{path} in body {problem}"))
}

fn type_name(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
        Value::Number(number) if number.is_f64() => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
    }
}

fn mismatch(path: &str, wanted: &str, found: &str) -> FieldError {
    let detail = format!("{path} in body must be of type {wanted}: {found:?}");
    let mut finding = FieldError::invalid(field(path), found, &detail);
    finding.kind = FieldErrorKind::TypeInvalid;
    finding
}

fn too_many(path: &str, actual: usize, max: i64) -> FieldError {
    FieldError::too_many(field(path), actual, usize::try_from(max).unwrap_or_default())
}

/// The types that a schema allows.
fn types(schema: &Schema) -> Vec<&str> {
    if schema.int_or_string {
        return vec!["integer", "string"];
    }
    if schema.r#type.is_empty() { Vec::new() } else { vec![schema.r#type.as_str()] }
}

/// The type's finding.
fn check_type(path: &str, schema: &Schema, value: &Value) -> Option<FieldError> {
    let types = types(schema);
    let format = format::known(&schema.r#type, &schema.rules.format);
    if types.is_empty() && format.is_empty() {
        return None;
    }
    let (found, found_format) = type_name(value);
    if value.is_null() {
        return (!types.is_empty() && !schema.nullable).then(|| mismatch(path, &types.join(","), "null"));
    }
    let whole = value.as_f64().is_some_and(|number| value.is_f64() && number.fract() == 0.0 && number.abs() < 9.1e15);
    let numbers = (whole && types.contains(&"integer")) || (found == "integer" && types.contains(&"number"));
    let text_like = matches!(value, Value::String(_) | Value::Array(_));
    let fits = types.contains(&found) || numbers;
    if !text_like && !format.is_empty() && !(fits || found_format == format) {
        return Some(mismatch(path, format, found_format));
    }
    let numeric = types.contains(&"number") || types.contains(&"integer");
    if !numeric && !format.is_empty() && text_like {
        return None;
    }
    (!types.is_empty() && !fits).then(|| mismatch(path, &types.join(","), found))
}

fn check_number(path: &str, schema: &Schema, value: &Value, out: &mut Outcome) {
    let Some(number) = value.as_f64() else { return };
    let rules = &schema.rules;
    let range = match (schema.r#type.as_str(), rules.format.as_str()) {
        ("integer", "int32") => Some(f64::from(i32::MIN)..=f64::from(i32::MAX)),
        ("integer", _) => Some(-9.223_372_036_854_776e18..=9.223_372_036_854_775e18),
        _ => None,
    };
    if range.is_some_and(|range| !range.contains(&number)) {
        let kind = &schema.r#type;
        let of = match rules.format.as_str() {
            "" => format!("{kind} (default format)"),
            format => format!("{kind} with format {format}"),
        };
        out.fail(FieldError::invalid("<nil>", "", &format!("Checked value must be of type {of} in {path}")));
    }
    if let Some(factor) = rules.multiple_of {
        let times = number / factor;
        if factor <= 0.0 {
            out.fail(wrong(path, value.clone(), &format!("factor MultipleOf declared for {path} must be positive: {factor}")));
        } else if (times - times.round()).abs() > 1e-9 {
            out.fail(wrong(path, value.clone(), &format!("should be a multiple of {factor}")));
        }
    }
    if let Some((bound, exclusive)) = rules.minimum {
        if exclusive && number <= bound {
            out.fail(wrong(path, value.clone(), &format!("should be greater than {bound}")));
        } else if number < bound {
            out.fail(wrong(path, value.clone(), &format!("should be greater than or equal to {bound}")));
        }
    }
    if let Some((bound, exclusive)) = rules.maximum {
        if exclusive && number >= bound {
            out.fail(wrong(path, value.clone(), &format!("should be less than {bound}")));
        } else if number > bound {
            out.fail(wrong(path, value.clone(), &format!("should be less than or equal to {bound}")));
        }
    }
}

fn check_text(path: &str, schema: &Schema, text: &str, out: &mut Outcome) {
    let rules = &schema.rules;
    let letters = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(max) = rules.max_length.filter(|max| letters > *max) {
        out.fail(FieldError::too_long(field(path), usize::try_from(max).unwrap_or_default()));
    } else if let Some(min) = rules.min_length.filter(|min| letters < *min) {
        out.fail(wrong(path, text, &format!("should be at least {min} chars long")));
    } else if let Some((written, _)) = rules.pattern.as_ref().filter(|(_, pattern)| !pattern.is_match(text)) {
        out.fail(wrong(path, text, &format!("should match '{written}'")));
    }
    let kind = if schema.int_or_string { "string" } else { schema.r#type.as_str() };
    let format = format::known(kind, &rules.format);
    if matches!(kind, "string" | "") && !format.is_empty() && !format::fits(format, text) {
        let finding = mismatch(path, format, text);
        out.fail(finding);
    }
}

/// Whether two values are the same number or the same thing.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() < f64::EPSILON,
        _ => a == b,
    }
}

fn check_enum(path: &str, schema: &Schema, value: &Value, out: &mut Outcome) {
    let allowed = &schema.rules.r#enum;
    if allowed.is_empty() || allowed.iter().any(|one| same(one, value)) {
        return;
    }
    let names: Vec<String> =
        allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    out.fail(FieldError::not_supported(field(path), value.clone(), &names));
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl Walk {
    fn value(&mut self, path: &str, schema: &Schema, value: &Value, old: Option<&Value>) -> Outcome {
        self.steps += 1;
        let mut out = Outcome::default();
        if self.steps > MAX_STEPS {
            return out;
        }
        match check_type(path, schema, value) {
            Some(finding) => out.fail(finding),
            None => out.matches += 1,
        }
        if !value.is_null() {
            self.alternatives(path, schema, value, &mut out);
            match value {
                Value::String(text) => check_text(path, schema, text, &mut out),
                Value::Number(_) => check_number(path, schema, value, &mut out),
                Value::Array(items) => self.list(path, schema, items, old, &mut out),
                Value::Object(map) => self.object(path, schema, map, old, &mut out),
                Value::Bool(_) | Value::Null => {}
            }
        }
        check_enum(path, schema, value, &mut out);
        if !out.is_valid() && old == Some(value) {
            out.findings.clear();
        }
        out
    }

    fn alternatives(&mut self, path: &str, schema: &Schema, value: &Value, out: &mut Outcome) {
        let rules = &schema.rules;
        if !rules.any_of.is_empty() {
            let (valid, best) = self.best(path, &rules.any_of, value, true);
            if valid == 0 {
                let text = format!("{path:?} must validate at least one schema (anyOf)");
                out.fail(FieldError::invalid("<nil>", "", &text));
            }
            out.merge(best);
        }
        if !rules.one_of.is_empty() {
            let (valid, best) = self.best(path, &rules.one_of, value, false);
            if valid == 1 {
                out.matches += best.matches;
            } else {
                let found =
                    if valid == 0 { "Found none valid".to_owned() } else { format!("Found {valid} valid alternatives") };
                let text = format!("{path:?} must validate one and only one schema (oneOf). {found}");
                out.fail(FieldError::invalid("<nil>", "", &text));
                if valid == 0 {
                    out.merge(best);
                }
            }
        }
        let mut valid = 0;
        for one in &rules.all_of {
            let outcome = self.value(path, one, value, None);
            valid += usize::from(outcome.is_valid());
            out.merge(outcome);
        }
        if valid != rules.all_of.len() {
            let text = format!("{path:?} must validate all the schemas (allOf){}", if valid == 0 { ". None validated" } else { "" });
            out.fail(FieldError::invalid("<nil>", "", &text));
        }
        if let Some(not) = &rules.not
            && self.value(path, not, value, None).is_valid()
        {
            out.fail(FieldError::invalid("<nil>", "", &format!("{path:?} must not validate the schema (not)")));
        }
    }

    /// How many of several schemas hold, and what the one that was probably meant says.
    fn best(&mut self, path: &str, schemas: &[Schema], value: &Value, first_is_enough: bool) -> (usize, Outcome) {
        let mut valid = 0;
        let mut best: Option<Outcome> = None;
        for schema in schemas {
            let outcome = self.value(path, schema, value, None);
            if outcome.is_valid() {
                valid += 1;
                if valid == 1 {
                    best = Some(outcome);
                }
                if first_is_enough {
                    break;
                }
            } else if valid == 0 && best.as_ref().is_none_or(|best| outcome.matches > best.matches) {
                best = Some(outcome);
            }
        }
        (valid, best.unwrap_or_default())
    }

    fn list(&mut self, path: &str, schema: &Schema, items: &[Value], old: Option<&Value>, out: &mut Outcome) {
        if let Some(inner) = &schema.items {
            let before = old.and_then(Value::as_array).filter(|_| schema.list_type == ListType::Map);
            for (index, item) in items.iter().enumerate() {
                let key = |item: &Value| -> Vec<Value> {
                    schema.list_keys.iter().map(|key| item.get(key).cloned().unwrap_or_default()).collect()
                };
                let old = before.and_then(|before| before.iter().find(|known| key(known) == key(item)));
                let outcome = self.value(&format!("{path}[{index}]"), inner, item, old);
                out.merge(outcome);
            }
        }
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(min) = schema.rules.min_items.filter(|min| count < *min) {
            out.fail(wrong(path, count, &format!("should have at least {min} items")));
        }
        if let Some(max) = schema.rules.max_items.filter(|max| count > *max) {
            out.fail(too_many(path, items.len(), max));
        }
    }

    fn object(&mut self, path: &str, schema: &Schema, map: &Map<String, Value>, old: Option<&Value>, out: &mut Outcome) {
        let rules = &schema.rules;
        let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
        if let Some(min) = rules.min_properties.filter(|min| count < *min) {
            out.fail(wrong(path, count, &format!("should have at least {min} properties")));
        }
        if let Some(max) = rules.max_properties.filter(|max| count > *max) {
            out.fail(too_many(path, map.len(), max));
        }
        for (name, value) in map {
            let before = old.and_then(|old| old.get(name));
            // Both states are shown in the same version: that they agree says nothing.
            let before = before.filter(|_| !(path.is_empty() && matches!(name.as_str(), "kind" | "apiVersion")));
            match (schema.properties.get(name), &schema.additional) {
                (Some(inner), _) => {
                    let outcome = self.value(&below(path, name), inner, value, before);
                    out.merge(outcome);
                }
                (None, Some(Additional::Fit(inner))) => {
                    let outcome = self.value(&format!("{path}.{name}"), inner, value, before);
                    out.merge(outcome);
                }
                (None, Some(Additional::Allowed(false))) => {
                    let text = format!("{path}.{name} in body is a forbidden property");
                    out.fail(FieldError::invalid(field(path), name.as_str(), &text));
                }
                _ => {}
            }
        }
        for name in rules.required.iter().filter(|name| !map.contains_key(*name)) {
            out.fail(FieldError::required(field(&format!("{path}.{name}")), ""));
        }
    }
}
