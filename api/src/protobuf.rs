//! Kubernetes' protobuf bodies: the `k8s\0` envelope around a message, turned into the value that the same object has
//! in JSON. Driven by the table of types; answers are always JSON, so there is no encoder.
//!
//! Every length comes from outside: nothing is read beyond the slice, nesting is bounded, nothing panics.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use crate::meta::split_api_version;
use crate::schema::check::{micro_time_text, time_text};
use crate::schema::{Field, Instead, Message, Schema, Type, schema};

/// What every protobuf body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";
const MAX_DEPTH: usize = 128;

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first four bytes are others.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The bytes are no protobuf message of this type.
    #[error("proto: {0}")]
    Malformed(String),
    /// The envelope names a type that is not built in.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownType {
        /// As the envelope says.
        api_version: String,
        /// As the envelope says.
        kind: String,
    },
}

type Result<T> = std::result::Result<T, Error>;

fn malformed<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Malformed(what.into()))
}

/// One field as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.rest.split_first() else { return malformed("unexpected EOF") };
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        malformed("integer overflow")
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        if length > self.rest.len() {
            return malformed("unexpected EOF");
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    /// The next field's number and content; `None` at the end.
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let Ok(number) = u32::try_from(key >> 3) else { return malformed("illegal tag") };
        if number == 0 {
            return malformed("illegal tag 0");
        }
        let content = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            2 => {
                let length = self.varint()?;
                let Ok(length) = usize::try_from(length) else { return malformed("invalid length") };
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().unwrap_or_default())),
            other => return malformed(format!("illegal wireType {other}")),
        };
        Ok(Some((number, content)))
    }
}

