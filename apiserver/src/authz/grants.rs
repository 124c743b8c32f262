//! Writes of roles and bindings grant rights, and nobody grants what they do not hold: the escalation check of roles
//! and the bind check of bindings, in Kubernetes' words (pkg/registry/rbac).

use balsa_api::meta::GroupVersionResource;
use balsa_api::status::{ApiError, ApiResult};
use balsa_process::identity::names;
use serde_json::Value;

use super::cover::{describe_missing, missing, quoted};
use super::rbac::{Attributes, Rule, rules_of};
use super::{Authorizer, GROUP};
use crate::admission::{Operation, Review};
use crate::authn::Caller;
use crate::value;

/// Whether a change touches only what the garbage collector needs in order to delete the object. Pure.
fn is_only_for_collection(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        let metadata = value::metadata(&mut object);
        for key in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            metadata.remove(key);
        }
        object
    };
    bare(new) == bare(old)
}

fn aggregates(role: &Value) -> bool {
    role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

fn full_authority() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    let resources = Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
    [resources, Rule { verbs: all(), paths: all(), ..Rule::default() }]
}

impl Authorizer {
    /// 403 where the write would grant what its writer does not hold. Everything but roles and bindings passes.
    pub fn check_grants(&self, review: &Review<'_>, object: &Value) -> ApiResult<()> {
        let kind = review.target.kind.names();
        if kind.group != GROUP || !review.subresource.is_empty() || review.call.caller.is_in(names::MASTERS) {
            return Ok(());
        }
        if review.old.is_some_and(|old| is_only_for_collection(object, old)) {
            return Ok(());
        }
        match kind.plural {
            "roles" | "clusterroles" => self.check_escalation(review, object),
            "rolebindings" | "clusterrolebindings" => self.check_bind(review, object),
            _ => Ok(()),
        }
    }

    fn holds(&self, caller: &Caller, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        self.allows(caller, &attributes).is_some()
    }

    fn lacks(&self, caller: &Caller, namespace: &str, wanted: &[Rule]) -> Option<String> {
        let held = self.policy().rules(caller, namespace);
        let missing = missing(&held, wanted);
        (!missing.is_empty()).then(|| {
            format!(
                "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
                caller.user,
                quoted(&caller.groups),
                describe_missing(missing)
            )
        })
    }

    fn check_escalation(&self, review: &Review<'_>, role: &Value) -> ApiResult<()> {
        let (caller, target) = (&review.call.caller, review.target);
        let name = if review.operation == Operation::Create { "" } else { target.name };
        if self.holds(caller, "escalate", target.kind.names().plural, target.namespace, name) {
            return Ok(());
        }
        let refuse = |detail: &str| Err(ApiError::forbidden(&target.kind.gvr(), target.name, detail));
        if let Some(detail) = self.lacks(caller, target.namespace, &rules_of(role)) {
            return refuse(&detail);
        }
        // A sum can gather anything.
        if (aggregates(role) || review.old.is_some_and(aggregates)) && self.lacks(caller, "", &full_authority()).is_some() {
            return refuse("must have cluster-admin privileges to use the aggregationRule");
        }
        Ok(())
    }

    fn check_bind(&self, review: &Review<'_>, binding: &Value) -> ApiResult<()> {
        let (caller, target) = (&review.call.caller, review.target);
        let (kind, name) = (value::text(binding, "/roleRef/kind"), value::text(binding, "/roleRef/name"));
        let (plural, role_namespace) = match kind {
            "Role" => ("roles", target.namespace),
            "ClusterRole" => ("clusterroles", ""),
            // Validation says what is wrong with it.
            _ => return Ok(()),
        };
        if self.holds(caller, "bind", plural, target.namespace, name) {
            return Ok(());
        }
        let policy = self.policy();
        let Some(rules) = policy.role(role_namespace, name) else {
            return Err(ApiError::not_found(&GroupVersionResource::new(GROUP, "v1", plural), name));
        };
        match self.lacks(caller, target.namespace, rules) {
            Some(detail) => Err(ApiError::forbidden(&target.kind.gvr(), target.name, &detail)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_for_the_collector_grants_nothing() {
        let old = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["*"]}]});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["x"]);
        assert!(is_only_for_collection(&new, &old));
        assert!(is_only_for_collection(&old, &old), "nor does one that changes nothing");
        new["rules"] = json!([]);
        assert!(!is_only_for_collection(&new, &old));
    }
}
