//! What may be wrong with a webhook configuration.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::{choice, match_conditions, rule};
use crate::cursor::At;
use crate::field::FieldError;
use crate::validate::text::{dns1035_problems, port_problems, subdomain_problems};
use crate::validate::{each, label_selector, one_of};

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const FORM: &str = "; desired format: https://host[/path]";

/// All webhooks of a configuration.
pub fn configuration(object: &Value, mutating: bool) -> Vec<FieldError> {
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for hook in At::root(object).get("webhooks").items() {
        webhook(&mut findings, &hook, mutating);
        review_versions(&mut findings, &hook.get("admissionReviewVersions"));
        let name = hook.get("name");
        if !name.is_empty() && !names.insert(name.str()) {
            findings.push(name.duplicate());
        }
    }
    findings
}

fn webhook(findings: &mut Vec<FieldError>, at: &At<'_>, mutating: bool) {
    qualified_name(findings, &at.get("name"));
    for one in at.get("rules").items() {
        rule(findings, &one);
    }
    choice(findings, &at.get("failurePolicy"), &["Fail", "Ignore"]);
    choice(findings, &at.get("matchPolicy"), &["Equivalent", "Exact"]);
    let effects = at.get("sideEffects");
    if effects.is_set() {
        one_of(findings, &effects, &["None", "NoneOnDryRun"]);
    } else {
        findings.push(effects.required("must specify one of None, NoneOnDryRun"));
    }
    let timeout = at.get("timeoutSeconds");
    if timeout.int().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        findings.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    for name in ["namespaceSelector", "objectSelector"] {
        label_selector(findings, &at.get(name));
    }
    if mutating {
        choice(findings, &at.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
    }
    client(findings, &at.get("clientConfig"));
    match_conditions(findings, &at.get("matchConditions"), false);
}

fn qualified_name(findings: &mut Vec<FieldError>, at: &At<'_>) {
    if at.is_empty() {
        findings.push(at.required(""));
        return;
    }
    let problems = subdomain_problems(at.str());
    if !problems.is_empty() {
        findings.push(at.invalid(&problems.join(",")));
    } else if at.str().split('.').count() < 3 {
        findings.push(at.invalid("should be a domain with at least three segments separated by dots"));
    }
}

fn review_versions(findings: &mut Vec<FieldError>, at: &At<'_>) {
    if at.len() == 0 {
        findings.push(at.required("must specify one of v1, v1beta1"));
        return;
    }
    let mut seen = BTreeSet::new();
    for version in at.items() {
        if !seen.insert(version.str()) {
            findings.push(version.invalid("duplicate version"));
            continue;
        }
        each(findings, &version, &dns1035_problems(version.str()));
    }
    if !REVIEW_VERSIONS.iter().any(|known| seen.contains(known)) {
        findings.push(at.invalid("must include at least one of v1, v1beta1"));
    }
}

fn client(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let (url, service) = (at.get("url"), at.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => check_url(findings, &url),
        (false, true) => check_service(findings, &service),
        _ => findings.push(at.required("exactly one of url or service is required")),
    }
}

fn check_url(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let text = at.str();
    let invalid = |value: &str, detail: &str| FieldError::invalid(at.path.clone(), value, detail);
    if text.chars().any(|c| c.is_ascii_control() || c == ' ') {
        findings.push(at.required(&format!("url must be a valid URL: parse {text:?}: invalid character{FORM}")));
        return;
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if scheme != "https" {
        findings.push(invalid(scheme, &format!("'https' is the only allowed URL scheme{FORM}")));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        findings.push(invalid(host, &format!("host must be specified{FORM}")));
    }
    if authority.contains('@') {
        findings.push(invalid(user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        findings.push(invalid(fragment, "fragments are not permitted in the URL"));
    }
    if !query.is_empty() {
        findings.push(invalid(query, "query parameters are not permitted in the URL"));
    }
}

fn check_service(findings: &mut Vec<FieldError>, at: &At<'_>) {
    for name in ["name", "namespace"] {
        let member = at.get(name);
        if member.is_empty() {
            findings.push(member.required(""));
        }
    }
    let port = at.get("port");
    let problems = port_problems(port.int().unwrap_or(443));
    if !problems.is_empty() {
        findings.push(port.invalid(&format!("port is not valid: {}", problems.join(", "))));
    }
    let path = at.get("path");
    let text = path.str();
    if text.is_empty() || text == "/" {
        return;
    }
    if text == "//" {
        findings.push(path.invalid("segment[0] may not be empty"));
        return;
    }
    if !text.starts_with('/') {
        findings.push(path.invalid("must start with a '/'"));
    }
    let steps = text.strip_prefix('/').unwrap_or(text);
    let steps = steps.strip_suffix('/').unwrap_or(steps);
    for (index, step) in steps.split('/').enumerate() {
        if step.is_empty() {
            findings.push(path.invalid(&format!("segment[{index}] may not be empty")));
            continue;
        }
        for problem in subdomain_problems(step) {
            findings.push(path.invalid(&format!("segment[{index}]: {problem}")));
        }
    }
}
