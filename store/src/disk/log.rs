//! The Raft log on disk: one thread writes, many proposals share one sync.
//!
//! It knows bytes and indexes, not what entries mean. Every entry carries a CRC that is checked when it is read.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use super::engine::{ColumnFamilyDescriptor, DB, WriteBatch, WriteOptions};
use tokio::sync::{mpsc, oneshot};

use super::{engine, files, options, torn};
use super::view::family;
use crate::error::Fault;

const ENTRIES: &str = "entries";
const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Requests that may wait for the writing thread.
const QUEUE: usize = 4_096;
/// Bytes after which a group is written even if more requests wait.
const GROUP_BYTES: usize = 8 << 20;

/// Called when what was asked for is on disk, or will never be.
pub type Done = Box<dyn FnOnce(Result<(), Fault>) + Send>;

enum Request {
    Append { first: u64, entries: Vec<Bytes>, done: Done },
    Vote { vote: Vec<u8>, done: Done },
    TruncateFrom { index: u64, done: Done },
    Purge { upto: u64, purged: Vec<u8>, done: Done },
}

/// The log's database; cheap to clone. The writing thread ends when the last clone is dropped.
#[derive(Clone)]
pub struct LogDisk {
    db: Arc<DB>,
    requests: mpsc::Sender<Request>,
    /// Goes to disk with the next group: nobody waits for it.
    committed: Arc<Mutex<Option<Vec<u8>>>>,
}

/// What one group of writes took.
#[derive(Debug, Clone, Copy)]
pub struct Synced {
    /// Time of the write and its sync.
    pub took: Duration,
    /// Requests that shared it.
    pub requests: usize,
}

impl LogDisk {
    /// Opens the log under `root`, or makes an empty one. `observe` is told of every sync.
    pub fn open(root: &Path, observe: impl Fn(Synced) + Send + 'static) -> Result<Self, Fault> {
        let dir = root.join("log");
        files::make_dir(&dir)
            .map_err(|error| Fault(format!("cannot make the directory {}: {error}", dir.display())))?;
        let open = || {
            let families = [ColumnFamilyDescriptor::new(ENTRIES, options::log_family())];
            DB::open_cf_descriptors(&options::log(), &dir, families)
        };
        let opened = match open() {
            // Whether it is damage or the last write, which a crash tore so that RocksDB cannot tell.
            Err(error) => match torn::mend(&dir) {
                Ok(Some(bytes)) => {
                    tracing::warn!(bytes, "the last write to the raft log was torn, and was cut off");
                    open()
                }
                _ => Err(error),
            },
            opened => opened,
        };
        let db = opened.map_err(|error| {
            Fault(format!("cannot open the raft log in {}: {error} (a torn tail would have been cut)", dir.display()))
        })?;
        let db = Arc::new(db);
        let (requests, queue) = mpsc::channel(QUEUE);
        let committed = Arc::<Mutex<_>>::default();
        let noted = committed.clone();
        let writer = Writer { db: db.clone(), queue, committed: noted, observe: Box::new(observe), broken: None };
        writer.start()?;
        let log = Self { db, requests, committed };
        if let Some((first, last)) = log.bounds()? {
            // The newest entries are the ones that a crash could have hurt: look at each before anyone relies on them.
            log.read(last.saturating_sub(63).max(first), last + 1)?;
            tracing::info!(first, last, "raft log opened");
        }
        Ok(log)
    }

    async fn send(&self, request: Request) -> Result<(), Fault> {
        self.requests.send(request).await.map_err(|_| Fault("the raft log's thread has ended".to_owned()))
    }

