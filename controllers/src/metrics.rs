//! What the controllers count.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    controller: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    controller: String,
    outcome: &'static str,
}

/// Clones share the numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    reconciles: Family<OutcomeLabels, Counter>,
    durations: Family<Labels, Histogram>,
    leading: Gauge,
}

impl Metrics {
    /// Fresh numbers, shown by `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 8))),
            leading: Gauge::default(),
        };
        let (reconciles, durations) = (metrics.reconciles.clone(), metrics.durations.clone());
        registry.register("balsa_controllers_reconciles", "Reconciled keys by controller and outcome", reconciles);
        registry.register("balsa_controllers_reconcile_seconds", "Time of one reconcile", durations);
        registry.register("balsa_controllers_leading", "1 while this copy leads", metrics.leading.clone());
        metrics
    }

    /// One key was reconciled.
    pub fn reconciled(&self, controller: &str, took: Duration, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.reconciles.get_or_create(&OutcomeLabels { controller: controller.to_owned(), outcome }).inc();
        self.durations.get_or_create(&Labels { controller: controller.to_owned() }).observe(took.as_secs_f64());
    }

    /// Whether this copy leads.
    pub fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }
}
