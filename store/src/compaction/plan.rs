//! Which revision is to be compacted by itself, and when. Pure: the time is given, in milliseconds of a clock that
//! never goes back. The rules are etcd's (`server/etcdserver/api/v3compactor`).
//!
//! - periodic: keys keep the history of the last `period`. The revision is noted ten times per period (at most per
//!   hour); what is compacted is the one that was the newest a period ago, once per period, or once per hour if that is
//!   longer. A period has to pass first.
//! - revision: every five minutes all but the newest so many revisions.
//!
//! Every member notes, only the leader compacts: a new leader goes on from its own notes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::duration;

const HOUR: u64 = 3_600_000;
/// Notes per period, at least.
const PER_PERIOD: u64 = 10;
/// How often the revision mode looks.
const REVISION_INTERVAL: u64 = 5 * 60_000;

/// `--auto-compaction-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The retention is a time; without a unit hours.
    Periodic,
    /// The retention is a number of revisions.
    Revision,
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Milliseconds, above 0.
    Period(u64),
    /// Revisions, above 0.
    Revisions(i64),
}

impl Retention {
    /// Reads `--auto-compaction-retention`; `None` for 0, by which nothing is compacted.
    pub fn of(mode: Mode, retention: &str) -> Result<Option<Self>, String> {
        let number = retention.parse::<i64>().ok().filter(|number| *number >= 0);
        Ok(match (mode, number) {
            (_, Some(0)) => None,
            (Mode::Revision, Some(number)) => Some(Self::Revisions(number)),
            (Mode::Revision, None) => return Err(format!("{retention:?} is no number of revisions")),
            (Mode::Periodic, Some(hours)) => Some(Self::Period(u64::try_from(hours).unwrap_or(0).saturating_mul(HOUR))),
            (Mode::Periodic, None) => {
                let period = u64::try_from(duration::parse(retention)?.as_millis()).unwrap_or(u64::MAX);
                (period > 0).then_some(Self::Period(period))
            }
        })
    }
}

/// What was noted, and what is due.
#[derive(Debug)]
pub struct Plan {
    retention: Retention,
    /// Revisions at the last rounds, the oldest first.
    noted: VecDeque<i64>,
    compacted: i64,
    succeeded_at: u64,
    /// Until the first period has passed, that; then how often is compacted.
    interval: u64,
}

impl Plan {
    /// Begins.
    pub fn new(retention: Retention, now: u64) -> Self {
        let interval = match retention {
            Retention::Period(period) => period,
            Retention::Revisions(_) => REVISION_INTERVAL,
        };
        Self { retention, noted: VecDeque::new(), compacted: 0, succeeded_at: now, interval }
    }

    /// Time between two rounds: [`Self::note`], this, [`Self::due`].
    pub fn round(&self) -> Duration {
        Duration::from_millis(match self.retention {
            Retention::Period(period) => (period.min(HOUR) / PER_PERIOD).max(1),
            Retention::Revisions(_) => REVISION_INTERVAL,
        })
    }

    /// The key space is at this revision.
    pub fn note(&mut self, revision: i64) {
        let most = match self.retention {
            Retention::Period(period) => {
                let round = u64::try_from(self.round().as_millis()).unwrap_or(u64::MAX);
                usize::try_from(period / round).unwrap_or(usize::MAX).saturating_add(1)
            }
            Retention::Revisions(_) => 1,
        };
        self.noted.push_back(revision);
        while self.noted.len() > most {
            self.noted.pop_front();
        }
    }

    /// The revision to compact now, if any; `newest` is where the key space is now.
    pub fn due(&mut self, now: u64, newest: i64, leads: bool) -> Option<i64> {
        if !leads {
            return None;
        }
        match self.retention {
            Retention::Revisions(kept) => {
                let revision = newest - kept;
                (revision > 0 && revision != self.compacted).then_some(revision)
            }
            Retention::Period(period) => {
                let revision = *self.noted.front()?;
                if now.saturating_sub(self.succeeded_at) < self.interval || revision == self.compacted {
                    return None;
                }
                self.interval = period.min(HOUR);
                Some(revision)
            }
        }
    }

    /// That was done, or had been done already.
    pub fn succeeded(&mut self, revision: i64, now: u64) {
        (self.compacted, self.succeeded_at) = (revision, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retentions_are_hours_durations_or_revisions() {
        use Mode::{Periodic, Revision};
        for (mode, text, expected) in [
            (Periodic, "0", Ok(None)),
            (Revision, "0", Ok(None)),
            (Periodic, "2", Ok(Some(Retention::Period(2 * HOUR)))),
            (Periodic, "10m", Ok(Some(Retention::Period(600_000)))),
            (Periodic, "0s", Ok(None)),
            (Revision, "1000", Ok(Some(Retention::Revisions(1000)))),
            (Revision, "10m", Err(())),
            (Periodic, "-1", Err(())),
            (Periodic, "soon", Err(())),
        ] {
            assert_eq!(Retention::of(mode, text).map_err(drop), expected, "{text}");
        }
    }

    /// One revision per round; which revision is compacted in which round.
    fn run(period: u64, rounds: u64, leads: impl Fn(u64) -> bool) -> Vec<(u64, i64)> {
        let mut plan = Plan::new(Retention::Period(period), 0);
        let round = u64::try_from(plan.round().as_millis()).unwrap();
        let mut done = Vec::new();
        for number in 1..=rounds {
            plan.note(i64::try_from(number).unwrap());
            let now = number * round;
            if let Some(revision) = plan.due(now, 0, leads(number)) {
                done.push((number, revision));
                plan.succeeded(revision, now);
            }
        }
        done
    }

    #[test]
    fn a_period_passes_first_and_then_what_is_older_than_one_is_compacted() {
        assert_eq!(run(1_000, 30, |_| true), [(10, 1), (20, 10), (30, 20)]);
        // Two hours are kept, and every hour is compacted.
        assert_eq!(run(2 * HOUR, 45, |_| true), [(20, 1), (30, 10), (40, 20)]);
        assert_eq!(run(1_000, 30, |number| number > 25), [(26, 16)], "notes are taken also while another one leads");
        assert_eq!(run(1_000, 30, |_| false), []);
    }

    #[test]
    fn what_failed_is_tried_again_the_next_round_and_nothing_new_is_no_reason() {
        let mut plan = Plan::new(Retention::Period(1_000), 0);
        (0..12).for_each(|_| plan.note(7));
        assert_eq!(plan.due(999, 7, true), None);
        assert_eq!(plan.due(1_000, 7, true), Some(7));
        assert_eq!(plan.due(1_100, 7, true), Some(7));
        plan.succeeded(7, 1_100);
        assert_eq!(plan.due(5_000, 7, true), None);
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let mut plan = Plan::new(Retention::Revisions(100), 0);
        assert_eq!(plan.round(), Duration::from_secs(300));
        for (newest, leads, expected) in [(100, true, None), (150, false, None), (150, true, Some(50)), (150, true, None), (151, true, Some(51))] {
            plan.note(newest);
            assert_eq!(plan.due(0, newest, leads), expected, "{newest}");
            if let Some(revision) = expected {
                plan.succeeded(revision, 0);
            }
        }
    }
}
