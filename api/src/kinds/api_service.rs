//! APIService: who serves a version of an API group: this server, or a Service in the cluster. Rules and words as in
//! Kubernetes' `kube-aggregator/pkg/apis/apiregistration/validation`.

use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, keep_metadata, names, status_of};
use super::show;
use crate::cursor::{At, find, list, object_mut, set_default, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::validate::text::{dns1035_problems, port_problems, subdomain_problems};
use crate::validate::meta::NameRule;
use crate::validate::{each, needed, one_of};

/// APIService.
pub static API_SERVICE: Definition = Definition {
    names: names!("apiregistration.k8s.io", "v1", "APIService", "apiservices", "apiservice", [], ["api-extensions"]),
    namespaced: false,
    subresources: &[status_of("apiregistration.k8s.io", "v1", "APIService")],
    name_rule: NameRule::PathSegment,
    status: true,
    unconditional_update: false,
    default: |object| {
        if let Some(service) = object_mut(object, "spec").and_then(|spec| object_mut(spec, "service")) {
            set_default(service, "port", 443);
        }
    },
    prepare_update: |new, old, part| {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    },
    validate,
    validate_update: |new, _, part| {
        let mut findings = Vec::new();
        if part == Part::Status {
            for condition in At::root(new).at("status.conditions").items() {
                one_of(&mut findings, &condition.get("status"), &["False", "True", "Unknown"]);
            }
        }
        findings
    },
    columns: &[NAME, column("Service"), column("Available"), column("Age")],
    cells: |object, now| {
        let service = match text(object, "spec.service.name") {
            "" => "Local".to_owned(),
            name => format!("{}/{name}", text(object, "spec.service.namespace")),
        };
        vec![show::name(object), service.into(), available(object).into(), show::age(object, now)]
    },
    ..PLAIN
};

/// The condition of what this server serves itself.
pub fn locally_available(since: &str) -> Value {
    json!({"type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available",
        "lastTransitionTime": since})
}

fn available(object: &Value) -> String {
    let condition = list(object, "status.conditions").iter().find(|condition| text(condition, "type") == "Available");
    let Some(condition) = condition else { return "Unknown".to_owned() };
    match (text(condition, "status"), text(condition, "reason")) {
        ("True", _) => "True".to_owned(),
        (status, "") => status.to_owned(),
        (status, reason) => format!("{status} ({reason})"),
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let (group, version) = (spec.get("group"), spec.get("version"));
    let mut findings = Vec::new();
    let wanted = format!("{}.{}", version.str(), group.str());
    let name = At::root(object).at("metadata.name");
    if name.str() != wanted {
        findings.push(name.invalid(&format!("must be `spec.version+\".\"+spec.group`: {wanted:?}")));
    }
    if group.is_empty() {
        if version.str() != "v1" {
            findings.push(group.required("only v1 may have an empty group and it better be legacy kube"));
        }
    } else {
        each(&mut findings, &group, &subdomain_problems(group.str()));
    }
    each(&mut findings, &version, &dns1035_problems(version.str()));
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let at = spec.get(field);
        if !(1..=max).contains(&at.int().unwrap_or(0)) {
            let detail = format!("must be positive and less than {max}");
            findings.push(FieldError::invalid(at.path.clone(), at.int().unwrap_or(0), &detail));
        }
    }
    endpoint(&mut findings, &spec);
    findings
}

/// Where requests go, and how the server there proves who it is.
fn endpoint(findings: &mut Vec<FieldError>, spec: &At<'_>) {
    let (service, bundle, skips) = (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !service.is_set() {
        if !bundle.is_empty() {
            let bytes = format!("{} bytes", bundle.str().len() / 4 * 3);
            findings.push(FieldError::invalid(bundle.path, bytes, "local APIServices may not have a caBundle"));
        }
        if skips.is_true() {
            findings.push(skips.invalid("local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    }
    needed(findings, &service.get("namespace"));
    needed(findings, &service.get("name"));
    let port = service.get("port");
    let problems = port_problems(port.int().unwrap_or(0));
    if !problems.is_empty() {
        findings.push(port.invalid(&format!("port is not valid: {}", problems.join(", "))));
    }
    if skips.is_true() && !bundle.is_empty() {
        findings.push(skips.invalid("may not be true if caBundle is present"));
    }
}

/// Whether requests for its group and version go to a Service.
pub fn is_remote(object: &Value) -> bool {
    find(object, "spec.service").is_object()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind as _;

    fn findings(name: &str, spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        API_SERVICE.check(&mut object).unwrap();
        API_SERVICE.default(&mut object);
        API_SERVICE.validate_create(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_name_is_version_and_group() {
        let service = json!({"namespace": "n", "name": "s"});
        let spec = |service: &Value| {
            json!({"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
                "service": service})
        };
        assert_eq!(findings("v1alpha1.wardle.example.com", spec(&service)), Vec::<String>::new());
        assert_eq!(
            findings("x", spec(&service)),
            ["metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1alpha1.wardle.example.com\""]
        );
        assert_eq!(
            findings("v1alpha1.wardle.example.com", spec(&json!({"port": 0}))),
            [
                "spec.service.namespace: Required value",
                "spec.service.name: Required value",
                "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"
            ]
        );
        let mut local = spec(&Value::Null);
        local["caBundle"] = json!("AAAA");
        assert_eq!(
            findings("v1alpha1.wardle.example.com", local),
            ["spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle"]
        );
    }

    #[test]
    fn what_people_see() {
        let shown = |status: Value| {
            let object = json!({"metadata": {"name": "v1.x"}, "status": {"conditions": [status]}, "spec": {"service": {"namespace": "n", "name": "s"}}});
            API_SERVICE.cells(&object, k8s_openapi::jiff::Timestamp::UNIX_EPOCH)[1..3].to_vec()
        };
        assert_eq!(shown(json!({"type": "Available", "status": "False", "reason": "MissingEndpoints"})), ["n/s", "False (MissingEndpoints)"]);
    }
}
