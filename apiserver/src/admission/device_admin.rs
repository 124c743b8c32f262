//! Claims with administrative access to devices are for namespaces that say so (`resource.k8s.io`).

use balsa_api::cursor::{At, text};
use balsa_api::field::FieldError;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::{Operation, Review};
use crate::pipeline::{Api, Target};
use crate::value;

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Looks at the namespace where a new claim or template wants such access, or a claim is given it.
pub async fn admit(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let names = review.target.kind.names();
    if names.group != "resource.k8s.io" {
        return Ok(());
    }
    let path = match (names.plural, review.operation, review.subresource) {
        ("resourceclaims", Operation::Create, "") => wanted(object, "spec"),
        ("resourceclaimtemplates", Operation::Create, "") => wanted(object, "spec.spec"),
        ("resourceclaims", Operation::Update, "status") if review.old.is_some_and(|old| given(old).is_none()) => given(object),
        _ => None,
    };
    let Some(path) = path else { return Ok(()) };
    let kind = balsa_api::kinds::find("", "v1", "namespaces").ok_or_else(ApiError::no_such_path)?;
    let found = api.lookup(Target { kind, namespace: "", name: review.target.namespace }).await?;
    if found.is_some_and(|namespace| value::label(&namespace.value, LABEL) == Some("true")) {
        return Ok(());
    }
    let detail = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    let finding = FieldError::forbidden(path, &detail);
    Err(ApiError::invalid(&review.target.kind.gvk(), text(object, "metadata.name"), &[finding]))
}

/// The path of the first request that wants it. Pure.
fn wanted(object: &Value, spec: &str) -> Option<String> {
    let requests = At::root(object).at(spec).at("devices.requests");
    // The original's path leaves `exactly` out.
    requests.items().find(|request| request.at("exactly.adminAccess").is_true()).map(|request| request.sub("adminAccess"))
}

/// The path of the first device that is given it. Pure.
fn given(object: &Value) -> Option<String> {
    let results = At::root(object).at("status.allocation.devices.results");
    results.items().find(|result| result.get("adminAccess").is_true()).map(|result| result.sub("adminAccess"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_request_is_named() {
        let claim = json!({"spec": {"devices": {"requests": [{"exactly": {}}, {"exactly": {"adminAccess": true}}]}}});
        assert_eq!(wanted(&claim, "spec").as_deref(), Some("spec.devices.requests[1].adminAccess"));
        assert_eq!(wanted(&json!({"spec": claim}), "spec"), None);
        let claim = json!({"status": {"allocation": {"devices": {"results": [{}, {"adminAccess": true}]}}}});
        assert_eq!(given(&claim).as_deref(), Some("status.allocation.devices.results[1].adminAccess"));
    }
}
