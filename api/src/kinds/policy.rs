//! Kinds that bound or order what runs: PodDisruptionBudget, PriorityClass, LimitRange, ResourceQuota,
//! HorizontalPodAutoscaler, RuntimeClass.

use serde_json::Value;

use super::definition::{Definition, NAME, PLAIN, column, names, status_of, typed};
use super::{pod, show, workload};
use crate::cursor::{At, find, items_mut, make_object, set_default, set_default_text, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::quantity::Quantity;
use crate::validate::text::{label_problems, qualified_name_problems};
use crate::validate::{each, label_selector, one_of, unchanged};

/// PodDisruptionBudget.
pub static POD_DISRUPTION_BUDGET: Definition = Definition {
    names: names!("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", ["pdb"], []),
    subresources: &[status_of("policy", "v1", "PodDisruptionBudget")],
    generation: true,
    status: true,
    unconditional_update: false,
    validate: |object| {
        let spec = At::root(object).get("spec");
        let mut findings = Vec::new();
        let (min, max) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if min.is_set() && max.is_set() {
            findings.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
        }
        for at in [min, max] {
            if at.is_set() {
                workload::int_or_percent(&mut findings, &at);
            }
        }
        label_selector(&mut findings, &spec.get("selector"));
        let policy = spec.get("unhealthyPodEvictionPolicy");
        if policy.is_set() {
            one_of(&mut findings, &policy, &["AlwaysAllow", "IfHealthyBudget"]);
        }
        findings
    },
    columns: &[
        NAME,
        column("Min Available"),
        column("Max Unavailable"),
        typed("Allowed Disruptions", "integer"),
        column("Age"),
    ],
    cells: |object, now| {
        let shown = |path: &str| match find(object, path) {
            Value::Null => Value::from("N/A"),
            value => show::int_or_string(value).into(),
        };
        vec![
            show::name(object),
            shown("spec.minAvailable"),
            shown("spec.maxUnavailable"),
            show::number(object, "status.disruptionsAllowed").into(),
            show::age(object, now),
        ]
    },
    ..PLAIN
};

/// PriorityClass.
pub static PRIORITY_CLASS: Definition = Definition {
    names: names!("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass", ["pc"], []),
    namespaced: false,
    generation: true,
    default: |object| set_default_text(object, "preemptionPolicy", "PreemptLowerPriority"),
    validate: |object| {
        let at = At::root(object);
        let mut findings = Vec::new();
        let (name, value) = (text(object, "metadata.name"), at.get("value").int().unwrap_or(0));
        if name.starts_with("system-") {
            let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
            if !known.contains(&(name, value)) {
                let detail = "priority class names with 'system-' prefix are reserved for system use only. error: \
                              only system priority classes of fixed names and values are known";
                findings.push(FieldError::forbidden("metadata.name", detail));
            }
        } else if value > 1_000_000_000 {
            let detail = "maximum allowed value of a user defined priority is 1000000000";
            findings.push(FieldError::forbidden("value", detail));
        }
        one_of(&mut findings, &at.get("preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
        findings
    },
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        if new.get("value") != old.get("value") {
            findings.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        unchanged(&mut findings, &At::root(new).get("preemptionPolicy"), &At::root(old).get("preemptionPolicy"));
        findings
    },
    columns: &[
        NAME,
        typed("Value", "integer"),
        typed("Global-Default", "boolean"),
        column("Age"),
        column("PreemptionPolicy"),
    ],
    cells: |object, now| {
        vec![
            show::name(object),
            show::number(object, "value").into(),
            (find(object, "globalDefault") == &Value::Bool(true)).into(),
            show::age(object, now),
            text(object, "preemptionPolicy").into(),
        ]
    },
    ..PLAIN
};

/// LimitRange.
pub static LIMIT_RANGE: Definition = Definition {
    names: names!("", "v1", "LimitRange", "limitranges", "limitrange", ["limits"], []),
    create_on_update: true,
    default: |object| {
        let spec = make_object(object, "spec");
        for item in items_mut(spec, "limits") {
            if text(item, "type") != "Container" {
                continue;
            }
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                if let Some(Value::Object(values)) = item.get(from).cloned() {
                    let target = make_object(item, to);
                    for (name, value) in values {
                        set_default(target, &name, value);
                    }
                }
            }
        }
    },
    validate: limit_range,
    ..PLAIN
};

/// ResourceQuota.
pub static RESOURCE_QUOTA: Definition = Definition {
    names: names!("", "v1", "ResourceQuota", "resourcequotas", "resourcequota", ["quota"], []),
    subresources: &[status_of("", "v1", "ResourceQuota")],
    status: true,
    delete_returns_object: true,
    validate: |object| {
        let mut findings = Vec::new();
        let spec = At::root(object).get("spec");
        for (name, value) in spec.get("hard").entries() {
            quota_amount(&mut findings, name, &value);
        }
        let scopes = spec.get("scopes");
        let known = [
            "BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating",
            "VolumeAttributesClass",
        ];
        let named: Vec<&str> = scopes.items().map(|scope| scope.str()).collect();
        if named.iter().any(|scope| !known.contains(scope)) {
            findings.push(scopes.invalid("unsupported scope"));
        }
        for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
            if named.contains(&one) && named.contains(&other) {
                findings.push(scopes.invalid("conflicting scopes"));
            }
        }
        findings
    },
    validate_update: |new, old, part| {
        let mut findings = Vec::new();
        match part {
            Part::Main => {
                let (new, old) = (At::root(new).at("spec.scopes"), At::root(old).at("spec.scopes"));
                unchanged(&mut findings, &new, &old);
            }
            _ => {
                for side in ["hard", "used"] {
                    for (name, value) in At::root(new).get("status").get(side).entries() {
                        quota_amount(&mut findings, name, &value);
                    }
                }
            }
        }
        findings
    },
    columns: &[NAME, column("Request"), column("Limit"), column("Age")],
    cells: |object, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in find(object, "status.hard").as_object().into_iter().flatten() {
            let used = find(object, "status.used").get(name).and_then(Value::as_str).unwrap_or("0");
            let shown = format!("{name}: {used}/{}", hard.as_str().unwrap_or_default());
            if name.starts_with("limits.") { limits.push(shown) } else { requests.push(shown) }
        }
        vec![show::name(object), requests.join(", ").into(), limits.join(", ").into(), show::age(object, now)]
    },
    ..PLAIN
};

