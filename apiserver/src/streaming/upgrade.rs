//! What kind of connection a request asks for, and the 101 that grants it.

use axum::body::Body;
use balsa_api::status::{ApiError, ApiResult};
use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What the client wants the connection to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// A WebSocket.
    WebSocket {
        /// Its nonce.
        key: String,
        /// Subprotocols, best first.
        offers: Vec<String>,
    },
    /// SPDY/3.1.
    Spdy {
        /// Protocols inside, best first.
        offers: Vec<String>,
    },
    /// Nothing: an ordinary request.
    Plain,
}

/// Every comma-separated item of every line of a header.
fn items(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// Reads the headers.
pub fn wish(headers: &HeaderMap) -> ApiResult<Wish> {
    let has =
        |name: &HeaderName, wanted: &str| items(headers, name).iter().any(|item| item.eq_ignore_ascii_case(wanted));
    if !has(&CONNECTION, "upgrade") {
        return Ok(Wish::Plain);
    }
    if has(&UPGRADE, "websocket") {
        let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
        let Some(key) = key else {
            return Err(ApiError::bad_request("the WebSocket request has no Sec-WebSocket-Key"));
        };
        return Ok(Wish::WebSocket { key: key.to_owned(), offers: items(headers, &SEC_WEBSOCKET_PROTOCOL) });
    }
    if has(&UPGRADE, "SPDY/3.1") {
        return Ok(Wish::Spdy { offers: items(headers, &STREAM_PROTOCOL) });
    }
    Ok(Wish::Plain)
}

/// The 101 to a WebSocket.
pub fn accept_websocket(key: &str, protocol: Option<&'static str>) -> Response<Body> {
    let mut response = switching("websocket");
    let headers = response.headers_mut();
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

/// The 101 to SPDY.
pub fn accept_spdy(protocol: Option<&'static str>) -> Response<Body> {
    let mut response = switching("SPDY/3.1");
    if let Some(protocol) = protocol {
        response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

fn switching(to: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// The 403 where no offered protocol is known, with those that are.
pub fn no_common_protocol(offers: &[String], known: &[&str]) -> Response<Body> {
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {offers:?}, server accepts {known:?}"
    );
    let mut response = error(&ApiError::new(403, "Forbidden", message));
    for protocol in known {
        if let Ok(value) = HeaderValue::from_str(protocol) {
            response.headers_mut().append(ACCEPTED_PROTOCOLS, value);
        }
    }
    response
}

/// An error as clients expect it.
pub fn error(error: &ApiError) -> Response<Body> {
    let mut response = Response::new(Body::from(error.to_json()));
    *response.status_mut() = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Limits of every WebSocket: 16 MiB per message, and a writer that waits instead of hoarding.
pub fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(16 << 20))
        .max_frame_size(Some(16 << 20))
        .write_buffer_size(0)
        .max_write_buffer_size(32 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_wish_is_in_the_headers() {
        let websocket = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "abc"),
            ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io"),
        ]);
        let offers = vec!["v5.channel.k8s.io".to_owned(), "v4.channel.k8s.io".to_owned()];
        assert_eq!(wish(&websocket).unwrap(), Wish::WebSocket { key: "abc".into(), offers });
        let spdy = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "channel.k8s.io"),
        ]);
        let offers = vec!["v4.channel.k8s.io".to_owned(), "channel.k8s.io".to_owned()];
        assert_eq!(wish(&spdy).unwrap(), Wish::Spdy { offers });
        assert_eq!(wish(&headers(&[])).unwrap(), Wish::Plain);
        assert!(wish(&headers(&[("connection", "upgrade"), ("upgrade", "websocket")])).is_err());
    }
}
