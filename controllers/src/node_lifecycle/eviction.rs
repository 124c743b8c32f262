//! When a pod has to leave a node because of NoExecute taints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use k8s_openapi::jiff::Timestamp;

use crate::common::{pods, time};

/// Since when each taint without `timeAdded` has been seen, by `key=value:effect`.
pub type FirstSeen = BTreeMap<String, Timestamp>;

/// How a taint is called in [`FirstSeen`].
pub fn taint_name(taint: &Taint) -> String {
    format!("{}={}:{}", taint.key, taint.value.as_deref().unwrap_or_default(), taint.effect)
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
    if set(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if set(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => {
            set(&toleration.key).is_some()
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// What the taints of its node mean for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay for good.
    Stay,
    /// It has to be deleted at this time (which may have passed).
    LeaveAt(Timestamp),
}

/// Shortest time (seconds) that the tolerations of one taint grant. `None`: not tolerated; `Some(None)`: for good.
fn granted(tolerations: &[Toleration], taint: &Taint) -> Option<Option<i64>> {
    let matching: Vec<&Toleration> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
    if matching.is_empty() {
        return None;
    }
    Some(matching.iter().filter_map(|toleration| toleration.toleration_seconds).min().map(|seconds| seconds.max(0)))
}

/// Decides. A toleration's time runs from when the taint came, or from when the pod came where that was later.
pub fn verdict(pod: &Pod, taints: &[Taint], first_seen: &FirstSeen, now: Timestamp) -> Verdict {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let scheduled = pods::condition(pod, "PodScheduled").and_then(|condition| condition.last_transition_time.as_ref());
    let arrived = scheduled.map_or_else(|| pods::created(pod), |time| time.0);
    let mut leave_at: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let at = match granted(tolerations, taint) {
            None => now,
            Some(None) => continue,
            Some(Some(seconds)) => {
                let added = taint.time_added.as_ref().map(|time| time.0);
                let since = added.or_else(|| first_seen.get(&taint_name(taint)).copied()).unwrap_or(now);
                time::after_seconds(since.max(arrived), seconds)
            }
        };
        leave_at = Some(leave_at.map_or(at, |present| present.min(at)));
    }
    leave_at.map_or(Verdict::Stay, Verdict::LeaveAt)
}
