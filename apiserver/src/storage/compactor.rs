//! History is kept for five minutes: one of the apiservers compacts the store, whichever wrote a shared key first.
//!
//! That is what makes continue tokens and old watch revisions expire, as clients of Kubernetes expect.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Store, StoreError, Written};

/// The key on which apiservers agree whose turn it is. Its value is the revision of the round before.
pub const KEY: &str = "/registry/balsa-compaction/round";

/// How long history is kept: between one and two rounds.
pub const EVERY: Duration = Duration::from_secs(300);

/// Compacts every `every` until `stop`.
pub async fn run(store: Arc<dyn Store>, every: Duration, stop: CancellationToken) {
    // What this apiserver knows of the key: its modification revision at the last look.
    let mut seen = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match round(store.as_ref(), seen).await {
            Ok(next) => seen = next,
            Err(error) => tracing::warn!(%error, "cannot compact the store's history"),
        }
    }
}

/// One round: whoever finds the key unchanged since the last look writes it and compacts to the revision of that look.
/// Returns the key's revision for the next round.
async fn round(store: &dyn Store, seen: u64) -> Result<u64, StoreError> {
    match store.put(KEY, Bytes::from(seen.to_string()), seen, None).await? {
        Written::Done(revision) => {
            if seen > 0 {
                store.compact(seen).await?;
                tracing::debug!(revision = seen, "history compacted");
            }
            Ok(revision)
        }
        Written::Conflict(current) => Ok(current.map_or(0, |entry| entry.revision)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStore;

    #[tokio::test]
    async fn the_second_round_forgets_what_was_before_the_first() {
        let store = MemoryStore::default();
        let first = round(&store, 0).await.unwrap();
        assert!(store.range("/a/", "/a0", 0, 1).await.is_ok());
        let second = round(&store, first).await.unwrap();
        assert!(second > first);
        assert!(matches!(store.range("/a/", "/a0", 0, first - 1).await, Err(StoreError::Compacted)));
        // Another apiserver that had not seen the second round does nothing.
        assert_eq!(round(&store, first).await.unwrap(), second);
    }
}
