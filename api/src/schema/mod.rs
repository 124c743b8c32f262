//! The facts about Kubernetes' built-in types that everything type-driven reads: checking, protobuf, patches, managed
//! fields. The table is `data/types.txt`, derived from the Go types by `tools/typetable.go`.
//!
//! What is *not* here: rules about values (those are in `kinds`).

pub mod check;

use std::collections::BTreeMap;
use std::sync::OnceLock;

static TABLE: &str = include_str!("../../data/types.txt");

/// The type of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// Text; the Go name of the type, such as `v1.Protocol`.
    String(&'static str),
    /// `true` or `false`.
    Bool,
    /// A whole number of so many bits; signed unless said.
    Int {
        /// 32 or 64.
        bits: u8,
        /// No negative numbers.
        unsigned: bool,
    },
    /// A floating-point number.
    Float,
    /// Base64 in JSON.
    Bytes,
    /// `100m`, `1Gi`
    Quantity,
    /// A number or text (`25%`).
    IntOrString,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Go's duration text.
    Duration,
    /// Anything: a whole object of any kind.
    Raw,
    /// The field set of a managed-fields entry.
    Fields,
    /// Another message of the table.
    Message(usize),
    /// A message of the table, or something simpler in its place.
    MessageOr(Instead, usize),
    /// A list. `wrapped`: a message of its own in protobuf (a named list).
    List {
        /// The items' type.
        item: Box<Type>,
        /// In protobuf: inside a message, as its field 1.
        wrapped: bool,
    },
    /// A map with text keys.
    Map(Box<Type>),
}

/// What may stand in the place of a message. In protobuf each is a wrapper: (message, the other), a flag first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// A list of such messages.
    Messages,
    /// True or false.
    Flag,
    /// A list of texts.
    Texts,
}

/// How a list is merged by server-side apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// Scalars, each owned by itself.
    Set,
    /// Items found by these keys.
    Map(Vec<&'static str>),
}

/// One field of a message.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its JSON name; empty where it is inlined.
    pub json: &'static str,
    /// Its protobuf number; 0: not in protobuf.
    pub number: u32,
    /// Its type.
    pub r#type: Type,
    /// Absent and zero are different.
    pub pointer: bool,
    /// Left out of JSON when empty.
    pub omit_empty: bool,
    /// Left out of JSON when it is a zero struct.
    pub omit_zero: bool,
    /// Its fields stand in the JSON of the message around it.
    pub inline: bool,
    /// Strategic merge patch merges it (lists) instead of replacing.
    pub merge: bool,
    /// Strategic merge patch may name the keys to keep.
    pub retain_keys: bool,
    /// The key that strategic merge patch finds list items by.
    pub merge_key: Option<&'static str>,
    /// How server-side apply merges the list, where said.
    pub list_type: Option<ListType>,
    /// Server-side apply takes the map or struct as one value.
    pub atomic: bool,
}

/// A struct type.
#[derive(Debug)]
pub struct Message {
    /// `core/v1.Pod`
    pub name: &'static str,
    /// Its fields as they stand in protobuf.
    pub fields: Vec<Field>,
    /// The same as they stand in JSON (inlined messages opened up).
    pub json: BTreeMap<&'static str, Field>,
    /// Server-side apply takes it as one value.
    pub atomic: bool,
}

impl Message {
    /// `v1.Pod`, as Go names the type.
    pub fn go_name(&self) -> &'static str {
        self.name.rsplit_once('/').map_or(self.name, |(_, short)| short)
    }

    /// `Pod`
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, short)| short)
    }
}

/// All types.
#[derive(Debug)]
pub struct Schema {
    messages: Vec<Message>,
    by_name: BTreeMap<&'static str, usize>,
}

/// The table, parsed once.
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::parse(TABLE))
}

/// The folder that a group's types stand in: `apps`, `core`, `rbac`.
fn folder(group: &str) -> &str {
    match group {
        "" => "core",
        "rbac.authorization.k8s.io" => "rbac",
        "flowcontrol.apiserver.k8s.io" => "flowcontrol",
        // Groups of custom resources (`apps.example.com`) are none of these.
        _ => group.strip_suffix(".k8s.io").unwrap_or(group),
    }
}

