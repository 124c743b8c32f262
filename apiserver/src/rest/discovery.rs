//! What is served: groups, versions, resources, in the classic and in the aggregated form. Pure.

use std::collections::BTreeMap;

use balsa_api::kind::Kind;
use serde_json::{Value, json};

/// Groups in the order in which clients prefer them; the rest follows by name.
const ORDER: [&str; 20] = [
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling",
    "batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
    "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io",
    "discovery.k8s.io", "flowcontrol.apiserver.k8s.io",
];

/// Kinds by group and version.
fn by_version() -> Vec<((&'static str, &'static str), Vec<&'static dyn Kind>)> {
    let mut versions: BTreeMap<(usize, &str, &str), Vec<&'static dyn Kind>> = BTreeMap::new();
    for kind in balsa_api::kinds::all() {
        let names = kind.names();
        let place = ORDER.iter().position(|group| *group == names.group).unwrap_or(ORDER.len());
        versions.entry((place, names.group, names.version)).or_default().push(*kind);
    }
    versions.into_iter().map(|((_, group, version), kinds)| ((group, version), kinds)).collect()
}

/// Whether this group is served.
pub fn has_group(group: &str) -> bool {
    balsa_api::kinds::all().iter().any(|kind| kind.names().group == group)
}

/// Whether this version of a group is served.
pub fn has_version(group: &str, version: &str) -> bool {
    balsa_api::kinds::all().iter().any(|kind| kind.names().group == group && kind.names().version == version)
}

/// `/api`
pub fn core_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let named = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(named).collect();
    json!({"name": group, "versions": all, "preferredVersion": all.first()})
}

fn groups_with_versions() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for ((group, version), _) in by_version() {
        match groups.last_mut() {
            Some((last, versions)) if *last == group => versions.push(version),
            _ => groups.push((group, vec![version])),
        }
    }
    groups
}

/// `/apis`
pub fn groups() -> Value {
    let groups: Vec<Value> = groups_with_versions()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`
pub fn group(name: &str) -> Option<Value> {
    let groups = groups_with_versions();
    let (group, versions) = groups.iter().find(|(group, _)| *group == name && !name.is_empty())?;
    let mut value = group_value(group, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let versions = by_version();
    let (_, kinds) = versions.iter().find(|(of, _)| *of == (group, version))?;
    let mut resources = Vec::new();
    for kind in kinds {
        let names = kind.names();
        let mut resource = json!({"name": names.plural, "singularName": names.singular, "namespaced": kind.namespaced(),
            "kind": names.kind, "verbs": kind.verbs()});
        if !names.short_names.is_empty() {
            resource["shortNames"] = json!(names.short_names);
        }
        if !names.categories.is_empty() {
            resource["categories"] = json!(names.categories);
        }
        resources.push(resource);
        for subresource in kind.subresources() {
            let mut value = json!({"name": format!("{}/{}", names.plural, subresource.name), "singularName": "",
                "namespaced": kind.namespaced(), "kind": subresource.kind, "verbs": subresource.verbs});
            if (subresource.group, subresource.version) != (group, version) {
                value["group"] = json!(subresource.group);
                value["version"] = json!(subresource.version);
            }
            resources.push(value);
        }
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": balsa_api::meta::api_version(group, version), "resources": resources}))
}

fn discovered(kind: &dyn Kind) -> Value {
    let names = kind.names();
    let mut resource = json!({
        "resource": names.plural,
        "responseKind": {"group": names.group, "version": names.version, "kind": names.kind},
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": names.singular,
        "verbs": kind.verbs(),
    });
    if !names.short_names.is_empty() {
        resource["shortNames"] = json!(names.short_names);
    }
    if !names.categories.is_empty() {
        resource["categories"] = json!(names.categories);
    }
    if !kind.subresources().is_empty() {
        let subresources: Vec<Value> = kind
            .subresources()
            .iter()
            .map(|sub| {
                json!({"subresource": sub.name, "verbs": sub.verbs,
                    "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind}})
            })
            .collect();
        resource["subresources"] = json!(subresources);
    }
    resource
}

/// The aggregated form of `/api` (`core`) or `/apis`. `form` is `v2` or `v2beta1`.
pub fn aggregated(core: bool, form: &str) -> Value {
    let mut items: Vec<Value> = Vec::new();
    for ((group, version), kinds) in by_version().into_iter().filter(|((group, _), _)| group.is_empty() == core) {
        let resources: Vec<Value> = kinds.iter().map(|kind| discovered(*kind)).collect();
        let entry = json!({"version": version, "resources": resources, "freshness": "Current"});
        match items.last_mut() {
            Some(last) if last["metadata"].get("name").and_then(Value::as_str).unwrap_or_default() == group => {
                if let Some(versions) = last["versions"].as_array_mut() {
                    versions.push(entry);
                }
            }
            _ => {
                let mut metadata = json!({"creationTimestamp": null});
                if !group.is_empty() {
                    metadata["name"] = json!(group);
                }
                items.push(json!({"metadata": metadata, "versions": [entry]}));
            }
        }
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{form}"), "metadata": {}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_discovered() {
        let core = aggregated(true, "v2");
        let pods = core["items"][0]["versions"][0]["resources"].as_array().unwrap().iter().find(|one| one["resource"] == "pods");
        assert_eq!(pods.unwrap()["scope"], "Namespaced");
        let plain = resources("", "v1").unwrap();
        assert!(plain["resources"].as_array().unwrap().iter().any(|one| one["name"] == "namespaces"));
        assert!(resources("nope", "v1").is_none() && group("nope").is_none());
    }
}
