//! The way into a pod: a connection that the pod's node agent opens, as a byte stream, with TLS where it is asked for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use balsa_process::tls::TlsIdentity;
use balsa_proto::node::{PortForwardInput, port_forward_input};
use bytes::BytesMut;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsConnector;

use crate::streaming::node::Connection;
use crate::streaming::socket::pieces;

/// Bytes that wait in each direction.
const BUFFER: usize = 128 << 10;

/// How long the pod may go on after our end was done.
const LINGER: Duration = Duration::from_secs(60);

/// Any byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The connection as a byte stream. It ends with either side.
pub fn stream(connection: Connection) -> DuplexStream {
    let (near, far) = tokio::io::duplex(BUFFER);
    tokio::spawn(carry(connection, far));
    near
}

async fn carry(connection: Connection, far: DuplexStream) {
    let Connection { input, mut output } = connection;
    let (mut reader, mut writer) = tokio::io::split(far);
    let inward = async move {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            buffer.reserve(32 << 10);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            for piece in pieces(buffer.split().freeze()) {
                let piece = PortForwardInput { input: Some(port_forward_input::Input::Data(piece)) };
                if input.send(piece).await.is_err() {
                    return;
                }
            }
        }
        // Our end is done; the pod may still have something to say, but not for ever: nobody may be there any more.
        drop(input);
        tokio::time::sleep(LINGER).await;
    };
    let outward = async {
        while let Ok(Some(message)) = output.message().await {
            if writer.write_all(&message.data).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

/// TLS to a pod. Nobody can vouch for a pod's certificate, so none is asked for, as Kubernetes does it.
pub async fn tls(stream: DuplexStream, address: IpAddr) -> Result<impl Stream, String> {
    let config = trusting(&Trust::Anybody, None)?;
    let name = ServerName::IpAddress(address.into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
}

/// Whom a client takes for who he says he is.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Everybody.
    Anybody,
    /// Those whom these certificates (PEM) vouch for.
    Bundle(Vec<u8>),
}

/// How a TLS client of a server with trust of its own is set up. `identity`: what it shows of itself.
pub fn trusting(trust: &Trust, identity: Option<&TlsIdentity>) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match trust {
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(balsa_process::tls::anybody()),
        Trust::Bundle(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
            }
            builder.with_root_certificates(roots)
        }
    };
    match identity {
        Some(identity) => {
            let (chain, key) = identity.credentials();
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())
        }
        None => Ok(builder.with_no_client_auth()),
    }
}
