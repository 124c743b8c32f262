//! The proxy from a client's socket to a server "in a pod": a fake node agent forwards its ports to this process.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::WebSocketUpgrade;
use axum::extract::ws::Message;
use axum::response::IntoResponse as _;
use balsa_process::identity::Actor;
use balsa_process::pki::Authority;
use balsa_process::tls::ClientCertificate;
use balsa_proto::node::node_server::{Node, NodeServer};
use balsa_proto::node::{
    LogsChunk, LogsRequest, PortForwardInput, PortForwardOutput, StatsRequest, StatsResponse, StreamInput, StreamOutput,
    port_forward_input,
};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Status, Streaming};

use super::*;
use crate::rest::Peer;
use crate::tests::Server;

/// Forwards ports of any pod to ports of this machine.
#[derive(Clone)]
struct Agent(Arc<BTreeMap<u32, u16>>);

type Out<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Agent {
    type LogsStream = Out<LogsChunk>;
    type StreamStream = Out<StreamOutput>;
    type PortForwardStream = Out<PortForwardOutput>;

    async fn logs(&self, _: tonic::Request<LogsRequest>) -> Result<tonic::Response<Self::LogsStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn stream(&self, _: tonic::Request<Streaming<StreamInput>>) -> Result<tonic::Response<Self::StreamStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn port_forward(
        &self,
        request: tonic::Request<Streaming<PortForwardInput>>,
    ) -> Result<tonic::Response<Self::PortForwardStream>, Status> {
        let mut input = request.into_inner();
        let Some(port_forward_input::Input::Start(start)) = input.message().await?.and_then(|message| message.input) else {
            return Err(Status::invalid_argument("start"));
        };
        let local = self.0.get(&start.port).ok_or_else(|| Status::unavailable("connection refused"))?;
        let (mut reader, mut writer) = TcpStream::connect(("127.0.0.1", *local)).await?.into_split();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok(Some(message)) = input.message().await {
                if let Some(port_forward_input::Input::Data(data)) = message.input
                    && writer.write_all(&data).await.is_err()
                {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(read) = reader.read(&mut buffer).await {
                let data = buffer[..read].to_vec().into();
                if read == 0 || sender.send(Ok(PortForwardOutput { data })).await.is_err() {
                    return;
                }
            }
        });
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stats(&self, _: tonic::Request<StatsRequest>) -> Result<tonic::Response<StatsResponse>, Status> {
        Ok(tonic::Response::new(StatsResponse { summary: "{\"node\":{}}".into() }))
    }
}

/// What runs in the pod: says what it was asked, links, redirects, echoes.
async fn inside(request: Request<Body>) -> axum::response::Response {
    let (mut parts, body) = request.into_parts();
    match parts.uri.path() {
        "/page/" => ([("content-type", "text/html")], "<a href=\"/rewriteme\">test</a>").into_response(),
        "/away" => (StatusCode::FOUND, [("location", "/login?next=/x")]).into_response(),
        "/socket" => {
            let Ok(upgrade) = <WebSocketUpgrade as axum::extract::FromRequestParts<()>>::from_request_parts(&mut parts, &()).await else {
                return StatusCode::BAD_REQUEST.into_response();
            };
            upgrade.on_upgrade(|mut socket| async move {
                while let Some(Ok(Message::Text(text))) = socket.recv().await {
                    let _ = socket.send(Message::Text(text.to_uppercase().into())).await;
                }
            })
        }
        _ => {
            let body = body.collect().await.unwrap().to_bytes();
            let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
            let said = json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(), "length": body.len(),
                "authorization": header("authorization"), "forwarded": header("x-forwarded-uri"), "for": header("x-forwarded-for"),
                "host": header("host"), "mine": header("x-mine")});
            (StatusCode::ACCEPTED, [("x-from", "pod"), ("keep-alive", "5")], said.to_string()).into_response()
        }
    }
}

struct World {
    server: Server,
    /// Where the REST API listens.
    address: SocketAddr,
}

async fn serve_inside() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(inside);
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

