//! Kinds that are only ever posted and answered, never stored: reviews and requests.

use serde_json::Value;

use super::definition::{CREATE_ONLY, Definition, PLAIN, names};
use crate::cursor::{At, make_object, set_default};
use crate::field::FieldError;
use crate::validate::meta::NameRule;

const REVIEW: Definition = Definition { namespaced: false, verbs: CREATE_ONLY, name_rule: NameRule::PathSegment, stored: false, ..PLAIN };

static TOKEN_REVIEW: Definition = Definition {
    names: names!("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "tokenreview"),
    ..REVIEW
};
static SELF_SUBJECT_REVIEW: Definition = Definition {
    names: names!("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
    ..REVIEW
};
static SUBJECT_ACCESS_REVIEW: Definition = Definition {
    names: names!("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"),
    validate: |object| access(object, true),
    ..REVIEW
};
static SELF_SUBJECT_ACCESS_REVIEW: Definition = Definition {
    names: names!(
        "authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"
    ),
    validate: |object| access(object, false),
    ..REVIEW
};
static SELF_SUBJECT_RULES_REVIEW: Definition = Definition {
    names: names!(
        "authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"
    ),
    ..REVIEW
};
static LOCAL_SUBJECT_ACCESS_REVIEW: Definition = Definition {
    names: names!(
        "authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", "localsubjectaccessreview"
    ),
    namespaced: true,
    validate: |object| access(object, true),
    ..REVIEW
};
static BINDING: Definition = Definition {
    names: names!("", "v1", "Binding", "bindings", "binding"),
    namespaced: true,
    validate: |object| {
        let target = At::root(object).get("target");
        let mut findings = Vec::new();
        if !matches!(target.get("kind").str(), "" | "Node") {
            findings.push(target.get("kind").not_supported(&["Node", "<empty>"]));
        }
        if target.get("name").is_empty() {
            findings.push(target.get("name").required(""));
        }
        findings
    },
    ..REVIEW
};

/// Types of subresources: not resources of their own, but checked like them.
static EVICTION: Definition = Definition { names: names!("policy", "v1", "Eviction", "evictions", "eviction"), namespaced: true, ..REVIEW };
static TOKEN_REQUEST: Definition = Definition {
    names: names!("authentication.k8s.io", "v1", "TokenRequest", "tokenrequests", "tokenrequest"),
    namespaced: true,
    default: |object| set_default(make_object(object, "spec"), "expirationSeconds", 3600),
    validate: |object| {
        let seconds = At::root(object).at("spec.expirationSeconds");
        let mut findings = Vec::new();
        if seconds.int().is_some_and(|seconds| seconds < 600) {
            findings.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        if seconds.int().is_some_and(|seconds| seconds > 1 << 32) {
            findings.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
        findings
    },
    ..REVIEW
};
static SCALE: Definition =
    Definition { names: names!("autoscaling", "v1", "Scale", "scales", "scale"), namespaced: true, ..REVIEW };

/// An access review asks one thing, about somebody (unless it is about the asker).
fn access(object: &Value, subject: bool) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    let (resource, other) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    if resource.is_set() == other.is_set() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let at = if resource.is_set() { other } else { resource };
        findings.push(FieldError::invalid(at.path, at.value.clone(), detail));
    }
    if subject && spec.get("user").is_empty() && spec.get("groups").len() == 0 {
        findings.push(spec.get("user").invalid("at least one of user or group must be specified"));
    }
    findings
}

/// All of them that are resources.
pub const ALL: &[&Definition] = &[
    &TOKEN_REVIEW,
    &SELF_SUBJECT_REVIEW,
    &SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_RULES_REVIEW,
    &LOCAL_SUBJECT_ACCESS_REVIEW,
    &BINDING,
];

/// Types that only subresources exchange: `Eviction`, `TokenRequest`, `Scale`.
pub const SUBRESOURCE_TYPES: &[&Definition] = &[&EVICTION, &TOKEN_REQUEST, &SCALE];
