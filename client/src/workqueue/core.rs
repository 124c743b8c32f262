//! The rules of the work queue. Pure: time is a duration since some start.
//!
//! An item is *dirty* from when it is added until a worker takes it, and *processing* from then until the worker is
//! done. Added while dirty: nothing happens. Added while processing: it is queued again when the worker is done. So
//! no two workers ever have the same item, and no change is missed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct Core<T> {
    ready: VecDeque<T>,
    dirty: BTreeSet<T>,
    processing: BTreeSet<T>,
    /// By due time, then in the order in which they were added.
    timers: BTreeMap<(Duration, u64), T>,
    due: BTreeMap<T, (Duration, u64)>,
    sequence: u64,
    failures: BTreeMap<T, u32>,
    first: Duration,
    max: Duration,
    shut_down: bool,
}

impl<T: Ord + Clone> Core<T> {
    /// Back-off: `first`, doubled per failure, at most `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: BTreeSet::new(),
            processing: BTreeSet::new(),
            timers: BTreeMap::new(),
            due: BTreeMap::new(),
            sequence: 0,
            failures: BTreeMap::new(),
            first,
            max,
            shut_down: false,
        }
    }

    /// `item` wants work.
    pub fn add(&mut self, item: T) {
        if self.shut_down || !self.dirty.insert(item.clone()) {
            return;
        }
        if !self.processing.contains(&item) {
            self.ready.push_back(item);
        }
    }

    /// `item` wants work at `now + delay`, or earlier where that was asked before.
    pub fn add_after(&mut self, item: T, delay: Duration, now: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let at = now.saturating_add(delay);
        match self.due.get(&item) {
            _ if self.shut_down => return,
            Some((earlier, _)) if *earlier <= at => return,
            Some(later) => {
                self.timers.remove(later);
            }
            None => {}
        }
        self.sequence += 1;
        self.timers.insert((at, self.sequence), item.clone());
        self.due.insert(item, (at, self.sequence));
    }

    /// `item` failed once more: it waits for its back-off.
    pub fn add_rate_limited(&mut self, item: T, now: Duration) {
        if self.shut_down {
            return;
        }
        let failures = self.failures.entry(item.clone()).or_insert(0);
        let delay = self.first.saturating_mul(1u32 << (*failures).min(30)).min(self.max);
        *failures = failures.saturating_add(1);
        self.add_after(item, delay, now);
    }

    /// `item`'s back-off starts anew.
    pub fn forget(&mut self, item: &T) {
        self.failures.remove(item);
    }

    /// Failures since the last [`Core::forget`].
    pub fn failures(&self, item: &T) -> u32 {
        self.failures.get(item).copied().unwrap_or(0)
    }

    /// The next item to work on, timers that are due included.
    pub fn pop(&mut self, now: Duration) -> Option<T> {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            let item = entry.remove();
            self.due.remove(&item);
            self.add(item);
        }
        let item = self.ready.pop_front()?;
        self.dirty.remove(&item);
        self.processing.insert(item.clone());
        Some(item)
    }

    /// A worker has ended its work on `item`.
    pub fn done(&mut self, item: &T) {
        if self.processing.remove(item) && self.dirty.contains(item) {
            self.ready.push_back(item.clone());
        }
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether [`Core::pop`] has something at once.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Items that are ready.
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Accept nothing more, forget timers.
    pub fn shut_down(&mut self) {
        self.shut_down = true;
        self.timers.clear();
        self.due.clear();
    }

    /// Whether nothing will ever come again once [`Core::pop`] has nothing.
    pub fn is_shut_down(&self) -> bool {
        self.shut_down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::ZERO;

    fn core() -> Core<&'static str> {
        Core::new(Duration::from_millis(5), Duration::from_secs(1000))
    }

    #[test]
    fn an_item_is_queued_once() {
        let mut core = core();
        core.add("a");
        core.add("b");
        core.add("a");
        assert_eq!([core.pop(T0), core.pop(T0), core.pop(T0)], [Some("a"), Some("b"), None]);
    }

    #[test]
    fn an_item_added_while_worked_on_comes_again_afterwards() {
        let mut core = core();
        core.add("a");
        assert_eq!(core.pop(T0), Some("a"));
        core.add("a");
        core.add("a");
        assert_eq!(core.pop(T0), None, "no second worker for the same item");
        core.done(&"a");
        assert_eq!(core.pop(T0), Some("a"));
        core.done(&"a");
        assert_eq!(core.pop(T0), None);
    }

    #[test]
    fn of_two_delays_the_shorter_counts() {
        let mut core = core();
        core.add_after("a", Duration::from_secs(9), T0);
        core.add_after("a", Duration::from_secs(2), T0);
        core.add_after("a", Duration::from_secs(5), T0);
        assert_eq!(core.next_timer(), Some(Duration::from_secs(2)));
        assert_eq!(core.pop(Duration::from_secs(1)), None);
        assert_eq!(core.pop(Duration::from_secs(2)), Some("a"));
        core.done(&"a");
        assert_eq!(core.pop(Duration::from_secs(99)), None);
    }

    #[test]
    fn the_back_off_doubles_up_to_its_cap_and_is_forgotten() {
        let mut core = core();
        let mut delays = Vec::new();
        for _ in 0..20 {
            core.add_rate_limited("a", T0);
            let at = core.next_timer().expect("a timer");
            delays.push(at.as_millis());
            assert_eq!(core.pop(at), Some("a"));
            core.done(&"a");
        }
        assert_eq!(delays[..4], [5, 10, 20, 40]);
        assert_eq!(delays[19], 1_000_000);
        core.forget(&"a");
        core.add_rate_limited("a", T0);
        assert_eq!(core.next_timer(), Some(Duration::from_millis(5)));
    }
}
