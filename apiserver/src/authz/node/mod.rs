//! The node authorizer: a node's agent may read what its pods need, and write what is its own.
//!
//! The graph follows the watch caches' windows of events and is brought up to them before each answer, so that it
//! knows exactly what the caches know. The rules are those of Kubernetes (plugin/pkg/auth/authorizer/node).

pub mod graph;
pub mod references;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::rbac::{Attributes, Rule};
use crate::watch_cache::{Caches, ResourceCache};
use graph::Graph;
use references::What;

/// The resources that the graph is made of: (group, plural).
const FOLLOWED: [(&str, &str); 4] = [
    ("", "pods"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "volumeattachments"),
    ("resource.k8s.io", "resourceslices"),
];

/// Events taken over at once.
const BATCH: usize = 1024;

struct Followed {
    graph: Graph,
    /// How far each resource was read: (generation, revision).
    positions: BTreeMap<&'static str, (u64, u64)>,
}

/// Answers for node agents.
pub struct NodeAuthorizer {
    caches: Arc<Caches>,
    followed: Mutex<Followed>,
    /// What every agent may do besides: the rules of the role `system:node`.
    rules: Vec<Rule>,
}

impl NodeAuthorizer {
    /// Over these caches, with the general rules of node agents.
    pub fn new(caches: Arc<Caches>, rules: Vec<Rule>) -> Self {
        let followed = Followed { graph: Graph::default(), positions: BTreeMap::new() };
        Self { caches, followed: Mutex::new(followed), rules }
    }

    /// `Ok`: the agent of `node` may. `Err`: it may not, at least not as a node; the text says why where there is a why.
    pub fn decide(&self, node: &str, attributes: &Attributes) -> Result<(), String> {
        let followed = &mut *self.followed.lock();
        for (group, plural) in FOLLOWED {
            if let Some(cache) = self.caches.resource(group, plural) {
                follow(followed, plural, cache);
            }
        }
        decide(&followed.graph, &self.rules, node, attributes)
    }
}

fn put(graph: &mut Graph, resource: &'static str, object: &serde_json::Value) {
    match resource {
        "pods" => graph.put_pod(object),
        "persistentvolumes" => graph.put_volume(object),
        _ => graph.put_owned(resource, object),
    }
}

fn remove(graph: &mut Graph, resource: &'static str, namespace: &str, name: &str) {
    match resource {
        "pods" => graph.remove_pod(namespace, name),
        "persistentvolumes" => graph.remove_volume(name),
        _ => graph.remove_owned(resource, name),
    }
}

/// Brings the graph up to what the cache knows.
fn follow(followed: &mut Followed, resource: &'static str, cache: &ResourceCache) {
    let Followed { graph, positions } = followed;
    let (mut generation, mut revision) = positions.get(resource).copied().unwrap_or_default();
    if cache.version() == (generation, revision) {
        return;
    }
    loop {
        match cache.events_after(revision, generation, BATCH) {
            Ok(events) => {
                for event in &events {
                    if event.deleted {
                        remove(graph, resource, &event.object.namespace, &event.object.name);
                    } else {
                        put(graph, resource, &event.object.value());
                    }
                    revision = event.revision;
                }
                if events.len() < BATCH {
                    break;
                }
            }
            // Nothing was read yet, or too much happened since: all of it anew.
            Err(_) => {
                let snapshot = cache.snapshot();
                graph.clear(resource);
                snapshot.objects.values().for_each(|object| put(graph, resource, &object.value()));
                (generation, revision) = (snapshot.generation, snapshot.revision);
                break;
            }
        }
    }
    positions.insert(resource, (generation, revision));
}

