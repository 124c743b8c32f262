//! Admission: what the cluster, not the type, has to say about a write. One plug-in per file; order as in Kubernetes.
//!
//! A plug-in's decision is a pure function over the object and what was looked up for it; the looking-up is here.

pub mod certificates;
pub mod classes;
pub mod claim_status;
pub mod device_admin;
pub mod hooks;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod pod_resize;
pub mod pod_security;
pub mod priority;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod stamps;
pub mod tolerations;
pub mod topology;

use balsa_api::status::ApiResult;
use serde_json::{Value, json};

use crate::pipeline::{Api, Call, Target};
use crate::value;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change.
    Update,
    /// A deletion.
    Delete,
}

/// A write under review.
pub struct Review<'a> {
    /// Who and how.
    pub call: &'a Call,
    /// Which object.
    pub target: Target<'a>,
    /// What is done.
    pub operation: Operation,
    /// Empty: the object itself.
    pub subresource: &'a str,
    /// The state before.
    pub old: Option<&'a Value>,
}

impl Review<'_> {
    /// Whether it is a write of this core resource itself.
    pub fn is(&self, plural: &str) -> bool {
        let names = self.target.kind.names();
        names.group.is_empty() && names.plural == plural && self.subresource.is_empty()
    }

    fn creates(&self, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(plural)
    }
}

/// Fills in what the cluster decides: its own plug-ins, then what its users configured. What the latter change is put to
/// all of them once more.
pub async fn mutate(api: &Api, review: &Review<'_>, object: &mut Value) -> ApiResult<()> {
    let mut rounds = hooks::rounds::Rounds::default();
    loop {
        plug_ins(api, review, object).await?;
        hooks::mutate(api, review, object, &mut rounds).await?;
        if rounds.second || !rounds.wanted {
            return Ok(());
        }
        rounds.second = true;
    }
}

async fn plug_ins(api: &Api, review: &Review<'_>, object: &mut Value) -> ApiResult<()> {
    namespace_lifecycle::admit(api, review).await?;
    stamps::stamp(review, object);
    if review.creates("nodes") {
        taint_new_node(object);
    }
    if review.creates("pods") {
        limit_ranger::default(api, review, object)?;
        service_account::admit(api, review, object).await?;
        priority::admit(api, review, object)?;
    }
    if review.is("pods") {
        tolerations::add_defaults(object);
    }
    classes::fill_in(api, review, object);
    if review.creates("pods") {
        runtime_class::admit(api, review, object).await?;
        let node = value::text(object, "/spec/nodeName").to_owned();
        topology::label(api, &node, object);
    }
    Ok(())
}

/// Refuses what the cluster does not allow.
pub async fn validate(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    namespace_lifecycle::protect(review)?;
    node_restriction::admit(review, object)?;
    if review.operation != Operation::Delete {
        let resizes = pod_resize::is_resize(review);
        if review.creates("pods") || resizes {
            limit_ranger::check(api, review, object)?;
        }
        if resizes {
            pod_resize::admit(api, review, object).await?;
        }
        pod_security::admit(api, review, object).await?;
        certificates::admit(api, review, object)?;
        claim_status::admit(api, review, object)?;
        device_admin::admit(api, review, object).await?;
        classes::check_growth(api, review, object)?;
        if review.creates("pods") {
            runtime_class::check(api, review, object).await?;
        }
    }
    if review.operation != Operation::Delete {
        hooks::validate(api, review, object).await?;
    }
    if review.operation == Operation::Create || pod_resize::is_resize(review) {
        resource_quota::admit(api, review, object).await?;
    }
    Ok(())
}

/// A node that nobody has looked at yet gets no pods. Pure.
fn taint_new_node(node: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let spec = value::member(node, "spec");
    let Some(taints) = value::list(spec, "taints") else { return };
    let there = taints.iter().any(|own| own["key"] == taint["key"] && own["effect"] == taint["effect"]);
    if !there {
        taints.push(taint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_node_is_tainted_once() {
        let mut node = json!({"metadata": {"name": "n"}});
        taint_new_node(&mut node);
        taint_new_node(&mut node);
        assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
    }
}
