//! etcd's gRPC gateway: every method by HTTP and JSON under `/v3/`, on the client port. A request is turned into the
//! gRPC call that it stands for, which the same services answer; nothing is known here of any one method, but the
//! descriptors of all.

pub mod json;
pub mod paths;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt as _};
use http_body_util::BodyExt as _;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tower::ServiceExt as _;

/// Headers of this prefix are passed on without it.
const METADATA: &str = "grpc-metadata-";

#[derive(Clone)]
struct Gateway {
    methods: Arc<HashMap<&'static str, MethodDescriptor>>,
    services: axum::Router,
    /// Longest message, bytes.
    largest: usize,
}

/// The methods by path.
fn methods() -> anyhow::Result<HashMap<&'static str, MethodDescriptor>> {
    let pool = DescriptorPool::decode(balsa_proto::etcd::DESCRIPTORS).context("the services cannot be described")?;
    let find = |(path, service, method): (&'static str, &str, &str)| {
        let service = pool.get_service_by_name(service)?;
        let found = service.methods().find(|known| known.name() == method)?;
        Some((path, found))
    };
    paths::PATHS.into_iter().map(|path| find(path).with_context(|| format!("{} stands for no method", path.0))).collect()
}

/// The routes, on top of gRPC's own.
pub fn routes(services: axum::Router, largest: usize) -> anyhow::Result<axum::Router> {
    let gateway = Gateway { methods: Arc::new(methods()?), services, largest };
    Ok(axum::Router::new().route("/v3/{*method}", any(call)).with_state(gateway))
}

fn failed(status: &Status) -> Response {
    let code = StatusCode::from_u16(json::http_code(status.code())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, [(header::CONTENT_TYPE, "application/json")], json::failed(status).to_string()).into_response()
}

async fn call(State(gateway): State<Gateway>, request: Request) -> Response {
    gateway.call(request).await.unwrap_or_else(|status| failed(&status))
}

impl Gateway {
    async fn call(self, request: Request) -> Result<Response, Status> {
        let method = self.methods.get(request.uri().path()).ok_or_else(|| Status::not_found("Not Found"))?.clone();
        if request.method() != Method::POST {
            return Err(Status::unimplemented("Method Not Allowed"));
        }
        let (head, body) = request.into_parts();
        let gone = CancellationToken::new();
        let frames = if method.is_client_streaming() {
            self.stream(&method, body, gone.clone())
        } else {
            let frame = self.single(&method.input(), body).await?;
            stream::iter([Ok(frame)]).boxed()
        };
        let mut inner = Request::new(Body::from_stream(frames));
        *inner.method_mut() = Method::POST;
        let uri = format!("/{}/{}", method.parent_service().full_name(), method.name());
        *inner.uri_mut() = uri.parse().map_err(|_| Status::internal("an unusable method"))?;
        // Who it is: by certificate (in the extensions) or by token.
        *inner.extensions_mut() = head.extensions;
        for (name, value) in &head.headers {
            let passed = match name.as_str().strip_prefix(METADATA) {
                Some(passed) => HeaderName::try_from(passed).ok(),
                None => (*name == header::AUTHORIZATION).then_some(header::AUTHORIZATION),
            };
            if let Some(name) = passed {
                inner.headers_mut().insert(name, value.clone());
            }
        }
        inner.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
        inner.headers_mut().insert(header::TE, header::HeaderValue::from_static("trailers"));
        let answer = match self.services.oneshot(inner).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let answers = Answers::new(answer, method.output(), gone.drop_guard());
        if method.is_server_streaming() { answers.streamed().await } else { answers.single().await }
    }

    /// The one message of a body; an empty body is an empty message.
    async fn single(&self, input: &MessageDescriptor, body: Body) -> Result<Bytes, Status> {
        let body = axum::body::to_bytes(body, self.largest).await;
        let body = body.map_err(|error| Status::invalid_argument(format!("the body cannot be read: {error}")))?;
        let value = match body.trim_ascii() {
            [] => serde_json::json!({}),
            text => serde_json::from_slice(text).map_err(|error| Status::invalid_argument(error.to_string()))?,
        };
        json::frame(input, value)
    }

