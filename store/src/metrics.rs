//! Figures under the names that etcd's dashboards know.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A method of a gRPC service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    /// Its name.
    pub method: String,
}

/// All figures of a replica.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// 1 while a leader is known.
    pub has_leader: Gauge,
    /// 1 while this replica leads.
    pub is_leader: Gauge,
    /// Leader changes seen.
    pub leader_changes: Counter,
    /// The commit index.
    pub committed: Gauge,
    /// The applied index.
    pub applied: Gauge,
    /// Writes that wait for their commit.
    pub pending: Gauge,
    /// Writes that failed.
    pub failed: Counter,
    /// Time of a write to the log with its sync, seconds.
    pub fsync: Histogram,
    /// Requests that shared a sync.
    pub group: Histogram,
    /// From proposal to answer, seconds.
    pub commit: Histogram,
    /// Bytes of the state.
    pub db_size: Gauge,
    /// Of those, live.
    pub db_size_in_use: Gauge,
    /// Watchers.
    pub watchers: Gauge,
    /// Times that a watch stream had to fall back on the disk.
    pub slow_watchers: Counter,
    /// Events sent.
    pub events: Counter,
    /// The revision.
    pub revision: Gauge,
    /// The compacted revision.
    pub compacted: Gauge,
    /// Client requests by method.
    pub requests: Family<Method, Counter>,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            has_leader: Gauge::default(),
            is_leader: Gauge::default(),
            leader_changes: Counter::default(),
            committed: Gauge::default(),
            applied: Gauge::default(),
            pending: Gauge::default(),
            failed: Counter::default(),
            fsync: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            group: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            commit: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            db_size: Gauge::default(),
            db_size_in_use: Gauge::default(),
            watchers: Gauge::default(),
            slow_watchers: Counter::default(),
            events: Counter::default(),
            revision: Gauge::default(),
            compacted: Gauge::default(),
            requests: Family::default(),
        };
        let m = &metrics;
        // The library adds `_total` to counters by itself.
        registry.register("etcd_server_has_leader", "Whether a leader is known", m.has_leader.clone());
        registry.register("etcd_server_is_leader", "Whether this replica leads", m.is_leader.clone());
        registry.register("etcd_server_leader_changes_seen", "Leader changes seen", m.leader_changes.clone());
        registry.register("etcd_server_proposals_committed_total", "Committed log index", m.committed.clone());
        registry.register("etcd_server_proposals_applied_total", "Applied log index", m.applied.clone());
        registry.register("etcd_server_proposals_pending", "Writes that wait for their commit", m.pending.clone());
        registry.register("etcd_server_proposals_failed", "Writes that failed", m.failed.clone());
        registry.register("etcd_disk_wal_fsync_duration_seconds", "Write and sync of the log", m.fsync.clone());
        registry.register("balsa_store_log_group_size", "Requests that share a sync", m.group.clone());
        registry.register("balsa_store_commit_duration_seconds", "From proposal to answer", m.commit.clone());
        registry.register("etcd_mvcc_db_total_size_in_bytes", "Size of the state", m.db_size.clone());
        registry.register(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Size of the state's live data",
            m.db_size_in_use.clone(),
        );
        registry.register("etcd_debugging_mvcc_watcher_total", "Watchers", m.watchers.clone());
        registry.register(
            "etcd_debugging_mvcc_slow_watcher",
            "Times that a watch stream fell back on the disk",
            m.slow_watchers.clone(),
        );
        registry.register("etcd_debugging_mvcc_events", "Events sent to watchers", m.events.clone());
        registry.register("etcd_debugging_mvcc_current_revision", "Revision", m.revision.clone());
        registry.register("etcd_debugging_mvcc_compact_revision", "Compacted revision", m.compacted.clone());
        registry.register("balsa_store_requests", "Client requests", m.requests.clone());
        metrics
    }

    /// Counts a client request.
    pub fn count(&self, method: &'static str) {
        self.requests.get_or_create(&Method { method: method.to_owned() }).inc();
    }
}
