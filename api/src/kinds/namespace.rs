//! Namespaces: always labelled with their name, finalized by the namespace controller.

use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, status_of};
use super::show;
use crate::cursor::{At, list, make_object, text};
use crate::field::FieldError;
use crate::kind::{Part, Subresource};
use crate::validate::meta::NameRule;
use crate::validate::text::qualified_name_problems;

/// The kind.
pub static NAMESPACE: Definition = Definition {
    names: names!("", "v1", "Namespace", "namespaces", "namespace", ["ns"], []),
    namespaced: false,
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    subresources: &[
        Subresource { name: "finalize", group: "", version: "v1", kind: "Namespace", verbs: &["update"] },
        status_of("", "v1", "Namespace"),
    ],
    name_rule: NameRule::Label,
    status: true,
    delete_returns_object: true,
    default: label,
    prepare_create: created,
    prepare_update: updated,
    validate,
    validate_update,
    columns: &[NAME, column("Status"), column("Age")],
    cells: |object, now| vec![show::name(object), text(object, "status.phase").into(), show::age(object, now)],
    fields: &["status.phase", "name"],
    selectable: |object, field| {
        let path = if field == "name" { "metadata.name" } else { field };
        text(object, path).to_owned()
    },
    ..PLAIN
};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn label(object: &mut Value) {
    let name = text(object, "metadata.name").to_owned();
    // Before generateName is used there is no name to put down; the label follows at the next defaulting.
    if !name.is_empty() {
        make_object(make_object(object, "metadata"), "labels")[NAME_LABEL] = name.into();
    }
}

fn created(object: &mut Value) {
    label(object);
    let spec = make_object(object, "spec");
    let mut finalizers: Vec<Value> = list(spec, "finalizers").to_vec();
    if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    spec["finalizers"] = finalizers.into();
    object["status"] = json!({ "phase": "Active" });
}

fn updated(new: &mut Value, old: &Value, part: Part<'_>) {
    match part {
        // The finalizers are changed through /finalize only.
        Part::Main => new["spec"] = old.get("spec").cloned().unwrap_or_else(|| json!({})),
        Part::Status => {}
        Part::Other(_) => new["status"] = old.get("status").cloned().unwrap_or_else(|| json!({})),
    }
    label(new);
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    for finalizer in At::root(object).at("spec.finalizers").items() {
        finalizer_name(&mut findings, &finalizer, "spec.finalizers");
    }
    findings
}

fn finalizer_name(findings: &mut Vec<FieldError>, at: &At<'_>, path: &str) {
    for problem in qualified_name_problems(at.str()) {
        findings.push(FieldError::invalid(path, at.str(), &problem));
    }
    if !at.str().contains('/') && !matches!(at.str(), "kubernetes" | "orphan" | "foregroundDeletion") {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        findings.push(FieldError::invalid(path, at.str(), detail));
    }
}

fn validate_update(new: &Value, _old: &Value, part: Part<'_>) -> Vec<FieldError> {
    let mut findings = Vec::new();
    match part {
        Part::Status => {
            let phase = text(new, "status.phase");
            let deleting = !text(new, "metadata.deletionTimestamp").is_empty();
            let detail = match (deleting, phase) {
                (false, "Active") | (true, "Terminating") => return findings,
                (false, _) => "may only be 'Active' if `deletionTimestamp` is empty",
                (true, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
            };
            findings.push(FieldError::invalid("status.Phase", phase, detail));
        }
        Part::Other(_) => {
            for finalizer in At::root(new).at("spec.finalizers").items() {
                finalizer_name(&mut findings, &finalizer, &finalizer.path.clone());
            }
        }
        Part::Main => {}
    }
    findings
}
