//! The roles and bindings that every cluster has from the start: Kubernetes' own, from `data/roles.txt`, and the few
//! that Balsa's components need besides. Pure data.

use serde_json::{Map, Value, json};

use crate::authz::rbac::{Rule, rules_of};

const TABLE: &str = include_str!("../../data/roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// Balsa's own, in the same notation. The controllers of one process share one identity, where Kubernetes gives each
/// its ServiceAccount: garbage collection, namespaces and aggregation touch every kind. A node agent is the node's
/// proxy and its network too: it routes to the other nodes' pods and carries out policies that choose pods anywhere.
const OWN: &str = "\
ClusterRole balsa:controllers
  * * *
  * at *
ClusterRoleBinding balsa:controllers
  role ClusterRole/balsa:controllers
  subject User system:kube-controller-manager
ClusterRole balsa:scheduler
  get,list,watch core namespaces
  get core,events.k8s.io events
ClusterRoleBinding balsa:scheduler
  role ClusterRole/balsa:scheduler
  subject User system:kube-scheduler
ClusterRole balsa:node-proxier
  get,list,watch core endpoints,namespaces,nodes,pods,services
  get,list,watch discovery.k8s.io endpointslices
  get,list,watch networking.k8s.io networkpolicies
  get core,events.k8s.io events
ClusterRoleBinding balsa:node-proxier
  role ClusterRole/balsa:node-proxier
  subject Group system:nodes
";

fn own_words(list: &str) -> Vec<Value> {
    list.split(',').map(|word| Value::from(if word == "core" { "" } else { word })).collect()
}

fn begin(kind: &str, place: &str) -> Value {
    let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": {
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}}});
    match place.split_once('/') {
        Some((namespace, name)) => {
            object["metadata"]["name"] = json!(name);
            object["metadata"]["namespace"] = json!(namespace);
        }
        None => object["metadata"]["name"] = json!(place),
    }
    object
}

fn push(object: &mut Value, list: &str, item: Value) {
    match object.get_mut(list).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => object[list] = json!([item]),
    }
}

fn label(word: &str) -> Map<String, Value> {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    Map::from_iter([(key.to_owned(), json!(value))])
}

fn subject(kind: &str, name: &str) -> Value {
    match name.split_once(':') {
        Some((namespace, name)) if kind == "ServiceAccount" => json!({"kind": kind, "name": name, "namespace": namespace}),
        _ => json!({"kind": kind, "name": name, "apiGroup": GROUP}),
    }
}

/// Adds one indented line to the object that is being read.
fn detail(object: &mut Value, words: &[&str]) {
    match words {
        ["label", word] => {
            if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
                labels.extend(label(word));
            }
        }
        ["sum", word] => {
            let selector = json!({"matchLabels": label(word)});
            let mut rule = object.get("aggregationRule").cloned().unwrap_or_else(|| json!({}));
            push(&mut rule, "clusterRoleSelectors", selector);
            object["aggregationRule"] = rule;
        }
        ["role", word] => {
            let (kind, name) = word.split_once('/').unwrap_or(("", word));
            object["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": name});
        }
        ["subject", kind, name] => push(object, "subjects", subject(kind, name)),
        [verbs, "at", paths] => push(object, "rules", json!({"verbs": own_words(verbs), "nonResourceURLs": own_words(paths)})),
        [verbs, groups, resources, rest @ ..] => {
            let mut rule =
                json!({"verbs": own_words(verbs), "apiGroups": own_words(groups), "resources": own_words(resources)});
            if let [names] = rest {
                rule["resourceNames"] = json!(own_words(names));
            }
            push(object, "rules", rule);
        }
        _ => {}
    }
}

fn read(table: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (line.starts_with(' '), words.as_slice()) {
            (false, [kind, place]) => objects.push(begin(kind, place)),
            (true, words) => {
                if let Some(object) = objects.last_mut() {
                    detail(object, words);
                }
            }
            _ => {}
        }
    }
    objects
}

/// Everything, roles before the bindings that name them.
pub fn all() -> Vec<Value> {
    let mut all = read(TABLE);
    all.extend(read(OWN));
    all.sort_by_key(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding")));
    all
}

/// What every node agent may do by the node authorizer, besides what depends on its pods: the role `system:node`.
pub fn rules_of_nodes() -> Vec<Rule> {
    let roles = read(TABLE);
    let role = roles.iter().find(|role| role["kind"] == "ClusterRole" && role["metadata"]["name"] == "system:node");
    role.map(rules_of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::Caller;
    use crate::authz::rbac::{Attributes, Policy};

    #[test]
    fn every_line_of_the_table_is_understood() {
        let all = all();
        for object in &all {
            let kind = object["kind"].as_str().unwrap();
            assert!(["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"].contains(&kind), "{object}");
            assert_eq!(object["metadata"]["namespace"].is_string(), !kind.starts_with("Cluster"), "{object}");
            if kind.ends_with("Binding") {
                assert!(object["roleRef"]["name"].is_string(), "{object}");
            } else {
                assert!(object.get("rules").is_some() || object.get("aggregationRule").is_some(), "{object}");
            }
            let kind = balsa_api::kinds::find_kind(GROUP, "v1", kind).unwrap();
            let mut defaulted = object.clone();
            kind.default(&mut defaulted);
            defaulted["metadata"]["uid"] = json!("u");
            defaulted["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            assert_eq!(kind.validate_create(&defaulted), Vec::new(), "{object}");
        }
        let lines = |table: &str| table.lines().filter(|line| !line.starts_with('#') && !line.starts_with(' ')).count();
        assert_eq!(all.len(), lines(TABLE) + lines(OWN));
        let admin = all.iter().find(|object| object["metadata"]["name"] == "edit").unwrap();
        assert_eq!(
            admin["aggregationRule"]["clusterRoleSelectors"],
            json!([{"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}}])
        );
    }

    #[test]
    fn components_may_do_their_work_and_no_more() {
        let everything = all();
        let of = |kind: &str| everything.iter().filter(|object| object["kind"] == kind).cloned().collect::<Vec<_>>();
        let policy = Policy::new(&of("ClusterRole"), &of("ClusterRoleBinding"), &of("Role"), &of("RoleBinding"));
        let may = |user: &str, group: &str, verb: &str, resource: &str| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let caller = Caller { user: user.into(), groups: vec![group.into()], ..Caller::default() };
            let attributes =
                Attributes { verb: verb.into(), resource: resource.into(), subresource: subresource.into(), ..Attributes::default() };
            policy.allows(&caller, &attributes).is_some()
        };
        assert!(may("system:kube-scheduler", "", "create", "pods/binding"));
        assert!(!may("system:kube-scheduler", "", "create", "pods"));
        assert!(may("system:node:n", "system:nodes", "list", "services"));
        assert!(!may("system:node:n", "system:nodes", "get", "secrets"), "secrets are the node authorizer's matter");
        assert!(!may("system:node:n", "system:nodes", "delete", "nodes"));
        assert!(may("system:kube-controller-manager", "", "delete", "pods"));
        assert!(!may("x", "system:authenticated", "get", "pods"));
        assert!(may("x", "system:masters", "get", "pods"));
    }
}
