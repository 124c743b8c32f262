//! The Kubernetes REST API: connections, identities, routing. What a request does is in [`resource`] and the pipeline.

pub mod answer;
mod capture;
pub mod connect;
pub mod decode;
pub mod discovery;
pub mod identify;
pub mod misc;
pub mod negotiate;
pub mod resource;
pub mod route;
pub mod serve;
pub mod view;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use balsa_api::status::{ApiError, ApiResult};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::aggregation::Aggregation;
use crate::audit::policy::Level;
use crate::audit::{Auditor, Origin};
use crate::authn::Caller;
use crate::authz::rbac::Attributes;
use crate::metrics::Metrics;
use crate::pipeline::{Api, Call, FieldValidation};
use crate::streaming::Streaming;
use answer::Answer;
use route::{Query, ResourcePath, Route};

/// What the REST side needs besides the pipeline.
pub struct Rest {
    /// The pipeline.
    pub api: Arc<Api>,
    /// exec, attach, log, port-forward.
    pub streaming: Streaming,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Documents that do not change: OpenAPI.
    pub openapi: misc::OpenApi,
    /// Requests that one HTTP/2 connection may have open.
    pub max_streams: u32,
    /// Identities besides certificates and tokens.
    pub door: identify::Door,
    /// The audit log.
    pub audit: Arc<Auditor>,
    /// Where the keys of tokens are shown; empty: below the issuer.
    pub jwks_uri: String,
    /// What servers in the cluster serve of the API.
    pub aggregation: Arc<Aggregation>,
    /// Address under which clients reach this server, for `/api`.
    pub address: String,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A verified client certificate.
    Certified(Caller),
    /// The certificate of a proxy in front, which says in headers who calls; and its holder, where the cluster's own
    /// authority vouches for it too.
    Proxy(Option<Caller>),
    /// No certificate: a token may follow.
    Unknown,
    /// Plaintext on loopback: everybody is administrator.
    Loopback,
}

/// One request on its way.
pub struct Exchange {
    /// Method.
    pub method: Method,
    /// Path, as it came.
    pub path: String,
    /// Query, decoded.
    pub query: Query,
    /// Query, raw.
    pub raw_query: String,
    /// `Accept`
    pub accept: String,
    /// `Content-Type`
    pub content_type: String,
    /// Who, why, how.
    pub call: Call,
}

/// Characters of a client's own Audit-ID that are kept.
const MAX_AUDIT_ID: usize = 64;

/// Forwarding addresses that are logged.
const MAX_ADDRESSES: usize = 16;

/// How long a request may take that is no watch and no stream.
const DEADLINE: Duration = Duration::from_secs(60);

impl Rest {
    /// Answers one request.
    pub async fn handle(self: Arc<Self>, peer: Peer, request: Request<Body>) -> Response<Body> {
        let start = std::time::Instant::now();
        let (parts, body) = request.into_parts();
        let gzip = header_text(&parts.headers, header::ACCEPT_ENCODING).contains("gzip");
        let origin = origin(&parts);
        let (audit_id, method, path) = (origin.id.clone(), parts.method.clone(), parts.uri.path().to_owned());
        let now = Timestamp::now();
        let (mut response, user) = match self.authenticate(peer, &parts, now).await {
            Ok(caller) => {
                let user = caller.user.clone();
                (self.clone().serve(caller, now, origin, Request::from_parts(parts, body)).await, user)
            }
            Err(error) => (Answer::from(error).into_response(gzip), String::new()),
        };
        if let Ok(value) = HeaderValue::from_str(&audit_id) {
            response.headers_mut().insert(HeaderName::from_static("audit-id"), value);
        }
        let code = response.status().as_u16();
        self.metrics.request(method.as_str(), code, start.elapsed());
        tracing::debug!(%method, path, code, user, audit_id, "request");
        response
    }

