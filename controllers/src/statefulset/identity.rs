//! What makes a pod the one of its ordinal: name, labels, host name, subdomain, volumes.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::common::owners::Owner;
use crate::common::pods;
use crate::replicaset::plan::pod_from_template;

/// Label: the pod's name.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label: the pod's ordinal.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Label: name of the revision that the pod was made from.
pub const REVISION: &str = "controller-revision-hash";

/// The set as its pods name it.
pub fn owner(meta: &ObjectMeta) -> Owner {
    Owner {
        api_version: "apps/v1".to_owned(),
        kind: "StatefulSet".to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// The ordinal that a name gives, if it is a name of this set's.
pub fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) { None } else { digits.parse().ok() }
}

/// `data-web-0`
pub fn claim_name(set: &str, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{set}-{ordinal}", template.metadata.name.as_deref().unwrap_or_default())
}

/// The claims of an ordinal, as they are created.
pub fn claims(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let one = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(name, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        claim.metadata.labels.get_or_insert_default().extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        claim
    };
    spec.volume_claim_templates.iter().flatten().map(one).collect()
}

/// The volumes by which a pod of this ordinal uses its claims.
fn volumes(set: &str, spec: &StatefulSetSpec, ordinal: i32) -> Vec<Volume> {
    let one = |template: &PersistentVolumeClaim| Volume {
        name: template.metadata.name.clone().unwrap_or_default(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            ..PersistentVolumeClaimVolumeSource::default()
        }),
        ..Volume::default()
    };
    spec.volume_claim_templates.iter().flatten().map(one).collect()
}

/// A new pod of an ordinal.
pub fn pod(set: &StatefulSet, spec: &StatefulSetSpec, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let owner = owner(&set.metadata);
    let name = format!("{}-{ordinal}", owner.name);
    let mut pod = pod_from_template(template, &owner);
    pod.metadata.generate_name = Some(format!("{}-", owner.name));
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION.to_owned(), revision.to_owned());
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    let body = pod.spec.get_or_insert_default();
    body.hostname = Some(name);
    body.subdomain.clone_from(&spec.service_name);
    let mut all = volumes(&owner.name, spec, ordinal);
    let given = body.volumes.take().unwrap_or_default();
    all.extend(given.into_iter().filter(|volume| !all.iter().any(|own| own.name == volume.name)).collect::<Vec<_>>());
    body.volumes = (!all.is_empty()).then_some(all);
    pod
}

/// The labels that a pod lacks to be the one of its ordinal; `None` where it is.
pub fn missing_labels(pod: &Pod, ordinal: i32) -> Option<[(&'static str, String); 2]> {
    let name = pods::name(pod);
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_NAME));
    (label.map(String::as_str) != Some(name)).then(|| [(POD_NAME, name.to_owned()), (POD_INDEX, ordinal.to_string())])
}

/// The revision that a pod was made from; empty where it does not say.
pub fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION)).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals() {
        for (pod, expected) in [("web-0", Some(0)), ("web-12", Some(12)), ("web-x", None), ("web-", None), ("webx-1", None), ("web-+1", None), ("web-a-1", None)] {
            assert_eq!(ordinal("web", pod), expected, "{pod}");
        }
    }
}
