//! What a proxied request is meant for: the parts of its path, the pod and port behind a name. Pure.
//!
//! After `SplitSchemeNamePort` of apimachinery and the `ResourceLocation` functions of pods, services and nodes.

use std::net::IpAddr;

use balsa_api::cursor::{find, list, text};
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

/// `[http:|https:]name[:port]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id<'a> {
    /// Whether the connection is TLS.
    pub tls: bool,
    /// The object's name.
    pub name: &'a str,
    /// Number or name of a port; empty: the object's own choice.
    pub port: &'a str,
}

impl<'a> Id<'a> {
    /// From the name in a path. `what` is `pod`, `service` or `node`.
    pub fn parse(text: &'a str, what: &str) -> ApiResult<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("?", "", ""),
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return Err(ApiError::bad_request(format!("invalid {what} request {text:?}")));
        }
        Ok(Self { tls: scheme == "https", name, port })
    }

    fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }
}

/// A path cut where the proxied part begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut<'a> {
    /// `/api/v1/namespaces/n/pods/p/proxy`
    pub prefix: &'a str,
    /// What follows, with its slash, as it was written; empty where nothing does.
    pub rest: &'a str,
}

/// Cuts a path behind its `proxy` segment, the one that the route found. Segments that are empty do not count.
pub fn cut(path: &str, namespaced: bool) -> Cut<'_> {
    let wanted = if namespaced { 7 } else { 5 };
    let (mut seen, mut inside) = (0, false);
    for (at, byte) in path.bytes().enumerate() {
        match (byte == b'/', inside) {
            (true, true) => {
                inside = false;
                if seen == wanted {
                    return Cut { prefix: &path[..at], rest: &path[at..] };
                }
            }
            (false, false) => {
                inside = true;
                seen += 1;
            }
            _ => {}
        }
    }
    Cut { prefix: path, rest: "" }
}

/// The address of a pod that may be proxied to.
pub fn pod_address(pod: &Value) -> ApiResult<IpAddr> {
    let first = list(pod, "status.podIPs").first().map(|address| text(address, "ip"));
    let shown = text(pod, "status.podIP");
    let address = first.filter(|address| !address.is_empty()).unwrap_or(shown).parse::<IpAddr>();
    let is_global = |address: &IpAddr| match address {
        IpAddr::V4(own) => !(own.is_link_local() || own.is_broadcast() || own.is_loopback() || own.is_multicast() || own.is_unspecified()),
        IpAddr::V6(own) => {
            !(own.is_loopback() || own.is_multicast() || own.is_unspecified() || own.segments()[0] & 0xffc0 == 0xfe80)
        }
    };
    address.ok().filter(is_global).ok_or_else(|| ApiError::bad_request("address not allowed"))
}

/// The port of a pod: the one asked for, its first one, or the scheme's.
pub fn pod_port(pod: &Value, id: &Id<'_>) -> ApiResult<u16> {
    if !id.port.is_empty() {
        return number(id.port);
    }
    let ports = list(pod, "spec.containers").iter().filter_map(|container| list(container, "ports").first());
    let first = ports.filter_map(|port| find(port, "containerPort").as_u64()).next();
    Ok(first.and_then(|port| u16::try_from(port).ok()).unwrap_or_else(|| id.default_port()))
}

fn number(port: &str) -> ApiResult<u16> {
    port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
        let unknown = format!("error trying to reach service: dial tcp: lookup tcp/{port}: unknown port");
        ApiError::unavailable(unknown)
    })
}

/// The name of the Service's port that is meant. Numbers are numbers of the Service, not of its pods.
pub fn service_port<'a>(service: &'a Value, id: &Id<'a>) -> ApiResult<&'a str> {
    let Ok(number) = id.port.parse::<i64>() else { return Ok(id.port) };
    let ports = list(service, "spec.ports").iter();
    let known = ports.filter(|port| find(port, "port").as_i64() == Some(number)).map(|port| text(port, "name")).next();
    let unknown = || ApiError::unavailable(format!("no service port {number} found for service {:?}", id.name));
    known.ok_or_else(unknown)
}

/// Somewhere behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// The pod that has them, in the Service's namespace.
    pub pod: String,
}

fn pod_of(reference: &Value, namespace: &str) -> Option<String> {
    let is_pod = matches!(text(reference, "kind"), "Pod" | "") && text(reference, "namespace") == namespace;
    Some(text(reference, "name")).filter(|name| is_pod && !name.is_empty()).map(str::to_owned)
}

fn port_number(ports: &[Value], wanted: &str) -> Option<u16> {
    let port = ports.iter().find(|port| text(port, "name") == wanted)?;
    find(port, "port").as_u64().and_then(|port| u16::try_from(port).ok())
}

/// The ready endpoints of an `Endpoints` object that have the port. Only pods count.
pub fn of_endpoints(endpoints: &Value, namespace: &str, port: &str) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for subset in list(endpoints, "subsets") {
        let Some(number) = port_number(list(subset, "ports"), port) else { continue };
        all.extend(list(subset, "addresses").iter().filter_map(|address| {
            let pod = pod_of(find(address, "targetRef"), namespace)?;
            Some(Endpoint { address: text(address, "ip").to_owned(), port: number, pod })
        }));
    }
    all
}

