//! Kinds that are only ever posted and answered, never stored: reviews and requests.

use super::definition::{CREATE_ONLY, Definition, PLAIN, names};
use crate::validate::meta::NameRule;

const REVIEW: Definition = Definition { namespaced: false, verbs: CREATE_ONLY, name_rule: NameRule::PathSegment, ..PLAIN };

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
    ..REVIEW
};
static SELF_SUBJECT_ACCESS_REVIEW: Definition = Definition {
    names: names!(
        "authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"
    ),
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
    ..REVIEW
};
static BINDING: Definition =
    Definition { names: names!("", "v1", "Binding", "bindings", "binding"), namespaced: true, ..REVIEW };

/// Types of subresources: not resources of their own, but checked like them.
static EVICTION: Definition = Definition { names: names!("policy", "v1", "Eviction", "evictions", "eviction"), namespaced: true, ..REVIEW };
static TOKEN_REQUEST: Definition = Definition {
    names: names!("authentication.k8s.io", "v1", "TokenRequest", "tokenrequests", "tokenrequest"),
    namespaced: true,
    ..REVIEW
};
static SCALE: Definition =
    Definition { names: names!("autoscaling", "v1", "Scale", "scales", "scale"), namespaced: true, ..REVIEW };

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
