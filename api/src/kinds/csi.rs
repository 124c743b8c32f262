//! What storage drivers and those who run them tell each other: drivers, their nodes, attachments, room, and classes of
//! attributes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, keep_metadata, names, status_of, typed};
use super::show;
use crate::cursor::{At, find, list, make_object, set_default, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::quantity::Quantity;
use crate::validate::text::{qualified_name_problems, subdomain_problems};
use crate::validate::{each, label_selector, needed, not_negative, one_of, unchanged};

type Findings = Vec<FieldError>;

const MAX_NODE_ID: usize = 256;
const MAX_PARAMETERS: usize = 512;
const MAX_MAP_BYTES: usize = 256 << 10;
const MAX_MESSAGE: usize = 1024;
const TEN_MINUTES: i64 = 600;

/// CSINode: the drivers on a node.
pub static CSI_NODE: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSINode", "csinodes", "csinode", [], []),
    namespaced: false,
    delete_returns_object: true,
    unconditional_update: false,
    validate: |object| node_drivers(&At::root(object).at("spec.drivers")),
    validate_update: |new, old, _| {
        let at = At::root(new).at("spec.drivers");
        let mut findings = Vec::new();
        for before in list(old, "spec.drivers") {
            for driver in at.items().filter(|driver| driver.get("name").str() == text(before, "name")) {
                let (driver, before) = (without_room(driver.value), without_room(before));
                unchanged(&mut findings, &At::new(at.path.clone(), &driver), &At::new(at.path.clone(), &before));
            }
        }
        findings
    },
    columns: &[NAME, typed("Drivers", "integer"), column("Age")],
    cells: |object, now| vec![show::name(object), list(object, "spec.drivers").len().into(), show::age(object, now)],
    ..PLAIN
};

/// CSIDriver: how a driver wants to be treated.
pub static CSI_DRIVER: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "csidriver", [], []),
    namespaced: false,
    delete_returns_object: true,
    unconditional_update: false,
    default: |object| {
        let spec = make_object(object, "spec");
        set_default(spec, "attachRequired", true);
        set_default(spec, "podInfoOnMount", false);
        set_default(spec, "storageCapacity", false);
        set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
        set_default(spec, "requiresRepublish", false);
        set_default(spec, "seLinuxMount", false);
    },
    prepare_update: |new, old, _| {
        // Unlike most kinds, a driver begins without a generation.
        if find(new, "spec") != find(old, "spec") {
            let generation = find(old, "metadata.generation").as_i64().unwrap_or(0) + 1;
            make_object(new, "metadata")["generation"] = generation.into();
        }
    },
    validate: |object| driver(&At::root(object).get("spec")),
    validate_update: |new, old, _| {
        let (new, old) = (At::root(new).get("spec"), At::root(old).get("spec"));
        let mut findings = Vec::new();
        // The original's path has this spelling.
        let attach = At::new("spec.attachedRequired", new.get("attachRequired").value);
        unchanged(&mut findings, &attach, &old.get("attachRequired"));
        unchanged(&mut findings, &new.get("volumeLifecycleModes"), &old.get("volumeLifecycleModes"));
        findings
    },
    warnings: |object| {
        let spec = find(object, "spec");
        let quiet = list(spec, "tokenRequests").is_empty() || find(spec, "serviceAccountTokenInSecrets").is_boolean();
        let warning = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                       possible logging of tokens in volume attributes";
        (!quiet).then(|| warning.to_owned()).into_iter().collect()
    },
    columns: &[
        NAME,
        typed("AttachRequired", "boolean"),
        typed("PodInfoOnMount", "boolean"),
        typed("StorageCapacity", "boolean"),
        column("TokenRequests"),
        typed("RequiresRepublish", "boolean"),
        column("Modes"),
        column("Age"),
    ],
    cells: |object, now| {
        let flag = |name: &str| Value::from(find(object, &format!("spec.{name}")) == &Value::Bool(true));
        let tokens = show::joined(list(object, "spec.tokenRequests").iter().map(|request| text(request, "audience")));
        let modes = show::joined(list(object, "spec.volumeLifecycleModes").iter().filter_map(Value::as_str));
        vec![
            show::name(object),
            flag("attachRequired"),
            flag("podInfoOnMount"),
            flag("storageCapacity"),
            if tokens.is_empty() { "<unset>".into() } else { tokens.into() },
            flag("requiresRepublish"),
            if modes.is_empty() { "<none>".into() } else { modes.into() },
            show::age(object, now),
        ]
    },
    ..PLAIN
};

