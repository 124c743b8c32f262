//! A pod's priority comes from its PriorityClass, never from the pod.

use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use super::Review;
use crate::pipeline::Api;
use crate::value;

/// A class: (value, preemption policy, name).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    name: String,
    value: i64,
    policy: String,
}

/// Looks the class up and fills in what it says.
pub fn admit(api: &Api, review: &Review<'_>, pod: &mut Value) -> ApiResult<()> {
    let classes: Vec<Value> = match balsa_api::kinds::find("scheduling.k8s.io", "v1", "priorityclasses") {
        Some(kind) => api.cache(kind)?.list("").iter().map(|object| object.value()).collect(),
        None => Vec::new(),
    };
    resolve(pod, &classes).map_err(|detail| {
        ApiError::forbidden(&review.target.kind.gvr(), review.target.name, &detail)
    })
}

fn class_of(pod: &Value, classes: &[Value]) -> Result<Class, String> {
    let read = |class: &Value| Class {
        name: value::name(class).to_owned(),
        value: class.get("value").and_then(Value::as_i64).unwrap_or_default(),
        policy: match value::text(class, "/preemptionPolicy") {
            "" => "PreemptLowerPriority".to_owned(),
            policy => policy.to_owned(),
        },
    };
    let wanted = value::text(pod, "/spec/priorityClassName");
    if !wanted.is_empty() {
        let built_in = match wanted {
            "system-cluster-critical" => Some(2_000_000_000),
            "system-node-critical" => Some(2_000_001_000),
            _ => None,
        };
        if let Some(class) = classes.iter().find(|class| value::name(class) == wanted) {
            return Ok(read(class));
        }
        return built_in
            .map(|value| Class { name: wanted.to_owned(), value, policy: "PreemptLowerPriority".to_owned() })
            .ok_or_else(|| format!("no PriorityClass with name {wanted} was found"));
    }
    let default = classes.iter().filter(|class| class.get("globalDefault") == Some(&json!(true)));
    let lowest = default.min_by_key(|class| class.get("value").and_then(Value::as_i64));
    let none = Class { name: String::new(), value: 0, policy: "PreemptLowerPriority".to_owned() };
    Ok(lowest.map_or(none, read))
}

/// Sets priority and preemption policy. Pure.
fn resolve(pod: &mut Value, classes: &[Value]) -> Result<(), String> {
    let class = class_of(pod, classes)?;
    let spec = value::member(pod, "spec");
    let given = spec.get("priority").and_then(Value::as_i64);
    if given.is_some_and(|given| given != class.value) {
        let given = given.unwrap_or_default();
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            class.value
        ));
    }
    let policy = spec.get("preemptionPolicy").and_then(Value::as_str);
    if policy.is_some_and(|policy| policy != class.policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            policy.unwrap_or_default(),
            class.policy
        ));
    }
    if !class.name.is_empty() {
        spec.insert("priorityClassName".to_owned(), json!(class.name));
    }
    spec.insert("priority".to_owned(), json!(class.value));
    spec.insert("preemptionPolicy".to_owned(), json!(class.policy));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_decide() {
        let classes = [
            json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}),
            json!({"metadata": {"name": "usual"}, "value": 5, "globalDefault": true}),
        ];
        let resolved = |name: &str, classes: &[Value]| {
            let mut pod = json!({"spec": {"priorityClassName": name}});
            resolve(&mut pod, classes).map(|()| (pod["spec"]["priority"].as_i64(), pod["spec"]["preemptionPolicy"].clone()))
        };
        assert_eq!(resolved("high", &classes), Ok((Some(1000), json!("Never"))));
        assert_eq!(resolved("", &classes), Ok((Some(5), json!("PreemptLowerPriority"))));
        assert_eq!(resolved("", &[]), Ok((Some(0), json!("PreemptLowerPriority"))));
        assert_eq!(resolved("system-node-critical", &[]).unwrap().0, Some(2_000_001_000));
        assert_eq!(resolved("nope", &classes), Err("no PriorityClass with name nope was found".to_owned()));
    }
}
