//! What is served: groups, versions, resources, in the classic and in the aggregated form. Pure.

use std::collections::BTreeMap;

use balsa_api::apiextensions::registry::preferred;
use balsa_api::kind::{Kind, KindRef, Subresource};
use balsa_api::meta::GroupVersionKind;
use serde_json::{Value, json};

/// Groups in the order in which clients prefer them; the rest follows by name.
const ORDER: [&str; 20] = [
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling",
    "batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
    "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io",
    "discovery.k8s.io", "flowcontrol.apiserver.k8s.io",
];

/// One version of a group.
struct Version<'a> {
    group: &'a str,
    version: &'a str,
    kinds: Vec<&'a dyn Kind>,
}

/// The kinds that are served, by group and version: groups in their order, of each group the preferred version first.
fn by_version<'a>(kinds: &'a [KindRef]) -> Vec<Version<'a>> {
    let mut versions: BTreeMap<(usize, &str, &str), Vec<&'a dyn Kind>> = BTreeMap::new();
    for kind in kinds {
        let kind: &'a dyn Kind = &**kind;
        let names = kind.names();
        let place = ORDER.iter().position(|group| *group == names.group).unwrap_or(ORDER.len());
        versions.entry((place, names.group, names.version)).or_default().push(kind);
    }
    let mut out: Vec<(usize, Version<'a>)> = versions
        .into_iter()
        .map(|((place, group, version), kinds)| (place, Version { group, version, kinds }))
        .collect();
    out.sort_by(|(a_place, a), (b_place, b)| {
        (a_place, a.group).cmp(&(b_place, b.group)).then_with(|| preferred(a.version, b.version))
    });
    out.into_iter().map(|(_, version)| version).collect()
}

/// Whether this group is served.
pub fn has_group(kinds: &[KindRef], group: &str) -> bool {
    kinds.iter().any(|kind| kind.names().group == group)
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

fn groups_with_versions(kinds: &[KindRef]) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for Version { group, version, .. } in by_version(kinds) {
        match groups.last_mut() {
            Some((last, versions)) if *last == group => versions.push(version),
            _ => groups.push((group, vec![version])),
        }
    }
    groups
}

/// `/apis`
pub fn groups(kinds: &[KindRef]) -> Value {
    let groups: Vec<Value> = groups_with_versions(kinds)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`
pub fn group(kinds: &[KindRef], name: &str) -> Option<Value> {
    let groups = groups_with_versions(kinds);
    let (group, versions) = groups.iter().find(|(group, _)| *group == name && !name.is_empty())?;
    let mut value = group_value(group, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub fn resources(kinds: &[KindRef], group: &str, version: &str) -> Option<Value> {
    let versions = by_version(kinds);
    let found = versions.iter().find(|of| (of.group, of.version) == (group, version))?;
    let mut resources = Vec::new();
    for kind in &found.kinds {
        let names = kind.names();
        let mut resource = json!({"name": names.plural, "singularName": names.singular, "namespaced": kind.namespaced(),
            "kind": names.kind, "verbs": kind.verbs()});
        name_shortly(*kind, &mut resource);
        resources.push(resource);
        for subresource in kind.subresources() {
            let exchanged = exchanged(*kind, subresource);
            let mut value = json!({"name": format!("{}/{}", names.plural, subresource.name), "singularName": "",
                "namespaced": kind.namespaced(), "kind": exchanged.kind, "verbs": subresource.verbs});
            if (exchanged.group.as_str(), exchanged.version.as_str()) != (group, version) {
                value["group"] = json!(exchanged.group);
                value["version"] = json!(exchanged.version);
            }
            resources.push(value);
        }
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": balsa_api::meta::api_version(group, version), "resources": resources}))
}

/// The type that a subresource exchanges.
fn exchanged(kind: &dyn Kind, subresource: &Subresource) -> GroupVersionKind {
    match subresource.kind {
        "" => kind.gvk(),
        of => GroupVersionKind::new(subresource.group, subresource.version, of),
    }
}

fn name_shortly(kind: &dyn Kind, resource: &mut Value) {
    let (short_names, categories) = (kind.short_names(), kind.categories());
    if !short_names.is_empty() {
        resource["shortNames"] = json!(short_names);
    }
    if !categories.is_empty() {
        resource["categories"] = json!(categories);
    }
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
    name_shortly(kind, &mut resource);
    if !kind.subresources().is_empty() {
        let subresources: Vec<Value> = kind
            .subresources()
            .iter()
            .map(|sub| {
                let of = exchanged(kind, sub);
                json!({"subresource": sub.name, "verbs": sub.verbs,
                    "responseKind": {"group": of.group, "version": of.version, "kind": of.kind}})
            })
            .collect();
        resource["subresources"] = json!(subresources);
    }
    resource
}

/// The aggregated form of `/api` (`core`) or `/apis`. `form` is `v2` or `v2beta1`.
pub fn aggregated(kinds: &[KindRef], core: bool, form: &str) -> Value {
    let mut items: Vec<Value> = Vec::new();
    for Version { group, version, kinds } in by_version(kinds).into_iter().filter(|of| of.group.is_empty() == core) {
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
        let kinds: Vec<KindRef> = balsa_api::kinds::all().iter().map(|kind| KindRef::from(*kind)).collect();
        let core = aggregated(&kinds, true, "v2");
        let pods = core["items"][0]["versions"][0]["resources"].as_array().unwrap().iter().find(|one| one["resource"] == "pods");
        assert_eq!(pods.unwrap()["scope"], "Namespaced");
        let plain = resources(&kinds, "", "v1").unwrap();
        assert!(plain["resources"].as_array().unwrap().iter().any(|one| one["name"] == "namespaces"));
        assert!(resources(&kinds, "nope", "v1").is_none() && group(&kinds, "nope").is_none());
    }
}
