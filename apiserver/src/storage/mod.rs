//! The seam to the store: keys, values and revisions, nothing of Kubernetes but the key layout.
//!
//! What is asked of a store is little, and all of it is standard etcd v3: read a key or a range (at a revision),
//! one-key transactions guarded by the key's last modification, a watch, compaction.

pub mod compactor;
pub mod encryption;
pub mod envelope;
pub mod etcd;
pub mod faces;
pub mod memory;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;

/// The prefix of every object's key.
pub const ROOT: &str = "/registry/";

/// One key as it was at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `/registry/pods/default/web`
    pub key: String,
    /// The envelope.
    pub value: Bytes,
    /// Revision of the last write: the object's resourceVersion.
    pub revision: u64,
}

/// A part of a range.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// Whether there are further keys behind the last one.
    pub more: bool,
    /// Keys in the whole range, those of this page included.
    pub count: u64,
    /// The store's revision when it answered.
    pub revision: u64,
}

/// How a guarded write ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Done, at this revision.
    Done(u64),
    /// The key was not as expected; how it is.
    Conflict(Option<Entry>),
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: String,
    /// The new value; `None`: deleted.
    pub value: Option<Bytes>,
    /// When.
    pub revision: u64,
}

/// What a watch says.
#[derive(Debug)]
pub enum Told {
    /// Changes in order of revision, and the revision up to which nothing is missing.
    Changes(Vec<Change>, u64),
    /// The start revision was compacted away: read everything again.
    Compacted,
}

/// Why the store did not do it.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// No replica answered in time; the write may or may not have happened.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The revision asked for is no longer kept.
    #[error("the store's history before this revision is compacted")]
    Compacted,
    /// The revision asked for is not there yet.
    #[error("the store has not reached this revision")]
    Future,
    /// The value is larger than the store takes.
    #[error("the store refuses the value: {0}")]
    TooLarge(String),
    /// Anything else.
    #[error("the store refuses: {0}")]
    Refused(String),
}

/// The result of a call to the store.
pub type StoreResult<T> = Result<T, StoreError>;

/// A running watch. Dropping it ends the watch.
pub struct Watch {
    /// What happened. Ends when the connection does.
    pub told: mpsc::Receiver<Told>,
    /// A message here asks the store to say how far it has come.
    pub ask_progress: mpsc::Sender<()>,
}

/// A key-value store with etcd's semantics.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The key's entry, linearizably, and the store's revision.
    async fn get(&self, key: &str) -> StoreResult<(Option<Entry>, u64)>;
    /// Up to `limit` (0: all) entries from `start` (inclusive) to `end` (exclusive), as of `revision` (0: now, linearizably).
    async fn range(&self, start: &str, end: &str, limit: u64, revision: u64) -> StoreResult<Page>;
    /// Writes `key` if its modification revision is `expected` (0: absent). With `ttl` (seconds) it goes by itself.
    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl: Option<u32>) -> StoreResult<Written>;
    /// Deletes `key` if its modification revision is `expected`.
    async fn delete(&self, key: &str, expected: u64) -> StoreResult<Written>;
    /// Everything that happens from `start_revision` on (inclusive) to keys that begin with `prefix`.
    async fn watch(&self, prefix: &str, start_revision: u64) -> StoreResult<Watch>;
    /// Forgets history before `revision`.
    async fn compact(&self, revision: u64) -> StoreResult<()>;
    /// The store's revision, linearizably.
    async fn revision(&self) -> StoreResult<u64>;
    /// Whether a value should be written again although it would not change: it is sealed with a key of yesterday.
    async fn is_stale(&self, _key: &str) -> StoreResult<bool> {
        Ok(false)
    }
}

/// The first key behind all keys with this prefix.
pub fn prefix_end(prefix: &str) -> String {
    // Prefixes end in '/', so the next character is '0' and no carry can happen.
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// `/registry/pods/` or `/registry/deployments.apps/`.
pub fn resource_prefix(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("{ROOT}{plural}/") } else { format!("{ROOT}{plural}.{group}/") }
}

/// `NAMESPACE/NAME`, or `NAME` for what is in no namespace: an object's place within its resource.
pub fn place(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The inverse of resource prefix plus place: (`pods` or `deployments.apps`, place).
pub fn split_key(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(ROOT)?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_again() {
        let key = format!("{}{}", resource_prefix("apps", "deployments"), place("default", "web"));
        assert_eq!(key, "/registry/deployments.apps/default/web");
        assert_eq!(split_key(&key), Some(("deployments.apps", "default/web")));
        assert_eq!(prefix_end("/registry/pods/"), "/registry/pods0");
    }
}
