//! `balsa.api.v1`: the components' way to the same pipeline.
//!
//! The caller is the client certificate's holder. Errors carry the Status as JSON in `balsa-status-bin`.

mod convert;

use std::pin::Pin;
use std::sync::Arc;

use balsa_api::kind::Part;
use balsa_api::status::ApiError;
use balsa_process::identity::Actor;
use balsa_proto::api::api_server::Api as ApiService;
use balsa_proto::api::{
    self as pb, BindRequest, BindResponse, CreateRequest, DeleteRequest, DeleteResponse, GetRequest, ListRequest,
    ListResponse, Object, PatchRequest, UpdateRequest, WatchEvent, WatchRequest,
};
use futures::Stream;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Response, Status};

use crate::audit::policy::Level;
use crate::audit::{Auditor, Origin, Trail};
use crate::authn::Caller;
use crate::authz::rbac::Attributes;
use crate::flow::Seat;
use crate::pipeline::body::Body;
use crate::pipeline::graceful::{DeleteOptions, Propagation};
use crate::pipeline::list::ListQuery;
use crate::pipeline::patch::{Format, Patch};
use crate::pipeline::read::Version;
use crate::pipeline::rules::Preconditions;
use crate::pipeline::subresources::{review, scale};
use crate::pipeline::{Api, Call, FieldValidation, Target};
use crate::rest::decode;
use crate::rest::watch::WatchQuery;
use crate::value;
use crate::watch_cache::selection::Selection;
use convert::{Asked, envelope, shared, status};

/// Events on their way to one watcher.
const QUEUE: usize = 256;

/// The service.
pub struct Service {
    /// The pipeline.
    pub api: Arc<Api>,
    /// The audit log.
    pub audit: Arc<Auditor>,
    /// Plaintext on loopback: everybody is administrator.
    pub plaintext: bool,
}

/// Who calls, from the connection.
fn caller<T>(request: &Request<T>, plaintext: bool) -> Result<Caller, Status> {
    if plaintext {
        return Ok(Caller::loopback());
    }
    let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let certificates = info.and_then(TlsConnectInfo::peer_certs);
    let certificate = certificates.as_ref().and_then(|chain| chain.first());
    let certificate = certificate.ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
    let actor = Actor::from_certificate(certificate).map_err(|error| Status::unauthenticated(error.to_string()))?;
    Ok(Caller::certified(actor))
}

/// Who sends a request, and its part in the audit log, which begins when it is known what is asked.
#[derive(Clone)]
struct From {
    caller: Caller,
    address: Option<std::net::SocketAddr>,
    trail: Arc<parking_lot::Mutex<Trail>>,
}

impl From {
    fn new<T>(request: &Request<T>, plaintext: bool) -> Result<Self, Status> {
        let caller = caller(request, plaintext)?;
        Ok(Self { caller, address: request.remote_addr(), trail: Arc::default() })
    }

    /// As the REST request of the same meaning would have it.
    fn origin(&self, asked: &Attributes) -> Origin {
        let mut uri = if asked.group.is_empty() {
            format!("/api/{}", asked.version)
        } else {
            format!("/apis/{}/{}", asked.group, asked.version)
        };
        let within = if asked.resource == "namespaces" { "" } else { asked.namespace.as_str() };
        let namespaces = if within.is_empty() { "" } else { "namespaces" };
        for part in [namespaces, within, &asked.resource, &asked.name, &asked.subresource] {
            if !part.is_empty() {
                uri.push('/');
                uri.push_str(part);
            }
        }
        Origin {
            id: uuid::Uuid::new_v4().to_string(),
            uri,
            addresses: self.address.map(|address| address.ip().to_string()).into_iter().collect(),
            agent: "balsa.api.v1".to_owned(),
            received: Some(Timestamp::now()),
        }
    }

    /// Logs how a request ended.
    fn finish<T>(&self, outcome: Result<T, ApiError>, body: impl FnOnce(&T) -> Option<bytes::Bytes>) -> Result<T, Status> {
        let trail = self.trail.lock().clone();
        match &outcome {
            Ok(answer) if trail.level() == Level::RequestResponse => trail.response(200, body(answer).as_ref()),
            Ok(_) => trail.response(200, None),
            Err(error) => trail.response(error.code, Some(&error.to_json().into())),
        }
        trail.complete();
        outcome.map_err(status)
    }
}

