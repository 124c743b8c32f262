//! Reviews: questions about access and identity. Nothing is stored.

use balsa_api::field::FieldError;
use balsa_api::kind::Kind;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use crate::authn::{Caller, token::Verified};
use crate::authz::rbac::{Attributes, Rule};
use crate::pipeline::{Api, Call, Target};
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
        return Some(Attributes {
            verb: text("/resourceAttributes/verb"),
            group: text("/resourceAttributes/group"),
            version: text("/resourceAttributes/version"),
            resource: text("/resourceAttributes/resource"),
            subresource: text("/resourceAttributes/subresource"),
            namespace: text("/resourceAttributes/namespace"),
            name: text("/resourceAttributes/name"),
            path: String::new(),
        });
    }
    spec.get("nonResourceAttributes").filter(|asked| asked.is_object()).map(|_| Attributes {
        verb: text("/nonResourceAttributes/verb"),
        path: text("/nonResourceAttributes/path"),
        ..Attributes::default()
    })
}

/// Whom a SubjectAccessReview asks about. Pure.
fn subject(spec: &Value) -> Caller {
    let mut groups = value::strings(spec, "/groups");
    let user = value::text(spec, "/user").to_owned();
    if !user.is_empty() && user.starts_with("system:serviceaccount:") && groups.is_empty() {
        groups = crate::authn::implied_groups(&user);
    }
    Caller { user, groups, ..Caller::default() }
}

impl Api {
    /// Answers a review.
    pub async fn review(&self, call: &Call, kind: &dyn Kind, namespace: &str, mut review: Value) -> ApiResult<Value> {
        let spec = review.get("spec").cloned().unwrap_or_else(|| json!({}));
        let status = match kind.names().plural {
            "selfsubjectaccessreviews" => self.access(kind, &call.caller, &spec)?,
            "subjectaccessreviews" => self.access(kind, &subject(&spec), &spec)?,
            "localsubjectaccessreviews" => {
                let asked = value::text(&spec, "/resourceAttributes/namespace");
                if asked != namespace {
                    let finding = FieldError::invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace");
                    return Err(ApiError::invalid(&kind.gvk(), "", &[finding]));
                }
                self.access(kind, &subject(&spec), &spec)?
            }
            "selfsubjectrulesreviews" => self.rules_status(&call.caller, value::text(&spec, "/namespace")),
            "selfsubjectreviews" => json!({"userInfo": call.caller.user_info()}),
            _ => self.token_status(&spec, call.now.as_second()).await,
        };
        review["status"] = status;
        value::set_type(&mut review, kind);
        let metadata = value::metadata(&mut review);
        if kind.names().plural == "selfsubjectreviews" {
            metadata.insert("creationTimestamp".to_owned(), json!(value::timestamp(call.now)));
        }
        Ok(review)
    }

    fn access(&self, kind: &dyn Kind, caller: &Caller, spec: &Value) -> ApiResult<Value> {
        let Some(attributes) = attributes(spec) else {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let finding = FieldError::invalid("spec.resourceAttributes", Value::Null, detail);
            return Err(ApiError::invalid(&kind.gvk(), "", &[finding]));
        };
        Ok(match self.authorizer.allows(caller, &attributes) {
            Some(reason) if reason.is_empty() => json!({"allowed": true}),
            Some(reason) => json!({"allowed": true, "reason": reason}),
            None => json!({"allowed": false}),
        })
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
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }

    async fn token_status(&self, spec: &Value, now: i64) -> Value {
        let mut audiences = value::strings(spec, "/audiences");
        if audiences.is_empty() {
            audiences.push(self.signer.issuer().to_owned());
        }
        match self.verify_token(value::text(spec, "/token"), &audiences, now).await {
            Ok(verified) => {
                json!({"authenticated": true, "user": verified.caller().user_info(), "audiences": verified.audiences})
            }
            Err(error) => json!({"user": {}, "error": error}),
        }
    }

    /// Checks a token and that what it speaks for and is bound to still exists.
    pub async fn verify_token(&self, token: &str, audiences: &[String], now: i64) -> Result<Verified, String> {
        let verified = self.signer.verify(token, audiences, now)?;
        let subject = &verified.subject;
        let account = (subject.name.clone(), subject.uid.clone());
        let namespace = subject.namespace.as_str();
        self.still_exists("serviceaccounts", namespace, Some(&account)).await?;
        self.still_exists("pods", namespace, subject.bound.pod.as_ref()).await?;
        self.still_exists("secrets", namespace, subject.bound.secret.as_ref()).await?;
        if subject.bound.pod.is_none() {
            self.still_exists("nodes", "", subject.bound.node.as_ref()).await?;
        }
        Ok(verified)
    }

    async fn still_exists(&self, plural: &str, namespace: &str, object: Option<&(String, String)>) -> Result<(), String> {
        let Some((name, uid)) = object else { return Ok(()) };
        let Some(kind) = balsa_api::kinds::find("", "v1", plural) else { return Ok(()) };
        let found = self.lookup(Target { kind, namespace, name }).await.map_err(|error| error.message)?;
        match found {
            Some(found) if value::uid(&found.value) == uid => Ok(()),
            _ => Err(format!("what the token is bound to is gone: {plural} {name:?}")),
        }
    }
}
