//! The whole API server with a real webhook server behind TLS, and with policies.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use balsa_process::identity::Actor;
use balsa_process::pki::Authority;
use balsa_process::tls::ClientCertificate;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::rest::Peer;
use crate::storage::Store as _;
use crate::tests::Server;

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A webhook server: what it was asked, by path.
struct Backend {
    url: String,
    bundle: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

/// The answer of a path to a request: `allowed`, `patch`, `status`, …
async fn answer(path: &str, request: &Value) -> Value {
    let patch = |patch: Value| {
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
    };
    match path {
        "/deny" => json!({"allowed": false, "status": {"message": "not on my watch", "code": 403, "reason": "Forbidden"}}),
        "/warn" => json!({"allowed": true, "warnings": ["mind the gap"], "auditAnnotations": {"k": "v"}}),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(20)).await;
            json!({"allowed": true})
        }
        "/stage1" if request["object"]["data"]["stage2"].is_string() => {
            patch(json!([{"op": "add", "path": "/data/saw2", "value": "yes"}]))
        }
        "/stage1" => patch(json!([{"op": "add", "path": "/data/stage1", "value": "yes"}])),
        "/stage2" => patch(json!([{"op": "add", "path": "/data/stage2", "value": "yes"}])),
        "/init" => patch(json!([{"op": "add", "path": "/spec/initContainers", "value": [{"name": "i", "image": "i:1"}]}])),
        "/bad-patch" => patch(json!([{"op": "replace", "path": "/no/such", "value": 1}])),
        _ => json!({"allowed": true}),
    }
}

