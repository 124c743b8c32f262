//! Requests about objects: from path, query and body to the pipeline, and from its result to an answer.

use axum::body::Body as HttpBody;
use balsa_api::kind::{Kind, KindRef, Part};
use balsa_api::meta::GroupVersionResource;
use balsa_api::status::{ApiError, ApiResult};
use balsa_api::table::IncludeObject;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, success};
use super::negotiate::view;
use super::route::{Query, ResourcePath};
use super::view::Shown;
use super::watch::WatchQuery;
use super::{Exchange, Rest, decode, watch};
use crate::authz::rbac::Attributes;
use crate::pipeline::body::{self, Body};
use crate::pipeline::graceful::DeleteOptions;
use crate::pipeline::list::ListQuery;
use crate::pipeline::patch::{Format, Patch};
use crate::pipeline::read::Version;
use crate::pipeline::subresources::{eviction, review, scale};
use crate::pipeline::{Api, Call, Found, Target};
use crate::streaming::{StreamKind, StreamTarget};
use crate::value;
use crate::watch_cache::selection::Selection;

/// The resource that a path names.
pub fn gvr(path: &ResourcePath) -> GroupVersionResource {
    GroupVersionResource::new(&path.group, &path.version, &path.resource)
}

/// What authorization looks at. Pure.
pub fn attributes(path: &ResourcePath, verb: &str, query: &Query) -> Attributes {
    // A list or watch of one name is about that name.
    let by_field = query.get("fieldSelector").split(',').find_map(|term| term.strip_prefix("metadata.name="));
    let name = if path.name.is_empty() && matches!(verb, "list" | "watch" | "deletecollection") {
        by_field.unwrap_or_default().trim_start_matches('=').to_owned()
    } else {
        path.name.clone()
    };
    Attributes {
        verb: verb.to_owned(),
        group: path.group.clone(),
        version: path.version.clone(),
        resource: path.resource.clone(),
        subresource: path.subresource.clone(),
        namespace: path.namespace.clone(),
        name,
        path: String::new(),
    }
}

/// Whether the request goes on to a pod, a service or a node.
pub fn is_proxy(path: &ResourcePath) -> bool {
    path.group.is_empty() && path.subresource == "proxy" && matches!(path.resource.as_str(), "pods" | "services" | "nodes")
}

/// Whether the request is about a stream to a container.
pub fn is_stream(path: &ResourcePath) -> bool {
    path.group.is_empty() && path.resource == "pods" && stream_kind(&path.subresource).is_some()
}

fn stream_kind(subresource: &str) -> Option<StreamKind> {
    match subresource {
        "log" => Some(StreamKind::Log),
        "exec" => Some(StreamKind::Exec),
        "attach" => Some(StreamKind::Attach),
        "portforward" => Some(StreamKind::PortForward),
        _ => None,
    }
}

/// The kind behind a path, and that the path fits its scope.
pub async fn kind_of(api: &Api, path: &ResourcePath) -> ApiResult<KindRef> {
    let kind = api.kind(&path.group, &path.version, &path.resource).await?;
    let in_namespace = !path.namespace.is_empty() && path.resource != "namespaces";
    if in_namespace && !kind.namespaced() || (kind.namespaced() && !in_namespace && !path.name.is_empty()) {
        return Err(ApiError::no_such_path());
    }
    Ok(kind)
}

/// Every request for a deprecated version of a custom resource is warned.
fn warn_deprecated(call: &Call, kind: &dyn Kind) {
    if let Some(warning) = kind.custom().and_then(|custom| custom.deprecation()) {
        call.warn(warning);
    }
}

fn target<'a>(kind: &'a dyn Kind, path: &'a ResourcePath) -> Target<'a> {
    Target { kind, namespace: if kind.namespaced() { &path.namespace } else { "" }, name: &path.name }
}

fn list_query(kind: &dyn Kind, path: &ResourcePath, query: &Query) -> ApiResult<ListQuery> {
    let limit = match query.get("limit") {
        "" => 0,
        number => number.parse().map_err(|_| ApiError::bad_request(format!("limit: {number:?} is not a number")))?,
    };
    if query.has("sendInitialEvents") {
        let finding = balsa_api::field::FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        let options = balsa_api::meta::GroupVersionKind::new("meta.k8s.io", "v1", "ListOptions");
        return Err(ApiError::invalid(&options, "", &[finding]));
    }
    Ok(ListQuery {
        namespace: if kind.namespaced() { path.namespace.clone() } else { String::new() },
        labels: query.get("labelSelector").to_owned(),
        fields: query.get("fieldSelector").to_owned(),
        limit,
        continue_token: query.get("continue").to_owned(),
        version: query.get("resourceVersion").to_owned(),
        version_match: query.get("resourceVersionMatch").to_owned(),
    })
}

