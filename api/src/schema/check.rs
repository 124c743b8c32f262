//! Whether a value has the type it claims, and its normal form: what the Go types would read and write again.
//!
//! Unknown fields are dropped and named; empty optional fields are dropped; quantities, times and base64 are brought
//! into the one form that they have when stored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Field, Instead, Message, Schema, Type, schema};
use crate::kind::TypeMismatch;
use crate::quantity::Quantity;

/// Checks `value` against `message` and normalises it. Returns the unknown fields' paths.
pub fn check(value: &mut Value, message: &'static Message) -> Result<Vec<String>, TypeMismatch> {
    let mut walk = Walk { schema: schema(), path: Vec::new(), unknown: Vec::new(), owner: message };
    walk.message(value, message)?;
    Ok(walk.unknown)
}

enum Step {
    Field(&'static str),
    Key(String),
    Index(usize),
}

struct Walk {
    schema: &'static Schema,
    path: Vec<Step>,
    unknown: Vec<String>,
    owner: &'static Message,
}

/// How Go's JSON decoder names what it found.
fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `2024-01-02T03:04:05Z`
pub fn time_text(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).map_or_else(|_| time.to_string(), |whole| whole.to_string())
}

/// `2024-01-02T03:04:05.000000Z`
pub fn micro_time_text(time: Timestamp) -> String {
    format!("{time:.6}")
}

