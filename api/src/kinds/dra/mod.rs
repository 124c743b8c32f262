//! Devices and who gets them (`resource.k8s.io`): DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice.
//!
//! Rules and words as in Kubernetes' `pkg/apis/resource/validation`. Limits: the expressions of selectors are checked
//! for their length only, not compiled.

mod claim;
mod slice;
mod words;

use serde_json::Value;

use super::definition::{Definition, NAME, PLAIN, column, keep_metadata, names, status_of};
use super::show;
use crate::cursor::{At, find, items_mut, list, make_object, object_mut, set_default, set_default_number, set_default_text, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::validate::{at_most, meta, unchanged};

const GROUP: &str = "resource.k8s.io";

/// DeviceClass: devices that fit a purpose, and how they are set up for it.
pub static DEVICE_CLASS: Definition = Definition {
    names: names!("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", "deviceclass"),
    namespaced: false,
    generation: true,
    delete_returns_object: true,
    validate: |object| {
        let spec = At::root(object).get("spec");
        let mut findings = Vec::new();
        claim::selectors(&mut findings, &spec.get("selectors"));
        let config = spec.get("config");
        if at_most(&mut findings, &config, claim::MAX_CONFIG) {
            config.items().for_each(|one| claim::configuration(&mut findings, &one));
        }
        let name = spec.get("extendedResourceName");
        if name.is_set() && !super::pod::resources::is_extended(name.str()) {
            findings.push(name.invalid("must be a valid extended resource name"));
        }
        findings
    },
    columns: &[NAME, column("Age")],
    cells: |object, now| vec![show::name(object), show::age(object, now)],
    ..PLAIN
};

/// ResourceClaim: the devices that its pods share.
pub static RESOURCE_CLAIM: Definition = Definition {
    names: names!("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", "resourceclaim"),
    subresources: &[status_of(GROUP, "v1", "ResourceClaim")],
    status: true,
    delete_returns_object: true,
    default: |object| {
        if let Some(spec) = object_mut(object, "spec") {
            claim_defaults(spec);
        }
    },
    prepare_update: |new, old, part| {
        if part == Part::Status {
            keep_metadata(new, old);
            claim::drop_given_back(new, old);
        }
    },
    validate_create_only: |object| claim::spec(&At::root(object).get("spec")),
    validate_update: |new, old, part| {
        let mut findings = Vec::new();
        match part {
            Part::Main => unchanged(&mut findings, &At::root(new).get("spec"), &At::root(old).get("spec")),
            _ => findings = claim::status(new, old),
        }
        findings
    },
    columns: &[NAME, column("State"), column("Age")],
    cells: |object, now| vec![show::name(object), state(object).into(), show::age(object, now)],
    ..PLAIN
};

/// ResourceClaimTemplate: a claim for each pod that names it.
pub static RESOURCE_CLAIM_TEMPLATE: Definition = Definition {
    names: names!("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate"),
    delete_returns_object: true,
    default: |object| {
        if let Some(spec) = object_mut(object, "spec").and_then(|spec| object_mut(spec, "spec")) {
            claim_defaults(spec);
        }
    },
    validate_create_only: |object| {
        let spec = At::root(object).get("spec");
        let mut findings = Vec::new();
        crate::validate::labels(&mut findings, &spec.at("metadata.labels"));
        meta::annotations(&mut findings, &spec.at("metadata.annotations"));
        findings.extend(claim::spec(&spec.get("spec")));
        findings
    },
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        unchanged(&mut findings, &At::root(new).get("spec"), &At::root(old).get("spec"));
        findings
    },
    columns: &[NAME, column("Age")],
    cells: |object, now| vec![show::name(object), show::age(object, now)],
    ..PLAIN
};

/// ResourceSlice: what devices of one driver there are, on one node or for several.
pub static RESOURCE_SLICE: Definition = Definition {
    names: names!("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", "resourceslice"),
    namespaced: false,
    generation: true,
    delete_returns_object: true,
    default: |object| {
        for device in items_mut(make_object(object, "spec"), "devices") {
            let mappings = object_mut(device, "nodeAllocatableResourceMappings").and_then(Value::as_object_mut);
            for mapping in mappings.into_iter().flat_map(|mappings| mappings.values_mut()) {
                set_default(mapping, "allocationMultiplier", "1");
            }
        }
    },
    validate: slice::validate,
    validate_update: |new, old, _| {
        let (new, old) = (At::root(new).get("spec"), At::root(old).get("spec"));
        let mut findings: Vec<FieldError> = Vec::new();
        for field in ["pool.name", "driver", "nodeName"] {
            unchanged(&mut findings, &new.at(field), &old.at(field));
        }
        findings
    },
    warnings: |object| {
        let driver = text(object, "spec.driver");
        if driver.chars().any(char::is_uppercase) {
            return vec![format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")];
        }
        Vec::new()
    },
    columns: &[NAME, column("Node"), column("Driver"), column("Pool"), column("Age")],
    cells: |object, now| {
        vec![
            show::name(object),
            text(object, "spec.nodeName").into(),
            text(object, "spec.driver").into(),
            text(object, "spec.pool.name").into(),
            show::age(object, now),
        ]
    },
    fields: &["spec.driver", "spec.nodeName"],
    ..PLAIN
};

/// One device, unless the request says otherwise.
fn claim_defaults(spec: &mut Value) {
    let one = |request: &mut Value| {
        set_default_text(request, "allocationMode", "ExactCount");
        if text(request, "allocationMode") == "ExactCount" {
            set_default_number(request, "count", 1);
        }
    };
    let Some(devices) = object_mut(spec, "devices") else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = object_mut(request, "exactly") {
            one(exactly);
        }
        items_mut(request, "firstAvailable").iter_mut().for_each(one);
    }
}

/// `allocated,reserved`
fn state(object: &Value) -> String {
    let mut states = Vec::new();
    let deleting = !text(object, "metadata.deletionTimestamp").is_empty();
    if deleting {
        states.push("deleted");
    }
    if find(object, "status.allocation").is_object() {
        states.push("allocated");
        if !list(object, "status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleting {
        states.push("pending");
    }
    states.join(",")
}

#[cfg(test)]
mod tests;
