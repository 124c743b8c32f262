//! Metadata: what any object's must fulfil, and what of it may not change.

use serde_json::Value;

use super::text::{
    address_problems, label_problems, path_segment_problems, qualified_name_problems, subdomain_problems,
};
use super::{each, labels, unchanged};
use crate::cursor::{At, find, list, text};
use crate::field::FieldError;

const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What a kind's names must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// DNS-1123 subdomain, at most 253.
    Subdomain,
    /// DNS-1123 label, at most 63.
    Label,
    /// Anything that can stand in a path.
    PathSegment,
    /// An IP address in its canonical spelling.
    Address,
    /// Anything at all.
    Any,
}

impl NameRule {
    /// What is wrong with a name; of a prefix the trailing dash is forgiven.
    pub fn problems(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = match name.strip_suffix('-') {
            Some(rest) if prefix && !rest.is_empty() && self != Self::PathSegment => {
                let cut = rest.char_indices().last().map_or(0, |(at, _)| at);
                masked = format!("{}a", &rest[..cut]);
                &masked
            }
            _ => name,
        };
        match self {
            Self::Subdomain => subdomain_problems(name),
            Self::Label => label_problems(name),
            Self::PathSegment => path_segment_problems(name),
            Self::Address => address_problems(name),
            Self::Any => Vec::new(),
        }
    }
}

/// What is wrong with a new object's metadata.
pub fn validate(object: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let meta = At::root(object).get("metadata");
    let mut findings = Vec::new();
    let prefix = meta.get("generateName");
    if !prefix.is_empty() {
        each(&mut findings, &prefix, &rule.problems(prefix.str(), true));
    }
    let name = meta.get("name");
    if name.is_empty() {
        findings.push(name.required("name or generateName is required"));
    } else {
        each(&mut findings, &name, &rule.problems(name.str(), false));
    }
    let namespace = meta.get("namespace");
    if !namespaced {
        if !namespace.is_empty() {
            findings.push(namespace.forbidden("not allowed on this type"));
        }
    } else if namespace.is_empty() {
        findings.push(namespace.required(""));
    } else {
        each(&mut findings, &namespace, &label_problems(namespace.str()));
    }
    if meta.get("generation").int().is_some_and(|generation| generation < 0) {
        findings.push(meta.get("generation").invalid(super::NOT_NEGATIVE));
    }
    common(&mut findings, &meta);
    finalizers(&mut findings, &meta.get("finalizers"));
    findings
}

fn common(findings: &mut Vec<FieldError>, meta: &At<'_>) {
    labels(findings, &meta.get("labels"));
    annotations(findings, &meta.get("annotations"));
    owners(findings, &meta.get("ownerReferences"));
}

/// Annotations: keys, and how much in all.
pub fn annotations(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let mut total = 0;
    for (key, value) in at.entries() {
        total += key.len() + value.str().len();
        // Upper case is allowed here, unlike in labels' prefixes.
        for problem in qualified_name_problems(&key.to_lowercase()) {
            findings.push(FieldError::invalid(at.path.clone(), key, &problem));
        }
    }
    if total > MAX_ANNOTATIONS {
        findings.push(FieldError::too_long(at.path.clone(), MAX_ANNOTATIONS));
    }
}

fn owners(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let mut controller: Option<String> = None;
    for owner in at.items() {
        for (field, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            // The path has no index: that is how Kubernetes names it.
            if owner.get(field).is_empty() {
                findings.push(FieldError::invalid(at.sub(field), owner.get(field).str(), detail));
            }
        }
        if owner.get("kind").str() == "Event" && matches!(owner.get("apiVersion").str(), "v1" | "events.k8s.io/v1") {
            let (group, version) = crate::meta::split_api_version(owner.get("apiVersion").str());
            let detail = format!("{group}/{version}, Kind=Event is disallowed from being an owner");
            findings.push(FieldError::invalid(at.path.clone(), owner.value.clone(), &detail));
        }
        if owner.get("controller").is_true() {
            let name = format!("{}/{}", owner.get("kind").str(), owner.get("name").str());
            match &controller {
                Some(first) => findings.push(at.invalid(&format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                ))),
                None => controller = Some(name),
            }
        }
    }
}

/// Finalizers: qualified names, not both ways of deletion at once.
fn finalizers(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let names: Vec<&str> = at.items().map(|item| item.str()).collect();
    for name in &names {
        for problem in qualified_name_problems(name) {
            findings.push(FieldError::invalid(at.path.clone(), *name, &problem));
        }
    }
    if names.contains(&"orphan") && names.contains(&"foregroundDeletion") {
        findings.push(at.invalid("finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

/// What is wrong with a change of metadata.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (meta, before) = (At::root(new).get("metadata"), At::root(old).get("metadata"));
    let mut findings = Vec::new();
    if !text(old, "metadata.deletionTimestamp").is_empty() {
        let known = list(old, "metadata.finalizers");
        let added: Vec<&str> =
            list(new, "metadata.finalizers").iter().filter(|name| !known.contains(name)).filter_map(Value::as_str).collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
            findings.push(meta.get("finalizers").forbidden(&format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                shown.join(", ")
            )));
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if find(new, "metadata").get(field).unwrap_or(&Value::Null) != find(old, "metadata").get(field).unwrap_or(&Value::Null) {
            unchanged(&mut findings, &meta.get(field), &before.get(field));
        }
    }
    common(&mut findings, &meta);
    finalizers(&mut findings, &meta.get("finalizers"));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(findings: &[FieldError]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn new_metadata() {
        let fine = json!({"metadata": {"name": "a", "namespace": "n", "labels": {"a": "b"}, "annotations": {"A/B": "x"}}});
        assert_eq!(shown(&validate(&fine, true, NameRule::Subdomain)), Vec::<String>::new());
        let missing = json!({"metadata": {}});
        assert_eq!(
            shown(&validate(&missing, true, NameRule::Subdomain)),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        let prefix = json!({"metadata": {"name": "a-x", "generateName": "a-", "namespace": "n"}});
        assert!(validate(&prefix, true, NameRule::Label).is_empty());
    }

    #[test]
    fn finalizers_while_deleting() {
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["a/b"]}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
        assert_eq!(
            shown(&validate_update(&new, &old)),
            ["metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
              finalizers []string{\"c/d\"}"]
        );
    }
}
