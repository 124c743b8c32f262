//! Which pod is scheduled next, and when one that did not fit is tried again. Pure: time is a duration since start.
//!
//! A waiting pod is in exactly one place:
//!
//! - *active*: to be scheduled, by priority, then by how long it has been there;
//! - *back-off*: to become active after 1 s, doubled per attempt, at most 10 s;
//! - *unschedulable*: fits nowhere; waits for a change that may help it, at most five minutes;
//! - *gated*: has scheduling gates; waits for their removal.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::model::PodInfo;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// How long an unschedulable pod waits at most, in case a change was misjudged.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

type Uid = Arc<str>;

/// A pod that waits, or was just taken.
#[derive(Debug, Clone)]
pub struct Queued {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried, this time included.
    pub attempts: u32,
    /// Plugins that kept it away from some node in the last attempt.
    pub rejected_by: BTreeSet<&'static str>,
    /// When it came to the queue first.
    pub since: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active { order: u64 },
    Backoff { until: Duration },
    Unschedulable { since: Duration },
    Gated,
}

#[derive(Debug)]
struct Entry {
    queued: Queued,
    place: Place,
    /// When its last attempt ended.
    tried: Option<Duration>,
}

/// How many pods wait where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lengths {
    /// To be scheduled.
    pub active: usize,
    /// Waiting out their back-off.
    pub backoff: usize,
    /// Waiting for a change.
    pub unschedulable: usize,
    /// Waiting for their gates to be removed.
    pub gated: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    entries: BTreeMap<Uid, Entry>,
    active: BTreeSet<(Reverse<i32>, u64, Uid)>,
    backoff: BTreeSet<(Duration, Uid)>,
    unschedulable: BTreeSet<(Duration, Uid)>,
    gated: usize,
    order: u64,
}

fn backoff(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1u32 << attempts.saturating_sub(1).min(20)).min(MAX_BACKOFF)
}

impl Queue {
    /// A pod that waits for a node is new or changed.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Duration) {
        let Some(entry) = self.take_out(&pod.uid.clone()) else {
            let queued = Queued { pod, attempts: 0, rejected_by: BTreeSet::new(), since: now };
            return self.activate(queued, None, now);
        };
        let Entry { mut queued, place, tried } = entry;
        let changed = differs(&queued.pod, &pod);
        queued.pod = pod;
        let gated = queued.pod.is_gated();
        match place {
            _ if gated => self.put(queued, Place::Gated, tried),
            Place::Gated => self.activate(queued, tried, now),
            Place::Unschedulable { .. } if changed => self.reactivate(queued, tried, now),
            // The same place, in the order of its perhaps new priority.
            same => self.put(queued, same, tried),
        }
    }

    /// The pod needs no node any more.
    pub fn remove(&mut self, uid: &str) -> Option<Queued> {
        self.take_out(uid).map(|entry| entry.queued)
    }

    /// Whether the pod waits here.
    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// The next pod to schedule. It is out of the queue until it is given back.
    pub fn pop(&mut self, now: Duration) -> Option<Queued> {
        self.flush(now);
        let uid = self.active.first()?.2.clone();
        let mut queued = self.take_out(&uid)?.queued;
        queued.attempts = queued.attempts.saturating_add(1);
        Some(queued)
    }

    /// A pod that was taken fits nowhere, because of these plugins.
    pub fn unschedulable(&mut self, mut queued: Queued, rejected_by: BTreeSet<&'static str>, now: Duration) {
        queued.rejected_by = rejected_by;
        self.put(queued, Place::Unschedulable { since: now }, Some(now));
    }

    /// A pod that was taken could not be placed for reasons outside of it.
    pub fn retry(&mut self, queued: Queued, now: Duration) {
        let until = now + backoff(queued.attempts);
        self.put(queued, Place::Backoff { until }, Some(now));
    }

    /// Something changed: every unschedulable pod that it may help is tried again. Returns how many.
    pub fn changed(&mut self, now: Duration, may_help: impl Fn(&PodInfo, &BTreeSet<&'static str>) -> bool) -> usize {
        let helped: Vec<Uid> = self
            .unschedulable
            .iter()
            .filter(|(_, uid)| {
                self.entries.get(uid).is_some_and(|entry| may_help(&entry.queued.pod, &entry.queued.rejected_by))
            })
            .map(|(_, uid)| uid.clone())
            .collect();
        for uid in &helped {
            if let Some(entry) = self.take_out(uid) {
                self.reactivate(entry.queued, entry.tried, now);
            }
        }
        helped.len()
    }

    /// Moves what has waited long enough.
    fn flush(&mut self, now: Duration) {
        while let Some((until, uid)) = self.backoff.first().cloned()
            && until <= now
        {
            if let Some(entry) = self.take_out(&uid) {
                self.activate(entry.queued, entry.tried, now);
            }
        }
        while let Some((since, uid)) = self.unschedulable.first().cloned()
            && since + MAX_UNSCHEDULABLE <= now
        {
            if let Some(entry) = self.take_out(&uid) {
                self.reactivate(entry.queued, entry.tried, now);
            }
        }
    }

    /// When [`Queue::pop`] may have something that it has not now.
    pub fn next_timer(&self) -> Option<Duration> {
        let backoff = self.backoff.first().map(|(until, _)| *until);
        let unschedulable = self.unschedulable.first().map(|(since, _)| *since + MAX_UNSCHEDULABLE);
        backoff.into_iter().chain(unschedulable).min()
    }

    /// How many pods wait where.
    pub fn lengths(&self) -> Lengths {
        Lengths {
            active: self.active.len(),
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable.len(),
            gated: self.gated,
        }
    }

    /// To be scheduled, once its back-off is over.
    fn reactivate(&mut self, queued: Queued, tried: Option<Duration>, now: Duration) {
        let until = tried.map_or(Duration::ZERO, |tried| tried + backoff(queued.attempts));
        if until > now && queued.attempts > 0 {
            self.put(queued, Place::Backoff { until }, tried);
        } else {
            self.activate(queued, tried, now);
        }
    }

    fn activate(&mut self, queued: Queued, tried: Option<Duration>, _now: Duration) {
        if queued.pod.is_gated() {
            return self.put(queued, Place::Gated, tried);
        }
        self.order += 1;
        let order = self.order;
        self.put(queued, Place::Active { order }, tried);
    }

    fn put(&mut self, queued: Queued, place: Place, tried: Option<Duration>) {
        let uid = queued.pod.uid.clone();
        match place {
            Place::Active { order } => {
                self.active.insert((Reverse(queued.pod.priority), order, uid.clone()));
            }
            Place::Backoff { until } => {
                self.backoff.insert((until, uid.clone()));
            }
            Place::Unschedulable { since } => {
                self.unschedulable.insert((since, uid.clone()));
            }
            Place::Gated => self.gated += 1,
        }
        self.entries.insert(uid, Entry { queued, place, tried });
    }

    fn take_out(&mut self, uid: &str) -> Option<Entry> {
        let (uid, entry) = self.entries.remove_entry(uid)?;
        match entry.place {
            Place::Active { order } => {
                self.active.remove(&(Reverse(entry.queued.pod.priority), order, uid));
            }
            Place::Backoff { until } => {
                self.backoff.remove(&(until, uid));
            }
            Place::Unschedulable { since } => {
                self.unschedulable.remove(&(since, uid));
            }
            Place::Gated => self.gated -= 1,
        }
        Some(entry)
    }
}

