//! The port on which a process shows its health and its metrics: `/healthz`, `/health`, `/readyz`, `/livez`,
//! `/metrics`.
//!
//! Mutual TLS as everywhere; plaintext only where no identity is given, which is for loopback tests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::tls::{ClientCertificate, TlsError, TlsIdentity};

/// Says whether the process can do its work; an `Err` is what is missing, for a person.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves health and metrics on `listener` until `stop`.
pub async fn serve(
    listener: TcpListener,
    identity: Option<TlsIdentity>,
    registry: Arc<Registry>,
    health: Health,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let acceptor = match identity {
        Some(identity) => Some(TlsAcceptor::from(
            identity.rustls_server(ClientCertificate::Optional, &[b"h2", b"http/1.1"])?,
        )),
        None => None,
    };
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the observation port");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, registry, health) = (acceptor.clone(), registry.clone(), health.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, registry.clone(), health.clone()));
            let builder = Builder::new(TokioExecutor::new());
            let served = match acceptor {
                None => builder.serve_connection(TokioIo::new(stream), service).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
                    Err(error) => return tracing::debug!(%error, "TLS handshake on the observation port failed"),
                },
            };
            if let Err(error) = served {
                tracing::debug!(%error, "connection to the observation port ended");
            }
        });
    }
}

/// Binds `address`; a convenience so that every process reports a taken port the same way.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}"))
}

async fn answer(
    request: Request<Incoming>,
    registry: Arc<Registry>,
    health: Health,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, content_type, body) = match request.uri().path() {
        "/healthz" | "/readyz" | "/livez" => match health() {
            Ok(()) => (StatusCode::OK, "text/plain", "ok".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", reason),
        },
        // As etcd answers it.
        "/health" => match health() {
            Ok(()) => (StatusCode::OK, "application/json", r#"{"health":"true","reason":""}"#.to_owned()),
            Err(reason) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "application/json",
                format!(r#"{{"health":"false","reason":"{}"}}"#, reason.replace(['"', '\\'], "'")),
            ),
        },
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, &registry) {
                Ok(()) => (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
            }
        }
        path => (
            StatusCode::NOT_FOUND,
            "text/plain",
            format!("no {path} here; there are /healthz, /readyz, /livez, /health and /metrics"),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    Ok(response)
}
