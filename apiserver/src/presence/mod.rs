//! This API server among the others: its Lease, and the endpoints of the Service `kubernetes`.
//!
//! What is written is [`plan`]'s word; here the address is found out and it is written.

pub mod plan;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use balsa_api::kind::Part;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::pipeline::update::Write;
use crate::pipeline::{Api, Call, Target};
use crate::value;
use plan::Place;

/// How often the Lease is renewed.
const RENEW: Duration = Duration::from_secs(10);

/// The address of ours from which `towards` would be reached. Nothing is sent.
fn route_to(towards: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if towards.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(towards).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Where others reach this API server: the address that is listened on, else that of the way out of this machine. `None`:
/// on loopback only, which is of no use to others.
pub fn place(listen: SocketAddr) -> Option<Place> {
    let address = if listen.ip().is_unspecified() {
        // An address for documentation: there is a route to it where there is one at all.
        route_to(SocketAddr::from(([192, 0, 2, 1], 9)))?
    } else {
        listen.ip()
    };
    (!address.is_loopback() && !address.is_unspecified()).then_some(Place { address, port: listen.port() })
}

/// Renews and publishes until `stop`.
pub async fn run(api: Arc<Api>, place: Place, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if api.authorizer.is_complete()
            && let Err(error) = once(&api, place).await
        {
            tracing::warn!(%error, "cannot say where this API server is");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RENEW) => {}
        }
    }
}

/// One round.
pub(crate) async fn once(api: &Api, place: Place) -> ApiResult<()> {
    let call = Call::internal("presence");
    let own = plan::lease(&api.settings.name, place, call.now);
    put(api, &call, "coordination.k8s.io", "leases", &own, |_| false).await?;
    let kind = balsa_api::kinds::find("coordination.k8s.io", "v1", "leases").ok_or_else(ApiError::no_such_path)?;
    let mut leases: Vec<Value> = api.cache(kind)?.list(plan::NAMESPACE).iter().map(|lease| lease.value()).collect();
    // The cache may not have heard of our own yet.
    leases.push(own);
    let places = plan::alive(&leases, call.now);
    let endpoints = plan::endpoints(&places);
    put(api, &call, "", "endpoints", &endpoints, |present| plan::is_right(present, &endpoints)).await?;
    let slice = plan::slice(&places);
    put(api, &call, "discovery.k8s.io", "endpointslices", &slice, |present| plan::is_right(present, &slice)).await
}

/// Creates the object, or makes it what it should be unless it is right.
async fn put(api: &Api, call: &Call, group: &str, plural: &str, wanted: &Value, right: impl Fn(&Value) -> bool) -> ApiResult<()> {
    let kind = balsa_api::kinds::find(group, "v1", plural).ok_or_else(ApiError::no_such_path)?;
    let (namespace, name) = (value::namespace(wanted), value::name(wanted));
    let target = Target { kind, namespace, name };
    let done = match api.lookup(target).await? {
        Some(found) if right(&found.value) => return Ok(()),
        Some(_) => {
            let change = |present: &Value| {
                let mut object = wanted.clone();
                object["metadata"] = present["metadata"].clone();
                for member in ["labels", "annotations"] {
                    if let Some(given) = wanted["metadata"].get(member) {
                        object["metadata"][member] = given.clone();
                    }
                }
                Ok(object)
            };
            api.modify(call, Write { target, part: Part::Main, by_rules: true }, &change).await
        }
        None => api.create(call, kind, namespace, wanted.clone().into()).await,
    };
    match done {
        Err(error) if error.is_already_exists() || error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Server;

    #[tokio::test]
    async fn the_service_leads_to_the_servers() {
        let server = Server::start().await;
        let place = Place { address: IpAddr::from([10, 9, 8, 7]), port: 6443 };
        once(&server.rest.api, place).await.unwrap();
        once(&server.rest.api, place).await.unwrap();
        let (code, endpoints) = server.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
        assert_eq!((code, &endpoints["subsets"][0]["addresses"][0]["ip"]), (200, &serde_json::json!("10.9.8.7")));
        let (code, slice) = server.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
        assert_eq!((code, &slice["endpoints"][0]["addresses"][0]), (200, &serde_json::json!("10.9.8.7")));
        let (code, lease) = server.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/apiserver-a").await;
        assert_eq!((code, &lease["spec"]["holderIdentity"]), (200, &serde_json::json!("a")));
    }

    #[test]
    fn loopback_is_of_no_use_to_others() {
        assert!(super::place("127.0.0.1:6443".parse().unwrap()).is_none());
        assert_eq!(super::place("10.1.2.3:1".parse().unwrap()).unwrap().port, 1);
    }
}