/// VolumeAttachment: a volume that a node is to have, and whether it does.
pub static VOLUME_ATTACHMENT: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "volumeattachment", [], []),
    namespaced: false,
    subresources: &[status_of("storage.k8s.io", "v1", "VolumeAttachment")],
    status: true,
    delete_returns_object: true,
    unconditional_update: false,
    prepare_update: |new, old, part| {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    },
    validate: |object| attachment(&At::root(object).get("spec")),
    validate_update: |new, old, part| {
        let mut findings = Vec::new();
        if part == Part::Status {
            findings.extend(attachment_status(&At::root(new).get("status")));
        }
        unchanged(&mut findings, &At::root(new).get("spec"), &At::root(old).get("spec"));
        findings
    },
    columns: &[
        NAME,
        column("Attacher"),
        column("PV"),
        column("Node"),
        typed("Attached", "boolean"),
        column("Age"),
    ],
    cells: |object, now| {
        vec![
            show::name(object),
            text(object, "spec.attacher").into(),
            text(object, "spec.source.persistentVolumeName").into(),
            text(object, "spec.nodeName").into(),
            (find(object, "status.attached") == &Value::Bool(true)).into(),
            show::age(object, now),
        ]
    },
    ..PLAIN
};

/// CSIStorageCapacity: how much room a class has in a part of the cluster.
pub static CSI_STORAGE_CAPACITY: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity", [], []),
    delete_returns_object: true,
    unconditional_update: false,
    validate_create_only: |object| {
        let at = At::root(object);
        let (class, capacity) = (at.get("storageClassName"), at.get("capacity"));
        let mut findings = Vec::new();
        label_selector(&mut findings, &at.get("nodeTopology"));
        each(&mut findings, &class, &subdomain_problems(class.str()));
        if capacity.is_set() && Quantity::lenient(capacity.str()).is_negative() {
            findings.push(capacity.invalid(crate::validate::NOT_NEGATIVE));
        }
        findings
    },
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        for field in ["nodeTopology", "storageClassName"] {
            unchanged(&mut findings, &At::root(new).get(field), &At::root(old).get(field));
        }
        findings
    },
    ..PLAIN
};

/// VolumeAttributesClass: attributes of volumes that may change while they are in use.
pub static VOLUME_ATTRIBUTES_CLASS: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass", ["vac"], []),
    namespaced: false,
    delete_returns_object: true,
    validate: |object| {
        let at = At::root(object);
        let mut findings = Vec::new();
        provisioner(&mut findings, &at.get("driverName"));
        parameters(&mut findings, &at.get("parameters"));
        if at.get("parameters").len() == 0 {
            findings.push(at.get("parameters").required("must contain at least one key/value pair"));
        }
        findings
    },
    validate_update: |new, old, _| {
        let changed = |field: &&str| new.get(*field) != old.get(*field);
        let finding = |field: &str| FieldError::forbidden(field, &format!("updates to {field} are forbidden."));
        ["driverName", "parameters"].into_iter().filter(changed).map(finding).collect()
    },
    columns: &[NAME, column("DriverName"), column("Age")],
    cells: |object, now| vec![show::name(object), text(object, "driverName").into(), show::age(object, now)],
    ..PLAIN
};

/// Who makes volumes of a class.
pub fn provisioner(findings: &mut Findings, at: &At<'_>) {
    if needed(findings, at) {
        for problem in qualified_name_problems(&at.str().to_lowercase()) {
            findings.push(FieldError::invalid(at.path.clone(), at.str().to_lowercase(), &problem));
        }
    }
}

