//! Who may approve and who may sign requests for certificates, and which requests nobody may make: Kubernetes'
//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction.

use balsa_api::cursor::{find, text};
use balsa_api::kinds::certificates;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::{Operation, Review};
use crate::authz::rbac::Attributes;
use crate::pipeline::Api;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Refuses what the caller may not do with a request for a certificate.
pub fn admit(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let names = review.target.kind.names();
    if (names.group, names.plural) != ("certificates.k8s.io", "certificatesigningrequests") {
        return Ok(());
    }
    let refuse = |why: &str| Err(ApiError::forbidden(&review.target.kind.gvr(), review.target.name, why));
    let Some(old) = review.old else {
        return match (review.operation, restricted(object)) {
            (Operation::Create, Some(why)) => refuse(&why),
            _ => Ok(()),
        };
    };
    let (verb, deed) = match review.subresource {
        "approval" => ("approve", "approve"),
        "status" if changes(object, old) => ("sign", "sign"),
        _ => return Ok(()),
    };
    let signer = text(old, "spec.signerName");
    if may(api, review, verb, signer) { Ok(()) } else { refuse(&format!("user not permitted to {deed} requests with signerName {signer:?}")) }
}

fn changes(new: &Value, old: &Value) -> bool {
    ["status.certificate", "status.conditions"].iter().any(|path| find(new, path) != find(old, path))
}

/// Nobody becomes administrator by a certificate for the API. Pure.
fn restricted(object: &Value) -> Option<String> {
    if text(object, "spec.signerName") != CLIENT {
        return None;
    }
    match certificates::organizations(text(object, "spec.request")) {
        Err(problem) => Some(format!("failed to parse CSR: {problem}")),
        Ok(groups) if groups.iter().any(|group| group == "system:masters") => {
            Some(format!("use of {CLIENT} signer with system:masters group is not allowed"))
        }
        Ok(_) => None,
    }
}

/// The signer itself, or all signers of its domain.
fn may(api: &Api, review: &Review<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        api.authorizer.allows(&review.call.caller, &attributes).is_some()
    })
}
