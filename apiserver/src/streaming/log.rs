//! `log`: a container's log as a response body, or as the messages of a WebSocket.

use axum::body::Body;
use balsa_api::status::ApiError;
use balsa_proto::node::{ContainerRef, LogsChunk, LogsRequest};
use futures::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Response, header};
use tokio_tungstenite::tungstenite::Message;
use tonic::{Code, Status};

use super::channels::Framing;
use super::query::LogOptions;
use super::socket::{PING, Socket, goodbye};

/// What the node is asked.
pub fn request(container: ContainerRef, options: &LogOptions) -> LogsRequest {
    LogsRequest {
        container: Some(container),
        follow: options.follow,
        previous: options.previous,
        timestamps: options.timestamps,
        tail_lines: options.tail_lines,
        limit_bytes: options.limit_bytes,
        since_time: options.since.map(|since| since.to_string()).unwrap_or_default(),
        stream: options.stream.clone(),
    }
}

/// What the node's refusal is to the client.
pub fn refusal(status: &Status) -> ApiError {
    let message = status.message();
    match status.code() {
        Code::NotFound => ApiError::new(404, "NotFound", message),
        Code::FailedPrecondition | Code::InvalidArgument => ApiError::bad_request(message),
        _ => ApiError::internal(message),
    }
}

/// As the body of a response, passed on as it comes.
pub fn response(chunks: tonic::Streaming<LogsChunk>) -> Response<Body> {
    let body = chunks.map_ok(|chunk| chunk.data).map_err(|status| {
        tracing::debug!(error = status.message(), "log ended early");
        std::io::Error::other(status.message().to_owned())
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// As messages without a channel.
pub async fn websocket(socket: Socket, framing: Framing, mut chunks: tonic::Streaming<LogsChunk>) {
    let (mut sink, mut source) = socket.split();
    let outward = async {
        let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
        loop {
            let message = tokio::select! {
                chunk = chunks.message() => match chunk {
                    Ok(Some(chunk)) => framing.bare(&chunk.data),
                    Ok(None) | Err(_) => return,
                },
                _ = ping.tick() => Message::Ping(bytes::Bytes::new()),
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    let inward = async { while let Some(Ok(_)) = source.next().await {} };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
    goodbye(sink, source).await;
}
