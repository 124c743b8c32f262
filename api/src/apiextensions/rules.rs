//! Validation rules in CEL (`x-kubernetes-validations`): compiled with a definition, evaluated for each object.
//!
//! A rule's `self` has the type that its schema says: objects with their fields (names escaped as Kubernetes does it),
//! maps, lists, times and durations. `oldSelf` is there where old and new value belong together; a rule that uses it is
//! left out where they do not.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_cel::{Bindings, Budget, Environment, EvalError, Key, PER_CALL, PER_REQUEST, Program, Type, TypeProvider, Value as Cel};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::schema::{Additional, ListType, Schema, Validation};
use super::{prune, structural};
use crate::field::{FieldError, FieldErrorKind};

/// The longest message that an expression may make, bytes.
const MAX_MESSAGE: usize = 5 * 1024;
/// Rules of one schema at most.
const MAX_RULES: usize = 2000;

/// A rule, compiled.
#[derive(Debug, Clone)]
struct Rule {
    said: Validation,
    program: Program,
    message: Option<Program>,
    uses_old: bool,
    /// Where its findings point, below the value.
    place: String,
}

/// The rules of a schema and of those within it.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    own: Vec<Rule>,
    properties: BTreeMap<String, Rules>,
    values: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
}

/// Object types by number: each has the fields of one schema.
#[derive(Default)]
struct Types {
    objects: Vec<BTreeMap<String, Type>>,
}

impl TypeProvider for Types {
    fn field(&self, object: &str, field: &str) -> Option<Type> {
        let index: usize = object.strip_prefix("object_")?.parse().ok()?;
        self.objects.get(index)?.get(field).cloned()
    }
}

const RESERVED: [&str; 21] = [
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop",
    "package", "namespace", "return", "var", "void", "while",
];

/// A member's name as an identifier; `None`: it cannot be named in a rule.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let escaped = name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__");
    let first = escaped.chars().next()?;
    let plain = escaped.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    (plain && !first.is_ascii_digit()).then_some(escaped)
}

fn is_object(schema: &Schema) -> bool {
    schema.r#type == "object" || (schema.r#type.is_empty() && !schema.properties.is_empty())
}

impl Types {
    fn of(&mut self, schema: &Schema) -> Type {
        if schema.int_or_string {
            return Type::Dyn;
        }
        match (schema.r#type.as_str(), schema.rules.format.as_str()) {
            ("boolean", _) => Type::Bool,
            ("integer", _) => Type::Int,
            ("number", _) => Type::Double,
            ("string", "byte") => Type::Bytes,
            ("string", "duration") => Type::Duration,
            ("string", "date" | "date-time") => Type::Timestamp,
            ("string", _) => Type::String,
            ("array", _) => Type::list(schema.items.as_ref().map_or(Type::Dyn, |items| self.of(items))),
            _ if is_object(schema) => self.object(schema),
            _ => Type::Dyn,
        }
    }

    fn object(&mut self, schema: &Schema) -> Type {
        if schema.properties.is_empty() && !schema.embedded {
            match &schema.additional {
                Some(Additional::Fit(values)) => return Type::map(self.of(values)),
                Some(Additional::Allowed(true)) => return Type::map(Type::Dyn),
                _ => {}
            }
        }
        let mut fields = BTreeMap::new();
        for (name, inner) in &schema.properties {
            if let Some(escaped) = escape(name) {
                let of = self.of(inner);
                fields.insert(escaped, of);
            }
        }
        if schema.embedded {
            let index = self.objects.len();
            let names = [("name".to_owned(), Type::String), ("generateName".to_owned(), Type::String)];
            self.objects.push(names.into_iter().collect());
            fields.insert("apiVersion".to_owned(), Type::String);
            fields.insert("kind".to_owned(), Type::String);
            fields.insert("metadata".to_owned(), Type::object(&format!("object_{index}")));
        }
        let index = self.objects.len();
        self.objects.push(fields);
        Type::object(&format!("object_{index}"))
    }
}