    /// The messages of a body, as they come. After the last the stream stays open until the answers are not wanted any
    /// more: a watch goes on without its client saying more.
    fn stream(&self, method: &MethodDescriptor, body: Body, gone: CancellationToken) -> BoxStream<'static, Result<Bytes, Status>> {
        let reader = Reader { body: body.into_data_stream(), buffer: BytesMut::new(), input: method.input(), largest: self.largest };
        let frames = stream::unfold(reader, |mut reader| async {
            let frame = reader.next().await?;
            Some((Ok(frame), reader))
        });
        // A keep-alive has an end; only where the answers have none by themselves is it left to the client's going.
        let waits = method.name() == "Watch";
        let rest = stream::once(async move {
            if waits {
                gone.cancelled().await;
            }
        });
        frames.chain(rest.filter_map(async |()| None)).boxed()
    }
}

/// Reads a body of several messages.
struct Reader {
    body: BodyDataStream,
    buffer: BytesMut,
    input: MessageDescriptor,
    largest: usize,
}

impl Reader {
    /// The next one. What makes no sense ends them, as the end of the body does.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(value) = json::next(&mut self.buffer).ok()? {
                return json::frame(&self.input, value).ok();
            }
            let more = self.body.next().await?.ok()?;
            self.buffer.extend_from_slice(&more);
            if self.buffer.len() > self.largest {
                return None;
            }
        }
    }
}

/// What a service answers, message by message, and how it ended.
struct Answers {
    body: Body,
    buffer: BytesMut,
    output: MessageDescriptor,
    ended: Option<Status>,
    /// Ends the requests with the answers.
    _wanted: DropGuard,
}

impl Answers {
    fn new(answer: Response, output: MessageDescriptor, wanted: DropGuard) -> Self {
        // Who fails at once says so in the head.
        let ended = Status::from_header_map(answer.headers());
        Self { body: answer.into_body(), buffer: BytesMut::new(), output, ended, _wanted: wanted }
    }

    /// The next answer as JSON; `None` after the last of a call that went well.
    async fn next(&mut self) -> Result<Option<String>, Status> {
        loop {
            if let Some(message) = json::unframe(&mut self.buffer)? {
                return json::shown(&self.output, message).map(Some);
            }
            if let Some(status) = self.ended.take() {
                return if status.code() == tonic::Code::Ok { Ok(None) } else { Err(status) };
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Status::unavailable(error.to_string())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.ended = frame.trailers_ref().and_then(Status::from_header_map),
                },
            }
        }
    }

    async fn single(mut self) -> Result<Response, Status> {
        let answer = self.next().await?.ok_or_else(|| Status::internal("no answer"))?;
        // The status comes behind the answer.
        while self.next().await?.is_some() {}
        Ok(([(header::CONTENT_TYPE, "application/json")], answer).into_response())
    }

    /// One line of JSON for each answer.
    async fn streamed(mut self) -> Result<Response, Status> {
        let first = match self.next().await {
            Ok(first) => first,
            Err(status) => {
                let code = StatusCode::from_u16(json::http_code(status.code())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let body = serde_json::json!({"error": json::failed(&status)}).to_string();
                return Ok((code, [(header::CONTENT_TYPE, "application/json")], body).into_response());
            }
        };
        let line = |answer: String| format!("{{\"result\":{answer}}}\n");
        let rest: BoxStream<'static, String> = stream::unfold(Some(self), move |answers| async move {
            let mut answers = answers?;
            match answers.next().await {
                Ok(Some(answer)) => Some((line(answer), Some(answers))),
                Ok(None) => None,
                Err(status) => Some((format!("{}\n", serde_json::json!({"error": json::failed(&status)})), None)),
            }
        })
        .boxed();
        let lines = stream::iter(first.map(line)).chain(rest).map(Ok::<_, std::convert::Infallible>);
        Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_path() {
        let known: std::collections::BTreeSet<String> =
            methods().unwrap().values().map(|method| method.full_name().to_owned()).collect();
        let pool = DescriptorPool::decode(balsa_proto::etcd::DESCRIPTORS).unwrap();
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            assert!(known.contains(method.full_name()), "{}", method.full_name());
        }
    }
}
