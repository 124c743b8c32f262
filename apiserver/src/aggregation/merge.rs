//! Groups of servers in the cluster among ours, in discovery documents. Pure.
//!
//! Order is that of Kubernetes: groups by their highest priority, then by name; versions of a group by theirs.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use balsa_api::cursor::{find, list, text};
use serde_json::{Value, json};

use super::local::OWN_GROUP;

/// A group's place among groups.
fn rank<'a>(objects: &[Value], group: &'a str) -> (Reverse<i64>, &'a str) {
    let own = objects.iter().filter(|object| text(object, "spec.group") == group);
    let highest = own.filter_map(|object| find(object, "spec.groupPriorityMinimum").as_i64()).max().unwrap_or(0);
    (Reverse(if group == OWN_GROUP { i64::MAX } else { highest }), group)
}

/// A version's place within its group: by priority, then as versions are compared.
fn version_rank(objects: &[Value], group: &str, version: &str) -> (Reverse<i64>, Reverse<Age>) {
    let own = objects.iter().find(|object| text(object, "spec.group") == group && text(object, "spec.version") == version);
    let priority = own.and_then(|object| find(object, "spec.versionPriority").as_i64()).unwrap_or(0);
    (Reverse(priority), Reverse(age(version)))
}

/// Stable before beta before alpha, higher numbers first, anything else last. `v2 > v1 > v1beta2 > v1alpha1 > foo`
type Age = (u8, u64, u64);

fn age(version: &str) -> Age {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (major, rest) = rest.split_at(digits);
    let Ok(major) = major.parse() else { return (0, 0, 0) };
    let (word, level) = match rest {
        "" => return (3, major, 0),
        _ if rest.starts_with("beta") => ("beta", 2),
        _ if rest.starts_with("alpha") => ("alpha", 1),
        _ => return (0, 0, 0),
    };
    let minor = &rest[word.len()..];
    minor.parse().map_or((0, 0, 0), |minor| (level, major, minor))
}

/// Versions that servers in the cluster serve, by group.
fn remote_versions(objects: &[Value]) -> BTreeMap<&str, Vec<&str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for object in objects.iter().filter(|object| balsa_api::kinds::api_service::is_remote(object)) {
        all.entry(text(object, "spec.group")).or_default().push(text(object, "spec.version"));
    }
    all
}

fn join_group(group: &mut Value, versions: &[&str], objects: &[Value]) {
    let name = text(group, "name").to_owned();
    let Some(own) = group.get_mut("versions").and_then(Value::as_array_mut) else { return };
    for version in versions {
        if !own.iter().any(|entry| text(entry, "version") == *version) {
            own.push(json!({"groupVersion": format!("{name}/{version}"), "version": version}));
        }
    }
    own.sort_by_cached_key(|entry| version_rank(objects, &name, text(entry, "version")));
    let preferred = own.first().cloned();
    group["preferredVersion"] = json!(preferred);
}

/// `/apis/GROUP`. `own`: what we serve of it.
pub fn group(name: &str, own: Option<Value>, objects: &[Value]) -> Option<Value> {
    let versions = remote_versions(objects).remove(name);
    let fresh = || json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": []});
    let mut group = own.or_else(|| versions.as_ref().map(|_| fresh()))?;
    join_group(&mut group, &versions.unwrap_or_default(), objects);
    Some(group)
}

/// `/apis`
pub fn groups(mut own: Value, objects: &[Value]) -> Value {
    let Some(groups) = own.get_mut("groups").and_then(Value::as_array_mut) else { return own };
    for (name, versions) in remote_versions(objects) {
        match groups.iter_mut().find(|group| text(group, "name") == name) {
            Some(group) => join_group(group, &versions, objects),
            None => {
                let mut group = json!({"name": name, "versions": []});
                join_group(&mut group, &versions, objects);
                groups.push(group);
            }
        }
    }
    groups.iter_mut().for_each(|group| join_group(group, &[], objects));
    // Without APIServices the order is that of the table of kinds.
    if !objects.is_empty() {
        groups.sort_by_cached_key(|group| {
            let (priority, name) = rank(objects, text(group, "name"));
            (priority, name.to_owned())
        });
    }
    own
}

