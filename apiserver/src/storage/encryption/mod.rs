//! Encryption at rest: what a store keeps of chosen resources cannot be read without the keys of
//! `--encryption-provider-config`, a Kubernetes EncryptionConfiguration.
//!
//! | what | where |
//! |---|---|
//! | which resources, which keys (pure) | [`config`] |
//! | how a value is sealed and opened (pure but for nonces) | [`transform`] |
//! | the store with it (here) | [`EncryptedStore`] |
//!
//! The first provider of a resource writes; all of them read, so keys are changed by putting a new one first, and old
//! values are rewritten by any write of their objects, one that changes nothing included. Values and prefixes are those
//! of Kubernetes (staging/src/k8s.io/apiserver/pkg/storage/value): a kube-apiserver with the same file opens them.

pub mod config;
pub mod transform;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Change, Entry, Page, Store, StoreError, StoreResult, Told, Watch, Written};
use config::Encryption;

/// Pieces of a watch that wait to be opened.
const QUEUE: usize = 64;

/// A store whose values of chosen resources are sealed.
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    encryption: Arc<Encryption>,
}

impl EncryptedStore {
    /// Over another store.
    pub fn new(inner: Arc<dyn Store>, encryption: Encryption) -> Self {
        Self { inner, encryption: Arc::new(encryption) }
    }
}

impl Encryption {
    fn open_entry(&self, mut entry: Entry) -> StoreResult<Entry> {
        entry.value = self.open(&entry.key, entry.value)?;
        Ok(entry)
    }

    /// The value that was put under a key.
    fn open(&self, key: &str, value: Bytes) -> StoreResult<Bytes> {
        let Some(transformers) = self.of_key(key) else { return Ok(value) };
        transformers.open(key, value).map_err(|problem| StoreError::Refused(format!("{key} cannot be decrypted: {problem}")))
    }

    fn open_change(&self, mut change: Change) -> Option<Change> {
        let Some(value) = change.value.take() else { return Some(change) };
        match self.open(&change.key, value) {
            Ok(value) => {
                change.value = Some(value);
                Some(change)
            }
            // As an object that cannot be decoded: the others are still told.
            Err(error) => {
                tracing::error!(key = change.key, %error, "skipping a value of the store");
                None
            }
        }
    }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn get(&self, key: &str) -> StoreResult<(Option<Entry>, u64)> {
        let (entry, revision) = self.inner.get(key).await?;
        Ok((entry.map(|entry| self.encryption.open_entry(entry)).transpose()?, revision))
    }