/// A value as rules see it.
fn value(json: &Value, schema: &Schema) -> Cel {
    let text = json.as_str();
    match (schema.r#type.as_str(), schema.rules.format.as_str()) {
        _ if schema.int_or_string => Cel::from(json),
        ("number", _) => json.as_f64().map_or_else(|| Cel::from(json), Cel::Double),
        ("integer", _) => match json.as_f64() {
            #[expect(clippy::cast_possible_truncation, reason = "a whole number written as a float")]
            Some(number) if json.is_f64() && number.fract() == 0.0 => Cel::Int(number as i64),
            _ => Cel::from(json),
        },
        ("string", "byte") => match text.and_then(|text| STANDARD.decode(text).ok()) {
            Some(bytes) => Cel::Bytes(bytes.into()),
            None => Cel::from(json),
        },
        ("string", "duration") => {
            let parsed = text.and_then(balsa_cel::parse_duration);
            parsed.map_or_else(|| Cel::from(json), Cel::Duration)
        }
        ("string", "date") => {
            let parsed = text.and_then(|text| balsa_cel::parse_timestamp(&format!("{text}T00:00:00Z")));
            parsed.map_or_else(|| Cel::from(json), Cel::Timestamp)
        }
        ("string", "date-time") => {
            let parsed = text.and_then(balsa_cel::parse_timestamp);
            parsed.map_or_else(|| Cel::from(json), Cel::Timestamp)
        }
        _ => compound(json, schema),
    }
}

fn compound(json: &Value, schema: &Schema) -> Cel {
    match json {
        Value::Array(items) => {
            let inner = schema.items.as_deref();
            Cel::list(items.iter().map(|item| inner.map_or_else(|| Cel::from(item), |inner| value(item, inner))).collect())
        }
        Value::Object(map) => {
            let mut out = BTreeMap::new();
            for (name, inner) in map {
                let known = schema.properties.get(name);
                // A null that has no value is as good as absent.
                if inner.is_null() && known.is_some() {
                    continue;
                }
                let shown = match (known, &schema.additional) {
                    (Some(of), _) => escape(name).map(|name| (name, value(inner, of))),
                    (None, Some(Additional::Fit(of))) => Some((name.clone(), value(inner, of))),
                    (None, Some(Additional::Allowed(true))) => Some((name.clone(), Cel::from(inner))),
                    (None, _) if schema.embedded && prune::is_meta(name) => Some((name.clone(), Cel::from(inner))),
                    _ => None,
                };
                out.extend(shown.map(|(name, inner)| (Key::String(name.as_str().into()), inner)));
            }
            Cel::Map(Arc::new(out))
        }
        other => Cel::from(other),
    }
}

/// Compiles the rules of a schema. Findings stand at paths below `path`, that of the schema in its definition.
pub fn compile(path: &str, schema: &Schema, written: &Value) -> (Rules, Vec<FieldError>) {
    let mut compiler = Compiler { findings: Vec::new(), count: 0 };
    let rules = compiler.schema(path, schema, written, None);
    (rules, compiler.findings)
}

/// What is wrong with the rules of a definition's schema (which is structural).
pub fn validate(path: &str, written: &Value) -> Vec<FieldError> {
    match Schema::compile(written) {
        Ok(mut schema) => {
            schema.embedded = true;
            compile(path, &schema, written).1
        }
        // Said elsewhere.
        Err(_) => Vec::new(),
    }
}

struct Compiler {
    findings: Vec<FieldError>,
    count: usize,
}

impl Compiler {
    /// `unrelated`: the first schema on the way down below which old and new values do not belong together.
    fn schema(&mut self, path: &str, schema: &Schema, written: &Value, unrelated: Option<&str>) -> Rules {
        let mut rules = Rules::default();
        if !schema.any(&|schema| !schema.validations.is_empty()) {
            return rules;
        }
        if !schema.validations.is_empty() {
            rules.own = self.own(path, schema, written, unrelated);
        }
        let below = if schema.map_atomic { unrelated.or(Some(path)) } else { unrelated };
        for (name, inner) in &schema.properties {
            let part = &written["properties"][name];
            let found = self.schema(&format!("{path}.properties[{name}]"), inner, part, below);
            if !found.is_empty() {
                rules.properties.insert(name.clone(), found);
            }
        }
        if let Some(Additional::Fit(inner)) = &schema.additional {
            let found = self.schema(&format!("{path}.additionalProperties"), inner, &written["additionalProperties"], below);
            rules.values = (!found.is_empty()).then(|| Box::new(found));
        }
        if let Some(inner) = &schema.items {
            let below = if schema.list_type == ListType::Map { unrelated } else { unrelated.or(Some(path)) };
            let found = self.schema(&format!("{path}.items"), inner, &written["items"], below);
            rules.items = (!found.is_empty()).then(|| Box::new(found));
        }
        rules
    }

