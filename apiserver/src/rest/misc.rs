//! Documents about the server itself: discovery, version, health, OpenAPI, metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use balsa_api::apiextensions::Registry;
use balsa_api::openapi;
use balsa_api::status::{ApiError, ApiResult};
use bytes::Bytes;
use http::{StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::answer::Answer;
use super::route::Route;
use super::{Exchange, Rest, discovery, negotiate};
use crate::apiextensions::Kinds;

/// The Kubernetes version that is spoken.
pub const GIT_VERSION: &str = "v1.36.3";

const ROOT_PATHS: [&str; 14] = [
    "/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/healthz", "/healthz/ping", "/livez", "/metrics",
    "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/readyz/store", "/version",
];

/// OpenAPI documents, made when first asked for: of what is built in once, of custom resources whenever these change.
#[derive(Default)]
pub struct OpenApi {
    v2: OnceLock<BuiltIn>,
    v2_protobuf: OnceLock<Bytes>,
    v3: OnceLock<Documents>,
    custom: Mutex<Custom>,
}

/// The v2 document of what is built in, in parts that more can be put behind: the inside of two of its objects, and the
/// rest of it.
struct BuiltIn {
    paths: Vec<u8>,
    definitions: Vec<u8>,
    rest: Vec<u8>,
}

impl BuiltIn {
    fn new() -> Self {
        let mut document = openapi::v2();
        let mut part = |name: &str| inside(&document.as_object_mut().and_then(|map| map.remove(name)).unwrap_or_default());
        let (paths, definitions) = (part("paths"), part("definitions"));
        Self { paths, definitions, rest: inside(&document) }
    }

    /// The whole document, with more paths and definitions.
    fn with(&self, paths: &Value, definitions: &Value) -> Bytes {
        let mut out = Vec::with_capacity(self.paths.len() + self.definitions.len() + 4096);
        out.push(b'{');
        for (name, own, more) in [("paths", &self.paths, inside(paths)), ("definitions", &self.definitions, inside(definitions))] {
            out.extend(format!("\"{name}\":{{").bytes());
            out.extend(own);
            if !more.is_empty() {
                out.push(b',');
                out.extend(more);
            }
            out.extend(b"},");
        }
        out.extend(&self.rest);
        out.push(b'}');
        out.into()
    }
}

/// The text of an object without its braces.
fn inside(object: &Value) -> Vec<u8> {
    let text = object.to_string();
    text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default().as_bytes().to_vec()
}

/// Documents by path (`api/v1`, `apis/apps/v1`) with their hashes.
type Documents = BTreeMap<String, (String, Bytes)>;

/// What was made for one state of the custom resources.
#[derive(Default)]
struct Custom {
    /// The serials of the kinds.
    of: Vec<u64>,
    v2: Option<Bytes>,
    v2_protobuf: Option<Bytes>,
    v3: Option<Arc<Documents>>,
}

impl OpenApi {
    fn with_custom<T>(&self, registry: &Registry, make: impl FnOnce(&mut Custom) -> T) -> T {
        let of: Vec<u64> = registry.all().map(|kind| kind.serial).collect();
        let mut custom = self.custom.lock();
        if custom.of != of {
            *custom = Custom { of, ..Custom::default() };
        }
        make(&mut custom)
    }

    fn v2(&self, registry: &Registry) -> Bytes {
        let built_in = self.v2.get_or_init(BuiltIn::new);
        let make = || {
            let (paths, definitions) = openapi::custom::v2(registry.all().map(Arc::as_ref));
            built_in.with(&Value::Object(paths), &Value::Object(definitions))
        };
        self.with_custom(registry, |custom| custom.v2.get_or_insert_with(make).clone())
    }

    fn v2_protobuf(&self, registry: &Registry) -> Bytes {
        let built_in = self.v2_protobuf.get_or_init(|| openapi::gnostic::encode(&openapi::v2()).into());
        let make = || {
            let (paths, definitions) = openapi::custom::v2(registry.all().map(Arc::as_ref));
            let mut bytes = built_in.to_vec();
            bytes.extend(openapi::gnostic::encode_part(&paths, &definitions));
            Bytes::from(bytes)
        };
        self.with_custom(registry, |custom| custom.v2_protobuf.get_or_insert_with(make).clone())
    }

    fn v3(&self, kinds: &Kinds) -> Arc<Documents> {
        let registry = kinds.custom();
        let make = || {
            let mut all = self.built_in_v3().clone();
            for ((group, version), kinds) in kinds.custom_versions() {
                let mut document = openapi::custom::v3(kinds.iter().map(Arc::as_ref));
                if let Some(built_in) = openapi::v3(&group, &version) {
                    merge_v3(&mut document, built_in);
                }
                let bytes = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
                all.insert(openapi::prefix(&group, &version), (openapi::hash(&bytes), bytes));
            }
            Arc::new(all)
        };
        self.with_custom(&registry, |custom| custom.v3.get_or_insert_with(make).clone())
    }

    fn built_in_v3(&self) -> &Documents {
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

    fn v3_index(&self, kinds: &Kinds) -> Value {
        let hashes: Vec<(String, String)> =
            self.v3(kinds).iter().map(|(path, (hash, _))| (path.clone(), hash.clone())).collect();
        openapi::v3_index(&hashes)
    }
}

/// Puts what a group's version has built in beside what definitions add to it.
fn merge_v3(document: &mut Value, built_in: Value) {
    for pointer in ["/paths", "/components/schemas"] {
        let more = built_in.pointer(pointer).and_then(Value::as_object).cloned().unwrap_or_default();
        document.pointer_mut(pointer).and_then(Value::as_object_mut).into_iter().for_each(|all| all.extend(more.clone()));
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
            Route::Group(group) => match self.aggregated_group(group, discovery::group(&self.api.kinds.all(), group)) {
                Some(value) => Ok(Answer::value(StatusCode::OK, &value)),
                None => Ok(no_page()),
            },
            Route::Version(group, version) => match discovery::resources(&self.api.kinds.all(), group, version) {
                Some(value) => Ok(Answer::value(StatusCode::OK, &value)),
                None if discovery::has_group(&self.api.kinds.all(), group) => Err(ApiError::no_such_path()),
                None => Ok(no_page()),
            },
            Route::Resource(_) => Err(ApiError::no_such_path()),
            Route::Other => self.other(exchange, known).await,
        }
    }

    fn groups(&self, exchange: &Exchange, core: bool, known: &str) -> Answer {
        let Some(form) = negotiate::aggregated_discovery(&exchange.accept) else {
            let kinds = self.api.kinds.all();
            let value = if core { discovery::core_versions(&self.address) } else { self.aggregated_groups(discovery::groups(&kinds)) };
            return Answer::value(StatusCode::OK, &value).with(header::VARY, "Accept");
        };
        let document = discovery::aggregated(&self.api.kinds.all(), core, form);
        let document = if core { document } else { self.aggregated_document(document) };
        let body = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
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
                let body = Bytes::from(serde_json::to_vec(&self.openapi.v3_index(&self.api.kinds)).unwrap_or_default());
                let etag = format!("\"{}\"", openapi::hash(&body));
                cached(Answer::json(StatusCode::OK, body), &etag, known)
            }
            "/openid/v1/jwks" => {
                let mut answer = Answer::value(StatusCode::OK, &self.api.signer.jwks());
                answer.content_type = "application/jwk-set+json";
                answer
            }
            "/.well-known/openid-configuration" => {
                let issuer = self.api.signer.issuer();
                Answer::value(StatusCode::OK, &json!({"issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
                    "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"]}))
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
            let mut answer = Answer::json(StatusCode::OK, self.openapi.v2_protobuf(&self.api.kinds.custom()));
            answer.content_type = openapi::gnostic::MEDIA_TYPE;
            answer
        } else {
            Answer::json(StatusCode::OK, self.openapi.v2(&self.api.kinds.custom()))
        };
        let etag = format!("\"{}\"", openapi::hash(&answer.body));
        Ok(cached(answer, &etag, known).with(header::VARY, "Accept"))
    }

    fn openapi_v3(&self, exchange: &Exchange, name: &str, known: &str) -> Answer {
        let documents = self.openapi.v3(&self.api.kinds);
        let Some((hash, body)) = documents.get(name) else { return no_page() };
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

