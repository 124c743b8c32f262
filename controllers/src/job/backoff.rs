//! How long a Job waits before it replaces failed pods: 10 s, doubled per failure since the last success, at most 10 min.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use crate::common::{pods, time};

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// The failures since the last success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    /// How many.
    pub failures: u32,
    /// When the last one ended.
    pub last: Option<Timestamp>,
}

impl Backoff {
    /// With pods that finished since.
    #[must_use]
    pub fn after(self, succeeded: &[&Pod], failed: &[&Pod]) -> Self {
        let last_success = succeeded.iter().map(|pod| finished_at(pod)).max();
        let ends = failed.iter().map(|pod| finished_at(pod));
        let ends: Vec<Timestamp> = ends.filter(|at| last_success.is_none_or(|success| *at > success)).collect();
        let before = if last_success.is_some() { Self::default() } else { self };
        let more = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        Self { failures: before.failures.saturating_add(more), last: ends.into_iter().max().or(before.last) }
    }

    /// How long no pod may be created yet.
    pub fn remaining(self, now: Timestamp) -> Duration {
        self.last.map_or(Duration::ZERO, |last| remaining(self.failures, last, now))
    }
}

/// What is left of the wait after `failures` failures, the last of which ended at `last`.
pub fn remaining(failures: u32, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let factor = 2_u32.saturating_pow((failures - 1).min(16));
    FIRST.saturating_mul(factor).min(LONGEST).saturating_sub(time::since(last, now))
}

/// The latest end of these containers, if all have ended.
fn all_ended<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>, from: Option<Timestamp>) -> Option<Timestamp> {
    let mut latest = from;
    for status in statuses {
        let end = status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0;
        latest = Some(latest.map_or(end, |known| known.max(end)));
    }
    latest
}

/// When a pod finished: by its containers (sidecars included), else by its Ready condition, its deletion, its creation.
pub fn finished_at(pod: &Pod) -> Timestamp {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    let is_sidecar = |name: &str| {
        let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
        init.into_iter().flatten().any(|one| one.name == name && one.restart_policy.as_deref() == Some("Always"))
    };
    let by_containers = all_ended(containers, None);
    let by_containers = by_containers.and_then(|end| all_ended(init.filter(|one| is_sidecar(&one.name)), Some(end)));
    let unready = pods::condition(pod, "Ready").filter(|condition| condition.status == "False");
    let unready = unready.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    let deleted = || {
        let asked = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0).max(0);
        asked.checked_sub(k8s_openapi::jiff::SignedDuration::from_secs(grace)).ok()
    };
    by_containers.or(unready).or_else(deleted).unwrap_or_else(|| pods::created(pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    #[test]
    fn waits_double_until_ten_minutes() {
        for (failures, seconds) in [(0, 0), (1, 10), (2, 20), (4, 80), (6, 320), (7, 600), (100, 600)] {
            assert_eq!(remaining(failures, at(0), at(0)).as_secs(), seconds, "{failures}");
        }
        assert_eq!(remaining(2, at(0), at(15)).as_secs(), 5);
        assert_eq!(remaining(2, at(0), at(60)).as_secs(), 0);
    }

    #[test]
    fn a_success_forgives_what_was_before_it() {
        let ended = |name: &str, second: i64| pod(name).created(second).arc();
        let (early, late) = (ended("early", 10), ended("late", 30));
        let success = ended("success", 20);
        let start = Backoff { failures: 3, last: Some(at(5)) };
        assert_eq!(start.after(&[], &[&early]), Backoff { failures: 4, last: Some(at(10)) });
        assert_eq!(start.after(&[&success], &[&early, &late]), Backoff { failures: 1, last: Some(at(30)) });
        assert_eq!(start.after(&[&success], &[]), Backoff::default());
        assert_eq!(start.after(&[], &[]), start);
    }
}