    async fn send_and_wait(&self, request: impl FnOnce(Done) -> Request) -> Result<(), Fault> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            let _gone = sender.send(result);
        });
        self.send(request(done)).await?;
        receiver.await.map_err(|_| Fault("the raft log's thread has ended".to_owned()))?
    }

    /// Queues entries from index `first` on; `done` is called from the writing thread once they are synced.
    pub async fn append(&self, first: u64, entries: Vec<Bytes>, done: Done) -> Result<(), Fault> {
        self.send(Request::Append { first, entries, done }).await
    }

    /// Stores a vote; synced when it returns.
    pub async fn save_vote(&self, vote: Vec<u8>) -> Result<(), Fault> {
        self.send_and_wait(|done| Request::Vote { vote, done }).await
    }

    /// Notes how far the log is known to be committed; goes to disk with the next sync.
    pub fn save_committed(&self, committed: Vec<u8>) {
        *self.committed.lock() = Some(committed);
    }

    /// Removes the entries from `index` on; synced when it returns.
    pub async fn truncate_from(&self, index: u64) -> Result<(), Fault> {
        self.send_and_wait(|done| Request::TruncateFrom { index, done }).await
    }

    /// Removes the entries up to `upto`, inclusive, and notes the last one's id.
    pub async fn purge(&self, upto: u64, purged: Vec<u8>) -> Result<(), Fault> {
        self.send_and_wait(|done| Request::Purge { upto, purged, done }).await
    }

    /// The stored vote.
    pub fn vote(&self) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.db.get(VOTE)?)
    }

    /// The stored committed position.
    pub fn committed(&self) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.db.get(COMMITTED)?)
    }

    /// The id of the last purged entry.
    pub fn purged(&self) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.db.get(PURGED)?)
    }

    /// The first and last index on disk.
    pub fn bounds(&self) -> Result<Option<(u64, u64)>, Fault> {
        let mut iterator = self.db.raw_iterator_cf(family(&self.db, ENTRIES)?);
        iterator.seek_to_first();
        let Some(first) = iterator.key().map(decode_index).transpose()? else {
            iterator.status()?;
            return Ok(None);
        };
        iterator.seek_to_last();
        let last = iterator.key().map(decode_index).transpose()?.unwrap_or(first);
        iterator.status()?;
        Ok(Some((first, last)))
    }

    /// The entries `from..to` that are on disk, each checked; stops at the first gap.
    pub fn read(&self, from: u64, to: u64) -> Result<Vec<Bytes>, Fault> {
        let mut options = engine::ReadOptions::default();
        options.set_iterate_upper_bound(to.to_be_bytes().to_vec());
        let mut iterator = self.db.raw_iterator_cf_opt(family(&self.db, ENTRIES)?, options);
        iterator.seek(from.to_be_bytes());
        let mut entries = Vec::new();
        for expected in from..to {
            let (Some(key), Some(stored)) = (iterator.key(), iterator.value()) else { break };
            if decode_index(key)? != expected {
                break;
            }
            entries.push(verify(expected, stored)?);
            iterator.next();
        }
        iterator.status()?;
        Ok(entries)
    }
}

fn decode_index(key: &[u8]) -> Result<u64, Fault> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| Fault("the raft log holds a malformed index".to_owned()))
}

fn verify(index: u64, stored: &[u8]) -> Result<Bytes, Fault> {
    let damaged = || Fault(format!("entry {index} of the raft log is damaged (its checksum does not fit)"));
    let (crc, entry) = stored.split_first_chunk::<4>().ok_or_else(damaged)?;
    #[cfg(test)]
    if crate::sim::broken(crate::sim::Mutation::SkipTornCheck) {
        return Ok(Bytes::copy_from_slice(entry));
    }
    if checksum(index, entry) != u32::from_be_bytes(*crc) {
        return Err(damaged());
    }
    Ok(Bytes::copy_from_slice(entry))
}

/// Covers the index too, so that an entry in the wrong place is noticed.
fn checksum(index: u64, entry: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&index.to_be_bytes());
    hasher.update(entry);
    hasher.finalize()
}

/// A batch, who waits for it, and whether it could be put together.
type Group = (WriteBatch, Vec<Done>, Result<(), Fault>);

struct Writer {
    db: Arc<DB>,
    queue: mpsc::Receiver<Request>,
    committed: Arc<Mutex<Option<Vec<u8>>>>,
    observe: Box<dyn Fn(Synced) + Send>,
    /// After a failed write nothing more is written: what follows would leave a hole.
    broken: Option<Fault>,
}

