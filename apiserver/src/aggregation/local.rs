//! Which APIService objects stand for what this server serves itself, and how they come and go. Pure.
//!
//! Built-in versions get theirs at the start; versions of custom resources while a definition serves them. Priorities are
//! those of Kubernetes' `controlplane/apiserver` (`aggregator.go`).

use std::collections::BTreeSet;

use balsa_api::cursor::{find, list, text};
use serde_json::{Value, json};

/// The label of objects that we made: `onstart` for built-in versions, `true` for those of custom resources.
pub const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// (group priority, version priority); the higher, the earlier in discovery.
const PRIORITIES: [(&str, &str, i64, i64); 20] = [
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("autoscaling", "v1", 17_500, 15),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
];
const FLOW_CONTROL: (&str, &str, i64, i64) = ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21);
/// Of custom resources: behind everything that is built in.
const CUSTOM: (i64, i64) = (1000, 100);

/// The group of APIServices: it has no such object itself.
pub const OWN_GROUP: &str = "apiregistration.k8s.io";

fn priorities(group: &str, version: &str) -> (i64, i64) {
    let known = PRIORITIES.iter().chain([&FLOW_CONTROL]).find(|(own, of, ..)| *own == group && *of == version);
    known.map_or(CUSTOM, |(_, _, group, version)| (*group, *version))
}

fn object(group: &str, version: &str, managed: &str) -> Value {
    let (first, second) = priorities(group, version);
    let mut spec = json!({"version": version, "groupPriorityMinimum": first, "versionPriority": second});
    if !group.is_empty() {
        spec["group"] = json!(group);
    }
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "spec": spec,
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: managed}}})
}

/// A write that is due.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// An object is missing.
    Create(Value),
    /// Nothing serves the version any more.
    Delete(String),
}

/// What is due. `built_in`: (group, version); `definitions`: CustomResourceDefinitions; `present`: all APIServices.
pub fn plan(built_in: &BTreeSet<(&str, &str)>, definitions: &[Value], present: &[Value]) -> Vec<Step> {
    let own = built_in.iter().filter(|(group, _)| *group != OWN_GROUP);
    let mut wanted: Vec<Value> = own.map(|(group, version)| object(group, version, "onstart")).collect();
    let mut custom = BTreeSet::new();
    for definition in definitions {
        let served = list(definition, "spec.versions").iter().filter(|version| find(version, "served") == &Value::Bool(true));
        custom.extend(served.map(|version| (text(definition, "spec.group"), text(version, "name"))));
    }
    let custom = custom.iter().filter(|one| !built_in.contains(*one));
    wanted.extend(custom.map(|(group, version)| object(group, version, "true")));
    let name = |object: &Value| text(object, "metadata.name").to_owned();
    let wanted_names: BTreeSet<String> = wanted.iter().map(name).collect();
    let present_names: BTreeSet<String> = present.iter().map(name).collect();
    let managed = |object: &&Value| find(object, "metadata.labels").get(MANAGED).is_some();
    let gone = present.iter().filter(managed).map(name).filter(|name| !wanted_names.contains(name)).map(Step::Delete);
    let gone: Vec<Step> = gone.collect();
    let missing = wanted.into_iter().filter(|object| !present_names.contains(text(object, "metadata.name")));
    missing.map(Step::Create).chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_and_go_with_what_is_served() {
        let built_in = BTreeSet::from([("", "v1"), ("apps", "v1"), (OWN_GROUP, "v1")]);
        let definition = json!({"spec": {"group": "x.com", "versions": [{"name": "v1", "served": true}, {"name": "v0", "served": false}]}});
        let steps = plan(&built_in, std::slice::from_ref(&definition), &[]);
        let objects: Vec<Value> = steps.iter().filter_map(|step| if let Step::Create(object) = step { Some(object.clone()) } else { None }).collect();
        let names: Vec<&str> = objects.iter().map(|object| text(object, "metadata.name")).collect();
        assert_eq!(names, ["v1.", "v1.apps", "v1.x.com"]);
        assert_eq!(objects[1]["spec"]["groupPriorityMinimum"], 17_800);
        assert!(plan(&built_in, &[definition], &objects).is_empty(), "then it is quiet");
        assert_eq!(plan(&built_in, &[], &objects), [Step::Delete("v1.x.com".into())]);
        let mut theirs = objects.clone();
        theirs.push(json!({"metadata": {"name": "v1.theirs"}, "spec": {"service": {}}}));
        assert_eq!(plan(&built_in, &[], &theirs).len(), 1, "what somebody else made stays");
    }
}
