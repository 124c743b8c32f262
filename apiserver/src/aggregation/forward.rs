//! Requests on their way to a server in the cluster: over TLS with our certificate, the caller's name in headers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use balsa_api::status::ApiResult;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::Remote;
use crate::authn::Caller;
use crate::proxy::{Client, connect, headers, said};
use crate::rest::answer::Answer;
use crate::rest::resource::attributes;
use crate::rest::route::{self, ResourcePath};
use crate::rest::{Exchange, Rest};

/// Until the connection stands.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest extra key that is passed on.
const MAX_HEADER: usize = 1 << 10;

/// Who calls, as headers that a server believes if our certificate comes with them. Pure.
pub fn identify(headers: &mut HeaderMap, caller: &Caller) {
    let claimed: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &caller.user);
    if !caller.uid.is_empty() {
        add("x-remote-uid", &caller.uid);
    }
    caller.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &caller.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        if name.len() <= MAX_HEADER {
            values.iter().for_each(|value| add(&name, value));
        }
    }
}

/// A key as part of a header's name: what may not stand there is percent-encoded.
fn escaped(key: &str) -> String {
    let mut out = String::new();
    for byte in key.to_lowercase().bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    Answer::text(status, format!("{}\n", text.into())).into_response(false)
}

impl Rest {
    /// A request about objects of a server in the cluster: what the caller may is asked here too.
    pub(crate) async fn delegate(
        &self,
        exchange: &Exchange,
        path: &ResourcePath,
        remote: &Remote,
        request: Request<Body>,
    ) -> ApiResult<Response<Body>> {
        let verb = route::verb(&exchange.method, path, &exchange.query).unwrap_or_default();
        self.api.authorizer.check(&exchange.call.caller, &attributes(path, verb, &exchange.query))?;
        Ok(self.pass_on(exchange, remote, request).await)
    }

    /// Passes a request on that has been authorized.
    pub(crate) async fn pass_on(&self, exchange: &Exchange, remote: &Remote, mut request: Request<Body>) -> Response<Body> {
        if !remote.available {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
        }
        let ours = headers::upgrade(request.headers()).map(|_| hyper::upgrade::on(&mut request));
        let client = request.extensions().get::<Client>().map(|client| client.0.ip().to_string());
        let (mut parts, body) = request.into_parts();
        let host = format!("{}:{}", remote.host(), remote.port);
        headers::forward(&mut parts.headers, &host, client.as_deref(), &exchange.path);
        identify(&mut parts.headers, &exchange.call.caller);
        let target = if exchange.raw_query.is_empty() { exchange.path.clone() } else { format!("{}?{}", exchange.path, exchange.raw_query) };
        let Ok(uri) = target.parse::<Uri>() else { return plain(StatusCode::BAD_REQUEST, "the path is no path") };
        parts.uri = uri;
        parts.version = http::Version::HTTP_11;
        parts.extensions = http::Extensions::new();
        let answered = self.ask(remote, Request::from_parts(parts, body)).await;
        let response = match answered {
            Ok(response) => response,
            Err(why) => return plain(StatusCode::SERVICE_UNAVAILABLE, format!("error trying to reach service: {why}")),
        };
        if response.status().is_redirection() && response.headers().contains_key(header::LOCATION) {
            let text = "the backend attempted to redirect this request, which is not permitted";
            return plain(StatusCode::BAD_GATEWAY, text);
        }
        if let Some(ours) = ours {
            let joined = self.join(ours, response);
            return joined.unwrap_or_else(|error| Answer::from(error).into_response(false));
        }
        let (mut parts, body) = response.into_parts();
        headers::strip(&mut parts.headers);
        parts.extensions = http::Extensions::new();
        parts.version = http::Version::HTTP_11;
        Response::from_parts(parts, Body::new(body))
    }

    /// One exchange with a server in the cluster, over a connection of its own. The error says what went wrong, for people.
    pub(crate) async fn ask(&self, remote: &Remote, request: Request<Body>) -> Result<Response<Incoming>, String> {
        let connecting = async {
            let dialed = self.dial_service(&remote.namespace, &remote.service, remote.port).await.map_err(|error| error.message)?;
            let config = connect::trusting(&remote.trust, self.aggregation.identity())?;
            let name = ServerName::try_from(remote.host()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, dialed.stream).await;
            let stream = stream.map_err(|error| format!("{}: {error}", dialed.to))?;
            http1::handshake(TokioIo::new(stream)).await.map_err(said)
        };
        let late = || "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
        let (mut sender, driver) = tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(late()))?;
        tokio::spawn(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "a connection to an aggregated server ended");
            }
        });
        sender.send_request(request).await.map_err(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_says_who_calls() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("admin"));
        headers.insert("x-remote-extra-a", HeaderValue::from_static("b"));
        let caller = Caller {
            user: "jane".into(),
            groups: vec!["a".into(), "b".into()],
            extra: [("example.com/Scope".to_owned(), vec!["x".to_owned()])].into(),
            ..Caller::default()
        };
        identify(&mut headers, &caller);
        assert_eq!(headers["x-remote-user"], "jane");
        assert_eq!(headers.get_all("x-remote-group").iter().count(), 2);
        assert!(headers.get("x-remote-extra-a").is_none());
        assert!(escaped("example.com/Scope") == "example.com%2Fscope");
    }
}
