//! A container's log, from the engine's pieces to chunks on the wire.

use balsa_proto::node::{LogsChunk, LogsRequest};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tonic::Status;

use super::{QUEUE, engine};
use crate::runtime::{LogOptions, Output, Runtime, RuntimeResult};

/// Pieces that are there already travel together up to this size, in bytes.
const BATCH: usize = 64 * 1024;
/// The largest chunk, in bytes.
const CHUNK: usize = 256 * 1024;

/// A checked request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    options: LogOptions,
    /// Bytes that may still be delivered.
    limit: Option<usize>,
}

impl Asked {
    /// Checks what the apiserver has checked before: the wire may carry anything.
    pub fn read(request: &LogsRequest) -> Result<Self, Status> {
        let negative = |what: &str| Status::invalid_argument(format!("{what} must not be negative"));
        let tail_lines = request.tail_lines.map(u64::try_from).transpose().map_err(|_| negative("tail_lines"))?;
        let limit = request.limit_bytes.map(usize::try_from).transpose().map_err(|_| negative("limit_bytes"))?;
        let since = match request.since_time.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error| Status::invalid_argument(format!("since_time: {error}")))?),
        };
        let (stdout, stderr) = match request.stream.as_str() {
            "" | "All" => (true, true),
            "Stdout" => (true, false),
            "Stderr" => (false, true),
            other => return Err(Status::invalid_argument(format!("invalid stream type {other:?}"))),
        };
        let (follow, timestamps) = (request.follow, request.timestamps);
        Ok(Self { options: LogOptions { follow, timestamps, tail_lines, since, stdout, stderr }, limit })
    }
}

/// Begins to read. Ends when the log ends, the limit is reached or nobody listens.
pub async fn stream(
    runtime: &dyn Runtime,
    id: &str,
    asked: Asked,
) -> Result<mpsc::Receiver<Result<LogsChunk, Status>>, Status> {
    let pieces = runtime.logs(id, &asked.options).await.map_err(|error| engine(&error))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            () = pass_on(pieces, &asked, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

fn wanted(options: &LogOptions, output: Output) -> Option<Bytes> {
    match output {
        Output::Stdout(data) => options.stdout.then_some(data),
        Output::Stderr(data) => options.stderr.then_some(data),
    }
}

async fn pass_on(
    mut pieces: mpsc::Receiver<RuntimeResult<Output>>,
    asked: &Asked,
    sender: &mpsc::Sender<Result<LogsChunk, Status>>,
) {
    let mut left = asked.limit.unwrap_or(usize::MAX);
    while left > 0 {
        let Some(first) = pieces.recv().await else { return };
        let mut batch = BytesMut::new();
        let mut failure = None;
        let mut next = Some(first);
        while let Some(piece) = next.take() {
            match piece {
                Ok(output) => batch.extend_from_slice(&wanted(&asked.options, output).unwrap_or_default()),
                Err(error) => {
                    failure = Some(engine(&error));
                    break;
                }
            }
            if batch.len() < BATCH {
                next = pieces.try_recv().ok();
            }
        }
        batch.truncate(left);
        left -= batch.len();
        let mut batch = batch.freeze();
        while !batch.is_empty() {
            let data = batch.split_to(batch.len().min(CHUNK));
            if sender.send(Ok(LogsChunk { data })).await.is_err() {
                return;
            }
        }
        if let Some(failure) = failure {
            let _ = sender.send(Err(failure)).await;
            return;
        }
    }
}
