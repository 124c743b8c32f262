//! The cluster's state as this apiserver has heard it: per resource the present objects and the recent events.
//!
//! One watch on the whole key space feeds all resources ([`feed`]), so that all of them are complete up to one
//! common revision. Objects are decoded once, for their labels and selectable fields, and encoded once. A watcher
//! holds no queue: it reads the shared window from its own position, and is cut off when that has fallen out.

pub mod feed;
pub mod object;
pub mod selection;
pub mod watcher;
pub mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_api::kind::Kind;
use imbl::OrdMap;
use parking_lot::RwLock;
use tokio::sync::watch;

use object::Object;
use window::{Event, TooOld, Window};

/// Events kept per resource.
const WINDOW: usize = 8192;

/// Objects by place (`NAMESPACE/NAME`), in the store's key order.
pub type Objects = OrdMap<String, Arc<Object>>;

/// One resource's present state and recent events.
pub struct ResourceCache {
    /// The kind whose objects these are; `None`: a custom resource's, as they are stored.
    pub kind: Option<&'static dyn Kind>,
    state: RwLock<State>,
    /// The revision of the newest event; wakes the watchers.
    changed: watch::Sender<u64>,
    progress: watch::Receiver<u64>,
}

struct State {
    objects: Objects,
    window: Window,
    /// Revision of the newest event or of the load.
    revision: u64,
    /// Counts reloads: a watcher of an earlier load missed something.
    generation: u64,
}

/// The state of a resource at one revision.
#[derive(Clone)]
pub struct Snapshot {
    /// All objects.
    pub objects: Objects,
    /// The revision at which this was the state.
    pub revision: u64,
    /// The load it belongs to.
    pub generation: u64,
}

impl ResourceCache {
    fn new(kind: Option<&'static dyn Kind>, progress: watch::Receiver<u64>, since: u64) -> Self {
        Self {
            kind,
            state: RwLock::new(State {
                objects: Objects::new(),
                window: Window::new(WINDOW, since),
                revision: since,
                generation: 0,
            }),
            changed: watch::channel(0).0,
            progress,
        }
    }

    /// The present state.
    pub fn snapshot(&self) -> Snapshot {
        // Read before the lock is taken: everything up to there has been applied.
        let progress = *self.progress.borrow();
        let state = self.state.read();
        Snapshot {
            objects: state.objects.clone(),
            revision: state.revision.max(progress),
            generation: state.generation,
        }
    }

    /// One object, as this apiserver last heard of it.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(&crate::storage::place(namespace, name)).cloned()
    }

    /// All objects of a namespace; of all namespaces for an empty one.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Object>> {
        select_namespace(&self.snapshot().objects, namespace).map(|(_, object)| object.clone()).collect()
    }

    /// Events after `revision`, and whether the cache was reloaded since `generation`.
    fn events_after(&self, revision: u64, generation: u64, max: usize) -> Result<Vec<Arc<Event>>, TooOld> {
        let state = self.state.read();
        if state.generation != generation {
            return Err(TooOld { oldest: state.revision });
        }
        state.window.after(revision, max)
    }

    /// Tells of changes: the revision of the newest one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes whenever the resource does.
    pub fn version(&self) -> (u64, u64) {
        let state = self.state.read();
        (state.generation, state.revision)
    }

    fn generation(&self) -> u64 {
        self.state.read().generation
    }

    fn replace(&self, objects: Objects, revision: u64) {
        let mut state = self.state.write();
        state.objects = objects;
        state.window = Window::new(WINDOW, revision);
        state.revision = revision;
        state.generation += 1;
        drop(state);
        self.changed.send_replace(revision);
    }

    /// Applies one change. `None`: deletion.
    fn apply(&self, place: String, object: Option<Object>, revision: u64) {
        let mut state = self.state.write();
        let event = match object {
            Some(object) => {
                let object = Arc::new(object);
                let previous = state.objects.insert(place, object.clone());
                Event { revision, object, previous, deleted: false }
            }
            None => {
                let Some(previous) = state.objects.remove(&place) else { return };
                Event { revision, object: Arc::new(previous.at(revision)), previous: Some(previous), deleted: true }
            }
        };
        state.window.push(Arc::new(event));
        state.revision = revision;
        drop(state);
        self.changed.send_replace(revision);
    }
}

/// The part of `objects` that lies in `namespace`; all of it for an empty one.
pub fn select_namespace<'a>(
    objects: &'a Objects,
    namespace: &str,
) -> Box<dyn Iterator<Item = (&'a String, &'a Arc<Object>)> + Send + 'a> {
    if namespace.is_empty() {
        Box::new(objects.iter())
    } else {
        Box::new(objects.range(format!("{namespace}/")..format!("{namespace}0")))
    }
}

