//! Counters of the apiserver, under the names that Kubernetes' dashboards know.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    verb: String,
    code: String,
}

/// All counters.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    durations: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<Request, Counter>::default();
        registry.register("apiserver_request", "Requests by method and code", requests.clone());
        let buckets = [0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
        let durations = Histogram::new(buckets);
        registry.register("apiserver_request_duration_seconds", "How long requests took to their headers", durations.clone());
        Self { registry, requests, durations }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, method: &str, code: u16, took: Duration) {
        self.requests.get_or_create(&Request { verb: method.to_owned(), code: code.to_string() }).inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// All counters as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}
