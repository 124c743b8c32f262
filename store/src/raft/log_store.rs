//! openraft's view of the log: recent entries in memory, all of them on disk.
//!
//! An entry can be read as soon as it is appended, synced or not: replication does not wait for our own disk. The
//! part that is kept in memory is bounded; what is not yet synced is always kept.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use balsa_proto::raft as wire;
use bytes::Bytes;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use prost::Message as _;

use super::{Entry, LogId, TypeConfig, Vote, codec};
use crate::disk::log::LogDisk;
use crate::disk::state::State;
use crate::error::Fault;

/// Entries and bytes that are kept in memory after they are synced.
const KEPT_ENTRIES: usize = 8_192;
const KEPT_BYTES: usize = 32 << 20;
/// Entries and bytes that one read returns at most.
const READ_ENTRIES: u64 = 1_024;
const READ_BYTES: usize = 4 << 20;

/// The log; cheap to clone.
#[derive(Clone)]
pub struct LogStore {
    disk: LogDisk,
    state: State,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    /// Consecutive, the newest at the back; empty or ending at `last`.
    tail: VecDeque<(Entry, usize)>,
    bytes: usize,
    synced: u64,
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
}

impl Memory {
    fn trim(&mut self) {
        while let Some((entry, size)) = self.tail.front() {
            let over = self.tail.len() > KEPT_ENTRIES || self.bytes > KEPT_BYTES;
            if !over || entry.index() > self.synced {
                break;
            }
            self.bytes -= size;
            self.tail.pop_front();
        }
    }

    /// The entries `from..to` if the memory holds the first of them.
    fn get(&self, from: u64, to: u64) -> Option<Vec<Entry>> {
        let first = self.tail.front()?.0.index();
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        if skip >= self.tail.len() {
            return None;
        }
        let mut bytes = 0;
        let wanted = self.tail.iter().skip(skip).take_while(|(entry, _)| entry.index() < to);
        let limited = wanted.take_while(|(_, size)| {
            let fits = bytes == 0 || bytes + size <= READ_BYTES;
            bytes += size;
            fits
        });
        Some(limited.map(|(entry, _)| entry.clone()).collect())
    }
}

impl LogStore {
    /// The log on `disk`; `state` is asked to flush before entries are purged.
    pub fn open(disk: LogDisk, state: State) -> Result<Self, Fault> {
        let purged = disk.purged()?.map(|stored| decode_log_id(&stored)).transpose()?;
        let (mut last, mut synced) = (purged, purged.map_or(0, |id| id.index()));
        if let Some((first, newest)) = disk.bounds()? {
            let hole = purged.map_or(first > 0, |id| first > id.index() + 1);
            if hole {
                return Err(Fault(format!("the raft log begins at {first} but was purged only up to {purged:?}")));
            }
            if let Some(entry) = disk.read(newest, newest + 1)?.pop() {
                last = Some(decode_entry(entry)?.log_id());
                synced = newest;
            }
        }
        let vote = disk.vote()?.map(|stored| codec::from_json(&stored)).transpose()?;
        let memory = Memory { synced, purged, last, vote, ..Memory::default() };
        Ok(Self { disk, state, memory: Arc::new(Mutex::new(memory)) })
    }

    fn read(&self, from: u64, to: u64) -> Result<Vec<Entry>, Fault> {
        if let Some(entries) = self.memory.lock().get(from, to) {
            return Ok(entries);
        }
        self.disk.read(from, to)?.into_iter().map(decode_entry).collect()
    }
}

fn encode_log_id(id: &LogId) -> Vec<u8> {
    codec::wire_log_id(id).encode_to_vec()
}

fn decode_log_id(stored: &[u8]) -> Result<LogId, Fault> {
    let id = wire::LogId::decode(stored).map_err(|error| Fault(format!("a malformed log id: {error}")))?;
    Ok(codec::from_wire_log_id(id))
}

fn encode_entry(entry: &Entry) -> Result<Bytes, Fault> {
    Ok(codec::wire_entry(entry)?.encode_to_vec().into())
}

fn decode_entry(stored: Bytes) -> Result<Entry, Fault> {
    let entry = wire::Entry::decode(stored).map_err(|error| Fault(format!("a malformed log entry: {error}")))?;
    codec::from_wire_entry(entry)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => self.memory.lock().last.map_or(0, |id| id.index() + 1),
        };
        let mut entries = Vec::new();
        let mut next = from;
        while next < to {
            let some = self.read(next, to.min(next + READ_ENTRIES))?;
            if some.is_empty() {
                break;
            }
            next += some.len() as u64;
            entries.extend(some);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        Ok(self.read(start, end.min(start + READ_ENTRIES))?)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.memory.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        #[cfg(test)]
        if !vote.committed && crate::sim::broken(crate::sim::Mutation::LoseVote) {
            self.memory.lock().vote = Some(*vote);
            return Ok(());
        }
        self.disk.save_vote(codec::to_json(vote)?).await?;
        self.memory.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(id) = committed {
            self.disk.save_committed(encode_log_id(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let stored = self.disk.committed()?.map(|stored| decode_log_id(&stored)).transpose()?;
        // Noted with entries that a crash cut off, it would point past the log.
        let last = self.memory.lock().last;
        Ok(stored.min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut first, mut last, mut encoded) = (None, 0, Vec::new());
        {
            let mut memory = self.memory.lock();
            for entry in entries {
                let bytes = encode_entry(&entry)?;
                last = entry.index();
                first.get_or_insert(last);
                memory.last = Some(entry.log_id());
                memory.bytes += bytes.len();
                memory.tail.push_back((entry, bytes.len()));
                encoded.push(bytes);
            }
        }
        let Some(first) = first else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let memory = self.memory.clone();
        let done = Box::new(move |result: Result<(), Fault>| {
            if result.is_ok() {
                let mut memory = memory.lock();
                memory.synced = last;
                memory.trim();
            }
            callback.io_completed(result.map_err(io::Error::from));
        });
        Ok(self.disk.append(first, encoded, done).await?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index() + 1);
        self.disk.truncate_from(from).await?;
        let mut memory = self.memory.lock();
        while let Some((_, size)) = memory.tail.pop_back_if(|(entry, _)| entry.index() >= from) {
            memory.bytes -= size;
        }
        memory.synced = memory.synced.min(from.saturating_sub(1));
        memory.last = last_log_id.max(memory.purged);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        // The rule that makes the unlogged state safe: an entry leaves the log only when the state has it on disk.
        #[cfg(test)]
        let careless = crate::sim::broken(crate::sim::Mutation::PurgeUnflushed);
        #[cfg(not(test))]
        let careless = false;
        if !careless && self.state.flushed_index() < log_id.index() {
            let state = self.state.clone();
            let flushed = crate::rt::blocking(move || {
                let applied = super::state_machine::applied_of(&state)?.map_or(0, |id| id.index());
                state.flush(applied)
            });
            flushed.await??;
            if self.state.flushed_index() < log_id.index() {
                return Err(io::Error::other("asked to purge entries that are not applied"));
            }
        }
        self.disk.purge(log_id.index(), encode_log_id(&log_id)).await?;
        let mut memory = self.memory.lock();
        while let Some((_, size)) = memory.tail.pop_front_if(|(entry, _)| entry.index() <= log_id.index()) {
            memory.bytes -= size;
        }
        memory.purged = memory.purged.max(Some(log_id));
        memory.last = memory.last.max(Some(log_id));
        memory.synced = memory.synced.max(log_id.index());
        Ok(())
    }
}
