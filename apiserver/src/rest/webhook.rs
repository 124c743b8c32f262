//! Calls to webhooks that objects of the cluster name by `clientConfig`: a Service (through the way that proxied
//! requests go) or a URL, over TLS that the given `caBundle` vouches for.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::{Method, Request, header};
use http_body_util::{BodyDataStream, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::Rest;
use crate::apiextensions::convert::Reach;
use crate::proxy::connect::{Stream, Trust, trusting};
use crate::value;

/// The largest answer that is read, bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Calls webhooks through this server's ways into the cluster.
pub struct Hooks {
    rest: Weak<Rest>,
}

/// Where a webhook is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Service { namespace: String, name: String, port: u16 },
    Host { host: String, port: u16 },
}

/// A webhook's place, the name that its certificate must show, and the path on it. Pure.
fn place(config: &Value) -> Result<(Place, String, String), String> {
    if let Some(service) = config.get("service").filter(|service| service.is_object()) {
        let (namespace, name) = (value::text(service, "/namespace").to_owned(), value::text(service, "/name").to_owned());
        let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
        let path = match value::text(service, "/path") {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        let shown = format!("{name}.{namespace}.svc");
        return Ok((Place::Service { namespace, name, port }, shown, path));
    }
    let url = value::text(config, "/url");
    let uri: http::Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
    let host = host.ok_or_else(|| format!("{url:?} is no https URL"))?.trim_matches(['[', ']']).to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok((Place::Host { host: host.clone(), port: uri.port_u16().unwrap_or(443) }, host, path))
}

fn said(error: hyper::Error) -> String {
    crate::proxy::said(error)
}

impl Hooks {
    /// Calls through `rest`, as long as that lives.
    pub fn new(rest: &Arc<Rest>) -> Self {
        Self { rest: Arc::downgrade(rest) }
    }

    async fn dial(&self, place: &Place) -> Result<Box<dyn Stream>, String> {
        match place {
            Place::Service { namespace, name, port } => {
                let rest = self.rest.upgrade().ok_or("this server is going down")?;
                let dialed = rest.dial_service(namespace, name, *port).await;
                dialed.map(|dialed| dialed.stream).map_err(|error| error.message)
            }
            Place::Host { host, port } => {
                let connected = tokio::net::TcpStream::connect((host.as_str(), *port)).await;
                let stream = connected.map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
                Ok(Box::new(stream))
            }
        }
    }

    async fn send(&self, config: &Value, body: &Value) -> Result<Value, String> {
        let (place, name, path) = place(config)?;
        let bundle = STANDARD.decode(value::text(config, "/caBundle")).map_err(|error| format!("caBundle: {error}"))?;
        if bundle.is_empty() {
            return Err("no caBundle is given, and this server trusts no other authorities".to_owned());
        }
        let tls = trusting(&Trust::Bundle(bundle), None)?;
        let server = ServerName::try_from(name.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(server, self.dial(&place).await?).await;
        let stream = stream.map_err(|error| format!("tls: {error}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
        let driver = tokio::spawn(connection);
        let bytes = Bytes::from(serde_json::to_vec(body).map_err(|error| error.to_string())?);
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, name)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(bytes))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status();
        let mut answer = BytesMut::new();
        let mut pieces = BodyDataStream::new(response.into_body());
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(said)?;
            if answer.len() + piece.len() > MAX_ANSWER {
                driver.abort();
                return Err(format!("the answer is larger than {MAX_ANSWER} bytes"));
            }
            answer.extend_from_slice(&piece);
        }
        driver.abort();
        if !status.is_success() {
            let text: String = String::from_utf8_lossy(&answer).chars().take(500).collect();
            return Err(format!("the server answered {status}: {text}"));
        }
        serde_json::from_slice(&answer).map_err(|error| format!("the answer is no JSON: {error}"))
    }
}

#[async_trait]
impl Reach for Hooks {
    async fn post(&self, client_config: &Value, body: Value, deadline: Duration) -> Result<Value, String> {
        let sent = tokio::time::timeout(deadline, self.send(client_config, &body)).await;
        sent.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn where_webhooks_are() {
        let service = json!({"service": {"namespace": "n", "name": "s", "path": "/convert", "port": 9443}});
        let expected = Place::Service { namespace: "n".into(), name: "s".into(), port: 9443 };
        assert_eq!(place(&service).unwrap(), (expected, "s.n.svc".to_owned(), "/convert".to_owned()));
        let host = Place::Host { host: "example.com".into(), port: 8443 };
        let url = json!({"url": "https://example.com:8443/a?b=c"});
        assert_eq!(place(&url).unwrap(), (host, "example.com".to_owned(), "/a?b=c".to_owned()));
        assert!(place(&json!({"url": "http://example.com"})).is_err() && place(&json!({})).is_err());
    }
}
