//! Who still has to hear of what.
//!
//! Decides how changes are kept for a slow subscriber: per object, what it was told last, and that there is
//! something newer. A subscriber that lags sees fewer, larger changes, never a gap and never an unbounded queue;
//! there is nothing like a lost event that it would have to recover from.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, RwLock};

use crate::informer::cache::{Change, Key, Store};
use crate::object::Decode;

struct Pending<K> {
    /// Keys in the order in which they first changed since they were last delivered.
    order: VecDeque<Key>,
    /// What the subscriber was told last, for each of them.
    told: BTreeMap<Key, Option<Arc<K>>>,
    waker: Option<Waker>,
    closed: bool,
}

impl<K> Pending<K> {
    fn mark(&mut self, key: Key, old: Option<Arc<K>>) {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.told.entry(key.clone()) {
            entry.insert(old);
            self.order.push_back(key);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// All subscribers of one informer.
pub(super) struct Fan<K> {
    subscribers: Vec<Weak<Mutex<Pending<K>>>>,
    closed: bool,
}

impl<K> Default for Fan<K> {
    fn default() -> Self {
        Self { subscribers: Vec::new(), closed: false }
    }
}

impl<K: Decode> Fan<K> {
    pub(super) fn subscribe(&mut self, present: Vec<Key>, store: Arc<RwLock<Store<K>>>) -> Subscription<K> {
        let mut pending =
            Pending { order: VecDeque::new(), told: BTreeMap::new(), waker: None, closed: self.closed };
        for key in present {
            pending.mark(key, None);
        }
        let pending = Arc::new(Mutex::new(pending));
        self.subscribers.push(Arc::downgrade(&pending));
        Subscription { pending, store }
    }

    pub(super) fn changed(&mut self, key: Key, old: Option<Arc<K>>) {
        self.subscribers.retain(|subscriber| {
            let Some(pending) = subscriber.upgrade() else { return false };
            pending.lock().mark(key.clone(), old.clone());
            true
        });
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        for pending in self.subscribers.iter().filter_map(Weak::upgrade) {
            let mut pending = pending.lock();
            pending.closed = true;
            if let Some(waker) = pending.waker.take() {
                waker.wake();
            }
        }
    }
}

/// The changes that one subscriber has not heard of yet: at most one per object.
///
/// Several changes of one object between two deliveries are one [`Change`], from what the subscriber knew to what is
/// so now; an object that came and went unseen is no change at all. Also a [`futures::Stream`].
pub struct Subscription<K> {
    pending: Arc<Mutex<Pending<K>>>,
    store: Arc<RwLock<Store<K>>>,
}

impl<K: Decode> Subscription<K> {
    /// The next change; `None` when the informer has stopped and everything was delivered.
    pub async fn recv(&mut self) -> Option<Change<K>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// The next change, if there is one now.
    pub fn try_recv(&mut self) -> Option<Change<K>> {
        // Lock order everywhere: store, then pending. Both together, so that what is delivered here is exactly what
        // a later change will name as the old state.
        let store = self.store.read();
        let mut pending = self.pending.lock();
        loop {
            let key = pending.order.pop_front()?;
            let old = pending.told.remove(&key).flatten();
            let new = store.get(&key).cloned();
            match (&old, &new) {
                (None, None) => {}
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
                _ => return Some(Change { old, new }),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Change<K>>> {
        loop {
            if let Some(change) = self.try_recv() {
                return Poll::Ready(Some(change));
            }
            let mut pending = self.pending.lock();
            if !pending.order.is_empty() {
                continue;
            }
            if pending.closed {
                return Poll::Ready(None);
            }
            pending.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
    }
}

impl<K: Decode> futures::Stream for Subscription<K> {
    type Item = Change<K>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change<K>>> {
        self.get_mut().poll(context)
    }
}
