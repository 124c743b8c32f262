//! The cluster's default classes: of storage for claims, of Ingresses. Also which claims may grow.

use balsa_api::quantity::Quantity;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use super::{Operation, Review};
use crate::pipeline::Api;
use crate::value;

const STORAGE: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const INGRESS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
/// The class of a claim before there was a field for it.
const OLD_STORAGE: &str = "volume.beta.kubernetes.io/storage-class";
/// The class of an Ingress before there was a field for it.
const OLD_INGRESS: &str = "kubernetes.io/ingress.class";

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// The newest class that is marked as default; of equally old ones the first by name. Pure.
fn default_of(classes: &[Value], marks: &[&str]) -> Option<String> {
    let marked = |class: &&Value| marks.iter().any(|mark| annotation(class, mark) == Some("true"));
    let mut all: Vec<(&str, &str)> = classes
        .iter()
        .filter(marked)
        .map(|class| (value::text(class, "/metadata/creationTimestamp"), value::name(class)))
        .collect();
    all.sort_by(|a, b| b.0.cmp(a.0).then(a.1.cmp(b.1)));
    all.first().map(|(_, name)| (*name).to_owned())
}

fn classes(api: &Api, group: &str, plural: &str) -> Vec<Value> {
    let cache = api.caches.resource(group, plural);
    cache.map(|cache| cache.list("").iter().map(|object| object.value()).collect()).unwrap_or_default()
}

/// Gives claims and Ingresses that name no class the default one.
pub fn fill_in(api: &Api, review: &Review<'_>, object: &mut Value) {
    let names = review.target.kind.names();
    if review.operation != Operation::Create || !review.subresource.is_empty() {
        return;
    }
    let (field, old, group, plural, marks): (_, _, _, _, &[&str]) = match (names.group, names.plural) {
        ("", "persistentvolumeclaims") => {
            ("storageClassName", OLD_STORAGE, "storage.k8s.io", "storageclasses", &STORAGE)
        }
        ("networking.k8s.io", "ingresses") => {
            ("ingressClassName", OLD_INGRESS, "networking.k8s.io", "ingressclasses", &INGRESS)
        }
        _ => return,
    };
    let named = object.pointer("/spec").and_then(|spec| spec.get(field)).is_some_and(|name| !name.is_null());
    if named || annotation(object, old).is_some() {
        return;
    }
    if let Some(class) = default_of(&classes(api, group, plural), marks) {
        value::member(object, "spec").insert(field.to_owned(), json!(class));
    }
}

/// A claim grows only when it is bound, and its class allows it.
pub fn check_growth(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let Some(old) = review.old.filter(|_| review.is("persistentvolumeclaims")) else { return Ok(()) };
    if review.operation != Operation::Update || !grows(object, old) {
        return Ok(());
    }
    let refuse = |detail| Err(ApiError::forbidden(&review.target.kind.gvr(), review.target.name, detail));
    if value::text(old, "/status/phase") != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = |claim| annotation(claim, OLD_STORAGE).unwrap_or_else(|| value::text(claim, "/spec/storageClassName"));
    let (new_class, old_class) = (class(object), class(old));
    let known = classes(api, "storage.k8s.io", "storageclasses");
    let allows = |of: &Value| of.get("allowVolumeExpansion") == Some(&Value::Bool(true));
    let expandable = known.iter().any(|of| value::name(of) == new_class && allows(of));
    if new_class.is_empty() || new_class != old_class || !expandable {
        return refuse(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        );
    }
    Ok(())
}

/// Whether a claim asks for more than it did. Pure.
fn grows(new: &Value, old: &Value) -> bool {
    let size = |claim: &Value| {
        value::text(claim, "/spec/resources/requests/storage").parse::<Quantity>().ok()
    };
    size(new) > size(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_default_counts() {
        let class = |name: &str, made: &str, mark: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {STORAGE[0]: mark}}})
        };
        let all = [
            class("old", "2026-01-01T00:00:00Z", "true"),
            class("b", "2026-02-01T00:00:00Z", "true"),
            class("a", "2026-02-01T00:00:00Z", "true"),
            class("newest", "2026-03-01T00:00:00Z", "false"),
        ];
        assert_eq!(default_of(&all, &STORAGE).as_deref(), Some("a"));
        assert_eq!(default_of(&all[3..], &STORAGE), None);
    }

    #[test]
    fn growth_is_more_than_before() {
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        assert!(grows(&claim("2Gi"), &claim("1Gi")));
        assert!(!grows(&claim("1024Mi"), &claim("1Gi")));
    }
}
