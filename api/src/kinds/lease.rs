//! Leases.

use super::definition::{Definition, NAME, PLAIN, column, names};
use super::show;
use crate::cursor::{At, text};
use crate::field::FieldError;
use serde_json::Value;

/// The kind.
pub static LEASE: Definition = Definition {
    names: names!("coordination.k8s.io", "v1", "Lease", "leases", "lease"),
    unconditional_update: false,
    create_on_update: true,
    validate,
    columns: &[NAME, column("Holder"), column("Age")],
    cells: |object, now| vec![show::name(object), text(object, "spec.holderIdentity").into(), show::age(object, now)],
    ..PLAIN
};

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    let duration = spec.get("leaseDurationSeconds");
    if duration.int().is_some_and(|seconds| seconds <= 0) {
        findings.push(duration.invalid("must be greater than 0"));
    }
    crate::validate::not_negative(&mut findings, &spec.get("leaseTransitions"));
    let preferred = spec.get("preferredHolder");
    if !preferred.is_empty() && spec.get("strategy").is_empty() {
        findings.push(preferred.forbidden("may only be specified if `strategy` is defined"));
    }
    findings
}
