//! PersistentVolumes, PersistentVolumeClaims and StorageClasses.

use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, status_of, wide};
use super::{csi, pod, show};
use crate::cursor::{At, find, list, make_object, set_default, set_default_text, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::quantity::Quantity;
use crate::validate::text::subdomain_problems;
use crate::validate::{each, label_selector, one_of, unchanged};

type Findings = Vec<FieldError>;

/// PersistentVolume.
pub static PERSISTENT_VOLUME: Definition = Definition {
    names: names!("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume", ["pv"], []),
    namespaced: false,
    subresources: &[status_of("", "v1", "PersistentVolume")],
    status: true,
    delete_returns_object: true,
    default: |object| {
        set_default_text(make_object(object, "status"), "phase", "Pending");
        let spec = make_object(object, "spec");
        set_default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default_text(spec, "volumeMode", "Filesystem");
        if let Some(path) = crate::cursor::object_mut(spec, "hostPath") {
            set_default(path, "type", "");
        }
    },
    prepare_create: |object| object["status"] = json!({ "phase": "Pending" }),
    validate: volume,
    validate_update: |new, old, part| {
        let mut findings = Vec::new();
        if part == Part::Main && volume_source(find(new, "spec")) != volume_source(find(old, "spec")) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            findings.push(FieldError::forbidden("spec.persistentvolumesource", detail));
        }
        if part == Part::Main {
            unchanged(&mut findings, &At::root(new).at("spec.volumeMode"), &At::root(old).at("spec.volumeMode"));
        }
        findings
    },
    columns: &[
        NAME,
        column("Capacity"),
        column("Access Modes"),
        column("Reclaim Policy"),
        column("Status"),
        column("Claim"),
        column("StorageClass"),
        column("VolumeAttributesClass"),
        column("Reason"),
        column("Age"),
        wide("VolumeMode"),
    ],
    cells: |object, now| {
        let claim = match text(object, "spec.claimRef.name") {
            "" => String::new(),
            name => format!("{}/{name}", text(object, "spec.claimRef.namespace")),
        };
        vec![
            show::name(object),
            text(object, "spec.capacity.storage").into(),
            modes(list(object, "spec.accessModes")).into(),
            text(object, "spec.persistentVolumeReclaimPolicy").into(),
            phase(object),
            claim.into(),
            text(object, "spec.storageClassName").into(),
            unset(text(object, "spec.volumeAttributesClassName")),
            text(object, "status.reason").into(),
            show::age(object, now),
            unset(text(object, "spec.volumeMode")),
        ]
    },
    ..PLAIN
};

/// PersistentVolumeClaim.
pub static PERSISTENT_VOLUME_CLAIM: Definition = Definition {
    names: names!("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim", ["pvc"], []),
    subresources: &[status_of("", "v1", "PersistentVolumeClaim")],
    status: true,
    delete_returns_object: true,
    default: claim_defaults,
    prepare_create: |object| object["status"] = json!({ "phase": "Pending" }),
    validate: |object| {
        let mut findings = Vec::new();
        claim_spec(&mut findings, &At::root(object).get("spec"));
        findings
    },
    validate_update: claim_update,
    columns: &[
        NAME,
        column("Status"),
        column("Volume"),
        column("Capacity"),
        column("Access Modes"),
        column("StorageClass"),
        column("VolumeAttributesClass"),
        column("Age"),
        wide("VolumeMode"),
    ],
    cells: |object, now| {
        let bound = !text(object, "spec.volumeName").is_empty();
        let shown = |text: String| if bound { text } else { String::new() };
        vec![
            show::name(object),
            phase(object),
            text(object, "spec.volumeName").into(),
            shown(text(object, "status.capacity.storage").to_owned()).into(),
            shown(modes(list(object, "status.accessModes"))).into(),
            text(object, "spec.storageClassName").into(),
            unset(text(object, "spec.volumeAttributesClassName")),
            show::age(object, now),
            unset(text(object, "spec.volumeMode")),
        ]
    },
    ..PLAIN
};

/// StorageClass.
pub static STORAGE_CLASS: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "StorageClass", "storageclasses", "storageclass", ["sc"], []),
    namespaced: false,
    delete_returns_object: true,
    default: |object| {
        set_default_text(object, "reclaimPolicy", "Delete");
        set_default_text(object, "volumeBindingMode", "Immediate");
    },
    validate: |object| {
        let at = At::root(object);
        let mut findings = Vec::new();
        csi::provisioner(&mut findings, &at.get("provisioner"));
        csi::parameters(&mut findings, &at.get("parameters"));
        one_of(&mut findings, &at.get("reclaimPolicy"), &["Delete", "Retain"]);
        one_of(&mut findings, &at.get("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
        findings
    },
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            unchanged(&mut findings, &At::root(new).get(field), &At::root(old).get(field));
        }
        findings
    },
    columns: &[
        NAME,
        column("Provisioner"),
        column("ReclaimPolicy"),
        column("VolumeBindingMode"),
        column("AllowVolumeExpansion"),
        column("Age"),
    ],
    cells: |object, now| {
        let annotations = find(object, "metadata.annotations");
        let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| annotations.get(key).and_then(Value::as_str) == Some("true"));
        let name = format!("{}{}", text(object, "metadata.name"), if default { " (default)" } else { "" });
        vec![
            name.into(),
            text(object, "provisioner").into(),
            text(object, "reclaimPolicy").into(),
            text(object, "volumeBindingMode").into(),
            (find(object, "allowVolumeExpansion") == &Value::Bool(true)).into(),
            show::age(object, now),
        ]
    },
    ..PLAIN
};

fn unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