/// The decision. Pure.
fn decide(graph: &Graph, rules: &[Rule], node: &str, asked: &Attributes) -> Result<(), String> {
    let by_rules = || if rules.iter().any(|rule| rule.allows(asked)) { Ok(()) } else { Err(String::new()) };
    if !asked.path.is_empty() {
        return by_rules();
    }
    let related = |yes: bool| {
        if yes { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
    };
    let read_one = |what: What| read_namespaced(asked).and_then(|()| related(graph.reaches(node, what, &asked.namespace, &asked.name)));
    match (asked.group.as_str(), asked.resource.as_str()) {
        ("", "secrets") => read_one(What::Secret),
        ("", "configmaps") => read_one(What::ConfigMap),
        ("", "persistentvolumeclaims") => {
            claim_access(asked)?;
            named(asked)?;
            related(graph.reaches(node, What::Claim, &asked.namespace, &asked.name))
        }
        ("", "persistentvolumes") => {
            get_only(asked)?;
            named(asked)?;
            related(graph.reaches_volume(node, &asked.name))
        }
        ("resource.k8s.io", "resourceclaims") => {
            get_only(asked)?;
            named(asked)?;
            related(graph.reaches(node, What::ResourceClaim, &asked.namespace, &asked.name))
        }
        ("storage.k8s.io", "volumeattachments") => {
            get_only(asked)?;
            named(asked)?;
            related(graph.owns(node, "volumeattachments", &asked.name))
        }
        ("", "serviceaccounts") => {
            if asked.verb == "get" && asked.subresource.is_empty() {
                return read_one(What::Account);
            }
            token_request(asked)?;
            related(graph.reaches(node, What::Account, &asked.namespace, &asked.name))
        }
        ("coordination.k8s.io", "leases") => lease(node, asked),
        ("storage.k8s.io", "csinodes") => own_csi_node(node, asked),
        ("resource.k8s.io", "resourceslices") => resource_slice(graph, node, asked),
        ("", "nodes") => own_node(node, asked),
        ("", "pods") => own_pods(graph, node, asked),
        _ => by_rules(),
    }
}

fn refuse(why: &str) -> Result<(), String> {
    Err(why.to_owned())
}

fn named(asked: &Attributes) -> Result<(), String> {
    if asked.name.is_empty() { refuse("No Object name found") } else { Ok(()) }
}

fn read_namespaced(asked: &Attributes) -> Result<(), String> {
    if !matches!(asked.verb.as_str(), "get" | "list" | "watch") {
        return refuse("can only read resources of this type");
    }
    if !asked.subresource.is_empty() {
        return refuse("cannot read subresource");
    }
    if asked.namespace.is_empty() {
        return refuse("can only read namespaced object of this type");
    }
    named(asked)
}

fn get_only(asked: &Attributes) -> Result<(), String> {
    if asked.verb != "get" {
        return refuse("can only get individual resources of this type");
    }
    if asked.subresource.is_empty() { Ok(()) } else { refuse("cannot get subresource") }
}

fn claim_access(asked: &Attributes) -> Result<(), String> {
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        ("status", "update" | "patch") => Ok(()),
        ("status", _) => refuse("can only get/update/patch this type"),
        _ => get_only(asked),
    }
}

fn token_request(asked: &Attributes) -> Result<(), String> {
    if asked.verb != "create" || asked.name.is_empty() {
        return refuse("can only create tokens for individual service accounts");
    }
    if asked.subresource == "token" { Ok(()) } else { refuse("can only create token subresource of serviceaccount") }
}

fn is_own_verb(asked: &Attributes) -> bool {
    matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete")
}