impl Writer {
    #[cfg(not(test))]
    fn start(self) -> Result<(), Fault> {
        let started = std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || self.run());
        started.map(drop).map_err(|error| Fault(format!("cannot start the log's thread: {error}")))
    }

    #[cfg(not(test))]
    fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let group = self.group(first);
            self.commit(group);
        }
    }

    /// The same on a simulated disk, whose time passes before the write, and between it and its confirmation.
    #[cfg(test)]
    fn start(mut self) -> Result<(), Fault> {
        crate::rt::spawn(async move {
            while let Some(first) = self.queue.recv().await {
                crate::sim::disk::seek().await;
                let group = self.group(first);
                if crate::sim::broken(crate::sim::Mutation::AckBeforeSync) {
                    let (batch, done, prepared) = group;
                    let waiting = done.len();
                    done.into_iter().for_each(|done| done(Ok(())));
                    crate::sim::disk::sync().await;
                    self.commit((batch, Vec::with_capacity(waiting), prepared));
                    self.db.synced();
                    continue;
                }
                let (batch, done, prepared) = group;
                let result = prepared.and_then(|()| self.write(batch, done.len()));
                crate::sim::disk::sync().await;
                self.db.synced();
                self.confirm(done, &result);
            }
        });
        Ok(())
    }

    /// Everything that waits already, up to a limit, shares one write and one sync.
    fn group(&mut self, first: Request) -> Group {
        let (mut batch, mut done, mut bytes) = (WriteBatch::default(), Vec::new(), 0);
        let mut next = Some(first);
        let mut prepared = Ok(());
        while let Some(request) = next {
            // Also after a failure: whoever waits has to be in `done`.
            let added = self.add(request, &mut batch, &mut done, &mut bytes);
            prepared = prepared.and(added);
            next = if bytes < GROUP_BYTES { self.queue.try_recv().ok() } else { None };
        }
        (batch, done, prepared)
    }

    fn commit(&mut self, (batch, done, prepared): Group) {
        let result = prepared.and_then(|()| self.write(batch, done.len()));
        self.confirm(done, &result);
    }

    fn confirm(&mut self, done: Vec<Done>, result: &Result<(), Fault>) {
        if let Err(fault) = result
            && self.broken.is_none()
        {
            tracing::error!(%fault, "the raft log cannot be written; this replica stops");
            self.broken = Some(fault.clone());
        }
        done.into_iter().for_each(|done| done(result.clone()));
    }

    fn add(&self, request: Request, batch: &mut WriteBatch, done: &mut Vec<Done>, bytes: &mut usize) -> Result<(), Fault> {
        let entries = family(&self.db, ENTRIES)?;
        match request {
            Request::Append { first, entries: new, done: then } => {
                for (index, entry) in (first..).zip(new) {
                    let crc = checksum(index, &entry).to_be_bytes();
                    *bytes += entry.len();
                    let mut stored = Vec::with_capacity(4 + entry.len());
                    stored.extend_from_slice(&crc);
                    stored.extend_from_slice(&entry);
                    batch.put_cf(entries, index.to_be_bytes(), stored);
                }
                done.push(then);
            }
            Request::Vote { vote, done: then } => {
                batch.put(VOTE, vote);
                done.push(then);
            }
            Request::TruncateFrom { index, done: then } => {
                #[cfg(test)]
                if crate::sim::broken(crate::sim::Mutation::KeepTruncated) {
                    done.push(then);
                    return Ok(());
                }
                batch.delete_range_cf(entries, index.to_be_bytes(), u64::MAX.to_be_bytes());
                done.push(then);
            }
            Request::Purge { upto, purged, done: then } => {
                batch.delete_range_cf(entries, 0u64.to_be_bytes(), (upto + 1).to_be_bytes());
                batch.put(PURGED, purged);
                done.push(then);
            }
        }
        Ok(())
    }

    fn write(&self, mut batch: WriteBatch, requests: usize) -> Result<(), Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        if let Some(committed) = self.committed.lock().take() {
            batch.put(COMMITTED, committed);
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let started = Instant::now();
        self.db.write_opt(batch, &options)?;
        (self.observe)(Synced { took: started.elapsed(), requests });
        Ok(())
    }
}
