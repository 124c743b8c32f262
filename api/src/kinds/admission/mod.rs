//! Webhook configurations and admission policies: what they default to, what may be wrong with them, how they show.

pub mod expressions;
mod policy;
mod rules;
#[cfg(test)]
mod tests;
mod webhook;

use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, status_of, typed};
use super::show;
use crate::cursor::{find, items_mut, list, object_mut, set_default, text};
use crate::kind::{Column, Part};

const GROUP: &str = "admissionregistration.k8s.io";

/// All of them.
pub const ALL: &[&Definition] = &[
    &VALIDATING_WEBHOOK_CONFIGURATION,
    &MUTATING_WEBHOOK_CONFIGURATION,
    &VALIDATING_ADMISSION_POLICY,
    &VALIDATING_ADMISSION_POLICY_BINDING,
    &MUTATING_ADMISSION_POLICY,
    &MUTATING_ADMISSION_POLICY_BINDING,
];

const BASE: Definition = Definition { namespaced: false, unconditional_update: false, generation: true, ..PLAIN };

const WEBHOOK_COLUMNS: &[Column] = &[NAME, typed("Webhooks", "integer"), column("Age")];
const BINDING_COLUMNS: &[Column] = &[NAME, column("PolicyName"), column("ParamRef"), column("Age")];

static VALIDATING_WEBHOOK_CONFIGURATION: Definition = Definition {
    names: names!(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "validatingwebhookconfiguration",
        [],
        ["api-extensions"]
    ),
    default: |object| webhook_defaults(object, false),
    validate: |object| webhook::configuration(object, false),
    columns: WEBHOOK_COLUMNS,
    cells: webhook_cells,
    ..BASE
};

static MUTATING_WEBHOOK_CONFIGURATION: Definition = Definition {
    names: names!(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "mutatingwebhookconfiguration",
        [],
        ["api-extensions"]
    ),
    default: |object| webhook_defaults(object, true),
    validate: |object| webhook::configuration(object, true),
    columns: WEBHOOK_COLUMNS,
    cells: webhook_cells,
    ..BASE
};

static VALIDATING_ADMISSION_POLICY: Definition = Definition {
    names: names!(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "validatingadmissionpolicy",
        [],
        ["api-extensions"]
    ),
    subresources: &[status_of(GROUP, "v1", "ValidatingAdmissionPolicy")],
    status: true,
    default: policy_defaults,
    validate: policy::validating,
    validate_update: |new, _, part| if part == Part::Status { policy::status(new) } else { Vec::new() },
    columns: &[NAME, typed("Validations", "integer"), column("ParamKind"), column("Age")],
    cells: |object, now| {
        let validations = list(object, "spec.validations").len();
        vec![show::name(object), json!(validations), param_kind(object), show::age(object, now)]
    },
    ..BASE
};

static VALIDATING_ADMISSION_POLICY_BINDING: Definition = Definition {
    names: names!(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicybinding",
        [],
        ["api-extensions"]
    ),
    default: binding_defaults,
    validate: |object| policy::binding(object, true),
    columns: BINDING_COLUMNS,
    cells: binding_cells,
    ..BASE
};

static MUTATING_ADMISSION_POLICY: Definition = Definition {
    names: names!(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicy",
        [],
        ["api-extensions"]
    ),
    default: policy_defaults,
    validate: policy::mutating,
    columns: &[NAME, typed("Mutations", "integer"), column("ParamKind"), column("Age")],
    cells: |object, now| {
        let mutations = list(object, "spec.mutations").len();
        vec![show::name(object), json!(mutations), param_kind(object), show::age(object, now)]
    },
    ..BASE
};

static MUTATING_ADMISSION_POLICY_BINDING: Definition = Definition {
    names: names!(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        "mutatingadmissionpolicybinding",
        [],
        ["api-extensions"]
    ),
    default: binding_defaults,
    validate: |object| policy::binding(object, false),
    columns: BINDING_COLUMNS,
    cells: binding_cells,
    ..BASE
};

fn webhook_defaults(object: &mut Value, mutating: bool) {
    for hook in items_mut(object, "webhooks") {
        set_default(hook, "failurePolicy", "Fail");
        set_default(hook, "timeoutSeconds", 10);
        if mutating {
            set_default(hook, "reinvocationPolicy", "Never");
        }
        match_defaults(hook);
        scopes(hook, "rules");
        if let Some(service) = object_mut(hook, "clientConfig").and_then(|config| object_mut(config, "service")) {
            set_default(service, "port", 443);
        }
    }
}

fn match_defaults(of: &mut Value) {
    set_default(of, "matchPolicy", "Equivalent");
    set_default(of, "namespaceSelector", json!({}));
    set_default(of, "objectSelector", json!({}));
}

fn scopes(of: &mut Value, rules: &str) {
    for rule in items_mut(of, rules) {
        set_default(rule, "scope", "*");
    }
}

fn resources_defaults(spec: &mut Value, name: &str) {
    if let Some(resources) = object_mut(spec, name) {
        match_defaults(resources);
        scopes(resources, "resourceRules");
        scopes(resources, "excludeResourceRules");
    }
}

fn policy_defaults(object: &mut Value) {
    if let Some(spec) = object_mut(object, "spec") {
        set_default(spec, "failurePolicy", "Fail");
        resources_defaults(spec, "matchConstraints");
    }
}

fn binding_defaults(object: &mut Value) {
    if let Some(spec) = object_mut(object, "spec") {
        resources_defaults(spec, "matchResources");
    }
}

fn webhook_cells(object: &Value, now: k8s_openapi::jiff::Timestamp) -> Vec<Value> {
    vec![show::name(object), json!(list(object, "webhooks").len()), show::age(object, now)]
}

fn param_kind(object: &Value) -> Value {
    let kind = find(object, "spec.paramKind");
    if kind.is_null() {
        return "<unset>".into();
    }
    format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into()
}

fn binding_cells(object: &Value, now: k8s_openapi::jiff::Timestamp) -> Vec<Value> {
    let param = find(object, "spec.paramRef");
    let shown = match (text(param, "namespace"), text(param, "name")) {
        _ if param.is_null() => "<unset>".to_owned(),
        ("", "") => "*".to_owned(),
        (namespace, "") => format!("{namespace}/*"),
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![show::name(object), text(object, "spec.policyName").into(), shown.into(), show::age(object, now)]
}