fn lease(node: &str, asked: &Attributes) -> Result<(), String> {
    if !is_own_verb(asked) {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != "kube-node-lease" {
        return refuse("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // The name of what is created is looked at by NodeRestriction.
    if asked.verb != "create" && asked.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn own_csi_node(node: &str, asked: &Attributes) -> Result<(), String> {
    if !is_own_verb(asked) {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn selects(asked: &Attributes, field: &str, node: &str) -> bool {
    asked.fields.iter().any(|(own, value)| own == field && value == node)
}

fn resource_slice(graph: &Graph, node: &str, asked: &Attributes) -> Result<(), String> {
    if !asked.subresource.is_empty() {
        return refuse("cannot authorize ResourceSlice subresources");
    }
    match asked.verb.as_str() {
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" if graph.owns(node, "resourceslices", &asked.name) => Ok(()),
        "get" | "update" | "patch" | "delete" => {
            Err(format!("no relationship found between node '{node}' and this object"))
        }
        "watch" | "list" | "deletecollection" if selects(asked, "spec.nodeName", node) => Ok(()),
        "watch" | "list" | "deletecollection" => {
            refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => refuse("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"),
    }
}

fn own_node(node: &str, asked: &Attributes) -> Result<(), String> {
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        // Which node it is looked at by NodeRestriction.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if asked.name == node => Ok(()),
        ("", "get" | "list" | "watch") if asked.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", asked.name))
        }
        _ => refuse(""),
    }
}

fn own_pods(graph: &Graph, node: &str, asked: &Attributes) -> Result<(), String> {
    let runs = || {
        if graph.runs(node, &asked.namespace, &asked.name) {
            Ok(())
        } else {
            Err(format!("no relationship found between node '{node}' and this object"))
        }
    };
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        ("", "get") => runs(),
        ("", "list" | "watch") if selects(asked, "spec.nodeName", node) => Ok(()),
        ("", "list" | "watch") if !asked.name.is_empty() => runs(),
        ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
        // Whose pods they are is looked at by NodeRestriction.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
        _ => refuse(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ask(verb: &str, full: &str, namespace: &str, name: &str) -> Attributes {
        let (group, full) = full.rsplit_once(':').unwrap_or(("", full));
        let (resource, subresource) = full.split_once('/').unwrap_or((full, ""));
        let own = str::to_owned;
        Attributes {
            verb: own(verb),
            group: own(group),
            resource: own(resource),
            subresource: own(subresource),
            namespace: own(namespace),
            name: own(name),
            ..Attributes::default()
        }
    }

    #[test]
    fn an_agent_reads_what_its_pods_need_and_writes_what_is_its_own() {
        let mut graph = Graph::default();
        graph.put_pod(&json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n",
            "serviceAccountName": "sa", "volumes": [{"name": "s", "secret": {"secretName": "s"}}]}}));
        let rules = vec![Rule { verbs: vec!["get".into()], groups: vec![String::new()], resources: vec!["services".into()], ..Rule::default() }];
        let cases = [
            ("get", "secrets", "d", "s", true),
            ("watch", "secrets", "d", "s", true),
            ("list", "secrets", "d", "", false),
            ("list", "secrets", "", "", false),
            ("get", "secrets", "d", "other", false),
            ("update", "secrets", "d", "s", false),
            ("get", "configmaps", "d", "s", false),
            ("create", "serviceaccounts/token", "d", "sa", true),
            ("create", "serviceaccounts/token", "d", "admin", false),
            ("get", "serviceaccounts", "d", "sa", true),
            ("update", "coordination.k8s.io:leases", "kube-node-lease", "n", true),
            ("update", "coordination.k8s.io:leases", "kube-node-lease", "m", false),
            ("update", "coordination.k8s.io:leases", "d", "n", false),
            ("get", "nodes", "", "n", true),
            ("get", "nodes", "", "m", false),
            ("list", "nodes", "", "", false),
            ("patch", "nodes/status", "", "n", true),
            ("delete", "nodes", "", "n", false),
            ("get", "pods", "d", "p", true),
            ("get", "pods", "d", "q", false),
            ("list", "pods", "", "", false),
            ("patch", "pods/status", "d", "p", true),
            ("update", "pods", "d", "p", false),
            ("update", "storage.k8s.io:csinodes", "", "n", true),
            ("update", "storage.k8s.io:csinodes", "", "m", false),
            ("get", "services", "d", "x", true),
            ("get", "endpoints", "d", "x", false),
        ];
        for (verb, full, namespace, name, expected) in cases {
            let outcome = decide(&graph, &rules, "n", &ask(verb, full, namespace, name));
            assert_eq!(outcome.is_ok(), expected, "{verb} {full} {namespace}/{name}: {outcome:?}");
        }
        let mut own = ask("watch", "pods", "", "");
        own.fields = vec![("spec.nodeName".into(), "n".into())];
        assert!(decide(&graph, &rules, "n", &own).is_ok());
        assert!(decide(&graph, &rules, "m", &own).is_err());
    }
}
