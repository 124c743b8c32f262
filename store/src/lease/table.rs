//! When each lease expires. Pure: the time is given, in milliseconds of a clock that never goes back.
//!
//! Every replica knows the leases, their granted times and how much was left at the last checkpoint; only a leader
//! counts. A new leader gives every lease its whole time again (it cannot know what the old one renewed), so that none
//! expires early. So that leaders which change often do not keep a lease for ever, the leader notes through the log,
//! every checkpoint interval, how much is left to those that outlive it; a successor goes on from there. A renewal
//! takes such a note back before it counts.

use std::collections::{BTreeMap, BTreeSet};

/// etcd's bound on what may be asked for, seconds.
pub const MAX_TTL: i64 = 9_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: i64,
    /// Seconds left at the last checkpoint; 0 for none since the last renewal.
    remaining: i64,
    expires_at: u64,
    /// When the next checkpoint is due; only while this replica leads.
    checkpoint_at: Option<u64>,
}

/// The leases of a replica.
#[derive(Debug, Default)]
pub struct Table {
    leases: BTreeMap<i64, Lease>,
    by_expiry: BTreeSet<(u64, i64)>,
    by_checkpoint: BTreeSet<(u64, i64)>,
    leading: bool,
    /// Milliseconds between two checkpoints of a lease; 0 for none at all.
    interval: u64,
}

fn millis(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000)
}

impl Table {
    /// Leases that live longer than `interval` milliseconds are noted that often; 0: never.
    pub fn with_checkpoints(interval: u64) -> Self {
        Self { interval, ..Self::default() }
    }

    /// A lease is recorded so: new, or with another checkpoint. The latter changes nothing about when it expires here.
    pub fn note(&mut self, id: i64, ttl: i64, remaining: i64, now: u64) {
        match self.leases.get_mut(&id) {
            Some(lease) => lease.remaining = remaining,
            None => self.put(id, ttl, remaining, now, 0),
        }
    }

    fn put(&mut self, id: i64, ttl: i64, remaining: i64, now: u64, grace: u64) {
        self.revoke(id);
        let left = if remaining > 0 { remaining } else { ttl };
        let expires_at = now.saturating_add(millis(left)).saturating_add(grace);
        let checkpoint_at = self.next_checkpoint(expires_at, now);
        self.leases.insert(id, Lease { ttl, remaining, expires_at, checkpoint_at });
        self.by_expiry.insert((expires_at, id));
        if let Some(at) = checkpoint_at {
            self.by_checkpoint.insert((at, id));
        }
    }

    fn next_checkpoint(&self, expires_at: u64, now: u64) -> Option<u64> {
        let at = now.saturating_add(self.interval);
        (self.leading && self.interval > 0 && at < expires_at).then_some(at)
    }

    /// A lease was revoked.
    pub fn revoke(&mut self, id: i64) {
        if let Some(lease) = self.leases.remove(&id) {
            self.by_expiry.remove(&(lease.expires_at, id));
            if let Some(at) = lease.checkpoint_at {
                self.by_checkpoint.remove(&(at, id));
            }
        }
    }

    /// Everything is as the state says now: id, granted and remaining time.
    pub fn replace(&mut self, leases: impl IntoIterator<Item = (i64, i64, i64)>, now: u64) {
        (self.leases, self.by_expiry, self.by_checkpoint) = Default::default();
        leases.into_iter().for_each(|(id, ttl, remaining)| self.put(id, ttl, remaining, now, 0));
    }

    /// This replica leads from now on: all leases begin anew, or from their last checkpoint, `grace` milliseconds longer.
    pub fn promote(&mut self, now: u64, grace: u64) {
        self.leading = true;
        let known: Vec<_> = self.leases.iter().map(|(id, lease)| (*id, lease.ttl, lease.remaining)).collect();
        known.into_iter().for_each(|(id, ttl, remaining)| self.put(id, ttl, remaining, now, grace));
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

    /// Whether a successor would give this lease less than its whole time: to be taken back before it is renewed.
    pub fn is_checkpointed(&self, id: i64) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.remaining > 0)
    }

    /// Starts a lease's time again; says how long that is, seconds. `None` if it is gone or has expired.
    pub fn renew(&mut self, id: i64, now: u64) -> Option<i64> {
        let lease = *self.leases.get(&id).filter(|lease| lease.expires_at > now)?;
        self.put(id, lease.ttl, 0, now, 0);
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

    /// Leases whose checkpoint is due, with the seconds left to them, rounded up; at most `limit`. Each is due again
    /// an interval later. None unless this replica leads.
    pub fn checkpoints(&mut self, now: u64, limit: usize) -> Vec<(i64, i64)> {
        if !self.leading {
            return Vec::new();
        }
        let due: Vec<_> = self.by_checkpoint.iter().take_while(|(at, _)| *at <= now).take(limit).copied().collect();
        let mut left = Vec::new();
        for (at, id) in due {
            self.by_checkpoint.remove(&(at, id));
            let Some(expires_at) = self.leases.get(&id).map(|lease| lease.expires_at) else { continue };
            let next = self.next_checkpoint(expires_at, now);
            if let Some(at) = next {
                self.by_checkpoint.insert((at, id));
            }
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.checkpoint_at = next;
            }
            let seconds = expires_at.saturating_sub(now).div_ceil(1_000);
            if seconds > 0 {
                left.push((id, i64::try_from(seconds).unwrap_or(MAX_TTL)));
            }
        }
        left
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
        table.note(1, 10, 0, 0);
        table.note(2, 5, 0, 0);
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
        table.note(1, 10, 0, 0);
        assert_eq!(table.expired(1_000_000, 9), Vec::<i64>::new());
        table.promote(20_000, 1_000);
        assert_eq!(table.expired(30_999, 9), Vec::<i64>::new());
        assert_eq!(table.expired(31_000, 9), [1]);
        table.demote();
        assert_eq!(table.expired(31_000, 9), Vec::<i64>::new());
    }

    #[test]
    fn a_long_lease_is_checkpointed_and_the_next_leader_goes_on_from_there() {
        let (mut leader, mut follower) = (Table::with_checkpoints(60_000), Table::with_checkpoints(60_000));
        leader.promote(0, 0);
        for table in [&mut leader, &mut follower] {
            table.note(1, 150, 0, 0);
            table.note(2, 60, 0, 0);
        }
        assert_eq!(leader.checkpoints(59_999, 9), []);
        assert_eq!(follower.checkpoints(60_000, 9), [], "only the leader counts");
        assert_eq!(leader.checkpoints(60_500, 9), [(1, 90)], "a short lease needs none");
        for table in [&mut leader, &mut follower] {
            table.note(1, 150, 90, 60_500);
        }
        assert_eq!(leader.expired(149_999, 9), [2], "the note itself changes nothing at the leader");
        assert_eq!(leader.checkpoints(120_500, 9), [(1, 30)]);
        // A leader that takes over again and again does not prolong it beyond its checkpoint.
        follower.promote(200_000, 0);
        assert_eq!(follower.time_to_live(1, 200_000), Some((150, 90)));
        assert!(follower.is_checkpointed(1));
        assert_eq!(follower.renew(1, 200_001), Some(150));
        assert!(!follower.is_checkpointed(1));
        assert_eq!(follower.time_to_live(1, 200_001), Some((150, 150)));
    }
}