/// All resources.
pub struct Caches {
    /// By `plural` or `plural.group`.
    resources: BTreeMap<String, Arc<ResourceCache>>,
    /// Those of custom resources, which come and go.
    custom: RwLock<Custom>,
    /// The revision up to which all resources are complete; 0: not loaded yet.
    progress: watch::Sender<u64>,
    /// Wakes the feeder to ask the store how far it is.
    pub(crate) hurry: tokio::sync::Notify,
}

/// Caches of custom resources. They are made when first asked for or when their first object is heard of.
#[derive(Default)]
struct Custom {
    by_name: BTreeMap<String, Arc<ResourceCache>>,
    /// Up to here nothing is known of what a cache made now has missed: the load, or the last cache that was dropped.
    since: u64,
}

/// A resource's name within the key space.
pub fn resource_name(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

impl Caches {
    /// Empty caches for these kinds.
    pub fn new(kinds: &[&'static dyn Kind]) -> Arc<Self> {
        let (progress, receiver) = watch::channel(0);
        let resources = kinds
            .iter()
            .map(|kind| {
                let (group, plural) = crate::storage::faces::cached_as(*kind);
                let cache = ResourceCache::new(Some(*kind), receiver.clone(), 0);
                (resource_name(group, plural), Arc::new(cache))
            })
            .collect();
        Arc::new(Self { resources, custom: RwLock::default(), progress, hurry: tokio::sync::Notify::new() })
    }

    /// A resource's cache.
    pub fn resource(&self, group: &str, plural: &str) -> Option<&Arc<ResourceCache>> {
        self.resources.get(&resource_name(group, plural))
    }

    /// The cache of a custom resource.
    pub fn custom(&self, group: &str, plural: &str) -> Arc<ResourceCache> {
        self.custom_named(&resource_name(group, plural))
    }

    fn custom_named(&self, name: &str) -> Arc<ResourceCache> {
        if let Some(cache) = self.custom.read().by_name.get(name) {
            return cache.clone();
        }
        let mut custom = self.custom.write();
        let since = custom.since;
        let fresh = || Arc::new(ResourceCache::new(None, self.progress.subscribe(), since));
        custom.by_name.entry(name.to_owned()).or_insert_with(fresh).clone()
    }

    /// Drops the caches of custom resources that are no more and of which nothing is left.
    pub fn drop_custom(&self, is_served: impl Fn(&str) -> bool) {
        let mut custom = self.custom.write();
        let before = custom.by_name.len();
        custom.by_name.retain(|name, cache| is_served(name) || !cache.state.read().objects.is_empty());
        if custom.by_name.len() < before {
            custom.since = custom.since.max(self.progress());
        }
    }

    /// The caches that show what the store keeps under a resource name.
    fn fed_by(&self, resource: &str) -> Vec<Arc<ResourceCache>> {
        let faces = crate::storage::faces::shown_as(resource);
        if !faces.is_empty() {
            return faces.iter().filter_map(|name| self.resources.get(*name)).cloned().collect();
        }
        match self.resources.get(resource) {
            Some(cache) => vec![cache.clone()],
            // Custom resources always have a group.
            None if resource.contains('.') => vec![self.custom_named(resource)],
            None => Vec::new(),
        }
    }

    /// Takes over a whole load.
    fn replace(&self, mut loaded: BTreeMap<String, Objects>, revision: u64) {
        for (name, cache) in &self.resources {
            cache.replace(loaded.remove(name).unwrap_or_default(), revision);
        }
        self.custom.write().since = revision;
        let known: Vec<String> = self.custom.read().by_name.keys().cloned().collect();
        for name in known {
            self.custom_named(&name).replace(loaded.remove(&name).unwrap_or_default(), revision);
        }
        for (name, objects) in loaded {
            self.custom_named(&name).replace(objects, revision);
        }
    }

    /// The revision up to which everything is known.
    pub fn progress(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Whether the first load is through.
    pub fn is_loaded(&self) -> bool {
        self.progress() > 0
    }

    /// Waits until everything up to `revision` is known. False: not within `deadline`.
    pub async fn wait_for(&self, revision: u64, deadline: Duration) -> bool {
        let mut receiver = self.progress.subscribe();
        let reached = async {
            loop {
                if *receiver.borrow_and_update() >= revision {
                    return;
                }
                self.hurry.notify_one();
                // Asked again in a while: an answer of the store may be lost with its connection.
                let changed = tokio::time::timeout(Duration::from_millis(100), receiver.changed()).await;
                if let Ok(Err(_)) = changed {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(deadline, reached).await.is_ok()
    }

    fn advance(&self, revision: u64) {
        self.progress.send_if_modified(|progress| {
            let further = revision > *progress;
            if further {
                *progress = revision;
            }
            further
        });
    }
}