fn call(caller: Caller, cause: Option<pb::Cause>, dry_run: bool, manager: String) -> Call {
    let cause = cause.map(|cause| {
        let revisions: Vec<String> = cause.revisions.iter().map(u64::to_string).collect();
        if revisions.is_empty() { cause.text } else { format!("{} (saw {})", cause.text, revisions.join(", ")) }
    });
    Call {
        caller,
        cause: cause.unwrap_or_default(),
        dry_run,
        manager,
        applies: false,
        field_validation: FieldValidation::Ignore,
        now: Timestamp::now(),
        warnings: parking_lot::Mutex::default(),
        annotations: parking_lot::Mutex::default(),
    }
}

impl Service {
    /// Waits for the request's turn, and lets it through if its caller may make it. It has its turn until the seat is
    /// dropped.
    async fn check(&self, from: &From, asked: &Asked, verb: &str, subresource: &str, name: &str) -> Result<Seat, ApiError> {
        self.check_selected(from, asked, verb, (subresource, name), ("", 0)).await
    }

    async fn check_selected(
        &self,
        from: &From,
        asked: &Asked,
        verb: &str,
        (subresource, name): (&str, &str),
        (fields, limit): (&str, usize),
    ) -> Result<Seat, ApiError> {
        let names = asked.kind.names();
        let attributes = Attributes {
            verb: verb.into(),
            group: names.group.into(),
            version: names.version.into(),
            resource: names.plural.into(),
            subresource: subresource.into(),
            namespace: if names.plural == "namespaces" { name.into() } else { asked.namespace.clone() },
            name: name.into(),
            ..Attributes::default()
        };
        let attributes = attributes.selecting(fields);
        *from.trail.lock() = self.audit.begin(from.origin(&attributes), &from.caller, None, &attributes);
        from.trail.lock().decision(|| self.api.authorizer.decide(&from.caller, &attributes));
        let seat = self.api.flow.admit(&from.caller, &attributes, limit).await.map_err(|refused| refused.error)?;
        self.api.authorize(&from.caller, &attributes).await?;
        Ok(seat)
    }