fn patch_format(exchange: &Exchange, kind: &dyn Kind) -> ApiResult<Format> {
    match decode::media(&exchange.content_type) {
        "application/strategic-merge-patch+json" if kind.custom().is_some() => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )),
        "application/json-patch+json" => Ok(Format::Json),
        "application/merge-patch+json" => Ok(Format::Merge),
        "application/strategic-merge-patch+json" => Ok(Format::Strategic),
        "application/apply-patch+yaml" | "application/apply-patch+json" => {
            Ok(Format::Apply { force: exchange.query.flag("force") })
        }
        _ => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

impl Rest {
    fn shown(&self, exchange: &Exchange, kind: &KindRef, tables: bool) -> ApiResult<Shown> {
        let include = IncludeObject::parse(exchange.query.get("includeObject"))
            .ok_or_else(|| ApiError::bad_request("includeObject must be one of None, Metadata, Object"))?;
        Ok(Shown { kind: kind.clone(), view: view(&exchange.accept, tables)?, include, now: exchange.call.now })
    }

    /// Answers anything about objects that is no watch and no stream.
    pub(super) async fn answer(
        &self,
        exchange: &Exchange,
        path: &ResourcePath,
        verb: &str,
        body: HttpBody,
    ) -> ApiResult<Answer> {
        let found = kind_of(&self.api, path).await?;
        let kind = &*found;
        warn_deprecated(&exchange.call, kind);
        if !path.subresource.is_empty() {
            return self.subresource(exchange, path, &found, verb, body).await;
        }
        if !kind.verbs().contains(&verb) {
            return Err(ApiError::method_not_allowed(&kind.gvr()));
        }
        let target = target(kind, path);
        let (api, call) = (&self.api, &exchange.call);
        let one = |state: Found, status: StatusCode| -> ApiResult<Answer> {
            Ok(Answer::json(status, self.shown(exchange, &found, true)?.one(state.value)))
        };
        match verb {
            "get" => {
                let shown = self.shown(exchange, &found, true)?;
                let state = api.get(target, Version::parse(exchange.query.get("resourceVersion"))?).await?;
                Ok(Answer::json(StatusCode::OK, shown.one(state.value)))
            }
            "list" => {
                let shown = self.shown(exchange, &found, true)?;
                let listed = api.list(kind, &list_query(kind, path, &exchange.query)?).await?;
                Ok(Answer::json(StatusCode::OK, shown.list(&listed)))
            }
            "create" => {
                let is_stored = kind.verbs().contains(&"get");
                self.shown(exchange, &found, is_stored)?;
                let bytes = decode::read(body).await?;
                let decoded = decode::body(&exchange.content_type, &bytes)?;
                if !is_stored {
                    return self.unstored(exchange, path, kind, decoded).await;
                }
                if kind.namespaced() && path.namespace.is_empty() {
                    return Err(ApiError::method_not_allowed(&kind.gvr()));
                }
                one(api.create(call, kind, target.namespace, decoded).await?, StatusCode::CREATED)
            }
            "update" => {
                let bytes = decode::read(body).await?;
                let decoded = decode::body(&exchange.content_type, &bytes)?;
                let (state, created) = api.replace(call, target, Part::Main, decoded).await?;
                one(state, if created { StatusCode::CREATED } else { StatusCode::OK })
            }
            "patch" => {
                let patch = Patch { format: patch_format(exchange, kind)?, bytes: decode::read(body).await? };
                let (state, created) = api.patch(call, target, Part::Main, &patch).await?;
                one(state, if created { StatusCode::CREATED } else { StatusCode::OK })
            }
            "delete" => {
                let options = self.delete_options(exchange, body).await?;
                let deleted = api.delete(call, target, &options).await?;
                if !deleted.gone || kind.delete_returns_object() {
                    return one(deleted.found, StatusCode::OK);
                }
                let details = json!({"name": target.name, "group": kind.names().group, "kind": kind.names().plural,
                    "uid": value::uid(&deleted.found.value)});
                Ok(Answer::value(StatusCode::OK, &success(details)))
            }
            _ => {
                let options = self.delete_options(exchange, body).await?;
                let listed = api.delete_collection(call, kind, &list_query(kind, path, &exchange.query)?, &options).await?;
                Ok(Answer::json(StatusCode::OK, self.shown(exchange, &found, true)?.list(&listed)))
            }
        }
    }

