//! ConfigMaps, Secrets and ServiceAccounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::definition::{Definition, NAME, PLAIN, column, names};
use super::show;
use crate::cursor::{At, find, make_object, set_default_text, text};
use crate::field::FieldError;
use crate::kind::{Part, Subresource};
use crate::validate::text::config_key_problems;
use crate::validate::unchanged;

const MAX_SIZE: usize = 1024 * 1024;
const FROZEN: &str = "field is immutable when `immutable` is set";

/// ConfigMap.
pub static CONFIG_MAP: Definition = Definition {
    names: names!("", "v1", "ConfigMap", "configmaps", "configmap", ["cm"], []),
    validate: config_map,
    validate_update: |new, old, part| frozen(new, old, part, &["data", "binaryData"]),
    columns: &[NAME, column("Data"), column("Age")],
    cells: |object, now| {
        let keys = At::root(object).get("data").len() + At::root(object).get("binaryData").len();
        vec![show::name(object), keys.to_string().into(), show::age(object, now)]
    },
    ..PLAIN
};

/// Secret.
pub static SECRET: Definition = Definition {
    names: names!("", "v1", "Secret", "secrets", "secret"),
    default: secret_defaults,
    validate: secret,
    validate_update: |new, old, part| {
        let mut findings = Vec::new();
        unchanged(&mut findings, &At::root(new).get("type"), &At::root(old).get("type"));
        findings.extend(frozen(new, old, part, &["data"]));
        findings
    },
    columns: &[NAME, column("Type"), column("Data"), column("Age")],
    cells: |object, now| {
        let keys = At::root(object).get("data").len();
        vec![show::name(object), text(object, "type").into(), keys.to_string().into(), show::age(object, now)]
    },
    fields: &["type"],
    ..PLAIN
};

/// ServiceAccount.
pub static SERVICE_ACCOUNT: Definition = Definition {
    names: names!("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount", ["sa"], []),
    subresources: &[Subresource {
        name: "token",
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        verbs: &["create"],
    }],
    delete_returns_object: true,
    columns: &[NAME, column("Age")],
    cells: |object, now| vec![show::name(object), show::age(object, now)],
    ..PLAIN
};

fn frozen(new: &Value, old: &Value, _part: Part<'_>, fields: &[&str]) -> Vec<FieldError> {
    if find(old, "immutable") != &Value::Bool(true) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if find(new, "immutable") != &Value::Bool(true) {
        findings.push(FieldError::forbidden("immutable", FROZEN));
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            findings.push(FieldError::forbidden(*field, FROZEN));
        }
    }
    findings
}

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

fn keys(findings: &mut Vec<FieldError>, at: &At<'_>) {
    for (key, value) in at.entries() {
        for problem in config_key_problems(key) {
            findings.push(FieldError::invalid(value.path.clone(), key, &problem));
        }
    }
}

fn config_map(object: &Value) -> Vec<FieldError> {
    let (data, binary) = (At::root(object).get("data"), At::root(object).get("binaryData"));
    let mut findings = Vec::new();
    keys(&mut findings, &data);
    for (key, value) in data.entries() {
        if binary.value.get(key).is_some() {
            findings.push(FieldError::invalid(value.path, key, "duplicate of key present in binaryData"));
        }
    }
    keys(&mut findings, &binary);
    let total = data.entries().map(|(_, value)| value.str().len()).sum::<usize>()
        + binary.entries().map(|(_, value)| decoded(value.value).len()).sum::<usize>();
    if total > MAX_SIZE {
        findings.push(FieldError::too_long("", MAX_SIZE));
    }
    findings
}

/// `stringData` is a way to write `data`; it is never stored.
fn secret_defaults(object: &mut Value) {
    set_default_text(object, "type", "Opaque");
    let Value::Object(map) = object else { return };
    if let Some(Value::Object(plain)) = map.remove("stringData") {
        if !plain.is_empty() {
            let data = make_object(object, "data");
            for (key, value) in plain {
                data[key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
            }
        }
    }
}

fn secret(object: &Value) -> Vec<FieldError> {
    let data = At::root(object).get("data");
    let mut findings = Vec::new();
    keys(&mut findings, &data);
    let total: usize = data.entries().map(|(_, value)| decoded(value.value).len()).sum();
    if total > MAX_SIZE {
        findings.push(FieldError::too_long("data", MAX_SIZE));
    }
    let mut need = |key: &str| {
        let missing = data.value.get(key).is_none();
        if missing {
            findings.push(FieldError::required(format!("data[{key}]"), ""));
        }
        !missing
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            let annotation = find(object, "metadata.annotations").get(name).and_then(Value::as_str);
            if annotation.is_none_or(str::is_empty) {
                findings.push(FieldError::required(format!("metadata.annotations[{name}]"), ""));
            }
        }
        kind @ ("kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson") => {
            let key = if kind.ends_with("json") { ".dockerconfigjson" } else { ".dockercfg" };
            if need(key) {
                let content = decoded(&data.value[key]);
                if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&content) {
                    let detail = if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() };
                    findings.push(FieldError::invalid(format!("data[{key}]"), "<secret contents redacted>", &detail));
                }
            }
        }
        "kubernetes.io/basic-auth" => {
            if data.value.get("username").is_none() && data.value.get("password").is_none() {
                need("username");
                need("password");
            }
        }
        "kubernetes.io/ssh-auth" => {
            if decoded(data.get("ssh-privatekey").value).is_empty() {
                findings.push(FieldError::required("data[ssh-privatekey]", ""));
            }
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
    findings
}
