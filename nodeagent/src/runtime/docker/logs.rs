//! A container's log, from the engine.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::Docker;
use super::error::Op;
use super::frames::Demultiplexer;
use crate::runtime::{LogOptions, Output, RuntimeError, RuntimeResult};

/// Pieces that may wait for the reader; then the engine waits.
const QUEUE: usize = 32;

impl Docker {
    pub(super) async fn read_logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> RuntimeResult<mpsc::Receiver<RuntimeResult<Output>>> {
        let found = self.inspect(id).await?;
        let terminal = found.config.and_then(|config| config.tty).unwrap_or(false);
        let prefix = &self.engine().await?.prefix;
        let path = format!("{prefix}/containers/{}/logs?{}", found.id.as_deref().unwrap_or(id), query(options));
        let body = self.inner.wire.get(Op::Other, &path).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(forward(body, terminal, options.timestamps, sender));
        Ok(receiver)
    }
}

fn query(options: &LogOptions) -> String {
    let both = !options.stdout && !options.stderr;
    let mut query = format!(
        "follow={}&timestamps={}&stdout={}&stderr={}",
        u8::from(options.follow),
        u8::from(options.timestamps),
        u8::from(options.stdout || both),
        u8::from(options.stderr || both),
    );
    let tail = options.tail_lines.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    query.push_str(&format!("&tail={tail}"));
    if let Some(since) = options.since {
        query.push_str(&format!("&since={}.{:09}", since.as_second(), since.subsec_nanosecond()));
    }
    query
}

async fn forward(mut body: Incoming, terminal: bool, timestamps: bool, sender: mpsc::Sender<RuntimeResult<Output>>) {
    let mut demultiplexer = Demultiplexer::new(terminal);
    let mut lines = Lines::default();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => return,
        };
        let data = match frame {
            None => return,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => {
                let error = RuntimeError::Unavailable(format!("the log broke off: {error}"));
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        demultiplexer.push(&data);
        while let Some(piece) = demultiplexer.next_piece() {
            let output = if timestamps { lines.mend(piece.output, piece.starts_frame) } else { piece.output };
            if sender.send(Ok(output)).await.is_err() {
                return;
            }
        }
    }
}

/// The engine cuts lines at 16 KiB, and puts a time before every part. Only the first is wanted.
#[derive(Debug, Default)]
struct Lines {
    stdout_is_open: bool,
    stderr_is_open: bool,
}

impl Lines {
    fn mend(&mut self, output: Output, starts_frame: bool) -> Output {
        let (bytes, is_open) = match &output {
            Output::Stdout(bytes) => (bytes, &mut self.stdout_is_open),
            Output::Stderr(bytes) => (bytes, &mut self.stderr_is_open),
        };
        let continues = starts_frame && *is_open;
        *is_open = !bytes.ends_with(b"\n");
        let bytes = if continues { without_time(bytes) } else { bytes.clone() };
        match output {
            Output::Stdout(_) => Output::Stdout(bytes),
            Output::Stderr(_) => Output::Stderr(bytes),
        }
    }
}

/// Drops `2026-01-01T00:00:00.000000000Z ` from the front where it is there.
fn without_time(bytes: &Bytes) -> Bytes {
    let space = bytes.iter().take(40).position(|byte| *byte == b' ');
    let is_time = |end: usize| std::str::from_utf8(&bytes[..end]).is_ok_and(|text| text.parse::<jiff::Timestamp>().is_ok());
    match space {
        Some(end) if is_time(end) => bytes.slice(end + 1..),
        _ => bytes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_a_query() {
        assert_eq!(query(&LogOptions::default()), "follow=0&timestamps=0&stdout=1&stderr=1&tail=all");
        let options = LogOptions {
            follow: true,
            timestamps: true,
            tail_lines: Some(5),
            since: "2026-01-01T00:00:00.000000007Z".parse().ok(),
            stdout: false,
            stderr: true,
        };
        assert_eq!(query(&options), "follow=1&timestamps=1&stdout=0&stderr=1&tail=5&since=1767225600.000000007");
    }

    #[test]
    fn a_long_line_has_one_time() {
        let mut lines = Lines::default();
        let mut mended = |text: &'static str| match lines.mend(Output::Stdout(Bytes::from_static(text.as_bytes())), true) {
            Output::Stdout(bytes) | Output::Stderr(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        };
        assert_eq!(mended("2026-01-01T00:00:00.000000000Z first"), "2026-01-01T00:00:00.000000000Z first");
        assert_eq!(mended("2026-01-01T00:00:00.000000000Z second\n"), "second\n");
        assert_eq!(mended("2026-01-01T00:00:01.000000000Z third\n"), "2026-01-01T00:00:01.000000000Z third\n");
    }
}
