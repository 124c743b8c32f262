//! The loop of one probe: wait, ask, tell.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;

use super::{Answer, check};
use crate::pod::plan::ProbeKey;
use crate::pod::view::{after, since};
use crate::runtime::Runtime;

/// A probe's answer on its way to the pod's worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Which probe.
    pub key: ProbeKey,
    /// What it said.
    pub answer: Answer,
}

/// What one prober needs.
pub struct Prober {
    /// Which probe.
    pub key: ProbeKey,
    /// Its spec.
    pub probe: Probe,
    /// Its container.
    pub container: Container,
    /// Since when the instance runs.
    pub started_at: Timestamp,
    /// Where it serves.
    pub pod_ip: String,
    /// Waits this much longer before the first attempt: spreads the load after the agent's own start.
    pub splay: Duration,
}

impl Prober {
    /// Asks until the receiver is gone or the task is aborted.
    pub async fn run(self, runtime: Arc<dyn Runtime>, told: mpsc::Sender<Told>) {
        let seconds = |seconds: Option<i32>, default| {
            Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(default))
        };
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let first = after(self.started_at, seconds(self.probe.initial_delay_seconds, 0));
        let wait = since(crate::clock::now(), first) + self.splay;
        tokio::time::sleep(wait).await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut answer = self.ask(&runtime).await;
            // An attempt that could not be made is repeated at once, at most twice.
            for _ in 0..2 {
                if matches!(answer, Answer::Unknown(_)) {
                    answer = self.ask(&runtime).await;
                }
            }
            let message = Told { key: self.key.clone(), answer };
            if told.send(message).await.is_err() {
                return;
            }
        }
    }

    async fn ask(&self, runtime: &Arc<dyn Runtime>) -> Answer {
        check::check(runtime, &self.key.id, &self.container, &self.probe, &self.pod_ip).await
    }
}
