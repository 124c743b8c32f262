//! The wire of the apiserver double.

use std::sync::Arc;

use balsa_api::meta::GroupVersionResource;
use balsa_api::selector::{FieldSelector, LabelSelector};
use balsa_api::status::{ApiError, ApiResult};
use balsa_proto::api as wire;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use wire::watch_event::Type;

use super::Shared;
use super::store::{Entry, text};
use crate::error::to_status;

#[derive(Clone)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    /// Cancelled when this server stops.
    pub(super) server: CancellationToken,
}

fn resource(resource: Option<wire::Resource>) -> ApiResult<GroupVersionResource> {
    let resource = resource.ok_or_else(|| ApiError::bad_request("resource is missing"))?;
    Ok(GroupVersionResource { group: resource.group, version: resource.version, resource: resource.resource })
}

fn envelope(resource: &GroupVersionResource, value: &Value) -> wire::Object {
    wire::Object {
        group: resource.group.clone(),
        version: resource.version.clone(),
        kind: text(value, "/kind").to_owned(),
        namespace: text(value, "/metadata/namespace").to_owned(),
        name: text(value, "/metadata/name").to_owned(),
        revision: text(value, "/metadata/resourceVersion").parse().unwrap_or(0),
        body: serde_json::to_vec(value).unwrap_or_default().into(),
    }
}

fn parse(body: &[u8]) -> ApiResult<Value> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(error.to_string()))
}

struct Filter {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    fn new(labels: &str, fields: &str) -> ApiResult<Self> {
        Ok(Self { labels: LabelSelector::parse(labels)?, fields: FieldSelector::parse(fields)? })
    }

    fn matches(&self, value: &Value) -> bool {
        self.labels.matches(value)
            && self.fields.terms.iter().all(|(field, equal, wanted)| {
                let pointer = format!("/{}", field.replace('.', "/"));
                (text(value, &pointer) == wanted) == *equal
            })
    }
}

/// A request's name in faults and in the list of requests.
fn method(verb: &str, resource: &GroupVersionResource, subresource: &str) -> String {
    let slash = if subresource.is_empty() { "" } else { "/" };
    format!("{verb} {}{slash}{subresource}", resource.resource)
}

impl Service {
    fn run<T>(&self, method: &str, key: &str, act: impl FnOnce(&mut super::store::Store) -> ApiResult<T>) -> Result<Response<T>, Status> {
        if self.server.is_cancelled() {
            return Err(Status::unavailable("the apiserver double was stopped"));
        }
        let lost = self.shared.before(method, key).map_err(|error| to_status(&error))?;
        let done = act(&mut self.shared.store.lock());
        self.shared.tell();
        match (done, lost) {
            (_, Some(error)) => Err(to_status(&error)),
            (Ok(value), None) => Ok(Response::new(value)),
            (Err(error), None) => Err(to_status(&error)),
        }
    }
}

