//! Between the two versions of HorizontalPodAutoscaler. What v1 has no field for travels in annotations, in the form
//! that Kubernetes' `pkg/apis/autoscaling/v1/conversion.go` gives it, so that nothing is lost on the way and back.

use serde_json::{Map, Value, json};

use crate::cursor::{find, list, make_object, text};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// The member of a metric that a type stands for; empty: no such type.
pub fn member(kind: &str) -> &'static str {
    match kind {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "External" => "external",
        _ => "",
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    text(metric, "type") == "Resource"
        && text(metric, "resource.name") == "cpu"
        && find(metric, "resource.target.averageUtilization").is_i64()
}

/// Members that are there, under their new names.
fn renamed(from: &Value, names: &[(&str, &str)]) -> Map<String, Value> {
    let given = names.iter().filter(|(old, _)| !find(from, old).is_null());
    given.map(|(old, new)| ((*new).to_owned(), find(from, old).clone())).collect()
}

/// One metric of a specification (`part`: `target`) or of a status (`current`) as v1 writes it into an annotation.
fn metric_to_v1(metric: &Value, part: &str) -> Value {
    let kind = text(metric, "type");
    let member = member(kind);
    let source = find(metric, member);
    let prefix = |name: &str| format!("{part}{}{}", name[..1].to_uppercase(), &name[1..]);
    let mut out = Map::new();
    let mut take = |path: &str, name: &str| {
        if !find(source, path).is_null() {
            out.insert(name.to_owned(), find(source, path).clone());
        }
    };
    match member {
        "resource" | "containerResource" => {
            take("name", "name");
            take("container", "container");
            take(&format!("{part}.averageUtilization"), &prefix("averageUtilization"));
            take(&format!("{part}.averageValue"), &prefix("averageValue"));
        }
        "pods" => {
            take("metric.name", "metricName");
            take("metric.selector", "selector");
            take(&format!("{part}.averageValue"), &prefix("averageValue"));
        }
        "object" => {
            take("describedObject", "target");
            take("metric.name", "metricName");
            take("metric.selector", "selector");
            take(&format!("{part}.value"), &prefix("value"));
            take(&format!("{part}.averageValue"), "averageValue");
        }
        _ => {
            take("metric.name", "metricName");
            take("metric.selector", "metricSelector");
            take(&format!("{part}.value"), &prefix("value"));
            take(&format!("{part}.averageValue"), &prefix("averageValue"));
        }
    }
    if member == "object" {
        let value = prefix("value");
        out.entry(value).or_insert_with(|| json!("0"));
    }
    json!({"type": kind, member: out})
}

/// The way back.
fn metric_to_v2(metric: &Value, part: &str) -> Value {
    let kind = text(metric, "type");
    let member = member(kind);
    let source = find(metric, member);
    let prefix = |name: &str| format!("{part}{}{}", name[..1].to_uppercase(), &name[1..]);
    let mut amounts = Map::new();
    let average = if member == "object" { "averageValue".to_owned() } else { prefix("averageValue") };
    for (from, to) in [(prefix("value"), "value"), (average, "averageValue"), (prefix("averageUtilization"), "averageUtilization")] {
        if !find(source, &from).is_null() {
            amounts.insert(to.to_owned(), find(source, &from).clone());
        }
    }
    // v1 cannot leave the value of an object's metric out.
    if member == "object" && amounts.contains_key("averageValue") && amounts.get("value") == Some(&json!("0")) {
        amounts.remove("value");
    }
    if part == "target" {
        let kind = if amounts.contains_key("averageUtilization") {
            "Utilization"
        } else if amounts.contains_key("averageValue") && (member != "external" || !amounts.contains_key("value")) {
            "AverageValue"
        } else {
            "Value"
        };
        amounts.insert("type".to_owned(), kind.into());
    }
    let mut out = match member {
        "resource" | "containerResource" => renamed(source, &[("name", "name"), ("container", "container")]),
        _ => {
            let selector = if member == "external" { "metricSelector" } else { "selector" };
            let metric = renamed(source, &[("metricName", "name"), (selector, "selector")]);
            let mut out = renamed(source, if member == "object" { &[("target", "describedObject")] } else { &[] });
            out.insert("metric".to_owned(), Value::Object(metric));
            out
        }
    };
    out.insert(part.to_owned(), Value::Object(amounts));
    json!({"type": kind, member: out})
}

fn set_type(object: &mut Value, version: &str) {
    object["apiVersion"] = json!(format!("autoscaling/{version}"));
}

fn without_annotations(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            for key in [METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS] {
                annotations.remove(key);
            }
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
}

fn annotate(object: &mut Value, key: &str, value: &Value) {
    make_object(make_object(object, "metadata"), "annotations")[key] = json!(value.to_string());
}

/// Keys with the first letter changed, throughout: annotations hold Go's own names.
fn with_keys(value: &Value, change: fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (first_letter(key, change), with_keys(value, change))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| with_keys(item, change)).collect()),
        other => other.clone(),
    }
}

fn first_letter(key: &str, change: fn(&str) -> String) -> String {
    let end = key.chars().next().map_or(0, char::len_utf8);
    format!("{}{}", change(&key[..end]), &key[end..])
}

