//! Controllers that keep pods of a template: Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, SCALE, column, names, status_of, typed, wide};
use super::{pod, show};
use crate::cursor::{At, find, make_object, set_default, set_default_text, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::validate::text::percent_problems;
use crate::validate::{label_selector, labels, not_negative, unchanged};

type Findings = Vec<FieldError>;

/// Deployment.
pub static DEPLOYMENT: Definition = Definition {
    names: names!("apps", "v1", "Deployment", "deployments", "deployment", ["deploy"], ["all"]),
    subresources: &[SCALE, status_of("apps", "v1", "Deployment")],
    generation: true,
    status: true,
    default: |object| {
        let spec = make_object(object, "spec");
        set_default(spec, "replicas", 1);
        let strategy = make_object(spec, "strategy");
        set_default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            let rolling = make_object(strategy, "rollingUpdate");
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        pod::defaults::template(make_object(spec, "template"));
    },
    prepare_update: |new, old, part| {
        // A rollout's annotations are part of what the controller has to look at.
        let changed = find(new, "metadata.annotations") != find(old, "metadata.annotations");
        if part == Part::Main && changed {
            new["metadata"]["generation"] = (show::number(old, "metadata.generation") + 1).into();
        }
    },
    validate: deployment,
    validate_update: selector_fixed,
    warnings: template_warnings,
    columns: &[
        NAME,
        column("Ready"),
        column("Up-to-date"),
        column("Available"),
        column("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let ready = format!("{}/{}", show::number(object, "status.readyReplicas"), show::number(object, "spec.replicas"));
        let mut cells = vec![
            show::name(object),
            ready.into(),
            show::number(object, "status.updatedReplicas").into(),
            show::number(object, "status.availableReplicas").into(),
            show::age(object, now),
        ];
        cells.extend(wide_cells(object));
        cells
    },
    ..PLAIN
};

/// ReplicaSet.
pub static REPLICA_SET: Definition = Definition {
    names: names!("apps", "v1", "ReplicaSet", "replicasets", "replicaset", ["rs"], ["all"]),
    subresources: &[SCALE, status_of("apps", "v1", "ReplicaSet")],
    generation: true,
    status: true,
    default: |object| {
        let spec = make_object(object, "spec");
        set_default(spec, "replicas", 1);
        pod::defaults::template(make_object(spec, "template"));
    },
    validate: |object| {
        let spec = At::root(object).get("spec");
        let mut findings = Vec::new();
        not_negative(&mut findings, &spec.get("replicas"));
        not_negative(&mut findings, &spec.get("minReadySeconds"));
        selector(&mut findings, &spec, "deployment");
        template(&mut findings, &spec, "ReplicaSet");
        findings
    },
    validate_update: selector_fixed,
    warnings: template_warnings,
    columns: &[
        NAME,
        typed("Desired", "integer"),
        typed("Current", "integer"),
        typed("Ready", "integer"),
        column("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: replica_cells,
    fields: &["status.replicas"],
    selectable: |object, field| show::number(object, field).to_string(),
    ..PLAIN
};

/// ReplicationController.
pub static REPLICATION_CONTROLLER: Definition = Definition {
    names: names!(
        "", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller", ["rc"], ["all"]
    ),
    subresources: &[SCALE, status_of("", "v1", "ReplicationController")],
    generation: true,
    status: true,
    default: |object| {
        let template_labels = find(object, "spec.template.metadata.labels").clone();
        let spec = make_object(object, "spec");
        if template_labels.as_object().is_some_and(|map| !map.is_empty()) {
            if spec.get("selector").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
                spec["selector"] = template_labels.clone();
            }
            let meta = make_object(object, "metadata");
            if meta.get("labels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
                meta["labels"] = template_labels;
            }
        }
        let spec = make_object(object, "spec");
        set_default(spec, "replicas", 1);
        pod::defaults::template(make_object(spec, "template"));
    },
    validate: replication_controller,
    warnings: template_warnings,
    columns: REPLICA_SET.columns,
    cells: |object, now| {
        let mut cells = replica_cells(object, now);
        if let Some(last) = cells.last_mut() {
            *last = show::labels(find(object, "spec.selector")).into();
        }
        cells
    },
    fields: &["status.replicas"],
    selectable: |object, field| show::number(object, field).to_string(),
    ..PLAIN
};

/// StatefulSet.
pub static STATEFUL_SET: Definition = Definition {
    names: names!("apps", "v1", "StatefulSet", "statefulsets", "statefulset", ["sts"], ["all"]),
    subresources: &[SCALE, status_of("apps", "v1", "StatefulSet")],
    generation: true,
    status: true,
    default: |object| {
        let spec = make_object(object, "spec");
        set_default_text(spec, "podManagementPolicy", "OrderedReady");
        let strategy = make_object(spec, "updateStrategy");
        set_default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            set_default(make_object(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = make_object(spec, "persistentVolumeClaimRetentionPolicy");
        set_default_text(retention, "whenDeleted", "Retain");
        set_default_text(retention, "whenScaled", "Retain");
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        for claim in crate::cursor::items_mut(spec, "volumeClaimTemplates") {
            super::storage::claim_defaults(claim);
        }
        pod::defaults::template(make_object(spec, "template"));
    },
    validate: stateful_set,
    validate_update: stateful_set_update,
    warnings: template_warnings,
    columns: &[NAME, column("Ready"), column("Age"), wide("Containers"), wide("Images")],
    cells: |object, now| {
        let ready = format!("{}/{}", show::number(object, "status.readyReplicas"), show::number(object, "spec.replicas"));
        let spec = "spec.template.spec";
        vec![
            show::name(object),
            ready.into(),
            show::age(object, now),
            show::containers(object, spec),
            show::images(object, spec),
        ]
    },
    ..PLAIN
};

/// Annotation of a DaemonSet: how many templates it has had.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// DaemonSet.
pub static DAEMON_SET: Definition = Definition {
    names: names!("apps", "v1", "DaemonSet", "daemonsets", "daemonset", ["ds"], ["all"]),
    subresources: &[status_of("apps", "v1", "DaemonSet")],
    generation: true,
    status: true,
    default: |object| {
        let spec = make_object(object, "spec");
        let strategy = make_object(spec, "updateStrategy");
        set_default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            let rolling = make_object(strategy, "rollingUpdate");
            set_default(rolling, "maxUnavailable", 1);
            set_default(rolling, "maxSurge", 0);
        }
        set_default(spec, "revisionHistoryLimit", 10);
        pod::defaults::template(make_object(spec, "template"));
    },
    prepare_create: |object| {
        make_object(make_object(object, "metadata"), "annotations")[TEMPLATE_GENERATION] = "1".into();
    },
    prepare_update: |new, old, part| {
        if part == Part::Main {
            let changed = find(new, "spec.template") != find(old, "spec.template");
            let before = old.get("metadata").and_then(|meta| meta.get("annotations")?.get(TEMPLATE_GENERATION)?.as_str()?.parse::<i64>().ok());
            let number = before.unwrap_or(0).saturating_add(i64::from(changed));
            make_object(make_object(new, "metadata"), "annotations")[TEMPLATE_GENERATION] = number.to_string().into();
        }
    },
    validate: |object| {
        let spec = At::root(object).get("spec");
        let mut findings = Vec::new();
        selector(&mut findings, &spec, "daemonset");
        template(&mut findings, &spec, "DaemonSet");
        not_negative(&mut findings, &spec.get("minReadySeconds"));
        strategy(&mut findings, &spec.get("updateStrategy"), &["RollingUpdate", "OnDelete"]);
        not_negative(&mut findings, &spec.get("revisionHistoryLimit"));
        findings
    },
    validate_update: selector_fixed,
    warnings: template_warnings,
    columns: &[
        NAME,
        typed("Desired", "integer"),
        typed("Current", "integer"),
        typed("Ready", "integer"),
        typed("Up-to-date", "integer"),
        typed("Available", "integer"),
        column("Node Selector"),
        column("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let number = |name: &str| Value::from(show::number(object, &format!("status.{name}")));
        let mut cells = vec![
            show::name(object),
            number("desiredNumberScheduled"),
            number("currentNumberScheduled"),
            number("numberReady"),
            number("updatedNumberScheduled"),
            number("numberAvailable"),
            show::labels(find(object, "spec.template.spec.nodeSelector")).into(),
            show::age(object, now),
        ];
        cells.extend(wide_cells(object));
        cells
    },
    ..PLAIN
};

fn wide_cells(object: &Value) -> [Value; 3] {
    let spec = "spec.template.spec";
    [
        show::containers(object, spec),
        show::images(object, spec),
        show::selector(find(object, "spec.selector")).into(),
    ]
}

fn replica_cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        show::name(object),
        show::number(object, "spec.replicas").into(),
        show::number(object, "status.replicas").into(),
        show::number(object, "status.readyReplicas").into(),
        show::age(object, now),
    ];
    cells.extend(wide_cells(object));
    cells
}

fn template_warnings(object: &Value) -> Vec<String> {
    pod::spec_warnings(&At::new("spec.template.spec", find(object, "spec.template.spec")))
}

/// The selector is there, well-formed and selects something.
fn selector(findings: &mut Findings, spec: &At<'_>, what: &str) {
    let at = spec.get("selector");
    if !at.is_set() {
        findings.push(at.required(""));
        return;
    }
    label_selector(findings, &at);
    if at.get("matchLabels").len() + at.get("matchExpressions").len() == 0 {
        findings.push(at.invalid(&format!("empty selector is invalid for {what}")));
    }
}

/// The template is a pod that runs for ever and that the selector finds.
fn template(findings: &mut Findings, spec: &At<'_>, what: &str) {
    let template = spec.get("template");
    let own_labels = template.at("metadata.labels");
    let selector = spec.get("selector");
    if selector.is_set() && !pod::spec::selects(selector.value, own_labels.value) {
        let shown = if own_labels.is_set() { own_labels.value.clone() } else { Value::Null };
        let detail = "`selector` does not match template `labels`";
        findings.push(FieldError::invalid(own_labels.path.clone(), shown, detail));
    }
    pod::spec::template(findings, &template);
    runs_for_ever(findings, &template, what);
}

fn runs_for_ever(findings: &mut Findings, template: &At<'_>, what: &str) {
    let policy = template.at("spec.restartPolicy");
    if policy.str() != "Always" {
        findings.push(policy.not_supported(&["Always"]));
    }
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        findings.push(deadline.forbidden(&format!("activeDeadlineSeconds in {what} is not Supported")));
    }
}

/// A number of pods, or a share of them.
pub fn int_or_percent(findings: &mut Findings, at: &At<'_>) {
    match at.value {
        Value::String(_) => {
            let problems = percent_problems(at.str());
            crate::validate::each(findings, at, &problems);
            if problems.is_empty() && percent(at.value).is_some_and(|percent| percent > 100) && !at.path.ends_with("maxSurge") {
                findings.push(at.invalid("must not be greater than 100%"));
            }
        }
        _ => not_negative(findings, at),
    }
}

fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent(value) == Some(0)
}

fn strategy(findings: &mut Findings, at: &At<'_>, known: &[&str]) {
    let r#type = at.get("type");
    let rolling = at.get("rollingUpdate");
    if !known.contains(&r#type.str()) {
        findings.push(FieldError::not_supported(at.path.clone(), at.value.clone(), known));
    }
    match r#type.str() {
        "Recreate" if rolling.is_set() => {
            findings.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(findings, &unavailable);
            int_or_percent(findings, &surge);
            let both_zero = is_zero(unavailable.value) && is_zero(surge.value);
            if known.contains(&"OnDelete") {
                if !is_zero(unavailable.value) && !is_zero(surge.value) && surge.is_set() {
                    findings.push(surge.invalid("may not be set when maxUnavailable is non-zero"));
                } else if both_zero {
                    findings.push(unavailable.required("cannot be 0 when maxSurge is 0"));
                }
            } else if both_zero {
                findings.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
            }
        }
        _ => {}
    }
}

