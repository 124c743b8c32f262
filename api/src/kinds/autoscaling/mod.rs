//! HorizontalPodAutoscaler, in its two versions: v2 is stored, v1 is another face of it ([`convert`]).

pub mod convert;
mod rules;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, status_of};
use super::show;
use crate::cursor::{At, find, list, make_object, object_mut, set_default, text};
use crate::kind::{Column, Part};
use crate::validate::not_negative;

/// HorizontalPodAutoscaler, v2.
pub static HORIZONTAL_POD_AUTOSCALER: Definition = Definition {
    names: names!(
        "autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler", ["hpa"],
        ["all"]
    ),
    subresources: &[status_of("autoscaling", "v2", "HorizontalPodAutoscaler")],
    status: true,
    default: defaults,
    validate: rules::validate,
    validate_update: |new, _, part| if part == Part::Status { counts(new) } else { Vec::new() },
    columns: COLUMNS,
    cells,
    ..PLAIN
};

/// HorizontalPodAutoscaler, v1.
pub static HORIZONTAL_POD_AUTOSCALER_V1: Definition = Definition {
    names: names!(
        "autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler", ["hpa"],
        ["all"]
    ),
    subresources: &[status_of("autoscaling", "v1", "HorizontalPodAutoscaler")],
    status: true,
    default: |object| set_default(make_object(object, "spec"), "minReplicas", 1),
    validate: |object| rules::validate(&convert::to_v2(object)),
    validate_update: |new, _, part| if part == Part::Status { counts(new) } else { Vec::new() },
    columns: COLUMNS,
    cells: |object, now| cells(&convert::to_v2(object), now),
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Reference"),
    column("Targets"),
    column("MinPods"),
    column("MaxPods"),
    column("Replicas"),
    column("Age"),
];

fn counts(object: &Value) -> Vec<crate::field::FieldError> {
    let mut findings = Vec::new();
    for field in ["currentReplicas", "desiredReplicas"] {
        not_negative(&mut findings, &At::root(object).get("status").get(field));
    }
    findings
}

fn defaults(object: &mut Value) {
    let spec = make_object(object, "spec");
    set_default(spec, "minReplicas", 1);
    if list(spec, "metrics").is_empty() {
        let target = json!({ "type": "Utilization", "averageUtilization": 80 });
        spec["metrics"] = json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]);
    }
    let Some(behavior) = object_mut(spec, "behavior") else { return };
    let policy = |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 15});
    let up = make_object(behavior, "scaleUp");
    set_default(up, "stabilizationWindowSeconds", 0);
    set_default(up, "selectPolicy", "Max");
    set_default(up, "policies", json!([policy("Pods", 4), policy("Percent", 100)]));
    let down = make_object(behavior, "scaleDown");
    set_default(down, "selectPolicy", "Max");
    set_default(down, "policies", json!([policy("Percent", 100)]));
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference = format!("{}/{}", text(object, "spec.scaleTargetRef.kind"), text(object, "spec.scaleTargetRef.name"));
    let least = find(object, "spec.minReplicas").as_i64().map_or_else(|| "<unset>".to_owned(), |least| least.to_string());
    vec![
        show::name(object),
        reference.into(),
        targets(object).into(),
        least.into(),
        show::number(object, "spec.maxReplicas").into(),
        show::number(object, "status.currentReplicas").into(),
        show::age(object, now),
    ]
}

/// `cpu: 12%/80%, 3/7 (avg)`; the first two, and how many more.
fn targets(object: &Value) -> String {
    let (specs, statuses) = (list(object, "spec.metrics"), list(object, "status.currentMetrics"));
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> =
        specs.iter().enumerate().map(|(at, spec)| target(spec, statuses.get(at).unwrap_or(&Value::Null))).collect();
    let first = shown.iter().take(2).cloned().collect::<Vec<_>>().join(", ");
    if shown.len() > 2 { format!("{first} + {} more...", shown.len() - 2) } else { first }
}

fn target(spec: &Value, status: &Value) -> String {
    let member = convert::member(text(spec, "type"));
    let (source, current) = (find(spec, member), find(find(status, member), "current"));
    let or_unknown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        _ => "<unknown>".to_owned(),
    };
    let average = find(source, "target.averageValue");
    match member {
        "resource" | "containerResource" => {
            let name = text(source, "name");
            if let Some(wanted) = average.as_str() {
                return format!("{name}: {}/{wanted}", or_unknown(find(current, "averageValue")));
            }
            let percent = |value: &Value| value.as_i64().map(|percent| format!("{percent}%"));
            let used = percent(find(current, "averageUtilization")).unwrap_or_else(|| "<unknown>".to_owned());
            let wanted = percent(find(source, "target.averageUtilization")).unwrap_or_else(|| "<auto>".to_owned());
            format!("{name}: {used}/{wanted}")
        }
        "pods" => format!("{}/{}", or_unknown(find(current, "averageValue")), or_unknown(average)),
        "" => "<unknown type>".to_owned(),
        _ => match average.as_str() {
            Some(wanted) => format!("{}/{wanted} (avg)", or_unknown(find(current, "averageValue"))),
            None => format!("{}/{}", or_unknown(find(current, "value")), text(source, "target.value")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind as _;

    fn created(kind: &Definition, spec: Value) -> (Value, Vec<String>) {
        let mut object = json!({"metadata": {"name": "h", "namespace": "n"}, "spec": spec});
        kind.check(&mut object).unwrap();
        kind.default(&mut object);
        kind.prepare_create(&mut object);
        let findings = kind.validate_create(&object).iter().map(ToString::to_string).collect();
        (object, findings)
    }

    fn reference() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"})
    }

    #[test]
    fn rules() {
        let (object, findings) = created(&HORIZONTAL_POD_AUTOSCALER, json!({"maxReplicas": 3, "scaleTargetRef": reference(), "behavior": {}}));
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(object["spec"]["behavior"]["scaleUp"]["policies"].as_array().unwrap().len(), 2);
        let metric = json!({"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0}}});
        let (_, findings) = created(&HORIZONTAL_POD_AUTOSCALER, json!({"minReplicas": 4, "maxReplicas": 3, "scaleTargetRef": {"kind": "D", "name": "a/b"}, "metrics": [metric]}));
        assert_eq!(
            findings,
            [
                "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
                "spec.metrics[0].resource: Forbidden: must populate the given metric source only",
            ]
        );
        let (_, findings) = created(&HORIZONTAL_POD_AUTOSCALER_V1, json!({"scaleTargetRef": reference()}));
        assert_eq!(findings, ["spec.maxReplicas: Required value: must be set and greater than 0"]);
    }

    #[test]
    fn targets_as_people_see_them() {
        let spec = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}},
            {"type": "Object", "object": {"target": {"value": "7"}}}, {"type": "Pods", "pods": {"target": {"averageValue": "1"}}}]);
        let status = json!([{"resource": {"current": {"averageUtilization": 12}}}, {"object": {"current": {"value": "3"}}}]);
        let object = json!({"spec": {"metrics": spec}, "status": {"currentMetrics": status}});
        assert_eq!(targets(&object), "cpu: 12%/80%, 3/7 + 1 more...");
    }
}
