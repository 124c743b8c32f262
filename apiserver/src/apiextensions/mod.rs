//! Custom resources in the apiserver: which kinds there are now, how their objects are shown, who writes the conditions
//! of definitions.
//!
//! [`Kinds`] follows the store: definitions are objects like others, and the kinds that they make are built anew when
//! the watch cache has heard of a change. So several apiservers agree as soon as they have heard the same, and a
//! restart forgets nothing. Objects lie in the store in their definition's storage version; the cache holds them so,
//! and [`present`] shows them in the version that was asked for.

pub mod controller;
pub mod convert;
pub mod present;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_api::apiextensions::{CustomKind, Registry};
use balsa_api::kind::{Kind as _, KindRef};
use parking_lot::RwLock;

use crate::watch_cache::{Caches, ResourceCache};

/// The group of definitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Definitions.
pub const PLURAL: &str = "customresourcedefinitions";

/// The kinds that are served: those built in, and those that definitions make.
pub struct Kinds {
    caches: Arc<Caches>,
    definitions: Option<Arc<ResourceCache>>,
    current: RwLock<Arc<State>>,
}

#[derive(Default)]
struct State {
    /// Of the definitions' cache.
    version: (u64, u64),
    registry: Arc<Registry>,
}

impl Kinds {
    /// Follows the definitions in `caches`.
    pub fn new(caches: Arc<Caches>) -> Self {
        let definitions = caches.resource(GROUP, PLURAL).cloned();
        Self { caches, definitions, current: RwLock::default() }
    }

    /// The cache of the definitions.
    pub fn definitions(&self) -> Option<&Arc<ResourceCache>> {
        self.definitions.as_ref()
    }

    /// The custom kinds, as of the newest definitions that this apiserver has heard of.
    pub fn custom(&self) -> Arc<Registry> {
        let Some(definitions) = &self.definitions else { return Arc::default() };
        let version = definitions.version();
        {
            let current = self.current.read();
            if current.version == version {
                return current.registry.clone();
            }
        }
        let mut current = self.current.write();
        if current.version == version {
            return current.registry.clone();
        }
        let snapshot = definitions.snapshot();
        let listed = snapshot.objects.values().map(|object| (object.name.as_str(), object.revision, || object.value()));
        let (registry, problems) = Registry::build(listed, &current.registry);
        problems.iter().for_each(|problem| tracing::error!(problem, "a version of a custom resource cannot be served"));
        let registry = Arc::new(registry);
        *current = Arc::new(State { version, registry: registry.clone() });
        drop(current);
        self.follow(&snapshot.objects);
        registry
    }

    /// Caches of resources without a definition are not kept.
    fn follow(&self, definitions: &crate::watch_cache::Objects) {
        self.caches.drop_custom(|name| definitions.contains_key(name));
    }

    /// A kind as URLs name it.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        match balsa_api::kinds::find(group, version, plural) {
            Some(kind) => Some(kind.into()),
            // Groups of custom resources have a dot.
            None if group.contains('.') => self.custom().find(group, version, plural),
            None => None,
        }
    }

    /// A kind as objects name it.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<KindRef> {
        match balsa_api::kinds::find_kind(group, version, kind) {
            Some(kind) => Some(kind.into()),
            None => self.custom().find_kind(group, version, kind),
        }
    }

    /// Every kind, built in or not.
    pub fn all(&self) -> Vec<KindRef> {
        let built_in = balsa_api::kinds::all().iter().map(|kind| KindRef::BuiltIn(*kind));
        built_in.chain(self.custom().all().cloned().map(KindRef::Custom)).collect()
    }

    /// Whether this kind is still what is served under its name.
    pub fn is_current(&self, kind: &CustomKind) -> bool {
        let names = kind.names();
        let now = self.custom().find(names.group, names.version, names.plural);
        now.is_some_and(|now| now.custom().is_some_and(|now| now.serial == kind.serial))
    }

    /// Custom kinds by group and version.
    pub fn custom_versions(&self) -> BTreeMap<(String, String), Vec<Arc<CustomKind>>> {
        let mut out: BTreeMap<(String, String), Vec<Arc<CustomKind>>> = BTreeMap::new();
        for kind in self.custom().all() {
            let names = kind.names();
            out.entry((names.group.to_owned(), names.version.to_owned())).or_default().push(kind.clone());
        }
        out
    }
}
