//! Keeps the caches fed: one load of the whole key space, then one watch, resumed where it broke.
//!
//! Only when the store has compacted away what was missed is everything read again; watchers are then told 410.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_process::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use super::object::Object;
use super::{Caches, Objects, ResourceCache, resource_name};
use crate::storage::{Change, Entry, ROOT, Store, StoreError, Told, prefix_end, split_key};

/// Objects per read while loading.
const PAGE: u64 = 2000;

/// Feeds `caches` from `store` until `stop`.
pub async fn run(caches: Arc<Caches>, store: Arc<dyn Store>, stop: CancellationToken) {
    let feeding = async {
        let mut backoff = Backoff::connection();
        loop {
            match load(&caches, store.as_ref()).await {
                Ok(revision) => {
                    backoff.reset();
                    tracing::info!(revision, "state loaded from the store");
                    follow(&caches, store.as_ref(), revision).await;
                    tracing::warn!("the store compacted what this apiserver had not heard: loading again");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot load the state from the store");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    };
    stop.run_until_cancelled(feeding).await;
}

/// Reads everything at one revision into the caches.
async fn load(caches: &Caches, store: &dyn Store) -> Result<u64, StoreError> {
    let end = prefix_end(ROOT);
    let mut start = ROOT.to_owned();
    let mut revision = 0;
    let mut loaded: BTreeMap<String, Objects> = BTreeMap::new();
    loop {
        let page = store.range(&start, &end, PAGE, revision).await?;
        if revision == 0 {
            revision = page.revision;
        }
        for entry in &page.entries {
            let Some((resource, place)) = split_key(&entry.key) else { continue };
            for cache in caches.fed_by(resource) {
                match cached(&cache, entry) {
                    Ok(object) => {
                        let name = match cache.kind.map(crate::storage::faces::cached_as) {
                            Some((group, plural)) => resource_name(group, plural),
                            None => resource.to_owned(),
                        };
                        let objects = loaded.entry(name).or_default();
                        objects.insert(place.to_owned(), Arc::new(object));
                    }
                    Err(error) => tracing::error!(key = entry.key, %error, "skipping an object of the store"),
                }
            }
        }
        match page.entries.last() {
            Some(last) if page.more => start = format!("{}\0", last.key),
            _ => break,
        }
    }
    caches.replace(loaded, revision);
    caches.advance(revision);
    Ok(revision)
}

/// Follows the store from `revision` on. Returns only when something is missing for good.
async fn follow(caches: &Caches, store: &dyn Store, mut revision: u64) {
    let mut backoff = Backoff::connection();
    loop {
        let mut watch = match store.watch(ROOT, revision + 1).await {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(%error, revision, "cannot watch the store");
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
        };
        loop {
            let told = tokio::select! {
                told = watch.told.recv() => told,
                () = caches.hurry.notified() => {
                    watch.ask_progress.try_send(()).ok();
                    continue;
                }
            };
            match told {
                Some(Told::Changes(changes, progress)) => {
                    backoff.reset();
                    for change in changes {
                        // A watch that was resumed on another replica may repeat what is known.
                        if change.revision > revision {
                            apply(caches, change);
                        }
                    }
                    revision = revision.max(progress);
                    caches.advance(revision);
                }
                Some(Told::Compacted) => return,
                None => break,
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

fn cached(cache: &ResourceCache, entry: &Entry) -> Result<Object, StoreError> {
    match cache.kind {
        Some(kind) => Object::from_entry(kind, entry),
        None => Object::as_stored(entry),
    }
}

fn apply(caches: &Caches, change: Change) {
    let Some((resource, place)) = split_key(&change.key) else { return };
    let place = place.to_owned();
    let caches = caches.fed_by(resource);
    let Some(value) = change.value else {
        return caches.iter().for_each(|cache| cache.apply(place.clone(), None, change.revision));
    };
    let entry = Entry { key: change.key.clone(), value, revision: change.revision };
    for cache in caches {
        match cached(&cache, &entry) {
            Ok(object) => cache.apply(place.clone(), Some(object), change.revision),
            Err(error) => tracing::error!(key = entry.key, %error, "skipping an object of the store"),
        }
    }
}
