//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP through the API server to what runs in the cluster.
//!
//! The API server is in no pod network. It has the pod's node agent open a connection inside the pod, as for
//! port-forward, and speaks HTTP/1.1 over that; bodies are streamed both ways with bounded buffers, an upgraded
//! connection is joined to the client's. What is sent back leads through the proxy again ([`rewrite`]).
//!
//! Limits: the connection is made to the pod's own loopback address, so what listens on the pod's address alone is not
//! reached. Node agents speak no HTTP: of a node only `healthz`, `pods` and `stats/summary` are answered.

mod body;
pub(crate) mod connect;
pub(crate) mod dial;
pub(crate) mod headers;
mod rewrite;
mod target;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use balsa_api::kind::Kind;
use balsa_api::status::{ApiError, ApiResult};
use balsa_proto::node::PortForwardStart;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::pipeline::read::Version;
use crate::pipeline::{Api, Target};
use crate::rest::route::ResourcePath;
use crate::rest::{Exchange, Rest};
use crate::streaming::node::Address;
use crate::value;
use rewrite::Links;
use target::{Cut, Id};

/// From the first byte of the request until the answer's head.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Where a client connects from; in the extensions of its requests.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub SocketAddr);

/// A pod and port that a request goes to.
struct Backend {
    pod: Value,
    address: IpAddr,
    port: u16,
    tls: bool,
}

impl Rest {
    /// Answers a request to a `proxy` subresource. The caller has authorized it.
    pub(crate) async fn proxy(&self, exchange: &Exchange, path: &ResourcePath, request: Request<Body>) -> ApiResult<Response<Body>> {
        let found = crate::rest::resource::kind_of(&self.api, path).await?;
        let kind = &*found;
        let cut = target::cut(&exchange.path, kind.namespaced());
        self.admit_connection(exchange, kind, path, cut.rest).await?;
        let wants_upgrade = headers::upgrade(request.headers()).is_some();
        let backend = match path.resource.as_str() {
            "pods" => self.pod_backend(kind, &path.namespace, &Id::parse(&path.name, "pod")?).await?,
            "services" => self.service_backend(kind, &path.namespace, &Id::parse(&path.name, "service")?).await?,
            "nodes" => return self.node(exchange, kind, &path.name, &cut).await,
            _ => return Err(ApiError::no_such_path()),
        };
        let reads = matches!(exchange.method, Method::GET | Method::HEAD);
        if cut.rest.is_empty() && reads && !wants_upgrade {
            return redirect(&cut, &exchange.raw_query);
        }
        self.forward(exchange, &cut, &backend, request).await
    }

    async fn pod_backend(&self, kind: &dyn Kind, namespace: &str, id: &Id<'_>) -> ApiResult<Backend> {
        let pod = self.api.get(Target { kind, namespace, name: id.name }, Version::Newest).await?.value;
        let address = target::pod_address(&pod)?;
        let port = target::pod_port(&pod, id)?;
        Ok(Backend { pod, address, port, tls: id.tls })
    }

