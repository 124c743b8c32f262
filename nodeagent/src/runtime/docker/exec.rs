//! Commands in containers and their streams.

use std::time::Duration;

use bollard::models::ExecConfig;
use bytes::BytesMut;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::error::Op;
use super::frames::Demultiplexer;
use super::wire::Hijacked;
use super::{Docker, SHORT};
use crate::runtime::{ExecResult, Input, Output, RuntimeError, RuntimeResult, Session};

/// Pieces of output that may wait for the reader; then the process waits.
const QUEUE: usize = 32;
/// What one read takes.
const CHUNK: usize = 32 * 1024;
/// What an [`ExecResult`] keeps.
const MAX_OUTPUT: usize = 16 * 1024;
/// The engine knows the process id about 60 ms after the streams, and the exit code a moment after their end.
const SETTLE: Duration = Duration::from_secs(2);
/// Pause between two looks at an exec.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Where a terminal's size is set.
#[derive(Clone)]
struct Terminal {
    docker: Docker,
    path: String,
}

impl Docker {
    pub(super) async fn exec_and_wait(&self, id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult> {
        let exec = self.make_exec(id, command, false, false).await?;
        let mut streams = self.start_exec(&exec, false).await?;
        let mut output = Vec::new();
        let read = read_output(&mut streams, &mut output);
        match tokio::time::timeout(timeout, read).await {
            Ok(result) => result?,
            Err(_) => {
                self.kill_exec(id, &exec).await;
                return Err(RuntimeError::Timeout(timeout));
            }
        }
        let exit_code = self.exec_exit_code(&exec).await?;
        Ok(ExecResult { exit_code, output: String::from_utf8_lossy(&output).into_owned() })
    }

    pub(super) async fn exec_with_streams(
        &self,
        id: &str,
        command: &[String],
        stdin: bool,
        tty: bool,
    ) -> RuntimeResult<Session> {
        let exec = self.make_exec(id, command, stdin, tty).await?;
        let streams = self.start_exec(&exec, tty).await?;
        let path = format!("{}/exec/{exec}/resize", self.engine().await?.prefix);
        let terminal = Terminal { docker: self.clone(), path };
        Ok(session(streams, tty, stdin && !tty, Some(terminal).filter(|_| tty), Some((self.clone(), exec))))
    }

    pub(super) async fn attach_to(&self, id: &str, stdin: bool, tty: bool) -> RuntimeResult<Session> {
        let prefix = &self.engine().await?.prefix;
        let path = format!("{prefix}/containers/{id}/attach?stream=1&stdin={}&stdout=1&stderr=1", u8::from(stdin));
        let streams = self.inner.wire.hijack(&path, &Value::Null).await?;
        let terminal = Terminal { docker: self.clone(), path: format!("{prefix}/containers/{id}/resize") };
        Ok(session(streams, tty, stdin && !tty, Some(terminal).filter(|_| tty), None))
    }

    async fn make_exec(&self, id: &str, command: &[String], stdin: bool, tty: bool) -> RuntimeResult<String> {
        let api = &self.engine().await?.api;
        let config = ExecConfig {
            attach_stdin: Some(stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            cmd: Some(command.to_vec()),
            ..ExecConfig::default()
        };
        let made = self.call(Op::Other, SHORT, api.create_exec(id, config)).await?;
        Ok(made.id)
    }

    async fn start_exec(&self, exec: &str, tty: bool) -> RuntimeResult<Hijacked> {
        let path = format!("{}/exec/{exec}/start", self.engine().await?.prefix);
        self.inner.wire.hijack(&path, &json!({"Detach": false, "Tty": tty})).await
    }

    /// The exit code, once the engine has it.
    async fn exec_exit_code(&self, exec: &str) -> RuntimeResult<i32> {
        let until = tokio::time::Instant::now() + SETTLE;
        loop {
            let api = &self.engine().await?.api;
            let found = self.call(Op::Other, SHORT, api.inspect_exec(exec)).await?;
            if !found.running.unwrap_or(false)
                && let Some(code) = found.exit_code
            {
                return Ok(i32::try_from(code).unwrap_or(255));
            }
            if tokio::time::Instant::now() > until {
                return Err(RuntimeError::Other(format!("exec {exec} closed its output but has not ended")));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Closing the streams does not end the process, so it and its children are killed by their ids on the host.
    async fn kill_exec(&self, container: &str, exec: &str) {
        match self.exec_pid(exec).await {
            Ok(Some(pid)) if belongs_to(pid, container) => {
                for pid in family(pid) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            Ok(Some(pid)) => {
                tracing::warn!(pid, exec, "process is not seen here: run the agent in the host's pid namespace");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(exec, %error, "timed-out exec could not be found"),
        }
    }

    async fn exec_pid(&self, exec: &str) -> RuntimeResult<Option<i32>> {
        let until = tokio::time::Instant::now() + SETTLE;
        loop {
            let api = &self.engine().await?.api;
            let found = self.call(Op::Other, SHORT, api.inspect_exec(exec)).await?;
            let pid = found.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
            if pid.is_some() || !found.running.unwrap_or(false) || tokio::time::Instant::now() > until {
                return Ok(pid);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Whether a process of this machine is in the container's control group: ids mean nothing in another namespace.
fn belongs_to(pid: i32, container: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(container))
}

/// A process and all below it, the parents first.
fn family(pid: i32) -> Vec<i32> {
    let mut members = vec![pid];
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        next += 1;
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        members.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    members
}

/// Reads to the end; keeps the beginning.
async fn read_output(streams: &mut Hijacked, output: &mut Vec<u8>) -> RuntimeResult<()> {
    let mut demultiplexer = Demultiplexer::new(false);
    demultiplexer.push(&streams.first);
    let mut chunk = BytesMut::with_capacity(CHUNK);
    loop {
        while let Some(piece) = demultiplexer.next_piece() {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece.output;
            let room = MAX_OUTPUT.saturating_sub(output.len()).min(bytes.len());
            output.extend_from_slice(&bytes[..room]);
        }
        chunk.clear();
        let read = streams.stream.read_buf(&mut chunk).await;
        match read.map_err(|error| RuntimeError::Unavailable(format!("the stream of an exec broke off: {error}")))? {
            0 => return Ok(()),
            _ => demultiplexer.push(&chunk),
        }
    }
}

/// `closes`: whether the end of the input is told to the engine.
fn session(
    streams: Hijacked,
    tty: bool,
    closes: bool,
    terminal: Option<Terminal>,
    exec: Option<(Docker, String)>,
) -> Session {
    let (input, inputs) = mpsc::channel(QUEUE);
    let (outputs, output) = mpsc::channel(QUEUE);
    let (exit_sender, exit) = oneshot::channel();
    let first = streams.first;
    let (reader, writer) = streams.stream.into_split();
    let writing = tokio::spawn(write_inputs(writer, inputs, terminal, closes));
    tokio::spawn(async move {
        let read = forward_outputs(reader, first, tty, &outputs).await;
        // Only a writer that stays keeps the connection open; it must not outlive the process.
        writing.abort();
        drop(outputs);
        let Some((docker, exec)) = exec else { return };
        let exit = match read {
            Ok(()) => docker.exec_exit_code(&exec).await,
            Err(error) => Err(error),
        };
        let _ = exit_sender.send(exit);
    });
    Session { input, output, exit }
}

/// The engine answers a half-closed connection of a terminal by closing its output too, so there the end of the input
/// stays untold.
async fn write_inputs(
    mut writer: OwnedWriteHalf,
    mut inputs: mpsc::Receiver<Input>,
    terminal: Option<Terminal>,
    closes: bool,
) {
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Data(bytes) => {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Input::Eof if closes => {
                let _ = writer.shutdown().await;
            }
            Input::Eof => {}
            Input::Resize(columns, rows) => {
                if let Some(terminal) = terminal.clone() {
                    tokio::spawn(terminal.resize(columns, rows));
                }
            }
        }
    }
    // Whoever wrote has gone; dropping this half would close it.
    if !closes {
        writer.forget();
    }
}

impl Terminal {
    /// The first size comes before the process is there, so it is tried for a while.
    async fn resize(self, columns: u16, rows: u16) {
        let path = format!("{}?h={rows}&w={columns}", self.path);
        for _ in 0..20 {
            match self.docker.inner.wire.post(&path).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "the terminal cannot be resized yet"),
            }
            tokio::time::sleep(LOOK_AGAIN * 5).await;
        }
    }
}

async fn forward_outputs(
    mut reader: OwnedReadHalf,
    first: bytes::Bytes,
    tty: bool,
    outputs: &mpsc::Sender<Output>,
) -> RuntimeResult<()> {
    let mut demultiplexer = Demultiplexer::new(tty);
    demultiplexer.push(&first);
    let mut chunk = BytesMut::with_capacity(CHUNK);
    loop {
        while let Some(piece) = demultiplexer.next_piece() {
            if outputs.send(piece.output).await.is_err() {
                return Err(RuntimeError::Other("nobody reads the output any more".to_owned()));
            }
        }
        chunk.clear();
        let read = tokio::select! {
            read = reader.read_buf(&mut chunk) => read,
            () = outputs.closed() => return Err(RuntimeError::Other("nobody reads the output any more".to_owned())),
        };
        match read.map_err(|error| RuntimeError::Unavailable(format!("the stream broke off: {error}")))? {
            0 => return Ok(()),
            _ => demultiplexer.push(&chunk),
        }
    }
}