    async fn range(&self, start: &str, end: &str, limit: u64, revision: u64) -> StoreResult<Page> {
        let mut page = self.inner.range(start, end, limit, revision).await?;
        let entries = std::mem::take(&mut page.entries);
        page.entries = entries.into_iter().map(|entry| self.encryption.open_entry(entry)).collect::<Result<_, _>>()?;
        Ok(page)
    }

    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl: Option<u32>) -> StoreResult<Written> {
        let value = match self.encryption.of_key(key) {
            Some(transformers) => transformers.seal(key, &value).map_err(StoreError::Refused)?,
            None => value,
        };
        match self.inner.put(key, value, expected, ttl).await? {
            Written::Conflict(Some(entry)) => Ok(Written::Conflict(Some(self.encryption.open_entry(entry)?))),
            other => Ok(other),
        }
    }

    async fn delete(&self, key: &str, expected: u64) -> StoreResult<Written> {
        match self.inner.delete(key, expected).await? {
            Written::Conflict(Some(entry)) => Ok(Written::Conflict(Some(self.encryption.open_entry(entry)?))),
            other => Ok(other),
        }
    }

    async fn watch(&self, prefix: &str, start_revision: u64) -> StoreResult<Watch> {
        let Watch { mut told, ask_progress } = self.inner.watch(prefix, start_revision).await?;
        let (sender, opened) = mpsc::channel(QUEUE);
        let encryption = self.encryption.clone();
        tokio::spawn(async move {
            loop {
                let told = tokio::select! {
                    told = told.recv() => told,
                    () = sender.closed() => return,
                };
                let told = match told {
                    Some(Told::Changes(changes, progress)) => {
                        Told::Changes(changes.into_iter().filter_map(|change| encryption.open_change(change)).collect(), progress)
                    }
                    Some(other) => other,
                    None => return,
                };
                if sender.send(told).await.is_err() {
                    return;
                }
            }
        });
        Ok(Watch { told: opened, ask_progress })
    }

    async fn compact(&self, revision: u64) -> StoreResult<()> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> StoreResult<u64> {
        self.inner.revision().await
    }

    async fn is_stale(&self, key: &str) -> StoreResult<bool> {
        let Some(transformers) = self.encryption.of_key(key) else { return Ok(false) };
        let (entry, _) = self.inner.get(key).await?;
        Ok(entry.is_some_and(|entry| !transformers.is_current(&entry.value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStore;

    fn keys(first: &str, second: &str) -> Encryption {
        let key = |name: &str, byte: &str| format!("{{name: {name}, secret: {}}}", byte.repeat(43) + "=");
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  \
             - aesgcm: {{keys: [{}, {}]}}\n  - identity: {{}}\n",
            key(first, if first == "a" { "A" } else { "E" }),
            key(second, if second == "a" { "A" } else { "E" })
        );
        Encryption::parse(text.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn what_the_store_keeps_cannot_be_read_and_keys_can_be_changed() {
        let memory = Arc::new(MemoryStore::default());
        let (secret, map) = ("/registry/secrets/d/s", "/registry/configmaps/d/m");
        memory.put("/registry/secrets/d/old", Bytes::from_static(b"plain"), 0, None).await.unwrap();
        let store = EncryptedStore::new(memory.clone(), keys("a", "b"));
        let mut watch = store.watch("/registry/", 1).await.unwrap();
        for key in [secret, map] {
            store.put(key, Bytes::from_static(b"hidden"), 0, None).await.unwrap();
        }
        let raw = memory.get(secret).await.unwrap().0.unwrap().value;
        assert!(raw.starts_with(b"k8s:enc:aesgcm:v1:a:") && !raw.windows(6).any(|part| part == b"hidden"));
        assert_eq!(memory.get(map).await.unwrap().0.unwrap().value, "hidden");
        let page = store.range("/registry/", "/registry0", 0, 0).await.unwrap();
        let values: Vec<&[u8]> = page.entries.iter().map(|entry| entry.value.as_ref()).collect();
        assert_eq!(values, [b"hidden".as_slice(), b"plain", b"hidden"]);
        let mut told = 0;
        while told < 3 {
            let Some(Told::Changes(changes, _)) = watch.told.recv().await else { panic!() };
            told += changes.iter().filter(|change| change.value.as_deref().is_some_and(|value| value != b"hidden" || told < 3)).count();
        }
        let Written::Conflict(Some(entry)) = store.put(secret, Bytes::new(), 0, None).await.unwrap() else { panic!() };
        assert_eq!(entry.value, "hidden");

        let turned = EncryptedStore::new(memory.clone(), keys("b", "a"));
        assert_eq!(turned.get(secret).await.unwrap().0.unwrap().value, "hidden");
        assert!(turned.is_stale(secret).await.unwrap() && turned.is_stale("/registry/secrets/d/old").await.unwrap());
        assert!(!store.is_stale(secret).await.unwrap() && !turned.is_stale(map).await.unwrap());
        turned.put(secret, Bytes::from_static(b"hidden"), entry.revision, None).await.unwrap();
        assert!(memory.get(secret).await.unwrap().0.unwrap().value.starts_with(b"k8s:enc:aesgcm:v1:b:"));
        // A value that was moved to another object's place is no longer believed.
        memory.put("/registry/secrets/d/moved", raw, 0, None).await.unwrap();
        assert!(store.get("/registry/secrets/d/moved").await.is_err());
    }
}