impl Backend {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path()).unwrap();
        let actor = Actor { user: "webhook".into(), groups: Vec::new() };
        let files = authority.issue_files(folder.path(), "w", &actor, &["localhost".into()]).unwrap();
        let config = files.load().unwrap().rustls_server(ClientCertificate::Optional, &[b"http/1.1"]).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let log = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), log.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                        let log = log.clone();
                        async move { Ok::<_, std::convert::Infallible>(serve(log, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, bundle: STANDARD.encode(authority.certificate_pem()), asked }
    }

    /// A webhook at a path, for these operations on this resource.
    fn hook(&self, path: &str, operations: &[&str], group: &str, resource: &str) -> Value {
        json!({"name": format!("{}.hook.example.com", path.trim_start_matches('/')), "sideEffects": "None",
            "admissionReviewVersions": ["v1", "v1beta1"],
            "clientConfig": {"url": format!("{}{path}", self.url), "caBundle": self.bundle},
            "rules": [{"operations": operations, "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]}]})
    }

    fn asked(&self, path: &str) -> Vec<Value> {
        self.asked.lock().iter().filter(|(own, _)| own == path).map(|(_, request)| request.clone()).collect()
    }
}

async fn serve(log: Arc<Mutex<Vec<(String, Value)>>>, request: Request<hyper::body::Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    log.lock().push((path.clone(), review["request"].clone()));
    let mut response = answer(&path, &review["request"]).await;
    response["uid"] = review["request"]["uid"].clone();
    let review = json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response});
    Response::new(Body::from(review.to_string()))
}

async fn configure(server: &Server, plural: &str, name: &str, hooks: Value) {
    server.create(&format!("{HOOKS}/{plural}"), json!({"metadata": {"name": name}, "webhooks": hooks})).await;
    settled(server).await;
}

async fn settled(server: &Server) {
    let written = server.store.revision().await.unwrap();
    assert!(server.rest.api.caches.wait_for(written, Duration::from_secs(30)).await);
}

fn with(mut object: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "v"}})
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_validating_webhook_refuses_writes() {
    let (server, backend) = (Server::start().await, Backend::start().await);
    server.create(MAPS, map("before")).await;
    let selector = json!({"objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}});
    let hook = with(backend.hook("/deny", &["CREATE", "UPDATE", "DELETE"], "", "configmaps"), selector);
    configure(&server, "validatingwebhookconfigurations", "v", json!([hook])).await;
    let refused = "admission webhook \"deny.hook.example.com\" denied the request: not on my watch";
    let (code, error) = server.post(&format!("{MAPS}?fieldManager=me"), map("a")).await;
    assert_eq!((code, error["reason"].as_str(), message(&error)), (403, Some("Forbidden"), refused));
    let asked = backend.asked("/deny").remove(0);
    assert_eq!(asked["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(asked["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((asked["operation"].as_str(), asked["name"].as_str()), (Some("CREATE"), Some("a")));
    assert_eq!((asked["namespace"].as_str(), asked["dryRun"].as_bool()), (Some("default"), Some(false)));
    assert_eq!(asked["object"]["data"], json!({"k": "v"}));
    assert_eq!((asked["object"]["kind"].as_str(), &asked["oldObject"]), (Some("ConfigMap"), &Value::Null));
    assert_eq!((asked["options"]["kind"].as_str(), asked["options"]["fieldManager"].as_str()), (Some("CreateOptions"), Some("me")));
    assert_eq!(asked["userInfo"]["username"], "balsa:loopback");
    let (code, error) = server.patch(&format!("{MAPS}/before"), "merge-patch+json", json!({"data": {"n": "1"}})).await;
    assert_eq!((code, message(&error)), (403, refused));
    let asked = backend.asked("/deny").pop().unwrap();
    assert_eq!((asked["operation"].as_str(), &asked["oldObject"]["data"]), (Some("UPDATE"), &json!({"k": "v"})));
    let (code, error) = server.delete(&format!("{MAPS}/before"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!((code, message(&error)), (403, refused));
    let asked = backend.asked("/deny").pop().unwrap();
    assert_eq!((asked["operation"].as_str(), &asked["object"]), (Some("DELETE"), &Value::Null));
    assert_eq!(asked["oldObject"]["metadata"]["name"], "before");
    assert_eq!((asked["options"]["kind"].as_str(), asked["options"]["gracePeriodSeconds"].as_i64()), (Some("DeleteOptions"), Some(0)));
    let labelled = json!({"metadata": {"name": "b", "labels": {"skip": "me"}}});
    assert_eq!(server.post(MAPS, labelled).await.0, 201, "the object selector leaves it out");
    assert_eq!(server.post(PODS.replace("pods", "secrets").as_str(), map_secret()).await.0, 201, "no rule names it");
    // Nobody is asked about configurations, so a bad one can be repaired.
    assert_eq!(server.delete(&format!("{HOOKS}/validatingwebhookconfigurations/v"), json!({})).await.0, 200);
    settled(&server).await;
    assert_eq!(server.post(MAPS, map("a")).await.0, 201);
}

fn map_secret() -> Value {
    json!({"metadata": {"name": "s"}})
}

#[tokio::test]
async fn mutations_are_defaulted_checked_and_put_to_earlier_webhooks_again() {
    let (server, backend) = (Server::start().await, Backend::start().await);
    let first = with(backend.hook("/stage1", &["CREATE"], "", "configmaps"), json!({"reinvocationPolicy": "IfNeeded"}));
    let hooks = json!([first, backend.hook("/stage2", &["CREATE"], "", "configmaps"), backend.hook("/init", &["CREATE"], "", "pods")]);
    configure(&server, "mutatingwebhookconfigurations", "m", hooks).await;
    let made = server.create(MAPS, map("a")).await;
    assert_eq!(made["data"], json!({"k": "v", "stage1": "yes", "stage2": "yes", "saw2": "yes"}));
    assert_eq!((backend.asked("/stage1").len(), backend.asked("/stage2").len()), (2, 1));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let made = server.create(PODS, pod).await;
    let added = &made["spec"]["initContainers"][0];
    assert_eq!((added["name"].as_str(), added["terminationMessagePolicy"].as_str()), (Some("i"), Some("File")));
    assert_eq!(added["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount", "the second round");
    configure(&server, "mutatingwebhookconfigurations", "n", json!([backend.hook("/bad-patch", &["CREATE"], "", "secrets")])).await;
    let (code, error) = server.post("/api/v1/namespaces/default/secrets", map_secret()).await;
    assert_eq!((code, error["reason"].as_str()), (500, Some("InternalError")), "{error}");
}

#[tokio::test]
async fn failures_count_unless_they_are_to_be_ignored() {
    let (server, backend) = (Server::start().await, Backend::start().await);
    let place = |path: &str, url: &str| {
        let mut hook = backend.hook(path, &["*"], "", "configmaps");
        hook["clientConfig"]["url"] = json!(url);
        hook["timeoutSeconds"] = json!(1);
        hook
    };
    let failing = async |hook: Value| {
        configure(&server, "validatingwebhookconfigurations", "v", json!([hook])).await;
        let answer = server.post(MAPS, map("a")).await;
        server.delete(&format!("{HOOKS}/validatingwebhookconfigurations/v"), json!({})).await;
        if answer.0 == 201 {
            settled(&server).await;
            server.delete(&format!("{MAPS}/a"), json!({})).await;
        }
        answer
    };
    let slow = format!("{}/slow", backend.url);
    let (code, error) = failing(place("/slow", &slow)).await;
    assert_eq!((code, error["reason"].as_str()), (500, Some("InternalError")));
    assert_eq!(
        message(&error),
        format!("Internal error occurred: failed calling webhook \"slow.hook.example.com\": failed to call webhook: Post \"{slow}?timeout=1s\": context deadline exceeded")
    );
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("https://localhost:{}/x", listener.local_addr().unwrap().port())
    };
    let (code, error) = failing(place("/x", &closed)).await;
    assert_eq!(code, 500);
    assert!(message(&error).contains("connection refused"), "{error}");
    let (code, error) = failing(with(place("/x", &closed), json!({"failurePolicy": "Ignore"}))).await;
    assert_eq!(code, 201, "{error}");
    let mut stranger = place("/allow", &format!("{}/allow", backend.url));
    stranger["clientConfig"]["caBundle"] = json!(Backend::start().await.bundle);
    let (code, error) = failing(stranger).await;
    assert_eq!(code, 500);
    assert!(message(&error).contains("x509: certificate signed by unknown authority"), "{error}");
    let service = with(place("/x", ""), json!({"clientConfig": {"service": {"namespace": "default", "name": "hook", "path": "/x"}}}));
    let (_, error) = failing(service.clone()).await;
    assert!(message(&error).contains("Post \"https://hook.default.svc:443/x?timeout=1s\": service \"hook\" not found"), "{error}");
    server.create("/api/v1/namespaces/default/services", json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}], "selector": {"a": "b"}}})).await;
    settled(&server).await;
    let (code, error) = failing(service).await;
    assert_eq!(code, 500);
    assert!(message(&error).contains("no endpoints available for service"), "{error}");
}

#[tokio::test]
async fn conditions_selectors_and_warnings() {
    let (server, backend) = (Server::start().await, Backend::start().await);
    let condition = |text: &str| json!({"matchConditions": [{"name": "c", "expression": text}]});
    let hooks = json!([
        with(backend.hook("/deny", &["CREATE"], "", "configmaps"), condition("object.metadata.name == 'no' && request.userInfo.username != 'x'")),
        with(backend.hook("/warn", &["CREATE"], "", "configmaps"), json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}})),
        with(backend.hook("/other", &["*"], "*", "*/*"), json!({"namespaceSelector": {"matchLabels": {"no": "where"}}})),
    ]);
    configure(&server, "validatingwebhookconfigurations", "v", hooks).await;
    assert_eq!(server.post(MAPS, map("no")).await.0, 403);
    let request = Request::post(format!("{MAPS}?dryRun=All")).header("content-type", "application/json");
    let response = server.send(Peer::Loopback, request.body(Body::from(map("yes").to_string())).unwrap()).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers().get("warning").and_then(|value| value.to_str().ok());
    assert_eq!(warning, Some("299 - \"mind the gap\""));
    let asked = backend.asked("/warn").pop().unwrap();
    assert_eq!((asked["dryRun"].as_bool(), &asked["options"]["dryRun"]), (Some(true), &json!(["All"])));
    assert!(backend.asked("/other").is_empty());
    let failing = with(backend.hook("/deny", &["CREATE"], "", "secrets"), condition("object.nothing == 1"));
    configure(&server, "validatingwebhookconfigurations", "w", json!([failing])).await;
    let (code, error) = server.post("/api/v1/namespaces/default/secrets", map_secret()).await;
    assert_eq!(code, 403);
    assert_eq!(message(&error), "secrets \"s\" is forbidden: expression 'object.nothing == 1' resulted in error: no such key: nothing");
}