fn event(kind: Type, resource: &GroupVersionResource, value: &Value) -> wire::WatchEvent {
    wire::WatchEvent { r#type: kind.into(), object: Some(envelope(resource, value)), ..wire::WatchEvent::default() }
}

/// What a watch with this filter sees of a change.
fn seen(entry: &Entry, filter: &Filter) -> Option<wire::WatchEvent> {
    let before = entry.old.as_ref().is_some_and(|old| filter.matches(old));
    let after = entry.new.as_ref().is_some_and(|new| filter.matches(new));
    let kind = match (before, after) {
        (false, false) => return None,
        (false, true) => Type::Added,
        (true, true) => Type::Modified,
        (true, false) => Type::Deleted,
    };
    let value = if after { entry.new.as_ref()? } else { entry.old.as_ref()? };
    let mut event = event(kind, &entry.resource, value);
    if let Some(object) = &mut event.object
        && kind == Type::Deleted
    {
        let mut value = value.clone();
        value["metadata"]["resourceVersion"] = Value::String(entry.revision.to_string());
        *object = envelope(&entry.resource, &value);
    }
    Some(event)
}

#[tonic::async_trait]
impl wire::api_server::Api for Service {
    type WatchStream = BoxStream<'static, Result<wire::WatchEvent, Status>>;

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::Object>, Status> {
        let request = request.into_inner();
        let resource = resource(request.resource).map_err(|error| to_status(&error))?;
        let key = format!("{}/{}", request.namespace, request.name);
        self.run(&method("GET", &resource, &request.subresource), &key, |store| {
            Ok(envelope(&resource, &store.get(&resource, &request.namespace, &request.name)?))
        })
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Status> {
        let request = request.into_inner();
        let resource = resource(request.resource).map_err(|error| to_status(&error))?;
        self.run(&method("LIST", &resource, ""), &request.namespace, |store| {
            let filter = Filter::new(&request.label_selector, &request.field_selector)?;
            let items = store.list(&resource, &request.namespace);
            let items = items.iter().filter(|value| filter.matches(value)).map(|value| envelope(&resource, value));
            Ok(wire::ListResponse { items: items.collect(), revision: store.revision(), continue_token: String::new() })
        })
    }

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let resource = resource(request.resource).map_err(|error| to_status(&error))?;
        let filter = Filter::new(&request.label_selector, &request.field_selector).map_err(|error| to_status(&error))?;
        let mut first = Vec::new();
        let mut at = 0;
        self.run(&method("WATCH", &resource, ""), &request.namespace, |store| {
            at = store.revision();
            match request.resource_version.as_str() {
                "" | "0" => {
                    let present = store.list(&resource, &request.namespace);
                    let present = present.iter().filter(|value| filter.matches(value));
                    first.extend(present.map(|value| event(Type::Added, &resource, value)));
                }
                revision => at = revision.parse().map_err(|_| ApiError::bad_request("bad resourceVersion"))?,
            }
            if request.send_initial_events {
                let object = Some(wire::Object { revision: at, ..wire::Object::default() });
                let r#type = Type::Bookmark.into();
                first.push(wire::WatchEvent { r#type, object, initial_events_end: true, ..wire::WatchEvent::default() });
            }
            Ok(())
        })?;
        let (sender, receiver) = mpsc::channel(64);
        let shared = self.shared.clone();
        let cut = self.shared.watches.lock().clone();
        let server = self.server.clone();
        tokio::spawn(async move {
            let follow = follow(&shared, &resource, &request.namespace, &filter, first, at, &sender);
            tokio::select! {
                () = follow => {}
                () = sender.closed() => {}
                () = cut.cancelled() => {}
                () = server.cancelled() => {}
            }
        });
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(receiver).map(Ok).boxed()))
    }

    async fn create(&self, request: Request<wire::CreateRequest>) -> Result<Response<wire::Object>, Status> {
        let request = request.into_inner();
        let resource = resource(request.resource).map_err(|error| to_status(&error))?;
        let name = if request.name.is_empty() {
            serde_json::from_slice::<Value>(&request.body).map(|v| text(&v, "/metadata/name").to_owned()).unwrap_or_default()
        } else {
            request.name.clone()
        };
        let key = format!("{}/{name}", request.namespace);
        self.run(&method("CREATE", &resource, &request.subresource), &key, |store| {
            if !request.subresource.is_empty() {
                return Err(ApiError::no_such_path());
            }
            Ok(envelope(&resource, &store.create(&resource, &request.namespace, parse(&request.body)?)?))
        })
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Result<Response<wire::Object>, Status> {
        let request = request.into_inner();
        let resource = resource(request.resource).map_err(|error| to_status(&error))?;
        let key = format!("{}/{}", request.namespace, request.name);
        self.run(&method("UPDATE", &resource, &request.subresource), &key, |store| {
            let value = parse(&request.body)?;
            let (ns, name, subresource) = (&request.namespace, &request.name, &request.subresource);
            Ok(envelope(&resource, &store.update(&resource, ns, name, subresource, value)?))
        })
    }

    async fn patch(&self, request: Request<wire::PatchRequest>) -> Result<Response<wire::Object>, Status> {
        let request = request.into_inner();
        let kind = request.r#type();
        let resource = resource(request.resource).map_err(|error| to_status(&error))?;
        let key = format!("{}/{}", request.namespace, request.name);
        self.run(&method("PATCH", &resource, &request.subresource), &key, |store| {
            let patch = parse(&request.patch)?;
            let (ns, name, subresource) = (&request.namespace, &request.name, &request.subresource);
            let old = match store.get(&resource, ns, name) {
                Err(error) if error.is_not_found() && kind == wire::patch_request::Type::Apply => {
                    return Ok(envelope(&resource, &store.create(&resource, ns, patch)?));
                }
                other => other?,
            };
            let mut new = old.clone();
            // Only what the patch itself demands is a precondition.
            if let Some(meta) = new["metadata"].as_object_mut() {
                meta.remove("resourceVersion");
            }
            match kind {
                wire::patch_request::Type::Merge => super::merge::merge(&mut new, &patch),
                wire::patch_request::Type::StrategicMerge | wire::patch_request::Type::Apply => {
                    super::merge::strategic(&mut new, &patch);
                }
                wire::patch_request::Type::Json | wire::patch_request::Type::Unspecified => {
                    return Err(ApiError::unsupported_media_type("the apiserver double does not know this patch type"));
                }
            }
            Ok(envelope(&resource, &store.update(&resource, ns, name, subresource, new)?))
        })
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteResponse>, Status> {
        let request = request.into_inner();
        let resource = resource(request.resource.clone()).map_err(|error| to_status(&error))?;
        let key = format!("{}/{}", request.namespace, request.name);
        self.run(&method("DELETE", &resource, ""), &key, |store| {
            let (object, gone) = store.delete(&resource, &request)?;
            Ok(wire::DeleteResponse { object: Some(envelope(&resource, &object)), gone })
        })
    }

    async fn bind(&self, request: Request<wire::BindRequest>) -> Result<Response<wire::BindResponse>, Status> {
        let request = request.into_inner();
        let key = format!("{}/{} {}", request.namespace, request.pod, request.node);
        self.run("BIND pods", &key, |store| store.bind(&request).map(|()| wire::BindResponse {}))
    }
}

/// Sends the first events, then every change after `at`.
async fn follow(
    shared: &Shared,
    resource: &GroupVersionResource,
    namespace: &str,
    filter: &Filter,
    first: Vec<wire::WatchEvent>,
    mut at: u64,
    events: &mpsc::Sender<wire::WatchEvent>,
) {
    let mut revision = shared.revision.subscribe();
    for event in first {
        if events.send(event).await.is_err() {
            return;
        }
    }
    loop {
        let changes = shared.store.lock().since(at);
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                let r#type = Type::Error.into();
                let status = error.to_json().into();
                let _ = events.send(wire::WatchEvent { r#type, status, ..wire::WatchEvent::default() }).await;
                return;
            }
        };
        for change in changes {
            at = change.revision;
            let ours = change.resource == *resource && (namespace.is_empty() || change.namespace == namespace);
            if let Some(event) = ours.then(|| seen(&change, filter)).flatten()
                && events.send(event).await.is_err()
            {
                return;
            }
        }
        if revision.changed().await.is_err() {
            return;
        }
    }
}