    /// Answers a caller who is known, and logs it where the policy says so.
    async fn serve(
        self: Arc<Self>,
        caller: Caller,
        now: Timestamp,
        origin: Origin,
        request: Request<Body>,
    ) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let asked = asked(&parts);
        let is_long = is_long(&asked);
        let impersonated = self.impersonated(&caller, &parts.headers).await;
        let acting = impersonated.as_ref().ok().and_then(Option::as_ref);
        let trail = self.audit.begin(origin, &caller, acting, &asked);
        let captures = trail.level() >= Level::Request && !is_long;
        if captures {
            // The log holds answers as they are.
            parts.headers.remove(header::ACCEPT_ENCODING);
        }
        let gzip = header_text(&parts.headers, header::ACCEPT_ENCODING).contains("gzip");
        let outcome = async {
            let caller = impersonated?.unwrap_or(caller);
            trail.decision(|| self.api.authorizer.decide(&caller, &asked));
            let call = call(&parts, caller, now)?;
            let body = if captures { capture::request(&trail, &parts, body).await? } else { body };
            let exchange = exchange(&parts, call);
            let answered = self.in_turn(&exchange, &asked, Request::from_parts(parts, body)).await;
            let mut response = answered.unwrap_or_else(|error| Answer::from(error).into_response(gzip));
            trail.annotate(&exchange.call.annotations.lock());
            for warning in answer::warnings(&exchange.call.warnings.lock()) {
                response.headers_mut().append(header::WARNING, warning);
            }
            Ok(response)
        }
        .await;
        let response = outcome.unwrap_or_else(|error: ApiError| Answer::from(error).into_response(gzip));
        capture::response(trail, response, is_long).await
    }

    /// Waits for its turn, then answers.
    async fn in_turn(&self, exchange: &Exchange, asked: &Attributes, request: Request<Body>) -> ApiResult<Response<Body>> {
        // What a client or a pod keeps open holds no seat; a watch does until it has begun.
        if is_long(asked) && asked.verb != "watch" {
            return self.dispatch(exchange, asked, request).await;
        }
        let gzip = header_text(request.headers(), header::ACCEPT_ENCODING).contains("gzip");
        let limit = exchange.query.get("limit").parse().unwrap_or_default();
        let (mut response, uids) = match self.api.flow.admit(&exchange.call.caller, asked, limit).await {
            Ok(mut seat) => {
                let answered = self.dispatch(exchange, asked, request).await;
                let response = answered.unwrap_or_else(|error| Answer::from(error).into_response(gzip));
                (response, std::mem::take(&mut seat.uids))
            }
            Err(refused) => (Answer::from(refused.error).into_response(gzip), refused.uids),
        };
        let headers = [("x-kubernetes-pf-flowschema-uid", uids.0), ("x-kubernetes-pf-prioritylevel-uid", uids.1)];
        for (name, uid) in headers {
            // Of levels and schemas that are no objects yet there is nothing to say.
            if let Some(value) = HeaderValue::from_str(&uid).ok().filter(|value| !value.is_empty()) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        Ok(response)
    }

    /// Authorization, then whatever the path is about.
    async fn dispatch(&self, exchange: &Exchange, asked: &Attributes, request: Request<Body>) -> ApiResult<Response<Body>> {
        let gzip = header_text(request.headers(), header::ACCEPT_ENCODING).contains("gzip");
        match route::route(&exchange.path) {
            Route::Resource(path) => match self.remote(&path.group, &path.version) {
                Some(remote) => self.delegate(exchange, &path, &remote, request).await,
                None => self.resource(exchange, &path, request, gzip).await,
            },
            route => {
                self.api.authorizer.check(&exchange.call.caller, asked)?;
                if let Route::Version(group, version) = &route
                    && let Some(remote) = self.remote(group, version)
                {
                    return Ok(self.pass_on(exchange, &remote, request).await);
                }
                if exchange.method != Method::GET && exchange.method != Method::HEAD {
                    return Ok(Answer::text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed").into_response(false));
                }
                let etag = header_text(request.headers(), header::IF_NONE_MATCH).to_owned();
                Ok(self.document(exchange, &route, &etag).await?.into_response(gzip))
            }
        }
    }

    async fn resource(
        &self,
        exchange: &Exchange,
        path: &ResourcePath,
        request: Request<Body>,
        gzip: bool,
    ) -> ApiResult<Response<Body>> {
        if resource::is_proxy(path) {
            // Methods without a verb are for those who may do anything.
            let verb = route::verb(&exchange.method, path, &exchange.query).unwrap_or_default();
            self.api.authorize(&exchange.call.caller, &resource::attributes(path, verb, &exchange.query)).await?;
            return self.proxy(exchange, path, request).await;
        }
        let Some(verb) = route::verb(&exchange.method, path, &exchange.query) else {
            return Err(ApiError::method_not_allowed(&resource::gvr(path)));
        };
        let attributes = resource::attributes(path, verb, &exchange.query);
        self.api.authorize(&exchange.call.caller, &attributes).await?;
        if verb == "watch" {
            return self.start_watch(exchange, path).await;
        }
        if resource::is_stream(path) {
            return self.stream(exchange, path, &attributes, request).await;
        }
        let answered = tokio::time::timeout(DEADLINE, self.answer(exchange, path, verb, request.into_body())).await;
        let answer = answered.map_err(|_| {
            ApiError::timeout("the request did not end in time: the store or what it waits for does not answer", 1)
        })??;
        Ok(answer.into_response(gzip))
    }
}

/// What is asked for, as authorization, audit and flow control see it. Pure.
fn asked(request: &Parts) -> Attributes {
    let path = request.uri.path();
    let query = Query::parse(request.uri.query().unwrap_or_default());
    match route::route(path) {
        Route::Resource(path) => {
            let verb = route::verb(&request.method, &path, &query).unwrap_or_default();
            resource::attributes(&path, verb, &query)
        }
        _ => Attributes {
            verb: request.method.as_str().to_ascii_lowercase(),
            path: path.to_owned(),
            ..Attributes::default()
        },
    }
}

/// Whether the answer goes on for as long as the client or the pod wants. Pure.
fn is_long(asked: &Attributes) -> bool {
    asked.verb == "watch"
        || matches!(asked.subresource.as_str(), "proxy" | "exec" | "attach" | "portforward")
        || asked.subresource == "log" && asked.resource == "pods"
}

/// From where and under which id a request comes.
fn origin(request: &Parts) -> Origin {
    let id = match header_text(&request.headers, HeaderName::from_static("audit-id")) {
        "" => uuid::Uuid::new_v4().to_string(),
        given => given.chars().take(MAX_AUDIT_ID).collect(),
    };
    let forwarded = header_text(&request.headers, HeaderName::from_static("x-forwarded-for"));
    let said = forwarded.split(',').map(str::trim).filter(|address| address.parse::<std::net::IpAddr>().is_ok());
    let mut addresses: Vec<String> = said.take(MAX_ADDRESSES).map(str::to_owned).collect();
    if let Some(crate::proxy::Client(client)) = request.extensions.get() {
        let own = client.ip().to_string();
        if addresses.last() != Some(&own) {
            addresses.push(own);
        }
    }
    Origin {
        id,
        uri: request.uri.path_and_query().map(|uri| uri.as_str().to_owned()).unwrap_or_default(),
        addresses,
        agent: header_text(&request.headers, header::USER_AGENT).to_owned(),
        received: Some(Timestamp::now()),
    }
}

/// Who writes, how, and since when.
fn call(request: &Parts, caller: Caller, now: Timestamp) -> ApiResult<Call> {
    let query = Query::parse(request.uri.query().unwrap_or_default());
    let agent = header_text(&request.headers, header::USER_AGENT);
    let is_apply = header_text(&request.headers, header::CONTENT_TYPE).starts_with("application/apply-patch");
    let manager = match query.get("fieldManager") {
        named if is_apply || !named.is_empty() => named.to_owned(),
        _ => agent.split('/').next().unwrap_or_default().chars().take(128).collect(),
    };
    Ok(Call {
        caller,
        cause: String::new(),
        dry_run: dry_run(&query)?,
        manager,
        applies: is_apply,
        field_validation: field_validation(&query)?,
        now,
        warnings: Mutex::default(),
        annotations: Mutex::default(),
    })
}

/// A header's text; empty where it is absent or none.
pub fn header_text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn exchange(request: &Parts, call: Call) -> Exchange {
    let raw_query = request.uri.query().unwrap_or_default().to_owned();
    // Several Accept headers are one list.
    let accepts: Vec<&str> =
        request.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    Exchange {
        method: request.method.clone(),
        path: request.uri.path().to_owned(),
        query: Query::parse(&raw_query),
        raw_query,
        accept: accepts.join(","),
        content_type: header_text(&request.headers, header::CONTENT_TYPE).to_owned(),
        call,
    }
}

fn dry_run(query: &Query) -> ApiResult<bool> {
    match query.all("dryRun").as_slice() {
        [] | [""] => Ok(false),
        ["All"] => Ok(true),
        others => {
            let finding = balsa_api::field::FieldError::not_supported(
                "dryRun",
                Value::from(others.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()),
                &["All"],
            );
            let options = balsa_api::meta::GroupVersionKind::new("meta.k8s.io", "v1", "CreateOptions");
            Err(ApiError::invalid(&options, "", &[finding]))
        }
    }
}

fn field_validation(query: &Query) -> ApiResult<FieldValidation> {
    FieldValidation::parse(query.get("fieldValidation")).ok_or_else(|| {
        let finding = balsa_api::field::FieldError::not_supported(
            "fieldValidation",
            query.get("fieldValidation"),
            &["", "Ignore", "Strict", "Warn"],
        );
        let options = balsa_api::meta::GroupVersionKind::new("meta.k8s.io", "v1", "CreateOptions");
        ApiError::invalid(&options, "", &[finding])
    })
}
