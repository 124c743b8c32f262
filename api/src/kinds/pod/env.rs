//! What may be wrong with environment variables and where they come from; references to the pod's own fields.

use crate::cursor::At;
use crate::field::FieldError;
use crate::quantity::Quantity;
use crate::validate::each;
use crate::validate::text::{config_key_problems, env_name_problems, qualified_name_problems, subdomain_problems};

type Findings = Vec<FieldError>;

/// `env`
pub fn variables(findings: &mut Findings, list: &At<'_>) {
    for variable in list.items() {
        let name = variable.get("name");
        if name.is_empty() {
            findings.push(name.required(""));
        } else {
            each(findings, &name, &env_name_problems(name.str()));
        }
        let from = variable.get("valueFrom");
        if from.is_set() {
            env_source(findings, &from, &variable);
        }
    }
}

const ENV_FIELDS: [&str; 9] = [
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP",
    "status.hostIPs", "status.podIP", "status.podIPs",
];

fn env_source(findings: &mut Findings, from: &At<'_>, variable: &At<'_>) {
    let mut sources = 0;
    let field = from.get("fieldRef");
    if field.is_set() {
        sources += 1;
        field_ref(findings, &field, &ENV_FIELDS);
    }
    let resource = from.get("resourceFieldRef");
    if resource.is_set() {
        sources += 1;
        resource_ref(findings, &resource, false);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let at = from.get(name);
        if at.is_set() {
            sources += 1;
            each(findings, &at.get("name"), &subdomain_problems(at.get("name").str()));
            let key = at.get("key");
            if key.is_empty() {
                findings.push(key.required(""));
            } else {
                each(findings, &key, &config_key_problems(key.str()));
            }
        }
    }
    let file = from.get("fileKeyRef");
    if file.is_set() {
        sources += 1;
        for name in ["key", "volumeName", "path"] {
            if file.get(name).is_empty() {
                findings.push(file.get(name).required(""));
            }
        }
    }
    let detail = if sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !variable.get("value").is_empty() {
        "may not be specified when `value` is not empty"
    } else if sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    findings.push(FieldError::invalid(from.path.clone(), "", detail));
}

const DOWNWARD_FIELDS: [&str; 14] = [
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
    "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs",
    "status.phase", "status.podIP", "status.podIPs",
];

/// A reference to a field of the pod.
pub fn field_ref(findings: &mut Findings, at: &At<'_>, supported: &[&str]) {
    for name in ["apiVersion", "fieldPath"] {
        if at.get(name).is_empty() {
            findings.push(at.get(name).required(""));
            return;
        }
    }
    let path = at.get("fieldPath");
    let text = path.str();
    if let Some((base, key)) = text.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        let problems = match base {
            "metadata.labels" => qualified_name_problems(key),
            "metadata.annotations" => qualified_name_problems(&key.to_lowercase()),
            _ => {
                let detail = format!("error converting fieldPath: field label does not support subscript: {text}");
                findings.push(path.invalid(&detail));
                return;
            }
        };
        findings.extend(problems.iter().map(|problem| FieldError::invalid(at.path.clone(), key, problem)));
    } else if !DOWNWARD_FIELDS.contains(&text) {
        findings.push(path.invalid(&format!("error converting fieldPath: field label not supported: {text}")));
    } else if !supported.contains(&text) {
        findings.push(path.not_supported(supported));
    }
}

const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage",
    "requests.memory",
];
const BYTES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// A reference to a resource of a container. In a volume the container must be named.
pub fn resource_ref(findings: &mut Findings, at: &At<'_>, volume: bool) {
    let resource = at.get("resource");
    let huge = resource.str().starts_with("limits.hugepages-") || resource.str().starts_with("requests.hugepages-");
    if volume && at.get("containerName").is_empty() {
        findings.push(at.get("containerName").required(""));
    } else if resource.is_empty() {
        findings.push(resource.required(""));
    } else if !RESOURCE_FIELDS.contains(&resource.str()) && !huge {
        findings.push(resource.not_supported(&RESOURCE_FIELDS));
    }
    let divisor = at.get("divisor").str();
    if divisor.is_empty() || Quantity::lenient(divisor).is_zero() {
        return;
    }
    let name = resource.str().split_once('.').map_or("", |(_, name)| name);
    let known: &[&str] = if name == "cpu" { &["1m", "1"] } else { &BYTES };
    if !known.contains(&divisor) {
        let values = if name == "cpu" { "1m and 1".to_owned() } else { BYTES.join(", ") };
        let what = match name {
            "ephemeral-storage" => "local ephemeral storage",
            "cpu" | "memory" => name,
            _ if huge => "hugepages",
            _ => return,
        };
        let detail = format!("only divisor's values {values} are supported with the {what} resource");
        findings.push(FieldError::invalid(at.sub("divisor"), resource.str(), &detail));
    }
}

/// `envFrom`
pub fn from(findings: &mut Findings, list: &At<'_>) {
    for source in list.items() {
        let prefix = source.get("prefix");
        if !prefix.is_empty() {
            each(findings, &prefix, &env_name_problems(prefix.str()));
        }
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            let at = source.get(name);
            if at.is_set() {
                sources += 1;
                let name = at.get("name");
                if name.is_empty() {
                    findings.push(name.required(""));
                } else {
                    each(findings, &name, &subdomain_problems(name.str()));
                }
            }
        }
        let detail = match sources {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        findings.push(FieldError::invalid(list.path.clone(), "", detail));
    }
}
