//! One HTTP request as probes and hooks make it: no proxy, no certificate check, at most 10 KiB of the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::header::{HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

/// How much of an answer is read.
const BODY_LIMIT: usize = 10 << 10;

/// A request, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Host to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// With TLS.
    pub tls: bool,
    /// Path and query.
    pub path: String,
    /// Headers of the spec.
    pub headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// `Location`, where there is one.
    pub location: Option<String>,
    /// Beginning of the body.
    pub body: String,
}

/// The number of a port that is given by number or by name.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    let valid = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    valid.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name}"),
    })
}

/// The request of an `httpGet`; the host defaults to the pod's address.
pub fn request(container: &Container, action: &HTTPGetAction, pod_ip: &str) -> Result<Request, String> {
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Request {
        host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
        port: port(container, &action.port)?,
        tls: action.scheme.as_deref() == Some("HTTPS"),
        path,
        headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

impl Request {
    /// As messages name it.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Makes the request. An `Err` is the connection's failure, in words as Go has them.
pub async fn get(request: &Request, default_agent: &str, timeout: Duration) -> Result<Response, String> {
    let whole = async {
        let stream = TcpStream::connect((request.host.as_str(), request.port))
            .await
            .map_err(|error| format!("dial tcp {}: connect: {}", request.authority(), words(&error)))?;
        if request.tls {
            let connector = tokio_rustls::TlsConnector::from(balsa_process::tls::trusting_client().map_err(|error| error.to_string())?);
            let name = ServerName::try_from(request.host.clone()).map_err(|error| error.to_string())?;
            let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            exchange(TokioIo::new(stream), request, default_agent).await
        } else {
            exchange(TokioIo::new(stream), request, default_agent).await
        }
    };
    match tokio::time::timeout(timeout, whole).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(format!("Get \"{}\": {error}", request.url())),
        Err(_) => Err(format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            request.url()
        )),
    }
}

fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

async fn exchange<S>(stream: S, request: &Request, default_agent: &str) -> Result<Response, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let result = async {
        let message = message(request, default_agent)?;
        let response = sender.send_request(message).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = body(response.into_body()).await;
        Ok(Response { status, location, body })
    }
    .await;
    connection.abort();
    result
}

fn message(request: &Request, default_agent: &str) -> Result<hyper::Request<Empty<Bytes>>, String> {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    headers.insert("host".to_owned(), request.authority());
    headers.insert("user-agent".to_owned(), default_agent.to_owned());
    headers.insert("accept".to_owned(), "*/*".to_owned());
    headers.insert("connection".to_owned(), "close".to_owned());
    for (name, value) in &request.headers {
        let name = name.to_ascii_lowercase();
        // An empty value of these two takes the header away.
        if value.is_empty() && (name == "accept" || name == "user-agent") {
            headers.remove(&name);
        } else {
            headers.insert(name, value.clone());
        }
    }
    let mut message =
        hyper::Request::builder().uri(&request.path).body(Empty::new()).map_err(|error| error.to_string())?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
        message.headers_mut().insert(name, value);
    }
    Ok(message)
}

async fn body(mut body: hyper::body::Incoming) -> String {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(&data[..data.len().min(BODY_LIMIT - text.len())]);
        }
        if text.len() >= BODY_LIMIT {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
