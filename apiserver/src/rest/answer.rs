//! Answers: JSON bytes with their headers, errors as Status, gzip for what is large.

use std::io::Write as _;

use axum::body::Body;
use balsa_api::status::ApiError;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// Answers from this size on are compressed for who takes it.
const GZIP_FROM: usize = 128 << 10;

/// An answer with a body in one piece.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Content-Type.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
    /// Further headers.
    pub headers: Vec<(HeaderName, String)>,
}

impl Answer {
    /// JSON, already encoded.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: "application/json", body: body.into(), headers: Vec::new() }
    }

    /// A value as JSON.
    pub fn value(status: StatusCode, value: &Value) -> Self {
        Self::json(status, serde_json::to_vec(value).unwrap_or_default())
    }

    /// Plain text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let body = Bytes::from(text.into());
        Self { status, content_type: "text/plain; charset=utf-8", body, headers: Vec::new() }
    }

    /// With a further header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// As a response.
    pub fn into_response(self, accepts_gzip: bool) -> Response<Body> {
        let mut body = self.body;
        let mut compressed = false;
        if accepts_gzip
            && body.len() >= GZIP_FROM
            && let Some(smaller) = gzip(&body)
        {
            body = smaller;
            compressed = true;
        }
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if compressed {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let answer = Self::json(status, error.to_json());
        match error.details.retry_after_seconds {
            0 => answer,
            seconds => answer.with(header::RETRY_AFTER, seconds.to_string()),
        }
    }
}

/// The Status of a success.
pub fn success(details: Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Letters that all warnings of an answer may have together; beyond them each is cut to `MAX_LONG_WARNING`, as in
/// Kubernetes.
const MAX_WARNINGS: usize = 4 << 10;
const MAX_LONG_WARNING: usize = 256;

/// The warnings as header values: `299 - "text"`, without what a header cannot hold, and no more than headers can.
pub fn warnings(texts: &[String]) -> Vec<HeaderValue> {
    let all: usize = texts.iter().map(|text| text.chars().count()).sum();
    let longest = if all > MAX_WARNINGS { MAX_LONG_WARNING } else { usize::MAX };
    let mut left = MAX_WARNINGS;
    let mut values = Vec::new();
    for text in texts {
        let shown: String = text.chars().take(longest.min(left)).collect();
        left -= shown.chars().count();
        values.extend(warning(&shown));
        if left == 0 {
            break;
        }
    }
    values
}

fn warning(text: &str) -> Option<HeaderValue> {
    let clean: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let escaped = clean.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()).ok()
}
