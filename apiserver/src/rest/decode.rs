//! From a request's bytes to a value: size, content type, JSON, YAML or Kubernetes protobuf.

use axum::body::Body as HttpBody;
use balsa_api::status::{ApiError, ApiResult};
use balsa_api::{decode, protobuf};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde_json::Value;

use crate::pipeline::body::Body;

/// The largest body accepted.
pub const MAX_BYTES: usize = 3 << 20;

/// Items that one list of a body may hold. No object of a real cluster has as many, and what is checked or merged item
/// by item takes time by their square.
const MAX_ITEMS: usize = 16_384;

fn check_lists(value: &Value) -> ApiResult<()> {
    match value {
        Value::Array(items) if items.len() > MAX_ITEMS => {
            Err(ApiError::too_large(format!("Request entity too large: a list of more than {MAX_ITEMS} items")))
        }
        Value::Array(items) => items.iter().try_for_each(check_lists),
        Value::Object(map) => map.values().try_for_each(check_lists),
        _ => Ok(()),
    }
}

/// Reads the whole body; 413 where it is too large.
pub async fn read(body: HttpBody) -> ApiResult<Bytes> {
    let too_large = || ApiError::too_large(format!("Request entity too large: limit is {MAX_BYTES}"));
    let mut stream = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| ApiError::bad_request(format!("the request body broke off: {error}")))?;
        if bytes.len() + chunk.len() > MAX_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// A media type without its parameters.
pub fn media(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Decodes a body by its content type. Types are checked later, by the kind.
pub fn body(content_type: &str, bytes: &Bytes) -> ApiResult<Body> {
    match media(content_type) {
        "application/vnd.kubernetes.protobuf" => {
            let value = protobuf::decode(bytes).map_err(|error| {
                ApiError::bad_request(format!("the protobuf body cannot be decoded: {error}"))
            })?;
            check_lists(&value)?;
            Ok(Body::from(value))
        }
        "application/yaml" => decoded(decode::yaml(bytes)),
        "application/json" | "" => decoded(decode::json_or_yaml(bytes)),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (got {other:?})"
        ))),
    }
}

/// Decodes JSON or YAML whose type the caller knows.
pub fn text(bytes: &[u8]) -> ApiResult<Body> {
    decoded(decode::json_or_yaml(bytes))
}

fn decoded(outcome: Result<decode::Decoded, String>) -> ApiResult<Body> {
    let decoded = outcome.map_err(|error| {
        ApiError::bad_request(format!("error decoding the request body: {error}"))
    })?;
    check_lists(&decoded.value)?;
    let duplicates = decoded.duplicates.clone();
    Ok(Body { value: decoded.value.clone(), duplicates, decoded: Some(decoded) })
}