/// Whether a change of the pod itself may make it schedulable; its status cannot.
fn differs(old: &PodInfo, new: &PodInfo) -> bool {
    old.object.spec != new.object.spec || old.labels != new.labels
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32, gates: &[&str]) -> Arc<PodInfo> {
        let gates: Vec<_> = gates.iter().map(|name| json!({"name": name})).collect();
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"containers": [], "priority": priority, "schedulingGates": gates},
        });
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pop(queue: &mut Queue, now: u64) -> Option<String> {
        queue.pop(at(now)).map(|queued| queued.pod.name.clone())
    }

    #[test]
    fn by_priority_then_by_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("low", 0), ("high-1", 9), ("high-2", 9), ("middle", 5)] {
            queue.set(pod(name, priority, &[]), at(0));
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, 0)).collect();
        assert_eq!(order, ["high-1", "high-2", "middle", "low"]);
    }

    #[test]
    fn the_back_off_grows_from_one_second_to_ten() {
        let mut queue = Queue::default();
        queue.set(pod("p", 0, &[]), at(0));
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..6 {
            let queued = queue.pop(now).expect("due");
            queue.retry(queued, now);
            let next = queue.next_timer().expect("a timer");
            waits.push((next - now).as_secs());
            assert!(queue.pop(next - Duration::from_millis(1)).is_none());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_that_may_help_but_no_longer_than_five_minutes() {
        let mut queue = Queue::default();
        queue.set(pod("p", 0, &[]), at(0));
        let queued = queue.pop(at(0)).expect("due");
        queue.unschedulable(queued, BTreeSet::from(["NodeResourcesFit"]), at(0));
        assert_eq!(queue.changed(at(5), |_, by| by.contains("NodeAffinity")), 0);
        assert_eq!(pop(&mut queue, 5), None);
        assert_eq!(queue.changed(at(5), |_, by| by.contains("NodeResourcesFit")), 1);
        let queued = queue.pop(at(5)).expect("its back-off of 1 s is over");
        assert_eq!(queued.attempts, 2);
        queue.unschedulable(queued, BTreeSet::new(), at(5));
        assert_eq!(queue.changed(at(6), |_, _| true), 1);
        assert_eq!(pop(&mut queue, 6), None, "its back-off of 2 s is not over");
        let queued = queue.pop(at(7)).expect("now it is");
        queue.unschedulable(queued, BTreeSet::new(), at(7));
        assert_eq!(queue.next_timer(), Some(at(307)));
        assert_eq!(pop(&mut queue, 306), None);
        assert_eq!(pop(&mut queue, 307).as_deref(), Some("p"));
    }

    #[test]
    fn only_a_change_of_its_spec_wakes_an_unschedulable_pod() {
        let mut queue = Queue::default();
        queue.set(pod("p", 0, &[]), at(0));
        let queued = queue.pop(at(0)).expect("due");
        queue.unschedulable(queued, BTreeSet::new(), at(0));
        queue.set(pod("p", 0, &[]), at(5));
        assert_eq!(queue.lengths().unschedulable, 1);
        queue.set(pod("p", 7, &[]), at(5));
        assert_eq!(pop(&mut queue, 5).as_deref(), Some("p"));
    }

    #[test]
    fn a_gated_pod_waits_for_the_last_gate() {
        let mut queue = Queue::default();
        queue.set(pod("p", 0, &["a", "b"]), at(0));
        assert_eq!(pop(&mut queue, 999), None);
        assert_eq!(queue.lengths(), Lengths { gated: 1, ..Lengths::default() });
        queue.set(pod("p", 0, &["b"]), at(1));
        assert_eq!(pop(&mut queue, 999), None);
        queue.set(pod("p", 0, &[]), at(2));
        assert_eq!(pop(&mut queue, 2).as_deref(), Some("p"));
        queue.set(pod("q", 0, &["a"]), at(2));
        assert!(queue.remove("q").is_some());
        assert_eq!(queue.lengths(), Lengths::default());
    }
}
