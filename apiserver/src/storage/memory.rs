//! A store in memory with etcd's semantics: for tests of everything above the store, without a process beside them.
//!
//! It keeps every revision until compaction, so reads in the past, conflicts and compacted watches behave as in etcd.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Change, Entry, Page, Store, StoreError, StoreResult, Told, Watch, Written};

#[derive(Default)]
struct State {
    revision: u64,
    compacted: u64,
    /// Every version of every key, oldest first; `None` is a deletion.
    keys: BTreeMap<String, Vec<(u64, Option<Bytes>)>>,
    watches: Vec<(String, mpsc::Sender<Told>)>,
}

/// See the module.
pub struct MemoryStore {
    state: Mutex<State>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Mutex::new(State { revision: 1, ..State::default() }) }
    }
}

impl State {
    fn at(&self, key: &str, revision: u64) -> Option<Entry> {
        let versions = self.keys.get(key)?;
        let (written, value) = versions.iter().rev().find(|(written, _)| *written <= revision)?;
        value.clone().map(|value| Entry { key: key.to_owned(), value, revision: *written })
    }

    fn write(&mut self, key: &str, value: Option<Bytes>, expected: u64) -> Written {
        let current = self.at(key, self.revision);
        if current.as_ref().map_or(0, |entry| entry.revision) != expected {
            return Written::Conflict(current);
        }
        self.revision += 1;
        let revision = self.revision;
        self.keys.entry(key.to_owned()).or_default().push((revision, value.clone()));
        let change = Change { key: key.to_owned(), value, revision };
        self.watches.retain(|(prefix, sender)| {
            !key.starts_with(prefix.as_str())
                || sender.try_send(Told::Changes(vec![change.clone()], revision)).is_ok()
        });
        Written::Done(revision)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> StoreResult<(Option<Entry>, u64)> {
        let state = self.state.lock();
        Ok((state.at(key, state.revision), state.revision))
    }

    async fn range(&self, start: &str, end: &str, limit: u64, revision: u64) -> StoreResult<Page> {
        let state = self.state.lock();
        let at = if revision == 0 { state.revision } else { revision };
        if at > state.revision {
            return Err(StoreError::Future);
        }
        if at < state.compacted {
            return Err(StoreError::Compacted);
        }
        let mut entries: Vec<Entry> =
            state.keys.range(start.to_owned()..end.to_owned()).filter_map(|(key, _)| state.at(key, at)).collect();
        let count = entries.len() as u64;
        let more = limit > 0 && count > limit;
        if more {
            entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        Ok(Page { entries, more, count, revision: state.revision })
    }

    async fn put(&self, key: &str, value: Bytes, expected: u64, _ttl: Option<u32>) -> StoreResult<Written> {
        Ok(self.state.lock().write(key, Some(value), expected))
    }

    async fn delete(&self, key: &str, expected: u64) -> StoreResult<Written> {
        Ok(self.state.lock().write(key, None, expected))
    }

    async fn watch(&self, prefix: &str, start_revision: u64) -> StoreResult<Watch> {
        let (sender, told) = mpsc::channel(4096);
        let (ask_progress, mut asked) = mpsc::channel::<()>(1);
        let mut state = self.state.lock();
        if start_revision <= state.compacted {
            sender.try_send(Told::Compacted).ok();
            return Ok(Watch { told, ask_progress });
        }
        let mut past: Vec<Change> = Vec::new();
        for (key, versions) in state.keys.range(prefix.to_owned()..super::prefix_end(prefix)) {
            past.extend(versions.iter().filter(|(revision, _)| *revision >= start_revision).map(|(revision, value)| {
                Change { key: key.clone(), value: value.clone(), revision: *revision }
            }));
        }
        past.sort_by_key(|change| change.revision);
        sender.try_send(Told::Changes(past, state.revision)).ok();
        state.watches.push((prefix.to_owned(), sender.clone()));
        // Nothing here is asynchronous: what was told is all there is, so progress is always complete.
        let now = state.revision;
        tokio::spawn(async move {
            while asked.recv().await.is_some() {
                if sender.send(Told::Changes(Vec::new(), now)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Watch { told, ask_progress })
    }

    async fn compact(&self, revision: u64) -> StoreResult<()> {
        let mut state = self.state.lock();
        state.compacted = state.compacted.max(revision);
        Ok(())
    }

    async fn revision(&self) -> StoreResult<u64> {
        Ok(self.state.lock().revision)
    }
}
