//! Plain HTTP to the engine's socket where bytes must pass untouched: hijacked streams, logs, events.
//!
//! The client library guesses from a stream's first byte whether it is framed; a terminal may begin with any byte. It
//! also does not say when a stream is established, which events need. Everything else goes through the library.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::error::{self, Op};
use crate::runtime::{RuntimeError, RuntimeResult};

/// An answer that is not a stream is never longer.
const MAX_BODY: usize = 4 << 20;

/// Makes one connection per request.
#[derive(Debug, Clone)]
pub struct Wire {
    socket: PathBuf,
    timeout: Duration,
}

/// Both directions of a hijacked connection, and what the engine sent along with its answer's head.
#[derive(Debug)]
pub struct Hijacked {
    /// The connection.
    pub stream: UnixStream,
    /// Bytes that came first.
    pub first: Bytes,
}

impl Wire {
    /// `timeout` bounds the time to an answer's head.
    pub fn new(socket: &Path, timeout: Duration) -> Self {
        Self { socket: socket.to_owned(), timeout }
    }

    /// Reads one JSON answer.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> RuntimeResult<T> {
        let body = self.get(Op::Other, path).await?;
        let bytes = read_all(body, self.timeout).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| RuntimeError::Other(format!("the engine's answer to {path} is not understood: {error}")))
    }

    /// Opens a stream for reading; returns once the engine has agreed.
    pub async fn get(&self, op: Op, path: &str) -> RuntimeResult<Incoming> {
        let response = self.send(op, Method::GET, path, Bytes::new(), false).await?;
        Ok(response.into_body())
    }

    /// Sends something that has no answer worth reading.
    pub async fn post(&self, path: &str) -> RuntimeResult<()> {
        self.send(Op::Other, Method::POST, path, Bytes::new(), false).await.map(|_| ())
    }

    /// Turns the connection into a stream of bytes in both directions.
    pub async fn hijack(&self, path: &str, body: &serde_json::Value) -> RuntimeResult<Hijacked> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let response = self.send(Op::Other, Method::POST, path, body, true).await?;
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| unavailable(&error))?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .map_err(|_| RuntimeError::Other("the connection to the engine is of another kind".to_owned()))?;
        Ok(Hijacked { stream: parts.io.into_inner(), first: parts.read_buf })
    }

    async fn send(
        &self,
        op: Op,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: bool,
    ) -> RuntimeResult<Response<Incoming>> {
        let exchange = self.exchange(method, path, body, upgrade);
        let response = tokio::time::timeout(self.timeout, exchange)
            .await
            .map_err(|_| RuntimeError::Unavailable(format!("no answer to {path} in {:?}", self.timeout)))??;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let bytes = read_all(response.into_body(), self.timeout).await?;
        Err(error::from_status(op, status.as_u16(), &message_of(&bytes)))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes, upgrade: bool) -> RuntimeResult<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| RuntimeError::Unavailable(format!("{}: {error}", self.socket.display())))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unavailable(&error))?;
        // Ends with the connection; an upgrade moves the stream out of it.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header(HOST, "docker");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if upgrade {
            request = request.header(CONNECTION, "Upgrade").header(UPGRADE, "tcp");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| RuntimeError::Other(format!("{path} makes no request: {error}")))?;
        sender.send_request(request).await.map_err(|error| unavailable(&error))
    }
}

async fn read_all(body: Incoming, timeout: Duration) -> RuntimeResult<Bytes> {
    let collected = tokio::time::timeout(timeout, Limited::new(body, MAX_BODY).collect());
    match collected.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(RuntimeError::Unavailable(format!("the engine's answer broke off: {error}"))),
        Err(_) => Err(RuntimeError::Unavailable(format!("the engine's answer took longer than {timeout:?}"))),
    }
}

fn unavailable(error: &hyper::Error) -> RuntimeError {
    RuntimeError::Unavailable(error::chain(error))
}

/// The engine wraps its words in `{"message": …}`.
fn message_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Wrapped {
        message: String,
    }
    serde_json::from_slice::<Wrapped>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |wrapped| wrapped.message)
}

/// Escapes a value for a path or query.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words_are_unwrapped() {
        assert_eq!(message_of(br#"{"message":"No such container: x"}"#), "No such container: x");
        assert_eq!(message_of(b"page not found\n"), "page not found\n");
        assert_eq!(escape(r#"{"a":["b=c"]}"#), "%7B%22a%22%3A%5B%22b%3Dc%22%5D%7D");
    }

    #[tokio::test]
    async fn no_engine_is_unavailable() {
        let wire = Wire::new(Path::new("/nowhere/docker.sock"), Duration::from_secs(1));
        let answer = wire.get_json::<serde_json::Value>("/version").await;
        assert!(matches!(answer, Err(RuntimeError::Unavailable(_))), "{answer:?}");
    }
}
