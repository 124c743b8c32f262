//! The service over a real gRPC connection, with an engine of a few lines behind it.

use std::sync::Arc;
use std::time::Duration;

use balsa_process::identity::Actor;
use balsa_process::pki::Authority;
use balsa_process::tls::TlsIdentity;
use balsa_proto::node::node_client::NodeClient;
use balsa_proto::node::stream_input::Input;
use balsa_proto::node::stream_output::Output;
use balsa_proto::node::*;
use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::testing::{Engine, container, pod, wanted};
use super::{Pods, ServerConfig, serve};

struct OnePod;

impl Pods for OnePod {
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        (namespace == "default" && name == "web").then(|| Arc::new(pod(serde_json::json!([]))))
    }
}

struct Node {
    client: NodeClient<Channel>,
    _stop: DropGuard,
}

async fn start(identity: Option<TlsIdentity>) -> (u16, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let containers = vec![container("c", 0, "exited"), container("c", 1, "running"), container("t", 0, "running")];
    let runtime = Arc::new(Engine { containers });
    let config = ServerConfig { node_name: "n1".into(), runtime, pods: Arc::new(OnePod), identity };
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, config, stop.clone()));
    (port, stop.drop_guard())
}

async fn node() -> Node {
    let (port, stop) = start(None).await;
    let client = NodeClient::connect(format!("http://127.0.0.1:{port}")).await.unwrap();
    Node { client, _stop: stop }
}

fn exec(command: &str) -> Input {
    let command = vec![command.to_owned()];
    Input::Exec(ExecStart {
        container: Some(wanted("c")),
        command,
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    })
}

fn message(input: Input) -> StreamInput {
    StreamInput { input: Some(input) }
}

type Opened = (mpsc::Sender<StreamInput>, Streaming<StreamOutput>);

async fn open(node: &mut Node, first: Input) -> Result<Opened, Status> {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(message(first)).await.unwrap();
    let output = node.client.stream(ReceiverStream::new(receiver)).await?.into_inner();
    Ok((sender, output))
}

