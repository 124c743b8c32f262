//! Documents about the server itself: discovery, version, health, OpenAPI, metrics.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use balsa_api::openapi;
use balsa_api::status::{ApiError, ApiResult};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::answer::Answer;
use super::route::Route;
use super::{Exchange, Rest, discovery, negotiate};

/// The Kubernetes version that is spoken.
pub const GIT_VERSION: &str = "v1.36.3";

const ROOT_PATHS: [&str; 14] = [
    "/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/healthz", "/healthz/ping", "/livez", "/metrics",
    "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/readyz/store", "/version",
];

/// OpenAPI documents, made when first asked for.
#[derive(Default)]
pub struct OpenApi {
    v2: OnceLock<Bytes>,
    v2_protobuf: OnceLock<Bytes>,
    v3: OnceLock<BTreeMap<String, (String, Bytes)>>,
}

impl OpenApi {
    fn v2(&self) -> &Bytes {
        self.v2.get_or_init(|| serde_json::to_vec(&openapi::v2()).unwrap_or_default().into())
    }

    fn v2_protobuf(&self) -> &Bytes {
        self.v2_protobuf.get_or_init(|| openapi::gnostic::encode(&openapi::v2()).into())
    }

    /// Documents by path (`api/v1`, `apis/apps/v1`) with their hashes.
    fn v3(&self) -> &BTreeMap<String, (String, Bytes)> {
        self.v3.get_or_init(|| {
            openapi::group_versions()
                .into_iter()
                .filter_map(|(group, version)| {
                    let document = openapi::v3(group, version)?;
                    let bytes = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
                    Some((openapi::prefix(group, version), (openapi::hash(&bytes), bytes)))
                })
                .collect()
        })
    }

    fn v3_index(&self) -> Value {
        let hashes: Vec<(String, String)> =
            self.v3().iter().map(|(path, (hash, _))| (path.clone(), hash.clone())).collect();
        openapi::v3_index(&hashes)
    }
}

