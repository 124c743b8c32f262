//! What may be wrong with a pod's volumes. Sources that this cluster cannot mount are still checked to be well-formed
//! (one source, its required fields); the node refuses them by name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::container::{descending_path, no_backsteps};
use super::env::{field_ref, resource_ref};
use crate::cursor::At;
use crate::field::FieldError;
use crate::quantity::Quantity;
use crate::validate::each;
use crate::validate::text::label_problems;

type Findings = Vec<FieldError>;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks the volumes; returns them by name.
pub fn volumes<'a>(findings: &mut Findings, list: &At<'a>) -> BTreeMap<&'a str, &'a Value> {
    let mut known = BTreeMap::new();
    for volume in list.items() {
        source(findings, &volume);
        let name = volume.get("name");
        if name.is_empty() {
            findings.push(name.required(""));
        } else {
            let problems = label_problems(name.str());
            each(findings, &name, &problems);
            if known.contains_key(name.str()) {
                findings.push(name.duplicate());
            } else if problems.is_empty() {
                known.insert(name.str(), volume.value);
            }
        }
    }
    known
}

fn mode(findings: &mut Findings, at: &At<'_>) {
    if at.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        findings.push(at.invalid(MODE));
    }
}

fn required(findings: &mut Findings, at: &At<'_>, names: &[&str]) {
    for name in names {
        if at.get(name).is_empty() {
            findings.push(at.get(name).required(""));
        }
    }
}

/// Sources that need nothing but certain fields.
const REQUIRED: [(&str, &[&str]); 17] = [
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["monitors", "image"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("gitRepo", &["repository"]),
    ("csi", &["driver"]),
];

fn source(findings: &mut Findings, volume: &At<'_>) {
    let Some(members) = volume.value.as_object() else { return };
    let mut first = true;
    for name in members.keys().filter(|name| *name != "name") {
        let at = volume.get(name);
        if !at.is_set() {
            continue;
        }
        if !std::mem::take(&mut first) {
            findings.push(at.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        one_source(findings, name, &at);
    }
    if first {
        findings.push(volume.required("must specify a volume type"));
    }
}

fn one_source(findings: &mut Findings, name: &str, at: &At<'_>) {
    match name {
        "emptyDir" => {
            let limit = at.get("sizeLimit");
            if Quantity::lenient(limit.str()).is_negative() {
                findings.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
            }
        }
        "hostPath" => host_path(findings, at),
        "secret" => {
            required(findings, at, &["secretName"]);
            mode(findings, &at.get("defaultMode"));
            keys(findings, &at.get("items"));
        }
        "configMap" => {
            required(findings, at, &["name"]);
            mode(findings, &at.get("defaultMode"));
            keys(findings, &at.get("items"));
        }
        "downwardAPI" => {
            mode(findings, &at.get("defaultMode"));
            downward(findings, at);
        }
        "projected" => projected(findings, at),
        "image" => {
            if at.get("reference").is_empty() {
                findings.push(at.get("reference").required(""));
            }
            let policy = at.get("pullPolicy");
            crate::validate::one_of(findings, &policy, &["Always", "IfNotPresent", "Never"]);
        }
        "ephemeral" => {
            if !at.get("volumeClaimTemplate").is_set() {
                findings.push(at.get("volumeClaimTemplate").required(""));
            } else {
                let spec = at.at("volumeClaimTemplate.spec");
                crate::kinds::storage::claim_spec(findings, &spec);
            }
        }
        _ => {
            if let Some((_, fields)) = REQUIRED.iter().find(|(known, _)| *known == name) {
                required(findings, at, fields);
            }
        }
    }
}

fn host_path(findings: &mut Findings, at: &At<'_>) {
    let path = at.get("path");
    if path.is_empty() {
        findings.push(path.required(""));
        return;
    }
    no_backsteps(findings, &path, &path.path);
    let known =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let r#type = at.get("type");
    if r#type.is_set() {
        crate::validate::one_of(findings, &r#type, &known);
    }
}

fn keys(findings: &mut Findings, list: &At<'_>) {
    for item in list.items() {
        required(findings, &item, &["key", "path"]);
        let path = item.get("path");
        if !path.is_empty() {
            non_reserved(findings, &path);
        }
        mode(findings, &item.get("mode"));
    }
}

/// A relative path that does not start with `..`.
fn non_reserved(findings: &mut Findings, path: &At<'_>) {
    descending_path(findings, path, &path.path);
    if path.str().starts_with("..") && !path.str().starts_with("../") {
        findings.push(path.invalid("must not start with '..'"));
    }
}

const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn downward(findings: &mut Findings, at: &At<'_>) {
    for item in at.get("items").items() {
        let path = item.get("path");
        if path.is_empty() {
            findings.push(path.required(""));
        }
        non_reserved(findings, &path);
        let (field, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
        if field.is_set() {
            field_ref(findings, &field, &FILE_FIELDS);
            if resource.is_set() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                findings.push(FieldError::invalid(item.path.clone(), "resource", detail));
            }
        } else if resource.is_set() {
            resource_ref(findings, &resource, true);
        } else {
            findings.push(item.required("one of fieldRef and resourceFieldRef is required"));
        }
        mode(findings, &item.get("mode"));
    }
}

fn projected(findings: &mut Findings, at: &At<'_>) {
    mode(findings, &at.get("defaultMode"));
    let mut paths: BTreeSet<String> = BTreeSet::new();
    for source in at.get("sources").items() {
        let mut count = 0;
        for name in ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"] {
            let one = source.get(name);
            if !one.is_set() {
                continue;
            }
            count += 1;
            if count > 1 {
                findings.push(one.forbidden("may not specify more than 1 volume type"));
                continue;
            }
            match name {
                "secret" | "configMap" => {
                    required(findings, &one, &["name"]);
                    keys(findings, &one.get("items"));
                }
                "downwardAPI" => downward(findings, &one),
                "serviceAccountToken" => token(findings, &one),
                _ => {}
            }
            let listed: Vec<At<'_>> = match name {
                "serviceAccountToken" => vec![one.get("path")],
                _ => one.get("items").items().map(|item| item.get("path")).collect(),
            };
            for path in listed {
                if !path.is_empty() && !paths.insert(path.str().to_owned()) {
                    let detail = "conflicting duplicate paths";
                    findings.push(FieldError::invalid(at.path.clone(), path.str(), detail));
                }
            }
        }
        if count == 0 {
            findings.push(source.required("must specify a volume type"));
        }
    }
}

fn token(findings: &mut Findings, at: &At<'_>) {
    let seconds = at.get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < 600) {
        findings.push(seconds.invalid("may not specify a duration less than 10 minutes"));
    }
    if seconds.int().is_some_and(|seconds| seconds > 1 << 32) {
        findings.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
    }
    let path = at.get("path");
    if path.is_empty() {
        findings.push(path.required(""));
    } else {
        non_reserved(findings, &path);
    }
}
