//! Connections of the REST port: TLS with an optional client certificate, h2 or http/1.1, upgrades on the latter.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use balsa_process::identity::{Actor, IdentityError};
use balsa_process::tls::{ClientCertificate, TlsError, TlsIdentity};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Peer, Rest};
use crate::authn::Caller;
use crate::authn::front_proxy::FrontProxy;
use crate::proxy::Client;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves until `stop`.
pub async fn serve(
    rest: Arc<Rest>,
    listener: TcpListener,
    identity: Option<&TlsIdentity>,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let acceptor = match identity {
        Some(identity) => {
            let also = rest.door.proxy.as_ref().map(FrontProxy::roots);
            let config = identity.rustls_server_also(ClientCertificate::Optional, &[b"h2", b"http/1.1"], also)?;
            Some(TlsAcceptor::from(config))
        }
        None => None,
    };
    let own = identity.map(TlsIdentity::client_verifier).transpose()?;
    loop {
        let (stream, client) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        stream.set_nodelay(true).ok();
        let (rest, acceptor, own, stop) = (rest.clone(), acceptor.clone(), own.clone(), stop.clone());
        tokio::spawn(async move {
            let Some(acceptor) = acceptor else {
                return connection(rest, TokioIo::new(stream), (Peer::Loopback, Client(client)), stop).await;
            };
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                    let peer = match peer(rest.door.proxy.as_ref(), &own, chain) {
                        Ok(peer) => peer,
                        Err(error) => return tracing::info!(%error, "a client certificate was refused"),
                    };
                    connection(rest, TokioIo::new(stream), (peer, Client(client)), stop).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        });
    }
}

/// Who holds the certificate that a connection came with, verified by one authority or the other.
fn peer(
    proxy: Option<&FrontProxy>,
    own: &Option<Arc<dyn ClientCertVerifier>>,
    chain: &[CertificateDer<'_>],
) -> Result<Peer, IdentityError> {
    let Some((leaf, between)) = chain.split_first() else { return Ok(Peer::Unknown) };
    let actor = Actor::from_certificate(leaf)?;
    let Some(proxy) = proxy else { return Ok(Peer::Certified(Caller::certified(actor))) };
    // With two authorities the handshake says only that one of them vouches.
    let now = UnixTime::now();
    let is_ours = own.as_ref().is_some_and(|own| own.verify_client_cert(leaf, between, now).is_ok());
    let vouched = proxy.vouches(chain, &actor.user);
    let certified = is_ours.then(|| Caller::certified(actor));
    Ok(match certified {
        certified if vouched => Peer::Proxy(certified),
        Some(caller) => Peer::Certified(caller),
        None => Peer::Unknown,
    })
}

async fn connection<S>(rest: Arc<Rest>, stream: TokioIo<S>, (peer, client): (Peer, Client), stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let max_streams = rest.max_streams;
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(client);
        let (rest, peer) = (rest.clone(), peer.clone());
        async move { Ok::<_, Infallible>(rest.handle(peer, request.map(Body::new)).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(stream, service);
    tokio::pin!(connection);
    tokio::select! {
        served = connection.as_mut() => if let Err(error) = served {
            tracing::debug!(%error, "a connection ended");
        },
        // Open watches would hold the process for an hour; clients resume elsewhere.
        () = stop.cancelled() => {}
    }
}
