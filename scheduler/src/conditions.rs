//! The condition PodScheduled=False of pods that wait, and its way to the apiserver.
//!
//! Decides (pure) whether a condition says anything new; the writer keeps at most one pending condition per pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_client::workqueue::WorkQueue;
use balsa_client::{Cause, Client, Patch};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::model::PodInfo;

/// How many conditions are written at once.
const WRITERS: usize = 8;

/// Why a pod is not scheduled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `Unschedulable`, `SchedulingGated` or `SchedulerError`.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// The status patch that says it; `None` where the pod says so already.
pub fn patch(pod: &Pod, waiting: &Waiting, now: Timestamp) -> Option<Value> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let old = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    let same = old.is_some_and(|old| {
        old.status == "False"
            && old.reason.as_deref() == Some(waiting.reason)
            && old.message.as_deref().unwrap_or_default() == waiting.message
    });
    if same {
        return None;
    }
    let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
    let since = since.map_or(now, |time| time.0);
    let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
    Some(json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": waiting.reason,
            "message": waiting.message,
            "lastProbeTime": null,
            "lastTransitionTime": since.to_string(),
            "observedGeneration": pod.metadata.generation,
        }]},
    }))
}

type Pending = Arc<Mutex<BTreeMap<Arc<str>, (Arc<PodInfo>, Waiting)>>>;

/// Writes conditions in the background, the latest per pod.
#[derive(Clone)]
pub struct Writer {
    pending: Pending,
    queue: WorkQueue<Arc<str>>,
}

impl Writer {
    /// Starts the writing tasks.
    pub fn start(client: &Client, stop: &CancellationToken) -> Self {
        let writer = Self { pending: Pending::default(), queue: WorkQueue::new() };
        for _ in 0..WRITERS {
            let (client, writer, stop) = (client.clone(), writer.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = writer.work(&client) => {}
                }
            });
        }
        writer
    }

    /// The pod waits, for this reason.
    pub fn write(&self, pod: Arc<PodInfo>, waiting: Waiting) {
        let uid = pod.uid.clone();
        self.pending.lock().insert(uid.clone(), (pod, waiting));
        self.queue.add(uid);
    }

    /// The pod does not wait any more: what was not written yet is not true any more.
    pub fn cancel(&self, uid: &str) {
        self.pending.lock().remove(uid);
    }

    async fn work(&self, client: &Client) {
        while let Some(uid) = self.queue.next().await {
            let pending = self.pending.lock().remove(&uid);
            if let Some((pod, waiting)) = pending
                && !write_one(client, &pod, &waiting).await
            {
                // Unless something newer came meanwhile.
                self.pending.lock().entry(uid.clone()).or_insert((pod, waiting));
                self.queue.add_rate_limited(uid.clone());
            } else {
                self.queue.forget(&uid);
            }
            self.queue.done(&uid);
        }
    }
}

/// Whether it is settled.
async fn write_one(client: &Client, pod: &PodInfo, waiting: &Waiting) -> bool {
    let Some(patch) = patch(&pod.object, waiting, Timestamp::now()) else { return true };
    let cause = Cause::new(format!("scheduler: {}", waiting.message)).seen(&pod.object.metadata);
    match client.patch::<Pod>(&pod.namespace, &pod.name, "status", Patch::Strategic(patch), &cause).await {
        Ok(_) => true,
        // Gone, or another pod of the same name.
        Err(error) if error.is_not_found() || error.is_conflict() => true,
        Err(error) if error.is_retryable() => {
            tracing::debug!(pod = pod.key(), %error, "cannot write the condition yet");
            false
        }
        Err(error) => {
            tracing::warn!(pod = pod.key(), %error, "the apiserver refused the condition");
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_are_written_and_the_transition_time_stays() {
        let now = Timestamp::from_second(1_000).expect("a valid time");
        let waiting = Waiting { reason: "Unschedulable", message: "m".to_owned() };
        let pod = |conditions: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": {"conditions": conditions}})).expect("a pod")
        };
        let first = patch(&pod(json!([])), &waiting, now).expect("news");
        let written = first.pointer("/status/conditions/0").cloned().expect("a condition");
        assert_eq!(written["lastTransitionTime"], "1970-01-01T00:16:40Z");
        let later = Timestamp::from_second(2_000).expect("a valid time");
        assert_eq!(patch(&pod(json!([written.clone()])), &waiting, later), None);
        let other = Waiting { message: "n".to_owned(), ..waiting };
        let second = patch(&pod(json!([written])), &other, later).expect("news");
        assert_eq!(second.pointer("/status/conditions/0/lastTransitionTime"), Some(&json!("1970-01-01T00:16:40Z")));
    }
}