/// What a class tells its driver.
pub fn parameters(findings: &mut Findings, at: &At<'_>) {
    if at.len() > MAX_PARAMETERS {
        findings.push(FieldError::too_long(at.path.clone(), MAX_PARAMETERS));
        return;
    }
    if at.entries().any(|(key, _)| key.is_empty()) {
        findings.push(FieldError::invalid(at.path.clone(), "", "field can not be empty."));
    }
    small_map(findings, at);
}

fn small_map(findings: &mut Findings, at: &At<'_>) {
    let bytes: usize = at.entries().map(|(key, value)| key.len() + value.str().len()).sum();
    if bytes > MAX_MAP_BYTES {
        findings.push(FieldError::too_long(at.path.clone(), MAX_MAP_BYTES));
    }
}

fn driver_name(findings: &mut Findings, at: &At<'_>) {
    if !needed(findings, at) {
        return;
    }
    if at.str().len() > 63 {
        findings.push(FieldError::too_long(at.path.clone(), 63));
    }
    each(findings, at, &subdomain_problems(&at.str().to_lowercase()));
}

/// How many volumes a driver can take may change; the rest of its entry not.
fn without_room(driver: &Value) -> Value {
    let mut driver = driver.clone();
    if let Value::Object(driver) = &mut driver {
        driver.remove("allocatable");
    }
    driver
}

fn node_drivers(at: &At<'_>) -> Findings {
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for driver in at.items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        driver_name(&mut findings, &name);
        needed(&mut findings, &id);
        if id.str().len() > MAX_NODE_ID {
            findings.push(id.invalid(&format!("must be {MAX_NODE_ID} characters or less")));
        }
        not_negative(&mut findings, &driver.at("allocatable.count"));
        if !names.insert(name.str()) {
            findings.push(name.duplicate());
        }
        let mut keys = BTreeSet::new();
        for key in driver.get("topologyKeys").items() {
            let key = key.str();
            if key.is_empty() {
                findings.push(driver.required(""));
            }
            if !keys.insert(key) {
                findings.push(FieldError::duplicate(driver.path.clone(), key));
            }
            for problem in qualified_name_problems(key) {
                findings.push(FieldError::invalid(driver.path.clone(), key, &problem));
            }
        }
    }
    findings
}

fn driver(spec: &At<'_>) -> Findings {
    let mut findings = Vec::new();
    one_of(&mut findings, &spec.get("fsGroupPolicy"), &["File", "None", "ReadWriteOnceWithFSType"]);
    let requests = spec.get("tokenRequests");
    let mut audiences = BTreeSet::new();
    for request in requests.items() {
        let (audience, seconds) = (request.get("audience"), request.get("expirationSeconds"));
        if !audiences.insert(audience.str()) {
            findings.push(FieldError::duplicate(audience.path.clone(), audience.str()));
            continue;
        }
        match seconds.int() {
            Some(number) if number < TEN_MINUTES => {
                findings.push(seconds.invalid("may not specify a duration less than 10 minutes"));
            }
            Some(number) if number > 1 << 32 => {
                findings.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
            }
            _ => {}
        }
    }
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.items().filter(|mode| !matches!(mode.str(), "Persistent" | "Ephemeral")) {
        findings.push(FieldError::not_supported(modes.path.clone(), mode.str(), &["Persistent", "Ephemeral"]));
    }
    let (period, in_secrets) = (spec.get("nodeAllocatableUpdatePeriodSeconds"), spec.get("serviceAccountTokenInSecrets"));
    if period.int().is_some_and(|period| period < 10) {
        findings.push(period.invalid("must be greater than or equal to 10 seconds"));
    }
    if in_secrets.is_set() && requests.len() == 0 {
        findings.push(in_secrets.invalid("serviceAccountTokenInSecrets is set but no tokenRequests are specified"));
    }
    findings
}

