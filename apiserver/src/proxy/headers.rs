//! Headers on the way through: what belongs to one connection stays there, credentials stay here, and who asked for
//! what is added. Pure.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// What is about one connection only (RFC 9110, 7.6.1, and what implementations treat likewise).
const HOP_BY_HOP: [&str; 9] = [
    "connection", "proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade",
];

/// The protocol that a request or an answer asks the connection to change to.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let asks = lines.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

/// Removes what is about one connection; an upgrade is kept.
pub fn strip(headers: &mut HeaderMap) {
    let kept = upgrade(headers);
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|word| word.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(protocol) = kept {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Makes the headers of a client's request those of the request that goes on. `host` is what the client called us.
pub fn forward(headers: &mut HeaderMap, host: &str, client: Option<&str>, uri: &str) {
    strip(headers);
    // They were for us: whoever they prove is not to be impersonated by a pod.
    headers.remove(header::AUTHORIZATION);
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, host);
    }
    if let Some(client) = client {
        let before = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        let chain = before.map_or_else(|| client.to_owned(), |before| format!("{before}, {client}"));
        if let Ok(chain) = HeaderValue::from_str(&chain) {
            headers.insert("x-forwarded-for", chain);
        }
    }
    if let Ok(uri) = HeaderValue::from_str(uri) {
        headers.insert("x-forwarded-uri", uri);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_is_ours_stays_here() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Mine"), ("x-mine", "1"), ("keep-alive", "5"), ("te", "trailers"), ("accept", "*/*"),
            ("authorization", "Bearer secret"), ("impersonate-user", "root"), ("impersonate-extra-a", "b"),
            ("transfer-encoding", "chunked"), ("x-forwarded-for", "1.2.3.4"),
        ]);
        forward(&mut headers, "api:6443", Some("10.0.0.9"), "/p/x");
        let mut left: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["accept=*/*", "host=api:6443", "x-forwarded-for=1.2.3.4, 10.0.0.9", "x-forwarded-uri=/p/x"]);
    }

    #[test]
    fn an_upgrade_is_passed_on() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")]);
        strip(&mut headers);
        assert_eq!((headers["connection"].as_bytes(), headers["upgrade"].as_bytes()), (&b"Upgrade"[..], &b"websocket"[..]));
        assert!(headers.contains_key("sec-websocket-key"));
        let mut plain = map(&[("upgrade", "h2c")]);
        strip(&mut plain);
        assert!(plain.is_empty() && upgrade(&map(&[("upgrade", "h2c")])).is_none());
    }
}