impl Schema {
    /// A message by number.
    pub fn get(&self, index: usize) -> &Message {
        &self.messages[index]
    }

    /// A message by its name, such as `meta/v1.ObjectMeta`.
    pub fn named(&self, name: &str) -> Option<&Message> {
        self.by_name.get(name).map(|index| &self.messages[*index])
    }

    /// The message of a kind. Kinds of `meta/v1` (such as `DeleteOptions`) are found in every group.
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Message> {
        let own = format!("{}/{version}.{kind}", folder(group));
        self.named(&own).or_else(|| {
            let meta = matches!(
                kind,
                "DeleteOptions" | "Status" | "ListOptions" | "GetOptions" | "CreateOptions" | "UpdateOptions" | "PatchOptions"
                    | "APIResourceList" | "APIGroup" | "APIGroupList" | "APIVersions" | "Table" | "PartialObjectMetadata"
            );
            meta.then(|| self.named(&format!("meta/v1.{kind}"))).flatten()
        })
    }

    /// What Go calls the type: `[]v1.Container`, `int32`.
    pub fn go_type(&self, r#type: &Type) -> String {
        match r#type {
            Type::String(name) => (*name).to_owned(),
            Type::Bool => "bool".to_owned(),
            Type::Int { bits, unsigned } => format!("{}int{bits}", if *unsigned { "u" } else { "" }),
            Type::Float => "float64".to_owned(),
            Type::Bytes => "[]uint8".to_owned(),
            Type::Quantity => "resource.Quantity".to_owned(),
            Type::IntOrString => "intstr.IntOrString".to_owned(),
            Type::Time => "v1.Time".to_owned(),
            Type::MicroTime => "v1.MicroTime".to_owned(),
            Type::Duration => "v1.Duration".to_owned(),
            Type::Raw => "runtime.RawExtension".to_owned(),
            Type::Fields => "v1.FieldsV1".to_owned(),
            Type::Message(index) => self.get(*index).go_name().to_owned(),
            Type::MessageOr(instead, index) => {
                let or = match instead {
                    Instead::Messages => "OrArray",
                    Instead::Flag => "OrBool",
                    Instead::Texts => "OrStringArray",
                };
                format!("{}{or}", self.get(*index).go_name())
            }
            Type::List { item, .. } => format!("[]{}", self.go_type(item)),
            Type::Map(value) => format!("map[string]{}", self.go_type(value)),
        }
    }

    fn parse(table: &'static str) -> Self {
        let mut by_name = BTreeMap::new();
        for (index, line) in table.lines().filter(|line| line.starts_with("T ")).enumerate() {
            let name = line[2..].split(' ').next().unwrap_or_default();
            by_name.insert(name, index);
        }
        let mut messages: Vec<Message> = Vec::with_capacity(by_name.len());
        for line in table.lines() {
            if let Some(head) = line.strip_prefix("T ") {
                let (name, mark) = head.split_once(' ').unwrap_or((head, ""));
                messages.push(Message { name, fields: Vec::new(), json: BTreeMap::new(), atomic: mark == "atomic" });
            } else if let (Some(message), Some(field)) = (messages.last_mut(), parse_field(line, &by_name)) {
                message.fields.push(field);
            }
        }
        let opened: Vec<_> = (0..messages.len()).map(|index| open(&messages, index)).collect();
        for (message, json) in messages.iter_mut().zip(opened) {
            message.json = json;
        }
        Self { messages, by_name }
    }
}

fn open(messages: &[Message], index: usize) -> BTreeMap<&'static str, Field> {
    let mut out = BTreeMap::new();
    for field in &messages[index].fields {
        match (&field.r#type, field.inline) {
            (Type::Message(inner), true) => {
                for (name, field) in open(messages, *inner) {
                    out.entry(name).or_insert(field);
                }
            }
            _ => {
                out.insert(field.json, field.clone());
            }
        }
    }
    out
}