/// RuntimeClass.
pub static RUNTIME_CLASS: Definition = Definition {
    names: names!("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "runtimeclass"),
    namespaced: false,
    create_on_update: true,
    unconditional_update: false,
    validate: |object| {
        let at = At::root(object);
        let mut findings = Vec::new();
        let handler = at.get("handler");
        each(&mut findings, &handler, &label_problems(handler.str()));
        pod::spec::tolerations(&mut findings, &at.at("scheduling.tolerations"));
        for (name, value) in at.at("overhead.podFixed").entries() {
            pod::resources::quantity(&mut findings, &value, name);
        }
        findings
    },
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        unchanged(&mut findings, &At::root(new).get("handler"), &At::root(old).get("handler"));
        findings
    },
    columns: &[NAME, column("Handler"), column("Age")],
    cells: |object, now| vec![show::name(object), text(object, "handler").into(), show::age(object, now)],
    ..PLAIN
};

fn quota_amount(findings: &mut Vec<FieldError>, name: &str, value: &At<'_>) {
    for problem in qualified_name_problems(name) {
        findings.push(FieldError::invalid(value.path.clone(), name, &problem));
    }
    let amount = Quantity::lenient(value.str());
    if amount.is_negative() {
        findings.push(value.invalid("must be greater than or equal to 0"));
    }
    let counted = matches!(
        name,
        "pods" | "services" | "replicationcontrollers" | "resourcequotas" | "secrets" | "configmaps"
            | "persistentvolumeclaims" | "services.nodeports" | "services.loadbalancers"
    ) || name.starts_with("count/");
    if counted && amount.nanos() % 1_000_000_000 != 0 {
        findings.push(value.invalid("must be an integer"));
    }
}

fn limit_range(object: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for item in At::root(object).at("spec.limits").items() {
        let kind = item.get("type");
        if seen.contains(&kind.str()) {
            findings.push(kind.duplicate());
        }
        seen.push(kind.str());
        if kind.str() == "Pod" {
            for field in ["default", "defaultRequest"] {
                if item.get(field).len() > 0 {
                    findings.push(item.get(field).forbidden("may not be specified when `type` is 'Pod'"));
                }
            }
        }
        let side = |field: &str, name: &str| item.get(field).value.get(name).and_then(Value::as_str).map(str::to_owned);
        let names: std::collections::BTreeSet<&str> = ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"]
            .iter()
            .filter_map(|field| item.get(field).value.as_object())
            .flat_map(|map| map.keys().map(String::as_str))
            .collect();
        for name in names {
            // (lower side, higher side)
            for (low, high) in [
                ("min", "max"), ("defaultRequest", "max"), ("min", "defaultRequest"), ("default", "max"), ("min", "default"),
                ("defaultRequest", "default"),
            ] {
                let (Some(lower), Some(higher)) = (side(low, name), side(high, name)) else { continue };
                if Quantity::lenient(&lower) > Quantity::lenient(&higher) {
                    // The side that is named in the finding is the one that the other pages of the rule name.
                    let (at, shown) = if low == "min" && high != "max" { (high, &higher) } else { (low, &lower) };
                    let path = format!("{}[{name}]", item.get(at).path);
                    let (what, than, other) = match (low, high) {
                        ("min", "max") => ("min value", "greater than max value", &higher),
                        ("min", _) => ("min value", "greater than", &higher),
                        _ => ("value", "greater than", &higher),
                    };
                    let detail = match (low, high) {
                        ("min", "max") => format!("{what} {lower} is {than} {other}"),
                        ("min", high) => format!("min value {lower} is greater than {} value {higher}", shown_side(high)),
                        (low, high) => {
                            format!("{} value {lower} is greater than {} value {higher}", shown_side(low), shown_side(high))
                        }
                    };
                    findings.push(FieldError::invalid(path, shown.clone(), &detail));
                }
            }
        }
    }
    findings
}

fn shown_side(side: &str) -> &str {
    match side {
        "defaultRequest" => "default request",
        other => other,
    }
}