    async fn service_backend(&self, kind: &dyn Kind, namespace: &str, id: &Id<'_>) -> ApiResult<Backend> {
        let service = self.api.get(Target { kind, namespace, name: id.name }, Version::Newest).await?.value;
        let port = target::service_port(&service, id)?;
        let mut all = self.endpoints(namespace, id.name, port).await?;
        let start = usize::try_from(rand::random::<u32>()).unwrap_or_default() % all.len().max(1);
        all.rotate_left(start);
        let pods = balsa_api::kinds::find("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
        for endpoint in all {
            let found = self.api.lookup(Target { kind: pods, namespace, name: &endpoint.pod }).await?;
            let Some(pod) = found.map(|found| found.value).filter(|pod| target::has_address(pod, &endpoint.address)) else { continue };
            if let Ok(address) = target::pod_address(&pod) {
                return Ok(Backend { pod, address, port: endpoint.port, tls: id.tls });
            }
        }
        let asked = if id.port.is_empty() { id.name.to_owned() } else { format!("{}:{}", id.name, id.port) };
        Err(ApiError::unavailable(format!("no endpoints available for service {asked:?}")))
    }

    async fn endpoints(&self, namespace: &str, name: &str, port: &str) -> ApiResult<Vec<target::Endpoint>> {
        let kind = balsa_api::kinds::find("", "v1", "endpoints").ok_or_else(ApiError::no_such_path)?;
        if let Some(found) = self.api.lookup(Target { kind, namespace, name }).await? {
            let all = target::of_endpoints(&found.value, namespace, port);
            if !all.is_empty() {
                return Ok(all);
            }
        }
        let kind = balsa_api::kinds::find("discovery.k8s.io", "v1", "endpointslices").ok_or_else(ApiError::no_such_path)?;
        let slices: Vec<Value> = self.api.cache(kind)?.list(namespace).iter()
            .filter(|slice| slice.labels.get("kubernetes.io/service-name").is_some_and(|own| own == name))
            .map(|slice| slice.value())
            .collect();
        Ok(target::of_slices(slices.iter(), namespace, port))
    }

    /// Sends the request on and the answer back.
    async fn forward(&self, exchange: &Exchange, cut: &Cut<'_>, backend: &Backend, request: Request<Body>) -> ApiResult<Response<Body>> {
        let connection = self.connect(backend).await?;
        let answered = tokio::time::timeout(HANDSHAKE, async {
            if backend.tls {
                let stream = connect::tls(connection, backend.address).await?;
                http1::handshake(TokioIo::new(Box::new(stream) as Box<dyn connect::Stream>)).await.map_err(said)
            } else {
                http1::handshake(TokioIo::new(Box::new(connection) as Box<dyn connect::Stream>)).await.map_err(said)
            }
        });
        let late = || "net/http: TLS handshake timeout".to_owned();
        let (mut sender, driver) = answered.await.unwrap_or_else(|_| Err(late())).map_err(unreachable_service)?;
        tokio::spawn(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "a proxied connection ended");
            }
        });
        let (request, ours) = outgoing(exchange, cut, request)?;
        let links = Links {
            prefix: cut.prefix.to_owned(),
            hosts: vec![authority(backend), host_of(&request).to_owned()],
        };
        let response = sender.send_request(request).await.map_err(|error| unreachable_service(said(error)))?;
        match ours {
            Some(ours) => self.join(ours, response),
            None => Ok(answer(response, links)),
        }
    }

    async fn connect(&self, backend: &Backend) -> ApiResult<tokio::io::DuplexStream> {
        let node = value::text(&backend.pod, "/spec/nodeName");
        let address = Address { node: node.to_owned(), endpoint: self.node_address(node).await? };
        let start = PortForwardStart {
            namespace: value::namespace(&backend.pod).to_owned(),
            pod: value::name(&backend.pod).to_owned(),
            pod_uid: value::uid(&backend.pod).to_owned(),
            port: backend.port.into(),
        };
        let refused = |status: tonic::Status| unreachable_service(format!("dial tcp {}: {}", authority(backend), status.message()));
        let connection = self.streaming.nodes().connect(&address, start).await.map_err(refused)?;
        Ok(connect::stream(connection))
    }

    /// The answer to a request for an upgrade.
    pub(crate) fn join(&self, ours: hyper::upgrade::OnUpgrade, mut response: Response<hyper::body::Incoming>) -> ApiResult<Response<Body>> {
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            if status.as_u16() < 400 {
                return Err(ApiError::internal(format!("invalid upgrade response: status code {}", status.as_u16())));
            }
            headers::strip(response.headers_mut());
            return Ok(response.map(Body::new));
        }
        let theirs = hyper::upgrade::on(&mut response);
        self.streaming.spawn(async move {
            let both = async { tokio::try_join!(ours, theirs) };
            // The client gets its 101 only after this function returned.
            let Ok(Ok((ours, theirs))) = tokio::time::timeout(HANDSHAKE, both).await else { return };
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
                tracing::debug!(%error, "an upgraded proxied connection ended");
            }
        });
        headers::strip(response.headers_mut());
        let (parts, _) = response.into_parts();
        Ok(Response::from_parts(parts, Body::empty()))
    }

    /// What a node can be asked: it speaks gRPC to us, so we answer in its place.
    async fn node(&self, exchange: &Exchange, kind: &dyn Kind, id: &str, cut: &Cut<'_>) -> ApiResult<Response<Body>> {
        let id = Id::parse(id, "node")?;
        let node = self.api.get(Target { kind, namespace: "", name: id.name }, Version::Newest).await?.value;
        let own = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64).unwrap_or(10250);
        if !id.port.is_empty() && id.port != own.to_string() {
            let text = format!("only the agent's port {own} of a node is proxied to, not {:?}", id.port);
            return Err(ApiError::new(501, "NotImplemented", text));
        }
        if !matches!(exchange.method, Method::GET | Method::HEAD) {
            return Err(ApiError::new(501, "NotImplemented", "a node is only read from through this path"));
        }
        match cut.rest.trim_matches('/') {
            "" if cut.rest.is_empty() => redirect(cut, &exchange.raw_query),
            "healthz" => {
                self.node_stats(id.name).await?;
                Ok(plain("text/plain; charset=utf-8", "ok"))
            }
            "stats/summary" => Ok(plain("application/json", self.node_stats(id.name).await?)),
            "pods" | "runningpods" => Ok(plain("application/json", pods_of(&self.api, id.name)?.to_string())),
            other => {
                let text = format!(
                    "a node agent of this cluster does not serve {other:?} here: healthz, pods and stats/summary are there; \
                     logs, exec, attach and port-forward are subresources of pods"
                );
                Err(ApiError::new(501, "NotImplemented", text))
            }
        }
    }

    async fn node_stats(&self, node: &str) -> ApiResult<bytes::Bytes> {
        let address = Address { node: node.to_owned(), endpoint: self.node_address(node).await? };
        let stats = self.streaming.nodes().stats(&address).await;
        stats.map_err(|status| unreachable_service(status.message().to_owned()))
    }
}

