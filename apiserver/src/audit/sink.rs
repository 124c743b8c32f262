//! Where the audit log goes: a task that writes lines in batches to a file or to standard output, and sets the file
//! aside when it has grown. The queue before it is bounded; what does not fit is dropped and counted.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Lines that may wait.
const QUEUE: usize = 10_000;
/// Lines written at once.
const BATCH: usize = 400;

/// The way to the log's task.
#[derive(Clone)]
pub struct Sink {
    lines: mpsc::Sender<String>,
    dropped: Arc<AtomicU64>,
}

enum Target {
    Stdout,
    File(LogFile),
}

struct LogFile {
    path: PathBuf,
    file: std::fs::File,
    size: u64,
    max_bytes: u64,
    max_backups: usize,
}

impl Sink {
    /// Opens the log. `path`: a file, or `-`. Whatever waits when `stop` comes is still written.
    pub fn start(path: &str, max_megabytes: u64, max_backups: usize, stop: CancellationToken) -> anyhow::Result<Self> {
        let target = match path {
            "-" => Target::Stdout,
            path => Target::File(LogFile::open(Path::new(path), max_megabytes.saturating_mul(1 << 20), max_backups)?),
        };
        let (lines, receiver) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        tokio::spawn(write_all(receiver, target, dropped.clone(), stop));
        Ok(Self { lines, dropped })
    }

    /// Queues one line.
    pub fn send(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A sink whose lines a test reads.
    #[cfg(test)]
    pub fn for_test() -> (Self, mpsc::Receiver<String>) {
        let (lines, receiver) = mpsc::channel(QUEUE);
        (Self { lines, dropped: Arc::default() }, receiver)
    }
}

async fn write_all(mut lines: mpsc::Receiver<String>, target: Target, dropped: Arc<AtomicU64>, stop: CancellationToken) {
    let mut target = Some(target);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            count = lines.recv_many(&mut batch, BATCH) => if count == 0 {
                return;
            },
            () = stop.cancelled() => return,
        }
        let text = batch.drain(..).fold(String::new(), |mut text, line| {
            text.push_str(&line);
            text.push('\n');
            text
        });
        let Some(mut writer) = target.take() else { return };
        // A disk may take its time: not on a thread that serves requests.
        let written = tokio::task::spawn_blocking(move || {
            let outcome = writer.write(text.as_bytes());
            (writer, outcome)
        });
        match written.await {
            Ok((writer, outcome)) => {
                if let Err(error) = outcome {
                    tracing::error!(%error, "the audit log cannot be written");
                }
                target = Some(writer);
            }
            Err(error) => return tracing::error!(%error, "the audit log's writer ended"),
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::error!(lost, "the audit log could not keep up: events were dropped");
        }
    }
}

impl Target {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Stdout => std::io::stdout().lock().write_all(bytes),
            Self::File(file) => file.write(bytes),
        }
    }
}

fn open(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl LogFile {
    fn open(path: &Path, max_bytes: u64, max_backups: usize) -> anyhow::Result<Self> {
        let file = open(path).with_context(|| format!("--audit-log-path {}", path.display()))?;
        let size = file.metadata().map_or(0, |facts| facts.len());
        Ok(Self { path: path.to_owned(), file, size, max_bytes, max_backups })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.max_bytes > 0 && self.size > 0 && self.size.saturating_add(more) > self.max_bytes {
            self.set_aside()?;
        }
        self.size = self.size.saturating_add(more);
        self.file.write_all(bytes)
    }

    fn set_aside(&mut self) -> std::io::Result<()> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%6f").to_string();
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = self.path.extension().map(|own| format!(".{}", own.to_string_lossy())).unwrap_or_default();
        std::fs::rename(&self.path, self.path.with_file_name(format!("{stem}-{now}{extension}")))?;
        self.file = open(&self.path)?;
        self.size = 0;
        self.forget_oldest(&format!("{stem}-"), &extension)
    }

    fn forget_oldest(&self, prefix: &str, suffix: &str) -> std::io::Result<()> {
        let Some(folder) = self.path.parent().filter(|_| self.max_backups > 0) else { return Ok(()) };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let mut aside: Vec<PathBuf> = std::fs::read_dir(folder)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let middle = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
                // Only what this log set aside: its names end in a time.
                middle.is_some_and(|middle| middle.len() == 26 && middle.starts_with(|digit: char| digit.is_ascii_digit()))
            })
            .collect();
        aside.sort();
        let surplus = aside.len().saturating_sub(self.max_backups);
        aside.iter().take(surplus).try_for_each(std::fs::remove_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_grown_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = LogFile::open(&path, 10, 2).unwrap();
        for line in ["12345\n", "67890\n", "abcde\n", "fghij\n", "klmno\n"] {
            log.write(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "klmno\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "two are kept besides");
    }
}