impl Walk {
    fn place(&self, last: Option<&str>) -> String {
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => join(&mut out, name),
                Step::Key(key) => join(&mut out, key),
                Step::Index(index) => {
                    out.push('[');
                    out.push_str(&index.to_string());
                    out.push(']');
                }
            }
        }
        if let Some(last) = last {
            join(&mut out, last);
        }
        out
    }

    /// Go's message: the struct that holds the field, and the path without indices.
    fn mismatch(&self, found: &str, r#type: &Type) -> TypeMismatch {
        let mut fields = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => join(&mut fields, name),
                Step::Key(key) => join(&mut fields, key),
                Step::Index(_) => {}
            }
        }
        let go_type = self.schema.go_type(r#type);
        if fields.is_empty() {
            return TypeMismatch(format!("json: cannot unmarshal {found} into Go value of type {go_type}"));
        }
        let owner = self.owner.short_name();
        TypeMismatch(format!("json: cannot unmarshal {found} into Go struct field {owner}.{fields} of type {go_type}"))
    }

    fn message(&mut self, value: &mut Value, message: &'static Message) -> Result<(), TypeMismatch> {
        let Value::Object(map) = value else {
            let index = self.schema.by_name.get(message.name).copied().unwrap_or_default();
            return Err(self.mismatch(found(value), &Type::Message(index)));
        };
        let outer = std::mem::replace(&mut self.owner, message);
        let mut out = Map::new();
        for (key, mut child) in std::mem::take(map) {
            let Some((name, field)) = message.json.get_key_value(key.as_str()) else {
                let place = self.place(Some(&key));
                self.unknown.push(place);
                continue;
            };
            self.path.push(Step::Field(name));
            let keep = self.field(&mut child, field)?;
            self.path.pop();
            if keep {
                out.insert(key, child);
            }
        }
        for (name, field) in &message.json {
            if !out.contains_key(*name) {
                if let Some(zero) = self.zero(field) {
                    out.insert((*name).to_owned(), zero);
                }
            }
        }
        *map = out;
        self.owner = outer;
        Ok(())
    }

    /// What Go writes for a field that was never set; `None`: nothing.
    fn zero(&self, field: &Field) -> Option<Value> {
        if field.omit_zero {
            return None;
        }
        match &field.r#type {
            // `omitempty` does not leave out structs.
            Type::Message(index) if !field.pointer => {
                let mut value = Value::Object(Map::new());
                let message = self.schema.get(*index);
                if let Value::Object(map) = &mut value {
                    for (name, inner) in &message.json {
                        if let Some(zero) = self.zero(inner) {
                            map.insert((*name).to_owned(), zero);
                        }
                    }
                }
                Some(value)
            }
            Type::Time | Type::MicroTime if !field.pointer => Some(Value::Null),
            _ if field.omit_empty => None,
            _ if field.pointer => Some(Value::Null),
            Type::String(_) => Some(Value::String(String::new())),
            Type::Bool => Some(Value::Bool(false)),
            Type::Int { .. } | Type::Float | Type::IntOrString => Some(Value::from(0)),
            Type::Quantity => Some(Value::String("0".to_owned())),
            _ => Some(Value::Null),
        }
    }

    /// Whether the field is written out again.
    fn field(&mut self, value: &mut Value, field: &Field) -> Result<bool, TypeMismatch> {
        if value.is_null() {
            return Ok(false);
        }
        self.typed(value, &field.r#type)?;
        if field.pointer || !field.omit_empty {
            return Ok(true);
        }
        Ok(match value {
            Value::Bool(flag) => *flag,
            Value::Number(number) => {
                matches!(field.r#type, Type::IntOrString) || number.as_f64().is_none_or(|number| number != 0.0)
            }
            Value::String(text) => !text.is_empty() || matches!(field.r#type, Type::IntOrString),
            Value::Array(items) => !items.is_empty(),
            Value::Object(map) => !map.is_empty() || !matches!(field.r#type, Type::Map(_)),
            Value::Null => matches!(field.r#type, Type::Time | Type::MicroTime),
        })
    }

    fn typed(&mut self, value: &mut Value, r#type: &Type) -> Result<(), TypeMismatch> {
        match r#type {
            Type::String(_) | Type::Duration => match value {
                Value::String(_) => Ok(()),
                _ => Err(self.mismatch(found(value), r#type)),
            },
            Type::Bool => match value {
                Value::Bool(_) => Ok(()),
                _ => Err(self.mismatch(found(value), r#type)),
            },
            Type::Int { bits, unsigned } => self.whole(value, *bits, *unsigned, r#type),
            Type::Float => match value {
                Value::Number(_) => Ok(()),
                _ => Err(self.mismatch(found(value), r#type)),
            },
            Type::Bytes => self.bytes(value, r#type),
            Type::Quantity => self.quantity(value),
            Type::IntOrString => match value {
                Value::String(_) => Ok(()),
                Value::Number(_) => self.whole(value, 32, false, &Type::Int { bits: 32, unsigned: false }),
                _ => Err(self.mismatch(found(value), &Type::String("string"))),
            },
            Type::Time | Type::MicroTime => self.time(value, matches!(r#type, Type::MicroTime)),
            Type::Raw => Ok(()),
            Type::Fields => match value {
                Value::Object(_) => Ok(()),
                _ => Err(self.mismatch(found(value), r#type)),
            },
            Type::Message(index) => {
                let message = self.schema.get(*index);
                self.message(value, message)
            }
            Type::MessageOr(instead, index) => {
                let message = self.schema.get(*index);
                match (instead, &mut *value) {
                    (_, Value::Object(_)) => self.message(value, message),
                    (Instead::Flag, Value::Bool(_)) => Ok(()),
                    (Instead::Texts, Value::Array(items)) if items.iter().all(Value::is_string) => Ok(()),
                    (Instead::Messages, Value::Array(items)) => items.iter_mut().enumerate().try_for_each(|(index, item)| {
                        self.path.push(Step::Index(index));
                        self.message(item, message)?;
                        self.path.pop();
                        Ok(())
                    }),
                    _ => Err(self.mismatch(found(value), r#type)),
                }
            }
            Type::List { item, .. } => {
                let Value::Array(items) = value else { return Err(self.mismatch(found(value), r#type)) };
                for (index, child) in items.iter_mut().enumerate() {
                    self.path.push(Step::Index(index));
                    self.element(child, item)?;
                    self.path.pop();
                }
                Ok(())
            }
            Type::Map(item) => {
                let Value::Object(map) = value else { return Err(self.mismatch(found(value), r#type)) };
                for (key, child) in map.iter_mut() {
                    self.path.push(Step::Key(key.clone()));
                    self.element(child, item)?;
                    self.path.pop();
                }
                Ok(())
            }
        }
    }

    /// An item of a list or map: null is the type's zero value.
    fn element(&mut self, value: &mut Value, r#type: &Type) -> Result<(), TypeMismatch> {
        if value.is_null() {
            *value = match r#type {
                Type::String(_) | Type::Bytes => Value::String(String::new()),
                Type::Message(_) => Value::Object(Map::new()),
                Type::Int { .. } | Type::Float | Type::IntOrString => Value::from(0),
                Type::Bool => Value::Bool(false),
                Type::Quantity => Value::String("0".to_owned()),
                _ => return Ok(()),
            };
        }
        self.typed(value, r#type)
    }

    fn whole(&self, value: &mut Value, bits: u8, unsigned: bool, r#type: &Type) -> Result<(), TypeMismatch> {
        let Value::Number(number) = &*value else { return Err(self.mismatch(found(value), r#type)) };
        let fits = match (bits, unsigned) {
            (32, false) => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            (32, true) => number.as_u64().is_some_and(|number| u32::try_from(number).is_ok()),
            (_, true) => number.is_u64(),
            _ => number.is_i64(),
        };
        if fits { Ok(()) } else { Err(self.mismatch(&format!("number {number}"), r#type)) }
    }

    fn bytes(&self, value: &mut Value, r#type: &Type) -> Result<(), TypeMismatch> {
        let Value::String(text) = &*value else { return Err(self.mismatch(found(value), r#type)) };
        let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        match STANDARD.decode(&clean) {
            Ok(_) => {
                *value = Value::String(clean);
                Ok(())
            }
            Err(error) => {
                use base64::DecodeError::{InvalidByte, InvalidLastSymbol};
                let at = match error {
                    InvalidByte(at, _) | InvalidLastSymbol(at, _) => at,
                    _ => clean.len() / 4 * 4,
                };
                Err(TypeMismatch(format!("illegal base64 data at input byte {at}")))
            }
        }
    }

    fn quantity(&self, value: &mut Value) -> Result<(), TypeMismatch> {
        let text = match &*value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            // Go hands the raw text to the parser, which refuses it.
            other => other.to_string(),
        };
        let parsed: Quantity = text.parse().map_err(|error: crate::quantity::ParseError| TypeMismatch(error.to_string()))?;
        *value = Value::String(parsed.to_string());
        Ok(())
    }

    fn time(&self, value: &mut Value, micro: bool) -> Result<(), TypeMismatch> {
        let Value::String(text) = &*value else {
            let found = found(value);
            return Err(TypeMismatch(format!("json: cannot unmarshal {found} into Go value of type string")));
        };
        let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
        let parsed: Timestamp = match text.parse() {
            Ok(parsed) if text.contains('T') => parsed,
            _ => {
                let rest: String = text.chars().take(64).collect();
                return Err(TypeMismatch(format!("parsing time {rest:?} as {layout:?}: cannot parse {rest:?} as \"2006\"")));
            }
        };
        *value = Value::String(if micro { micro_time_text(parsed) } else { time_text(parsed) });
        Ok(())
    }
}

fn join(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}
