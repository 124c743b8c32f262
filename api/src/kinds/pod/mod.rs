//! Pods: what they default to, what may be wrong with them, what of them may change, how they are shown.

pub mod columns;
pub mod container;
pub mod defaults;
pub mod env;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod spec;
pub mod update;
pub mod volume;

use serde_json::{Value, json};

pub use resources::{limits, qos_class, requests};

use super::definition::{Definition, PLAIN, names, status_of};
use crate::cursor::{At, list, text};
use crate::field::FieldError;
use crate::kind::Subresource;

const EDIT: &[&str] = &["get", "patch", "update"];
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const fn sub(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group: "", version: "v1", kind, verbs }
}

/// The kind.
pub static POD: Definition = Definition {
    names: names!("", "v1", "Pod", "pods", "pod", ["po"], ["all"]),
    subresources: &[
        sub("attach", "PodAttachOptions", STREAM),
        sub("binding", "Binding", &["create"]),
        sub("ephemeralcontainers", "Pod", EDIT),
        Subresource { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] },
        sub("exec", "PodExecOptions", STREAM),
        sub("log", "Pod", &["get"]),
        sub("portforward", "PodPortForwardOptions", STREAM),
        sub("proxy", "PodProxyOptions", PROXY),
        sub("resize", "Pod", EDIT),
        status_of("", "v1", "Pod"),
    ],
    generation: true,
    status: true,
    delete_returns_object: true,
    default: defaults::pod,
    prepare_create,
    prepare_update: update::prepare,
    validate,
    validate_create_only: created,
    validate_update: update::validate,
    warnings,
    columns: columns::COLUMNS,
    cells: columns::cells,
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    selectable,
    ..PLAIN
};

fn prepare_create(pod: &mut Value) {
    pod["status"] = json!({ "phase": "Pending", "qosClass": qos_class(pod) });
    if !list(pod, "spec.schedulingGates").is_empty() {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": null,
        }]);
    }
}

fn validate(pod: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    spec::validate(&mut findings, &At::root(pod).get("spec"), true);
    findings
}

fn created(pod: &Value) -> Vec<FieldError> {
    let spec = At::root(pod).get("spec");
    let mut findings = Vec::new();
    if spec.get("ephemeralContainers").len() > 0 {
        findings.push(spec.get("ephemeralContainers").forbidden("cannot be set on create"));
    }
    if !spec.get("nodeName").is_empty() && spec.get("schedulingGates").len() > 0 {
        let detail = "cannot be set until all schedulingGates have been cleared";
        findings.push(spec.get("nodeName").forbidden(detail));
    }
    findings
}

/// Things that are allowed but probably a mistake.
pub fn spec_warnings(spec: &At<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for field in ["initContainers", "containers"] {
        for container in spec.get(field).items() {
            let mut names: Vec<&str> = Vec::new();
            for variable in container.get("env").items() {
                let name = variable.get("name").str();
                if names.contains(&name) {
                    out.push(format!("{}: hides previous definition of {name:?}, which may be dropped when using apply", variable.path));
                }
                names.push(name);
            }
            for side in ["limits", "requests"] {
                for (name, amount) in container.at("resources").get(side).entries() {
                    let fraction = crate::quantity::Quantity::lenient(amount.str()).nanos() % 1_000_000_000 != 0;
                    if fraction && matches!(name, "memory" | "ephemeral-storage") {
                        let text = amount.str();
                        out.push(format!("{}: fractional byte value {text:?} is invalid, must be an integer", amount.path));
                    }
                }
            }
            let mut ports: Vec<(i64, &str)> = Vec::new();
            for port in container.get("ports").items() {
                let key = (port.get("containerPort").int().unwrap_or(0), port.get("protocol").str());
                if let Some(first) = ports.iter().position(|known| *known == key) {
                    let kind = format!("{}[{first}]", container.get("ports").path);
                    out.push(format!("{}: duplicate port definition with {kind}", port.path));
                }
                ports.push(key);
            }
        }
    }
    for (key, _) in spec.get("nodeSelector").entries() {
        let newer = match key {
            "beta.kubernetes.io/arch" => "kubernetes.io/arch",
            "beta.kubernetes.io/os" => "kubernetes.io/os",
            _ => continue,
        };
        out.push(format!("{}: deprecated since v1.14; use {newer:?} instead", spec.get("nodeSelector").key(key)));
    }
    out
}

fn warnings(pod: &Value) -> Vec<String> {
    spec_warnings(&At::root(pod).get("spec"))
}

fn selectable(pod: &Value, field: &str) -> String {
    match field {
        "spec.hostNetwork" => (crate::cursor::find(pod, field) == &Value::Bool(true)).to_string(),
        "status.podIP" | "status.podIPs" => match text(pod, "status.podIP") {
            "" => list(pod, "status.podIPs").first().map_or("", |first| text(first, "ip")).to_owned(),
            ip => ip.to_owned(),
        },
        _ => text(pod, field).to_owned(),
    }
}