    fn own(&mut self, path: &str, schema: &Schema, written: &Value, unrelated: Option<&str>) -> Vec<Rule> {
        let mut types = Types::default();
        let own = types.of(schema);
        let base = Environment::new().provider(Arc::new(types)).variable("self", own.clone());
        let mut rules = Vec::new();
        for (index, said) in schema.validations.iter().enumerate() {
            self.count += 1;
            if self.count > MAX_RULES {
                let place = format!("{path}.x-kubernetes-validations");
                self.findings.push(FieldError::forbidden(place, &format!("a schema may have {MAX_RULES} rules at most")));
                break;
            }
            if said.rule.trim().is_empty() {
                continue;
            }
            let at = |what: &str| format!("{path}.x-kubernetes-validations[{index}].{what}");
            let shown = &written["x-kubernetes-validations"][index];
            let old = match said.optional_old_self {
                Some(true) => Type::optional(own.clone()),
                _ => own.clone(),
            };
            let with_old = base.clone().variable("oldSelf", old);
            // What compiles without `oldSelf` does not use it.
            let uses_old = Program::compile(&said.rule, &base).is_err();
            match Self::rule(said, &with_old, uses_old, written) {
                Ok(rule) => {
                    self.check_old(said, uses_old, unrelated, &at);
                    rules.push(rule);
                }
                Err((what, problem)) => self.findings.push(FieldError::invalid(at(what), shown.clone(), &problem)),
            }
        }
        rules
    }

    fn check_old(&mut self, said: &Validation, uses_old: bool, unrelated: Option<&str>, at: &dyn Fn(&str) -> String) {
        if let (true, Some(unrelated)) = (uses_old, unrelated) {
            let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {unrelated}");
            self.findings.push(FieldError::invalid(at("rule"), said.rule.as_str(), &detail));
        } else if let (false, Some(flag)) = (uses_old, said.optional_old_self) {
            let detail = "may not be set if oldSelf is not used in rule";
            self.findings.push(FieldError::invalid(at("optionalOldSelf"), flag, detail));
        }
    }

    fn rule(said: &Validation, environment: &Environment, uses_old: bool, written: &Value) -> Result<Rule, (&'static str, String)> {
        let program = Program::compile(&said.rule, environment)
            .map_err(|error| ("rule", format!("compilation failed: {error}")))?;
        if !program.may_give(&Type::Bool) {
            return Err(("rule", "cel expression must evaluate to a bool".to_owned()));
        }
        let message = match said.message_expression.trim() {
            "" => None,
            expression => {
                let program = Program::compile(expression, environment)
                    .map_err(|error| ("messageExpression", format!("messageExpression compilation failed: {error}")))?;
                if !program.may_give(&Type::String) {
                    return Err(("messageExpression", "messageExpression must evaluate to a string".to_owned()));
                }
                Some(program)
            }
        };
        let place = match said.field_path.trim() {
            "" => String::new(),
            place => structural::field_path(place, written, true).map(|(shown, _)| shown).unwrap_or_default(),
        };
        Ok(Rule { said: said.clone(), program, message, uses_old, place })
    }
}

impl Rules {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.properties.is_empty() && self.values.is_none() && self.items.is_none()
    }

    /// Findings in an object. `old`: its state before. `earlier`: what was found already; rules are not asked about
    /// objects of the wrong shape.
    pub fn evaluate(&self, schema: &Schema, new: &Value, old: Option<&Value>, earlier: &[FieldError]) -> Vec<FieldError> {
        use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        if self.is_empty() {
            return Vec::new();
        }
        if earlier.iter().any(|finding| matches!(finding.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)) {
            let detail =
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            return vec![FieldError::invalid("<nil>", Value::Null, detail)];
        }
        let mut run = Run { findings: Vec::new(), left: PER_REQUEST };
        run.value("", self, schema, new, old);
        run.findings
    }
}

struct Run {
    findings: Vec<FieldError>,
    left: u64,
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn field(path: &str) -> String {
    if path.is_empty() { "<nil>".to_owned() } else { path.to_owned() }
}

impl Run {
    /// False: the budget is spent.
    fn value(&mut self, path: &str, rules: &Rules, schema: &Schema, new: &Value, old: Option<&Value>) -> bool {
        if new.is_null() {
            return true;
        }
        let old = old.filter(|old| !old.is_null());
        if !rules.own.is_empty() && !self.own(path, rules, schema, new, old) {
            return false;
        }
        match new {
            Value::Object(map) => map.iter().all(|(name, inner)| {
                let before = old.filter(|_| !schema.map_atomic).and_then(|old| old.get(name));
                let named = rules.properties.get(name).zip(schema.properties.get(name));
                if let Some((rules, schema)) = named {
                    return self.value(&below(path, name), rules, schema, inner, before);
                }
                match (&rules.values, &schema.additional) {
                    (Some(rules), Some(Additional::Fit(of))) if !schema.properties.contains_key(name) => {
                        self.value(&format!("{path}[{name}]"), rules, of, inner, before)
                    }
                    _ => true,
                }
            }),
            Value::Array(items) => {
                let (Some(rules), Some(inner)) = (&rules.items, &schema.items) else { return true };
                let before = old.and_then(Value::as_array).filter(|_| schema.list_type == ListType::Map);
                let key = |item: &Value| schema.list_keys.iter().map(|key| item.get(key).map(Value::to_string)).collect::<Vec<_>>();
                let known: BTreeMap<_, &Value> = before.into_iter().flatten().map(|item| (key(item), item)).collect();
                items.iter().enumerate().all(|(index, item)| {
                    self.value(&format!("{path}[{index}]"), rules, inner, item, known.get(&key(item)).copied())
                })
            }
            _ => true,
        }
    }

