//! YAML as `sigs.k8s.io/yaml` reads it: YAML 1.1's words for true and false, octal numbers, whole floats as integers,
//! keys as text. Quoted text stays text.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Decoded, MAX_DEPTH, Step, Trace};

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid UTF-8".to_owned())?;
    if too_deep(text) {
        return Err("yaml: exceeded max depth".to_owned());
    }
    let trace = RefCell::new(Trace::default());
    let seed = Seed { trace: &trace, input: text, depth: 0 };
    let value = seed.deserialize(serde_yaml_ng::Deserializer::from_str(text)).map_err(|error| format!("yaml: {error}"))?;
    Ok(trace.into_inner().finish(value))
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    trace: &'a RefCell<Trace>,
    input: &'a str,
    depth: usize,
}

/// What a plain (unquoted) scalar that the library took for text means in YAML 1.1.
fn plain(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some(true.into()),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some(false.into()),
        _ => {}
    }
    let bare = text.replace('_', "");
    let (sign, digits) = match bare.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", bare.strip_prefix('+').unwrap_or(&bare)),
    };
    let starts_with_digit = digits.starts_with(|c: char| c.is_ascii_digit());
    if !starts_with_digit || text.starts_with('_') {
        return None;
    }
    let number = |digits: &str, radix| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok().map(Value::from);
    if let Some(rest) = digits.strip_prefix('0').filter(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit())) {
        return number(rest, 8);
    }
    // A plain number would have been read as one: without an underscore this one was tagged as text.
    if bare != text && digits.bytes().all(|b| b.is_ascii_digit()) { number(digits, 10) } else { None }
}

/// Whether brackets are nested deeper than anything reasonable. The library's time grows with depth times length, so
/// this is asked before it sees the text. Only brackets where a value may begin are counted.
fn too_deep(text: &str) -> bool {
    let (mut depth, mut begins) = (0usize, true);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' if begins => {
                depth += 1;
                if depth > MAX_FLOW_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        begins = match byte {
            b' ' | b'\t' => begins,
            b'\n' | b'\r' | b'[' | b'{' | b',' | b':' | b'-' | b'?' => true,
            _ => false,
        };
    }
    false
}

const MAX_FLOW_DEPTH: usize = 2 * MAX_DEPTH;

impl Seed<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("exceeded max depth"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    /// Whether text that the library lent us stands unquoted in the input.
    fn is_plain(&self, text: &str) -> bool {
        let start = (text.as_ptr() as usize).checked_sub(self.input.as_ptr() as usize);
        let Some(start) = start.filter(|start| start + text.len() <= self.input.len()) else { return false };
        start == 0 || !matches!(self.input.as_bytes()[start - 1], b'"' | b'\'')
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
        if value.fract() == 0.0 && value.abs() < 9.0e15 {
            return Ok((value as i64).into());
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value, E> {
        let meant = if self.is_plain(value) { plain(value) } else { None };
        Ok(meant.unwrap_or_else(|| Value::String(value.to_owned())))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut items = Vec::new();
        loop {
            self.trace.borrow_mut().path.push(Step::Index(items.len()));
            let item = access.next_element_seed(seed)?;
            self.trace.borrow_mut().path.pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(seed)? {
            let key = match key {
                Value::String(key) => key,
                Value::Array(_) | Value::Object(_) => {
                    return Err(serde::de::Error::custom("a map key must be a scalar"));
                }
                other => other.to_string(),
            };
            self.trace.borrow_mut().enter(&key, map.contains_key(&key));
            let value = access.next_value_seed(seed)?;
            self.trace.borrow_mut().path.pop();
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
