//! Objects live only in namespaces that exist and are not on their way out; some namespaces never go.

use balsa_api::kind::Kind;
use balsa_api::meta::GroupVersionResource;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::{Operation, Review};
use crate::pipeline::{Api, Target};
use crate::value;

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

fn namespaces() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "namespaces")
}

/// Creating needs a living namespace.
pub async fn admit(api: &Api, review: &Review<'_>) -> ApiResult<()> {
    if review.operation != Operation::Create || !review.target.kind.namespaced() {
        return Ok(());
    }
    // A review is a question, not an object in the namespace.
    if review.target.kind.names().plural == "localsubjectaccessreviews" {
        return Ok(());
    }
    check_living(api, review.target.kind, review.target.namespace, review.target.name).await
}

/// 404 for a missing namespace, 403 for one that is terminating.
pub async fn check_living(api: &Api, kind: &dyn Kind, namespace: &str, name: &str) -> ApiResult<()> {
    let Some(namespace_kind) = balsa_api::kinds::find("", "v1", "namespaces") else { return Ok(()) };
    let target = Target { kind: namespace_kind, namespace: "", name: namespace };
    let found = api.lookup(target).await?.ok_or_else(|| ApiError::not_found(&namespaces(), namespace))?;
    if !is_terminating(&found.value) {
        return Ok(());
    }
    // The cache may be behind a namespace of the same name that was made anew.
    let found = api.fetch(target).await?.ok_or_else(|| ApiError::not_found(&namespaces(), namespace))?;
    if is_terminating(&found.value) { Err(terminating(kind, namespace, name)) } else { Ok(()) }
}

fn is_terminating(namespace: &Value) -> bool {
    value::is_deleting(namespace) || value::text(namespace, "/status/phase") == "Terminating"
}

fn terminating(kind: &dyn Kind, namespace: &str, name: &str) -> ApiError {
    let detail = format!("unable to create new content in namespace {namespace} because it is being terminated");
    ApiError::forbidden(&kind.gvr(), name, &detail).with_cause(
        "NamespaceTerminating",
        format!("namespace {namespace} is being terminated"),
        "metadata.namespace",
    )
}

/// Some namespaces may not be deleted. Pure.
pub fn protect(review: &Review<'_>) -> ApiResult<()> {
    if review.operation == Operation::Delete && review.is("namespaces") && IMMORTAL.contains(&review.target.name) {
        let detail = "this namespace may not be deleted";
        return Err(ApiError::forbidden(&namespaces(), review.target.name, detail));
    }
    Ok(())
}
