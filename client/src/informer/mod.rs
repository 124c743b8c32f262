//! A kept copy of a list, and everybody who wants to hear of its changes.
//!
//! Thin: opens watches, feeds [`state::State`], waits with back-off. What an event means for the copy is decided
//! there; who still has to hear of what in `subscription.rs`.

mod cache;
pub mod state;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use balsa_api::meta::GroupVersionResource;
use balsa_process::backoff::Backoff;
use futures::StreamExt as _;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::cache::{Cache, Change, Key, key_of};
pub use self::subscription::Subscription;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::informer::cache::{IndexFn, Store};
use crate::informer::state::{Start, State, Step};
use crate::informer::subscription::Fan;
use crate::object::{Decode, Object, WatchParams, resource_of};

/// Which objects are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Empty for all namespaces, and for cluster-scoped kinds.
    pub namespace: String,
    /// As in a URL; empty for all.
    pub label_selector: String,
    /// As in a URL; empty for all.
    pub field_selector: String,
}

impl Scope {
    /// Every object of the kind.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those that a field selector matches, in all namespaces.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: selector.into(), ..Self::default() }
    }
}

/// How long a stream without any event or bookmark is believed. The apiserver sends bookmarks about every minute.
const SILENCE: Duration = Duration::from_secs(300);

/// Keeps a copy of a list up to date until its `stop` is cancelled or its last clone is gone.
pub struct Informer<K: Decode> {
    shared: Arc<Shared<K>>,
    _stop_with_last_clone: Arc<DropGuard>,
}

impl<K: Decode> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _stop_with_last_clone: self._stop_with_last_clone.clone() }
    }
}

struct Shared<K: Decode> {
    store: Arc<RwLock<Store<K>>>,
    fan: Mutex<Fan<K>>,
    synced: watch::Sender<bool>,
}

impl<K: Object> Informer<K> {
    /// Starts to follow the objects of `scope`. Must be called inside a tokio runtime.
    pub fn start(client: Client, scope: Scope, stop: CancellationToken) -> Self {
        Self::start_with(client, resource_of::<K>(), scope, None, stop)
    }

    /// Like [`Informer::start`], with an index: `index` names the index values of an object, which
    /// [`Cache::by_index`] finds it under.
    pub fn start_indexed(
        client: Client,
        scope: Scope,
        index: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
        stop: CancellationToken,
    ) -> Self {
        Self::start_with(client, resource_of::<K>(), scope, Some(Arc::new(index)), stop)
    }
}

impl Informer<crate::DynamicObject> {
    /// Follows the objects of any resource.
    pub fn start_dynamic(client: Client, resource: GroupVersionResource, scope: Scope, stop: CancellationToken) -> Self {
        Self::start_with(client, resource, scope, None, stop)
    }
}

impl<K: Decode> Informer<K> {
    /// Follows the objects of any resource as whatever `K` makes of their bodies (only their metadata, say).
    pub fn start_as(client: Client, resource: GroupVersionResource, scope: Scope, stop: CancellationToken) -> Self {
        Self::start_with(client, resource, scope, None, stop)
    }

    fn start_with(
        client: Client,
        resource: GroupVersionResource,
        scope: Scope,
        index: Option<IndexFn<K>>,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            store: Arc::new(RwLock::new(Store::new(index))),
            fan: Mutex::new(Fan::default()),
            synced: watch::Sender::new(false),
        });
        let stop = stop.child_token();
        let follow = Follow { client, resource, scope, shared: shared.clone() };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = follow.run() => {}
            }
            follow.shared.fan.lock().close();
        });
        Self { shared, _stop_with_last_clone: Arc::new(stop.drop_guard()) }
    }

    /// The copy. It may be read at any time; before [`Informer::synced`] it is incomplete.
    pub fn cache(&self) -> Cache<K> {
        Cache::new(self.shared.store.clone())
    }

    /// Every change from now on, after the present objects as additions. However slow the subscriber is, what is kept
    /// for it never exceeds the size of the list: see [`Subscription`].
    pub fn subscribe(&self) -> Subscription<K> {
        // Lock order everywhere: fan, then store.
        let mut fan = self.shared.fan.lock();
        let present = self.shared.store.read().keys();
        fan.subscribe(present, self.shared.store.clone())
    }

    /// Returns when the copy has been complete once.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Whether the copy has been complete once.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
}

struct Follow<K: Decode> {
    client: Client,
    resource: GroupVersionResource,
    scope: Scope,
    shared: Arc<Shared<K>>,
}

impl<K: Decode> Follow<K> {
    async fn run(&self) {
        let mut state = State::default();
        let mut backoff = Backoff::connection();
        loop {
            let before = state.progress();
            let ended = self.watch_once(&mut state).await;
            if state.progress() != before {
                backoff.reset();
            }
            match ended {
                Ok(()) => tracing::debug!(resource = %self.resource, "watch ended; going on"),
                Err(error) => {
                    state.failed(error.is_expired());
                    // Not existing yet, not allowed yet, not reachable: all may change by themselves.
                    tracing::info!(resource = %self.resource, %error, "watch failed; trying again");
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Watches until the stream ends.
    async fn watch_once(&self, state: &mut State) -> Result<()> {
        let mut params = WatchParams {
            label_selector: self.scope.label_selector.clone(),
            field_selector: self.scope.field_selector.clone(),
            ..WatchParams::default()
        };
        match state.start() {
            Start::Initial => params.send_initial_events = true,
            Start::After(revision) => params.resource_version = revision.to_string(),
        }
        let mut events = crate::watch::open::<K>(&self.client, &self.resource, &self.scope.namespace, &params).await?;
        loop {
            let event = match tokio::time::timeout(SILENCE, events.next()).await {
                Ok(Some(event)) => event?,
                Ok(None) => return Ok(()),
                Err(_) => return Err(Error::Unavailable(format!("nothing heard for {SILENCE:?}"))),
            };
            let step = state.event(event);
            self.apply(step);
        }
    }

    fn apply(&self, step: Step<K>) {
        let mut fan = self.shared.fan.lock();
        let mut store = self.shared.store.write();
        match step {
            Step::Nothing => {}
            Step::Set(object) => {
                let object = Arc::new(object);
                if let Some((key, old)) = store.set(object) {
                    fan.changed(key, old);
                }
            }
            Step::Remove(key) => {
                if let Some(old) = store.remove(&key) {
                    fan.changed(key, Some(old));
                }
            }
            Step::Complete(seen) => {
                for key in store.keys_not_in(&seen) {
                    if let Some(old) = store.remove(&key) {
                        fan.changed(key, Some(old));
                    }
                }
                self.shared.synced.send_replace(true);
            }
        }
    }
}
