//! Nodes.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::definition::{Definition, NAME, PLAIN, column, names, status_of, wide};
use super::{pod, show};
use crate::cursor::{At, find, list, text};
use crate::field::FieldError;
use crate::kind::{Part, Subresource};
use crate::validate::text::{label_value_problems, qualified_name_problems};
use crate::validate::{each, one_of};

/// The kind.
pub static NODE: Definition = Definition {
    names: names!("", "v1", "Node", "nodes", "node", ["no"], []),
    namespaced: false,
    subresources: &[
        Subresource {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "NodeProxyOptions",
            verbs: &["create", "delete", "get", "patch", "update"],
        },
        status_of("", "v1", "Node"),
    ],
    status: true,
    // A node agent registers with what it measured.
    create_status: true,
    default: |object| {
        let capacity = find(object, "status.capacity").clone();
        let status = crate::cursor::make_object(object, "status");
        if capacity.is_object() && status.get("allocatable").is_none_or(Value::is_null) {
            status["allocatable"] = capacity;
        }
    },
    validate,
    validate_update,
    columns: &[
        NAME,
        column("Status"),
        column("Roles"),
        column("Age"),
        column("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells,
    fields: &["spec.unschedulable"],
    selectable: |object, field| (find(object, field) == &Value::Bool(true)).to_string(),
    ..PLAIN
};

fn taints(findings: &mut Vec<FieldError>, list: &At<'_>) {
    let mut seen = BTreeSet::new();
    for taint in list.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        each(findings, &key, &qualified_name_problems(key.str()));
        let problems = label_value_problems(value.str());
        if !problems.is_empty() {
            findings.push(value.invalid(&problems.join(";")));
        }
        if effect.is_empty() {
            findings.push(effect.required(""));
        } else {
            one_of(findings, &effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
        if !seen.insert((key.str(), effect.str())) {
            let mut finding = taint.duplicate();
            finding.message.push_str(": taints must be unique by key and effect pair");
            findings.push(finding);
        }
    }
}

fn amounts(findings: &mut Vec<FieldError>, node: &Value) {
    for field in ["capacity", "allocatable"] {
        for (name, value) in At::root(node).at("status").get(field).entries() {
            let at = At::new(format!("status.{field}.{name}"), value.value);
            pod::resources::quantity(findings, &at, name);
        }
    }
}

fn validate(node: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    // Kubernetes reports taints under metadata.
    taints(&mut findings, &At::new("metadata.taints", find(node, "spec.taints")));
    amounts(&mut findings, node);
    findings
}

fn validate_update(new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError> {
    let mut findings = Vec::new();
    if part == Part::Status {
        amounts(&mut findings, new);
        let mut seen: Vec<&Value> = Vec::new();
        for address in At::root(new).at("status.addresses").items() {
            if seen.contains(&address.value) {
                findings.push(address.duplicate());
            }
            seen.push(address.value);
        }
    }
    let before = list(old, "spec.podCIDRs");
    if !before.is_empty() && before != list(new, "spec.podCIDRs") {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        findings.push(FieldError::forbidden("spec.podCIDRs", detail));
    }
    let provider = text(old, "spec.providerID");
    if !provider.is_empty() && provider != text(new, "spec.providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        findings.push(FieldError::forbidden("spec.providerID", detail));
    }
    findings
}

fn roles(node: &Value) -> String {
    let mut roles: BTreeSet<&str> = BTreeSet::new();
    for (key, value) in find(node, "metadata.labels").as_object().into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => {
                roles.insert(role);
            }
            _ if key == "kubernetes.io/role" => {
                roles.extend(value.as_str().filter(|role| !role.is_empty()));
            }
            _ => {}
        }
    }
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address(node: &Value, r#type: &str) -> Value {
    let found = list(node, "status.addresses").iter().find(|address| text(address, "type") == r#type);
    show::or_none(found.map_or("", |address| text(address, "address")))
}

fn or_unknown(text: &str) -> Value {
    if text.is_empty() { "<unknown>".into() } else { text.into() }
}

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list(node, "status.conditions").iter().find(|condition| text(condition, "type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if find(node, "spec.unschedulable") == &Value::Bool(true) {
        status.push_str(",SchedulingDisabled");
    }
    vec![
        show::name(node),
        status.into(),
        roles(node).into(),
        show::age(node, now),
        text(node, "status.nodeInfo.kubeletVersion").into(),
        address(node, "InternalIP"),
        address(node, "ExternalIP"),
        or_unknown(text(node, "status.nodeInfo.osImage")),
        or_unknown(text(node, "status.nodeInfo.kernelVersion")),
        or_unknown(text(node, "status.nodeInfo.containerRuntimeVersion")),
    ]
}
