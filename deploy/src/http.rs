//! Just enough HTTPS to ask the apiservers: one request per connection, JSON in and out, with a deadline.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use balsa_process::tls::TlsIdentity;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An API server on 127.0.0.1.
#[derive(Clone)]
pub struct Api {
    identity: TlsIdentity,
    port: u16,
}

/// An answer that may be an error of the server's.
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// The body as text.
    pub body: String,
}

impl Api {
    /// As the admin whose identity this is.
    pub fn new(identity: TlsIdentity, port: u16) -> Self {
        Self { identity, port }
    }

    /// One request.
    pub async fn send(&self, method: http::Method, path: &str, body: Option<&Value>, limit: Duration) -> Result<Answer> {
        tokio::time::timeout(limit, self.exchange(method, path, body))
            .await
            .with_context(|| format!("127.0.0.1:{} did not answer {path} within {limit:?}", self.port))?
    }

    async fn exchange(&self, method: http::Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.with_context(|| format!("127.0.0.1:{}", self.port))?;
        stream.set_nodelay(true)?;
        let name = rustls::pki_types::ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(self.identity.rustls_client()?).connect(name, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let answer = sender.send_request(request).await?;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(Answer { code, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// GET, as JSON; anything but 200 is an error.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.send(http::Method::GET, path, None, Duration::from_secs(10)).await?;
        if answer.code != 200 {
            bail!("GET {path}: {} {}", answer.code, answer.body.chars().take(300).collect::<String>());
        }
        serde_json::from_str(&answer.body).with_context(|| format!("GET {path}: not JSON"))
    }
}

/// A runtime for the verbs that need one.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("the async runtime")
}
