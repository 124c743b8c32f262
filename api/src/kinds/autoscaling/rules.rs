//! What may be wrong with a HorizontalPodAutoscaler. Rules and words as in Kubernetes' `pkg/apis/autoscaling/validation`.

use serde_json::Value;

use super::convert::member;
use crate::cursor::At;
use crate::field::FieldError;
use crate::quantity::Quantity;
use crate::validate::text::path_segment_problems;
use crate::validate::{each, needed, one_of};

type Findings = Vec<FieldError>;

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const MEMBERS: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];
const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;

/// The object (v2) without its metadata.
pub fn validate(object: &Value) -> Findings {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if least.int().is_some_and(|least| least < 1) {
        findings.push(least.invalid("must be greater than or equal to 1"));
    }
    match most.int().unwrap_or(0) {
        0 => findings.push(most.required("must be set and greater than 0")),
        number if number < 0 => findings.push(most.invalid("must be greater than or equal to 1")),
        number if least.int().is_some_and(|least| number < least) => {
            findings.push(most.invalid("must be greater than or equal to `minReplicas`"));
        }
        _ => {}
    }
    reference(&mut findings, &spec.get("scaleTargetRef"));
    spec.get("metrics").items().for_each(|one| metric(&mut findings, &one));
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.get("behavior").get(direction);
        if rules.is_set() {
            scaling(&mut findings, &rules);
        }
    }
    findings
}

fn reference(findings: &mut Findings, at: &At<'_>) {
    for field in ["kind", "name"] {
        let member = at.get(field);
        if needed(findings, &member) {
            each(findings, &member, &path_segment_problems(member.str()));
        }
    }
    let version = at.get("apiVersion");
    if version.str().matches('/').count() > 1 {
        findings.push(version.invalid(&format!("unexpected GroupVersion string: {}", version.str())));
    }
}

fn metric(findings: &mut Findings, at: &At<'_>) {
    let kind = at.get("type");
    if kind.is_empty() {
        findings.push(kind.required("must specify a metric source type"));
    }
    if !TYPES.contains(&kind.str()) {
        findings.push(kind.not_supported(TYPES));
    }
    let present: Vec<&str> = MEMBERS.into_iter().filter(|member| at.get(member).is_set()).collect();
    if let Some(first) = present.first() {
        source(findings, &at.get(first), first);
    }
    let expected = member(kind.str());
    if !expected.is_empty() && !at.get(expected).is_set() {
        findings.push(at.get(expected).required("must populate information for the given metric source"));
    }
    if present.len() != 1 || present.first() != Some(&expected) {
        for other in present.iter().filter(|other| **other != expected) {
            findings.push(at.get(other).forbidden("must populate the given metric source only"));
        }
    }
}

fn source(findings: &mut Findings, at: &At<'_>, member: &str) {
    match member {
        "object" => {
            reference(findings, &at.get("describedObject"));
            identifier(findings, &at.get("metric"));
        }
        "external" | "pods" => identifier(findings, &at.get("metric")),
        _ => {
            if at.get("name").is_empty() {
                findings.push(at.get("name").required("must specify a resource name"));
            }
            if member == "containerResource" && at.get("container").is_empty() {
                findings.push(at.get("container").required("must specify a container"));
            }
        }
    }
    let target = at.get("target");
    amounts(findings, &target);
    let [value, average, utilization] = ["value", "averageValue", "averageUtilization"].map(|field| target.get(field));
    let neither = |one: &At<'_>, other: &At<'_>| !one.is_set() && !other.is_set();
    match member {
        "object" if neither(&value, &average) => {
            findings.push(average.required("must set either a target value or averageValue"));
        }
        "external" if neither(&value, &average) => {
            findings.push(average.required("must set either a target value for metric or a per-pod target"));
        }
        "external" if value.is_set() && average.is_set() => {
            findings.push(value.forbidden("may not set both a target value for metric and a per-pod target"));
        }
        "pods" if !average.is_set() => findings.push(average.required("must specify a positive target averageValue")),
        "resource" | "containerResource" if neither(&utilization, &average) => {
            findings.push(utilization.required("must set either a target raw value or a target utilization"));
        }
        "resource" | "containerResource" if utilization.is_set() && average.is_set() => {
            findings.push(average.forbidden("may not set both a target raw value and a target utilization"));
        }
        _ => {}
    }
}

fn identifier(findings: &mut Findings, at: &At<'_>) {
    let name = at.get("name");
    if name.is_empty() {
        findings.push(name.required("must specify a metric name"));
    } else {
        each(findings, &name, &path_segment_problems(name.str()));
    }
}

fn amounts(findings: &mut Findings, target: &At<'_>) {
    let kind = target.get("type");
    if kind.is_empty() {
        findings.push(kind.required("must specify a metric target type"));
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        findings.push(kind.invalid("must be either Utilization, Value, or AverageValue"));
    }
    for field in ["value", "averageValue"] {
        let at = target.get(field);
        let amount = Quantity::lenient(at.str());
        if at.is_set() && (amount.is_zero() || amount.is_negative()) {
            findings.push(at.invalid("must be positive"));
        }
    }
    let utilization = target.get("averageUtilization");
    if utilization.int().is_some_and(|percent| percent < 1) {
        findings.push(utilization.invalid("must be greater than 0"));
    }
}

fn scaling(findings: &mut Findings, at: &At<'_>) {
    let window = at.get("stabilizationWindowSeconds");
    match window.int() {
        Some(seconds) if seconds < 0 => findings.push(window.invalid("must be greater than or equal to zero")),
        Some(seconds) if seconds > MAX_WINDOW => {
            findings.push(window.invalid(&format!("must be less than or equal to {MAX_WINDOW}")));
        }
        _ => {}
    }
    if at.get("selectPolicy").is_set() {
        one_of(findings, &at.get("selectPolicy"), &["Disabled", "Max", "Min"]);
    }
    let policies = at.get("policies");
    if policies.len() == 0 {
        findings.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        one_of(findings, &policy.get("type"), &["Percent", "Pods"]);
        for field in ["value", "periodSeconds"] {
            let number = policy.get(field);
            if number.int().unwrap_or(0) <= 0 {
                findings.push(number.invalid("must be greater than zero"));
            }
        }
        let period = policy.get("periodSeconds");
        if period.int().is_some_and(|seconds| seconds > MAX_PERIOD) {
            findings.push(period.invalid(&format!("must be less than or equal to {MAX_PERIOD}")));
        }
    }
    let tolerance = at.get("tolerance");
    if Quantity::lenient(tolerance.str()).is_negative() {
        findings.push(tolerance.invalid(crate::validate::NOT_NEGATIVE));
    }
}