    async fn create_one(&self, from: From, request: CreateRequest) -> Result<Object, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        let _seat = self.check(&from, &asked, "create", &request.subresource, &request.name).await?;
        let call = call(from.caller.clone(), request.cause, request.dry_run, request.field_manager);
        let body = decode::text(&request.body)?;
        from.trail.lock().request(|| Some(body.value.clone()));
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.name };
        let answered = match request.subresource.as_str() {
            "" if review::is_review(&*asked.kind) => self.api.review(&call, &*asked.kind, &asked.namespace, body.value).await?,
            "" => return Ok(envelope(&*asked.kind, self.api.create(&call, &*asked.kind, &asked.namespace, body).await?)),
            "token" => self.api.request_token(&call, target, &body.value).await?,
            "binding" => return Ok(envelope(&*asked.kind, self.api.bind(&call, target, &body.value).await?)),
            "eviction" => {
                self.api.evict(&call, target, &body.value).await?;
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
            }
            _ => return Err(ApiError::method_not_allowed(&asked.kind.gvr())),
        };
        Ok(Object {
            kind: value::text(&answered, "/kind").to_owned(),
            name: request.name.clone(),
            namespace: asked.namespace.clone(),
            body: serde_json::to_vec(&answered).unwrap_or_default().into(),
            ..Object::default()
        })
    }

    async fn update_one(&self, from: From, request: UpdateRequest) -> Result<Object, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        let _seat = self.check(&from, &asked, "update", &request.subresource, &request.name).await?;
        let call = call(from.caller.clone(), request.cause, request.dry_run, request.field_manager);
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.name };
        let body: Body = decode::text(&request.body)?;
        from.trail.lock().request(|| Some(body.value.clone()));
        let found = match request.subresource.as_str() {
            "scale" => self.api.replace_scale(&call, target, &body.value).await?,
            subresource => self.api.replace(&call, target, asked.part(subresource)?, body).await?.0,
        };
        Ok(envelope(&*asked.kind, found))
    }

    async fn patch_one(&self, from: From, request: PatchRequest) -> Result<Object, ApiError> {
        let asked = Asked::new(&self.api, request.resource.clone(), &request.namespace).await?;
        let _seat = self.check(&from, &asked, "patch", &request.subresource, &request.name).await?;
        let format = match request.r#type() {
            pb::patch_request::Type::Json => Format::Json,
            pb::patch_request::Type::Merge => Format::Merge,
            pb::patch_request::Type::StrategicMerge => Format::Strategic,
            pb::patch_request::Type::Apply => Format::Apply { force: request.force },
            pb::patch_request::Type::Unspecified => return Err(ApiError::bad_request("the patch has no type")),
        };
        let mut call = call(from.caller.clone(), request.cause, request.dry_run, request.field_manager);
        call.applies = matches!(format, Format::Apply { .. });
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.name };
        let patch = Patch { format, bytes: request.patch };
        from.trail.lock().request(|| decode::text(&patch.bytes).ok().map(|body| body.value));
        let found = match request.subresource.as_str() {
            "scale" => self.api.patch_scale(&call, target, &patch).await?,
            subresource => self.api.patch(&call, target, asked.part(subresource)?, &patch).await?.0,
        };
        Ok(envelope(&*asked.kind, found))
    }

    async fn delete_one(&self, from: From, request: DeleteRequest) -> Result<DeleteResponse, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        let _seat = self.check(&from, &asked, "delete", "", &request.name).await?;
        let call = call(from.caller.clone(), request.cause, request.dry_run, String::new());
        let propagation = match request.propagation_policy.as_str() {
            "" => None,
            word => Some(Propagation::parse(word).ok_or_else(|| {
                ApiError::bad_request(format!("propagation_policy: Unsupported value: {word:?}"))
            })?),
        };
        let given = |text: String| (!text.is_empty()).then_some(text);
        let options = DeleteOptions {
            grace_period_seconds: request.grace_period_seconds,
            propagation,
            preconditions: Preconditions {
                uid: given(request.precondition_uid),
                version: given(request.precondition_resource_version),
            },
            dry_run: request.dry_run,
        };
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.name };
        let deleted = self.api.delete(&call, target, &options).await?;
        Ok(DeleteResponse { object: Some(envelope(&*asked.kind, deleted.found)), gone: deleted.gone })
    }

    async fn get_one(&self, from: From, request: GetRequest) -> Result<Object, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        let _seat = self.check(&from, &asked, "get", &request.subresource, &request.name).await?;
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.name };
        let mut found = self.api.get(target, Version::parse(&request.resource_version)?).await?;
        if request.subresource == "scale" {
            found.value = scale::view(&*asked.kind, &found.value);
        }
        Ok(envelope(&*asked.kind, found))
    }

    async fn list_some(&self, from: From, request: ListRequest) -> Result<ListResponse, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let _seat = self.check_selected(&from, &asked, "list", ("", ""), (&request.field_selector, limit)).await?;
        let query = ListQuery {
            namespace: asked.namespace.clone(),
            labels: request.label_selector,
            fields: request.field_selector,
            limit,
            continue_token: request.continue_token,
            version: request.resource_version,
            version_match: request.resource_version_match,
        };
        let listed = self.api.list(&*asked.kind, &query).await?;
        Ok(ListResponse {
            items: listed.items.iter().map(|object| shared(&*asked.kind, object)).collect(),
            revision: listed.revision,
            continue_token: listed.continue_token,
        })
    }

    async fn start_watch(&self, from: From, request: WatchRequest) -> Result<ReceiverStream<Result<WatchEvent, Status>>, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        let _seat = self.check_selected(&from, &asked, "watch", ("", ""), (&request.field_selector, 0)).await?;
        let selection = Selection::parse(&*asked.kind, &asked.namespace, &request.label_selector, &request.field_selector)?;
        let query = WatchQuery {
            version: request.resource_version,
            version_match: if request.send_initial_events { "NotOlderThan".into() } else { String::new() },
            initial_events: request.send_initial_events.then_some(true),
            bookmarks: request.allow_bookmarks,
            timeout_seconds: u64::from(request.timeout_seconds),
        };
        let (mut watcher, mut first) = self.api.watch(&asked.kind, selection, &query).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let kind = asked.kind.clone();
        let trail = from.trail.lock().clone();
        trail.started(200);
        tokio::spawn(async move {
            // With the watch the last clone goes, and so the request is over.
            let _trail = trail;
            loop {
                let notices = if first.is_empty() {
                    tokio::select! {
                        notices = watcher.next() => notices,
                        () = sender.closed() => return,
                    }
                } else {
                    std::mem::take(&mut first)
                };
                for notice in notices {
                    let Some(event) = convert::event(&*kind, notice) else { return };
                    let last = event.r#type() == pb::watch_event::Type::Error;
                    // A slow reader holds up only this task; its place in the window is its limit.
                    if sender.send(Ok(event)).await.is_err() || last {
                        return;
                    }
                }
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn bind_one(&self, from: From, request: BindRequest) -> Result<BindResponse, ApiError> {
        let resource = pb::Resource { group: String::new(), version: "v1".into(), resource: "pods".into() };
        let asked = Asked::new(&self.api, Some(resource), &request.namespace).await?;
        let _seat = self.check(&from, &asked, "create", "binding", &request.pod).await?;
        let call = call(from.caller.clone(), request.cause, false, String::new());
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.pod };
        let binding = json!({"metadata": {"name": request.pod, "uid": request.uid}, "target": {"kind": "Node", "name": request.node}});
        self.api.bind(&call, target, &binding).await?;
        Ok(BindResponse {})
    }
}

impl Asked {
    /// Which part of the object a subresource is.
    fn part<'a>(&self, subresource: &'a str) -> Result<Part<'a>, ApiError> {
        match subresource {
            "" => Ok(Part::Main),
            "status" => Ok(Part::Status),
            other if self.kind.subresources().iter().any(|known| known.name == other) => Ok(Part::Other(other)),
            _ => Err(ApiError::no_such_path()),
        }
    }
}