fn version() -> Value {
    json!({"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": GIT_VERSION, "gitCommit": "balsa", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64"})
}

impl Rest {
    /// Answers whatever is about no object.
    pub(super) async fn document(&self, exchange: &Exchange, route: &Route, known: &str) -> ApiResult<Answer> {
        match route {
            Route::Groups { core } => Ok(self.groups(exchange, *core, known)),
            Route::Group(group) => match discovery::group(group) {
                Some(value) => Ok(Answer::value(StatusCode::OK, &value)),
                None => Ok(no_page()),
            },
            Route::Version(group, version) => match discovery::resources(group, version) {
                Some(value) => Ok(Answer::value(StatusCode::OK, &value)),
                None if discovery::has_group(group) => Err(ApiError::no_such_path()),
                None => Ok(no_page()),
            },
            Route::Resource(_) => Err(ApiError::no_such_path()),
            Route::Other => self.other(exchange, known).await,
        }
    }

    fn groups(&self, exchange: &Exchange, core: bool, known: &str) -> Answer {
        let Some(form) = negotiate::aggregated_discovery(&exchange.accept) else {
            let value = if core { discovery::core_versions(&self.address) } else { discovery::groups() };
            return Answer::value(StatusCode::OK, &value).with(header::VARY, "Accept");
        };
        let body = Bytes::from(serde_json::to_vec(&discovery::aggregated(core, form)).unwrap_or_default());
        let etag = format!("\"{}\"", openapi::hash(&body));
        let content_type = match form {
            "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        };
        let mut answer = Answer::json(StatusCode::OK, body);
        answer.content_type = content_type;
        cached(answer, &etag, known).with(header::VARY, "Accept")
    }

    async fn other(&self, exchange: &Exchange, known: &str) -> ApiResult<Answer> {
        let path = exchange.path.trim_end_matches('/');
        Ok(match path {
            "" => Answer::value(StatusCode::OK, &json!({"paths": ROOT_PATHS})),
            "/version" => Answer::value(StatusCode::OK, &version()),
            "/metrics" => {
                let mut answer = Answer::text(StatusCode::OK, self.metrics.text());
                answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
                answer
            }
            "/openapi/v2" => self.openapi_v2(exchange, known)?,
            "/openapi/v3" => {
                let body = Bytes::from(serde_json::to_vec(&self.openapi.v3_index()).unwrap_or_default());
                let etag = format!("\"{}\"", openapi::hash(&body));
                cached(Answer::json(StatusCode::OK, body), &etag, known)
            }
            "/openid/v1/jwks" => {
                let mut answer = Answer::value(StatusCode::OK, &self.api.signer.jwks());
                answer.content_type = "application/jwk-set+json";
                answer.with(header::CACHE_CONTROL, "public, max-age=3600")
            }
            "/.well-known/openid-configuration" => {
                let issuer = self.api.signer.issuer();
                let below = format!("{}/openid/v1/jwks", issuer.trim_end_matches('/'));
                let jwks_uri = if self.jwks_uri.is_empty() { &below } else { &self.jwks_uri };
                let document = json!({"issuer": issuer, "jwks_uri": jwks_uri, "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]});
                Answer::value(StatusCode::OK, &document).with(header::CACHE_CONTROL, "public, max-age=3600")
            }
            _ => match path.strip_prefix("/openapi/v3/") {
                Some(name) => self.openapi_v3(exchange, name, known),
                None => match health_check(path) {
                    Some((of, check)) => self.health(of, check, exchange.query.has("verbose")).await,
                    None => Answer::value(StatusCode::NOT_FOUND, &json!({"paths": ROOT_PATHS})),
                },
            },
        })
    }

    fn openapi_v2(&self, exchange: &Exchange, known: &str) -> ApiResult<Answer> {
        let answer = if negotiate::openapi_protobuf(&exchange.accept)? {
            let mut answer = Answer::json(StatusCode::OK, self.openapi.v2_protobuf().clone());
            answer.content_type = openapi::gnostic::MEDIA_TYPE;
            answer
        } else {
            Answer::json(StatusCode::OK, self.openapi.v2().clone())
        };
        let etag = format!("\"{}\"", openapi::hash(&answer.body));
        Ok(cached(answer, &etag, known).with(header::VARY, "Accept"))
    }

    fn openapi_v3(&self, exchange: &Exchange, name: &str, known: &str) -> Answer {
        let Some((hash, body)) = self.openapi.v3().get(name) else { return no_page() };
        let asked = exchange.query.get("hash");
        if !asked.is_empty() && asked != hash {
            let target = format!("/openapi/v3/{name}?hash={hash}");
            return Answer::text(StatusCode::MOVED_PERMANENTLY, "").with(header::LOCATION, target);
        }
        let mut answer = cached(Answer::json(StatusCode::OK, body.clone()), &format!("\"{hash}\""), known);
        if !asked.is_empty() {
            answer = answer.with(header::CACHE_CONTROL, "public, immutable, max-age=31536000");
        }
        answer
    }

    /// `/healthz`, `/livez`, `/readyz`: whether the store answers and the state is loaded.
    async fn health(&self, of: &str, only: &str, verbose: bool) -> Answer {
        let store = tokio::time::timeout(std::time::Duration::from_secs(2), self.api.store.revision()).await;
        let store = match store {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the store does not answer in time".to_owned()),
        };
        let loaded = if self.api.caches.is_loaded() { Ok(()) } else { Err("the state is not loaded yet".to_owned()) };
        let complete = self.api.authorizer.is_complete();
        let roles = if complete { Ok(()) } else { Err("the bootstrap roles are not in place yet".to_owned()) };
        let live = of == "livez";
        let all = [
            ("ping", Ok(())),
            ("store", store.clone()),
            ("etcd", store),
            ("informer-sync", loaded),
            ("poststarthook/rbac/bootstrap-roles", roles),
        ];
        let checks: Vec<(&str, Result<(), String>)> = all
            .into_iter()
            // A process is alive although its store is not.
            .filter(|(name, _)| !live || *name == "ping")
            .filter(|(name, _)| only.is_empty() || *name == only)
            .collect();
        if checks.is_empty() {
            return no_page();
        }
        let failed = checks.iter().any(|(_, outcome)| outcome.is_err());
        let mut text = String::new();
        for (name, outcome) in &checks {
            match outcome {
                Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
                Err(reason) => text.push_str(&format!("[-]{name} failed: {reason}\n")),
            }
        }
        text.push_str(&format!("{of} check {}\n", if failed { "failed" } else { "passed" }));
        match (failed, verbose) {
            (true, _) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, text),
            (false, true) => Answer::text(StatusCode::OK, text),
            (false, false) => Answer::text(StatusCode::OK, "ok"),
        }
    }
}

/// `/readyz/store` → (`readyz`, `store`).
fn health_check(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let of = parts.next()?;
    matches!(of, "healthz" | "livez" | "readyz").then(|| (of, parts.next().unwrap_or_default()))
}

/// As Kubernetes answers a path that no group is behind.
fn no_page() -> Answer {
    Answer::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// 304 where the client has the document already.
fn cached(answer: Answer, etag: &str, known: &str) -> Answer {
    let mut answer = answer.with(header::ETAG, etag);
    if !known.is_empty() && known == etag {
        answer.status = StatusCode::NOT_MODIFIED;
        answer.body = Bytes::new();
    }
    answer
}