fn pods_of(api: &Api, node: &str) -> ApiResult<Value> {
    let kind = balsa_api::kinds::find("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
    let pods = api.cache(kind)?.list("");
    let own: Vec<Value> = pods.iter().filter(|pod| pod.field(kind, "spec.nodeName") == node).map(|pod| pod.value()).collect();
    Ok(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": own}))
}

fn plain(kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Relative links need a path that ends in a slash.
fn redirect(cut: &Cut<'_>, query: &str) -> ApiResult<Response<Body>> {
    let location = if query.is_empty() { format!("{}/", cut.prefix) } else { format!("{}/?{query}", cut.prefix) };
    let location = HeaderValue::from_str(&location).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn authority(backend: &Backend) -> String {
    SocketAddr::new(backend.address, backend.port).to_string()
}

fn unreachable_service(text: String) -> ApiError {
    ApiError::unavailable(format!("error trying to reach service: {text}"))
}

/// An error with what is behind it.
pub(crate) fn said(error: hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// What the client called us: `Host`, or the authority of HTTP/2.
fn host_of<B>(request: &Request<B>) -> &str {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)).unwrap_or_default()
}

/// The request as the pod gets it; where it asks for an upgrade, our end of it.
fn outgoing(exchange: &Exchange, cut: &Cut<'_>, mut request: Request<Body>) -> ApiResult<(Request<Body>, Option<hyper::upgrade::OnUpgrade>)> {
    let ours = headers::upgrade(request.headers()).map(|_| hyper::upgrade::on(&mut request));
    let host = host_of(&request).to_owned();
    let client = request.extensions().get::<Client>().map(|client| client.0.ip().to_string());
    let (mut parts, body) = request.into_parts();
    let path = if cut.rest.is_empty() { "/" } else { cut.rest };
    headers::forward(&mut parts.headers, &host, client.as_deref(), &format!("{}{}", cut.prefix, cut.rest));
    let target = if exchange.raw_query.is_empty() { path.to_owned() } else { format!("{path}?{}", exchange.raw_query) };
    parts.uri = target.parse::<Uri>().map_err(|error| ApiError::bad_request(format!("the path {target:?}: {error}")))?;
    parts.version = http::Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    Ok((Request::from_parts(parts, body), ours))
}

/// The pod's answer as the client gets it.
fn answer(response: Response<hyper::body::Incoming>, links: Links) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    headers::strip(&mut parts.headers);
    parts.extensions = http::Extensions::new();
    parts.version = http::Version::HTTP_11;
    let body = Body::new(body);
    let location = parts.headers.get(header::LOCATION).and_then(|link| link.to_str().ok()).map(|link| links.rewrite(link));
    if let Some(location) = location {
        if let Ok(location) = HeaderValue::from_str(&location) {
            parts.headers.insert(header::LOCATION, location);
        }
        return Response::from_parts(parts, body);
    }
    if body::is_html(&parts.headers) {
        let body = body::rewritten(&mut parts.headers, body, links);
        return Response::from_parts(parts, body);
    }
    Response::from_parts(parts, body)
}
