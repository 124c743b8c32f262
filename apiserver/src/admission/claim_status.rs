//! Who may write which part of a claim's status (`resource.k8s.io`): the allocation is for those who bind claims, what
//! is said of devices is for their drivers, and on their own node with less.
//!
//! Asked for as verbs on the resources `resourceclaims/binding` and `resourceclaims/driver`, which have no URL.

use std::collections::{BTreeMap, BTreeSet};

use balsa_api::cursor::{find, list, text};
use balsa_api::field::FieldError;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::{Operation, Review};
use crate::authn::Caller;
use crate::authz::rbac::Attributes;
use crate::pipeline::Api;

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// A review does not tell them apart, and who may do one of them can do the same with the other.
const WRITES: [&str; 2] = ["update", "patch"];

/// Refuses parts of a claim's new status that the caller may not write.
pub fn admit(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let names = review.target.kind.names();
    let Some(old) = review.old else { return Ok(()) };
    if (names.group, names.plural) != ("resource.k8s.io", "resourceclaims")
        || review.operation != Operation::Update
        || review.subresource != "status"
    {
        return Ok(());
    }
    let caller = &review.call.caller;
    let mut findings = Vec::new();
    if allocation_changes(object, old)
        && let Err(why) = any(api, caller, &WRITES.map(|verb| asked(verb, "binding", "", "")))
    {
        let detail = "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", \
                      verb=\"update\" permission";
        findings.push(FieldError::forbidden("status.allocation", &format!("{detail}: {}", why.message)));
    }
    // Without an allocation all that was said of devices goes, whoever said it.
    if find(object, "status.allocation").is_object() {
        let prefixes: &[&str] = if at_home(caller, object) { &["associated-node", "arbitrary-node"] } else { &["arbitrary-node"] };
        for driver in drivers(object, old) {
            let verbs = prefixes.iter().flat_map(|prefix| WRITES.map(|verb| format!("{prefix}-{verb}")));
            let attributes: Vec<Attributes> =
                verbs.map(|verb| asked(&verb, "driver", review.target.namespace, driver)).collect();
            if let Err(why) = any(api, caller, &attributes) {
                let verbs = prefixes.iter().map(|prefix| format!("{prefix}-update")).collect::<Vec<_>>().join(" ");
                let detail = format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{verbs}]\" permission: {}",
                    why.message
                );
                findings.push(FieldError::forbidden("status.devices", &detail));
            }
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&review.target.kind.gvk(), text(object, "metadata.name"), &findings))
}

fn asked(verb: &str, part: &str, namespace: &str, name: &str) -> Attributes {
    Attributes {
        verb: verb.to_owned(),
        group: "resource.k8s.io".to_owned(),
        version: "v1".to_owned(),
        resource: "resourceclaims".to_owned(),
        subresource: part.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}

/// The refusal of the first, unless one of them is allowed.
fn any(api: &Api, caller: &Caller, attributes: &[Attributes]) -> ApiResult<()> {
    let mut first = Ok(());
    for one in attributes {
        match api.authorizer.check(caller, one) {
            Ok(()) => return Ok(()),
            Err(error) if first.is_ok() => first = Err(error),
            Err(_) => {}
        }
    }
    first
}

fn allocation_changes(new: &Value, old: &Value) -> bool {
    let differs = |path: &str| find(new, path) != find(old, path);
    differs("status.allocation") || list(new, "status.reservedFor") != list(old, "status.reservedFor")
}

type DeviceId<'a> = [&'a str; 4];

fn devices(claim: &Value) -> BTreeMap<DeviceId<'_>, &Value> {
    let id = |device| ["driver", "pool", "device", "shareID"].map(|field| text(device, field));
    list(claim, "status.devices").iter().map(|device| (id(device), device)).collect()
}

/// The drivers of devices of which something else is said now. Pure.
fn drivers<'a>(new: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    let (new, old) = (devices(new), devices(old));
    let written = new.iter().filter(|(id, device)| old.get(*id) != Some(device)).map(|([driver, ..], _)| *driver);
    let gone = old.keys().filter(|id| !new.contains_key(*id)).map(|[driver, ..]| *driver);
    written.chain(gone).collect()
}

/// Whether the caller is a service account whose token is for a pod on the node to which the claim's devices belong.
/// Pure.
fn at_home(caller: &Caller, claim: &Value) -> bool {
    let from = caller.extra.get(NODE_NAME).map(Vec::as_slice);
    let (Some([from]), Some(node)) = (from, node_of(find(claim, "status.allocation.nodeSelector"))) else { return false };
    caller.user.starts_with("system:serviceaccount:") && from == node
}

/// The node that a selector names, if it does nothing else.
fn node_of(selector: &Value) -> Option<&str> {
    let [term] = list(selector, "nodeSelectorTerms") else { return None };
    let [field] = list(term, "matchFields") else { return None };
    let [Value::String(node)] = list(field, "values") else { return None };
    let named = text(field, "key") == "metadata.name" && text(field, "operator") == "In";
    (named && list(term, "matchExpressions").is_empty() && !node.is_empty()).then_some(node)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn drivers_of_what_changed() {
        let of = |devices: Value| json!({"status": {"devices": devices}});
        let old = of(json!([{"driver": "a", "device": "1"}, {"driver": "b", "device": "1"}, {"driver": "c", "device": "1"}]));
        let new = of(json!([{"driver": "a", "device": "1"}, {"driver": "b", "device": "1", "data": {}}, {"driver": "d", "device": "1"}]));
        assert_eq!(drivers(&new, &old).into_iter().collect::<Vec<_>>(), ["b", "c", "d"]);
        assert!(drivers(&old, &old).is_empty());
    }

    #[test]
    fn a_driver_at_home() {
        let claim = |key: &str| {
            let fields = json!([{"key": key, "operator": "In", "values": ["n1"]}]);
            json!({"status": {"allocation": {"nodeSelector": {"nodeSelectorTerms": [{"matchFields": fields}]}}}})
        };
        let driver = |user: &str, node: &str| Caller {
            user: user.to_owned(),
            extra: [(NODE_NAME.to_owned(), vec![node.to_owned()])].into(),
            ..Caller::default()
        };
        let account = "system:serviceaccount:default:driver";
        assert!(at_home(&driver(account, "n1"), &claim("metadata.name")));
        assert!(!at_home(&driver(account, "n2"), &claim("metadata.name")));
        assert!(!at_home(&driver("system:node:n1", "n1"), &claim("metadata.name")));
        assert!(!at_home(&driver(account, "n1"), &claim("metadata.namespace")));
    }
}
