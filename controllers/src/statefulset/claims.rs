//! Whose the claims of an ordinal are, so that the garbage collector removes them when the retention policy says so:
//! the set's (`whenDeleted: Delete`), or the pod's once it is scaled away (`whenScaled: Delete`).

use k8s_openapi::api::apps::v1::StatefulSetSpec;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::common::owners::Owner;
use crate::common::pods;

/// (whenDeleted, whenScaled) is Delete.
fn deletes(spec: &StatefulSetSpec) -> (bool, bool) {
    let policy = spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
    (policy.when_deleted.as_deref() == Some("Delete"), policy.when_scaled.as_deref() == Some("Delete"))
}

/// A pod as the owner of its claims.
fn pod_owner(pod: &Pod) -> Owner {
    Owner {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pods::name(pod).to_owned(),
        uid: pods::uid(pod).to_owned(),
    }
}

fn names(reference: &OwnerReference, owner: &Owner) -> bool {
    reference.api_version == owner.api_version && reference.kind == owner.kind && reference.name == owner.name
}

/// Whether the claim belongs to an earlier object of the owner's name: it is about to be collected.
fn is_stale_of(claim: &PersistentVolumeClaim, owner: &Owner) -> bool {
    let references = claim.metadata.owner_references.as_deref().unwrap_or_default();
    references.iter().find(|reference| names(reference, owner)).is_some_and(|reference| reference.uid != owner.uid)
}

/// Whether a new pod of this name would get a claim that still belongs to its predecessor.
pub fn is_stale(spec: &StatefulSetSpec, claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    deletes(spec).1 && is_stale_of(claim, &pod_owner(pod))
}

/// What the references of a claim should be, where they are not so. `scaled_away`: the pod's ordinal is not wanted any
/// more. The flag says that another controller has a hand on the claim, so that the policy cannot be followed.
pub fn references(
    set: &Owner,
    spec: &StatefulSetSpec,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    scaled_away: bool,
) -> Option<(Vec<OwnerReference>, bool)> {
    let pod = pod_owner(pod);
    if is_stale_of(claim, set) || is_stale_of(claim, &pod) {
        return None;
    }
    let present = claim.metadata.owner_references.clone().unwrap_or_default();
    let (on_delete, on_scale) = deletes(spec);
    let ours = |reference: &OwnerReference| names(reference, set) || names(reference, &pod);
    let conflict = (on_delete || on_scale) && present.iter().any(|one| !ours(one) && one.controller == Some(true));
    let mut wanted: Vec<OwnerReference> = present.iter().filter(|one| !ours(one)).cloned().collect();
    if !conflict {
        match (on_delete, on_scale) {
            (_, true) if scaled_away => wanted.push(pod.controller_reference()),
            (true, _) => wanted.push(set.controller_reference()),
            (false, _) => {}
        }
    }
    let held = |references: &[OwnerReference]| {
        let mut held: Vec<(String, bool)> =
            references.iter().map(|one| (one.uid.clone(), one.controller == Some(true))).collect();
        held.sort();
        held
    };
    (held(&present) != held(&wanted)).then_some((wanted, conflict))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn every_policy() {
        let set = Owner {
            api_version: "apps/v1".to_owned(),
            kind: "StatefulSet".to_owned(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "uid-web".to_owned(),
        };
        let pod = pod("web-0").arc();
        let of_set = set.controller_reference();
        let of_pod = pod_owner(&pod).controller_reference();
        let other = OwnerReference { uid: "x".to_owned(), kind: "Backup".to_owned(), name: "x".to_owned(), controller: Some(true), ..OwnerReference::default() };
        let old_set = OwnerReference { uid: "uid-old".to_owned(), ..of_set.clone() };
        // whenDeleted, whenScaled, scaled away, present, wanted (None: leave it)
        let cases = [
            ("Retain", "Retain", false, vec![], None),
            ("Retain", "Retain", false, vec![of_set.clone()], Some(vec![])),
            ("Delete", "Retain", false, vec![], Some(vec![of_set.clone()])),
            ("Delete", "Retain", true, vec![of_set.clone()], None),
            ("Retain", "Delete", false, vec![], None),
            ("Retain", "Delete", true, vec![], Some(vec![of_pod.clone()])),
            ("Delete", "Delete", false, vec![of_pod.clone()], Some(vec![of_set.clone()])),
            ("Delete", "Delete", true, vec![of_set.clone()], Some(vec![of_pod.clone()])),
            ("Delete", "Delete", false, vec![old_set], None),
            ("Delete", "Retain", false, vec![other.clone()], None),
            ("Delete", "Retain", false, vec![other.clone(), of_set], Some(vec![other])),
        ];
        for (deleted, scaled, away, present, wanted) in cases {
            let spec: StatefulSetSpec = serde_json::from_value(json!({
                "selector": {}, "serviceName": "web", "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
            }))
            .unwrap();
            let mut claim = PersistentVolumeClaim::default();
            claim.metadata.owner_references = Some(present.clone());
            let found = references(&set, &spec, &claim, &pod, away).map(|(references, _)| references);
            assert_eq!(found, wanted, "{deleted} {scaled} {away} {present:?}");
        }
    }
}
