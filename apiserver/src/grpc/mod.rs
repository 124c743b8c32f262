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

use crate::authn::Caller;
use crate::authz::rbac::Attributes;
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
    fn check(&self, caller: &Caller, asked: &Asked, verb: &str, subresource: &str, name: &str) -> Result<(), ApiError> {
        let names = asked.kind.names();
        let attributes = Attributes {
            verb: verb.into(),
            group: names.group.into(),
            version: names.version.into(),
            resource: names.plural.into(),
            subresource: subresource.into(),
            namespace: if names.plural == "namespaces" { name.into() } else { asked.namespace.clone() },
            name: name.into(),
            path: String::new(),
        };
        self.api.authorizer.check(caller, &attributes)
    }

    async fn create_one(&self, caller: Caller, request: CreateRequest) -> Result<Object, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        self.check(&caller, &asked, "create", &request.subresource, &request.name)?;
        let call = call(caller, request.cause, request.dry_run, request.field_manager);
        let body = decode::text(&request.body)?;
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

    async fn update_one(&self, caller: Caller, request: UpdateRequest) -> Result<Object, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        self.check(&caller, &asked, "update", &request.subresource, &request.name)?;
        let call = call(caller, request.cause, request.dry_run, request.field_manager);
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.name };
        let body: Body = decode::text(&request.body)?;
        let found = match request.subresource.as_str() {
            "scale" => self.api.replace_scale(&call, target, &body.value).await?,
            subresource => self.api.replace(&call, target, asked.part(subresource)?, body).await?.0,
        };
        Ok(envelope(&*asked.kind, found))
    }

    async fn patch_one(&self, caller: Caller, request: PatchRequest) -> Result<Object, ApiError> {
        let asked = Asked::new(&self.api, request.resource.clone(), &request.namespace).await?;
        self.check(&caller, &asked, "patch", &request.subresource, &request.name)?;
        let format = match request.r#type() {
            pb::patch_request::Type::Json => Format::Json,
            pb::patch_request::Type::Merge => Format::Merge,
            pb::patch_request::Type::StrategicMerge => Format::Strategic,
            pb::patch_request::Type::Apply => Format::Apply { force: request.force },
            pb::patch_request::Type::Unspecified => return Err(ApiError::bad_request("the patch has no type")),
        };
        let mut call = call(caller, request.cause, request.dry_run, request.field_manager);
        call.applies = matches!(format, Format::Apply { .. });
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.name };
        let patch = Patch { format, bytes: request.patch };
        let found = match request.subresource.as_str() {
            "scale" => self.api.patch_scale(&call, target, &patch).await?,
            subresource => self.api.patch(&call, target, asked.part(subresource)?, &patch).await?.0,
        };
        Ok(envelope(&*asked.kind, found))
    }

    async fn delete_one(&self, caller: Caller, request: DeleteRequest) -> Result<DeleteResponse, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        self.check(&caller, &asked, "delete", "", &request.name)?;
        let call = call(caller, request.cause, request.dry_run, String::new());
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

    async fn get_one(&self, caller: Caller, request: GetRequest) -> Result<Object, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        self.check(&caller, &asked, "get", &request.subresource, &request.name)?;
        let target = Target { kind: &*asked.kind, namespace: &asked.namespace, name: &request.name };
        let mut found = self.api.get(target, Version::parse(&request.resource_version)?).await?;
        if request.subresource == "scale" {
            found.value = scale::view(&*asked.kind, &found.value);
        }
        Ok(envelope(&*asked.kind, found))
    }

    async fn list_some(&self, caller: Caller, request: ListRequest) -> Result<ListResponse, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        self.check(&caller, &asked, "list", "", "")?;
        let query = ListQuery {
            namespace: asked.namespace.clone(),
            labels: request.label_selector,
            fields: request.field_selector,
            limit: usize::try_from(request.limit).unwrap_or(usize::MAX),
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

    async fn start_watch(&self, caller: Caller, request: WatchRequest) -> Result<ReceiverStream<Result<WatchEvent, Status>>, ApiError> {
        let asked = Asked::new(&self.api, request.resource, &request.namespace).await?;
        self.check(&caller, &asked, "watch", "", "")?;
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
        tokio::spawn(async move {
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

    async fn bind_one(&self, caller: Caller, request: BindRequest) -> Result<BindResponse, ApiError> {
        let resource = pb::Resource { group: String::new(), version: "v1".into(), resource: "pods".into() };
        let asked = Asked::new(&self.api, Some(resource), &request.namespace).await?;
        self.check(&caller, &asked, "create", "binding", &request.pod)?;
        let call = call(caller, request.cause, false, String::new());
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
        let caller = caller(&request, self.plaintext)?;
        self.get_one(caller, request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let caller = caller(&request, self.plaintext)?;
        self.list_some(caller, request.into_inner()).await.map(Response::new).map_err(status)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request, self.plaintext)?;
        let stream = self.start_watch(caller, request.into_inner()).await.map_err(status)?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Object>, Status> {
        let caller = caller(&request, self.plaintext)?;
        self.create_one(caller, request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<Object>, Status> {
        let caller = caller(&request, self.plaintext)?;
        self.update_one(caller, request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Result<Response<Object>, Status> {
        let caller = caller(&request, self.plaintext)?;
        self.patch_one(caller, request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let caller = caller(&request, self.plaintext)?;
        self.delete_one(caller, request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn bind(&self, request: Request<BindRequest>) -> Result<Response<BindResponse>, Status> {
        let caller = caller(&request, self.plaintext)?;
        self.bind_one(caller, request.into_inner()).await.map(Response::new).map_err(status)
    }
}
