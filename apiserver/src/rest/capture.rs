//! What the audit log takes from requests and answers on their way.

use axum::body::Body;
use balsa_api::status::ApiResult;
use futures::{StreamExt as _, stream};
use http::request::Parts;
use http::{Response, header};
use http_body_util::BodyExt as _;

use super::{decode, header_text};
use crate::audit::Trail;
use crate::audit::policy::Level;

/// Reads the body for the log, and hands it on.
pub async fn request(trail: &Trail, parts: &Parts, body: Body) -> ApiResult<Body> {
    let bytes = decode::read(body).await?;
    let content_type = header_text(&parts.headers, header::CONTENT_TYPE);
    trail.request(|| {
        if bytes.is_empty() {
            return None;
        }
        // Patches are JSON or YAML of their own types.
        let decoded = if content_type.contains("patch") { decode::text(&bytes) } else { decode::body(content_type, &bytes) };
        decoded.ok().map(|body| body.value)
    });
    Ok(Body::from(bytes))
}

/// Logs the answer; of a long one its beginning now and its end when it ends.
pub async fn response(trail: Trail, response: Response<Body>, is_long: bool) -> Response<Body> {
    let code = response.status().as_u16();
    if trail.level() == Level::None {
        return response;
    }
    if is_long && response.status().as_u16() < 400 {
        trail.started(code);
        return response.map(|body| until_its_end(trail, body));
    }
    let (parts, body) = response.into_parts();
    // Errors are always said in full; whole answers are in one piece already.
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let wanted = code >= 400 || trail.level() == Level::RequestResponse;
    trail.response(code, wanted.then_some(&bytes));
    trail.complete();
    Response::from_parts(parts, Body::from(bytes))
}

/// The same body; when it has ended or nobody reads it any more, the request is over.
fn until_its_end(trail: Trail, body: Body) -> Body {
    let pieces = stream::unfold((body.into_data_stream(), trail), |(mut body, trail)| async move {
        match body.next().await {
            Some(piece) => Some((piece, (body, trail))),
            None => {
                trail.complete();
                None
            }
        }
    });
    Body::from_stream(pieces)
}
