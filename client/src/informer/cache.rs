//! The copy itself: objects by key, by namespace and by one optional index.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::RwLock;

use crate::object::{Decode, revision_of};

/// `NAMESPACE/NAME`; `/NAME` for cluster-scoped objects.
pub type Key = Arc<str>;

/// The key of the object that has this metadata.
pub fn key_of(meta: &ObjectMeta) -> Key {
    key(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

fn key(namespace: &str, name: &str) -> Key {
    format!("{namespace}/{name}").into()
}

/// A change of one object, as one subscriber sees it: `old` is what it was told last.
///
/// Not both are `None`. With both set, the object may have been deleted and created again in between: compare UIDs
/// where that matters.
#[derive(Debug, Clone)]
pub struct Change<K> {
    /// Before; `None` where the object is new to the subscriber.
    pub old: Option<Arc<K>>,
    /// After; `None` where the object is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object as it is, or as it was last.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

pub(super) type IndexFn<K> = Arc<dyn Fn(&K) -> Vec<String> + Send + Sync>;

pub(super) struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    index: Option<IndexFn<K>>,
    indexed: BTreeMap<String, BTreeSet<Key>>,
}

impl<K: Decode> Store<K> {
    pub(super) fn new(index: Option<IndexFn<K>>) -> Self {
        Self { objects: BTreeMap::new(), index, indexed: BTreeMap::new() }
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    pub(super) fn keys_not_in(&self, seen: &BTreeSet<Key>) -> Vec<Key> {
        self.objects.keys().filter(|key| !seen.contains(*key)).cloned().collect()
    }

    /// `None` where nothing changed: the same object at the same revision.
    pub(super) fn set(&mut self, object: Arc<K>) -> Option<(Key, Option<Arc<K>>)> {
        let key = key_of(object.meta());
        let revision = revision_of(object.meta());
        if let Some(old) = self.objects.get(&key)
            && revision != 0
            && revision_of(old.meta()) == revision
            && old.meta().uid == object.meta().uid
        {
            return None;
        }
        let old = self.objects.insert(key.clone(), object.clone());
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        if let Some(index) = &self.index {
            for value in index(&object) {
                self.indexed.entry(value).or_default().insert(key.clone());
            }
        }
        Some((key, old))
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        self.unindex(key, &old);
        Some(old)
    }

    fn unindex(&mut self, key: &Key, old: &K) {
        let Some(index) = &self.index else { return };
        for value in index(old) {
            if let Some(keys) = self.indexed.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.indexed.remove(&value);
                }
            }
        }
    }
}

/// A view of the copy: always the present state. Cheap to clone.
pub struct Cache<K> {
    store: Arc<RwLock<Store<K>>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone() }
    }
}

impl<K: Decode> Cache<K> {
    pub(super) fn new(store: Arc<RwLock<Store<K>>>) -> Self {
        Self { store }
    }

    /// One object; `ns` is empty for cluster-scoped kinds.
    pub fn get(&self, ns: &str, name: &str) -> Option<Arc<K>> {
        self.store.read().get(&key(ns, name)).cloned()
    }

    /// One object by its key.
    pub fn get_key(&self, key: &str) -> Option<Arc<K>> {
        self.store.read().get(key).cloned()
    }

    /// All objects, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.store.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, in the order of their names.
    pub fn by_namespace(&self, ns: &str) -> Vec<Arc<K>> {
        let (from, to) = (format!("{ns}/"), format!("{ns}0")); // '0' follows '/'
        let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
        self.store.read().objects.range::<str, _>(range).map(|(_, object)| object.clone()).collect()
    }

    /// The objects that the informer's index function put under `value`, in the order of their keys.
    pub fn by_index(&self, value: &str) -> Vec<Arc<K>> {
        let store = self.store.read();
        let Some(keys) = store.indexed.get(value) else { return Vec::new() };
        keys.iter().filter_map(|key| store.objects.get(key)).cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.store.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
