//! Reviews: questions about access and identity. Nothing is stored.

use balsa_api::field::FieldError;
use balsa_api::kind::Kind;
use balsa_api::status::{ApiError, ApiResult};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::authn::Caller;
use crate::authz::Decision;
use crate::authz::rbac::{Attributes, Rule};
use crate::pipeline::{Api, Call};
use crate::value;

/// The kinds that are answered here.
pub fn is_review(kind: &dyn Kind) -> bool {
    matches!(
        (kind.names().group, kind.names().plural),
        (
            "authorization.k8s.io",
            "selfsubjectaccessreviews" | "subjectaccessreviews" | "localsubjectaccessreviews" | "selfsubjectrulesreviews"
        ) | ("authentication.k8s.io", "selfsubjectreviews" | "tokenreviews")
    )
}

/// What an access review asks. Pure.
fn attributes(spec: &Value) -> Option<Attributes> {
    let text = |pointer: &str| value::text(spec, pointer).to_owned();
    if spec.get("resourceAttributes").is_some_and(Value::is_object) {
        let attributes = Attributes {
            verb: text("/resourceAttributes/verb"),
            group: text("/resourceAttributes/group"),
            version: text("/resourceAttributes/version"),
            resource: text("/resourceAttributes/resource"),
            subresource: text("/resourceAttributes/subresource"),
            namespace: text("/resourceAttributes/namespace"),
            name: text("/resourceAttributes/name"),
            fields: selected(spec),
            path: String::new(),
        };
        return Some(attributes);
    }
    spec.get("nonResourceAttributes").filter(|asked| asked.is_object()).map(|_| Attributes {
        verb: text("/nonResourceAttributes/verb"),
        path: text("/nonResourceAttributes/path"),
        ..Attributes::default()
    })
}

/// What the review's field selector asks for by one value: as text, or as requirements. Pure.
fn selected(spec: &Value) -> Vec<(String, String)> {
    let raw = value::text(spec, "/resourceAttributes/fieldSelector/rawSelector");
    let terms = balsa_api::selector::FieldSelector::parse(raw).map(|selector| selector.terms).unwrap_or_default();
    let raw = terms.into_iter().filter(|(_, equal, _)| *equal).map(|(field, _, value)| (field, value));
    let requirements = spec.pointer("/resourceAttributes/fieldSelector/requirements").and_then(Value::as_array);
    let said = requirements.into_iter().flatten().filter_map(|requirement| {
        let values = value::strings(requirement, "/values");
        match (value::text(requirement, "/operator"), values.as_slice()) {
            ("In", [one]) => Some((value::text(requirement, "/key").to_owned(), one.clone())),
            _ => None,
        }
    });
    raw.chain(said).collect()
}

/// Whom a SubjectAccessReview asks about: exactly the groups that it names. Pure.
fn subject(spec: &Value) -> Caller {
    let extra = spec.get("extra").and_then(Value::as_object).into_iter().flatten();
    Caller {
        user: value::text(spec, "/user").to_owned(),
        uid: value::text(spec, "/uid").to_owned(),
        groups: value::strings(spec, "/groups"),
        extra: extra.map(|(key, values)| (key.to_lowercase(), value::strings(values, ""))).collect(),
    }
}

/// What is wrong with an access review. Pure.
fn findings(plural: &str, namespace: &str, review: &Value) -> Vec<FieldError> {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    let has = |key: &str| spec.get(key).is_some_and(Value::is_object);
    let mut findings = Vec::new();
    match (has("resourceAttributes"), has("nonResourceAttributes")) {
        (true, true) => findings.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            spec["nonResourceAttributes"].clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => findings.push(FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let of_others = plural != "selfsubjectaccessreviews";
    if of_others && value::text(spec, "/user").is_empty() && value::strings(spec, "/groups").is_empty() {
        findings.push(FieldError::invalid("spec.user", "", "at least one of user or group must be specified"));
    }
    if plural == "localsubjectaccessreviews" {
        let asked = value::text(spec, "/resourceAttributes/namespace");
        if has("resourceAttributes") && asked != namespace {
            findings.push(FieldError::invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace"));
        }
        if has("nonResourceAttributes") {
            let given = spec["nonResourceAttributes"].clone();
            findings.push(FieldError::invalid("spec.nonResourceAttributes", given, "disallowed on this kind of request"));
        }
    }
    findings
}

impl Api {
    /// Answers a review.
    pub async fn review(&self, call: &Call, kind: &dyn Kind, namespace: &str, mut review: Value) -> ApiResult<Value> {
        let spec = review.get("spec").cloned().unwrap_or_else(|| json!({}));
        let plural = kind.names().plural;
        if plural.ends_with("accessreviews") {
            let findings = findings(plural, namespace, &review);
            if !findings.is_empty() {
                return Err(ApiError::invalid(&kind.gvk(), "", &findings));
            }
        }
        let status = match plural {
            "selfsubjectaccessreviews" => self.access(&call.caller, &spec).await,
            "subjectaccessreviews" | "localsubjectaccessreviews" => self.access(&subject(&spec), &spec).await,
            "selfsubjectrulesreviews" => match value::text(&spec, "/namespace") {
                "" => return Err(ApiError::bad_request("no namespace on request")),
                namespace => self.rules_status(&call.caller, namespace),
            },
            "selfsubjectreviews" => json!({"userInfo": call.caller.user_info()}),
            _ if value::text(&spec, "/token").is_empty() => {
                return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
            }
            _ => self.token_status(&spec, call.now).await,
        };
        review["status"] = status;
        value::set_type(&mut review, kind);
        let metadata = value::metadata(&mut review);
        if kind.names().plural == "selfsubjectreviews" {
            metadata.insert("creationTimestamp".to_owned(), json!(value::timestamp(call.now)));
        }
        Ok(review)
    }

    async fn access(&self, caller: &Caller, spec: &Value) -> Value {
        let Some(attributes) = attributes(spec) else { return json!({"allowed": false}) };
        // As a request would be answered: with the node's pods as the store has them.
        if caller.node().is_some() {
            drop(self.authorize(caller, &attributes).await);
        }
        let (allowed, reason) = match self.authorizer.decide(caller, &attributes) {
            Decision::Allowed(by) => (true, by),
            Decision::NoOpinion(why) => (false, why),
        };
        if reason.is_empty() { json!({"allowed": allowed}) } else { json!({"allowed": allowed, "reason": reason}) }
    }

    fn rules_status(&self, caller: &Caller, namespace: &str) -> Value {
        let rules = self.authorizer.policy().rules(caller, namespace);
        let resource = |rule: &Rule| {
            let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                shown["resourceNames"] = json!(rule.names);
            }
            shown
        };
        let resources: Vec<Value> = rules.iter().filter(|rule| !rule.resources.is_empty()).map(resource).collect();
        let paths: Vec<Value> = rules
            .iter()
            .filter(|rule| !rule.paths.is_empty())
            .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}))
            .collect();
        let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
        if caller.node().is_some() {
            status["incomplete"] = json!(true);
            status["evaluationError"] = json!("node authorizer does not support user rule resolution");
        }
        status
    }

    async fn token_status(&self, spec: &Value, now: Timestamp) -> Value {
        let mut audiences = value::strings(spec, "/audiences");
        if audiences.is_empty() {
            audiences = self.audiences();
        }
        match self.verify_bearer(value::text(spec, "/token"), &audiences, now).await {
            Ok(shown) => json!({"authenticated": true, "user": shown.caller.user_info(), "audiences": shown.audiences}),
            Err(error) => json!({"user": {}, "error": error}),
        }
    }
}
