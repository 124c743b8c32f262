//! What may be wrong with an admission policy or its binding.

use std::collections::BTreeSet;

use balsa_cel::Environment;
use serde_json::Value;

use super::expressions::{self, Purpose, Scope, Variables, compile, with_variables};
use super::rules::{choice, match_conditions, match_resources};
use crate::cursor::At;
use crate::field::FieldError;
use crate::validate::text::{
    dns1035_problems, path_segment_problems, qualified_name_problems, subdomain_problems,
};
use crate::validate::{each, label_selector, one_of};

/// The most audit annotations of a policy.
const MOST_ANNOTATIONS: usize = 20;
/// The longest expression of an audit annotation, in bytes.
const LONGEST_ANNOTATION: usize = 5 * 1024;
const KEYWORDS: [&str; 21] = [
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return", "var", "void", "while",
];

/// A ValidatingAdmissionPolicy.
pub fn validating(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    common(&mut findings, &spec);
    let params = spec.get("paramKind").is_set();
    let scope = Scope { params, authorizer: true, patches: false };
    let known = variables(&mut findings, &spec, scope);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.len() == 0 && annotations.len() == 0 {
        let detail = "validations or auditAnnotations must contain at least one item";
        findings.extend([validations.required(detail), annotations.required(detail)]);
        return findings;
    }
    // Messages do not see the authorizer.
    let message_scope = Scope { authorizer: false, ..scope };
    let (for_conditions, for_messages) = (with_variables(scope, &known), with_variables(message_scope, &known));
    for one in validations.items() {
        validation(&mut findings, &one, &for_conditions, &for_messages);
    }
    audit_annotations(&mut findings, object, &annotations, &for_conditions);
    findings
}

/// A MutatingAdmissionPolicy.
pub fn mutating(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    common(&mut findings, &spec);
    let operations = spec.at("matchConstraints.resourceRules.operations");
    for rule in spec.at("matchConstraints.resourceRules").items() {
        for operation in rule.get("operations").items() {
            let here = At::new(operations.path.clone(), operation.value);
            one_of(&mut findings, &here, &["*", "CONNECT", "CREATE", "UPDATE"]);
        }
    }
    let scope = Scope { params: spec.get("paramKind").is_set(), authorizer: true, patches: true };
    let known = variables(&mut findings, &spec, scope);
    let environment = with_variables(scope, &known);
    let mutations = spec.get("mutations");
    if mutations.len() == 0 {
        findings.push(mutations.required("mutations must contain at least one item"));
    }
    for one in mutations.items() {
        mutation(&mut findings, &one, &environment);
    }
    let reinvocation = spec.get("reinvocationPolicy");
    if reinvocation.is_empty() {
        findings.push(reinvocation.required(""));
    } else {
        one_of(&mut findings, &reinvocation, &["IfNeeded", "Never"]);
    }
    findings
}

fn common(findings: &mut Vec<FieldError>, spec: &At<'_>) {
    let failure = spec.get("failurePolicy");
    if failure.is_set() {
        one_of(findings, &failure, &["Fail", "Ignore"]);
    } else {
        findings.push(failure.required(""));
    }
    let kind = spec.get("paramKind");
    if kind.is_set() {
        param_kind(findings, &kind);
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        match_resources(findings, &constraints);
        let rules = constraints.get("resourceRules");
        if rules.len() == 0 {
            findings.push(rules.required(""));
        }
    } else {
        findings.push(constraints.required(""));
    }
    match_conditions(findings, &spec.get("matchConditions"), kind.is_set());
}

fn param_kind(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let (version, kind) = (at.get("apiVersion"), at.get("kind"));
    let text = version.str();
    let (group, name) = text.split_once('/').unwrap_or(("", text));
    if text.is_empty() {
        findings.push(version.required(""));
    } else if name.contains('/') {
        findings.push(version.invalid(&format!("unexpected GroupVersion string: {text}")));
    } else {
        let problems = if group.is_empty() { Vec::new() } else { subdomain_problems(group) };
        if !problems.is_empty() {
            findings.push(FieldError::invalid(version.path.clone(), group, &problems.join(",")));
        }
        let problems = dns1035_problems(name);
        if name.is_empty() {
            findings.push(version.invalid("version must be specified"));
        } else if !problems.is_empty() {
            findings.push(FieldError::invalid(version.path.clone(), name, &problems.join(",")));
        }
    }
    let problems = dns1035_problems(&kind.str().to_ascii_lowercase());
    if kind.is_empty() {
        findings.push(kind.required(""));
    } else if !problems.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        findings.push(kind.invalid(&detail));
    }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
        && !KEYWORDS.contains(&name)
}

/// The variables, in order, and what is wrong with them.
fn variables(findings: &mut Vec<FieldError>, spec: &At<'_>, scope: Scope) -> Variables {
    let known = expressions::variables(spec.value, scope);
    for (variable, (_, program)) in spec.get("variables").items().zip(&known) {
        let (name, expression) = (variable.get("name"), variable.get("expression"));
        if name.str().trim().is_empty() {
            findings.push(name.required("name is not specified"));
        } else if !is_identifier(name.str()) {
            findings.push(name.invalid("must be a valid CEL identifier"));
        }
        if expression.str().trim().is_empty() {
            findings.push(expression.required("expression is not specified"));
        } else if let Err(detail) = program {
            findings.push(expression.invalid(detail));
        }
    }
    known
}

