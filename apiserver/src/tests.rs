//! The whole apiserver over a store in memory, through its REST front: what clients rely on, as stories.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::allocation::range::PortRange;
use crate::apiextensions::convert::Reach;
use crate::authn::Caller;
use crate::authn::token::Signer;
use crate::authz::Authorizer;
use crate::pipeline::{Api, Settings};
use crate::rest::{Peer, Rest, misc};
use crate::storage::Store;
use crate::storage::memory::MemoryStore;
use crate::streaming::Streaming;
use crate::watch_cache::{Caches, feed};
use crate::{bootstrap, stored_kinds};

pub(crate) struct Server {
    pub(crate) rest: Arc<Rest>,
    pub(crate) store: Arc<MemoryStore>,
    _stop: DropGuard,
}

/// A further apiserver on the same store.
impl Server {
    pub(crate) async fn beside(&self) -> Self {
        Self::start_on(self.store.clone(), None).await
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let store = Arc::new(MemoryStore::default());
        let server = Self::start_on(store, None).await;
        server.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        server
    }

    /// `reach`: how webhooks are called, where not as usual.
    pub(crate) async fn start_on(store: Arc<MemoryStore>, reach: Option<Box<dyn Reach>>) -> Self {
        // History from before this apiserver: what it cannot have heard of.
        store.put("/registry/past/x", bytes::Bytes::new(), 0, None).await.unwrap();
        let caches = Caches::new(&stored_kinds());
        let api = Arc::new(Api {
            store: store.clone(),
            authorizer: Authorizer::new(caches.clone()),
            caches: caches.clone(),
            kinds: Arc::new(crate::apiextensions::Kinds::new(caches.clone())),
            converter: Arc::default(),
            signer: Arc::new(Signer::generate("https://issuer").unwrap()),
            settings: Settings { name: "a".into(), service_cidr: "10.96.0.0/16".into(), node_ports: PortRange::default() },
            hooks: crate::admission::hooks::Hooks::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(feed::run(caches, store.clone(), stop.clone()));
        tokio::time::timeout(Duration::from_secs(60), bootstrap::run(api.clone(), stop.clone())).await.unwrap();
        let rest = Rest {
            api,
            streaming: Streaming::new(None),
            metrics: Arc::default(),
            openapi: misc::OpenApi::default(),
            aggregation: Arc::new(crate::aggregation::Aggregation::new(None)),
            address: "127.0.0.1:6443".into(),
        };
        let written = store.revision().await.unwrap();
        assert!(rest.api.caches.wait_for(written, Duration::from_secs(30)).await);
        let rest = Arc::new(rest);
        rest.api.converter.reach_by(reach.unwrap_or_else(|| Box::new(crate::apiextensions::convert::Posts(rest.dialer()))));
        tokio::spawn(crate::apiextensions::controller::run(rest.api.clone(), stop.clone()));
        rest.api.hooks.set_dial(rest.dialer());
        Self { rest, store, _stop: stop.drop_guard() }
    }

    pub(crate) async fn send(&self, peer: Peer, request: Request<Body>) -> Response<Body> {
        self.rest.clone().handle(peer, request).await
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, content_type: &str, body: String) -> (u16, Value) {
        let request =
            Request::builder().method(method).uri(path).header("content-type", content_type).body(Body::from(body)).unwrap();
        let response = self.send(Peer::Loopback, request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, "", String::new()).await
    }

    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        let (code, value) = self.ask(Method::POST, path, "application/json", object.to_string()).await;
        assert_eq!(code, 201, "{value}");
        value
    }

    pub(crate) async fn post(&self, path: &str, object: Value) -> (u16, Value) {
        self.ask(Method::POST, path, "application/json", object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> (u16, Value) {
        self.ask(Method::PUT, path, "application/json", object.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, patch: Value) -> (u16, Value) {
        self.ask(Method::PATCH, path, &format!("application/{kind}"), patch.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str, options: Value) -> (u16, Value) {
        self.ask(Method::DELETE, path, "application/json", options.to_string()).await
    }

    /// A running watch, as (type, object) pairs.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.send(Peer::Loopback, request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { stream: response.into_body().into_data_stream(), buffer: Vec::new() }
    }
}

pub(crate) struct Events {
    stream: axum::body::BodyDataStream,
    buffer: Vec<u8>,
}

impl Events {
    pub(crate) async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                return (event["type"].as_str().unwrap().to_owned(), event["object"].clone());
            }
            let chunk = tokio::time::timeout(Duration::from_secs(30), self.stream.next()).await.unwrap().unwrap().unwrap();
            self.buffer.extend_from_slice(&chunk);
        }
    }

    pub(crate) async fn next_name(&mut self) -> (String, String) {
        let (word, object) = self.next().await;
        (word, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": label}}, "data": {"k": "v"}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

#[tokio::test]
async fn an_object_lives_and_ends() {
    let server = Server::start().await;
    let made = server.create(MAPS, map("a", "x")).await;
    assert!(!made["metadata"]["uid"].as_str().unwrap().is_empty());
    let (code, error) = server.post(MAPS, map("a", "x")).await;
    assert_eq!((code, error["message"].as_str()), (409, Some("configmaps \"a\" already exists")));
    let one = format!("{MAPS}/a");
    let (code, same) = server.put(&one, &made).await;
    assert_eq!(code, 200);
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "nothing changed, nothing is written");
    let mut changed = made.clone();
    changed["data"]["k"] = json!("w");
    let (code, after) = server.put(&one, &changed).await;
    assert_eq!(code, 200);
    assert_ne!(after["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    changed["data"]["k"] = json!("z");
    let (code, error) = server.put(&one, &changed).await;
    assert_eq!((code, error["reason"].as_str()), (409, Some("Conflict")), "{error}");
    let (code, patched) = server.patch(&one, "merge-patch+json", json!({"data": {"n": "1"}})).await;
    assert_eq!((code, &patched["data"]), (200, &json!({"k": "w", "n": "1"})));
    let (code, error) = server.delete(&one, json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(code, 409, "{error}");
    let (code, status) = server.delete(&one, json!({})).await;
    assert_eq!((code, status["status"].as_str()), (200, Some("Success")));
    let (code, error) = server.get(&one).await;
    assert_eq!((code, error["message"].as_str()), (404, Some("configmaps \"a\" not found")));
}

#[tokio::test]
async fn bad_requests_are_refused_by_name() {
    let server = Server::start().await;
    let cases = [
        (MAPS, json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}}), 400),
        (MAPS, json!({"apiVersion": "v2", "metadata": {"name": "a"}}), 400),
        (MAPS, json!({"metadata": {"name": "a", "namespace": "other"}}), 400),
        (MAPS, json!({"metadata": {"name": "A b"}}), 422),
        (MAPS, json!({"metadata": {}}), 422),
        (MAPS, json!({"data": 7, "metadata": {"name": "a"}}), 400),
        (MAPS, json!([]), 400),
        ("/api/v1/namespaces/nope/configmaps", map("a", "x"), 404),
        ("/api/v1/nopes", map("a", "x"), 404),
        ("/apis/nope/v1/x", map("a", "x"), 404),
        ("/api/v1/configmaps", map("a", "x"), 405),
        (PODS, json!({"metadata": {"name": "p"}, "spec": {"containers": []}}), 422),
        (PODS, json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "no", "containers": [{"name": "c", "image": "i"}]}}), 403),
    ];
    for (path, object, expected) in cases {
        let (code, error) = server.post(path, object.clone()).await;
        assert_eq!(code, expected, "{path} {object}: {error}");
        assert_eq!(error["kind"], "Status", "{error}");
    }
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let (code, error) = server.post(&strict, json!({"metadata": {"name": "a"}, "bogus": 1})).await;
    assert_eq!(code, 400);
    assert!(error["message"].as_str().unwrap().contains("strict decoding error: unknown field \"bogus\""), "{error}");
    let (code, _) = server.ask(Method::POST, MAPS, "application/json", "{\"a\":".repeat(100_000)).await;
    assert_eq!(code, 400);
    let (code, error) = server.ask(Method::POST, MAPS, "application/json", "x".repeat(4 << 20)).await;
    assert_eq!((code, error["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    let (code, _) = server.ask(Method::POST, MAPS, "text/csv", "a,b".into()).await;
    assert_eq!(code, 415);
    let (code, _) = server.patch(&format!("{MAPS}/a"), "nonsense", json!({})).await;
    assert_eq!(code, 415);
    assert_eq!(server.get(&format!("{MAPS}?limit=x")).await.0, 400);
    assert_eq!(server.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.0, 400);
    assert_eq!(server.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await.0, 400);
    let (_, list) = server.get(&format!("{MAPS}?labelSelector=l")).await;
    assert_eq!(list["items"], json!([]), "nothing of all that was stored");
}

#[tokio::test]
async fn a_pod_is_made_bound_run_and_ended() {
    let server = Server::start().await;
    let made = server.create(PODS, pod("p")).await;
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["priority"], 0);
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(made["metadata"]["generation"], 1);
    let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    let one = format!("{PODS}/p");
    let mut events = server.watch(&format!("{PODS}?watch=1&fieldSelector=metadata.name%3Dp")).await;
    assert_eq!(events.next_name().await, ("ADDED".into(), "p".into()));
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(server.post(&format!("{one}/binding"), binding.clone()).await.0, 201);
    let (_, bound) = events.next().await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(server.post(&format!("{one}/binding"), binding).await.0, 409);
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"nodeName": "n2"}});
    let (code, running) = server.patch(&format!("{one}/status"), "strategic-merge-patch+json", status).await;
    assert_eq!(code, 200, "{running}");
    assert_eq!((&running["status"]["phase"], &running["spec"]["nodeName"]), (&json!("Running"), &json!("n1")));
    assert_eq!(events.next().await.0, "MODIFIED");
    let (code, error) = server.patch(&one, "merge-patch+json", json!({"spec": {"nodeName": "n2"}})).await;
    assert_eq!((code, error["reason"].as_str()), (422, Some("Invalid")), "{error}");
    let (code, ending) = server.delete(&one, json!({})).await;
    assert_eq!(code, 200);
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(events.next().await.1["metadata"]["deletionTimestamp"].is_string());
    let uid = made["metadata"]["uid"].clone();
    let (code, _) = server.delete(&one, json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})).await;
    assert_eq!(code, 200);
    let (word, last) = events.next().await;
    assert_eq!(word, "DELETED");
    assert!(last["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(server.get(&one).await.0, 404);
}

#[tokio::test]
async fn a_pod_is_resized_within_its_node_and_class() {
    let server = Server::start().await;
    server.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let status = json!({"status": {"capacity": {"cpu": "2", "memory": "1Gi"}, "allocatable": {"cpu": "2", "memory": "1Gi"}}});
    assert_eq!(server.patch("/api/v1/nodes/n1/status", "merge-patch+json", status).await.0, 200);
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "64Mi"}, "limits": {"cpu": cpu, "memory": "64Mi"}});
    let mut sized = pod("p");
    sized["spec"]["nodeName"] = "n1".into();
    sized["spec"]["containers"][0]["resources"] = resources("100m");
    server.create(PODS, sized).await;
    let path = format!("{PODS}/p/resize");
    let resize = |resources: Value| json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
    let strategic = "strategic-merge-patch+json";
    let (code, resized) = server.patch(&path, strategic, resize(resources("200m"))).await;
    assert_eq!((code, &resized["metadata"]["generation"]), (200, &json!(2)), "{resized}");
    assert_eq!(resized["spec"]["containers"][0]["resources"], resources("200m"));
    let (code, error) = server.patch(&path, strategic, resize(json!({"requests": {"cpu": "150m"}}))).await;
    assert_eq!((code, error["message"].as_str().unwrap().contains("Pod QOS Class may not change as a result of resizing")), (422, true));
    let (code, error) = server.patch(&path, strategic, resize(resources("3"))).await;
    assert_eq!((code, error["details"]["causes"][0]["reason"].as_str()), (403, Some("NodeCapacity")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("allocatable resources: cpu, requested: 3000, allocatable: 2000"));
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "1"}}});
    server.create("/api/v1/namespaces/default/resourcequotas", quota).await;
    let counted = json!({"status": {"hard": {"requests.cpu": "1"}, "used": {"requests.cpu": "200m"}}});
    let quota = "/api/v1/namespaces/default/resourcequotas/q";
    assert_eq!(server.patch(&format!("{quota}/status"), "merge-patch+json", counted).await.0, 200);
    let written = server.store.revision().await.unwrap();
    assert!(server.rest.api.caches.wait_for(written, Duration::from_secs(30)).await);
    let (code, error) = server.patch(&path, strategic, resize(resources("1500m"))).await;
    assert_eq!((code, error["message"].as_str().unwrap().contains("exceeded quota: q, requested: requests.cpu=1300m")), (403, true), "{error}");
    assert_eq!(server.patch(&path, strategic, resize(resources("900m"))).await.0, 200);
    let (_, quota) = server.get(quota).await;
    assert_eq!(quota["status"]["used"]["requests.cpu"], "900m");
}

