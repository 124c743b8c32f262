//! TLS on the client port, for gRPC (HTTP/2) and for `/health`, `/version` and `/metrics` by HTTP/1.1 as well: tonic's
//! own offers only HTTP/2.

use std::io;
use std::time::Duration;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Handshakes that may be under way at one time; more wait to be accepted.
const HANDSHAKES: usize = 256;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Finished ones that may wait to be served.
const WAITING: usize = 64;

/// Connections whose handshake is done. A slow or failing handshake holds up no other.
pub fn accepted(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let handshakes = std::sync::Arc::new(tokio::sync::Semaphore::new(HANDSHAKES));
        loop {
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept on the client port");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                let _permit = permit;
                // Only a slower connection without it.
                let _best_effort = stream.set_nodelay(true);
                match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let _stopping = sender.send(Ok(stream)).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake on the client port failed"),
                    Err(_) => tracing::debug!("a TLS handshake on the client port took too long"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}
