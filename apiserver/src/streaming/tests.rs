//! A client, the streaming handler behind a real HTTP server, and a node of a few lines behind real gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use balsa_proto::node::node_server::{Node, NodeServer};
use balsa_proto::node::stream_input::Input;
use balsa_proto::node::stream_output::Output;
use balsa_proto::node::*;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tonic::{Response, Status, Streaming as Incoming};

use super::spdy::session::{Role, Session, Stream};
use super::{StreamKind, StreamTarget, Streaming};

const DEADLINE: Duration = Duration::from_secs(10);

/// Its container `c` runs `echo` (input comes back, sizes as text, ends with the input), `fail` and nothing else;
/// every port but 1 sends back what it gets, in capitals.
struct TestNode;

type Out<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

fn said(output: Output) -> Result<StreamOutput, Status> {
    Ok(StreamOutput { output: Some(output) })
}

async fn process(
    start: ExecStart,
    mut input: Incoming<StreamInput>,
    output: mpsc::Sender<Result<StreamOutput, Status>>,
) {
    let _ = output.send(said(Output::Started(Closed {}))).await;
    let mut code = 0;
    if start.command[0] == "fail" {
        let _ = output.send(said(Output::Stdout("out".into()))).await;
        let _ = output.send(said(Output::Stderr("err".into()))).await;
        code = 7;
    } else {
        while let Ok(Some(message)) = input.message().await {
            let text: Bytes = match message.input {
                Some(Input::Stdin(data)) => data,
                Some(Input::Resize(size)) => format!("{}x{}", size.width, size.height).into(),
                _ => break,
            };
            let _ = output.send(said(Output::Stdout(text))).await;
        }
    }
    let _ = output.send(said(Output::Exit(Exit { code, message: String::new() }))).await;
}

#[tonic::async_trait]
impl Node for TestNode {
    type LogsStream = Out<LogsChunk>;
    type StreamStream = Out<StreamOutput>;
    type PortForwardStream = Out<PortForwardOutput>;

