//! Decides which rules a sum of ClusterRoles has.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::common::{Plan, selector};

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The role in question, where it exists.
    pub role: Option<Arc<ClusterRole>>,
    /// All roles.
    pub all: Vec<Arc<ClusterRole>>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Apply these rules, and nothing else, to the role of this name.
    SetRules(String, Vec<PolicyRule>),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::SetRules(name, rules) = self;
        write!(f, "give clusterrole {name} {} rules", rules.len())
    }
}

/// Whether a change of any role may concern this one.
pub fn is_sum(role: &ClusterRole) -> bool {
    role.aggregation_rule.is_some()
}

/// The decision. Selectors in their order, within each the roles by name, every rule once.
pub fn plan(observed: &Observed) -> Plan<Action> {
    let mut plan = Plan::default();
    let Some(role) = &observed.role else { return plan };
    let Some(aggregation) = &role.aggregation_rule else { return plan };
    let name = role.metadata.name.clone().unwrap_or_default();
    let mut others: Vec<&Arc<ClusterRole>> = observed.all.iter().filter(|other| other.metadata.name != role.metadata.name).collect();
    others.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for choice in aggregation.cluster_role_selectors.iter().flatten() {
        for other in others.iter().filter(|other| selector::matches(choice, other.metadata.labels.as_ref())) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    if role.rules.as_deref().unwrap_or_default() != rules {
        plan.reasons.push("the rules of the roles that it aggregates are others".to_owned());
        plan.actions.push(Action::SetRules(name, rules));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(value: serde_json::Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_sum_has_the_rules_of_what_it_selects() {
        let rule = |resource: &str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
        let part = |name: &str, rules: serde_json::Value| json!({"metadata": {"name": name, "labels": {"to": "sum"}}, "rules": rules});
        let sum = role(json!({"metadata": {"name": "sum", "labels": {"to": "sum"}}, "rules": [rule("own")],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]}}));
        let all = vec![
            role(part("b", json!([rule("y"), rule("x")]))), role(part("a", json!([rule("x")]))), sum.clone(),
            role(json!({"metadata": {"name": "c"}, "rules": [rule("z")]})),
        ];
        let mut observed = Observed { role: Some(sum.clone()), all };
        let Action::SetRules(name, rules) = plan(&observed).actions.remove(0);
        let resources: Vec<String> = rules.iter().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect();
        assert_eq!((name.as_str(), resources), ("sum", vec!["x".to_owned(), "y".to_owned()]));
        observed.role = Some(Arc::new(ClusterRole { rules: Some(rules), ..ClusterRole::clone(&sum) }));
        assert!(plan(&observed).is_quiet());
        let plain = role(json!({"metadata": {"name": "c"}}));
        assert!(plan(&Observed { role: Some(plain), all: observed.all }).is_quiet());
    }
}
