//! The Kubernetes REST API: connections, identities, routing. What a request does is in [`resource`] and the pipeline.

pub mod answer;
pub mod connect;
pub mod decode;
pub mod discovery;
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
use crate::authn::{Caller, implied_groups};
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

/// How long a request may take that is no watch and no stream.
const DEADLINE: Duration = Duration::from_secs(60);

impl Rest {
    /// Answers one request.
    pub async fn handle(self: Arc<Self>, peer: Peer, request: Request<Body>) -> Response<Body> {
        let start = std::time::Instant::now();
        let (parts, body) = request.into_parts();
        let text = |name: HeaderName| header_text(&parts.headers, name);
        let gzip = text(header::ACCEPT_ENCODING).contains("gzip");
        let audit_id = match text(HeaderName::from_static("audit-id")) {
            "" => uuid::Uuid::new_v4().to_string(),
            given => given.to_owned(),
        };
        let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
        let (mut response, user, cause) = match self.identify(peer, &parts).await {
            Ok(call) => {
                let exchange = exchange(&parts, call);
                let answered = self.dispatch(&exchange, Request::from_parts(parts, body)).await;
                let mut response = answered.unwrap_or_else(|error| Answer::from(error).into_response(gzip));
                for warning in exchange.call.warnings.lock().iter().filter_map(|text| answer::warning(text)) {
                    response.headers_mut().append(header::WARNING, warning);
                }
                (response, exchange.call.caller.user, exchange.call.cause)
            }
            Err(error) => (Answer::from(error).into_response(gzip), String::new(), String::new()),
        };
        if let Ok(value) = HeaderValue::from_str(&audit_id) {
            response.headers_mut().insert(HeaderName::from_static("audit-id"), value);
        }
        let code = response.status().as_u16();
        self.metrics.request(method.as_str(), code, start.elapsed());
        tracing::debug!(%method, path, code, user, cause, audit_id, "request");
        response
    }

    /// Authentication and impersonation.
    async fn identify(&self, peer: Peer, request: &Parts) -> ApiResult<Call> {
        let now = Timestamp::now();
        let caller = match (peer, bearer(request)) {
            (Peer::Certified(caller), _) => caller,
            (_, Some(token)) => {
                let audiences = [self.api.signer.issuer().to_owned()];
                let verified = self.api.verify_token(&token, &audiences, now.as_second()).await;
                verified
                    .map_err(|reason| {
                        tracing::info!(reason, "a bearer token was refused");
                        ApiError::unauthorized()
                    })?
                    .caller()
            }
            (Peer::Loopback, None) => Caller::loopback(),
            (Peer::Unknown, None) => Caller::anonymous(),
        };
        let caller = self.impersonated(caller, request)?;
        let query = Query::parse(request.uri.query().unwrap_or_default());
        let agent = header_text(&request.headers, header::USER_AGENT);
        let manager = match query.get("fieldManager") {
            "" => agent.split('/').next().unwrap_or_default().chars().take(128).collect(),
            named => named.to_owned(),
        };
        let is_apply = header_text(&request.headers, header::CONTENT_TYPE).starts_with("application/apply-patch");
        let manager = if is_apply { query.get("fieldManager").to_owned() } else { manager };
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

    fn impersonated(&self, caller: Caller, request: &Parts) -> ApiResult<Caller> {
        let user = header_text(&request.headers, HeaderName::from_static("impersonate-user"));
        let groups: Vec<&str> = request
            .headers
            .get_all("impersonate-group")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        if user.is_empty() {
            if groups.is_empty() {
                return Ok(caller);
            }
            return Err(ApiError::bad_request("requested groups without impersonating a user"));
        }
        let check = |group: &str, resource: &str, namespace: &str, name: &str| {
            let attributes = Attributes {
                verb: "impersonate".into(),
                group: group.into(),
                version: "v1".into(),
                resource: resource.into(),
                namespace: namespace.into(),
                name: name.into(),
                ..Attributes::default()
            };
            self.api.authorizer.check(&caller, &attributes)
        };
        match user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
            Some((namespace, name)) => check("", "serviceaccounts", namespace, name)?,
            None => check("", "users", "", user)?,
        }
        for group in &groups {
            check("", "groups", "", group)?;
        }
        let mut all: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        for implied in implied_groups(user) {
            let accounts = implied.starts_with(crate::authn::SERVICE_ACCOUNTS);
            if !all.contains(&implied) && (!accounts || groups.is_empty()) {
                all.push(implied);
            }
        }
        let uid = header_text(&request.headers, HeaderName::from_static("impersonate-uid"));
        if !uid.is_empty() {
            check("authentication.k8s.io", "uids", "", uid)?;
        }
        let mut impersonated =
            Caller { user: user.to_owned(), uid: uid.to_owned(), groups: all, ..Caller::default() };
        for (name, value) in &request.headers {
            if let (Some(key), Ok(value)) = (name.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
                check("authentication.k8s.io", "userextras", "", value)?;
                impersonated.extra.entry(key.to_owned()).or_default().push(value.to_owned());
            }
        }
        Ok(impersonated)
    }

    /// Authorization, then whatever the path is about.
    async fn dispatch(&self, exchange: &Exchange, request: Request<Body>) -> ApiResult<Response<Body>> {
        let gzip = header_text(request.headers(), header::ACCEPT_ENCODING).contains("gzip");
        match route::route(&exchange.path) {
            Route::Resource(path) => match self.remote(&path.group, &path.version) {
                Some(remote) => self.delegate(exchange, &path, &remote, request).await,
                None => self.resource(exchange, &path, request, gzip).await,
            },
            route => {
                let attributes = Attributes {
                    verb: exchange.method.as_str().to_ascii_lowercase(),
                    path: exchange.path.clone(),
                    ..Attributes::default()
                };
                self.api.authorizer.check(&exchange.call.caller, &attributes)?;
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
            self.api.authorizer.check(&exchange.call.caller, &resource::attributes(path, verb, &exchange.query))?;
            return self.proxy(exchange, path, request).await;
        }
        let Some(verb) = route::verb(&exchange.method, path, &exchange.query) else {
            return Err(ApiError::method_not_allowed(&resource::gvr(path)));
        };
        let attributes = resource::attributes(path, verb, &exchange.query);
        self.api.authorizer.check(&exchange.call.caller, &attributes)?;
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

/// A header's text; empty where it is absent or none.
pub fn header_text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn bearer(request: &Parts) -> Option<String> {
    let text = header_text(&request.headers, header::AUTHORIZATION);
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()).filter(|token| !token.is_empty())
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