#[tokio::test]
async fn connections_are_asked_about() {
    let (server, backend) = (Server::start().await, Backend::start().await);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    server.create(PODS, pod).await;
    configure(&server, "validatingwebhookconfigurations", "v", json!([backend.hook("/deny", &["CONNECT"], "", "pods/attach")])).await;
    let (code, error) = server.ask(Method::POST, &format!("{PODS}/p/attach?stdin=true&container=c"), "", String::new()).await;
    assert_eq!(code, 403, "{error}");
    assert!(message(&error).contains("not on my watch"), "{error}");
    let asked = backend.asked("/deny").remove(0);
    assert_eq!((asked["operation"].as_str(), asked["subResource"].as_str()), (Some("CONNECT"), Some("attach")));
    assert_eq!(asked["kind"]["kind"], "PodAttachOptions");
    assert_eq!(asked["object"], json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "container": "c"}));
    let (code, _) = server.ask(Method::POST, &format!("{PODS}/p/exec?command=x"), "", String::new()).await;
    assert_ne!(code, 403, "only attach is meant");
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]})
}

async fn bind(server: &Server, plural: &str, name: &str, policy: Value, binding: Value) {
    server.create(&format!("{HOOKS}/{plural}ies"), json!({"metadata": {"name": name}, "spec": policy})).await;
    let binding = with(binding, json!({"policyName": name}));
    server.create(&format!("{HOOKS}/{plural}ybindings"), json!({"metadata": {"name": format!("{name}-b")}, "spec": binding})).await;
    settled(server).await;
}