fn validation(findings: &mut Vec<FieldError>, at: &At<'_>, conditions: &Environment, messages: &Environment) {
    let expression = at.get("expression");
    if expression.str().trim().is_empty() {
        findings.push(expression.required("expression is not specified"));
    } else {
        check(findings, &expression, conditions, Purpose::Condition);
    }
    let message = at.get("messageExpression");
    if !message.is_empty() {
        if message.str().trim().is_empty() {
            findings.push(message.invalid("must be non-empty if specified"));
        } else {
            check(findings, &message, messages, Purpose::Message);
        }
    }
    let message = at.get("message");
    if !message.is_empty() && message.str().trim().is_empty() {
        findings.push(message.invalid("must be non-empty if specified"));
    } else if message.str().trim().contains(['\n', '\r']) {
        findings.push(message.invalid("must not contain line breaks"));
    }
    choice(findings, &at.get("reason"), &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
}

fn check(findings: &mut Vec<FieldError>, at: &At<'_>, environment: &Environment, purpose: Purpose) {
    if let Err(detail) = compile(at.str(), environment, purpose) {
        findings.push(at.invalid(&detail));
    }
}

fn audit_annotations(findings: &mut Vec<FieldError>, object: &Value, at: &At<'_>, environment: &Environment) {
    if at.len() > MOST_ANNOTATIONS {
        findings.push(at.invalid(&format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations")));
    }
    let policy = crate::cursor::text(object, "metadata.name");
    let mut seen = BTreeSet::new();
    for one in at.items() {
        let (key, expression) = (one.get("key"), one.get("valueExpression"));
        if policy.is_empty() {
            findings.push(key.invalid("requires metadata.name be non-empty"));
        } else {
            let full = format!("{policy}/{}", key.str());
            for problem in qualified_name_problems(&full) {
                findings.push(FieldError::invalid(key.path.clone(), full.as_str(), &problem));
            }
        }
        let trimmed = expression.str().trim();
        if trimmed.is_empty() {
            findings.push(expression.required("valueExpression is not specified"));
        } else if trimmed.len() > LONGEST_ANNOTATION {
            findings.push(expression.required(&format!("must not exceed {LONGEST_ANNOTATION} bytes in length")));
        } else {
            check(findings, &expression, environment, Purpose::Annotation);
        }
        if !seen.insert(key.str()) {
            findings.push(key.duplicate());
        }
    }
}

fn mutation(findings: &mut Vec<FieldError>, at: &At<'_>, environment: &Environment) {
    let kind = at.get("patchType");
    let forms = [
        ("ApplyConfiguration", "applyConfiguration", Purpose::ApplyConfiguration),
        ("JSONPatch", "jsonPatch", Purpose::JsonPatch),
    ];
    if kind.is_empty() {
        findings.push(kind.required(""));
        return;
    }
    if !forms.iter().any(|(name, ..)| *name == kind.str()) {
        findings.push(kind.not_supported(&["ApplyConfiguration", "JSONPatch"]));
        return;
    }
    for (name, field, purpose) in forms {
        let form = at.get(field);
        let expression = form.get("expression");
        if name != kind.str() {
            if form.is_set() {
                let detail = format!("must not be specified when patchType is {}", kind.str());
                findings.push(FieldError::invalid(form.path.clone(), format!("{{{field}}}"), &detail));
            }
        } else if !form.is_set() {
            findings.push(form.required(&format!("must be specified when patchType is {name}")));
        } else if expression.str().trim().is_empty() {
            findings.push(expression.required(""));
        } else if let Err(detail) = compile(expression.str().trim(), environment, purpose) {
            findings.push(FieldError::invalid(expression.path.clone(), expression.str().trim(), &detail));
        }
    }
}

/// A binding; `validating`: it says what happens on failure.
pub fn binding(object: &Value, validating: bool) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    let policy = spec.get("policyName");
    if policy.is_empty() {
        findings.push(policy.required(""));
    } else {
        each(&mut findings, &policy, &subdomain_problems(policy.str()));
    }
    param_ref(&mut findings, &spec.get("paramRef"));
    match_resources(&mut findings, &spec.get("matchResources"));
    if validating {
        actions(&mut findings, &spec.get("validationActions"));
    }
    findings
}

fn param_ref(findings: &mut Vec<FieldError>, at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (at.get("name"), at.get("selector"));
    if !name.is_empty() {
        each(findings, &name, &path_segment_problems(name.str()));
        if selector.is_set() {
            findings.push(name.forbidden(EXCLUSIVE));
        }
    }
    if selector.is_set() {
        label_selector(findings, &selector);
        if !name.is_empty() {
            findings.push(selector.forbidden(EXCLUSIVE));
        }
    }
    if name.is_empty() && !selector.is_set() {
        findings.push(at.required("one of name or selector must be specified"));
    }
    let action = at.get("parameterNotFoundAction");
    if action.is_empty() {
        findings.push(action.required(""));
    } else {
        one_of(findings, &action, &["Deny", "Allow"]);
    }
}

fn actions(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let mut seen = BTreeSet::new();
    for action in at.items() {
        one_of(findings, &action, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action.str()) {
            findings.push(action.duplicate());
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        findings.push(at.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        ));
    }
    if seen.is_empty() {
        findings.push(at.required("at least one validation action is required"));
    }
}

/// The status of a policy.
pub fn status(object: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    for warning in At::root(object).at("status.typeChecking.expressionWarnings").items() {
        for name in ["warning", "fieldRef"] {
            let member = warning.get(name);
            if member.str().trim().is_empty() {
                findings.push(member.required(""));
            }
        }
    }
    findings
}