/// The aggregated form of `/apis`. `discovered`: what servers said of themselves, by APIService.
pub fn document(mut own: Value, objects: &[Value], discovered: &BTreeMap<String, Value>) -> Value {
    let Some(items) = own.get_mut("items").and_then(Value::as_array_mut) else { return own };
    for object in objects.iter().filter(|object| balsa_api::kinds::api_service::is_remote(object)) {
        let (group, version) = (text(object, "spec.group"), text(object, "spec.version"));
        let entry = match discovered.get(text(object, "metadata.name")) {
            Some(known) if super::condition::is_available(object) => known.clone(),
            Some(known) => with_freshness(known.clone(), "Stale"),
            None => json!({"version": version, "freshness": "Stale"}),
        };
        let place = items.iter().position(|item| text(item, "metadata.name") == group);
        let place = place.unwrap_or_else(|| {
            items.push(json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": []}));
            items.len() - 1
        });
        if let Some(versions) = items[place].get_mut("versions").and_then(Value::as_array_mut) {
            versions.retain(|known| text(known, "version") != version);
            versions.push(entry);
        }
    }
    for item in items.iter_mut() {
        let group = text(item, "metadata.name").to_owned();
        if let Some(versions) = item.get_mut("versions").and_then(Value::as_array_mut) {
            versions.sort_by_cached_key(|known| version_rank(objects, &group, text(known, "version")));
        }
    }
    if !objects.is_empty() {
        items.sort_by_cached_key(|item| {
            let (priority, name) = rank(objects, text(item, "metadata.name"));
            (priority, name.to_owned())
        });
    }
    own
}

fn with_freshness(mut entry: Value, freshness: &str) -> Value {
    entry["freshness"] = json!(freshness);
    entry
}

/// The entry of one version out of a server's own aggregated document.
pub fn entry_of(document: &Value, group: &str, version: &str) -> Option<Value> {
    let item = list(document, "items").iter().find(|item| text(item, "metadata.name") == group)?;
    let entry = list(item, "versions").iter().find(|entry| text(entry, "version") == version)?;
    Some(with_freshness(entry.clone(), "Current"))
}

/// The same from a classic list of resources, for servers that know no aggregated discovery.
pub fn entry_from(resources: &Value, group: &str, version: &str) -> Value {
    let mut out: Vec<Value> = Vec::new();
    let kind_of = |resource: &Value| {
        let or = |given: &str, own: &str| if given.is_empty() { own.to_owned() } else { given.to_owned() };
        json!({"group": or(text(resource, "group"), group), "version": or(text(resource, "version"), version),
            "kind": text(resource, "kind")})
    };
    let all = list(resources, "resources");
    for resource in all.iter().filter(|resource| !text(resource, "name").contains('/')) {
        let scope = if find(resource, "namespaced") == &Value::Bool(true) { "Namespaced" } else { "Cluster" };
        let mut shown = json!({"resource": text(resource, "name"), "responseKind": kind_of(resource), "scope": scope,
            "singularResource": text(resource, "singularName"), "verbs": list(resource, "verbs")});
        for member in ["shortNames", "categories"] {
            if !list(resource, member).is_empty() {
                shown[member] = json!(list(resource, member));
            }
        }
        out.push(shown);
    }
    for sub in all {
        let Some((parent, name)) = text(sub, "name").split_once('/') else { continue };
        let Some(parent) = out.iter_mut().find(|one| text(one, "resource") == parent) else { continue };
        let shown = json!({"subresource": name, "responseKind": kind_of(sub), "verbs": list(sub, "verbs")});
        match parent.get_mut("subresources").and_then(Value::as_array_mut) {
            Some(subresources) => subresources.push(shown),
            None => parent["subresources"] = json!([shown]),
        }
    }
    json!({"version": version, "resources": out, "freshness": "Current"})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(group: &str, version: &str, priorities: (i64, i64), remote: bool) -> Value {
        let mut object = json!({"metadata": {"name": format!("{version}.{group}")},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1}});
        if remote {
            object["spec"]["service"] = json!({"name": "s"});
        }
        object
    }

    #[test]
    fn groups_stand_by_priority() {
        let objects = [
            service("apps", "v1", (17_800, 15), false),
            service("wardle.example.com", "v1alpha1", (2000, 200), true),
            service("wardle.example.com", "v1", (2000, 15), true),
            service("x.com", "v1", (1000, 100), false),
        ];
        let named = |name: &str| json!({"name": name, "versions": [{"groupVersion": format!("{name}/v1"), "version": "v1"}]});
        let own = json!({"groups": [named("x.com"), named("apps"), named(OWN_GROUP)]});
        let merged = groups(own, &objects);
        let names: Vec<&str> = list(&merged, "groups").iter().map(|group| text(group, "name")).collect();
        assert_eq!(names, [OWN_GROUP, "apps", "wardle.example.com", "x.com"]);
        assert_eq!(merged["groups"][2]["preferredVersion"]["version"], "v1alpha1", "priority goes before age");
        assert_eq!(group("wardle.example.com", None, &objects).unwrap()["versions"].as_array().unwrap().len(), 2);
        assert!(group("nope", None, &objects).is_none());
    }

    #[test]
    fn versions_have_an_age() {
        let mut versions = ["foo", "v1alpha1", "v1", "v1beta2", "v10", "v1beta1", "v2"];
        versions.sort_by_key(|version| Reverse(age(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }

    #[test]
    fn classic_lists_become_entries() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["get", "patch"]}]});
        let entry = entry_from(&list, "w", "v1");
        assert_eq!(entry["resources"][0]["responseKind"], json!({"group": "w", "version": "v1", "kind": "Flunder"}));
        assert_eq!(entry["resources"][0]["subresources"][0]["subresource"], "status");
        let objects = [service("w", "v1", (2000, 200), true)];
        let known = BTreeMap::from([("v1.w".to_owned(), entry)]);
        let document = document(json!({"items": []}), &objects, &known);
        assert_eq!(document["items"][0]["versions"][0]["freshness"], "Stale", "it is not available now");
        assert!(entry_of(&document, "w", "v1").is_some());
    }
}
