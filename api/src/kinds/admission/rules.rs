//! Which requests a webhook or policy is for: rules, selectors, match conditions.

use std::collections::BTreeSet;

use serde_json::Value;

use super::expressions::{Purpose, Scope, compile, environment};
use crate::cursor::At;
use crate::field::{FieldError, FieldErrorKind};
use crate::validate::text::{path_segment_problems, qualified_name_problems};
use crate::validate::{each, label_selector, one_of};

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
/// The most match conditions of one webhook or policy.
const MOST_CONDITIONS: usize = 64;

/// `failurePolicy` and its like: one of the known values where it is given.
pub fn choice(findings: &mut Vec<FieldError>, at: &At<'_>, known: &[&str]) {
    if at.is_set() {
        one_of(findings, at, known);
    }
}

fn texts<'a>(at: &At<'a>) -> Vec<&'a str> {
    at.value.as_array().map_or(&[] as &[Value], Vec::as_slice).iter().filter_map(Value::as_str).collect()
}

fn lonely_wildcard(findings: &mut Vec<FieldError>, at: &At<'_>, what: &str) {
    let all = texts(at);
    if all.len() > 1 && all.contains(&"*") {
        findings.push(at.invalid(&format!("if '*' is present, must not specify other {what}")));
    }
}

/// A rule with its operations.
pub fn rule(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let operations = at.get("operations");
    if operations.len() == 0 {
        findings.push(operations.required(""));
    }
    lonely_wildcard(findings, &operations, "operations");
    for operation in operations.items() {
        one_of(findings, &operation, OPERATIONS);
    }
    let (groups, versions) = (at.get("apiGroups"), at.get("apiVersions"));
    if groups.len() == 0 {
        findings.push(groups.required(""));
    }
    lonely_wildcard(findings, &groups, "API groups");
    if versions.len() == 0 {
        findings.push(versions.required(""));
    }
    lonely_wildcard(findings, &versions, "API versions");
    for version in versions.items().filter(At::is_empty) {
        findings.push(version.required(""));
    }
    resources(findings, &at.get("resources"));
    choice(findings, &at.get("scope"), SCOPES);
}

/// Names like `pods`, `pods/*`, `*/scale`; none may say again what another says.
fn resources(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let all = texts(at);
    if all.is_empty() {
        findings.push(at.required(""));
    }
    let (mut all_of, mut of_all) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for item in at.items() {
        let name = item.str();
        if name.is_empty() {
            findings.push(item.required(""));
            continue;
        }
        let Some((resource, sub)) = name.split_once('/') else {
            plain = name != "*";
            continue;
        };
        if all_of.contains(resource) {
            findings.push(item.invalid(&format!("if '{resource}/*' is present, must not specify {name}")));
        }
        if of_all.contains(sub) {
            findings.push(item.invalid(&format!("if '*/{sub}' is present, must not specify {name}")));
        }
        if sub == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            of_all.insert(sub);
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        findings.push(at.invalid("if '*/*' is present, must not specify other resources"));
    }
    if all.contains(&"*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        findings.push(at.invalid(detail));
    }
}

/// `matchConstraints` and `matchResources`.
pub fn match_resources(findings: &mut Vec<FieldError>, at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    let policy = at.get("matchPolicy");
    if policy.is_set() { one_of(findings, &policy, &["Equivalent", "Exact"]) } else { findings.push(policy.required("")) }
    for name in ["namespaceSelector", "objectSelector"] {
        let selector = at.get(name);
        if selector.is_set() {
            label_selector(findings, &selector);
        } else {
            findings.push(selector.required(""));
        }
    }
    for name in ["resourceRules", "excludeResourceRules"] {
        for named in at.get(name).items() {
            let mut seen = BTreeSet::new();
            for item in named.get("resourceNames").items() {
                each(findings, &item, &path_segment_problems(item.str()));
                if !seen.insert(item.str()) {
                    findings.push(item.duplicate());
                }
            }
            rule(findings, &named);
        }
    }
}

/// Match conditions; `params`: the expressions may name them.
pub fn match_conditions(findings: &mut Vec<FieldError>, at: &At<'_>, params: bool) {
    if at.len() > MOST_CONDITIONS {
        let message = format!("Too many: {}: must have at most {MOST_CONDITIONS} items", at.len());
        findings.push(FieldError { kind: FieldErrorKind::TooMany, field: at.path.clone(), message });
    }
    let environment = environment(Scope { params, authorizer: true, patches: false });
    let mut seen = BTreeSet::new();
    for condition in at.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        let trimmed = expression.str().trim();
        if trimmed.is_empty() {
            findings.push(expression.required(""));
        } else if let Err(detail) = compile(trimmed, &environment, Purpose::Condition) {
            findings.push(FieldError::invalid(expression.path.clone(), trimmed, &detail));
        }
        if name.is_empty() {
            findings.push(name.required(""));
            continue;
        }
        each(findings, &name, &qualified_name_problems(name.str()));
        if !seen.insert(name.str()) {
            findings.push(name.duplicate());
        }
    }
}
