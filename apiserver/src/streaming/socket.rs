//! The upgraded connection: as a WebSocket, as plain bytes, or as bytes that travel inside a WebSocket.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::Request;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::upgrade::websocket_config;

/// Bytes after the 101.
pub type Raw = TokioIo<Upgraded>;
/// A WebSocket after the 101.
pub type Socket = WebSocketStream<Raw>;
/// Its sending half.
pub type Sink = SplitSink<Socket, Message>;
/// Its receiving half.
pub type Source = SplitStream<Socket>;

/// How often an idle client is asked whether it is there.
pub const PING: Duration = Duration::from_secs(30);
/// How long a client may take to read what is left and to answer our farewell.
const LINGER: Duration = Duration::from_secs(30);
/// How long the 101 may take to reach the client.
const UPGRADE: Duration = Duration::from_secs(30);

/// Takes the right to the connection out of the request; to be called before the 101 is returned.
pub fn claim(request: &mut Request<Body>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

/// The connection, once the 101 is out. `None`: it never came to be.
pub async fn raw(upgrade: OnUpgrade) -> Option<Raw> {
    match tokio::time::timeout(UPGRADE, upgrade).await {
        Ok(Ok(upgraded)) => Some(TokioIo::new(upgraded)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "connection was not upgraded");
            None
        }
        Err(_) => None,
    }
}

/// The same as a WebSocket.
pub async fn websocket(upgrade: OnUpgrade) -> Option<Socket> {
    let raw = raw(upgrade).await?;
    Some(WebSocketStream::from_raw_socket(raw, Role::Server, Some(websocket_config())).await)
}

/// Says goodbye and waits a moment for the answer: a connection that is closed with something unread in it takes back
/// what was sent last.
pub async fn goodbye(mut sink: Sink, mut source: Source) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let farewell = async {
        if sink.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        while let Some(Ok(_)) = source.next().await {}
    };
    let _ = tokio::time::timeout(LINGER, farewell).await;
}

/// Makes the binary messages of a WebSocket a byte stream; the future moves the bytes and ends with either side.
pub fn tunnel(socket: Socket) -> (DuplexStream, impl Future<Output = ()> + Send) {
    let (near, far) = tokio::io::duplex(128 * 1024);
    (near, carry(socket, far))
}

async fn carry(socket: Socket, far: DuplexStream) {
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(far);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => break,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            if writer.write_all(&data).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
    };
    let outward = async {
        let mut buffer = bytes::BytesMut::with_capacity(64 * 1024);
        let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
        loop {
            buffer.reserve(32 * 1024);
            let message = tokio::select! {
                read = reader.read_buf(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(_) => Message::Binary(buffer.split().freeze()),
                },
                _ = ping.tick() => Message::Ping(Bytes::new()),
            };
            if sink.send(message).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
    goodbye(sink, source).await;
}

/// `data` in pieces that fit a gRPC message well.
pub fn pieces(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    const PIECE: usize = 256 * 1024;
    std::iter::from_fn(move || (!data.is_empty()).then(|| data.split_to(data.len().min(PIECE))))
}
