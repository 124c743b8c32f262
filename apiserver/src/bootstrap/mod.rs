//! What every cluster has from the start. Idempotent; every apiserver does it, whoever is first wins.

pub mod roles;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use balsa_api::kinds::flowcontrol;
use balsa_api::status::ApiError;
use balsa_process::backoff::Backoff;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::allocation::range::Network;
use crate::allocation::repair;
use crate::pipeline::{Api, Call, Target};
use crate::value;

/// Creates what is missing, again and again until it is all there.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    let mut backoff = Backoff::connection();
    while !stop.is_cancelled() {
        match once(&api).await {
            Ok(()) => {
                api.authorizer.set_complete();
                return tracing::info!("the cluster's own objects are in place");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot put the cluster's own objects in place yet");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
    }
}

async fn once(api: &Api) -> Result<(), ApiError> {
    if !api.caches.wait_for(1, Duration::from_secs(10)).await {
        return Err(ApiError::unavailable("the state is not loaded yet"));
    }
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(api, "", &object("v1", "Namespace", name, json!({}))).await?;
    }
    let network = json!({"spec": {"cidrs": [api.settings.service_cidr]}});
    ensure(api, "", &object("networking.k8s.io/v1", "ServiceCIDR", repair::DEFAULT_NETWORK, network)).await?;
    repair::ready_default(api, Call::internal("bootstrap").now).await?;
    ensure(api, "default", &kubernetes_service(&api.settings.service_cidr)).await?;
    if let Some(service) = dns_service(&api.settings.service_cidr) {
        ensure_dns(api, &service).await?;
    }
    for (name, level, description) in [
        ("system-cluster-critical", 2_000_000_000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
    ] {
        let rest = json!({"value": level, "description": description});
        ensure(api, "", &object("scheduling.k8s.io/v1", "PriorityClass", name, rest)).await?;
    }
    for role in roles::all() {
        ensure(api, value::namespace(&role), &role).await?;
    }
    for object in flowcontrol::builtin::all() {
        ensure(api, "", &object).await?;
    }
    let written = api.store.revision().await.map_err(|error| ApiError::unavailable(error.to_string()))?;
    if api.caches.wait_for(written, Duration::from_secs(10)).await {
        Ok(())
    } else {
        Err(ApiError::unavailable("the caches have not seen the bootstrap roles yet"))
    }
}

/// An object by name with further members.
fn object(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
        object.extend(rest);
    }
    object
}

fn kubernetes_service(cidr: &str) -> Value {
    let address = first_address(cidr);
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]}})
}

/// The Service that names the cluster's DNS: the tenth address, which every node answers itself. `None` for a network
/// without a tenth address.
fn dns_service(cidr: &str) -> Option<Value> {
    let network = Network::parse(cidr)?;
    let tenth = Ipv4Addr::from(u32::from(network.first()).checked_add(9)?);
    let address = network.is_usable(tenth).then(|| tenth.to_string())?;
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    Some(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}]}}))
}

/// The address may be somebody's in a cluster that is older than this Service; nodes answer there all the same.
async fn ensure_dns(api: &Api, service: &Value) -> Result<(), ApiError> {
    match ensure(api, "kube-system", service).await {
        Err(error) if error.code == 422 => {
            tracing::warn!(%error, "the cluster's DNS has no Service");
            Ok(())
        }
        done => done,
    }
}

/// The first usable address of an IPv4 network. Pure.
fn first_address(cidr: &str) -> String {
    Network::parse(cidr).map_or_else(|| "10.96.0.1".to_owned(), |network| network.first().to_string())
}

/// Creates the object unless one of its name is there. A kind that is not served is left out.
async fn ensure(api: &Api, namespace: &str, object: &Value) -> Result<(), ApiError> {
    let (group, version) = balsa_api::meta::split_api_version(value::text(object, "/apiVersion"));
    let Some(kind) = balsa_api::kinds::find_kind(group, version, value::text(object, "/kind")) else {
        tracing::warn!(kind = value::text(object, "/kind"), "not served, so not created");
        return Ok(());
    };
    let target = Target { kind, namespace, name: value::name(object) };
    if api.lookup(target).await?.is_some() {
        return Ok(());
    }
    match api.create(&Call::internal("bootstrap"), kind, namespace, object.clone().into()).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(ApiError { message: format!("{} {:?}: {}", kind.names().kind, target.name, error.message), ..error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_serves_the_api() {
        assert_eq!(first_address("10.96.0.0/16"), "10.96.0.1");
        assert_eq!(first_address("172.20.0.0/14"), "172.20.0.1");
    }

    #[test]
    fn the_tenth_address_names_the_dns() {
        let address = |cidr: &str| dns_service(cidr).map(|service| service["spec"]["clusterIP"].clone());
        assert_eq!(address("10.96.0.0/16"), Some(json!("10.96.0.10")));
        assert_eq!(address("10.96.0.0/29"), None);
    }
}
