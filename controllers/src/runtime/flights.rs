//! The unconfirmed writes of every owner of one controller, behind a lock. What they mean is in `common::in_flight`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use crate::common::in_flight::InFlight;
use crate::common::owners;

/// By UID of the owner. Clones share it.
#[derive(Clone, Default)]
pub struct Flights {
    by_owner: Arc<Mutex<BTreeMap<String, InFlight>>>,
}

impl Flights {
    /// We created `object` for `owner`.
    pub fn created(&self, owner: &str, object: &ObjectMeta, now: Timestamp) {
        let (uid, name) = (object.uid.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default());
        self.by_owner.lock().entry(owner.to_owned()).or_default().created(uid, name, now);
    }

    /// We asked for the deletion of an object of `owner`.
    pub fn deleted(&self, owner: &str, uid: &str, now: Timestamp) {
        self.by_owner.lock().entry(owner.to_owned()).or_default().deleted(uid, now);
    }

    /// An object was seen in the cache (`gone`: it no longer is there).
    pub fn seen(&self, object: &ObjectMeta, gone: bool) {
        let Some(owner) = owners::controller_of(object) else { return };
        self.confirm(&owner.uid, object.uid.as_deref().unwrap_or_default(), gone || object.deletion_timestamp.is_some());
    }

    /// A write for `owner` is confirmed.
    pub fn confirm(&self, owner: &str, uid: &str, terminating_or_gone: bool) {
        let mut by_owner = self.by_owner.lock();
        if let Some(flight) = by_owner.get_mut(owner) {
            flight.seen(uid, terminating_or_gone);
            if flight.is_empty() {
                by_owner.remove(owner);
            }
        }
    }

    /// UIDs of (creations, deletions) that are unconfirmed now. To be read *before* the cache: what is confirmed in
    /// between is then known twice (by UID), never missed.
    pub fn of(&self, owner: &str, now: Timestamp) -> (BTreeSet<String>, BTreeSet<String>) {
        let mut by_owner = self.by_owner.lock();
        let Some(flight) = by_owner.get_mut(owner) else { return (BTreeSet::new(), BTreeSet::new()) };
        flight.forget_old(now);
        (flight.creates(), flight.deletes())
    }

    /// (UID, name) of creations that deserve a live look.
    pub fn doubtful(&self, owner: &str, now: Timestamp) -> Vec<(String, String)> {
        self.by_owner.lock().get(owner).map(|flight| flight.doubtful(now)).unwrap_or_default()
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &str) {
        self.by_owner.lock().remove(owner);
    }
}
