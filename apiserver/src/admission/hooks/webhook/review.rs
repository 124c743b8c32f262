//! AdmissionReview: what a webhook is asked, and what its answer may be. Pure.
//!
//! After `k8s.io/apiserver/pkg/admission/plugin/webhook/request` and its `errors`.

use std::collections::BTreeMap;

use balsa_api::status::ApiError;
use base64::Engine as _;
use serde_json::{Value, json};

use crate::admission::hooks::matching::Hit;
use crate::admission::hooks::request::Asked;
use crate::value;

/// The review's version that a webhook understands and we speak: the first of its list.
pub fn version(accepted: &[String]) -> Option<&str> {
    accepted.iter().map(String::as_str).find(|version| matches!(*version, "v1" | "v1beta1"))
}

/// The question.
pub fn question(version: &str, uid: &str, asked: &Asked<'_>, hit: &Hit) -> Value {
    let mut request = asked.told(&hit.resource, &hit.kind);
    request["uid"] = json!(uid);
    request["object"] = asked.object.clone().unwrap_or(Value::Null);
    request["oldObject"] = asked.old.clone().unwrap_or(Value::Null);
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// A well-formed answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Whether the request may go on.
    pub allowed: bool,
    /// A JSON patch of the object; empty: none.
    pub patch: Vec<u8>,
    /// Why not, as a Status.
    pub result: Option<Value>,
    /// For the caller.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: BTreeMap<String, String>,
}

/// Reads an answer; the error is what is wrong with it.
pub fn answer(version: &str, uid: &str, mutating: bool, review: &Value) -> Result<Answer, String> {
    let Some(response) = review.get("response").filter(|response| response.is_object()) else {
        return Err("webhook response was absent".to_owned());
    };
    let patch = match response.get("patch") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| format!("response.patch is not base64: {error}"))?,
        Some(_) => return Err("response.patch is not base64 text".to_owned()),
    };
    let patch_type = response.get("patchType").filter(|patch_type| !patch_type.is_null());
    if version == "v1" {
        check_v1(uid, mutating, review, response, !patch.is_empty(), patch_type)?;
    }
    let annotations = response.get("auditAnnotations").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Answer {
        allowed: response.get("allowed") == Some(&Value::Bool(true)),
        patch: if mutating { patch } else { Vec::new() },
        result: response.get("status").filter(|status| status.is_object()).cloned(),
        warnings: value::strings(response, "/warnings"),
        annotations: annotations.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect(),
    })
}

fn check_v1(
    uid: &str,
    mutating: bool,
    review: &Value,
    response: &Value,
    has_patch: bool,
    patch_type: Option<&Value>,
) -> Result<(), String> {
    let own = value::text(response, "/uid");
    if own != uid {
        return Err(format!("expected response.uid={uid:?}, got {own:?}"));
    }
    let (kind, api) = (value::text(review, "/kind"), value::text(review, "/apiVersion"));
    if kind != "AdmissionReview" || api != "admission.k8s.io/v1" {
        let (group, version) = api.rsplit_once('/').unwrap_or(("", api));
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{version}, Kind={kind}"
        ));
    }
    match (mutating, has_patch, patch_type) {
        (true, true, None) => Err("webhook returned response.patch but not response.patchType".to_owned()),
        (true, false, Some(_)) => Err("webhook returned response.patchType but not response.patch".to_owned()),
        (true, true, Some(kind)) if kind != "JSONPatch" => {
            Err(format!("webhook returned invalid response.patchType of {kind}"))
        }
        (false, true, _) => Err("validating webhook may not return response.patch".to_owned()),
        (false, _, Some(_)) => Err("validating webhook may not return response.patchType".to_owned()),
        _ => Ok(()),
    }
}

/// The refusal that a webhook asked for.
pub fn refusal(hook: &str, result: Option<&Value>) -> ApiError {
    let empty = json!({});
    let mut status = result.unwrap_or(&empty).clone();
    let denied = format!("admission webhook {hook:?} denied the request");
    let message = match (value::text(&status, "/message"), value::text(&status, "/reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    status["kind"] = json!("Status");
    status["code"] = json!(if (400..600).contains(&code) { code } else { 400 });
    status["message"] = json!(message);
    let parsed = serde_json::to_vec(&status).ok().and_then(|bytes| ApiError::from_json(&bytes));
    parsed.unwrap_or_else(|| ApiError::new(if code < 400 { 400 } else { code }, "", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mutating: bool, response: Value) -> Result<Answer, String> {
        let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        answer("v1", "u", mutating, &review)
    }

    #[test]
    fn answers_are_looked_at_closely() {
        let good = of(true, json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch", "warnings": ["w"]}));
        assert_eq!(good.map(|answer| (answer.allowed, answer.patch, answer.warnings)), Ok((true, b"[]".to_vec(), vec!["w".to_owned()])));
        for (mutating, response, words) in [
            (true, json!({"uid": "x"}), "expected response.uid=\"u\", got \"x\""),
            (true, json!({"uid": "u", "patch": "W10="}), "response.patch but not response.patchType"),
            (true, json!({"uid": "u", "patchType": "JSONPatch"}), "response.patchType but not response.patch"),
            (true, json!({"uid": "u", "patch": "*"}), "is not base64"),
            (false, json!({"uid": "u", "patch": "W10="}), "validating webhook may not return response.patch"),
            (false, Value::Null, "webhook response was absent"),
        ] {
            let error = of(mutating, response.clone()).unwrap_err();
            assert!(error.contains(words), "{response}: {error}");
        }
        let old = json!({"response": {"allowed": true}});
        assert!(answer("v1beta1", "u", false, &old).is_ok_and(|answer| answer.allowed));
        assert_eq!(version(&["v9".into(), "v1beta1".into(), "v1".into()]), Some("v1beta1"));
    }

    #[test]
    fn refusals_say_who_refuses() {
        let error = refusal("a.b.c", Some(&json!({"message": "no cats", "code": 403, "reason": "Forbidden"})));
        assert_eq!((error.code, error.reason.as_str()), (403, "Forbidden"));
        assert_eq!(error.message, "admission webhook \"a.b.c\" denied the request: no cats");
        let error = refusal("a.b.c", None);
        assert_eq!((error.code, error.message.as_str()), (400, "admission webhook \"a.b.c\" denied the request without explanation"));
        assert_eq!(refusal("h", Some(&json!({"code": 200, "reason": "Why"}))).message, "admission webhook \"h\" denied the request: Why");
    }
}
