//! The error that every API call can end in, and its form on the wire: Kubernetes' `Status`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field::FieldError;
use crate::meta::{GroupVersionKind, GroupVersionResource};

/// One detail of a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldManagerConflict`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `spec.containers[0].image`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What the failure is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural resource name, or the kind where Kubernetes puts that.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One per finding.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to come back, seconds; 0 for unsaid.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A failed API call. `code` is the HTTP status, `reason` Kubernetes' word for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `NotFound`, `Invalid`, …; empty where Kubernetes gives none.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// What it is about.
    pub details: Details,
    /// `metadata.continue` of the Status: only for expired list tokens.
    pub continue_token: String,
}

/// The result of an API call.
pub type ApiResult<T> = Result<T, ApiError>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    metadata: WireMeta,
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(default)]
    code: u16,
}

#[derive(Default, Serialize, Deserialize)]
struct WireMeta {
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    continue_token: String,
}

/// Findings that one error names: an object of a hundred thousand bad labels is not answered with each of them.
const MAX_FINDINGS: usize = 1000;

impl ApiError {
    /// Any error; prefer the named constructors.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: Details::default(),
            continue_token: String::new(),
        }
    }

    fn about(mut self, resource: &GroupVersionResource, name: &str) -> Self {
        self.details.group.clone_from(&resource.group);
        self.details.kind.clone_from(&resource.resource);
        name.clone_into(&mut self.details.name);
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        self.details.causes.push(Cause { reason: reason.to_owned(), message: message.into(), field: field.to_owned() });
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.retry_after_seconds = seconds;
        self
    }

    /// 400
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: `pods "x" is forbidden: DETAIL`.
    pub fn forbidden(resource: &GroupVersionResource, name: &str, detail: &str) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {detail}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {detail}")
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(resource: &GroupVersionResource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    /// 404 for a path that nothing is behind.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405
    pub fn method_not_allowed(resource: &GroupVersionResource) -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .about(resource, "")
    }

    /// 406
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &GroupVersionResource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    /// 409: `Operation cannot be fulfilled on pods "x": DETAIL`.
    pub fn conflict(resource: &GroupVersionResource, name: &str, detail: &str) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {resource} \"{name}\": {detail}"))
            .about(resource, name)
    }

    /// 409: somebody else wrote in between.
    pub fn modified(resource: &GroupVersionResource, name: &str) -> Self {
        let detail = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, detail)
    }

    /// 410: the revision asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: `Pod "x" is invalid: FINDING`, several findings in brackets.
    pub fn invalid(kind: &GroupVersionKind, name: &str, findings: &[FieldError]) -> Self {
        let (findings, more) = findings.split_at(findings.len().min(MAX_FINDINGS));
        let mut texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        if !more.is_empty() {
            texts.push(format!("and {} more", more.len()));
        }
        let findings_text = match texts.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let mut error = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {findings_text}"));
        error.details.group.clone_from(&kind.group);
        error.details.kind.clone_from(&kind.kind);
        name.clone_into(&mut error.details.name);
        error.details.causes = findings
            .iter()
            .map(|finding| Cause {
                reason: finding.kind.reason().to_owned(),
                message: finding.message.clone(),
                field: finding.field.clone(),
            })
            .collect();
        error
    }

    /// 429
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, "TooManyRequests", message).with_retry_after(retry_after_seconds)
    }

    /// 500
    pub fn internal(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {message}")).with_cause("", message, "")
    }

    /// 503
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504
    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(504, "Timeout", message).with_retry_after(retry_after_seconds)
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether somebody else wrote in between, or a precondition failed.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }

    /// The `Status` object as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let details = (self.details != Details::default()).then(|| self.details.clone());
        let wire = Wire {
            kind: "Status".to_owned(),
            api_version: "v1".to_owned(),
            metadata: WireMeta { continue_token: self.continue_token.clone() },
            status: "Failure".to_owned(),
            message: self.message.clone(),
            reason: self.reason.clone(),
            details,
            code: self.code,
        };
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// From a `Status` object as JSON; `None` where it is none.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(json).ok()?;
        (wire.kind == "Status").then(|| Self {
            code: wire.code,
            reason: wire.reason,
            message: wire.message,
            details: wire.details.unwrap_or_default(),
            continue_token: wire.metadata.continue_token,
        })
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_wire() {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let error = ApiError::not_found(&pods, "web");
        assert_eq!(error.message, "pods \"web\" not found");
        assert_eq!(ApiError::from_json(&error.to_json()), Some(error));
    }

    #[test]
    fn several_findings_stand_in_brackets() {
        let kind = GroupVersionKind::new("", "v1", "Pod");
        let findings = [FieldError::required("spec.a", ""), FieldError::invalid("spec.b", "x y", "no spaces")];
        let error = ApiError::invalid(&kind, "p", &findings);
        assert_eq!(
            error.message,
            r#"Pod "p" is invalid: [spec.a: Required value, spec.b: Invalid value: "x y": no spaces]"#
        );
    }
}