/// The same behind TLS, with a certificate that nobody vouches for.
async fn serve_inside_tls() -> u16 {
    let folder = tempfile::tempdir().unwrap();
    let actor = Actor { user: "whoever".into(), groups: Vec::new() };
    let files = Authority::open_or_create(folder.path()).unwrap().issue_files(folder.path(), "pod", &actor, &[]).unwrap();
    let identity = files.load().unwrap();
    let config = identity.rustls_server(ClientCertificate::Optional, &[b"http/1.1"]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                    Ok::<_, std::convert::Infallible>(inside(request.map(Body::new)).await)
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    port
}

const PODS: &str = "/api/v1/namespaces/default/pods";

impl World {
    async fn start() -> Self {
        let ports = BTreeMap::from([(80, serve_inside().await), (443, serve_inside_tls().await)]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let agent = listener.local_addr().unwrap().port();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(NodeServer::new(Agent(Arc::new(ports))))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let server = Server::start().await;
        server.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": agent}}}});
        let (code, said) = server.patch("/api/v1/nodes/n1/status", "merge-patch+json", status).await;
        assert_eq!(code, 200, "{said}");
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i:1"}]}});
        server.create(PODS, pod).await;
        let status = json!({"status": {"phase": "Running", "podIP": "10.1.0.4", "podIPs": [{"ip": "10.1.0.4"}]}});
        let (code, said) = server.patch(&format!("{PODS}/p/status"), "merge-patch+json", status).await;
        assert_eq!(code, 200, "{said}");
        let written = crate::storage::Store::revision(server.store.as_ref()).await.unwrap();
        assert!(server.rest.api.caches.wait_for(written, Duration::from_secs(30)).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        tokio::spawn({
            let rest = server.rest.clone();
            async move { crate::rest::serve::serve(rest, listener, None, stop).await }
        });
        Self { server, address }
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> (u16, HeaderMap, String) {
        let request = Request::builder().method(method).uri(path).header("host", "api:6443").header("x-mine", "1")
            .header("authorization", "Basic c2VjcmV0").extension(Client("10.0.0.9:5".parse().unwrap()))
            .body(Body::from(body.to_owned())).unwrap();
        let response = self.server.rest.clone().handle(Peer::Loopback, request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&body).into_owned())
    }
}

#[tokio::test]
async fn every_method_reaches_the_pod_and_comes_back() {
    let world = World::start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let path = format!("{PODS}/p/proxy/a%20b//c?x=1&y=%2F");
        let (code, headers, body) = world.ask(method.parse().unwrap(), &path, "data").await;
        let said: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, headers["x-from"].as_bytes(), headers.contains_key("keep-alive")), (202, &b"pod"[..], false));
        assert_eq!((said["method"].as_str(), said["uri"].as_str()), (Some(method), Some("/a%20b//c?x=1&y=%2F")));
        assert_eq!((said["length"].as_u64(), said["authorization"].as_str(), said["mine"].as_str()), (Some(4), Some("-"), Some("1")));
        assert_eq!((said["host"].as_str(), said["for"].as_str()), (Some("api:6443"), Some("10.0.0.9")));
        assert_eq!(said["forwarded"], format!("{PODS}/p/proxy/a%20b//c"));
    }
    let (code, _, body) = world.ask(Method::HEAD, &format!("{PODS}/p:80/proxy/x"), "").await;
    assert_eq!((code, body.as_str()), (202, ""));
    let (code, _, body) = world.ask(Method::GET, &format!("{PODS}/https:p:443/proxy/x"), "").await;
    assert_eq!((code, body.contains("\"uri\":\"/x\"")), (202, true), "{body}");
    let large = "x".repeat(3 << 20);
    let (_, _, body) = world.ask(Method::POST, &format!("{PODS}/p/proxy/x"), &large).await;
    assert!(body.contains("\"length\":3145728"), "bodies are streamed, whatever objects may weigh");
}

