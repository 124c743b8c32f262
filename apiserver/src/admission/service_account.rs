//! Every pod runs as a ServiceAccount that exists, and finds its token where programs look for it.

use balsa_api::names;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use super::Review;
use crate::pipeline::{Api, Target};
use crate::value;

/// Where the token is mounted.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Fills in account, token volume and pull secrets.
pub async fn admit(api: &Api, review: &Review<'_>, pod: &mut Value) -> ApiResult<()> {
    // Mirror pods of static pods have no account.
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Ok(());
    }
    if value::text(pod, "/spec/serviceAccountName").is_empty() {
        value::member(pod, "spec").insert("serviceAccountName".to_owned(), json!("default"));
    }
    let name = value::text(pod, "/spec/serviceAccountName").to_owned();
    value::member(pod, "spec").insert("serviceAccount".to_owned(), json!(name));
    let namespace = review.target.namespace;
    let Some(kind) = balsa_api::kinds::find("", "v1", "serviceaccounts") else { return Ok(()) };
    let Some(account) = api.lookup(Target { kind, namespace, name: &name }).await? else {
        let detail =
            format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
        return Err(ApiError::forbidden(&review.target.kind.gvr(), review.target.name, &detail));
    };
    equip(pod, &account.value, &names::generate_name("kube-api-access-"));
    Ok(())
}

/// Gives the pod the account's token volume and pull secrets. Pure.
fn equip(pod: &mut Value, account: &Value, volume: &str) {
    let own = pod.pointer("/spec/automountServiceAccountToken").and_then(Value::as_bool);
    let of_account = account.get("automountServiceAccountToken").and_then(Value::as_bool);
    if own.or(of_account).unwrap_or(true) {
        mount_token(pod, volume);
    }
    let has_secrets = pod.pointer("/spec/imagePullSecrets").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if let Some(secrets) = account.get("imagePullSecrets").filter(|_| !has_secrets) {
        value::member(pod, "spec").insert("imagePullSecrets".to_owned(), secrets.clone());
    }
}

fn mount_token(pod: &mut Value, volume: &str) {
    // A pod that brings its own projection keeps it: made from a copy of another pod, say.
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let existing = volumes.into_iter().flatten().map(|volume| value::text(volume, "/name"));
    let existing = existing.filter(|name| name.starts_with("kube-api-access-")).map(str::to_owned).next();
    let name = existing.clone().unwrap_or_else(|| volume.to_owned());
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let Some(mounts) = value::list(container, "volumeMounts") else { continue };
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            used = true;
        }
    }
    if used
        && existing.is_none()
        && let Some(volumes) = value::list(value::member(pod, "spec"), "volumes")
    {
        volumes.push(token_volume(&name));
    }
    drop_empty_mounts(pod);
}

fn drop_empty_mounts(pod: &mut Value) {
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            if container.get("volumeMounts").and_then(Value::as_array).is_some_and(Vec::is_empty) {
                container.remove("volumeMounts");
            }
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}})
    }

    #[test]
    fn the_token_is_mounted_where_nothing_else_is() {
        let mut pod = pod();
        equip(&mut pod, &json!({"imagePullSecrets": [{"name": "s"}]}), "kube-api-access-abcde");
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["volumes"][0]["projected"]["sources"].as_array().unwrap().len(), 3);
        assert_eq!(pod["spec"]["imagePullSecrets"][0]["name"], "s");
    }

    #[test]
    fn the_pod_beats_the_account_in_refusing() {
        let mut refused = pod();
        refused["spec"]["automountServiceAccountToken"] = json!(false);
        equip(&mut refused, &json!({"automountServiceAccountToken": true}), "v");
        assert!(refused["spec"].get("volumes").is_none());
        let mut account_refuses = pod();
        equip(&mut account_refuses, &json!({"automountServiceAccountToken": false}), "v");
        assert!(account_refuses["spec"].get("volumes").is_none());
    }
}
