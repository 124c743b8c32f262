//! What of a bootstrap role or binding has to be put right at the start: rights and subjects that are missing are
//! added, what an administrator added stays, and `rbac.authorization.kubernetes.io/autoupdate: "false"` keeps an object
//! as it is. Pure. After Kubernetes' component-helpers/auth/rbac/reconciliation.

use serde_json::{Map, Value, json};

use crate::authz::cover::missing;
use crate::authz::rbac::rules_of;

/// What to do with an object that exists.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Write this instead.
    Update(Value),
    /// Delete it and make it anew: a binding's role cannot be changed.
    Recreate,
}

fn is_protected(existing: &Value) -> bool {
    let annotation = existing.pointer("/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate");
    annotation.and_then(Value::as_str) == Some("false")
}

/// Adds expected labels and annotations that are missing; present values win.
fn add_metadata(object: &mut Value, expected: &Value) {
    for member in ["labels", "annotations"] {
        let pointer = format!("/metadata/{member}");
        let Some(wanted) = expected.pointer(&pointer).and_then(Value::as_object) else { continue };
        let present = object.pointer(&pointer).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut all: Map<String, Value> = wanted.clone();
        all.extend(present);
        crate::value::metadata(object).insert(member.to_owned(), Value::Object(all));
    }
}

fn list(object: &Value, pointer: &str) -> Vec<Value> {
    object.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn add_missing(object: &mut Value, expected: &Value, member: &str) {
    let mut all = list(object, &format!("/{member}"));
    let added: Vec<Value> = list(expected, &format!("/{member}")).into_iter().filter(|item| !all.contains(item)).collect();
    if !added.is_empty() {
        all.extend(added);
        object[member] = json!(all);
    }
}

/// What to do with a role or binding that exists.
pub fn step(existing: &Value, expected: &Value) -> Step {
    if is_protected(existing) {
        return Step::Keep;
    }
    let mut wanted = existing.clone();
    add_metadata(&mut wanted, expected);
    if expected.get("roleRef").is_some() {
        if existing.get("roleRef") != expected.get("roleRef") {
            return Step::Recreate;
        }
        add_missing(&mut wanted, expected, "subjects");
    } else if let Some(rule) = expected.get("aggregationRule") {
        // The rules of a sum are its controller's matter.
        let mut own = wanted.get("aggregationRule").cloned().unwrap_or_else(|| json!({}));
        add_missing(&mut own, rule, "clusterRoleSelectors");
        wanted["aggregationRule"] = own;
    } else {
        let lacking = missing(&rules_of(existing), &rules_of(expected));
        if !lacking.is_empty() {
            let mut rules = list(existing, "/rules");
            rules.extend(lacking.iter().map(crate::authz::rbac::Rule::to_value));
            wanted["rules"] = json!(rules);
        }
    }
    if wanted == *existing { Step::Keep } else { Step::Update(wanted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(rules: Value) -> Value {
        json!({"metadata": {"name": "r", "labels": {"a": "b"}}, "rules": rules})
    }

    #[test]
    fn what_is_missing_is_added_and_what_was_added_stays() {
        let expected = role(json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]));
        assert_eq!(step(&expected, &expected), Step::Keep);
        let more = json!({"verbs": ["*"], "apiGroups": ["x"], "resources": ["y"]});
        let existing = role(json!([more, {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]));
        let Step::Update(after) = step(&existing, &expected) else { panic!() };
        assert_eq!(after["rules"].as_array().unwrap().len(), 3);
        assert_eq!(after["rules"][0], more);
        assert_eq!(after["rules"][2], json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}));
        assert_eq!(step(&after, &expected), Step::Keep, "quiet after it was carried out");
        let mut protected = existing;
        protected["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "false"});
        assert_eq!(step(&protected, &expected), Step::Keep);
    }

    #[test]
    fn a_binding_to_another_role_is_made_anew() {
        let binding = |role: &str, subjects: Value| json!({"metadata": {"name": "b"}, "roleRef": {"name": role}, "subjects": subjects});
        assert_eq!(step(&binding("other", json!([])), &binding("r", json!([]))), Step::Recreate);
        let Step::Update(after) = step(&binding("r", json!([{"name": "own"}])), &binding("r", json!([{"name": "x"}]))) else { panic!() };
        assert_eq!(after["subjects"], json!([{"name": "own"}, {"name": "x"}]));
    }
}