#[tokio::test]
async fn links_lead_through_the_proxy_again() {
    let world = World::start().await;
    let base = format!("{PODS}/p:80/proxy");
    let (code, headers, _) = world.ask(Method::GET, &format!("{base}?q=1"), "").await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (301, format!("{base}/?q=1").as_str()));
    let (code, headers, _) = world.ask(Method::GET, &format!("{base}/away"), "").await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (302, format!("{base}/login?next=/x").as_str()));
    let (code, _, body) = world.ask(Method::GET, &format!("{base}/page/"), "").await;
    assert_eq!((code, body), (200, format!("<a href=\"{base}/rewriteme\">test</a>")));
    let (code, _, body) = world.ask(Method::POST, &base, "").await;
    assert_eq!((code, body.contains("\"uri\":\"/\"")), (202, true), "only what reads is redirected");
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_as_kubernetes_says_it() {
    let world = World::start().await;
    let refused = |path: &'static str| {
        let world = &world;
        async move {
            let (code, _, body) = world.ask(Method::GET, path, "").await;
            let status: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(status["kind"], "Status");
            (code, status["message"].as_str().unwrap().to_owned())
        }
    };
    let (code, text) = refused("/api/v1/namespaces/default/pods/p:81/proxy/").await;
    assert_eq!((code, text.as_str()), (503, "error trying to reach service: dial tcp 10.1.0.4:81: connection refused"));
    assert_eq!(refused("/api/v1/namespaces/default/pods/q/proxy/").await, (404, "pods \"q\" not found".into()));
    assert_eq!(refused("/api/v1/namespaces/default/pods/ftp:p:1/proxy/").await, (400, "invalid pod request \"ftp:p:1\"".into()));
    world.server.create(PODS, json!({"metadata": {"name": "fresh"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})).await;
    assert_eq!(refused("/api/v1/namespaces/default/pods/fresh/proxy/").await, (400, "address not allowed".into()));
    assert_eq!(refused("/api/v1/nodes/n1/proxy/exec").await.0, 501);
    assert_eq!(refused("/api/v1/nodes/n1:1/proxy/pods").await.0, 501);
    let (code, _, body) = world.ask(Method::GET, "/api/v1/nodes/n1/proxy/pods", "").await;
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()["items"][0]["metadata"]["name"].as_str()), (200, Some("p")));
    let (code, _, body) = world.ask(Method::GET, "/api/v1/nodes/n1/proxy/stats/summary", "").await;
    assert_eq!((code, body.as_str()), (200, "{\"node\":{}}"));
    assert_eq!(world.ask(Method::GET, "/api/v1/nodes/n1/proxy/healthz", "").await.2, "ok");
}

#[tokio::test]
async fn a_service_is_its_ready_pods() {
    let world = World::start().await;
    let services = "/api/v1/namespaces/default/services";
    let ports = json!([{"name": "web", "port": 8080, "targetPort": 80}]);
    world.server.create(services, json!({"metadata": {"name": "s"}, "spec": {"ports": ports}})).await;
    let get = |path: String| {
        let world = &world;
        async move { world.ask(Method::GET, &path, "").await }
    };
    let (code, _, body) = get(format!("{services}/s:web/proxy/x")).await;
    assert_eq!((code, body.contains("no endpoints available for service \\\"s:web\\\"")), (503, true), "{body}");
    let endpoints = json!({"metadata": {"name": "s"}, "subsets": [{"ports": [{"name": "web", "port": 80}], "addresses": [
        {"ip": "10.1.0.4", "targetRef": {"kind": "Pod", "namespace": "default", "name": "p"}}]}]});
    world.server.create("/api/v1/namespaces/default/endpoints", endpoints).await;
    for name in ["s:web", "s:8080", "http:s:web"] {
        let (code, _, body) = get(format!("{services}/{name}/proxy/x?y")).await;
        assert_eq!((code, body.contains("\"uri\":\"/x?y\"")), (202, true), "{name}: {body}");
    }
    let (code, _, body) = get(format!("{services}/s:99/proxy/x")).await;
    assert_eq!((code, body.contains("no service port 99 found for service \\\"s\\\"")), (503, true), "{body}");
    assert_eq!(get(format!("{services}/none/proxy/x")).await.0, 404);
}

#[tokio::test]
async fn a_websocket_is_joined_to_the_pods() {
    let world = World::start().await;
    let url = format!("ws://{}{PODS}/p/proxy/socket", world.address);
    let (mut socket, response) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(response.status(), 101);
    for word in ["one", "two"] {
        socket.send(tokio_tungstenite::tungstenite::Message::text(word)).await.unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(30), socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(answered.into_text().unwrap().as_str(), word.to_uppercase());
    }
    let refused = tokio_tungstenite::connect_async(format!("ws://{}{PODS}/p:81/proxy/socket", world.address)).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = refused else { panic!("refused") };
    assert_eq!(response.status(), 503);
}
