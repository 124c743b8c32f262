//! A server "in the cluster" behind TLS, asked through ours.

use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse as _;
use balsa_process::identity::Actor;
use balsa_process::pki::Authority;
use balsa_process::tls::ClientCertificate;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::keeper;
use crate::rest::Peer;
use crate::storage::Store as _;
use crate::tests::Server;

const GROUP: &str = "wardle.example.com";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Serves a classic list of resources and says who asks for flunders.
async fn wardle(request: Request<Body>) -> axum::response::Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    let json = |value: Value| ([("content-type", "application/json")], value.to_string()).into_response();
    match parts.uri.path() {
        "/apis/wardle.example.com/v1" => json(json!({"kind": "APIResourceList", "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]}]})),
        "/apis/wardle.example.com/v1/namespaces/default/flunders" => {
            let body = body.collect().await.unwrap().to_bytes();
            json(json!({"method": parts.method.as_str(), "query": parts.uri.query(), "body": body.len(), "host": header("host"),
                "user": header("x-remote-user"), "authorization": header("authorization"),
                "groups": parts.headers.get_all("x-remote-group").iter().count()}))
        }
        "/apis/wardle.example.com/v1/away" => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Its port, and the certificate (PEM) that vouches for it.
async fn serve() -> (u16, String) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path()).unwrap();
    let actor = Actor { user: "wardle".into(), groups: Vec::new() };
    let files = authority.issue_files(folder.path(), "w", &actor, &["sample-api.default.svc".into()]).unwrap();
    let config = files.load().unwrap().rustls_server(ClientCertificate::Optional, &[b"http/1.1"]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                    Ok::<_, std::convert::Infallible>(wardle(request.map(Body::new)).await)
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, authority.certificate_pem().to_owned())
}

async fn settled(server: &Server) {
    let written = server.store.revision().await.unwrap();
    assert!(server.rest.api.caches.wait_for(written, Duration::from_secs(30)).await);
}

fn service(port: u16, bundle: &str) -> Value {
    json!({"metadata": {"name": format!("v1.{GROUP}")}, "spec": {"group": GROUP, "version": "v1",
        "service": {"namespace": "default", "name": "sample-api", "port": port}, "caBundle": STANDARD.encode(bundle),
        "groupPriorityMinimum": 2000, "versionPriority": 200}})
}

fn available(object: &Value) -> (String, String) {
    let condition = &object["status"]["conditions"][0];
    (condition["status"].as_str().unwrap_or_default().to_owned(), condition["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_server_in_the_cluster_serves_a_group() {
    let server = Server::start().await;
    let (port, bundle) = serve().await;
    let flunders = format!("/apis/{GROUP}/v1/namespaces/default/flunders");
    assert_eq!(server.get(&flunders).await.0, 404, "nobody serves it yet");
    let made = server.create(SERVICES, service(port, &bundle)).await;
    settled(&server).await;
    assert_eq!(server.get(&flunders).await.0, 503);
    assert!(!keeper::once(&server.rest).await.unwrap());
    settled(&server).await;
    let one = format!("{SERVICES}/v1.{GROUP}");
    assert_eq!(available(&server.get(&one).await.1), ("False".into(), "ServiceNotFound".into()));
    let there = json!({"metadata": {"name": "sample-api"}, "spec": {"type": "ExternalName", "externalName": "nowhere.invalid"}});
    server.create("/api/v1/namespaces/default/services", there).await;
    let (code, said) = server
        .patch("/api/v1/namespaces/default/services/sample-api", "merge-patch+json", json!({"spec": {"externalName": "localhost"}}))
        .await;
    assert_eq!(code, 200, "{said}");
    settled(&server).await;
    assert!(keeper::once(&server.rest).await.unwrap(), "{}", server.get(&one).await.1);
    settled(&server).await;
    assert_eq!(available(&server.get(&one).await.1), ("True".into(), "Passed".into()));
    let (code, said) = server.ask(Method::POST, &format!("{flunders}?dryRun=All"), "application/json", "data".into()).await;
    assert_eq!((code, said["method"].as_str(), said["body"].as_u64(), said["query"].as_str()), (200, Some("POST"), Some(4), Some("dryRun=All")));
    assert_eq!((said["user"].as_str(), said["groups"].as_u64(), said["authorization"].as_str()), (Some("balsa:loopback"), Some(2), Some("-")));
    assert_eq!(said["host"], format!("sample-api.default.svc:{port}"));
    assert_eq!(server.get(&format!("/apis/{GROUP}/v1/away")).await.0, 502, "a redirect is not followed");
    let (_, groups) = server.get("/apis").await;
    let names: Vec<&str> = groups["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], names.last()), ("apiregistration.k8s.io", Some(&GROUP)));
    assert_eq!(server.get(&format!("/apis/{GROUP}")).await.1["preferredVersion"]["version"], "v1");
    let (_, list) = server.get(&format!("/apis/{GROUP}/v1")).await;
    assert_eq!(list["resources"][0]["kind"], "Flunder");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = Request::get("/apis").header("accept", accept).body(Body::empty()).unwrap();
    let body = server.send(Peer::Loopback, request).await.into_body().collect().await.unwrap().to_bytes();
    let document: Value = serde_json::from_slice(&body).unwrap();
    let entry = document["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == GROUP).unwrap();
    assert_eq!(entry["versions"][0]["resources"][0]["responseKind"]["kind"], "Flunder");
    let (code, _) = server.delete(&one, json!({"preconditions": {"uid": made["metadata"]["uid"]}})).await;
    assert_eq!(code, 200);
    settled(&server).await;
    assert_eq!(server.get(&flunders).await.0, 404);
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let server = Server::start().await;
    let (port, _) = serve().await;
    let other = Authority::open_or_create(tempfile::tempdir().unwrap().path()).unwrap();
    server.create(SERVICES, service(port, other.certificate_pem())).await;
    let there = json!({"metadata": {"name": "sample-api"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    server.create("/api/v1/namespaces/default/services", there).await;
    settled(&server).await;
    assert!(!keeper::once(&server.rest).await.unwrap());
    settled(&server).await;
    let (_, object) = server.get(&format!("{SERVICES}/v1.{GROUP}")).await;
    assert_eq!(available(&object), ("False".into(), "FailedDiscoveryCheck".into()));
    let message = object["status"]["conditions"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("failing or missing response from https://sample-api.default.svc:"), "{message}");
}

#[tokio::test]
async fn what_we_serve_ourselves_is_listed_too() {
    let server = Server::start().await;
    keeper::once(&server.rest).await.unwrap();
    settled(&server).await;
    let (_, list) = server.get(SERVICES).await;
    let items = list["items"].as_array().unwrap();
    let apps = items.iter().find(|item| item["metadata"]["name"] == "v1.apps").unwrap();
    assert_eq!(available(apps), ("True".into(), "Local".into()));
    assert_eq!(apps["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    assert!(items.iter().any(|item| item["metadata"]["name"] == "v1."));
    assert!(items.iter().all(|item| item["metadata"]["name"] != "v1.apiregistration.k8s.io"));
}
