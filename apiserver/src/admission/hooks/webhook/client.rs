//! The way to a webhook: HTTP/1.1 over TLS, to a URL or to a Service of the cluster.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_api::status::{ApiError, ApiResult};
use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::proxy::connect::{Stream, Trust, trusting};
use crate::proxy::said;
use crate::value;

/// The largest answer that is read, in bytes.
const LARGEST: usize = 3 << 20;

/// Opens connections to what stands behind Services.
#[async_trait]
pub trait Dial: Send + Sync {
    /// A connection to a Service's port.
    async fn dial(&self, namespace: &str, name: &str, port: u16) -> ApiResult<Box<dyn Stream>>;
}

/// Where a webhook is, and whom to trust there.
#[derive(Debug, Clone)]
pub struct Client {
    place: Place,
    tls: Result<Arc<rustls::ClientConfig>, String>,
}

#[derive(Debug, Clone)]
enum Place {
    Service { namespace: String, name: String, port: u16, path: String },
    Url(String),
}

impl Client {
    /// From a `clientConfig`.
    pub fn parse(config: &Value) -> Self {
        let place = match config.get("service").filter(|service| service.is_object()) {
            Some(service) => Place::Service {
                namespace: value::text(service, "/namespace").to_owned(),
                name: value::text(service, "/name").to_owned(),
                port: service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
                path: value::text(service, "/path").to_owned(),
            },
            None => Place::Url(value::text(config, "/url").to_owned()),
        };
        let bundle = base64::engine::general_purpose::STANDARD.decode(value::text(config, "/caBundle"));
        let tls = bundle
            .map_err(|error| format!("caBundle is not base64: {error}"))
            .and_then(|pem| trusting(&Trust::Bundle(pem), None))
            .map(|mut tls| {
                tls.alpn_protocols = vec![b"http/1.1".to_vec()];
                Arc::new(tls)
            });
        Self { place, tls }
    }

    /// The address that is asked, with the time that the webhook has.
    fn url(&self, timeout: Duration) -> String {
        let base = match &self.place {
            Place::Service { namespace, name, port, path } => {
                let path = if path.is_empty() { "/" } else { path };
                format!("https://{name}.{namespace}.svc:{port}{path}")
            }
            Place::Url(url) => url.clone(),
        };
        format!("{base}?timeout={}s", timeout.as_secs())
    }

    /// Posts a review and reads the answer; the error says what went wrong on the way.
    pub async fn post(&self, dial: Option<&dyn Dial>, review: &Value, timeout: Duration) -> Result<Value, String> {
        let url = self.url(timeout);
        let exchange = self.exchange(dial, &url, review);
        let answered = tokio::time::timeout(timeout, exchange).await;
        answered.unwrap_or_else(|_| Err(posting(&url, "context deadline exceeded")))
    }

    async fn exchange(&self, dial: Option<&dyn Dial>, url: &str, review: &Value) -> Result<Value, String> {
        let failed = |why: String| posting(url, &why);
        let uri: Uri = url.parse().map_err(|error| failed(format!("{error}")))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = self.connect(dial, &uri, &host).await.map_err(|error| failed(error.message))?;
        let tls = self.tls.clone().map_err(failed)?;
        let name = ServerName::try_from(host).map_err(|error| failed(error.to_string()))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| failed(tls_text(&error)))?;
        let (mut sender, driver) =
            http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|error| failed(said(error)))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let authority = uri.authority().map_or("", |authority| authority.as_str()).to_owned();
        let request = Request::post(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(|error| failed(error.to_string()))?;
        let asked = async move {
            let response = sender.send_request(request).await.map_err(|error| failed(said(error)))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
            // The connection ends with its sender.
            drop(sender);
            read(status, &body)
        };
        let (answer, _) = tokio::join!(asked, driver);
        answer
    }

    async fn connect(&self, dial: Option<&dyn Dial>, uri: &Uri, host: &str) -> ApiResult<Box<dyn Stream>> {
        match &self.place {
            Place::Service { namespace, name, port, .. } => {
                let dial = dial.ok_or_else(|| ApiError::unavailable("services cannot be reached yet"))?;
                dial.dial(namespace, name, *port).await
            }
            Place::Url(_) => {
                let port = uri.port_u16().unwrap_or(443);
                let stream = TcpStream::connect((host, port)).await;
                let stream =
                    stream.map_err(|error| ApiError::unavailable(format!("dial tcp {host}:{port}: {}", plain(&error))))?;
                stream.set_nodelay(true).ok();
                Ok(Box::new(stream))
            }
        }
    }
}

fn posting(url: &str, why: &str) -> String {
    format!("failed to call webhook: Post {url:?}: {why}")
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// TLS errors in the words that people know from Go where there are such.
fn tls_text(error: &std::io::Error) -> String {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let verify = "tls: failed to verify certificate: x509:";
    match inner {
        // A bad signature: an authority of the same name, but another one.
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            format!("{verify} certificate signed by unknown authority")
        }
        Some(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            format!("{verify} certificate has expired or is not yet valid")
        }
        Some(Error::InvalidCertificate(other)) => format!("{verify} {other}"),
        _ => error.to_string(),
    }
}

/// An answer's body; what is no success is an error in the words of Kubernetes' client.
fn read(status: u16, body: &Bytes) -> Result<Value, String> {
    let text = || String::from_utf8_lossy(body).chars().take(1024).collect::<String>();
    match status {
        200..=299 => serde_json::from_slice(body).map_err(|error| format!("failed to call webhook: {error}")),
        404 => Err("failed to call webhook: the server could not find the requested resource".to_owned()),
        400..=499 => Err(format!(
            "failed to call webhook: the server rejected our request for an unknown reason: {}",
            text().trim()
        )),
        _ => Err(format!(
            "failed to call webhook: an error on the server ({:?}) has prevented the request from succeeding",
            text().trim()
        )),
    }
}
