//! `format.dns1123Label().validate(text)`: Kubernetes' named string formats and what they say of a bad string.

use base64::Engine;

use crate::error::EvalError;
use crate::functions::{Args, Line};
use crate::kube::url::Url;
use crate::value::Value;

/// A named format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Label,
    LabelPrefix,
    Subdomain,
    SubdomainPrefix,
    OldLabel,
    OldLabelPrefix,
    QualifiedName,
    LabelValue,
    Uri,
    Uuid,
    Byte,
    Date,
    DateTime,
}

const NAMES: [(&str, Format); 13] = [
    ("dns1123Label", Format::Label),
    ("dns1123LabelPrefix", Format::LabelPrefix),
    ("dns1123Subdomain", Format::Subdomain),
    ("dns1123SubdomainPrefix", Format::SubdomainPrefix),
    ("dns1035Label", Format::OldLabel),
    ("dns1035LabelPrefix", Format::OldLabelPrefix),
    ("qualifiedName", Format::QualifiedName),
    ("labelValue", Format::LabelValue),
    ("uri", Format::Uri),
    ("uuid", Format::Uuid),
    ("byte", Format::Byte),
    ("date", Format::Date),
    ("datetime", Format::DateTime),
];

pub(crate) const LINES: &[Line] = &[
    ("format.named", "string->optional(namedformat)", |args| {
        let name = args.text(0)?;
        let found = NAMES.iter().find(|(known, _)| **known == *name);
        Ok(found.map_or_else(Value::none, |(_, format)| Value::some(Value::Format(*format))))
    }),
    ("format.dns1123Label", "->namedformat", |_| Ok(Value::Format(Format::Label))),
    ("format.dns1123LabelPrefix", "->namedformat", |_| Ok(Value::Format(Format::LabelPrefix))),
    ("format.dns1123Subdomain", "->namedformat", |_| Ok(Value::Format(Format::Subdomain))),
    ("format.dns1123SubdomainPrefix", "->namedformat", |_| Ok(Value::Format(Format::SubdomainPrefix))),
    ("format.dns1035Label", "->namedformat", |_| Ok(Value::Format(Format::OldLabel))),
    ("format.dns1035LabelPrefix", "->namedformat", |_| Ok(Value::Format(Format::OldLabelPrefix))),
    ("format.qualifiedName", "->namedformat", |_| Ok(Value::Format(Format::QualifiedName))),
    ("format.labelValue", "->namedformat", |_| Ok(Value::Format(Format::LabelValue))),
    ("format.uri", "->namedformat", |_| Ok(Value::Format(Format::Uri))),
    ("format.uuid", "->namedformat", |_| Ok(Value::Format(Format::Uuid))),
    ("format.byte", "->namedformat", |_| Ok(Value::Format(Format::Byte))),
    ("format.date", "->namedformat", |_| Ok(Value::Format(Format::Date))),
    ("format.datetime", "->namedformat", |_| Ok(Value::Format(Format::DateTime))),
    ("validate", ".namedformat,string->optional(list(string))", validate),
];

fn validate(args: &mut Args<'_>) -> Result<Value, EvalError> {
    let text = args.scanned(1)?;
    let Value::Format(format) = args.value(0)? else { return Err(EvalError::no_overload()) };
    let found = format.problems(&text);
    Ok(if found.is_empty() { Value::none() } else { Value::some(Value::strings(found)) })
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                         '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
                         for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const OLD_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                         alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
                         'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                         with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                     and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
                     '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

impl Format {
    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// What is wrong with a text; nothing when it is well-formed.
    pub fn problems(self, text: &str) -> Vec<String> {
        let one = |fits: bool, message: &str| if fits { Vec::new() } else { vec![message.to_owned()] };
        match self {
            Self::Label => dns(text, 63, LABEL, label),
            Self::LabelPrefix => dns(&masked(text), 63, LABEL, label),
            Self::Subdomain => dns(text, 253, SUBDOMAIN, subdomain),
            Self::SubdomainPrefix => dns(&masked(text), 253, SUBDOMAIN, subdomain),
            Self::OldLabel => dns(text, 63, OLD_LABEL, old_label),
            Self::OldLabelPrefix => dns(&masked(text), 63, OLD_LABEL, old_label),
            Self::QualifiedName => qualified(text),
            Self::LabelValue => dns(text, 63, VALUE, |text| text.is_empty() || word(text)),
            Self::Uri => Url::parse(text).err().into_iter().collect(),
            Self::Uuid => one(uuid(text), "does not match the UUID format"),
            Self::Byte => one(
                base64::engine::general_purpose::STANDARD.decode(text).is_ok() && !text.is_empty(),
                "invalid base64",
            ),
            Self::Date => one(text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(), "invalid date"),
            Self::DateTime => one(crate::functions::time::parse_timestamp(text).is_some(), "invalid datetime"),
        }
    }
}

/// A prefix may end with a dash, which the generated part comes behind.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn dns(text: &str, longest: usize, message: &str, fits: fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    if text.len() > longest {
        found.push(format!("must be no more than {longest} bytes"));
    }
    if !fits(text) {
        found.push(message.to_owned());
    }
    found
}

fn label(text: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|c| edge(*c) || *c == b'-')
        && bytes.first().is_some_and(|c| edge(*c))
        && bytes.last().is_some_and(|c| edge(*c))
}

fn old_label(text: &str) -> bool {
    label(text) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn subdomain(text: &str) -> bool {
    text.split('.').all(label)
}

fn word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

fn qualified(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) if !name.contains('/') => (Some(prefix), name),
        Some(_) => {
            let with_prefix = QUALIFIED.replacen("name part", "a qualified name", 1);
            return vec![format!(
                "{with_prefix} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        None => (None, text),
    };
    let mut found = Vec::new();
    match prefix {
        Some("") => found.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            found.extend(dns(prefix, 253, SUBDOMAIN, subdomain).iter().map(|p| format!("prefix part {p}")))
        }
        None => {}
    }
    if name.is_empty() {
        found.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        found.push("name part must be no more than 63 bytes".to_owned());
    }
    if !word(name) {
        found.push(QUALIFIED.to_owned());
    }
    found
}

fn uuid(text: &str) -> bool {
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'-').collect();
    let dashes: Vec<usize> = text.bytes().enumerate().filter(|(_, c)| *c == b'-').map(|(at, _)| at).collect();
    digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit) && (dashes.is_empty() || dashes == [8, 13, 18, 23])
}
