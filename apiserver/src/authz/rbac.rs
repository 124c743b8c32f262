//! RBAC: roles, bindings, and whether a set of them allows a request. Pure.

use std::collections::BTreeMap;

use balsa_process::identity::names;
use serde_json::Value;

use crate::authn::Caller;
use crate::value;

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, …; a lower-case HTTP method for paths.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version; rules do not look at it.
    pub version: String,
    /// `pods`
    pub resource: String,
    /// `log`
    pub subresource: String,
    /// Empty: cluster scope or all namespaces.
    pub namespace: String,
    /// Empty: unnamed.
    pub name: String,
    /// Of requests that are about no resource; else empty.
    pub path: String,
    /// What a list, watch or deletecollection asks for by `=` in its field selector: (field, value).
    pub fields: Vec<(String, String)>,
}

impl Attributes {
    /// Takes over what a list, watch or deletecollection selects by field: a request for one name is about that name.
    /// A selector that cannot be read selects nothing here; the request itself then fails.
    #[must_use]
    pub fn selecting(mut self, fields: &str) -> Self {
        if fields.is_empty() || !matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            return self;
        }
        let Ok(selector) = balsa_api::selector::FieldSelector::parse(fields) else { return self };
        if self.name.is_empty() {
            selector.exact("metadata.name").unwrap_or_default().clone_into(&mut self.name);
        }
        self.fields = selector.terms.into_iter().filter(|(_, equal, _)| *equal).map(|(field, _, value)| (field, value)).collect();
        self
    }
}

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// `*` for all.
    pub verbs: Vec<String>,
    /// `*` for all.
    pub groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`
    pub resources: Vec<String>,
    /// Empty: all.
    pub names: Vec<String>,
    /// `/healthz`, `/api/*`, `*`
    pub paths: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

impl Rule {
    /// From a role's rule.
    pub fn parse(rule: &Value) -> Self {
        Self {
            verbs: value::strings(rule, "/verbs"),
            groups: value::strings(rule, "/apiGroups"),
            resources: value::strings(rule, "/resources"),
            names: value::strings(rule, "/resourceNames"),
            paths: value::strings(rule, "/nonResourceURLs"),
        }
    }

    /// As a role holds it.
    pub fn to_value(&self) -> Value {
        let mut rule = serde_json::json!({"verbs": self.verbs});
        let members =
            [("apiGroups", &self.groups), ("resources", &self.resources), ("resourceNames", &self.names), ("nonResourceURLs", &self.paths)];
        for (name, list) in members.into_iter().filter(|(_, list)| !list.is_empty()) {
            rule[name] = serde_json::json!(list);
        }
        rule
    }

    /// Whether the rule allows this.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.path.is_empty() {
            return self.paths.iter().any(|path| path_matches(path, &attributes.path));
        }
        let full = if attributes.subresource.is_empty() {
            attributes.resource.clone()
        } else {
            format!("{}/{}", attributes.resource, attributes.subresource)
        };
        let any_resource = format!("*/{}", attributes.subresource);
        has(&self.groups, &attributes.group)
            && self.resources.iter().any(|own| {
                own == "*" || *own == full || (!attributes.subresource.is_empty() && *own == any_resource)
            })
            && (self.names.is_empty() || self.names.contains(&attributes.name))
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
}

impl Subject {
    fn parse(subject: &Value, namespace: &str) -> Option<Self> {
        let name = value::text(subject, "/name");
        match value::text(subject, "/kind") {
            "User" => Some(Self::User(name.to_owned())),
            "Group" => Some(Self::Group(name.to_owned())),
            "ServiceAccount" => {
                let own = value::text(subject, "/namespace");
                let namespace = if own.is_empty() { namespace } else { own };
                Some(Self::User(format!("system:serviceaccount:{namespace}:{name}")))
            }
            _ => None,
        }
    }

    fn is(&self, caller: &Caller) -> bool {
        match self {
            Self::User(user) => *user == caller.user,
            Self::Group(group) => caller.is_in(group),
        }
    }
}