/// Both outputs as text, and the exit.
async fn collect(mut output: Streaming<StreamOutput>) -> (String, String, Option<Exit>) {
    let (mut stdout, mut stderr, mut exit) = (Vec::new(), Vec::new(), None);
    let all = async {
        while let Some(message) = output.message().await.unwrap() {
            match message.output.unwrap() {
                Output::Stdout(data) => stdout.extend_from_slice(&data),
                Output::Stderr(data) => stderr.extend_from_slice(&data),
                Output::Exit(code) => exit = Some(code),
                Output::Started(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("the stream must end");
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), exit)
}

#[tokio::test]
async fn exec_passes_input_output_and_exit_code() {
    let mut node = node().await;
    let (input, output) = open(&mut node, exec("echo")).await.unwrap();
    input.send(message(Input::Stdin(Bytes::from_static(b"hello ")))).await.unwrap();
    input.send(message(Input::Resize(Resize { width: 80, height: 24 }))).await.unwrap();
    input.send(message(Input::StdinClosed(Closed {}))).await.unwrap();
    assert_eq!(collect(output).await, ("hello 80x24\n".into(), String::new(), Some(Exit::default())));

    let (_input, output) = open(&mut node, exec("fail")).await.unwrap();
    let exit = Exit { code: 3, message: String::new() };
    assert_eq!(collect(output).await, ("to stdout\n".into(), "to stderr\n".into(), Some(exit)));
}

#[tokio::test]
async fn a_client_that_ends_its_messages_still_hears_the_rest() {
    let mut node = node().await;
    let (input, output) = open(&mut node, exec("echo")).await.unwrap();
    input.send(message(Input::Stdin(Bytes::from_static(b"last words")))).await.unwrap();
    drop(input);
    assert_eq!(collect(output).await, ("last words".into(), String::new(), Some(Exit::default())));
}

#[tokio::test]
async fn what_cannot_run_is_an_error_before_the_stream() {
    let mut node = node().await;
    let absent = ExecStart { container: Some(wanted("x")), command: vec!["echo".into()], ..ExecStart::default() };
    for (first, code, text) in [
        (exec("missing"), Code::Internal, "error executing command in container: exec: \"missing\": not found"),
        (Input::Exec(absent), Code::NotFound, "container not found (\"x\")"),
        (
            Input::Attach(AttachStart { container: Some(wanted("x")), ..AttachStart::default() }),
            Code::NotFound,
            "container x not found in pod web_default",
        ),
        (
            Input::Exec(ExecStart { container: Some(wanted("c")), ..ExecStart::default() }),
            Code::InvalidArgument,
            "no command",
        ),
        (Input::StdinClosed(Closed {}), Code::InvalidArgument, "the first message must be exec or attach"),
    ] {
        let status = open(&mut node, first).await.err().unwrap();
        assert_eq!((status.code(), status.message()), (code, text));
    }
}

#[tokio::test]
async fn an_attach_has_no_exit_code_and_the_terminal_of_the_specification() {
    let mut node = node().await;
    let attach = |name: &str, tty| {
        let container = Some(wanted(name));
        Input::Attach(AttachStart { container, stdin: true, stdout: true, stderr: true, tty })
    };
    let (_input, output) = open(&mut node, attach("c", true)).await.unwrap();
    assert_eq!(collect(output).await, ("to stdout\n".into(), "to stderr\n".into(), None));
    let (input, output) = open(&mut node, attach("t", false)).await.unwrap();
    input.send(message(Input::Resize(Resize { width: 1, height: 2 }))).await.unwrap();
    drop(input);
    assert_eq!(collect(output).await, ("1x2\n".into(), String::new(), None));
}

#[tokio::test]
async fn a_flood_is_held_back_and_ends_with_its_reader() {
    let mut node = node().await;
    let (_input, mut output) = open(&mut node, exec("flood")).await.unwrap();
    for _ in 0..50 {
        assert!(output.message().await.unwrap().is_some());
    }
    drop(output);
    // The connection is as good as before.
    let (_input, output) = open(&mut node, exec("fail")).await.unwrap();
    assert_eq!(collect(output).await.2.unwrap().code, 3);
}

async fn logs(node: &mut Node, request: LogsRequest) -> Result<String, Status> {
    let request = LogsRequest { container: Some(wanted("c")), ..request };
    let mut chunks = node.client.logs(request).await?.into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        text.extend_from_slice(&chunk.data);
    }
    Ok(String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn logs_are_cut_as_asked() {
    let mut node = node().await;
    let all = logs(&mut node, LogsRequest::default()).await.unwrap();
    assert_eq!((all.lines().count(), all.lines().next()), (10, Some("c-1 line 0")));
    let previous = logs(&mut node, LogsRequest { previous: true, ..LogsRequest::default() }).await.unwrap();
    assert!(previous.starts_with("c-0 line 0\n"));
    let tail = LogsRequest { tail_lines: Some(2), follow: true, ..LogsRequest::default() };
    assert_eq!(logs(&mut node, tail).await.unwrap(), "c-1 line 10\nc-1 line 11\n");
    let limited = LogsRequest { limit_bytes: Some(15), ..LogsRequest::default() };
    assert_eq!(logs(&mut node, limited).await.unwrap(), "c-1 line 0\nc-1 ");
    let stderr = LogsRequest { stream: "Stderr".into(), ..LogsRequest::default() };
    assert_eq!(logs(&mut node, stderr).await.unwrap(), "c-1 line 9\n");
    for wrong in [
        LogsRequest { stream: "Both".into(), ..LogsRequest::default() },
        LogsRequest { tail_lines: Some(-1), ..LogsRequest::default() },
        LogsRequest { since_time: "then".into(), ..LogsRequest::default() },
    ] {
        assert_eq!(logs(&mut node, wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

async fn forward(
    node: &mut Node,
    port: u16,
) -> Result<(mpsc::Sender<PortForwardInput>, Streaming<PortForwardOutput>), Status> {
    let (sender, receiver) = mpsc::channel(4);
    let start =
        PortForwardStart { namespace: "default".into(), pod: "web".into(), pod_uid: "u1".into(), port: port.into() };
    sender.send(PortForwardInput { input: Some(port_forward_input::Input::Start(start)) }).await.unwrap();
    Ok((sender, node.client.port_forward(ReceiverStream::new(receiver)).await?.into_inner()))
}

#[tokio::test]
async fn a_port_is_forwarded_with_half_close() {
    let mut node = node().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Answers only once it has read to the end.
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        connection.read_to_end(&mut all).await.unwrap();
        all.reverse();
        connection.write_all(&all).await.unwrap();
    });
    let (input, mut output) = forward(&mut node, port).await.unwrap();
    let data = port_forward_input::Input::Data(Bytes::from_static(b"abc"));
    input.send(PortForwardInput { input: Some(data) }).await.unwrap();
    drop(input);
    let mut got = Vec::new();
    while let Some(piece) = output.message().await.unwrap() {
        got.extend_from_slice(&piece.data);
    }
    assert_eq!(got, b"cba");

    // Nobody listens there any more.
    let refused = forward(&mut node, port).await.err().unwrap();
    assert!(refused.message().starts_with(&format!("failed to connect to localhost:{port} inside the pod: ")));
}

#[tokio::test]
async fn stats_are_the_kubelets_summary() {
    let mut node = node().await;
    let answer = node.client.stats(StatsRequest {}).await.unwrap().into_inner();
    let summary: serde_json::Value = serde_json::from_slice(&answer.summary).unwrap();
    assert_eq!(summary["node"]["nodeName"], "n1");
    assert_eq!(summary["node"]["memory"]["workingSetBytes"], 4000);
    assert_eq!(summary["pods"][0]["containers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn only_the_apiserver_may_call() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let identity = |name: &str, user: &str, group: &str| {
        let actor = Actor { user: user.into(), groups: vec![group.into()] };
        authority.issue_files(dir.path(), name, &actor, &[name.to_owned()]).unwrap().load().unwrap()
    };
    let (port, _stop) = start(Some(identity("n1", "system:node:n1", "system:nodes"))).await;
    let call = async |identity: &TlsIdentity| {
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
        let endpoint = endpoint.tls_config(identity.tonic_client().domain_name("n1")).unwrap();
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        NodeClient::new(channel).stats(StatsRequest {}).await
    };
    call(&identity("api", "system:apiserver", "any")).await.unwrap();
    call(&identity("admin", "kubernetes-admin", "system:masters")).await.unwrap();
    let refused = call(&identity("n2", "system:node:n2", "system:nodes")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("system:node:n2"), "{refused}");
}
