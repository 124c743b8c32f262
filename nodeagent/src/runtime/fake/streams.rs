//! Streams of the fake: logs, execs, attaches, connections.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use super::{FakeRuntime, script};
use crate::runtime::{Input, LogOptions, Output, RuntimeResult, Session};

/// Pieces that may wait for a reader.
const QUEUE: usize = 32;
/// How often a log that is followed is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) fn logs(fake: FakeRuntime, id: String, options: LogOptions) -> mpsc::Receiver<RuntimeResult<Output>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut sent = 0;
        loop {
            let running = fake.is_running(&id);
            let lines = fake.lines(&id);
            let tail = options.tail_lines.and_then(|tail| usize::try_from(tail).ok()).unwrap_or(usize::MAX);
            let skip = if sent == 0 { lines.len().saturating_sub(tail) } else { sent };
            for (at, line) in lines.iter().skip(skip) {
                if options.since.is_some_and(|since| *at < since) {
                    continue;
                }
                let line = if options.timestamps { format!("{at:.9} {line}\n") } else { format!("{line}\n") };
                if sender.send(Ok(Output::Stdout(Bytes::from(line)))).await.is_err() {
                    return;
                }
            }
            sent = lines.len().max(1);
            if !options.follow || !running {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

/// `cat` gives back what it gets; anything else follows the script.
pub(super) fn exec(command: &[String], stdin: bool) -> Session {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let outcome = script::of_command(&words);
    let echoes = stdin && words.last().is_some_and(|word| word.ends_with("cat"));
    let (input, mut inputs) = mpsc::channel(QUEUE);
    let (sender, output) = mpsc::channel(QUEUE);
    let (exit_sender, exit) = oneshot::channel();
    tokio::spawn(async move {
        for line in &outcome.output {
            let _ = sender.send(Output::Stdout(Bytes::from(format!("{line}\n")))).await;
        }
        let mut exit_code = outcome.exit_code;
        match outcome.takes.filter(|_| !echoes) {
            Some(takes) => tokio::time::sleep(takes).await,
            None => {
                exit_code = 0;
                while let Some(Input::Data(bytes)) = skip_resizes(&mut inputs).await {
                    if echoes && sender.send(Output::Stdout(bytes)).await.is_err() {
                        return;
                    }
                }
            }
        }
        drop(sender);
        let _ = exit_sender.send(Ok(exit_code));
    });
    Session { input, output, exit }
}

async fn skip_resizes(inputs: &mut mpsc::Receiver<Input>) -> Option<Input> {
    loop {
        match inputs.recv().await {
            Some(Input::Resize(..)) => {}
            other => return other,
        }
    }
}

/// An attach gives back what it gets until the container ends.
pub(super) fn attach(fake: FakeRuntime, id: String) -> Session {
    let (input, mut inputs) = mpsc::channel(QUEUE);
    let (sender, output) = mpsc::channel(QUEUE);
    // An attach has no exit code: the sender is dropped.
    let (_, exit) = oneshot::channel();
    tokio::spawn(async move {
        let mut open = true;
        while fake.is_running(&id) {
            tokio::select! {
                input = inputs.recv(), if open => match input {
                    Some(Input::Data(bytes)) => {
                        if sender.send(Output::Stdout(bytes)).await.is_err() {
                            return;
                        }
                    }
                    Some(Input::Eof | Input::Resize(..)) => {}
                    None => open = false,
                },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = sender.closed() => return,
            }
        }
    });
    Session { input, output, exit }
}

/// A real connection whose other end gives back what it gets.
pub(super) async fn echo() -> std::io::Result<tokio::net::TcpStream> {
    let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    if stream.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    tokio::net::TcpStream::connect(address).await
}
