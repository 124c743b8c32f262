//! Values at run time, and their way from and to JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;

use crate::budget::Budget;
use crate::error::EvalError;
use crate::kube::authz::Authz;
use crate::kube::named::Format;
use crate::kube::net::Cidr;
use crate::kube::quantity::Quantity;
use crate::kube::semver::Semver;
use crate::kube::url::Url;
use crate::types::Type;

/// A value whose fields are found out when asked for: the variables of an admission policy.
pub trait Dynamic: Send + Sync {
    /// The value of a field, or none where there is no such field.
    fn field(&self, name: &str, budget: &mut Budget) -> Result<Option<Value>, EvalError>;
}

/// A value of the language.
#[derive(Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds since 1970.
    Timestamp(i128),
    /// Nanoseconds.
    Duration(i64),
    List(Arc<Vec<Value>>),
    Map(Arc<BTreeMap<Key, Value>>),
    Optional(Option<Arc<Value>>),
    Type(Arc<str>),
    /// What `Name{field: value}` makes.
    Object(Arc<Object>),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    Quantity(Quantity),
    Semver(Arc<Semver>),
    Format(Format),
    Authz(Arc<Authz>),
    Dynamic(Arc<dyn Dynamic>),
}

/// An object that an expression made: its type's name and the fields that were set.
#[derive(Clone, Debug)]
pub struct Object {
    pub name: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Value>,
}

/// What may be a map's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Arc<str>),
}

impl Key {
    /// The key as a value.
    pub fn value(&self) -> Value {
        match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(i) => Value::Int(*i),
            Self::Uint(u) => Value::Uint(*u),
            Self::String(s) => Value::String(s.clone()),
        }
    }

    /// The key that a value is, if its type may be one.
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(b) => Some(Self::Bool(*b)),
            Value::Int(i) => Some(Self::Int(*i)),
            Value::Uint(u) => Some(Self::Uint(*u)),
            Value::String(s) => Some(Self::String(s.clone())),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&serde_json::Value> for Value {
    /// Integers become int, other numbers double, objects maps from strings.
    fn from(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Self::Int(i),
                (None, Some(u)) => Self::Uint(u),
                (None, None) => Self::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Self::from(s.as_str()),
            serde_json::Value::Array(items) => Self::list(items.iter().map(Self::from).collect()),
            serde_json::Value::Object(map) => {
                let entries = map.iter().map(|(key, value)| (Key::String(key.as_str().into()), Self::from(value)));
                Self::Map(Arc::new(entries.collect()))
            }
        }
    }
}

impl Value {
    /// A list of these.
    pub fn list(items: Vec<Value>) -> Self {
        Self::List(Arc::new(items))
    }

    /// A list of strings.
    pub fn strings<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Self {
        Self::list(items.into_iter().map(|item| Self::from(item.as_ref())).collect())
    }

    /// An optional that holds this.
    pub fn some(value: Value) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The empty optional.
    pub fn none() -> Self {
        Self::Optional(None)
    }

    /// The name of the type at run time.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) | Self::Dynamic(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Object(object) => &object.name,
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authz(authz) => authz.type_name(),
        }
    }

    /// Whether this may be passed where an overload asks for `of`; elements are not looked at.
    pub(crate) fn matches(&self, of: &Type) -> bool {
        match of {
            Type::Dyn | Type::Param(_) | Type::Var(_) => true,
            Type::Map(..) => matches!(self, Self::Map(_) | Self::Dynamic(_) | Self::Object(_)),
            other => self.type_name() == other.runtime_name(),
        }
    }

    /// As JSON: times and durations as strings, bytes in base64, an empty optional as null.
    ///
    /// # Errors
    /// Values that have no JSON form (types, authorizer checks), numbers that are not finite.
    pub fn to_json(&self) -> Result<serde_json::Value, EvalError> {
        use serde_json::Value as Json;
        Ok(match self {
            Self::Null | Self::Optional(None) => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => Json::from(*i),
            Self::Uint(u) => Json::from(*u),
            Self::Double(d) => serde_json::Number::from_f64(*d)
                .map(Json::Number)
                .ok_or_else(|| EvalError::new("a number that is not finite has no JSON form"))?,
            Self::Bytes(b) => Json::String(base64::engine::general_purpose::STANDARD.encode(b)),
            Self::List(items) => Json::Array(items.iter().map(Self::to_json).collect::<Result<_, _>>()?),
            Self::Map(map) => {
                let entry = |(key, value): (&Key, &Self)| Ok((key.to_string(), value.to_json()?));
                Json::Object(map.iter().map(entry).collect::<Result<_, EvalError>>()?)
            }
            Self::Object(object) => {
                let entry = |(key, value): (&Arc<str>, &Self)| Ok((key.to_string(), value.to_json()?));
                Json::Object(object.fields.iter().map(entry).collect::<Result<_, EvalError>>()?)
            }
            Self::Optional(Some(value)) => value.to_json()?,
            Self::String(_)
            | Self::Timestamp(_)
            | Self::Duration(_)
            | Self::Url(_)
            | Self::Ip(_)
            | Self::Cidr(_)
            | Self::Quantity(_)
            | Self::Semver(_) => Json::String(self.to_string()),
            Self::Type(_) | Self::Format(_) | Self::Authz(_) | Self::Dynamic(_) => {
                return Err(EvalError::new(format!("a value of type '{}' has no JSON form", self.type_name())));
            }
        })
    }

    /// What a size is charged for: characters, bytes, elements.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::String(s) => s.len(),
            Self::Bytes(b) => b.len(),
            Self::List(items) => items.len(),
            Self::Map(map) => map.len(),
            _ => 1,
        }
    }

    /// Whether this is what its type starts from: zero, empty, none.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null | Self::Optional(None) => true,
            Self::Bool(b) => !b,
            Self::Int(i) => *i == 0,
            Self::Uint(u) => *u == 0,
            Self::Double(d) => *d == 0.0,
            Self::Duration(d) => *d == 0,
            Self::String(_) | Self::Bytes(_) | Self::List(_) | Self::Map(_) => self.size() == 0,
            Self::Object(object) => object.fields.is_empty(),
            _ => false,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Uint(u) => write!(f, "{u}"),
            Self::String(s) => f.write_str(s),
        }
    }
}

impl fmt::Display for Value {
    /// As `string(value)` writes it; composites as Go's `%v` would.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null | Self::Optional(None) => f.write_str("null"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Uint(u) => write!(f, "{u}"),
            Self::Double(d) => f.write_str(&crate::functions::convert::double_text(*d)),
            Self::String(s) | Self::Type(s) => f.write_str(s),
            Self::Bytes(b) => f.write_str(&String::from_utf8_lossy(b)),
            Self::Timestamp(nanos) => f.write_str(&crate::functions::time::timestamp_text(*nanos)),
            Self::Duration(nanos) => f.write_str(&crate::functions::time::duration_text(*nanos)),
            Self::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Map(map) => {
                f.write_str("{")?;
                for (at, (key, value)) in map.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Self::Object(object) => {
                write!(f, "{}{{", object.name)?;
                for (at, (key, value)) in object.fields.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Self::Optional(Some(value)) => write!(f, "optional({value})"),
            Self::Url(url) => f.write_str(url.text()),
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Cidr(cidr) => write!(f, "{cidr}"),
            Self::Quantity(quantity) => write!(f, "{quantity}"),
            Self::Semver(version) => write!(f, "{version}"),
            Self::Format(format) => f.write_str(format.name()),
            Self::Authz(_) | Self::Dynamic(_) => f.write_str(self.type_name()),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.type_name())
    }
}