fn deployment(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    not_negative(&mut findings, &spec.get("replicas"));
    selector(&mut findings, &spec, "deployment");
    template(&mut findings, &spec, "ReplicaSet");
    strategy(&mut findings, &spec.get("strategy"), &["Recreate", "RollingUpdate"]);
    let ready = spec.get("minReadySeconds");
    not_negative(&mut findings, &ready);
    not_negative(&mut findings, &spec.get("revisionHistoryLimit"));
    let deadline = spec.get("progressDeadlineSeconds");
    not_negative(&mut findings, &deadline);
    if deadline.int().is_some_and(|seconds| seconds <= ready.int().unwrap_or(0)) {
        findings.push(deadline.invalid("must be greater than minReadySeconds"));
    }
    findings
}

fn replication_controller(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    not_negative(&mut findings, &spec.get("minReadySeconds"));
    let selector = spec.get("selector");
    labels(&mut findings, &selector);
    if selector.len() == 0 {
        findings.push(selector.required(""));
    }
    not_negative(&mut findings, &spec.get("replicas"));
    let template = spec.get("template");
    let own = template.at("metadata.labels");
    if !selector.entries().all(|(key, value)| own.value.get(key) == Some(value.value)) {
        findings.push(own.invalid("`selector` does not match template `labels`"));
    }
    pod::spec::template(&mut findings, &template);
    runs_for_ever(&mut findings, &template, "ReplicationController");
    findings
}

