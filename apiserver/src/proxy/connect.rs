//! The way into a pod: a connection that the pod's node agent opens, as a byte stream, with TLS where it is asked for.

use std::net::IpAddr;
use std::time::Duration;

use balsa_proto::node::{PortForwardInput, port_forward_input};
use bytes::BytesMut;
use rustls::pki_types::ServerName;
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
    let config = balsa_process::tls::trusting_client().map_err(|error| error.to_string())?;
    let name = ServerName::IpAddress(address.into());
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())
}
