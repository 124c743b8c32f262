//! A connection that many requests share, as those of client libraries are: HTTP/2 over TLS.

use anyhow::{Context as _, Result};
use balsa_process::tls::TlsIdentity;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Room for a list of ten thousand pods without waiting for window updates, bytes.
const WINDOW: u32 = 8 << 20;

/// A connection; its clones share it.
#[derive(Clone)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

/// A whole answer.
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// Its body.
    pub body: Bytes,
}

impl Client {
    /// To a server on 127.0.0.1.
    pub async fn connect(identity: &TlsIdentity, port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut config = identity.rustls_client()?.as_ref().clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = rustls::pki_types::ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Begins a request; the body is read by the caller.
    pub async fn begin(&mut self, method: &str, path: &str, body: Option<String>) -> Result<http::Response<Incoming>> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header("content-type", if method == "PATCH" { "application/merge-patch+json" } else { "application/json" })
            .header("accept", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        self.sender.ready().await?;
        self.sender.send_request(request).await.with_context(|| format!("{method} {path}"))
    }

    /// A whole request.
    pub async fn call(&mut self, method: &str, path: &str, body: Option<String>) -> Result<Answer> {
        let answer = self.begin(method, path, body).await?;
        let code = answer.status().as_u16();
        Ok(Answer { code, body: answer.into_body().collect().await?.to_bytes() })
    }

    /// A whole request that must succeed.
    pub async fn done(&mut self, method: &str, path: &str, body: Option<String>) -> Result<Bytes> {
        let answer = self.call(method, path, body).await?;
        if (200..300).contains(&answer.code) {
            return Ok(answer.body);
        }
        let said: String = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
        anyhow::bail!("{method} {path}: {} {said}", answer.code)
    }
}