fn stateful_set(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    let policy = spec.get("podManagementPolicy");
    if !matches!(policy.str(), "OrderedReady" | "Parallel") {
        findings.push(policy.invalid("must be 'OrderedReady' or 'Parallel'"));
    }
    let strategy = spec.get("updateStrategy");
    match strategy.get("type").str() {
        "OnDelete" => {
            if strategy.get("rollingUpdate").is_set() {
                findings.push(strategy.get("rollingUpdate").invalid("only allowed for updateStrategy 'RollingUpdate'"));
            }
        }
        "RollingUpdate" => {
            not_negative(&mut findings, &strategy.at("rollingUpdate.partition"));
            let unavailable = strategy.at("rollingUpdate.maxUnavailable");
            if unavailable.is_set() {
                int_or_percent(&mut findings, &unavailable);
                if is_zero(unavailable.value) {
                    findings.push(unavailable.invalid("cannot be 0"));
                }
            }
        }
        _ => findings.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
    }
    for field in ["whenDeleted", "whenScaled"] {
        let at = spec.get("persistentVolumeClaimRetentionPolicy").get(field);
        crate::validate::one_of(&mut findings, &at, &["Retain", "Delete"]);
    }
    not_negative(&mut findings, &spec.get("replicas"));
    not_negative(&mut findings, &spec.get("minReadySeconds"));
    not_negative(&mut findings, &spec.at("ordinals.start"));
    selector(&mut findings, &spec, "statefulset");
    template(&mut findings, &spec, "StatefulSet");
    findings
}

const STATEFUL_SET_UPDATE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                                   'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                                   'minReadySeconds' are forbidden";

fn stateful_set_update(new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError> {
    if part != Part::Main {
        return Vec::new();
    }
    let free = [
        "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
    ];
    let fixed = |object: &Value| {
        let mut spec = find(object, "spec").clone();
        if let Value::Object(map) = &mut spec {
            map.retain(|key, _| !free.contains(&key.as_str()));
        }
        spec
    };
    if fixed(new) == fixed(old) { Vec::new() } else { vec![FieldError::forbidden("spec", STATEFUL_SET_UPDATE)] }
}

fn selector_fixed(new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError> {
    let mut findings = Vec::new();
    if part == Part::Main {
        unchanged(&mut findings, &At::root(new).at("spec.selector"), &At::root(old).at("spec.selector"));
    } else if part == Part::Status {
        let (count, before) = (show::number(new, "status.collisionCount"), show::number(old, "status.collisionCount"));
        if count < before {
            findings.push(FieldError::invalid("status.collisionCount", json!(count), "cannot be decremented"));
        }
    }
    findings
}