#[tokio::test]
async fn watches_follow_selectors_and_end_initial_states() {
    let server = Server::start().await;
    server.create(MAPS, map("a", "x")).await;
    server.create(MAPS, map("b", "y")).await;
    let mut all = server
        .watch(&format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"))
        .await;
    assert_eq!(all.next_name().await, ("ADDED".into(), "a".into()));
    assert_eq!(all.next_name().await, ("ADDED".into(), "b".into()));
    let (word, bookmark) = all.next().await;
    assert_eq!(word, "BOOKMARK");
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let version = bookmark["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut selected = server.watch(&format!("{MAPS}?watch=true&labelSelector=l%3Dx&resourceVersion={version}")).await;
    let relabel = |label: &str| json!({"metadata": {"labels": {"l": label}}});
    server.patch(&format!("{MAPS}/b"), "merge-patch+json", relabel("x")).await;
    assert_eq!(selected.next_name().await, ("ADDED".into(), "b".into()));
    server.patch(&format!("{MAPS}/b"), "merge-patch+json", relabel("z")).await;
    let (word, left) = selected.next().await;
    assert_eq!(word, "DELETED");
    assert_eq!(left["metadata"]["labels"]["l"], "x", "as it was when it was last selected");
    assert_eq!(all.next_name().await, ("MODIFIED".into(), "b".into()));
    let left_at: u64 = left["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(left_at > version.parse::<u64>().unwrap());
    let mut late = server.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let (word, status) = late.next().await;
    assert_eq!((word.as_str(), status["code"].as_u64(), status["reason"].as_str()), ("ERROR", Some(410), Some("Expired")));
}

#[tokio::test]
async fn lists_come_in_pages_until_their_state_is_forgotten() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.create(MAPS, map(name, "x")).await;
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, first) = server.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    server.delete(&format!("{MAPS}/d"), json!({})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = server.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["c", "d"], "all pages show the state of the first");
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let now = server.store.revision().await.unwrap();
    server.store.compact(now).await.unwrap();
    let (code, expired) = server.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((code, expired["reason"].as_str()), (410, Some("Expired")));
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = server.get(&format!("{MAPS}?continue={token}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["c".to_owned(), "e".to_owned()]));
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let server = Server::start().await;
    let made = server.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let (code, going) = server.delete("/api/v1/namespaces/n", json!({})).await;
    assert_eq!((code, going["status"]["phase"].as_str()), (200, Some("Terminating")));
    let (code, error) = server.post("/api/v1/namespaces/n/configmaps", map("a", "x")).await;
    assert_eq!((code, error["details"]["causes"][0]["reason"].as_str()), (403, Some("NamespaceTerminating")), "{error}");
    let mut finalized = going.clone();
    finalized["spec"]["finalizers"] = json!([]);
    let (code, after) = server.put("/api/v1/namespaces/n/finalize", &finalized).await;
    assert_eq!(code, 200, "{after}");
    assert_eq!(server.get("/api/v1/namespaces/n").await.0, 404);
    let (code, error) = server.delete("/api/v1/namespaces/default", json!({})).await;
    assert_eq!((code, error["message"].as_str()), (403, Some("namespaces \"default\" is forbidden: this namespace may not be deleted")));
}

#[tokio::test]
async fn finalizers_hold_until_the_last_is_gone() {
    let server = Server::start().await;
    let mut object = map("a", "x");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.create(MAPS, object).await;
    let one = format!("{MAPS}/a");
    let (_, held) = server.delete(&one, json!({})).await;
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let (code, _) = server.patch(&one, "merge-patch+json", json!({"metadata": {"finalizers": ["example.com/more"]}})).await;
    assert_eq!(code, 422);
    let (code, _) = server.patch(&one, "json-patch+json", json!([{"op": "remove", "path": "/metadata/finalizers"}])).await;
    assert_eq!(code, 200);
    assert_eq!(server.get(&one).await.0, 404);
}

#[tokio::test]
async fn strangers_may_nearly_nothing_and_tokens_speak_for_accounts() {
    let server = Server::start().await;
    let ask = |peer: Peer, path: &str, token: String| {
        let mut request = Request::get(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        server.send(peer, request.body(Body::empty()).unwrap())
    };
    assert_eq!(ask(Peer::Unknown, "/version", String::new()).await.status(), StatusCode::OK);
    let refused = ask(Peer::Unknown, PODS, String::new()).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let bytes = refused.into_body().collect().await.unwrap().to_bytes();
    let error: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        error["message"],
        r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    assert_eq!(ask(Peer::Unknown, PODS, "nonsense".into()).await.status(), StatusCode::UNAUTHORIZED);
    let request = json!({"spec": {"expirationSeconds": 600}});
    let answered = server.create("/api/v1/namespaces/default/serviceaccounts/default/token", request).await;
    let token = answered["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(ask(Peer::Unknown, PODS, token.clone()).await.status(), StatusCode::FORBIDDEN);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while ask(Peer::Unknown, PODS, token.clone()).await.status() != StatusCode::OK {
        assert!(tokio::time::Instant::now() < deadline, "the binding never came to count");
        tokio::task::yield_now().await;
    }
    let scheduler = Caller { user: "system:kube-scheduler".into(), groups: vec![], ..Caller::default() };
    let (code, _) = server.get("/api/v1/pods").await;
    assert_eq!(code, 200);
    let refused = ask(Peer::Certified(scheduler), "/api/v1/secrets", String::new()).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn dry_runs_leave_nothing_behind() {
    let server = Server::start().await;
    let (code, shown) = server.post(&format!("{PODS}?dryRun=All"), pod("p")).await;
    assert_eq!(code, 201);
    assert!(shown["metadata"]["uid"].is_string());
    assert_eq!(server.get(&format!("{PODS}/p")).await.0, 404);
    assert_eq!(server.post(&format!("{PODS}?dryRun=Some"), pod("p")).await.0, 422);
    server.create(MAPS, map("a", "x")).await;
    let (code, _) = server.delete(&format!("{MAPS}/a?dryRun=All"), json!({})).await;
    assert_eq!(code, 200);
    assert_eq!(server.get(&format!("{MAPS}/a")).await.0, 200);
}

#[tokio::test]
async fn generated_names_are_tried_until_one_is_free() {
    let server = Server::start().await;
    let object = json!({"metadata": {"generateName": "x-"}});
    let (one, two) = (server.create(MAPS, object.clone()).await, server.create(MAPS, object).await);
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    assert!(one["metadata"]["name"].as_str().unwrap().starts_with("x-"));
}

#[tokio::test]
async fn tables_and_metadata_by_accept() {
    let server = Server::start().await;
    server.create(MAPS, map("a", "x")).await;
    let ask = |accept: &'static str| {
        let request = Request::get(MAPS).header("accept", accept).body(Body::empty()).unwrap();
        let server = &server;
        async move {
            let bytes = server.send(Peer::Loopback, request).await.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<Value>(&bytes).unwrap()
        }
    };
    let table = ask("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!((table["kind"].as_str(), table["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("a")));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = ask("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(partial["items"][0]["metadata"]["name"], "a");
    assert!(partial["items"][0].get("data").is_none());
    assert_eq!(ask("text/html").await["code"], 406);
}