#[tonic::async_trait]
impl ApiService for Service {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Object>, Status> {
        let from = From::new(&request, self.plaintext)?;
        from.finish(self.get_one(from.clone(), request.into_inner()).await, |object| Some(object.body.clone())).map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let from = From::new(&request, self.plaintext)?;
        from.finish(self.list_some(from.clone(), request.into_inner()).await, |_| None).map(Response::new)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let from = From::new(&request, self.plaintext)?;
        match self.start_watch(from.clone(), request.into_inner()).await {
            Ok(stream) => Ok(Response::new(Box::pin(stream))),
            Err(error) => from.finish(Err(error), |_| None),
        }
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Object>, Status> {
        let from = From::new(&request, self.plaintext)?;
        from.finish(self.create_one(from.clone(), request.into_inner()).await, |object| Some(object.body.clone())).map(Response::new)
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<Object>, Status> {
        let from = From::new(&request, self.plaintext)?;
        from.finish(self.update_one(from.clone(), request.into_inner()).await, |object| Some(object.body.clone())).map(Response::new)
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Result<Response<Object>, Status> {
        let from = From::new(&request, self.plaintext)?;
        from.finish(self.patch_one(from.clone(), request.into_inner()).await, |object| Some(object.body.clone())).map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let from = From::new(&request, self.plaintext)?;
        from.finish(self.delete_one(from.clone(), request.into_inner()).await, |answer| answer.object.as_ref().map(|object| object.body.clone())).map(Response::new)
    }

    async fn bind(&self, request: Request<BindRequest>) -> Result<Response<BindResponse>, Status> {
        let from = From::new(&request, self.plaintext)?;
        from.finish(self.bind_one(from.clone(), request.into_inner()).await, |_| None).map(Response::new)
    }
}