#[tokio::test]
async fn validating_policies_deny_warn_and_use_parameters() {
    let server = Server::start().await;
    server.create(MAPS, json!({"metadata": {"name": "limits"}, "data": {"most": "3"}})).await;
    let policy = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": constraints(),
        "matchConditions": [{"name": "not-free", "expression": "!object.metadata.name.startsWith('free')"}],
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"}, {"name": "odd", "expression": "variables.replicas % 2 == 1"}],
        "validations": [
            {"expression": "variables.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + string(variables.replicas)"},
            {"expression": "variables.replicas <= int(params.data.most)", "reason": "Forbidden", "message": "too many"},
            {"expression": "namespaceObject.metadata.name == 'default' && variables.odd"}],
    });
    let binding = json!({"validationActions": ["Deny"], "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}});
    bind(&server, "validatingadmissionpolic", "p", policy, binding).await;
    let (code, error) = server.post(DEPLOYMENTS, deployment("a", 1)).await;
    assert_eq!((code, error["reason"].as_str()), (422, Some("Invalid")));
    assert_eq!(
        message(&error),
        "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-b' denied request: wants replicas > 1, got 1"
    );
    let (code, error) = server.post(DEPLOYMENTS, deployment("a", 5)).await;
    assert_eq!((code, error["reason"].as_str()), (403, Some("Forbidden")), "{error}");
    let (_, error) = server.post(DEPLOYMENTS, deployment("a", 2)).await;
    assert!(message(&error).ends_with("failed expression: namespaceObject.metadata.name == 'default' && variables.odd"), "{error}");
    assert_eq!(server.post(DEPLOYMENTS, deployment("a", 3)).await.0, 201);
    assert_eq!(server.post(DEPLOYMENTS, deployment("free", 1)).await.0, 201);
    server.delete(&format!("{MAPS}/limits"), json!({})).await;
    settled(&server).await;
    let (_, error) = server.post(DEPLOYMENTS, deployment("b", 3)).await;
    assert!(message(&error).ends_with("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"), "{error}");
    let (code, _) = server.delete(&format!("{HOOKS}/validatingadmissionpolicybindings/p-b"), json!({})).await;
    assert_eq!(code, 200);
    let policy = json!({"matchConstraints": constraints(), "validations": [{"expression": "object.spec.replicas < 2", "message": "many"}]});
    bind(&server, "validatingadmissionpolic", "w", policy, json!({"validationActions": ["Warn", "Audit"]})).await;
    let request = Request::post(DEPLOYMENTS).header("content-type", "application/json");
    let response = server.send(Peer::Loopback, request.body(Body::from(deployment("c", 2).to_string())).unwrap()).await;
    let warning = response.headers().get("warning").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    assert_eq!(response.status(), 201);
    assert_eq!(warning, "299 - \"Validation failed for ValidatingAdmissionPolicy 'w' with binding 'w-b': many\"");
}

#[tokio::test]
async fn mutating_policies_change_what_is_written() {
    let server = Server::start().await;
    let apply = |text: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}});
    let patch = |text: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": text}});
    let policy = json!({"reinvocationPolicy": "Never", "matchConstraints": constraints(), "mutations": [
        apply("Object{metadata: Object.metadata{annotations: {'mutated-by': 'admission-policy'}}}"),
        apply("Object{spec: Object.spec{replicas: object.spec.replicas + 1337}}"),
        patch("[JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('a/b'), value: string(object.spec.replicas)}]")]});
    bind(&server, "mutatingadmissionpolic", "m", policy, json!({})).await;
    let made = server.create(DEPLOYMENTS, deployment("a", 1)).await;
    assert_eq!(made["metadata"]["annotations"], json!({"mutated-by": "admission-policy", "a/b": "1338"}));
    assert_eq!(made["spec"]["replicas"], 1338);
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["image"], "i:1");
    let policy = json!({"reinvocationPolicy": "Never", "matchConstraints": constraints(),
        "mutations": [apply("Object{spec: Object.spec{replicas: object.spec.nothing}}")]});
    bind(&server, "mutatingadmissionpolic", "n", policy, json!({})).await;
    let (code, error) = server.post(DEPLOYMENTS, deployment("b", 1)).await;
    assert_eq!((code, error["reason"].as_str()), (403, Some("Invalid")), "{error}");
    assert!(message(&error).starts_with("policy 'n' with binding 'n-b' denied request: expression 'Object{"), "{error}");
}