    /// Kinds that only answer: reviews, and bindings posted to the collection.
    async fn unstored(&self, exchange: &Exchange, path: &ResourcePath, kind: &dyn Kind, body: Body) -> ApiResult<Answer> {
        let object = body::check(&exchange.call, kind, body)?;
        if review::is_review(kind) {
            let answered = self.api.review(&exchange.call, kind, &path.namespace, object).await?;
            return Ok(Answer::value(StatusCode::CREATED, &answered));
        }
        if kind.names().plural == "bindings" {
            let pods = balsa_api::kinds::find("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
            let name = value::name(&object).to_owned();
            let target = Target { kind: pods, namespace: &path.namespace, name: &name };
            self.api.bind(&exchange.call, target, &object).await?;
            return Ok(Answer::value(StatusCode::CREATED, &done()));
        }
        Err(ApiError::method_not_allowed(&kind.gvr()))
    }

    async fn delete_options(&self, exchange: &Exchange, body: HttpBody) -> ApiResult<DeleteOptions> {
        let bytes = decode::read(body).await?;
        let given = if bytes.is_empty() { Value::Null } else { decode::body(&exchange.content_type, &bytes)?.value };
        let mut options = eviction::delete_options(&given)?;
        let query = &exchange.query;
        if options.grace_period_seconds.is_none() && query.has("gracePeriodSeconds") {
            let text = query.get("gracePeriodSeconds");
            let seconds = text.parse().map_err(|_| ApiError::bad_request(format!("gracePeriodSeconds: {text:?} is not a number")))?;
            options.grace_period_seconds = Some(seconds);
        }
        if options.propagation.is_none() && !query.get("propagationPolicy").is_empty() {
            let wanted = json!({"propagationPolicy": query.get("propagationPolicy")});
            options.propagation = eviction::delete_options(&wanted)?.propagation;
        }
        if options.propagation.is_none() && query.has("orphanDependents") {
            let wanted = json!({"orphanDependents": query.flag("orphanDependents")});
            options.propagation = eviction::delete_options(&wanted)?.propagation;
        }
        Ok(options)
    }

    async fn subresource(
        &self,
        exchange: &Exchange,
        path: &ResourcePath,
        found: &KindRef,
        verb: &str,
        body: HttpBody,
    ) -> ApiResult<Answer> {
        let kind = &**found;
        let known = kind.subresources().iter().find(|sub| sub.name == path.subresource);
        let Some(subresource) = known else { return Err(ApiError::no_such_path()) };
        if !subresource.verbs.contains(&verb) {
            return Err(ApiError::method_not_allowed(&kind.gvr()));
        }
        let target = target(kind, path);
        let (api, call) = (&self.api, &exchange.call);
        let plain = |found: Found| Answer::value(StatusCode::OK, &found.value);
        let content_type = exchange.content_type.as_str();
        match (path.subresource.as_str(), verb) {
            ("scale", "get") => {
                let state = api.get(target, Version::parse(exchange.query.get("resourceVersion"))?).await?;
                Ok(Answer::value(StatusCode::OK, &scale::view(kind, &state.value)))
            }
            ("scale", "update") => {
                let decoded = decode::body(content_type, &decode::read(body).await?)?;
                Ok(plain(api.replace_scale(call, target, &decoded.value).await?))
            }
            ("scale", "patch") => {
                let patch = Patch { format: patch_format(exchange, kind)?, bytes: decode::read(body).await? };
                Ok(plain(api.patch_scale(call, target, &patch).await?))
            }
            ("binding" | "eviction" | "token", "create") => {
                let decoded = decode::body(content_type, &decode::read(body).await?)?;
                let object = self.check_subresource_body(exchange, subresource, decoded)?;
                match path.subresource.as_str() {
                    "binding" => drop(api.bind(call, target, &object).await?),
                    "eviction" => api.evict(call, target, &object).await?,
                    _ => {
                        let answered = api.request_token(call, target, &object).await?;
                        return Ok(Answer::value(StatusCode::CREATED, &answered));
                    }
                }
                Ok(Answer::value(StatusCode::CREATED, &done()))
            }
            (name, "get") => {
                let shown = self.shown(exchange, found, true)?;
                let _ = name;
                let state = api.get(target, Version::parse(exchange.query.get("resourceVersion"))?).await?;
                Ok(Answer::json(StatusCode::OK, shown.one(state.value)))
            }
            (name, "update" | "patch") => {
                let part = if name == "status" { Part::Status } else { Part::Other(name) };
                let bytes = decode::read(body).await?;
                let (state, _) = if verb == "update" {
                    api.replace(call, target, part, decode::body(content_type, &bytes)?).await?
                } else {
                    api.patch(call, target, part, &Patch { format: patch_format(exchange, kind)?, bytes }).await?
                };
                Ok(Answer::json(StatusCode::OK, self.shown(exchange, found, true)?.one(state.value)))
            }
            _ => Err(ApiError::method_not_allowed(&kind.gvr())),
        }
    }

    fn check_subresource_body(
        &self,
        exchange: &Exchange,
        subresource: &balsa_api::kind::Subresource,
        body: Body,
    ) -> ApiResult<Value> {
        match balsa_api::kinds::find_type(subresource.group, subresource.version, subresource.kind) {
            Some(kind) => body::check(&exchange.call, kind, body),
            None => Ok(body.value),
        }
    }

    /// Begins a watch.
    pub(super) async fn start_watch(&self, exchange: &Exchange, path: &ResourcePath) -> ApiResult<Response<HttpBody>> {
        let found = kind_of(&self.api, path).await?;
        let kind = &*found;
        warn_deprecated(&exchange.call, kind);
        if !kind.verbs().contains(&"watch") {
            return Err(ApiError::method_not_allowed(&kind.gvr()));
        }
        let query = &exchange.query;
        let namespace = if kind.namespaced() { path.namespace.as_str() } else { "" };
        let selection = Selection::parse(kind, namespace, query.get("labelSelector"), query.get("fieldSelector"))?;
        let shown = self.shown(exchange, &found, true)?;
        let (watcher, first) = self.api.watch(&found, selection, &WatchQuery::parse(query)).await?;
        Ok(watch::response(watcher, first, shown))
    }

    /// Hands a request over to the node that runs the pod.
    pub(super) async fn stream(
        &self,
        exchange: &Exchange,
        path: &ResourcePath,
        attributes: &Attributes,
        request: Request<HttpBody>,
    ) -> ApiResult<Response<HttpBody>> {
        let found = kind_of(&self.api, path).await?;
        let kind = &*found;
        let Some(stream) = stream_kind(&path.subresource) else { return Err(ApiError::no_such_path()) };
        // A WebSocket begins with GET, but it is no mere reading.
        if stream != StreamKind::Log && attributes.verb == "get" {
            let create = Attributes { verb: "create".to_owned(), ..attributes.clone() };
            self.api.authorizer.check(&exchange.call.caller, &create)?;
        }
        let target = target(kind, path);
        let pod = self.api.get(target, Version::Newest).await?.value;
        if stream != StreamKind::Log {
            self.admit_connection(exchange, kind, path, "").await?;
        }
        let node_name = value::text(&pod, "/spec/nodeName").to_owned();
        let node_address = if node_name.is_empty() { String::new() } else { self.node_address(&node_name).await? };
        let pod = serde_json::from_value(pod).map_err(|error| ApiError::internal(format!("the stored pod is malformed: {error}")))?;
        let target = StreamTarget { kind: stream, pod, node_name, node_address, query: exchange.raw_query.clone() };
        Ok(self.streaming.handle(request, target).await)
    }

    pub(crate) async fn node_address(&self, node: &str) -> ApiResult<String> {
        let kind = balsa_api::kinds::find("", "v1", "nodes").ok_or_else(ApiError::no_such_path)?;
        let target = Target { kind, namespace: "", name: node };
        let found = self.api.lookup(target).await?.ok_or_else(|| target.not_found())?;
        agent_address(&found.value).ok_or_else(|| {
            ApiError::internal(format!("node {node:?} reports no InternalIP to reach its agent at"))
        })
    }
}

/// Where a node's agent listens. Pure.
fn agent_address(node: &Value) -> Option<String> {
    let addresses = node.pointer("/status/addresses")?.as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let host = internal["address"].as_str()?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64).unwrap_or(10250);
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// A success about nothing in particular.
fn done() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}


#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_agents_listen() {
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 1234}}}});
        assert_eq!(agent_address(&node).unwrap(), "10.0.0.1:1234");
        assert!(agent_address(&json!({})).is_none());
    }
}
