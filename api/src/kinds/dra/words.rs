//! Names and values that claims and slices share: drivers, pools, attributes, taints, conditions.

use crate::cursor::At;
use crate::field::FieldError;
use crate::validate::text::{label_problems, label_value_problems, qualified_name_problems, subdomain_problems};
use crate::validate::{at_most, each, needed, one_of, unique};

type Findings = Vec<FieldError>;

const MAX_DOMAIN: usize = 63;
const MAX_ID: usize = 32;
const MAX_BINDING_CONDITIONS: usize = 4;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// The name of a driver.
pub fn driver(findings: &mut Findings, at: &At<'_>) {
    if !needed(findings, at) {
        return;
    }
    if at.str().len() > MAX_DOMAIN {
        findings.push(FieldError::too_long(at.path.clone(), MAX_DOMAIN));
    }
    each(findings, at, &subdomain_problems(&at.str().to_lowercase()));
}

/// A DNS label.
pub fn label(findings: &mut Findings, at: &At<'_>) {
    each(findings, at, &label_problems(at.str()));
}

/// The name of a pool: subdomains with slashes.
pub fn pool(findings: &mut Findings, at: &At<'_>) {
    if !needed(findings, at) {
        return;
    }
    if at.str().len() > 253 {
        findings.push(FieldError::too_long(at.path.clone(), 253));
    }
    for part in at.str().split('/') {
        for problem in subdomain_problems(part) {
            findings.push(FieldError::invalid(at.path.clone(), part, &problem));
        }
    }
}

/// A UID in the one spelling that is normal.
pub fn uid(findings: &mut Findings, at: &At<'_>) {
    let text = at.str();
    match uuid::Uuid::parse_str(text) {
        Err(error) => findings.push(at.invalid(&format!("error validating uid: {error}"))),
        Ok(uid) if uid.hyphenated().to_string() != text => findings.push(at.invalid(
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters",
        )),
        Ok(_) => {}
    }
}

fn identifier(findings: &mut Findings, path: &str, id: &str) {
    if id.len() > MAX_ID {
        findings.push(FieldError::too_long(path, MAX_ID));
    }
    let starts = id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let rule = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
                    characters or '_'";
        let detail = crate::validate::text::pattern(rule, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"]);
        findings.push(FieldError::invalid(path, id, &detail));
    }
}

/// The name of an attribute or capacity: an identifier, with a domain before it or not.
pub fn qualified(findings: &mut Findings, path: &str, name: &str) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(findings, path, id),
        [domain, id] => {
            if domain.is_empty() {
                findings.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                let value = serde_json::Value::from(*domain);
                driver(findings, &At::new(path, &value));
            }
            if id.is_empty() {
                findings.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(findings, path, id);
            }
        }
        _ => {}
    }
}

/// As [`qualified`], and the domain must be there.
pub fn fully_qualified(findings: &mut Findings, at: &At<'_>) {
    qualified(findings, &at.path, at.str());
    if !at.str().contains('/') {
        findings.push(at.invalid("a fully qualified name must be a domain and a name separated by a slash"));
    }
}

/// A label key.
pub fn label_name(findings: &mut Findings, at: &At<'_>) {
    each(findings, at, &qualified_name_problems(at.str()));
}

/// A taint of a device.
pub fn taint(findings: &mut Findings, at: &At<'_>) {
    label_name(findings, &at.get("key"));
    let (value, effect) = (at.get("value"), at.get("effect"));
    each(findings, &value, &label_value_problems(value.str()));
    if needed(findings, &effect) {
        one_of(findings, &effect, EFFECTS);
    }
}

/// What a request puts up with.
pub fn toleration(findings: &mut Findings, at: &At<'_>) {
    let (key, operator, value) = (at.get("key"), at.get("operator"), at.get("value"));
    if !key.is_empty() {
        label_name(findings, &key);
    }
    match operator.str() {
        "Exists" if !value.is_empty() => findings.push(value.invalid("must be empty for operator `Exists`")),
        "Exists" => {}
        "Equal" => each(findings, &value, &label_value_problems(value.str())),
        "" => findings.push(operator.required("")),
        _ => findings.push(operator.not_supported(&["Equal", "Exists"])),
    }
    if !at.get("effect").is_empty() {
        one_of(findings, &at.get("effect"), EFFECTS);
    }
}

/// Conditions that a device must reach before its pod is bound, and those with which it never will.
pub fn binding_conditions(findings: &mut Findings, at: &At<'_>) {
    let (wanted, failed) = (at.get("bindingConditions"), at.get("bindingFailureConditions"));
    for list in [&wanted, &failed] {
        if at_most(findings, list, MAX_BINDING_CONDITIONS) {
            list.items().for_each(|name| label_name(findings, &name));
        }
        unique(findings, list, |name| name.str().to_owned());
    }
    for name in failed.items() {
        if wanted.items().any(|other| other.value == name.value) {
            findings.push(name.invalid("bindingFailureConditions must not overlap with bindingConditions"));
        }
    }
    if wanted.len() == 0 && failed.len() > 0 {
        findings.push(wanted.invalid("bindingConditions are required to use bindingFailureConditions"));
    }
    if failed.len() == 0 && wanted.len() > 0 {
        findings.push(failed.invalid("bindingFailureConditions are required to use bindingConditions"));
    }
}
