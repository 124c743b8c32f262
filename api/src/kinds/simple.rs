//! Kinds whose rules are few.

use serde_json::Value;

use super::definition::{Definition, NAME, PLAIN, column, names};
use super::{pod, show};
use crate::cursor::{At, find, make_object, text};
use crate::validate::{not_negative, unchanged};

static POD_TEMPLATE: Definition = Definition {
    names: names!("", "v1", "PodTemplate", "podtemplates", "podtemplate", [], []),
    generation: true,
    delete_returns_object: true,
    default: |object| pod::defaults::template(make_object(object, "template")),
    validate: |object| {
        let mut findings = Vec::new();
        pod::spec::template(&mut findings, &At::root(object).get("template"));
        findings
    },
    columns: &[NAME, column("Containers"), column("Images"), column("Pod Labels")],
    cells: |object, _| {
        vec![
            show::name(object),
            show::containers(object, "template.spec"),
            show::images(object, "template.spec"),
            show::labels(find(object, "template.metadata.labels")).into(),
        ]
    },
    ..PLAIN
};

static CONTROLLER_REVISION: Definition = Definition {
    names: names!("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision", [], []),
    validate: |object| {
        let mut findings = Vec::new();
        not_negative(&mut findings, &At::root(object).get("revision"));
        findings
    },
    validate_create_only: |object| {
        let data = At::root(object).get("data");
        match data.value {
            Value::Object(_) => Vec::new(),
            Value::Null => vec![data.required("data is mandatory")],
            _ => vec![data.required("data must be a valid JSON object")],
        }
    },
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        unchanged(&mut findings, &At::root(new).get("data"), &At::root(old).get("data"));
        findings
    },
    columns: &[NAME, column("Controller"), column("Revision"), column("Age")],
    cells: |object, now| {
        let owner = crate::owners::controller(object);
        let owner = owner.map_or_else(|| "<none>".to_owned(), |owner| {
            let (group, _) = crate::meta::split_api_version(text(owner, "apiVersion"));
            let kind = text(owner, "kind").to_lowercase();
            let resource = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{resource}/{}", text(owner, "name"))
        });
        vec![show::name(object), owner.into(), show::number(object, "revision").into(), show::age(object, now)]
    },
    ..PLAIN
};

/// All of them.
pub const ALL: &[&Definition] = &[&POD_TEMPLATE, &CONTROLLER_REVISION];
