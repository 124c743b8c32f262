//! The scale subresource: replicas of a workload, whatever kind it is.

use balsa_api::apiextensions::jsonpath::JsonPath;
use balsa_api::field::FieldError;
use balsa_api::kind::{Kind, Part};
use balsa_api::meta::GroupVersionKind;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use crate::pipeline::patch::Patch;
use crate::pipeline::update::Write;
use crate::pipeline::{Api, Call, Found, Target, rules};
use crate::value;

/// How an object shows itself through its scale. Pure.
pub fn view(kind: &dyn Kind, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut shown = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(key) {
            shown[key] = value.clone();
        }
    }
    let (replicas, current, selector) = match kind.custom().and_then(|custom| custom.scale.as_ref()) {
        Some(scale) => {
            let number = |path: &JsonPath| path.first(object).and_then(Value::as_i64).unwrap_or(0);
            let selector = scale.selector.as_ref().and_then(|path| path.first(object)).and_then(Value::as_str);
            (number(&scale.spec.1), number(&scale.status.1), selector.unwrap_or_default().to_owned())
        }
        None => {
            let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
            let selector = selector_text(object.pointer("/spec/selector").unwrap_or(&Value::Null));
            (number("/spec/replicas"), number("/status/replicas"), selector)
        }
    };
    let mut spec = json!({});
    if replicas != 0 {
        spec["replicas"] = json!(replicas);
    }
    let mut status = json!({"replicas": current});
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": shown, "spec": spec, "status": status})
}

/// A selector as text, keys in order. Pure.
fn selector_text(selector: &Value) -> String {
    let Some(map) = selector.as_object() else { return String::new() };
    let structured = map.contains_key("matchLabels") || map.contains_key("matchExpressions");
    let labels = if structured { map.get("matchLabels").and_then(Value::as_object) } else { Some(map) };
    let mut parts: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if structured {
        for expression in map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = value::text(expression, "/key");
            let values = value::strings(expression, "/values").join(",");
            parts.push(match value::text(expression, "/operator") {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.to_owned(),
                _ => format!("!{key}"),
            });
        }
    }
    parts.sort();
    parts.join(",")
}

/// The object with the scale's replicas. Pure.
pub fn rescale(target: Target<'_>, object: &Value, scale: &Value) -> ApiResult<Value> {
    let replicas = scale.pointer("/spec/replicas").map_or(Some(0), Value::as_i64);
    match replicas {
        Some(replicas) if replicas >= 0 && i32::try_from(replicas).is_ok() => {
            let mut object = object.clone();
            let own = target.kind.custom().and_then(|custom| custom.scale.as_ref());
            match own {
                Some(scale) if scale.spec.1.set(&mut object, json!(replicas)) => {}
                Some(scale) => {
                    let text = format!("the definition's path of replicas cannot be written: {}", scale.spec.0);
                    return Err(ApiError::internal(text));
                }
                None => drop(value::member(&mut object, "spec").insert("replicas".to_owned(), json!(replicas))),
            }
            Ok(object)
        }
        other => {
            let finding =
                FieldError::invalid("spec.replicas", json!(other), "must be greater than or equal to 0");
            Err(ApiError::invalid(&GroupVersionKind::new("autoscaling", "v1", "Scale"), target.name, &[finding]))
        }
    }
}

impl Api {
    /// PUT of a scale.
    pub async fn replace_scale(&self, call: &Call, target: Target<'_>, scale: &Value) -> ApiResult<Found> {
        if !value::name(scale).is_empty() && value::name(scale) != target.name {
            return Err(ApiError::bad_request("the name of the scale does not match the name on the URL"));
        }
        let change = |old: &Value| {
            rules::check_submitted(target, scale, old, true)?;
            rescale(target, old, scale)
        };
        self.scaled(call, target, &change).await
    }

    /// PATCH of a scale.
    pub async fn patch_scale(&self, call: &Call, target: Target<'_>, patch: &Patch) -> ApiResult<Found> {
        let parsed = patch.parse()?;
        let change = |old: &Value| {
            let scale = parsed.apply(target, &view(target.kind, old))?;
            rules::check_submitted(target, &scale, old, true)?;
            rescale(target, old, &scale)
        };
        self.scaled(call, target, &change).await
    }

    async fn scaled(
        &self,
        call: &Call,
        target: Target<'_>,
        change: crate::pipeline::update::Change<'_>,
    ) -> ApiResult<Found> {
        let found = self.modify(call, Write { target, part: Part::Other("scale"), by_rules: true }, change).await?;
        Ok(Found { value: view(target.kind, &found.value), revision: found.revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_replicas_and_selector() {
        let object = json!({"metadata": {"name": "d", "labels": {}}, "spec": {"replicas": 3,
            "selector": {"matchLabels": {"b": "2", "a": "1"}}}, "status": {"replicas": 2}});
        let kind = balsa_api::kinds::find("apps", "v1", "deployments").unwrap();
        let scale = view(kind, &object);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=1,b=2"}));
    }
}