fn parse_type(text: &'static str, by_name: &BTreeMap<&'static str, usize>) -> Option<(Type, bool)> {
    if let Some(rest) = text.strip_prefix('*') {
        return parse_type(rest, by_name).map(|(r#type, _)| (r#type, true));
    }
    let parsed = if let Some(name) = text.strip_prefix('@') {
        Type::Message(*by_name.get(name)?)
    } else if let Some(rest) = text.strip_prefix("schemaor:") {
        let instead = match rest {
            "array" => Instead::Messages,
            "bool" => Instead::Flag,
            _ => Instead::Texts,
        };
        Type::MessageOr(instead, *by_name.get("apiextensions/v1.JSONSchemaProps")?)
    } else if let Some(rest) = text.strip_prefix("[]") {
        Type::List { item: Box::new(parse_type(rest, by_name)?.0), wrapped: false }
    } else if let Some(rest) = text.strip_prefix("wrap:[]") {
        Type::List { item: Box::new(parse_type(rest, by_name)?.0), wrapped: true }
    } else if let Some(rest) = text.strip_prefix("map:") {
        Type::Map(Box::new(parse_type(rest, by_name)?.0))
    } else {
        let (base, name) = text.split_once('#').unwrap_or((text, text));
        match base {
            "string" => Type::String(name),
            "bool" => Type::Bool,
            "int32" => Type::Int { bits: 32, unsigned: false },
            "uint32" => Type::Int { bits: 32, unsigned: true },
            "int64" | "int" => Type::Int { bits: 64, unsigned: false },
            "uint64" => Type::Int { bits: 64, unsigned: true },
            "float64" => Type::Float,
            "bytes" => Type::Bytes,
            "quantity" => Type::Quantity,
            "intstr" => Type::IntOrString,
            "time" => Type::Time,
            "microtime" => Type::MicroTime,
            "duration" => Type::Duration,
            "raw" => Type::Raw,
            "fields" => Type::Fields,
            _ => return None,
        }
    };
    Some((parsed, false))
}

fn parse_field(line: &'static str, by_name: &BTreeMap<&'static str, usize>) -> Option<Field> {
    let mut parts = line.splitn(4, '|');
    let (json, number, text, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (r#type, pointer) = parse_type(text, by_name)?;
    let mut field = Field {
        json,
        number: number.parse().ok()?,
        r#type,
        pointer,
        omit_empty: false,
        omit_zero: false,
        inline: false,
        merge: false,
        retain_keys: false,
        merge_key: None,
        list_type: None,
        atomic: false,
    };
    for flag in flags.split(';') {
        match flag.split_once(':').unwrap_or((flag, "")) {
            ("o", _) => field.omit_empty = true,
            ("z", _) => field.omit_zero = true,
            ("i", _) => field.inline = true,
            ("p", strategies) => {
                field.merge = strategies.split(',').any(|strategy| strategy == "merge");
                field.retain_keys = strategies.split(',').any(|strategy| strategy == "retainKeys");
            }
            ("k", key) => field.merge_key = Some(key),
            ("l", "atomic") => field.list_type = Some(ListType::Atomic),
            ("l", "set") => field.list_type = Some(ListType::Set),
            ("l", keys) => {
                let keys = keys.strip_prefix("map:").unwrap_or(keys);
                field.list_type = Some(ListType::Map(keys.split(',').collect()));
            }
            ("m" | "s", "atomic") => field.atomic = true,
            _ => {}
        }
    }
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_read_whole() {
        let lines = TABLE.lines().filter(|line| !line.starts_with("T ")).count();
        let fields: usize = schema().messages.iter().map(|message| message.fields.len()).sum();
        assert_eq!(fields, lines);
        let volume = schema().named("core/v1.Volume").expect("Volume");
        assert!(volume.json.contains_key("hostPath") && volume.json.contains_key("name"));
        let container = schema().named("core/v1.Container").expect("Container");
        assert_eq!(container.json["ports"].merge_key, Some("containerPort"));
        assert_eq!(container.json["ports"].list_type, Some(ListType::Map(vec!["containerPort", "protocol"])));
        assert!(schema().of_kind("rbac.authorization.k8s.io", "v1", "Role").is_some());
    }
}
