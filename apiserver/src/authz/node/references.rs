//! Which other objects a pod or a volume names, and so which of them its node must be able to read. Pure.
//!
//! The places are those that Kubernetes visits (pkg/api/v1/pod and pkg/api/v1/persistentvolume); a mirror pod gives
//! its node nothing, because the node itself made it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::value;

/// What kind of object a node may come to read through others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Secret
    Secret,
    /// ConfigMap
    ConfigMap,
    /// PersistentVolumeClaim
    Claim,
    /// ServiceAccount
    Account,
    /// ResourceClaim
    ResourceClaim,
}

/// (kind, namespace, name)
pub type Reference = (What, String, String);

/// Secrets of a volume source, by pointer below the volume.
const VOLUME_SECRETS: [&str; 11] = [
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/flexVolume/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/iscsi/secretRef/name",
    "/storageos/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/projected/secret/name",
];

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Whether the pod only mirrors one of the node's own.
pub fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
}

/// What a pod names.
pub fn of_pod(pod: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    if is_mirror(pod) {
        return found;
    }
    let namespace = value::namespace(pod);
    let mut add = |what: What, name: &str| {
        if !name.is_empty() {
            found.insert((what, namespace.to_owned(), name.to_owned()));
        }
    };
    add(What::Account, value::text(pod, "/spec/serviceAccountName"));
    for secret in items(pod, "/spec/imagePullSecrets") {
        add(What::Secret, value::text(secret, "/name"));
    }
    for list in ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"] {
        for container in items(pod, list) {
            for from in items(container, "/envFrom") {
                add(What::Secret, value::text(from, "/secretRef/name"));
                add(What::ConfigMap, value::text(from, "/configMapRef/name"));
            }
            for variable in items(container, "/env") {
                add(What::Secret, value::text(variable, "/valueFrom/secretKeyRef/name"));
                add(What::ConfigMap, value::text(variable, "/valueFrom/configMapKeyRef/name"));
            }
        }
    }
    for volume in items(pod, "/spec/volumes") {
        of_volume(pod, volume, &mut add);
    }
    for claim in items(pod, "/spec/resourceClaims") {
        add(What::ResourceClaim, value::text(claim, "/resourceClaimName"));
    }
    for claim in items(pod, "/status/resourceClaimStatuses") {
        add(What::ResourceClaim, value::text(claim, "/resourceClaimName"));
    }
    add(What::ResourceClaim, value::text(pod, "/status/extendedResourceClaimStatus/resourceClaimName"));
    found
}

fn of_volume(pod: &Value, volume: &Value, add: &mut impl FnMut(What, &str)) {
    for pointer in VOLUME_SECRETS {
        add(What::Secret, value::text(volume, pointer));
    }
    add(What::ConfigMap, value::text(volume, "/configMap/name"));
    add(What::Claim, value::text(volume, "/persistentVolumeClaim/claimName"));
    if volume.get("ephemeral").is_some_and(Value::is_object) {
        add(What::Claim, &format!("{}-{}", value::name(pod), value::text(volume, "/name")));
    }
    for source in items(volume, "/projected/sources") {
        add(What::Secret, value::text(source, "/secret/name"));
        add(What::ConfigMap, value::text(source, "/configMap/name"));
    }
}

/// The claim that a PersistentVolume is bound to, (namespace, name), and the secrets that its node needs for it.
pub fn of_volume_object(volume: &Value) -> Option<((String, String), BTreeSet<(String, String)>)> {
    let claim = volume.pointer("/spec/claimRef").filter(|claim| claim.is_object())?;
    let claim = (value::text(claim, "/namespace").to_owned(), value::text(claim, "/name").to_owned());
    let mut secrets = BTreeSet::new();
    let mut add = |pointer: &str, namespace: &str| {
        let name = value::text(volume, pointer);
        if !name.is_empty() {
            let namespace = if namespace.is_empty() { &claim.0 } else { namespace };
            secrets.insert((namespace.to_owned(), name.to_owned()));
        }
    };
    add("/spec/azureFile/secretName", value::text(volume, "/spec/azureFile/secretNamespace"));
    for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        let namespace = value::text(volume, &format!("/spec/{source}/secretRef/namespace"));
        add(&format!("/spec/{source}/secretRef/name"), namespace);
    }
    for secret in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        let namespace = value::text(volume, &format!("/spec/csi/{secret}/namespace"));
        add(&format!("/spec/csi/{secret}/name"), namespace);
    }
    Some((claim, secrets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_counts() {
        let pod = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "e"}}}], "envFrom": [{"configMapRef": {"name": "f"}}]}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "g"}}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "s"}}, {"name": "c", "configMap": {"name": "m"}},
                {"name": "data", "ephemeral": {}}, {"name": "x", "persistentVolumeClaim": {"claimName": "pvc"}},
                {"name": "y", "projected": {"sources": [{"secret": {"name": "ps"}}, {"configMap": {"name": "pm"}}]}}]}});
        let found: Vec<String> = of_pod(&pod).into_iter().map(|(what, _, name)| format!("{what:?}/{name}")).collect();
        let expected = [
            "Secret/e", "Secret/ps", "Secret/pull", "Secret/s", "ConfigMap/f", "ConfigMap/g", "ConfigMap/m",
            "ConfigMap/pm", "Claim/p-data", "Claim/pvc", "Account/sa",
        ];
        assert_eq!(found, expected);
        let mut mirror = pod;
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        assert!(of_pod(&mirror).is_empty(), "a node cannot give itself rights");
    }
}
