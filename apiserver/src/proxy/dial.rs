//! A connection to whatever stands behind a Service: to a ready pod through its node agent, to any other address
//! directly.

use std::net::IpAddr;

use balsa_api::cursor::{find, list, text};
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;
use tokio::net::TcpStream;

use super::connect::Stream;
use super::target::{self, Id};
use crate::pipeline::Target;
use crate::rest::Rest;

/// An open connection, and the host and port that it leads to.
pub(crate) struct Dialed {
    /// The bytes.
    pub stream: Box<dyn Stream>,
    /// For people.
    pub to: String,
}

/// Ready addresses that are no pods', with the port of that name. Pure.
fn plain_addresses<'a>(slices: impl Iterator<Item = &'a Value>, port: &str) -> Vec<(IpAddr, u16)> {
    let mut all = Vec::new();
    for slice in slices {
        let named = list(slice, "ports").iter().find(|own| text(own, "name") == port);
        let Some(number) = named.and_then(|own| find(own, "port").as_u64()).and_then(|port| u16::try_from(port).ok()) else {
            continue;
        };
        for endpoint in list(slice, "endpoints") {
            let ready = find(endpoint, "conditions.ready").as_bool().unwrap_or(true);
            if !ready || text(endpoint, "targetRef.kind") == "Pod" {
                continue;
            }
            all.extend(list(endpoint, "addresses").iter().filter_map(|address| Some((address.as_str()?.parse().ok()?, number))));
        }
    }
    all
}

impl Rest {
    /// Connects to a Service's port. Errors: 404 where there is no such Service, 503 where nothing answers behind it.
    pub(crate) async fn dial_service(&self, namespace: &str, name: &str, port: u16) -> ApiResult<Dialed> {
        let kind = balsa_api::kinds::find("", "v1", "services").ok_or_else(ApiError::no_such_path)?;
        let target = Target { kind, namespace, name };
        let service = self.api.lookup(target).await?.ok_or_else(|| target.not_found())?.value;
        if text(&service, "spec.type") == "ExternalName" {
            return dial(text(&service, "spec.externalName"), port).await;
        }
        let shown = port.to_string();
        let id = Id { tls: true, name, port: &shown };
        match self.service_backend(kind, namespace, &id).await {
            Ok(backend) => {
                let stream = self.connect(&backend).await?;
                Ok(Dialed { stream: Box::new(stream), to: super::authority(&backend) })
            }
            Err(error) => {
                let port = target::service_port(&service, &id)?;
                let addresses = plain_addresses(self.slices_of(namespace, name)?.iter(), port);
                let Some((address, port)) = pick(&addresses) else { return Err(error) };
                dial(&address.to_string(), port).await
            }
        }
    }

    /// The EndpointSlices of a Service.
    pub(crate) fn slices_of(&self, namespace: &str, name: &str) -> ApiResult<Vec<Value>> {
        let kind = balsa_api::kinds::find("discovery.k8s.io", "v1", "endpointslices").ok_or_else(ApiError::no_such_path)?;
        let all = self.api.cache(kind)?.list(namespace);
        let own = all.iter().filter(|slice| slice.labels.get("kubernetes.io/service-name").is_some_and(|own| own == name));
        Ok(own.map(|slice| slice.value()).collect())
    }
}

fn pick(addresses: &[(IpAddr, u16)]) -> Option<(IpAddr, u16)> {
    let at = usize::try_from(rand::random::<u32>()).unwrap_or_default() % addresses.len().max(1);
    addresses.get(at).copied()
}

async fn dial(host: &str, port: u16) -> ApiResult<Dialed> {
    let to = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let connected = TcpStream::connect((host.trim_end_matches('.'), port)).await;
    let stream = connected.map_err(|error| ApiError::unavailable(format!("dial tcp {to}: {error}")))?;
    stream.set_nodelay(true).ok();
    Ok(Dialed { stream: Box::new(stream), to })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_that_are_no_pods() {
        let slice = json!({"ports": [{"name": "web", "port": 8080}], "endpoints": [
            {"addresses": ["10.1.0.4"], "targetRef": {"kind": "Pod", "name": "p"}},
            {"addresses": ["192.0.2.1"], "conditions": {"ready": true}},
            {"addresses": ["192.0.2.2"], "conditions": {"ready": false}}]});
        assert_eq!(plain_addresses([&slice].into_iter(), "web"), [("192.0.2.1".parse().unwrap(), 8080)]);
        assert!(plain_addresses([&slice].into_iter(), "").is_empty());
    }
}