#[derive(Debug)]
struct Binding {
    /// Empty: everywhere.
    namespace: String,
    subjects: Vec<Subject>,
    /// Index into the policy's roles.
    rules: Vec<Rule>,
    /// For the reason of an answer.
    description: String,
}

/// All roles and bindings, resolved.
#[derive(Debug, Default)]
pub struct Policy {
    bindings: Vec<Binding>,
    /// Rules by role: (namespace or "", name).
    roles: BTreeMap<(String, String), Vec<Rule>>,
}

/// The rules that a role itself holds.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    role.get("rules").and_then(Value::as_array).into_iter().flatten().map(Rule::parse).collect()
}

/// A role's rules and those of the roles that it aggregates.
fn aggregated(role: &Value, all: &[Value]) -> Vec<Rule> {
    let mut rules = rules_of(role);
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
    for selector in selectors.into_iter().flatten() {
        let Ok(selector) = serde_json::from_value(selector.clone()) else { continue };
        for other in all.iter().filter(|other| value::name(other) != value::name(role)) {
            let labels = other.pointer("/metadata/labels").and_then(|labels| serde_json::from_value(labels.clone()).ok());
            if balsa_api::selector::matches_label_selector(Some(&selector), labels.as_ref()) {
                rules.extend(rules_of(other));
            }
        }
    }
    rules
}

impl Policy {
    /// From the objects of the four kinds.
    pub fn new(cluster_roles: &[Value], cluster_bindings: &[Value], roles: &[Value], bindings: &[Value]) -> Self {
        let mut policy = Self::default();
        for role in cluster_roles {
            policy.roles.insert((String::new(), value::name(role).to_owned()), aggregated(role, cluster_roles));
        }
        for role in roles {
            let key = (value::namespace(role).to_owned(), value::name(role).to_owned());
            policy.roles.insert(key, rules_of(role));
        }
        for binding in cluster_bindings.iter().chain(bindings) {
            if let Some(binding) = policy.resolve(binding) {
                policy.bindings.push(binding);
            }
        }
        policy
    }

    fn resolve(&self, binding: &Value) -> Option<Binding> {
        let namespace = value::namespace(binding).to_owned();
        let role = value::text(binding, "/roleRef/name").to_owned();
        let kind = value::text(binding, "/roleRef/kind");
        let role_namespace = if kind == "Role" { namespace.clone() } else { String::new() };
        let rules = self.roles.get(&(role_namespace, role.clone()))?.clone();
        let subjects = binding.get("subjects").and_then(Value::as_array);
        let subjects = subjects.into_iter().flatten().filter_map(|subject| Subject::parse(subject, &namespace)).collect();
        let (what, name) = if namespace.is_empty() {
            ("ClusterRoleBinding", format!("\"{}\"", value::name(binding)))
        } else {
            ("RoleBinding", format!("\"{}/{namespace}\"", value::name(binding)))
        };
        Some(Binding {
            description: format!("RBAC: allowed by {what} {name} of {kind} \"{role}\""),
            namespace,
            subjects,
            rules,
        })
    }

