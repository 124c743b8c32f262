//! A watch as a response: one JSON object per line, each sent at once.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use balsa_api::field::FieldError;
use balsa_api::kind::KindRef;
use balsa_api::meta::GroupVersionKind;
use balsa_api::status::{ApiError, ApiResult};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, header};
use rand::RngExt as _;
use serde_json::Value;

use super::route::Query;
use super::view::Shown;
use crate::pipeline::Api;
use crate::pipeline::read::Version;
use crate::watch_cache::selection::Selection;
use crate::watch_cache::watcher::{Notice, Start, Watcher};

/// What a watch asks for.
#[derive(Debug, Clone, Default)]
pub struct WatchQuery {
    /// `resourceVersion`
    pub version: String,
    /// `resourceVersionMatch`
    pub version_match: String,
    /// `sendInitialEvents`
    pub initial_events: Option<bool>,
    /// `allowWatchBookmarks`
    pub bookmarks: bool,
    /// `timeoutSeconds`; 0: the server's choice.
    pub timeout_seconds: u64,
}

impl WatchQuery {
    /// From a request's parameters.
    pub fn parse(query: &Query) -> Self {
        Self {
            version: query.get("resourceVersion").to_owned(),
            version_match: query.get("resourceVersionMatch").to_owned(),
            initial_events: query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents")),
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: query.get("timeoutSeconds").parse().unwrap_or_default(),
        }
    }

    /// Where the watch begins, and the revision that must be known before. Pure.
    pub fn start(&self) -> ApiResult<(Start, u64)> {
        let options = GroupVersionKind::new("meta.k8s.io", "v1", "ListOptions");
        let refuse = |finding: FieldError| Err(ApiError::invalid(&options, "", &[finding]));
        if self.initial_events.is_none() && !self.version_match.is_empty() {
            return refuse(FieldError::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if self.initial_events.is_some() && self.version_match != "NotOlderThan" {
            return refuse(FieldError::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        let version = Version::parse(&self.version)?;
        Ok(match (self.initial_events, version) {
            (Some(true), Version::At(revision)) => (Start::Initial, revision),
            (Some(true), _) => (Start::Initial, 0),
            // The present state is not wanted: from now on.
            (Some(false), Version::Newest | Version::Any) => (Start::After(0), 0),
            (_, Version::Newest | Version::Any) => (Start::Now, 0),
            (_, Version::At(revision)) => (Start::After(revision), 0),
        })
    }
}

/// How long a watch runs that does not say: half an hour to an hour, so that not all end together.
fn default_timeout() -> Duration {
    Duration::from_secs(rand::rng().random_range(1800..3600))
}

impl Api {
    /// Begins a watch: what it is told first, and what tells it the rest.
    pub async fn watch(
        &self,
        kind: &KindRef,
        selection: Selection,
        query: &WatchQuery,
    ) -> ApiResult<(Watcher, Vec<Notice>)> {
        let (start, floor) = query.start()?;
        let floor = match start {
            // The newest state is asked for: as the store has it now.
            Start::Now | Start::Initial if query.version.is_empty() => {
                self.store.revision().await.map_err(|error| crate::pipeline::store_error(error, false))?
            }
            _ => floor,
        };
        self.wait_until_fresh(floor.max(1)).await?;
        let start = if start == Start::After(0) { Start::After(self.caches.progress()) } else { start };
        let timeout = match query.timeout_seconds {
            0 => default_timeout(),
            seconds => Duration::from_secs(seconds),
        };
        let source = (self.cache(&**kind)?, self.lens(kind));
        Watcher::start(source, selection, start, query.bookmarks, timeout).await
    }
}

/// The 410 that a watch ends with when it has missed something. Pure.
pub fn too_old(at: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {at} ({oldest})"))
}

struct Stream {
    watcher: Watcher,
    first: Vec<Notice>,
    shown: Shown,
    columns_sent: bool,
    over: bool,
}

impl Stream {
    fn encode(&mut self, notices: Vec<Notice>) -> Bytes {
        let mut out = BytesMut::new();
        for notice in notices {
            let (word, object) = match notice {
                Notice::Added(object) => ("ADDED", self.object(&object)),
                Notice::Modified(object) => ("MODIFIED", self.object(&object)),
                Notice::Deleted(object) => ("DELETED", self.object(&object)),
                Notice::Bookmark { revision, initial_events_end } => {
                    let first = !std::mem::replace(&mut self.columns_sent, true);
                    let object: Value = self.shown.bookmark(revision, initial_events_end, first);
                    ("BOOKMARK", serde_json::to_vec(&object).unwrap_or_default().into())
                }
                Notice::TooOld { at, oldest } => {
                    self.over = true;
                    ("ERROR", Bytes::from(too_old(at, oldest).to_json()))
                }
                Notice::Failed(error) => {
                    self.over = true;
                    ("ERROR", Bytes::from(error.to_json()))
                }
                Notice::End => {
                    self.over = true;
                    continue;
                }
            };
            out.put_slice(b"{\"type\":\"");
            out.put_slice(word.as_bytes());
            out.put_slice(b"\",\"object\":");
            out.put_slice(&object);
            out.put_slice(b"}\n");
        }
        out.freeze()
    }

    fn object(&mut self, object: &crate::watch_cache::object::Object) -> Bytes {
        let first = !std::mem::replace(&mut self.columns_sent, true);
        self.shown.event(object, first)
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            let notices =
                if self.first.is_empty() { self.watcher.next().await } else { std::mem::take(&mut self.first) };
            let bytes = self.encode(notices);
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
    }
}

/// The response of a running watch.
pub fn response(watcher: Watcher, first: Vec<Notice>, shown: Shown) -> Response<Body> {
    let state = Stream { watcher, first, shown, columns_sent: false, over: false };
    let lines = stream::unfold(state, |mut state| async move {
        let bytes = state.next().await?;
        Some((Ok::<_, Infallible>(bytes), state))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_watches_begin() {
        let query = |version: &str, version_match: &str, initial_events| WatchQuery {
            version: version.into(),
            version_match: version_match.into(),
            initial_events,
            ..WatchQuery::default()
        };
        let cases = [
            (query("", "", None), Ok((Start::Now, 0))),
            (query("0", "", None), Ok((Start::Now, 0))),
            (query("7", "", None), Ok((Start::After(7), 0))),
            (query("", "NotOlderThan", Some(true)), Ok((Start::Initial, 0))),
            (query("7", "NotOlderThan", Some(true)), Ok((Start::Initial, 7))),
            (query("7", "NotOlderThan", None), Err(422)),
            (query("7", "", Some(true)), Err(422)),
            (query("x", "", None), Err(400)),
        ];
        for (query, expected) in cases {
            assert_eq!(query.start().map_err(|error| error.code), expected, "{query:?}");
        }
    }
}
