//! Between the pipeline's types and the wire's. Pure.

use balsa_api::kind::{Kind, KindRef};
use balsa_api::status::ApiError;
use balsa_proto::api::{Object, Resource, WatchEvent, watch_event};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::pipeline::{Api, Found};
use crate::rest::watch::too_old;
use crate::value;
use crate::watch_cache::object::Object as Cached;
use crate::watch_cache::watcher::Notice;

/// A resource that is served, and a namespace that fits it.
pub struct Asked {
    /// The kind.
    pub kind: KindRef,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
}

impl Asked {
    /// 404 for what is not served.
    pub async fn new(api: &Api, resource: Option<Resource>, namespace: &str) -> Result<Self, ApiError> {
        let resource = resource.ok_or_else(|| ApiError::bad_request("the request names no resource"))?;
        let kind = api.kind(&resource.group, &resource.version, &resource.resource).await?;
        let namespace = if kind.namespaced() { namespace.to_owned() } else { String::new() };
        Ok(Self { kind, namespace })
    }
}

/// An object in its envelope.
pub fn envelope(kind: &dyn Kind, found: Found) -> Object {
    let names = kind.names();
    Object {
        group: names.group.to_owned(),
        version: names.version.to_owned(),
        kind: names.kind.to_owned(),
        namespace: value::namespace(&found.value).to_owned(),
        name: value::name(&found.value).to_owned(),
        revision: found.revision,
        body: serde_json::to_vec(&found.value).unwrap_or_default().into(),
    }
}

/// A cached object in its envelope; the bytes are shared.
pub fn shared(kind: &dyn Kind, object: &Cached) -> Object {
    let names = kind.names();
    Object {
        group: names.group.to_owned(),
        version: names.version.to_owned(),
        kind: names.kind.to_owned(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        revision: object.revision,
        body: object.json.clone(),
    }
}

/// What a watcher is told; `None`: the watch is over.
pub fn event(kind: &dyn Kind, notice: Notice) -> Option<WatchEvent> {
    let about = |word: watch_event::Type, object: &Cached| WatchEvent {
        r#type: word.into(),
        object: Some(shared(kind, object)),
        ..WatchEvent::default()
    };
    Some(match notice {
        Notice::Added(object) => about(watch_event::Type::Added, &object),
        Notice::Modified(object) => about(watch_event::Type::Modified, &object),
        Notice::Deleted(object) => about(watch_event::Type::Deleted, &object),
        Notice::Bookmark { revision, initial_events_end } => WatchEvent {
            r#type: watch_event::Type::Bookmark.into(),
            object: Some(Object { revision, kind: kind.names().kind.to_owned(), ..Object::default() }),
            initial_events_end,
            ..WatchEvent::default()
        },
        Notice::TooOld { at, oldest } => WatchEvent {
            r#type: watch_event::Type::Error.into(),
            status: too_old(at, oldest).to_json().into(),
            ..WatchEvent::default()
        },
        Notice::Failed(error) => WatchEvent {
            r#type: watch_event::Type::Error.into(),
            status: error.to_json().into(),
            ..WatchEvent::default()
        },
        Notice::End => return None,
    })
}

/// An error as gRPC has it, the Status beside it.
pub fn status(error: ApiError) -> Status {
    let code = match error.code {
        400 | 413 | 415 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        409 if error.is_already_exists() => Code::AlreadyExists,
        409 => Code::Aborted,
        410 => Code::OutOfRange,
        429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    let mut metadata = MetadataMap::new();
    metadata.insert_bin("balsa-status-bin", MetadataValue::from_bytes(&error.to_json()));
    Status::with_metadata(code, error.message, metadata)
}
