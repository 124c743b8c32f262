//! exec and attach: the engine's session joined to a gRPC stream.

use std::time::Duration;

use balsa_proto::node::stream_input::Input as Asked;
use balsa_proto::node::stream_output::Output as Said;
use balsa_proto::node::{AttachStart, Closed, ContainerRef, ExecStart, Exit, StreamInput, StreamOutput};
use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::{QUEUE, container_of};
use crate::runtime::{Input, Output, Runtime, RuntimeError, Session};

/// How long the caller may take to say what it wants.
pub const FIRST: Duration = Duration::from_secs(10);
/// How long the exit code may come after the last output.
const EXIT: Duration = Duration::from_secs(10);
/// The largest piece of output in one message, in bytes.
const PIECE: usize = 256 * 1024;

/// The first message.
pub enum Start {
    /// A new process.
    Exec(ContainerRef, ExecStart),
    /// The container's own process.
    Attach(ContainerRef, AttachStart),
}

type Sender = mpsc::Sender<Result<StreamOutput, Status>>;

/// The first message of a stream, within [`FIRST`].
pub async fn first<T>(input: &mut Streaming<T>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("no first message");
    let message = tokio::time::timeout(FIRST, input.message()).await.map_err(late)??;
    message.ok_or_else(|| Status::invalid_argument("the stream ended before its first message"))
}

impl Start {
    /// Waits for it.
    pub async fn read(input: &mut Streaming<StreamInput>) -> Result<Self, Status> {
        match first(input).await?.input {
            Some(Asked::Exec(mut start)) => {
                if start.command.is_empty() {
                    return Err(Status::invalid_argument("no command"));
                }
                Ok(Self::Exec(container_of(start.container.take())?, start))
            }
            Some(Asked::Attach(mut start)) => Ok(Self::Attach(container_of(start.container.take())?, start)),
            _ => Err(Status::invalid_argument("the first message must be exec or attach")),
        }
    }

    /// The container that is meant.
    pub fn container(&self) -> &ContainerRef {
        match self {
            Self::Exec(container, _) | Self::Attach(container, _) => container,
        }
    }

    /// What to say where it does not run.
    pub fn absence(&self) -> String {
        let ContainerRef { namespace, pod, container, .. } = self.container();
        match self {
            Self::Exec(..) => format!("container not found ({container:?})"),
            Self::Attach(..) => format!("container {container} not found in pod {pod}_{namespace}"),
        }
    }

    /// Starts it. An error means that nothing runs.
    pub async fn run(
        self,
        runtime: &dyn Runtime,
        pod: Option<&Pod>,
        id: &str,
        input: Streaming<StreamInput>,
    ) -> Result<mpsc::Receiver<Result<StreamOutput, Status>>, Status> {
        let absence = self.absence();
        let (session, outputs, has_exit) = match self {
            Self::Exec(_, start) => {
                let session = runtime.exec_session(id, &start.command, start.stdin, start.tty).await;
                (
                    session.map_err(|error| failure("executing command in", &absence, &error))?,
                    (start.stdout, start.stderr),
                    true,
                )
            }
            Self::Attach(container, start) => {
                // A terminal cannot be had or given up once the process runs: what its specification says counts.
                let tty = pod.and_then(|pod| terminal(pod, &container.container)).unwrap_or(start.tty);
                let session = runtime.attach(id, start.stdin, tty).await;
                (
                    session.map_err(|error| failure("attaching to", &absence, &error))?,
                    (start.stdout, start.stderr),
                    false,
                )
            }
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            tokio::select! {
                () = join(session, input, outputs, has_exit, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

fn failure(what: &str, absence: &str, error: &RuntimeError) -> Status {
    match error {
        RuntimeError::NotFound(_) => Status::not_found(absence),
        other => Status::new(Code::Internal, format!("error {what} container: {other}")),
    }
}

/// Whether the container's specification has a terminal; `None` where the pod does not know the container.
fn terminal(pod: &Pod, name: &str) -> Option<bool> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    let plain = spec.containers.iter().chain(init).map(|container| (&container.name, container.tty));
    let all = plain.chain(ephemeral.iter().map(|container| (&container.name, container.tty)));
    all.into_iter().find(|(own, _)| *own == name).map(|(_, tty)| tty.unwrap_or(false))
}

fn said(output: Said) -> Result<StreamOutput, Status> {
    Ok(StreamOutput { output: Some(output) })
}

/// Moves everything both ways until the process has ended or the caller is gone.
async fn join(
    session: Session,
    input: Streaming<StreamInput>,
    (stdout, stderr): (bool, bool),
    has_exit: bool,
    sender: &Sender,
) {
    let Session { input: process, mut output, exit } = session;
    let outputs = async {
        if sender.send(said(Said::Started(Closed {}))).await.is_err() {
            return;
        }
        while let Some(piece) = output.recv().await {
            let (wanted, is_stderr, data) = match piece {
                Output::Stdout(data) => (stdout, false, data),
                Output::Stderr(data) => (stderr, true, data),
            };
            if wanted && !deliver(sender, is_stderr, data).await {
                return;
            }
        }
        if has_exit {
            let _ = sender.send(ending(tokio::time::timeout(EXIT, exit).await)).await;
        }
    };
    tokio::select! {
        () = outputs => {}
        () = inputs(input, process) => {}
    }
}

async fn deliver(sender: &Sender, is_stderr: bool, mut data: Bytes) -> bool {
    while !data.is_empty() {
        let piece = data.split_to(data.len().min(PIECE));
        let message = if is_stderr { Said::Stderr(piece) } else { Said::Stdout(piece) };
        if sender.send(said(message)).await.is_err() {
            return false;
        }
    }
    true
}

type Exited =
    Result<Result<Result<i32, RuntimeError>, tokio::sync::oneshot::error::RecvError>, tokio::time::error::Elapsed>;

fn ending(exited: Exited) -> Result<StreamOutput, Status> {
    let message = match exited {
        Ok(Ok(Ok(code))) => return said(Said::Exit(Exit { code, message: String::new() })),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(_)) => "the engine did not say how the command ended".to_owned(),
        Err(_) => format!("the engine did not say within {EXIT:?} how the command ended"),
    };
    said(Said::Exit(Exit { code: -1, message: format!("error executing command in container: {message}") }))
}

/// Ends only when the caller is gone: the end of its messages is the end of standard input, no more.
async fn inputs(mut input: Streaming<StreamInput>, process: mpsc::Sender<Input>) {
    loop {
        let next = match input.message().await {
            Ok(Some(message)) => match message.input {
                Some(Asked::Stdin(data)) => Input::Data(data),
                Some(Asked::StdinClosed(_)) => Input::Eof,
                Some(Asked::Resize(size)) => Input::Resize(clamp(size.width), clamp(size.height)),
                Some(Asked::Exec(_) | Asked::Attach(_)) | None => continue,
            },
            Ok(None) => {
                let _ = process.send(Input::Eof).await;
                return std::future::pending().await;
            }
            Err(_) => return,
        };
        // A process that reads no more: what still comes is dropped, its output goes on.
        let _ = process.send(next).await;
    }
}

fn clamp(size: u32) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}