fn attachment(spec: &At<'_>) -> Findings {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (source, node) = (spec.get("source"), spec.get("nodeName"));
    let (inline, volume) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    let mut findings = Vec::new();
    driver_name(&mut findings, &spec.get("attacher"));
    match (inline.is_set(), volume.is_set()) {
        (false, false) => findings.push(source.required(ONE)),
        (true, true) => findings.push(source.forbidden(ONE)),
        (false, true) if volume.is_empty() => {
            findings.push(volume.required("must specify non empty persistentVolumeName"));
        }
        _ => {}
    }
    each(&mut findings, &node, &subdomain_problems(node.str()));
    if volume.is_set() {
        each(&mut findings, &volume, &subdomain_problems(volume.str()));
    }
    findings
}

fn attachment_status(status: &At<'_>) -> Findings {
    let mut findings = Vec::new();
    small_map(&mut findings, &status.get("attachmentMetadata"));
    for error in ["attachError", "detachError"] {
        let error = status.get(error);
        if error.get("message").str().len() > MAX_MESSAGE {
            findings.push(FieldError::too_long(error.sub("message"), MAX_MAP_BYTES));
        }
        let code = error.get("errorCode");
        if code.int().is_some_and(|code| code < 0) {
            findings.push(code.invalid("must be between 0 and 2147483647, inclusive"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind as _;

    fn texts(findings: &[FieldError]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    fn named(spec: Value) -> Value {
        json!({"metadata": {"name": "x"}, "spec": spec})
    }

    #[test]
    fn drivers() {
        let mut object = named(json!({"tokenRequests": [{"audience": "a"}, {"audience": "a"}], "volumeLifecycleModes": ["Odd"]}));
        CSI_DRIVER.default(&mut object);
        assert_eq!(
            texts(&CSI_DRIVER.validate_create(&object)),
            [
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.volumeLifecycleModes: Unsupported value: \"Odd\": supported values: \"Persistent\", \"Ephemeral\"",
            ]
        );
        let mut old = named(json!({}));
        CSI_DRIVER.default(&mut old);
        let mut new = old.clone();
        new["spec"]["attachRequired"] = false.into();
        CSI_DRIVER.prepare_update(&mut new, &old, Part::Main);
        assert_eq!(new["metadata"]["generation"], 1);
        assert_eq!(
            texts(&CSI_DRIVER.validate_update(&new, &old, Part::Main)),
            ["spec.attachedRequired: Invalid value: false: field is immutable"]
        );
    }

    #[test]
    fn nodes_of_drivers() {
        let of = |drivers: Value| named(json!({ "drivers": drivers }));
        let old = of(json!([{"name": "d", "nodeID": "n", "allocatable": {"count": 1}}]));
        let update = |new: &Value| texts(&CSI_NODE.validate_update(new, &old, Part::Main)).len();
        assert!(CSI_NODE.validate_create(&old).is_empty());
        assert_eq!(update(&of(json!([{"name": "d", "nodeID": "n", "allocatable": {"count": 2}}, {"name": "e", "nodeID": "n"}]))), 0);
        assert_eq!(update(&of(json!([{"name": "d", "nodeID": "m"}]))), 1);
        assert_eq!(
            texts(&CSI_NODE.validate_create(&of(json!([{"name": "d", "nodeID": "", "topologyKeys": ["a", "a"]}])))),
            ["spec.drivers[0].nodeID: Required value", "spec.drivers[0]: Duplicate value: \"a\""]
        );
    }

    #[test]
    fn attachments() {
        let object = |source: Value| named(json!({"attacher": "d", "nodeName": "n", "source": source}));
        assert!(VOLUME_ATTACHMENT.validate_create(&object(json!({"persistentVolumeName": "v"}))).is_empty());
        assert_eq!(
            texts(&VOLUME_ATTACHMENT.validate_create(&object(json!({})))),
            ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
        );
        let old = object(json!({"persistentVolumeName": "v"}));
        let new = object(json!({"persistentVolumeName": "w"}));
        assert_eq!(VOLUME_ATTACHMENT.validate_update(&new, &old, Part::Main).len(), 1);
    }
}