    async fn logs(&self, request: tonic::Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        if request.previous {
            return Err(Status::failed_precondition("previous terminated container \"c\" in pod \"web\" not found"));
        }
        let text = format!("tail {:?} follow {}\n", request.tail_lines, request.follow);
        let chunks = [text, "end\n".to_owned()].map(|text| Ok(LogsChunk { data: text.into() }));
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn stream(
        &self,
        request: tonic::Request<Incoming<StreamInput>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut input = request.into_inner();
        let Some(Input::Exec(start)) = input.message().await?.and_then(|message| message.input) else {
            return Err(Status::not_found("container c not found in pod web_default"));
        };
        if start.command[0] == "absent" {
            return Err(Status::not_found("container not found (\"c\")"));
        }
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(process(start, input, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn port_forward(
        &self,
        request: tonic::Request<Incoming<PortForwardInput>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let mut input = request.into_inner();
        match input.message().await?.and_then(|message| message.input) {
            Some(port_forward_input::Input::Start(start)) if start.port != 1 => {}
            _ => return Err(Status::internal("connection refused")),
        }
        let shout = input.map(|message| match message?.input {
            Some(port_forward_input::Input::Data(data)) => {
                Ok(PortForwardOutput { data: data.to_ascii_uppercase().into() })
            }
            _ => Err(Status::invalid_argument("data only")),
        });
        Ok(Response::new(Box::pin(shout)))
    }

    async fn stats(&self, _: tonic::Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

struct Test {
    address: String,
}

#[derive(Clone)]
struct Site {
    streaming: Arc<Streaming>,
    node: String,
}

fn pod(phase: &str, node: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {"phase": phase},
    }))
    .unwrap()
}

/// `/exec`, `/log`, …, and the same under `/done` (a pod that has ended) and `/pending` (one without a node).
async fn serve(
    State(site): State<Site>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> axum::response::Response {
    let kind = match path.rsplit('/').next().unwrap_or_default() {
        "log" => StreamKind::Log,
        "exec" => StreamKind::Exec,
        "attach" => StreamKind::Attach,
        _ => StreamKind::PortForward,
    };
    let pod = match path.split('/').next().unwrap_or_default() {
        "done" => pod("Succeeded", "n1"),
        "pending" => pod("Pending", ""),
        _ => pod("Running", "n1"),
    };
    let (node_name, node_address, query) = ("n1".to_owned(), site.node.clone(), query.unwrap_or_default());
    site.streaming.handle(request, StreamTarget { kind, pod, node_name, node_address, query }).await
}

async fn start() -> Test {
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site { streaming: Arc::new(Streaming::new(None)), node: node.local_addr().unwrap().to_string() };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(NodeServer::new(TestNode))
            .serve_with_incoming(TcpListenerStream::new(node)),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().route("/{*path}", axum::routing::any(serve)).with_state(site);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Test { address }
}

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Test {
    async fn open(&self, path: &str, protocol: &str) -> Result<(Client, Option<String>), Error> {
        let mut request = format!("ws://{}/{path}", self.address).into_client_request()?;
        if !protocol.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (socket, response) = tokio_tungstenite::connect_async(request).await?;
        let agreed = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap().to_owned());
        Ok((socket, agreed))
    }

    /// Status code, content type and body of what is not upgraded.
    async fn plain(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(format!("/{path}")).header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        let body = axum::body::to_bytes(Body::new(response.into_body()), 1 << 20).await.unwrap();
        (code, kind.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
    }

    /// A SPDY connection that began with a POST.
    async fn spdy(&self, path: &str, protocol: &str) -> (Session, String) {
        let io = hyper_util::rt::TokioIo::new(TcpStream::connect(&self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .method("POST")
            .uri(format!("/{path}"))
            .header("host", "test")
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", protocol)
            .body(Body::empty())
            .unwrap();
        let mut response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 101);
        let agreed = response.headers()["x-stream-protocol-version"].to_str().unwrap().to_owned();
        let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
        (Session::start(hyper_util::rt::TokioIo::new(upgraded), Role::Client), agreed)
    }
}

/// Everything until the close, by channel.
async fn channels(socket: &mut Client) -> [Vec<u8>; 5] {
    let mut all: [Vec<u8>; 5] = Default::default();
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(data) = message {
                all[usize::from(data[0])].extend_from_slice(&data[1..]);
            }
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("the server must close");
    all
}

fn status(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

#[tokio::test]
async fn exec_over_v5_passes_input_sizes_and_the_end_of_input() {
    let test = start().await;
    let (mut socket, agreed) =
        test.open("exec?command=echo&stdin=1&stdout=1&tty=1", "v5.channel.k8s.io").await.unwrap();
    assert_eq!(agreed.as_deref(), Some("v5.channel.k8s.io"));
    socket.send(Message::binary(&b"\x00hello "[..])).await.unwrap();
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    socket.send(Message::binary(&b"\x04{\"Width\":80,\"Height\":24}"[..])).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let all = channels(&mut socket).await;
    assert_eq!(all[1], b"hello 80x24");
    assert_eq!(status(&all[3])["status"], "Success");
}

#[tokio::test]
async fn exec_over_v4_ends_with_the_exit_code() {
    let test = start().await;
    let (mut socket, _) = test.open("exec?command=fail&stdout=1&stderr=1", "v4.channel.k8s.io").await.unwrap();
    let all = channels(&mut socket).await;
    assert_eq!((all[1].as_slice(), all[2].as_slice()), (&b"out"[..], &b"err"[..]));
    let status = status(&all[3]);
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn exec_over_v1_begins_with_an_empty_message_and_has_no_status() {
    let test = start().await;
    for protocol in ["channel.k8s.io", ""] {
        let (mut socket, _) = test.open("exec?command=fail&stdout=1", protocol).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(vec![1]));
        let all = channels(&mut socket).await;
        assert_eq!((all[1].as_slice(), all[2].as_slice()), (&b"out"[..], &b""[..]));
        assert!(all[3].starts_with(b"command terminated with non-zero exit code"));
    }
}

#[tokio::test]
async fn what_does_not_run_is_a_status_at_the_end_or_an_error_before_it() {
    let test = start().await;
    let (mut socket, _) = test.open("exec?command=absent&stdout=1", "v5.channel.k8s.io").await.unwrap();
    let all = channels(&mut socket).await;
    let expected = "Internal error occurred: unable to upgrade connection: container not found (\"c\")";
    assert_eq!(status(&all[3])["message"], expected);
    let upgrade =
        [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")];
    let (code, kind, body) = test.plain("POST", "exec?command=absent&stdout=1", &upgrade).await;
    assert_eq!((code, kind.as_str()), (500, "application/json"));
    assert_eq!(status(body.as_bytes())["message"], expected);
}

#[tokio::test]
async fn wrong_requests_are_refused_in_words() {
    let test = start().await;
    let websocket: &[(&str, &str)] = &[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
    ];
    for (path, headers, code, text) in [
        ("exec?command=echo&stdout=1", &[][..], 400, "Upgrade request required"),
        ("exec?command=echo&stdout=1", websocket, 403, "unable to negotiate protocol"),
        ("exec?stdout=1", &[], 400, "at least one command"),
        ("exec?command=echo", &[], 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("exec?command=echo&stdout=1&container=x", &[], 400, "container x is not valid for pod web"),
        (
            "done/exec?command=echo&stdout=1",
            &[],
            400,
            "cannot exec into a container in a completed pod; current phase is Succeeded",
        ),
        ("pending/portforward?ports=80", &[], 400, "pod web does not have a host assigned"),
        ("portforward?ports=x", &websocket[..4], 400, "unable to parse"),
        ("log?tailLines=-1", &[], 422, "tailLines: Invalid value: -1"),
        ("log?previous=1", &[], 400, "previous terminated container \"c\" in pod \"web\" not found"),
    ] {
        let (got, _, body) = test.plain("GET", path, headers).await;
        let message = status(body.as_bytes())["message"].as_str().unwrap().to_owned();
        assert!(got == code && message.contains(text), "{path}: {got} {message}");
    }
}

#[tokio::test]
async fn logs_are_plain_text_or_messages() {
    let test = start().await;
    let expected = "tail Some(5) follow true\nend\n";
    let answer = test.plain("GET", "log?tailLines=5&follow=true", &[]).await;
    assert_eq!(answer, (200, "text/plain".to_owned(), expected.to_owned()));
    assert_eq!(test.plain("GET", "pending/log", &[]).await.0, 204);
    let (mut socket, agreed) = test.open("log?tailLines=5&follow=true", "binary.k8s.io").await.unwrap();
    assert_eq!(agreed.as_deref(), Some("binary.k8s.io"));
    let mut text = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            text.extend_from_slice(&data);
        }
    }
    assert_eq!(text, expected.as_bytes());
}

#[tokio::test]
async fn ports_are_forwarded_over_channels() {
    let test = start().await;
    // kube-rs offers both; there is no v5 of port-forward.
    let offers = "v5.channel.k8s.io, v4.channel.k8s.io";
    let (mut socket, agreed) = test.open("portforward?ports=8080,1", offers).await.unwrap();
    assert_eq!(agreed.as_deref(), Some("v4.channel.k8s.io"));
    socket.send(Message::binary(&b"\x00hello"[..])).await.unwrap();
    let mut all: [Vec<u8>; 4] = Default::default();
    while all[0].len() < 7 || all[3].len() < 10 {
        let message = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
        let data = message.into_data();
        all[usize::from(data[0])].extend_from_slice(&data[1..]);
    }
    assert_eq!(all[0], b"\x90\x1fHELLO");
    assert_eq!(all[1], b"\x90\x1f");
    assert_eq!(all[2], b"\x01\x00");
    let error = String::from_utf8_lossy(&all[3][2..]).into_owned();
    assert_eq!(error, "error forwarding port 1 to pod web, uid u1: connection refused");
}

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn pair(session: &Session, port: &str, request: &str) -> (Stream, Stream) {
    let open = async |kind: &str| {
        session.open(headers(&[("streamtype", kind), ("port", port), ("requestid", request)])).await.unwrap()
    };
    (open("error").await, open("data").await)
}

async fn read(stream: &mut Stream) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async {
        while let Some(data) = stream.incoming.recv().await {
            all.extend_from_slice(&data);
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("the stream must end");
    all
}

async fn check_forwarding(session: Session) {
    let (mut error_one, mut data_one) = pair(&session, "8080", "0").await;
    let (mut error_two, mut data_two) = pair(&session, "1", "1").await;
    let big = Bytes::from(vec![b'a'; 1 << 20]);
    assert!(data_one.outgoing.send(big.clone()).await);
    let finish = data_one.outgoing.clone();
    let (back, _) = tokio::join!(read(&mut data_one), finish.finish());
    assert!(back == big.to_ascii_uppercase(), "{} bytes came back", back.len());
    assert_eq!(read(&mut error_one).await, b"");
    let error = String::from_utf8(read(&mut error_two).await).unwrap();
    assert_eq!(error, "error forwarding port 1 to pod web, uid u1: connection refused");
    assert_eq!(read(&mut data_two).await, b"");
    session.close().await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let test = start().await;
    let (session, agreed) = test.spdy("portforward", "portforward.k8s.io").await;
    assert_eq!(agreed, "portforward.k8s.io");
    check_forwarding(session).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_inside_a_websocket() {
    let test = start().await;
    let (socket, agreed) = test.open("portforward", "SPDY/3.1+portforward.k8s.io").await.unwrap();
    assert_eq!(agreed.as_deref(), Some("SPDY/3.1+portforward.k8s.io"));
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let (mut sink, mut source) = socket.split();
        let (mut reader, mut writer) = tokio::io::split(far);
        let inward = async {
            while let Some(Ok(message)) = source.next().await {
                tokio::io::AsyncWriteExt::write_all(&mut writer, &message.into_data()).await.unwrap();
            }
        };
        let outward = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await {
                sink.send(Message::binary(buffer[..count].to_vec())).await.unwrap();
            }
            let _ = sink.close().await;
        };
        tokio::join!(inward, outward);
    });
    check_forwarding(Session::start(near, Role::Client)).await;
}

#[tokio::test]
async fn exec_over_spdy() {
    let test = start().await;
    let path = "exec?command=echo&stdin=1&stdout=1&tty=1";
    let (session, agreed) = test.spdy(path, "v5.channel.k8s.io, v4.channel.k8s.io, channel.k8s.io").await;
    assert_eq!(agreed, "v4.channel.k8s.io");
    let open = async |kind: &str| session.open(headers(&[("streamtype", kind)])).await.unwrap();
    let (mut error, stdin, mut stdout) = (open("error").await, open("stdin").await, open("stdout").await);
    let resize = open("resize").await;
    resize.outgoing.send(Bytes::from_static(br#"{"Width":80,"Height":24}"#)).await;
    // The size is on its way before the input is: both streams share the connection, not the queue to the process.
    let first = tokio::time::timeout(DEADLINE, stdout.incoming.recv()).await.unwrap().unwrap();
    assert_eq!(first, "80x24");
    stdin.outgoing.send(Bytes::from_static(b"hello")).await;
    stdin.outgoing.finish().await;
    assert_eq!(read(&mut stdout).await, b"hello");
    assert_eq!(status(&read(&mut error).await)["status"], "Success");
    session.close().await;
}

#[tokio::test]
async fn an_unreachable_node_is_an_error_in_time() {
    let streaming = Streaming::new(None);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let target = StreamTarget {
        kind: StreamKind::Log,
        pod: pod("Running", "n1"),
        node_name: "n1".to_owned(),
        node_address: closed.to_string(),
        query: String::new(),
    };
    let response = streaming.handle(Request::new(Body::empty()), target).await;
    assert_eq!(response.status(), 500);
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let message = status(&body)["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Internal error occurred: error dialing backend: node n1 at "), "{message}");
}
