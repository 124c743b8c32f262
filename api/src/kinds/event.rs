//! Events: one store with two faces, `v1` (which is stored) and `events.k8s.io/v1`.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, wide};
use crate::cursor::{At, find, text};
use crate::duration::since_text;
use crate::field::FieldError;
use crate::kind::{Column, Part};
use crate::validate::text::{qualified_name_problems, subdomain_problems};
use crate::validate::{each, unchanged};

const COLUMNS: &[Column] = &[
    column("Last Seen"),
    column("Type"),
    column("Reason"),
    column("Object"),
    wide("Subobject"),
    wide("Source"),
    column("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { priority: 1, ..NAME },
];

/// `v1`: as it is stored.
pub static EVENT: Definition = Definition {
    names: names!("", "v1", "Event", "events", "event", ["ev"], []),
    create_on_update: true,
    validate: legacy,
    columns: COLUMNS,
    cells,
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    selectable: |event, field| match field {
        "source" => source(event).to_owned(),
        _ => text(event, field).to_owned(),
    },
    ..PLAIN
};

/// `events.k8s.io/v1`: the same objects in newer words.
pub static NEW_EVENT: Definition = Definition {
    names: names!("events.k8s.io", "v1", "Event", "events", "event", ["ev"], []),
    create_on_update: true,
    validate: |event| legacy_of(&to_core(event), true),
    validate_create_only: strict,
    validate_update: new_update,
    columns: COLUMNS,
    cells: |event, now| cells(&to_core(event), now),
    fields: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    ..PLAIN
};

/// (name in `v1`, name in `events.k8s.io/v1`) of what is called differently.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn renamed(event: &Value, forward: bool, api_version: &str) -> Value {
    let mut out = event.clone();
    if let Value::Object(map) = &mut out {
        for (core, new) in RENAMED {
            let (from, to) = if forward { (core, new) } else { (new, core) };
            if let Some(value) = map.remove(from) {
                map.insert(to.to_owned(), value);
            }
        }
        map.insert("apiVersion".to_owned(), api_version.into());
        // These two are not optional on the old face.
        if !forward {
            map.entry("involvedObject").or_insert_with(|| json!({}));
            map.entry("reportingComponent").or_insert_with(|| "".into());
            map.entry("reportingInstance").or_insert_with(|| "".into());
        }
    }
    out
}

/// From the newer face to the stored one.
pub fn to_core(event: &Value) -> Value {
    renamed(event, false, "v1")
}

/// From the stored face to the newer one.
pub fn from_core(event: &Value) -> Value {
    renamed(event, true, "events.k8s.io/v1")
}

fn source(event: &Value) -> &str {
    match text(event, "source.component") {
        "" => text(event, "reportingComponent"),
        component => component,
    }
}

fn legacy(event: &Value) -> Vec<FieldError> {
    legacy_of(event, false)
}

/// What any event must fulfil. `new`: written through the newer face.
fn legacy_of(event: &Value, new: bool) -> Vec<FieldError> {
    let at = At::root(event);
    let mut findings = Vec::new();
    let namespace = text(event, "metadata.namespace");
    let about = at.at("involvedObject.namespace");
    // Events about cluster-scoped objects live in `default`; newer ones (those with a time) may be in kube-system too.
    let newer = find(event, "eventTime").is_string();
    let fits = match (about.str(), newer) {
        ("", true) => matches!(namespace, "default" | "kube-system"),
        ("", false) => matches!(namespace, "default" | ""),
        (about, false) => about == namespace,
        (_, true) => true,
    };
    if !fits {
        findings.push(about.invalid("does not match event.namespace"));
    }
    if newer {
        let name = if new { "reportingController" } else { "reportingComponent" };
        let controller = At::new(name, at.get("reportingComponent").value);
        if controller.is_empty() {
            findings.push(controller.required(""));
        }
        each(&mut findings, &controller, &qualified_name_problems(controller.str()));
        for (field, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
            let value = at.get(field);
            if value.is_empty() && field != "message" {
                findings.push(value.required(""));
            }
            if value.str().len() > max {
                findings.push(FieldError::invalid(field, "", &format!("can have at most {max} characters")));
            }
        }
    }
    for problem in subdomain_problems(namespace) {
        findings.push(FieldError::invalid("namespace", namespace, &problem));
    }
    findings
}

fn strict(event: &Value) -> Vec<FieldError> {
    let core = to_core(event);
    let mut findings = Vec::new();
    if !find(&core, "eventTime").is_string() {
        findings.push(FieldError::required("eventTime", ""));
    }
    let r#type = text(&core, "type");
    if !matches!(r#type, "Normal" | "Warning") {
        findings.push(FieldError::invalid("type", "", &format!("has invalid value: {}", r#type)));
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        if find(&core, field).is_string() {
            findings.push(FieldError::invalid(field, "", "needs to be unset"));
        }
    }
    if find(&core, "count").as_i64().unwrap_or(0) != 0 {
        findings.push(FieldError::invalid("count", "", "needs to be unset"));
    }
    if !text(&core, "source.component").is_empty() || !text(&core, "source.host").is_empty() {
        findings.push(FieldError::invalid("source", "", "needs to be unset"));
    }
    findings
}

fn new_update(new: &Value, old: &Value, _part: Part<'_>) -> Vec<FieldError> {
    let (new, old) = (to_core(new), to_core(old));
    let (at, before) = (At::root(&new), At::root(&old));
    let mut findings = Vec::new();
    for field in [
        "involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type", "eventTime",
        "action", "related", "reportingComponent", "reportingInstance",
    ] {
        let shown = if field == "reportingComponent" { "reportingController" } else { field };
        unchanged(&mut findings, &At::new(shown, at.get(field).value), &before.get(field));
    }
    let series = at.get("series");
    if series.value != before.get("series").value && series.is_set() {
        if series.get("count").int().unwrap_or(0) < 2 {
            findings.push(FieldError::invalid("series.count", "", "should be at least 2"));
        }
        if !series.get("lastObservedTime").is_set() {
            findings.push(FieldError::required("series.lastObservedTime", ""));
        }
    }
    findings
}

fn first_text<'a>(event: &'a Value, paths: &[&str]) -> &'a str {
    paths.iter().map(|path| text(event, path)).find(|text| !text.is_empty()).unwrap_or_default()
}

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let first = first_text(event, &["firstTimestamp", "eventTime"]);
    let last = first_text(event, &["series.lastObservedTime", "lastTimestamp", "firstTimestamp", "eventTime"]);
    let count = find(event, "series.count").as_i64().or_else(|| find(event, "count").as_i64()).unwrap_or(0).max(1);
    let kind = text(event, "involvedObject.kind").to_lowercase();
    let about = match text(event, "involvedObject.name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = first_text(event, &["source.component", "reportingComponent"]);
    let host = first_text(event, &["source.host", "reportingInstance"]);
    let from = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        since_text(last, now).into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        about.into(),
        text(event, "involvedObject.fieldPath").into(),
        from.into(),
        text(event, "message").trim().into(),
        since_text(first, now).into(),
        count.into(),
        text(event, "metadata.name").into(),
    ]
}
