//! The types of the checker, how they are written and when one fits another.

use std::fmt;
use std::sync::Arc;

/// A type as the checker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Optional(Box<Type>),
    /// The type of a type: `type(1)`.
    Type,
    /// An object whose fields the environment's declarations tell, by its name.
    Object(Arc<str>),
    /// A type with functions and no fields: `kubernetes.Quantity`.
    Opaque(&'static str),
    /// A type parameter of an overload.
    Param(char),
    /// A type variable while checking.
    Var(u32),
}

/// The opaque types and the short names that signatures use for them.
const OPAQUE: [(&str, &str); 11] = [
    ("url", "kubernetes.URL"),
    ("ip", "net.IP"),
    ("cidr", "net.CIDR"),
    ("quantity", "kubernetes.Quantity"),
    ("semver", "kubernetes.Semver"),
    ("namedformat", "kubernetes.NamedFormat"),
    ("authorizer", "kubernetes.authorization.Authorizer"),
    ("pathcheck", "kubernetes.authorization.PathCheck"),
    ("groupcheck", "kubernetes.authorization.GroupCheck"),
    ("resourcecheck", "kubernetes.authorization.ResourceCheck"),
    ("decision", "kubernetes.authorization.Decision"),
];

impl Type {
    /// A list of these.
    pub fn list(of: Type) -> Self {
        Self::List(Box::new(of))
    }

    /// A map from strings.
    pub fn map(of: Type) -> Self {
        Self::Map(Box::new(Self::String), Box::new(of))
    }

    /// An optional of this type.
    pub fn optional(of: Type) -> Self {
        Self::Optional(Box::new(of))
    }

    /// An object type by name.
    pub fn object(name: &str) -> Self {
        Self::Object(name.into())
    }

    /// The type of the `authorizer` variable.
    pub fn authorizer() -> Self {
        Self::Opaque("kubernetes.authorization.Authorizer")
    }

    /// The type of an already narrowed `authorizer.requestResource`.
    pub fn resource_check() -> Self {
        Self::Opaque("kubernetes.authorization.ResourceCheck")
    }

    /// The name at run time: what `type(x)` is.
    pub fn runtime_name(&self) -> &str {
        match self {
            Self::Dyn | Self::Param(_) | Self::Var(_) => "dyn",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Duration => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(..) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type => "type",
            Self::Object(name) => name,
            Self::Opaque(name) => name,
        }
    }

    /// The type that a signature's word means: `list(A)`, `map(A,B)`, `quantity`. An unknown word is `dyn`.
    pub(crate) fn of_signature(text: &str) -> Self {
        let text = text.trim();
        if let Some((head, rest)) = text.split_once('(') {
            let inner = rest.strip_suffix(')').unwrap_or(rest);
            let parts = split_arguments(inner);
            let at = |i: usize| parts.get(i).map_or(Self::Dyn, |part| Self::of_signature(part));
            return match head {
                "list" => Self::list(at(0)),
                "map" => Self::Map(Box::new(at(0)), Box::new(at(1))),
                _ => Self::optional(at(0)),
            };
        }
        match text {
            "null" => Self::Null,
            "bool" => Self::Bool,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "timestamp" => Self::Timestamp,
            "duration" => Self::Duration,
            "type" => Self::Type,
            "A" | "B" => Self::Param(text.chars().next().unwrap_or('A')),
            other => {
                OPAQUE.iter().find(|(short, _)| *short == other).map_or(Self::Dyn, |(_, name)| Self::Opaque(name))
            }
        }
    }
}

/// `a,list(b,c)` → `a`, `list(b,c)`.
pub(crate) fn split_arguments(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

impl fmt::Display for Type {
    /// As cel-go's messages write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Param(name) => write!(f, "{name}"),
            other => f.write_str(other.runtime_name()),
        }
    }
}

/// Type variables and what they stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unifier {
    bound: Vec<Option<Type>>,
}

impl Unifier {
    pub fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Var(u32::try_from(self.bound.len() - 1).unwrap_or(u32::MAX))
    }

    /// The type with every bound variable replaced; a free one is `dyn` when `settle`.
    pub fn resolve(&self, of: &Type, settle: bool) -> Type {
        match of {
            Type::Var(index) => match self.bound.get(*index as usize).and_then(Option::as_ref) {
                Some(bound) => self.resolve(bound, settle),
                None if settle => Type::Dyn,
                None => of.clone(),
            },
            Type::List(inner) => Type::list(self.resolve(inner, settle)),
            Type::Optional(inner) => Type::optional(self.resolve(inner, settle)),
            Type::Map(key, value) => {
                Type::Map(Box::new(self.resolve(key, settle)), Box::new(self.resolve(value, settle)))
            }
            other => other.clone(),
        }
    }

    /// Whether a value of type `given` may stand where `wanted` is asked for; binds variables on the way. On refusal
    /// nothing stays bound.
    pub fn fits(&mut self, wanted: &Type, given: &Type) -> bool {
        let before = self.bound.clone();
        let fits = self.unify(wanted, given);
        if !fits {
            self.bound = before;
        }
        fits
    }

    fn unify(&mut self, wanted: &Type, given: &Type) -> bool {
        let (wanted, given) = (self.resolve(wanted, false), self.resolve(given, false));
        match (&wanted, &given) {
            (a, b) if a == b => true,
            (Type::Dyn, Type::Var(_)) | (Type::Var(_), Type::Dyn) => true,
            (Type::Var(index), other) | (other, Type::Var(index)) => {
                !occurs(*index, other) && self.bind(*index, other.clone())
            }
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.unify(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.unify(a, c) && self.unify(b, d),
            (
                Type::Timestamp | Type::Duration | Type::Object(_) | Type::Opaque(_) | Type::Optional(_),
                Type::Null,
            )
            | (
                Type::Null,
                Type::Timestamp | Type::Duration | Type::Object(_) | Type::Opaque(_) | Type::Optional(_),
            ) => true,
            _ => false,
        }
    }

    fn bind(&mut self, index: u32, to: Type) -> bool {
        match self.bound.get_mut(index as usize) {
            Some(slot) => {
                *slot = Some(to);
                true
            }
            None => false,
        }
    }

    /// A copy of a signature's types with its parameters replaced by fresh variables.
    pub fn instantiate(&mut self, types: &[Type]) -> Vec<Type> {
        let mut known: Vec<(char, Type)> = Vec::new();
        types.iter().map(|of| self.instance(of, &mut known)).collect()
    }

    fn instance(&mut self, of: &Type, known: &mut Vec<(char, Type)>) -> Type {
        match of {
            Type::Param(name) => match known.iter().find(|(other, _)| other == name) {
                Some((_, var)) => var.clone(),
                None => {
                    let var = self.fresh();
                    known.push((*name, var.clone()));
                    var
                }
            },
            Type::List(inner) => Type::list(self.instance(inner, known)),
            Type::Optional(inner) => Type::optional(self.instance(inner, known)),
            Type::Map(key, value) => {
                Type::Map(Box::new(self.instance(key, known)), Box::new(self.instance(value, known)))
            }
            other => other.clone(),
        }
    }
}

fn occurs(index: u32, within: &Type) -> bool {
    match within {
        Type::Var(other) => *other == index,
        Type::List(inner) | Type::Optional(inner) => occurs(index, inner),
        Type::Map(key, value) => occurs(index, key) || occurs(index, value),
        _ => false,
    }
}