/// A v2 object as v1 shows it.
pub fn to_v1(object: &Value) -> Value {
    let mut out = object.clone();
    set_type(&mut out, "v1");
    without_annotations(&mut out);
    let metrics = list(object, "spec.metrics");
    let mut spec = renamed(
        find(object, "spec"),
        &[("scaleTargetRef", "scaleTargetRef"), ("minReplicas", "minReplicas"), ("maxReplicas", "maxReplicas")],
    );
    if let Some(cpu) = metrics.iter().find(|metric| is_cpu_utilization(metric)) {
        spec.insert("targetCPUUtilizationPercentage".to_owned(), find(cpu, "resource.target.averageUtilization").clone());
    }
    out["spec"] = Value::Object(spec);
    let others: Vec<Value> =
        metrics.iter().filter(|metric| !is_cpu_utilization(metric)).map(|metric| metric_to_v1(metric, "target")).collect();
    if !others.is_empty() {
        annotate(&mut out, METRICS, &Value::Array(others));
    }
    let behavior = find(object, "spec.behavior");
    if behavior.is_object() {
        annotate(&mut out, BEHAVIOR, &with_keys(behavior, |letter| letter.to_uppercase()));
    }
    let status = find(object, "status");
    let same = ["observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas"].map(|name| (name, name));
    let mut shown = renamed(status, &same);
    let current = list(status, "currentMetrics");
    let of_cpu = |metric: &&Value| text(metric, "type") == "Resource" && text(metric, "resource.name") == "cpu";
    if let Some(percent) = current.iter().find(of_cpu).map(|metric| find(metric, "resource.current.averageUtilization"))
        && percent.is_i64()
    {
        shown.insert("currentCPUUtilizationPercentage".to_owned(), percent.clone());
    }
    out["status"] = Value::Object(shown);
    if !current.is_empty() {
        let current = current.iter().map(|metric| metric_to_v1(metric, "current")).collect();
        annotate(&mut out, CURRENT_METRICS, &Value::Array(current));
    }
    if !list(status, "conditions").is_empty() {
        annotate(&mut out, CONDITIONS, find(status, "conditions"));
    }
    out
}

/// A v1 object as it is stored: v2.
pub fn to_v2(object: &Value) -> Value {
    let mut out = object.clone();
    set_type(&mut out, "v2");
    let annotations = find(object, "metadata.annotations");
    let noted = |key: &str| {
        let text = annotations.get(key).and_then(Value::as_str)?;
        serde_json::from_str::<Value>(text).ok()
    };
    without_annotations(&mut out);
    let mut spec = renamed(
        find(object, "spec"),
        &[("scaleTargetRef", "scaleTargetRef"), ("minReplicas", "minReplicas"), ("maxReplicas", "maxReplicas")],
    );
    let mut metrics: Vec<Value> = match noted(METRICS) {
        Some(Value::Array(others)) => others.iter().map(|metric| metric_to_v2(metric, "target")).collect(),
        _ => Vec::new(),
    };
    let percent = find(object, "spec.targetCPUUtilizationPercentage");
    let percent = if percent.is_null() && metrics.is_empty() { &json!(80) } else { percent };
    if !percent.is_null() {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    spec.insert("metrics".to_owned(), Value::Array(metrics));
    if let Some(behavior) = noted(BEHAVIOR).filter(Value::is_object) {
        spec.insert("behavior".to_owned(), with_keys(&behavior, |letter| letter.to_lowercase()));
    }
    out["spec"] = Value::Object(spec);
    let status = find(object, "status");
    let same = ["observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas"].map(|name| (name, name));
    let mut shown = renamed(status, &same);
    let percent = find(status, "currentCPUUtilizationPercentage");
    if let Some(Value::Array(current)) = noted(CURRENT_METRICS) {
        let current = current.iter().map(|metric| metric_to_v2(metric, "current")).collect();
        shown.insert("currentMetrics".to_owned(), Value::Array(current));
    } else if percent.is_i64() {
        let current = json!({"averageUtilization": percent});
        shown.insert("currentMetrics".to_owned(), json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]));
    }
    if let Some(conditions) = noted(CONDITIONS).filter(Value::is_array) {
        shown.insert("conditions".to_owned(), conditions);
    }
    out["status"] = Value::Object(shown);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_and_back() {
        let metrics = json!([
            {"type": "Object", "object": {"describedObject": {"kind": "S", "name": "s"}, "metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "3"}}},
            {"type": "External", "external": {"metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "Value", "value": "9"}}},
            {"type": "Pods", "pods": {"metric": {"name": "tps"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
            {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
        let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h", "annotations": {"own": "x"}},
            "spec": {"scaleTargetRef": {"kind": "D", "name": "d"}, "minReplicas": 1, "maxReplicas": 3, "metrics": metrics,
                "behavior": {"scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}}},
            "status": {"currentReplicas": 1, "desiredReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "70m"}}}]}});
        let v1 = to_v1(&object);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 7);
        assert!(text(&v1["metadata"]["annotations"], "own") == "x" && v1["metadata"]["annotations"].as_object().unwrap().len() == 5);
        assert!(v1["metadata"]["annotations"][BEHAVIOR].as_str().unwrap().contains("\"PeriodSeconds\":15"));
        assert_eq!(to_v2(&v1), object);
    }

    #[test]
    fn a_target_that_is_left_out_is_eighty_percent() {
        let v2 = to_v2(&json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 1}}));
        assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(to_v1(&v2)["spec"]["targetCPUUtilizationPercentage"], 80);
    }
}
