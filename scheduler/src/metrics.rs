//! What the scheduler counts. The names are those of kube-scheduler where it has them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::queue::Lengths;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

/// See the module. Clones share the values.
#[derive(Clone)]
pub struct Metrics {
    attempts: Family<ResultLabel, Counter>,
    pending: Family<QueueLabel, Gauge>,
    duration: Histogram,
    leading: Gauge,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            pending: Family::default(),
            duration: Histogram::new(exponential_buckets(0.00001, 2.0, 20)),
            leading: Gauge::default(),
        };
        registry.register(
            "scheduler_schedule_attempts",
            "Attempts to schedule pods, by result",
            metrics.attempts.clone(),
        );
        registry.register("scheduler_pending_pods", "Pods that wait, by queue", metrics.pending.clone());
        registry.register(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Time of one cycle without binding",
            metrics.duration.clone(),
        );
        registry.register("scheduler_leading", "1 while this copy leads", metrics.leading.clone());
        metrics
    }

    /// One cycle took so many seconds.
    pub fn cycle(&self, seconds: f64) {
        self.duration.observe(seconds);
    }

    /// An attempt ended as `scheduled`, `unschedulable` or `error`.
    pub fn attempt(&self, result: &'static str) {
        self.attempts.get_or_create(&ResultLabel { result }).inc();
    }

    /// Whether this copy leads.
    pub fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    /// How many pods wait where.
    pub fn lengths(&self, lengths: Lengths) {
        let Lengths { active, backoff, unschedulable, gated } = lengths;
        for (queue, length) in
            [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)]
        {
            self.pending.get_or_create(&QueueLabel { queue }).set(i64::try_from(length).unwrap_or(i64::MAX));
        }
    }
}
