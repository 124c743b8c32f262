//! When each lease expires. Pure: the time is given, in milliseconds of a clock that never goes back.
//!
//! Every replica knows the leases and their granted times; only a leader counts. A new leader gives every lease its
//! whole time again (it cannot know what the old one renewed), so that none expires early.

use std::collections::{BTreeMap, BTreeSet};

/// etcd's bound on what may be asked for, seconds.
pub const MAX_TTL: i64 = 9_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: i64,
    expires_at: u64,
}

/// The leases of a replica.
#[derive(Debug, Default)]
pub struct Table {
    leases: BTreeMap<i64, Lease>,
    by_expiry: BTreeSet<(u64, i64)>,
    /// Given on top of the granted time after a leader change, milliseconds.
    leading: bool,
}

fn millis(ttl: i64) -> u64 {
    u64::try_from(ttl).unwrap_or(0).saturating_mul(1_000)
}

impl Table {
    /// A lease was granted.
    pub fn grant(&mut self, id: i64, ttl: i64, now: u64) {
        self.revoke(id);
        let expires_at = now.saturating_add(millis(ttl));
        self.leases.insert(id, Lease { ttl, expires_at });
        self.by_expiry.insert((expires_at, id));
    }

    /// A lease was revoked.
    pub fn revoke(&mut self, id: i64) {
        if let Some(lease) = self.leases.remove(&id) {
            self.by_expiry.remove(&(lease.expires_at, id));
        }
    }

    /// Everything is as the state says now.
    pub fn replace(&mut self, leases: impl IntoIterator<Item = (i64, i64)>, now: u64) {
        (self.leases, self.by_expiry) = Default::default();
        leases.into_iter().for_each(|(id, ttl)| self.grant(id, ttl, now));
    }

    /// This replica leads from now on: all leases begin anew, `grace` milliseconds longer than granted.
    pub fn promote(&mut self, now: u64, grace: u64) {
        self.leading = true;
        self.by_expiry.clear();
        for (id, lease) in &mut self.leases {
            lease.expires_at = now.saturating_add(millis(lease.ttl)).saturating_add(grace);
            self.by_expiry.insert((lease.expires_at, *id));
        }
    }

    /// Leads without giving any lease its time again; what [`Self::promote`] is there to prevent.
    #[cfg(test)]
    pub fn promote_as_granted(&mut self) {
        self.leading = true;
    }

    /// This replica leads no longer.
    pub fn demote(&mut self) {
        self.leading = false;
    }

    /// Starts a lease's time again; says how long that is, seconds. `None` if it is gone or has expired.
    pub fn renew(&mut self, id: i64, now: u64) -> Option<i64> {
        let lease = *self.leases.get(&id).filter(|lease| lease.expires_at > now)?;
        self.grant(id, lease.ttl, now);
        Some(lease.ttl)
    }

    /// Granted and remaining time, seconds.
    pub fn time_to_live(&self, id: i64, now: u64) -> Option<(i64, i64)> {
        let lease = self.leases.get(&id)?;
        let left = lease.expires_at.saturating_sub(now) / 1_000;
        Some((lease.ttl, i64::try_from(left).unwrap_or(i64::MAX)))
    }

    /// Leases that have expired, those that expired first in front; at most `limit`. None unless this replica leads.
    pub fn expired(&self, now: u64, limit: usize) -> Vec<i64> {
        if !self.leading {
            return Vec::new();
        }
        self.by_expiry.iter().take_while(|(at, _)| *at <= now).take(limit).map(|(_, id)| *id).collect()
    }

    /// All ids, ascending.
    pub fn ids(&self) -> Vec<i64> {
        self.leases.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_expires_after_its_time_unless_it_is_renewed() {
        let mut table = Table::default();
        table.promote(0, 0);
        table.grant(1, 10, 0);
        table.grant(2, 5, 0);
        assert_eq!(table.expired(4_999, 9), Vec::<i64>::new());
        assert_eq!(table.expired(5_000, 9), [2]);
        assert_eq!(table.renew(1, 9_000), Some(10));
        assert_eq!(table.renew(2, 9_000), None, "what has expired cannot be renewed");
        assert_eq!(table.expired(18_999, 9), [2]);
        assert_eq!(table.expired(19_000, 1), [2]);
        assert_eq!(table.expired(19_000, 9), [2, 1]);
        assert_eq!(table.time_to_live(1, 10_500), Some((10, 8)));
        table.revoke(2);
        assert_eq!(table.ids(), [1]);
    }

    #[test]
    fn a_new_leader_gives_the_whole_time_again_and_a_follower_expires_nothing() {
        let mut table = Table::default();
        table.grant(1, 10, 0);
        assert_eq!(table.expired(1_000_000, 9), Vec::<i64>::new());
        table.promote(20_000, 1_000);
        assert_eq!(table.expired(30_999, 9), Vec::<i64>::new());
        assert_eq!(table.expired(31_000, 9), [1]);
        table.demote();
        assert_eq!(table.expired(31_000, 9), Vec::<i64>::new());
    }
}