#[tokio::test]
async fn classes_come_from_the_cluster() {
    let server = Server::start().await;
    let default = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    server.create("/apis/storage.k8s.io/v1/storageclasses", json!({"metadata": {"name": "std", "annotations": default}, "provisioner": "x/y"})).await;
    let vm = json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "100m"}}});
    server.create("/apis/node.k8s.io/v1/runtimeclasses", vm).await;
    server.create("/api/v1/nodes", json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}})).await;
    settled(&server).await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let made = server.create(claims, claim).await;
    assert_eq!(made["spec"]["storageClassName"], "std");
    let (code, error) = server.patch(&format!("{claims}/c"), "merge-patch+json", json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}})).await;
    assert!(code == 403 || code == 422, "{error}");
    let pod = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": with(json!({"containers": [{"name": "c", "image": "i:1"}]}), spec)});
    let made = server.create(PODS, pod("p", json!({"runtimeClassName": "vm"}))).await;
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "100m"}));
    let (code, error) = server.post(PODS, pod("q", json!({"runtimeClassName": "nope"}))).await;
    assert_eq!((code, message(&error)), (403, "pods \"q\" is forbidden: pod rejected: RuntimeClass \"nope\" not found"));
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(server.post(&format!("{PODS}/p/binding"), binding).await.0, 201);
    let (_, bound) = server.get(&format!("{PODS}/p")).await;
    assert_eq!(bound["metadata"]["labels"]["topology.kubernetes.io/zone"], "z");
}
