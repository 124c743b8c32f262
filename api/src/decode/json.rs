//! JSON with duplicate keys noticed and depth bounded.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Decoded, MAX_DEPTH, Step, Trace};

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    let trace = RefCell::new(Trace::default());
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { trace: &trace, depth: 0 }.deserialize(&mut reader).map_err(|error| problem(&error))?;
    reader.end().map_err(|error| problem(&error))?;
    Ok(trace.into_inner().finish(value))
}

fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if error.is_eof() { "unexpected end of JSON input".to_owned() } else { text }
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Seed<'a> {
    trace: &'a RefCell<Trace>,
    depth: usize,
}

impl Seed<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("exceeded max depth"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
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
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
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
        while let Some(key) = access.next_key::<String>()? {
            // serde_json hands over numbers of arbitrary size as maps of this name only with a feature we do not use.
            if key.len() > 1024 * 1024 {
                return Err(A::Error::custom("a key is too long"));
            }
            self.trace.borrow_mut().enter(&key, map.contains_key(&key));
            let value = access.next_value_seed(seed)?;
            self.trace.borrow_mut().path.pop();
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