fn phase(object: &Value) -> Value {
    let deleting = !text(object, "metadata.deletionTimestamp").is_empty();
    if deleting { "Terminating".into() } else { text(object, "status.phase").into() }
}

/// `RWO,ROX`
fn modes(modes: &[Value]) -> String {
    let has = |mode: &str| modes.iter().any(|known| known == mode);
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    short.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// Fills in a claim, of its own or as a template.
pub fn claim_defaults(object: &mut Value) {
    set_default_text(make_object(object, "status"), "phase", "Pending");
    set_default_text(make_object(object, "spec"), "volumeMode", "Filesystem");
}

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(findings: &mut Findings, at: &At<'_>) {
    let mut single = false;
    for mode in at.items() {
        single |= mode.str() == "ReadWriteOncePod";
        if !MODES.contains(&mode.str()) {
            findings.push(FieldError::not_supported(at.path.clone(), mode.str(), &MODES));
        }
    }
    if single && at.len() > 1 {
        findings.push(at.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

/// A claim's spec.
pub fn claim_spec(findings: &mut Findings, spec: &At<'_>) {
    let modes = spec.get("accessModes");
    if modes.len() == 0 {
        findings.push(modes.required("at least 1 access mode is required"));
    }
    label_selector(findings, &spec.get("selector"));
    access_modes(findings, &modes);
    let storage = spec.at("resources.requests.storage");
    let path = format!("{}.resources[storage]", spec.path);
    if !storage.is_set() {
        findings.push(FieldError::required(path, ""));
    } else {
        let size = Quantity::lenient(storage.str());
        if size.is_negative() || size.is_zero() {
            findings.push(FieldError::invalid(path, storage.str(), "must be greater than zero"));
        }
    }
    let class = spec.get("storageClassName");
    if !class.is_empty() {
        each(findings, &class, &subdomain_problems(class.str()));
    }
    let mode = spec.get("volumeMode");
    if mode.is_set() {
        one_of(findings, &mode, &["Block", "Filesystem"]);
    }
}

const CLAIM_UPDATE: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                            bound claims";

fn claim_update(new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError> {
    let mut findings = Vec::new();
    if part != Part::Main {
        return findings;
    }
    let mut munged = find(new, "spec").clone();
    let before = find(old, "spec");
    let take = |munged: &mut Value, name: &str| match before.get(name) {
        Some(value) => munged[name] = value.clone(),
        None => {
            if let Value::Object(map) = munged {
                map.remove(name);
            }
        }
    };
    // A claim is bound once.
    if text(before, "volumeName").is_empty() {
        take(&mut munged, "volumeName");
    }
    // The default class may be filled in afterwards.
    if before.get("storageClassName").is_none_or(Value::is_null) {
        take(&mut munged, "storageClassName");
    }
    let bound = text(old, "status.phase") == "Bound";
    if bound {
        take(&mut munged, "volumeAttributesClassName");
        let (size, was) = (text(&munged, "resources.requests.storage"), text(before, "resources.requests.storage"));
        if Quantity::lenient(size) < Quantity::lenient(was)
            && Quantity::lenient(size) < Quantity::lenient(text(old, "status.capacity.storage"))
        {
            let detail = "field can not be less than status.capacity";
            findings.push(FieldError::forbidden("spec.resources.requests.storage", detail));
        }
        take(&mut munged, "resources");
    }
    if &munged != before {
        let changes = pod::update::differences(before, &munged, "spec");
        findings.push(FieldError::forbidden("spec", &format!("{CLAIM_UPDATE}\n{changes}")));
    }
    findings
}

const NOT_SOURCE: [&str; 9] = [
    "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
    "storageClassName", "volumeMode", "volumeAttributesClassName",
];

fn volume_source(spec: &Value) -> Vec<(&String, &Value)> {
    let members = spec.as_object().into_iter().flatten();
    members.filter(|(name, value)| !NOT_SOURCE.contains(&name.as_str()) && !value.is_null()).collect()
}

fn volume(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    let modes = spec.get("accessModes");
    if modes.len() == 0 {
        findings.push(modes.required(""));
    }
    access_modes(&mut findings, &modes);
    let capacity = spec.get("capacity");
    if capacity.len() == 0 {
        findings.push(capacity.required(""));
    }
    if capacity.get("storage").value.is_null() || capacity.len() > 1 {
        findings.push(FieldError::not_supported(capacity.path.clone(), capacity.value.clone(), &["storage"]));
    }
    for (key, value) in capacity.entries() {
        let size = Quantity::lenient(value.str());
        if size.is_negative() || size.is_zero() {
            findings.push(FieldError::invalid(capacity.key(key), value.str(), "must be greater than zero"));
        }
    }
    one_of(&mut findings, &spec.get("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"]);
    let sources = volume_source(spec.value);
    match sources.as_slice() {
        [] => findings.push(spec.required("must specify a volume type")),
        [(name, _)] if *name == "hostPath" && spec.at("hostPath.path").is_empty() => {
            findings.push(spec.at("hostPath.path").required(""));
        }
        [_] => {}
        [_, rest @ ..] => {
            for (name, _) in rest {
                findings.push(spec.get(name).forbidden("may not specify more than 1 volume type"));
            }
        }
    }
    let affinity = spec.at("nodeAffinity.required");
    if affinity.is_set() {
        pod::spec::node_selector(&mut findings, &affinity);
    }
    if spec.get("local").is_set() && !affinity.is_set() {
        findings.push(spec.get("nodeAffinity").required("Local volume requires node affinity"));
    }
    let class = spec.get("storageClassName");
    if !class.is_empty() {
        each(&mut findings, &class, &subdomain_problems(class.str()));
    }
    findings
}
