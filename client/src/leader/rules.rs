//! Who may take a Lease, and when. Pure: both clocks are arguments.
//!
//! The times in the Lease are of its writer's clock and are never compared with ours. A Lease counts as expired when
//! *we* have not seen it change for its duration.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// What the Lease says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Empty where nobody leads.
    pub holder: String,
    /// How long the holder promised to need at most between two renewals.
    pub lease_seconds: i32,
    /// When the holder became the leader, by its clock.
    pub acquired: Option<Timestamp>,
    /// When it renewed last, by its clock.
    pub renewed: Option<Timestamp>,
    /// How often leadership has changed.
    pub transitions: i32,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Somebody else leads.
    Wait,
    /// Write this, on condition that nobody wrote since it was read.
    Write(Record),
}

/// What we know about the Lease.
#[derive(Debug)]
pub struct Election {
    identity: String,
    lease: Duration,
    observed: Option<(Record, Instant)>,
}

impl Election {
    /// `lease`: the duration that we promise.
    pub fn new(identity: String, lease: Duration) -> Self {
        Self { identity, lease, observed: None }
    }

    /// Who led when we looked last; empty for nobody.
    pub fn holder(&self) -> &str {
        self.observed.as_ref().map_or("", |(record, _)| &record.holder)
    }

    /// `found` is the Lease as read just now, `None` where there is none; `wall` goes into the record, `clock`
    /// measures.
    pub fn decide(&mut self, found: Option<Record>, wall: Timestamp, clock: Instant) -> Action {
        let lease_seconds = i32::try_from(self.lease.as_secs()).unwrap_or(i32::MAX).max(1);
        let fresh = Record {
            holder: self.identity.clone(),
            lease_seconds,
            acquired: Some(wall),
            renewed: Some(wall),
            transitions: 0,
        };
        let Some(found) = found else { return Action::Write(fresh) };
        let since = match &self.observed {
            Some((known, since)) if *known == found => *since,
            _ => {
                self.observed = Some((found.clone(), clock));
                clock
            }
        };
        if found.holder == self.identity {
            return Action::Write(Record { acquired: found.acquired, transitions: found.transitions, ..fresh });
        }
        let promised = Duration::from_secs(u64::try_from(found.lease_seconds).unwrap_or(0));
        if !found.holder.is_empty() && clock.saturating_duration_since(since) < promised {
            return Action::Wait;
        }
        Action::Write(Record { transitions: found.transitions.saturating_add(1), ..fresh })
    }

    /// Our write was accepted.
    pub fn wrote(&mut self, record: Record, clock: Instant) {
        self.observed = Some((record, clock));
    }

    /// What to write to give the Lease away; `None` where it is not ours.
    pub fn release(&self, found: Record, wall: Timestamp) -> Option<Record> {
        (found.holder == self.identity).then_some(Record {
            holder: String::new(),
            lease_seconds: 1,
            acquired: Some(wall),
            renewed: Some(wall),
            transitions: found.transitions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn wall(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("a valid time")
    }

    fn written(action: Action) -> Record {
        match action {
            Action::Write(record) => record,
            Action::Wait => panic!("should write"),
        }
    }

    #[test]
    fn a_lease_changes_hands_only_after_it_was_seen_unchanged_for_its_duration() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut a, mut b) = (Election::new("a".into(), LEASE), Election::new("b".into(), LEASE));
        let first = written(a.decide(None, wall(0), at(0)));
        assert_eq!((first.holder.as_str(), first.transitions, first.lease_seconds), ("a", 0, 15));
        a.wrote(first.clone(), at(0));
        // b's wall clock is hours ahead; that must not matter.
        assert_eq!(b.decide(Some(first.clone()), wall(9999), at(5)), Action::Wait);
        let renewed = written(a.decide(Some(first.clone()), wall(10), at(10)));
        assert_eq!((renewed.acquired, renewed.renewed), (Some(wall(0)), Some(wall(10))));
        assert_eq!(b.decide(Some(renewed.clone()), wall(9999), at(12)), Action::Wait);
        assert_eq!(b.decide(Some(renewed.clone()), wall(9999), at(26)), Action::Wait, "15 s from when b saw it");
        let taken = written(b.decide(Some(renewed), wall(9999), at(27)));
        assert_eq!((taken.holder.as_str(), taken.transitions), ("b", 1));
        assert_eq!(a.decide(Some(taken), wall(30), at(30)), Action::Wait);
    }

    #[test]
    fn a_released_lease_is_taken_at_once_and_only_its_holder_releases() {
        let start = Instant::now();
        let (mut a, mut b) = (Election::new("a".into(), LEASE), Election::new("b".into(), LEASE));
        let held = written(a.decide(None, wall(0), start));
        assert_eq!(b.release(held.clone(), wall(1)), None);
        let released = a.release(held, wall(1)).expect("a holds it");
        assert_eq!((released.holder.as_str(), released.lease_seconds), ("", 1));
        assert_eq!(written(b.decide(Some(released), wall(1), start)).holder, "b");
    }
}