    fn of<'a>(&'a self, caller: &'a Caller, namespace: &'a str) -> impl Iterator<Item = &'a Binding> {
        self.bindings.iter().filter(move |binding| {
            (binding.namespace.is_empty() || (!namespace.is_empty() && binding.namespace == namespace))
                && binding.subjects.iter().any(|subject| subject.is(caller))
        })
    }

    /// Why it is allowed; `None`: it is not.
    pub fn allows(&self, caller: &Caller, attributes: &Attributes) -> Option<String> {
        if caller.is_in(names::MASTERS) {
            return Some(String::new());
        }
        self.of(caller, &attributes.namespace)
            .find(|binding| binding.rules.iter().any(|rule| rule.allows(attributes)))
            .map(|binding| {
                let subject = binding.subjects.iter().find(|subject| subject.is(caller));
                let whom = match subject {
                    Some(Subject::Group(group)) => format!("Group \"{group}\""),
                    _ => format!("User \"{}\"", caller.user),
                };
                format!("{} to {whom}", binding.description)
            })
    }

    /// All rules that a caller has in a namespace.
    pub fn rules(&self, caller: &Caller, namespace: &str) -> Vec<Rule> {
        if caller.is_in(names::MASTERS) {
            let all = || vec!["*".to_owned()];
            let everything = Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
            let everywhere = Rule { verbs: all(), paths: all(), ..Rule::default() };
            return vec![everything, everywhere];
        }
        self.of(caller, namespace).flat_map(|binding| binding.rules.iter().cloned()).collect()
    }

    /// The rules of a role: (namespace or "", name).
    pub fn role(&self, namespace: &str, name: &str) -> Option<&Vec<Rule>> {
        self.roles.get(&(namespace.to_owned(), name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy() -> Policy {
        let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
        let cluster_roles = [
            role("reader", json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}])),
            role("scaler", json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]}])),
            role("prober", json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}])),
            role("one", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s1"]}])),
            json!({"metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}),
            json!({"metadata": {"name": "part", "labels": {"a": "b"}},
                "rules": [{"verbs": ["create"], "apiGroups": ["apps"], "resources": ["deployments"]}]}),
        ];
        let bound = |role: &str, kind: &str, name: &str| {
            json!({"metadata": {"name": role}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": kind, "name": name, "namespace": "ns"}]})
        };
        let cluster = [
            bound("scaler", "Group", "scalers"), bound("prober", "Group", "system:unauthenticated"),
            bound("sum", "User", "ann"),
        ];
        let mut local = bound("reader", "ServiceAccount", "web");
        local["metadata"]["namespace"] = json!("ns");
        let mut one = bound("one", "User", "bob");
        one["metadata"]["namespace"] = json!("ns");
        Policy::new(&cluster_roles, &cluster, &[], &[local, one])
    }

    fn ask(user: &str, groups: &[&str], verb: &str, group: &str, full: &str, namespace: &str, name: &str) -> bool {
        let (resource, subresource) = full.split_once('/').unwrap_or((full, ""));
        let caller = Caller {
            user: user.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..Caller::default()
        };
        let attributes = Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        policy().allows(&caller, &attributes).is_some()
    }

    #[test]
    fn what_is_bound_is_allowed_and_nothing_else() {
        let web = "system:serviceaccount:ns:web";
        assert!(ask(web, &[], "get", "", "pods", "ns", "p"));
        assert!(ask(web, &[], "get", "", "pods/log", "ns", "p"));
        assert!(!ask(web, &[], "get", "", "pods/exec", "ns", "p"));
        assert!(!ask(web, &[], "get", "", "pods", "other", "p"), "a RoleBinding ends at its namespace");
        assert!(!ask(web, &[], "list", "", "pods", "", ""), "nor does it reach all namespaces");
        assert!(!ask(web, &[], "delete", "", "pods", "ns", "p"));
        assert!(ask("x", &["scalers"], "patch", "apps", "deployments/scale", "any", "d"));
        assert!(!ask("x", &["scalers"], "patch", "apps", "deployments", "any", "d"));
        assert!(ask("bob", &[], "get", "", "secrets", "ns", "s1"));
        assert!(!ask("bob", &[], "get", "", "secrets", "ns", "s2"));
        assert!(ask("ann", &[], "create", "apps", "deployments", "", ""), "aggregated rules count");
        assert!(ask("root", &["system:masters"], "delete", "", "nodes", "", "n"));
    }

    #[test]
    fn paths_are_matched_by_prefix() {
        let policy = policy();
        let ask = |path: &str| {
            let attributes = Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
            policy.allows(&Caller::anonymous(), &attributes).is_some()
        };
        assert!(ask("/healthz") && ask("/api/v1") && !ask("/healthz/x") && !ask("/metrics"));
    }

    #[test]
    fn the_refusal_is_in_kubernetes_words() {
        let caller = Caller { user: "bob".into(), ..Caller::default() };
        let attributes = Attributes {
            verb: "get".into(), resource: "pods".into(), namespace: "ns".into(), name: "p".into(), ..Attributes::default()
        };
        assert_eq!(
            crate::authz::forbidden(&caller, &attributes, "").message,
            r#"pods "p" is forbidden: User "bob" cannot get resource "pods" in API group "" in the namespace "ns""#
        );
    }
}
