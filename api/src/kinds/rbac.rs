//! Roles and their bindings. Whether somebody may grant what they write is the authorizer's matter, not decided here.

use serde_json::Value;

use super::definition::{Definition, NAME, PLAIN, column, names, wide};
use super::show;
use crate::cursor::{At, find, list, set_default_text, text};
use crate::field::FieldError;
use crate::kind::{Column, Part};
use crate::validate::meta::NameRule;
use crate::validate::text::{path_segment_problems, subdomain_problems};
use crate::validate::{each, label_selector};

const GROUP: &str = "rbac.authorization.k8s.io";
const BASE: Definition = Definition { name_rule: NameRule::PathSegment, create_on_update: true, ..PLAIN };

/// Role.
pub static ROLE: Definition = Definition {
    names: names!("rbac.authorization.k8s.io", "v1", "Role", "roles", "role"),
    validate: |object| rules(object, true),
    ..BASE
};

/// ClusterRole.
pub static CLUSTER_ROLE: Definition = Definition {
    names: names!("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "clusterrole"),
    namespaced: false,
    validate: |object| {
        let mut findings = rules(object, false);
        for selector in At::root(object).at("aggregationRule.clusterRoleSelectors").items() {
            label_selector(&mut findings, &selector);
        }
        findings
    },
    ..BASE
};

const COLUMNS: &[Column] =
    &[NAME, column("Role"), column("Age"), wide("Users"), wide("Groups"), wide("ServiceAccounts")];

/// RoleBinding.
pub static ROLE_BINDING: Definition = Definition {
    names: names!("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "rolebinding"),
    default: binding_defaults,
    validate: |object| binding(object, &["Role", "ClusterRole"]),
    validate_update: role_fixed,
    columns: COLUMNS,
    cells,
    ..BASE
};

/// ClusterRoleBinding.
pub static CLUSTER_ROLE_BINDING: Definition = Definition {
    names: names!(
        "rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding"
    ),
    namespaced: false,
    default: binding_defaults,
    validate: |object| binding(object, &["ClusterRole"]),
    validate_update: role_fixed,
    columns: COLUMNS,
    cells,
    ..BASE
};

fn rules(object: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut findings = Vec::new();
    for rule in At::root(object).get("rules").items() {
        if rule.get("verbs").len() == 0 {
            findings.push(rule.get("verbs").required("verbs must contain at least one value"));
        }
        let urls = rule.get("nonResourceURLs");
        let (groups, resources) = (rule.get("apiGroups"), rule.get("resources"));
        if urls.len() > 0 {
            if namespaced {
                findings.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if groups.len() + resources.len() + rule.get("resourceNames").len() > 0 {
                findings.push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
            }
            continue;
        }
        if groups.len() == 0 {
            findings.push(groups.required("resource rules must supply at least one api group"));
        }
        if resources.len() == 0 {
            findings.push(resources.required("resource rules must supply at least one resource"));
        }
    }
    findings
}

fn binding_defaults(object: &mut Value) {
    if let Some(role) = crate::cursor::object_mut(object, "roleRef") {
        set_default_text(role, "apiGroup", GROUP);
    }
    for subject in crate::cursor::items_mut(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set_default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn binding(object: &Value, kinds: &[&str]) -> Vec<FieldError> {
    let at = At::root(object);
    let role = at.get("roleRef");
    let mut findings = Vec::new();
    if role.get("apiGroup").str() != GROUP {
        findings.push(role.get("apiGroup").not_supported(&[GROUP]));
    }
    if !kinds.contains(&role.get("kind").str()) {
        findings.push(role.get("kind").not_supported(kinds));
    }
    let name = role.get("name");
    if name.is_empty() {
        findings.push(name.required(""));
    } else {
        each(&mut findings, &name, &path_segment_problems(name.str()));
    }
    for subject in at.get("subjects").items() {
        let (name, group) = (subject.get("name"), subject.get("apiGroup"));
        if name.is_empty() {
            findings.push(name.required(""));
        }
        match subject.get("kind").str() {
            "ServiceAccount" => {
                if !name.is_empty() {
                    each(&mut findings, &name, &subdomain_problems(name.str()));
                }
                if !group.is_empty() {
                    findings.push(group.not_supported(&[""]));
                }
                if kinds.len() == 1 && subject.get("namespace").is_empty() {
                    findings.push(subject.get("namespace").required(""));
                }
            }
            "User" | "Group" => {
                if group.str() != GROUP {
                    findings.push(group.not_supported(&[GROUP]));
                }
            }
            _ => findings.push(subject.get("kind").not_supported(&["ServiceAccount", "User", "Group"])),
        }
    }
    findings
}

fn role_fixed(new: &Value, old: &Value, _part: Part<'_>) -> Vec<FieldError> {
    if new.get("roleRef") == old.get("roleRef") {
        return Vec::new();
    }
    vec![FieldError::invalid("roleRef", find(new, "roleRef").clone(), "cannot change roleRef")]
}

fn cells(object: &Value, now: k8s_openapi::jiff::Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let subjects = list(object, "subjects").iter().filter(|subject| text(subject, "kind") == kind);
        let names = subjects.map(|subject| match (kind, text(subject, "namespace")) {
            ("ServiceAccount", namespace) if !namespace.is_empty() => format!("{namespace}/{}", text(subject, "name")),
            _ => text(subject, "name").to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        show::name(object),
        format!("{}/{}", text(object, "roleRef.kind"), text(object, "roleRef.name")).into(),
        show::age(object, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