/// Whether a body is in this format.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// Reads a whole body: the envelope says the type. The value has `apiVersion` and `kind`.
pub fn decode(body: &[u8]) -> Result<Value> {
    let Some(envelope) = body.strip_prefix(MAGIC) else { return Err(Error::NoMagic) };
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader { rest: envelope };
    while let Some((number, content)) = reader.next()? {
        match (number, content) {
            (1, Wire::Bytes(bytes)) => {
                let mut inner = Reader { rest: bytes };
                while let Some((number, content)) = inner.next()? {
                    match (number, content) {
                        (1, Wire::Bytes(bytes)) => api_version = utf8(bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = utf8(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(bytes)) if !bytes.is_empty() => return malformed("unsupported content encoding"),
            _ => {}
        }
    }
    let (group, version) = split_api_version(&api_version);
    let Some(message) = schema().of_kind(group, version, &kind) else {
        return Err(Error::UnknownType { api_version, kind });
    };
    let mut value = decode_message(message, raw)?;
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".to_owned(), api_version.into());
        map.insert("kind".to_owned(), kind.into());
    }
    Ok(value)
}

/// Reads a message without an envelope.
pub fn decode_message(message: &'static Message, bytes: &[u8]) -> Result<Value> {
    let mut map = Map::new();
    Decoder { schema: schema() }.message(message, bytes, &mut map, 0)?;
    Ok(Value::Object(map))
}

fn utf8(bytes: &[u8]) -> Result<String> {
    std::str::from_utf8(bytes).map(str::to_owned).or_else(|_| malformed("string is not valid UTF-8"))
}

struct Decoder {
    schema: &'static Schema,
}

impl Decoder {
    fn message(&self, message: &'static Message, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return malformed("exceeded max depth");
        }
        let mut reader = Reader { rest: bytes };
        while let Some((number, content)) = reader.next()? {
            // Unknown numbers are fields of other versions: skipped, as everywhere in protobuf.
            if let Some(field) = message.fields.iter().find(|field| field.number == number) {
                self.field(field, content, out, depth)?;
            }
        }
        Ok(())
    }

    fn field(&self, field: &'static Field, content: Wire<'_>, out: &mut Map<String, Value>, depth: usize) -> Result<()> {
        if let (true, Type::Message(index)) = (field.inline, &field.r#type) {
            let Wire::Bytes(bytes) = content else { return malformed("wrong wireType") };
            return self.message(self.schema.get(*index), bytes, out, depth + 1);
        }
        match &field.r#type {
            Type::List { item, wrapped: false } => {
                let slot = out.entry(field.json).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = slot else { return Ok(()) };
                match (&**item, content) {
                    // Numbers may be packed together.
                    (Type::Int { .. } | Type::Bool, Wire::Bytes(bytes)) => {
                        let mut reader = Reader { rest: bytes };
                        while !reader.rest.is_empty() {
                            let number = reader.varint()?;
                            items.push(self.value(item, Wire::Varint(number), depth)?);
                        }
                    }
                    (_, content) => items.push(self.value(item, content, depth)?),
                }
            }
            Type::Map(item) => {
                let Wire::Bytes(bytes) = content else { return malformed("wrong wireType for map") };
                let (key, value) = self.entry(item, bytes, depth)?;
                let slot = out.entry(field.json).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = slot {
                    map.insert(key, value);
                }
            }
            r#type => {
                let value = self.value(r#type, content, depth)?;
                // The Go encoder writes zero values of plain fields; in JSON they are absent.
                let empty = match &value {
                    Value::Null => true,
                    Value::String(text) => text.is_empty(),
                    Value::Bool(flag) => !flag,
                    Value::Number(number) => number.as_f64() == Some(0.0),
                    _ => false,
                };
                if !empty || field.pointer || !field.omit_empty {
                    out.insert(field.json.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    fn entry(&self, item: &'static Type, bytes: &[u8], depth: usize) -> Result<(String, Value)> {
        let mut reader = Reader { rest: bytes };
        let (mut key, mut value) = (String::new(), None);
        while let Some((number, content)) = reader.next()? {
            match (number, content) {
                (1, Wire::Bytes(bytes)) => key = utf8(bytes)?,
                (2, content) => value = Some(self.value(item, content, depth + 1)?),
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => match item {
                Type::String(_) | Type::Bytes => Value::String(String::new()),
                _ => self.value(item, Wire::Bytes(&[]), depth + 1)?,
            },
        };
        Ok((key, value))
    }

    fn value(&self, r#type: &'static Type, content: Wire<'_>, depth: usize) -> Result<Value> {
        Ok(match (r#type, content) {
            (Type::Bool, Wire::Varint(number)) => Value::Bool(number != 0),
            (Type::Int { unsigned: true, .. }, Wire::Varint(number)) => number.into(),
            #[expect(clippy::cast_possible_truncation, reason = "32-bit fields hold sign-extended 64-bit varints")]
            (Type::Int { bits: 32, .. }, Wire::Varint(number)) => (number as i32).into(),
            (Type::Int { .. }, Wire::Varint(number)) => number.cast_signed().into(),
            (Type::Float, Wire::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
            (Type::Float, Wire::Fixed32(bits)) => Value::from(f64::from(f32::from_bits(bits))),
            (Type::String(_), Wire::Bytes(bytes)) => utf8(bytes)?.into(),
            (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Type::Quantity, Wire::Bytes(bytes)) => match text_field(bytes, 1)? {
                text if text.is_empty() => "0".into(),
                text => text.into(),
            },
            (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
            (Type::Time, Wire::Bytes(bytes)) => time(bytes, false)?,
            (Type::MicroTime, Wire::Bytes(bytes)) => time(bytes, true)?,
            (Type::Duration, Wire::Bytes(bytes)) => duration(bytes)?,
            (Type::Raw | Type::Fields, Wire::Bytes(bytes)) => raw(bytes)?,
            (Type::Message(index), Wire::Bytes(bytes)) => {
                let mut map = Map::new();
                self.message(self.schema.get(*index), bytes, &mut map, depth + 1)?;
                Value::Object(map)
            }
            (Type::MessageOr(instead, index), Wire::Bytes(bytes)) => self.message_or(*instead, *index, bytes, depth + 1)?,
            (Type::List { item, .. }, Wire::Bytes(bytes)) => {
                let mut reader = Reader { rest: bytes };
                let mut items = Vec::new();
                while let Some((number, content)) = reader.next()? {
                    if number == 1 {
                        items.push(self.value(item, content, depth + 1)?);
                    }
                }
                Value::Array(items)
            }
            _ => return malformed("wrong wireType"),
        })
    }
}

impl Decoder {
    /// A message, or what stands in its place: the wrappers of apiextensions' `JSONSchemaPropsOr…`.
    fn message_or(&self, instead: Instead, index: usize, bytes: &[u8], depth: usize) -> Result<Value> {
        let message = |bytes: &[u8]| -> Result<Value> {
            let mut map = Map::new();
            self.message(self.schema.get(index), bytes, &mut map, depth + 1)?;
            Ok(Value::Object(map))
        };
        let mut reader = Reader { rest: bytes };
        let mut out = if instead == Instead::Flag { Value::Bool(false) } else { Value::Null };
        while let Some((number, content)) = reader.next()? {
            match (instead, number, content) {
                (Instead::Flag, 1, Wire::Varint(flag)) if !out.is_object() => out = Value::Bool(flag != 0),
                (Instead::Flag, 2, Wire::Bytes(bytes)) | (Instead::Messages | Instead::Texts, 1, Wire::Bytes(bytes)) => {
                    out = message(bytes)?;
                }
                (Instead::Messages | Instead::Texts, 2, Wire::Bytes(bytes)) => {
                    let item = if instead == Instead::Texts { utf8(bytes)?.into() } else { message(bytes)? };
                    match &mut out {
                        Value::Array(items) => items.push(item),
                        other => *other = Value::Array(vec![item]),
                    }
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

fn text_field(bytes: &[u8], wanted: u32) -> Result<String> {
    let mut reader = Reader { rest: bytes };
    let mut out = String::new();
    while let Some((number, content)) = reader.next()? {
        if let (true, Wire::Bytes(bytes)) = (number == wanted, content) {
            out = utf8(bytes)?;
        }
    }
    Ok(out)
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let mut reader = Reader { rest: bytes };
    let (mut is_text, mut number_value, mut text) = (false, 0i64, String::new());
    while let Some((number, content)) = reader.next()? {
        match (number, content) {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(value)) => number_value = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number_value.into() })
}

fn time(bytes: &[u8], micro: bool) -> Result<Value> {
    let mut reader = Reader { rest: bytes };
    let (mut seconds, mut nanos) = (0i64, 0i64);
    while let Some((number, content)) = reader.next()? {
        match (number, content) {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    // No content, and Go's zero time, are no time.
    if bytes.is_empty() || seconds == -62_135_596_800 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).ok().filter(|nanos| (0..1_000_000_000).contains(nanos));
    let time = nanos.and_then(|nanos| Timestamp::new(seconds, nanos).ok());
    match time {
        Some(time) if micro => Ok(micro_time_text(time).into()),
        Some(time) => Ok(time_text(time).into()),
        None => malformed("time out of range"),
    }
}

fn duration(bytes: &[u8]) -> Result<Value> {
    let mut reader = Reader { rest: bytes };
    let mut nanos = 0i64;
    while let Some((number, content)) = reader.next()? {
        if let (1, Wire::Varint(value)) = (number, content) {
            nanos = value.cast_signed();
        }
    }
    let (sign, nanos) = if nanos < 0 { ("-", nanos.unsigned_abs()) } else { ("", nanos.unsigned_abs()) };
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let fraction = if rest == 0 { String::new() } else { format!(".{rest:09}").trim_end_matches('0').to_owned() };
    Ok(match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{sign}{s}{fraction}s"),
        (0, m, s) => format!("{sign}{m}m{s}{fraction}s"),
        (h, m, s) => format!("{sign}{h}h{m}m{s}{fraction}s"),
    }
    .into())
}

/// JSON inside protobuf: an object of any type, or a field set.
fn raw(bytes: &[u8]) -> Result<Value> {
    let mut reader = Reader { rest: bytes };
    let mut inner = &[][..];
    while let Some((number, content)) = reader.next()? {
        if let (1, Wire::Bytes(bytes)) = (number, content) {
            inner = bytes;
        }
    }
    if inner.is_empty() {
        return Ok(Value::Null);
    }
    if is_protobuf(inner) {
        return decode(inner);
    }
    serde_json::from_slice(inner).or_else(|_| malformed("raw extension is not JSON"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        out.push(u8::try_from(value).unwrap_or(0));
    }

    fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint(number << 3 | 2, &mut out);
        varint(content.len() as u64, &mut out);
        out.extend_from_slice(content);
        out
    }

    fn number(number: u64, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint(number << 3, &mut out);
        varint(value, &mut out);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
    }

    #[test]
    fn config_map_and_volume() {
        let meta = [bytes(1, b"a"), bytes(3, b"n"), bytes(5, b""), bytes(8, &[]), bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat())].concat();
        let body = envelope("v1", "ConfigMap", &[bytes(1, &meta), bytes(2, &[bytes(1, b"x"), bytes(2, b"y")].concat()), bytes(3, &[bytes(1, b"b"), bytes(2, &[0, 255])].concat())].concat());
        assert_eq!(decode(&body).expect("body"), json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": "n", "labels": {"k": "v"}}, "data": {"x": "y"}, "binaryData": {"b": "AP8="}}));

        let volume = schema().named("core/v1.Volume").expect("type");
        let secret = [bytes(1, b"s"), number(3, 420)].concat();
        let inline = bytes(6, &secret);
        let value = decode_message(volume, &[bytes(1, b"v"), bytes(2, &inline)].concat()).expect("volume");
        assert_eq!(value, json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}));
    }

    #[test]
    fn special_types() {
        let quota = envelope("v1", "ResourceQuota", &bytes(2, &bytes(1, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat())));
        assert_eq!(decode(&quota).expect("quota")["spec"], json!({"hard": {"cpu": "100m"}}));
        let port = schema().named("core/v1.ServicePort").expect("type");
        let value = decode_message(port, &bytes(4, &[number(1, 1), bytes(3, b"http")].concat())).expect("port");
        assert_eq!(value["targetPort"], json!("http"));
        let options = envelope("v1", "DeleteOptions", &[number(1, 0), bytes(4, b"Background")].concat());
        assert_eq!(decode(&options).expect("options"), json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background"}));
        let time = schema().named("core/v1.Event").expect("type");
        let value = decode_message(time, &bytes(6, &number(1, 1_700_000_000))).expect("event");
        assert_eq!(value["firstTimestamp"], json!("2023-11-14T22:13:20Z"));
    }

    #[test]
    fn refuses() {
        assert_eq!(decode(b"{}"), Err(Error::NoMagic));
        assert!(matches!(decode(&envelope("v9", "Nope", b"")), Err(Error::UnknownType { .. })));
        assert!(matches!(decode(&envelope("v1", "Pod", b"\x0a\xff")), Err(Error::Malformed(_))));
    }

    proptest! {
        #[test]
        fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in ["Pod", "Secret", "Event", "Namespace"] {
                let _ = decode(&envelope("v1", kind, &raw));
            }
            let _ = decode(&[MAGIC.to_vec(), raw].concat());
        }
    }
}
