//! A pod of a RuntimeClass has the class's overhead and goes where the class runs.

use balsa_api::quantity::Quantity;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Map, Value, json};

use super::Review;
use crate::pipeline::{Api, Target};
use crate::value;

/// The class that the pod names; 403 where there is none of that name.
async fn class_of(api: &Api, review: &Review<'_>, pod: &Value) -> ApiResult<Option<Value>> {
    let name = value::text(pod, "/spec/runtimeClassName");
    let Some(kind) = balsa_api::kinds::find("node.k8s.io", "v1", "runtimeclasses") else { return Ok(None) };
    if name.is_empty() {
        return Ok(None);
    }
    match api.lookup(Target { kind, namespace: "", name }).await? {
        Some(found) => Ok(Some(found.value)),
        None => Err(refused(review, &format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn refused(review: &Review<'_>, detail: &str) -> ApiError {
    ApiError::forbidden(&review.target.kind.gvr(), review.target.name, detail)
}

/// Fills in what the class says.
pub async fn admit(api: &Api, review: &Review<'_>, pod: &mut Value) -> ApiResult<()> {
    match class_of(api, review, pod).await? {
        Some(class) => fill_in(pod, &class).map_err(|detail| refused(review, &detail)),
        None => Ok(()),
    }
}

/// Refuses an overhead that is not the class's.
pub async fn check(api: &Api, review: &Review<'_>, pod: &Value) -> ApiResult<()> {
    let class = class_of(api, review, pod).await?;
    check_overhead(pod, class.as_ref()).map_err(|detail| refused(review, &detail))
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn amounts(of: Option<&Value>) -> Vec<(&str, Option<Quantity>)> {
    let mut all: Vec<(&str, Option<Quantity>)> = of
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, amount)| (name.as_str(), amount.as_str().and_then(|text| text.parse().ok())))
        .collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

fn overhead(class: &Value) -> Option<&Value> {
    class.pointer("/overhead").filter(|overhead| !overhead.is_null()).map(|own| own.get("podFixed").unwrap_or(&Value::Null))
}

fn check_overhead(pod: &Value, class: Option<&Value>) -> Result<(), String> {
    let own = pod.pointer("/spec/overhead").filter(|own| !own.is_null());
    match class.and_then(overhead) {
        Some(fixed) if amounts(own) != amounts(Some(fixed)) => Err(MISMATCH.to_owned()),
        Some(_) => Ok(()),
        None if own.is_some() => {
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned())
        }
        None => Ok(()),
    }
}

/// Overhead, node selector and tolerations of the class. Pure.
fn fill_in(pod: &mut Value, class: &Value) -> Result<(), String> {
    if let Some(fixed) = overhead(class) {
        let own = pod.pointer("/spec/overhead");
        if !amounts(own).is_empty() && amounts(own) != amounts(Some(fixed)) {
            return Err(MISMATCH.to_owned());
        }
        if fixed.is_object() {
            value::member(pod, "spec").insert("overhead".to_owned(), fixed.clone());
        }
    }
    let empty = Map::new();
    let wanted = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).unwrap_or(&empty);
    let spec = value::member(pod, "spec");
    if !wanted.is_empty() {
        let selector = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        for (key, theirs) in wanted {
            let theirs = theirs.as_str().unwrap_or_default();
            if let Some(ours) = selector.get(key).and_then(Value::as_str).filter(|ours| *ours != theirs) {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {theirs}; pod.spec.nodeSelector[{key}] = {ours}"
                ));
            }
            selector[key] = json!(theirs);
        }
    }
    let added = class.pointer("/scheduling/tolerations").and_then(Value::as_array);
    if let (Some(added), Some(own)) = (added, value::list(spec, "tolerations")) {
        merge(own, added);
    }
    Ok(())
}

/// Adds tolerations; one that another says already is left out.
fn merge(own: &mut Vec<Value>, added: &[Value]) {
    let mut all: Vec<Value> = Vec::new();
    for toleration in own.iter().chain(added) {
        if all.iter().any(|other| covers(other, toleration)) {
            continue;
        }
        all.retain(|other| !covers(toleration, other));
        all.push(toleration.clone());
    }
    *own = all;
}

/// Whether everything that `b` tolerates `a` tolerates too.
fn covers(a: &Value, b: &Value) -> bool {
    let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let operator = |of: &Value| if text(of, "operator").is_empty() { "Equal".to_owned() } else { text(of, "operator") };
    let seconds = |of: &Value| of.get("tolerationSeconds").and_then(Value::as_i64);
    let key = text(a, "key");
    let same_key = key == text(b, "key") || (key.is_empty() && operator(a) == "Exists");
    let effect = text(a, "effect");
    let same_effect = effect.is_empty() || effect == text(b, "effect");
    let as_long = effect != "NoExecute"
        || match (seconds(a), seconds(b)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(a), Some(b)) => a >= b,
        };
    let same_value = operator(a) == "Exists" || (operator(b) == "Equal" && text(a, "value") == text(b, "value"));
    same_key && same_effect && as_long && same_value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> Value {
        json!({"handler": "h", "overhead": {"podFixed": {"cpu": "250m", "memory": "64Mi"}},
            "scheduling": {"nodeSelector": {"kind": "vm"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}})
    }

    #[test]
    fn a_pod_gets_what_its_class_says() {
        let mut pod = json!({"spec": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "vm", "value": "x"}, {"key": "y"}]}});
        fill_in(&mut pod, &class()).unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "250m", "memory": "64Mi"}));
        assert_eq!(pod["spec"]["nodeSelector"], json!({"a": "b", "kind": "vm"}));
        assert_eq!(pod["spec"]["tolerations"], json!([{"key": "y"}, {"key": "vm", "operator": "Exists"}]));
        let again = pod.clone();
        fill_in(&mut pod, &class()).unwrap();
        assert_eq!(pod, again);
        assert_eq!(check_overhead(&pod, Some(&class())), Ok(()));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut pod = json!({"spec": {"overhead": {"cpu": "1"}}});
        assert_eq!(fill_in(&mut pod, &class()), Err(MISMATCH.to_owned()));
        let mut pod = json!({"spec": {"nodeSelector": {"kind": "metal"}}});
        assert!(fill_in(&mut pod, &class()).unwrap_err().starts_with("conflict: runtimeClass.scheduling.nodeSelector[kind] = vm"));
        assert!(check_overhead(&json!({"spec": {"overhead": {"cpu": "1"}}}), None).unwrap_err().contains("without corresponding"));
    }
}