    fn own(&mut self, path: &str, rules: &Rules, schema: &Schema, new: &Value, old: Option<&Value>) -> bool {
        let this = value(new, schema);
        let before = old.map(|old| value(old, schema));
        for rule in &rules.own {
            let optional = rule.said.optional_old_self == Some(true);
            if rule.uses_old && before.is_none() && !optional {
                continue;
            }
            let mut bindings = Bindings::new();
            bindings.insert("self".to_owned(), this.clone());
            match (&before, optional) {
                (Some(before), false) => drop(bindings.insert("oldSelf".to_owned(), before.clone())),
                (Some(before), true) => drop(bindings.insert("oldSelf".to_owned(), Cel::some(before.clone()))),
                (None, true) => drop(bindings.insert("oldSelf".to_owned(), Cel::none())),
                (None, false) => {}
            }
            if !self.rule(path, rule, schema, (new, old), &bindings) {
                return false;
            }
        }
        true
    }

    fn rule(&mut self, path: &str, rule: &Rule, schema: &Schema, (new, old): (&Value, Option<&Value>), bindings: &Bindings) -> bool {
        let shown = if rule.said.message.is_empty() { rule.said.rule.trim() } else { rule.said.message.trim() };
        let refuse = |detail: String| FieldError::invalid(field(path), schema.r#type.as_str(), &detail);
        match self.spend(|budget| rule.program.evaluate(bindings, budget)) {
            Ok(Cel::Bool(true)) => return true,
            Ok(Cel::Bool(false)) => {}
            Ok(_) => {
                self.findings.push(refuse(format!("the rule gave no truth value: {shown}")));
                return true;
            }
            Err(error @ EvalError::Cost) => {
                let text = format!("'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}");
                self.findings.push(refuse(text));
                return false;
            }
            Err(error) => {
                let text = error.to_string();
                let detail = if text.starts_with("no such overload") {
                    format!("'{text}': call arguments did not match a supported operator, function or macro signature for rule: {shown}")
                } else {
                    format!("{text} evaluating rule: {shown}")
                };
                self.findings.push(refuse(detail));
                return true;
            }
        }
        // What was so before and has not changed is let through.
        if !rule.uses_old && old == Some(new) {
            return true;
        }
        let detail = match self.message(rule, bindings) {
            Some(text) => text,
            None if rule.said.message.is_empty() => format!("failed rule: {shown}"),
            None => shown.to_owned(),
        };
        let place = if rule.place.is_empty() { field(path) } else { below(path, &rule.place) };
        let simple = !matches!(schema.r#type.as_str(), "object" | "array");
        let finding = match rule.said.reason.as_str() {
            "FieldValueForbidden" => FieldError::forbidden(place, &detail),
            "FieldValueRequired" => FieldError::required(place, &detail),
            "FieldValueDuplicate" if simple => FieldError::duplicate(place, new.clone()),
            _ if simple => FieldError::invalid(place, new.clone(), &detail),
            _ => FieldError { kind: FieldErrorKind::Invalid, field: place, message: format!("Invalid value: {detail}") },
        };
        self.findings.push(finding);
        true
    }

    /// Runs an expression within what is left, and one call's limit.
    fn spend(&mut self, run: impl FnOnce(&mut Budget) -> Result<Cel, EvalError>) -> Result<Cel, EvalError> {
        let mut budget = Budget::new(PER_CALL.min(self.left));
        let outcome = run(&mut budget);
        self.left = self.left.saturating_sub(budget.spent());
        outcome
    }

    fn message(&mut self, rule: &Rule, bindings: &Bindings) -> Option<String> {
        let program = rule.message.as_ref()?;
        let Ok(Cel::String(text)) = self.spend(|budget| program.evaluate(bindings, budget)) else { return None };
        let text = text.trim();
        (!text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains(['\n', '\r'])).then(|| text.to_owned())
    }
}
