//! The revision of our last write to each object: until the cache shows it, nothing is decided from the cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_client::revision_of;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

/// By UID of the object. Clones share it.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<BTreeMap<String, u64>>>);

impl Written {
    /// We wrote the object, and this is what became of it.
    pub fn note(&self, meta: &ObjectMeta) {
        self.0.lock().insert(meta.uid.clone().unwrap_or_default(), revision_of(meta));
    }

    /// The object is gone.
    pub fn forget(&self, meta: &ObjectMeta) {
        self.0.lock().remove(meta.uid.as_deref().unwrap_or_default());
    }

    /// Whether the cache is behind one of our writes to these objects.
    pub fn is_ahead_of<'a>(&self, metas: impl IntoIterator<Item = &'a ObjectMeta>) -> bool {
        let mut written = self.0.lock();
        let mut behind = false;
        for meta in metas {
            let uid = meta.uid.as_deref().unwrap_or_default();
            match written.get(uid) {
                Some(revision) if *revision > revision_of(meta) => behind = true,
                Some(_) => {
                    written.remove(uid);
                }
                None => {}
            }
        }
        behind
    }
}
