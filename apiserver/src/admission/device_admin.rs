//! Claims with administrative access to devices are for namespaces that say so (`resource.k8s.io`).

use balsa_api::cursor::{At, text};
use balsa_api::field::FieldError;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::{Operation, Review};
use crate::pipeline::{Api, Target};
use crate::value;

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Looks at the namespace where a new claim or template wants such access.
pub async fn admit(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let names = review.target.kind.names();
    let spec = match (names.group, names.plural) {
        ("resource.k8s.io", "resourceclaims") => "spec",
        ("resource.k8s.io", "resourceclaimtemplates") => "spec.spec",
        _ => return Ok(()),
    };
    if review.operation != Operation::Create || !review.subresource.is_empty() {
        return Ok(());
    }
    let Some(path) = wanted(object, spec) else { return Ok(()) };
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
    requests.items().find(|request| request.at("exactly.adminAccess").is_true()).map(|request| request.sub("adminAccess"))
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
    }
}