/// The same of `EndpointSlice` objects.
pub fn of_slices<'a>(slices: impl Iterator<Item = &'a Value>, namespace: &str, port: &str) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for slice in slices {
        let Some(number) = port_number(list(slice, "ports"), port) else { continue };
        // Unknown readiness counts as ready.
        let ready = |endpoint: &&Value| find(endpoint, "conditions.ready").as_bool().unwrap_or(true);
        all.extend(list(slice, "endpoints").iter().filter(ready).filter_map(|endpoint| {
            let pod = pod_of(find(endpoint, "targetRef"), namespace)?;
            let address = list(endpoint, "addresses").first().and_then(Value::as_str)?;
            Some(Endpoint { address: address.to_owned(), port: number, pod })
        }));
    }
    all
}

/// Whether the pod has the address now: an endpoint may be older than the pod.
pub fn has_address(pod: &Value, address: &str) -> bool {
    text(pod, "status.podIP") == address || list(pod, "status.podIPs").iter().any(|own| text(own, "ip") == address)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_with_scheme_and_port() {
        let parts = |text| Id::parse(text, "pod").map(|id| (id.tls, id.name, id.port)).map_err(|error| error.message);
        assert_eq!(parts("a"), Ok((false, "a", "")));
        assert_eq!(parts("a:80"), Ok((false, "a", "80")));
        assert_eq!(parts("https:a:"), Ok((true, "a", "")));
        assert_eq!(parts("http:a:web"), Ok((false, "a", "web")));
        for wrong in ["ftp:a:1", ":80", "a:b:c:d", ""] {
            assert_eq!(parts(wrong), Err(format!("invalid pod request {wrong:?}")));
        }
    }

    #[test]
    fn paths_are_cut_as_they_were_written() {
        let base = "/api/v1/namespaces/n/pods/p:80/proxy";
        let rest = |tail: &str| cut(&format!("{base}{tail}"), true).rest.to_owned();
        assert_eq!(rest(""), "");
        assert_eq!(rest("/"), "/");
        assert_eq!(rest("/a%20b//c/"), "/a%20b//c/");
        assert_eq!(cut("/api/v1/nodes/n/proxy/pods", false), Cut { prefix: "/api/v1/nodes/n/proxy", rest: "/pods" });
        assert_eq!(cut("//api/v1/nodes/n/proxy/x", false).rest, "/x");
    }

    #[test]
    fn ports_of_pods() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]},
            "status": {"podIP": "10.1.0.4"}});
        let port = |text: &str| pod_port(&pod, &Id::parse(text, "pod").unwrap()).map_err(|error| error.message);
        assert_eq!(port("p"), Ok(8080));
        assert_eq!(port("p:90"), Ok(90));
        assert!(port("p:web").unwrap_err().contains("unknown port"));
        assert_eq!(pod_port(&json!({}), &Id::parse("https:p:", "pod").unwrap()).unwrap(), 443);
        assert!(pod_address(&pod).is_ok());
        for address in ["", "127.0.0.1", "169.254.0.9", "x"] {
            assert_eq!(pod_address(&json!({"status": {"podIP": address}})).unwrap_err().code, 400);
        }
    }

    #[test]
    fn a_service_leads_to_its_ready_pods() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}]}});
        let id = |text| Id::parse(text, "service").unwrap();
        assert_eq!(service_port(&service, &id("s:443")).unwrap(), "tls");
        assert_eq!(service_port(&service, &id("s:web")).unwrap(), "web");
        assert_eq!(service_port(&service, &id("s:81")).unwrap_err().message, "no service port 81 found for service \"s\"");
        let reference = |name: &str| json!({"kind": "Pod", "namespace": "n", "name": name});
        let endpoints = json!({"subsets": [{"addresses": [{"ip": "10.1.0.4", "targetRef": reference("a")}, {"ip": "10.9.9.9"}],
            "notReadyAddresses": [{"ip": "10.1.0.5", "targetRef": reference("b")}], "ports": [{"name": "web", "port": 8080}]}]});
        let expected = [Endpoint { address: "10.1.0.4".into(), port: 8080, pod: "a".into() }];
        assert_eq!(of_endpoints(&endpoints, "n", "web"), expected);
        assert!(of_endpoints(&endpoints, "n", "tls").is_empty() && of_endpoints(&endpoints, "other", "web").is_empty());
        let slice = json!({"ports": [{"name": "web", "port": 8080}], "endpoints": [
            {"addresses": ["10.1.0.4"], "conditions": {"ready": true}, "targetRef": reference("a")},
            {"addresses": ["10.1.0.5"], "conditions": {"ready": false}, "targetRef": reference("b")}]});
        assert_eq!(of_slices([&slice].into_iter(), "n", "web"), expected);
    }
}
