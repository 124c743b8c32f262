//! What we have written and the cache may not show yet: the guard against creating twice on a stale cache.
//!
//! A created object counts until an event shows its UID; a deleted one counts as terminating until it is gone. A
//! creation that stays unconfirmed is looked up live after ten seconds (the object may have come and gone while the
//! watch was broken); whatever was never confirmed is forgotten after five minutes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::time;

/// After this long an unconfirmed write is no longer waited for.
pub const FORGET_AFTER: Duration = Duration::from_secs(300);

/// After this long an unconfirmed creation is worth a live look.
pub const LOOK_AFTER: Duration = Duration::from_secs(10);

/// The unconfirmed writes of one owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InFlight {
    /// By UID: name and time.
    created: BTreeMap<String, (String, Timestamp)>,
    deleted: BTreeMap<String, Timestamp>,
}

impl InFlight {
    /// We created the object with this UID.
    pub fn created(&mut self, uid: &str, name: &str, now: Timestamp) {
        self.created.insert(uid.to_owned(), (name.to_owned(), now));
    }

    /// We asked for the deletion of the object with this UID.
    pub fn deleted(&mut self, uid: &str, now: Timestamp) {
        self.deleted.insert(uid.to_owned(), now);
    }

    /// An event (or the cache) showed the object: its creation is confirmed. `terminating_or_gone` confirms a deletion.
    pub fn seen(&mut self, uid: &str, terminating_or_gone: bool) {
        self.created.remove(uid);
        if terminating_or_gone {
            self.deleted.remove(uid);
        }
    }

    /// Drops what was never confirmed.
    pub fn forget_old(&mut self, now: Timestamp) {
        let young = |at: &Timestamp| time::since(*at, now) < FORGET_AFTER;
        self.created.retain(|_, (_, at)| young(at));
        self.deleted.retain(|_, at| young(at));
    }

    /// (UID, name) of creations that are unconfirmed for so long that they deserve a live look.
    pub fn doubtful(&self, now: Timestamp) -> Vec<(String, String)> {
        let old = self.created.iter().filter(|(_, (_, at))| time::since(*at, now) >= LOOK_AFTER);
        old.map(|(uid, (name, _))| (uid.clone(), name.clone())).collect()
    }

    /// UIDs of creations that were not seen yet.
    pub fn creates(&self) -> BTreeSet<String> {
        self.created.keys().cloned().collect()
    }

    /// UIDs that are to be taken as terminating whatever the cache says.
    pub fn deletes(&self) -> BTreeSet<String> {
        self.deleted.keys().cloned().collect()
    }

    /// Nothing is unconfirmed.
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.deleted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_until_it_is_seen_or_old() {
        let start = Timestamp::UNIX_EPOCH;
        let mut flight = InFlight::default();
        flight.created("a", "web-a", start);
        flight.deleted("b", start);
        flight.seen("b", false);
        assert_eq!((flight.creates().len(), flight.deletes().len()), (1, 1), "b is still shown as if nothing had happened");
        flight.seen("a", false);
        flight.seen("b", true);
        assert!(flight.is_empty());
        flight.created("c", "web-c", start);
        assert_eq!(flight.doubtful(start), []);
        assert_eq!(flight.doubtful(time::after(start, LOOK_AFTER)), [("c".to_owned(), "web-c".to_owned())]);
        flight.forget_old(time::after(start, Duration::from_secs(299)));
        assert_eq!(flight.creates().len(), 1);
        flight.forget_old(time::after(start, FORGET_AFTER));
        assert!(flight.is_empty());
    }
}
