//! exec and attach: a client's channels, in a WebSocket or in SPDY, joined to a process on a node.
//!
//! The node has started the process before the client sees its 101, so that an old client too gets a proper error; a
//! client whose protocol has a `Status` channel gets the error there, as Kubernetes does it.

use std::time::Duration;

use balsa_proto::node::stream_input::Input;
use balsa_proto::node::stream_output::Output;
use balsa_proto::node::{Closed, Resize, StreamInput, StreamOutput};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tonic::{Code, Status};

use super::channels::{self, Framing, Incoming, Version};
use super::node::Terminal;
use super::query::TerminalOptions;
use super::socket::{PING, Sink, Socket, Source, goodbye, pieces};
use super::spdy::headers::value;
use super::spdy::session::{Outgoing, Session, Stream};
use super::status::Outcome;

/// Protocols inside SPDY, and whether they end in a `Status`.
pub const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// How long a client may take to open the streams that it asked for.
const STREAMS: Duration = Duration::from_secs(30);

/// What a failure to start means to the client.
pub fn failure(status: &Status) -> String {
    match status.code() {
        Code::NotFound | Code::FailedPrecondition => format!("unable to upgrade connection: {}", status.message()),
        _ => status.message().to_owned(),
    }
}

fn message(input: Input) -> StreamInput {
    StreamInput { input: Some(input) }
}

/// Serves a WebSocket until either side ends.
pub async fn websocket(socket: Socket, framing: Framing, opened: Result<Terminal, Status>, options: &TerminalOptions) {
    let (mut sink, mut source) = socket.split();
    let outcome = match opened {
        Err(status) => Some(Outcome::Failed(failure(&status))),
        Ok(Terminal { input, output }) => {
            greet(&mut sink, framing, options).await;
            tokio::select! {
                outcome = outputs(&mut sink, framing, output, options) => outcome,
                () = inputs(&mut source, framing, input, options) => None,
            }
        }
    };
    if let Some(outcome) = outcome {
        let text = if framing.version == Version::V1 { outcome.text().into_bytes() } else { outcome.to_json() };
        if !text.is_empty() {
            let _ = sink.send(framing.message(channels::ERROR, &text)).await;
        }
    }
    goodbye(sink, source).await;
}

/// Clients of the first version wait for an empty message as the sign that the process runs.
async fn greet(sink: &mut Sink, framing: Framing, options: &TerminalOptions) {
    if framing.version != Version::V1 {
        return;
    }
    let wanted = [(channels::STDOUT, options.stdout), (channels::STDERR, options.stderr), (channels::ERROR, true)];
    for (channel, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
        let _ = sink.send(framing.message(channel, b"")).await;
    }
}

/// From the process to the client. `None`: the client is gone.
async fn outputs(
    sink: &mut Sink,
    framing: Framing,
    mut output: tonic::Streaming<StreamOutput>,
    options: &TerminalOptions,
) -> Option<Outcome> {
    let mut ping = interval_at(Instant::now() + PING, PING);
    loop {
        let next = tokio::select! {
            next = output.message() => next,
            _ = ping.tick() => {
                sink.send(Message::Ping(Bytes::new())).await.ok()?;
                continue;
            }
        };
        match next_step(next, options) {
            Step::Out(stderr, data) => {
                let channel = if stderr { channels::STDERR } else { channels::STDOUT };
                sink.send(framing.message(channel, &data)).await.ok()?;
            }
            Step::Nothing => {}
            Step::End(outcome) => return Some(outcome),
        }
    }
}

enum Step {
    /// Standard error or not, and the bytes.
    Out(bool, Bytes),
    Nothing,
    End(Outcome),
}

fn next_step(next: Result<Option<StreamOutput>, Status>, options: &TerminalOptions) -> Step {
    match next {
        Ok(Some(message)) => match message.output {
            Some(Output::Stdout(data)) if options.stdout && !data.is_empty() => Step::Out(false, data),
            Some(Output::Stderr(data)) if options.stderr && !data.is_empty() => Step::Out(true, data),
            Some(Output::Exit(exit)) if !exit.message.is_empty() => Step::End(Outcome::Failed(exit.message)),
            Some(Output::Exit(exit)) if exit.code == 0 => Step::End(Outcome::Success),
            Some(Output::Exit(exit)) => {
                Step::End(Outcome::ExitCode { command: options.command.clone(), code: exit.code })
            }
            Some(Output::Stdout(_) | Output::Stderr(_) | Output::Started(_)) | None => Step::Nothing,
        },
        // An attach has no exit code; an exec has.
        Ok(None) if options.command.is_empty() => Step::End(Outcome::Success),
        Ok(None) => {
            Step::End(Outcome::Failed("the node agent ended the stream before the command had ended".to_owned()))
        }
        Err(status) => Step::End(Outcome::Failed(format!("lost the node agent: {}", status.message()))),
    }
}

/// From the client to the process. Ends when the client is gone.
async fn inputs(source: &mut Source, framing: Framing, input: mpsc::Sender<StreamInput>, options: &TerminalOptions) {
    let mut resizes = Vec::new();
    while let Some(Ok(next)) = source.next().await {
        // Once the process reads no more, what still comes is dropped; the client learns of the end by its outcome.
        match framing.read(&next) {
            Incoming::Data(channels::STDIN, data) if options.stdin => stdin(&input, data).await,
            Incoming::Data(channels::RESIZE, data) => resize(&input, &mut resizes, &data).await,
            Incoming::Closed(channels::STDIN) => {
                let _ = input.send(message(Input::StdinClosed(Closed {}))).await;
            }
            Incoming::Data(..) | Incoming::Closed(_) | Incoming::Nothing => {}
        }
    }
}

async fn stdin(input: &mpsc::Sender<StreamInput>, data: Bytes) {
    for piece in pieces(data) {
        if input.send(message(Input::Stdin(piece))).await.is_err() {
            return;
        }
    }
}

async fn resize(input: &mpsc::Sender<StreamInput>, buffer: &mut Vec<u8>, data: &[u8]) {
    buffer.extend_from_slice(data);
    for (width, height) in channels::sizes(buffer) {
        let size = Resize { width: width.into(), height: height.into() };
        let _ = input.send(message(Input::Resize(size))).await;
    }
}

/// The streams of an exec or attach in SPDY.
#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    fn complete(&self, options: &TerminalOptions, sizes: bool) -> bool {
        self.error.is_some()
            && (!options.stdin || self.stdin.is_some())
            && (!options.stdout || self.stdout.is_some())
            && (!options.stderr || self.stderr.is_some())
            && (!sizes || self.resize.is_some())
    }
}

/// Waits until the client has opened what it asked for.
async fn gather(session: &mut Session, options: &TerminalOptions, sizes: bool) -> Option<Streams> {
    let deadline = Instant::now() + STREAMS;
    let mut streams = Streams::default();
    while !streams.complete(options, sizes) {
        let stream = timeout_at(deadline, session.accept()).await.ok()??;
        let slot = match value(&stream.headers, "streamtype") {
            Some("error") => &mut streams.error,
            Some("stdin") => &mut streams.stdin,
            Some("stdout") => &mut streams.stdout,
            Some("stderr") => &mut streams.stderr,
            Some("resize") => &mut streams.resize,
            _ => {
                stream.outgoing.refuse().await;
                continue;
            }
        };
        *slot = Some(stream);
    }
    Some(streams)
}

/// Serves SPDY until either side ends.
pub async fn spdy(mut session: Session, protocol: Option<&str>, terminal: Terminal, options: &TerminalOptions) {
    let sizes = options.tty && matches!(protocol, Some("v3.channel.k8s.io" | "v4.channel.k8s.io"));
    let Some(streams) = gather(&mut session, options, sizes).await else {
        tracing::debug!("the client did not open its SPDY streams");
        return session.close().await;
    };
    let Terminal { input, output } = terminal;
    let [error, stdout, stderr] = [&streams.error, &streams.stdout, &streams.stderr]
        .map(|stream| stream.as_ref().map(|one| one.outgoing.clone()));
    let ended = session.ended();
    let outcome = tokio::select! {
        outcome = spdy_outputs(stdout.as_ref(), stderr.as_ref(), output, options) => outcome,
        () = spdy_inputs(streams.stdin, streams.resize, input) => None,
        () = ended.cancelled() => None,
    };
    if let (Some(outcome), Some(error)) = (outcome, &error) {
        let text = if protocol == Some("v4.channel.k8s.io") { outcome.to_json() } else { outcome.text().into_bytes() };
        for stream in [&stdout, &stderr].into_iter().flatten() {
            stream.finish().await;
        }
        if !text.is_empty() {
            error.send(text.into()).await;
        }
        error.finish().await;
    }
    session.close().await;
}

async fn spdy_outputs(
    stdout: Option<&Outgoing>,
    stderr: Option<&Outgoing>,
    mut output: tonic::Streaming<StreamOutput>,
    options: &TerminalOptions,
) -> Option<Outcome> {
    loop {
        match next_step(output.message().await, options) {
            Step::Out(is_stderr, data) => {
                let Some(stream) = (if is_stderr { stderr } else { stdout }) else { continue };
                if !stream.send(data).await {
                    return None;
                }
            }
            Step::Nothing => {}
            Step::End(outcome) => return Some(outcome),
        }
    }
}

/// Never ends by itself: the end of standard input is not the end of the process.
async fn spdy_inputs(stdin_stream: Option<Stream>, resize_stream: Option<Stream>, input: mpsc::Sender<StreamInput>) {
    let data = async {
        let Some(mut stream) = stdin_stream else { return };
        while let Some(data) = stream.incoming.recv().await {
            stdin(&input, data).await;
        }
        let _ = input.send(message(Input::StdinClosed(Closed {}))).await;
    };
    let sizes = async {
        let Some(mut stream) = resize_stream else { return };
        let mut buffer = Vec::new();
        while let Some(data) = stream.incoming.recv().await {
            resize(&input, &mut buffer, &data).await;
        }
    };
    tokio::join!(data, sizes);
    std::future::pending::<()>().await;
}
