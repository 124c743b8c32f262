//! Figures under the names that etcd's dashboards know.

use std::sync::Arc;

use balsa_proto::etcd::etcdserverpb::{AlarmMember, AlarmType};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::grpc::VERSION;
use crate::grpc::calls::{Calls, Shown};
use crate::process::Figures;

/// A version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Version {
    /// `3.6.0`.
    pub server_version: String,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Member {
    /// Its id as etcd's tools print it.
    pub server_id: String,
}

/// An alarm of a member.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Alarm {
    /// The member's id.
    pub server_id: String,
    /// `NOSPACE` or `CORRUPT`.
    pub alarm_type: String,
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
    /// Time of a write of applied entries to the state, seconds.
    pub backend_commit: Histogram,
    /// Batches of entries that took longer than 100 ms to apply.
    pub slow_apply: Counter,
    /// 1 while this replica is a learner.
    pub is_learner: Gauge,
    /// The quota, bytes.
    pub quota: Gauge,
    /// Keys that live.
    pub keys: Gauge,
    /// Leases.
    pub leases: Gauge,
    /// Raised alarms.
    pub alarms: Family<Alarm, Gauge>,
    /// `/health` said that all is well.
    pub health_success: Counter,
    /// It said that it is not.
    pub health_failures: Counter,
    /// Client requests by method and status.
    pub calls: Arc<Calls>,
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
            backend_commit: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            slow_apply: Counter::default(),
            is_learner: Gauge::default(),
            quota: Gauge::default(),
            keys: Gauge::default(),
            leases: Gauge::default(),
            alarms: Family::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            calls: Arc::default(),
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
        registry.register("etcd_debugging_mvcc_keys_total", "Versions of keys, roughly", m.keys.clone());
        registry.register("etcd_debugging_lease_total", "Leases", m.leases.clone());
        registry.register("etcd_disk_backend_commit_duration_seconds", "Write of the state", m.backend_commit.clone());
        registry.register("etcd_server_slow_apply", "Batches that were slow to apply", m.slow_apply.clone());
        registry.register("etcd_server_is_learner", "Whether this replica is a learner", m.is_learner.clone());
        registry.register("etcd_server_quota_backend_bytes", "Space quota", m.quota.clone());
        registry.register("etcd_server_alarms", "Raised alarms", m.alarms.clone());
        registry.register("etcd_server_health_success", "Health checks that passed", m.health_success.clone());
        registry.register("etcd_server_health_failures", "Health checks that failed", m.health_failures.clone());
        registry.register_collector(Box::new(Shown(m.calls.clone())));
        registry.register_collector(Box::new(Figures));
        metrics
    }

    /// What never changes while a replica runs.
    pub fn identify(&self, registry: &mut Registry, id: u64, quota: Option<u64>) {
        let (version, member) = (Family::<Version, Gauge>::default(), Family::<Member, Gauge>::default());
        version.get_or_create(&Version { server_version: VERSION.to_owned() }).set(1);
        member.get_or_create(&Member { server_id: format!("{id:x}") }).set(1);
        registry.register("etcd_server_version", "Which version clients see", version);
        registry.register("etcd_server_id", "This member", member);
        self.quota.set(quota.and_then(|quota| i64::try_from(quota).ok()).unwrap_or(-1));
    }

    /// Shows these alarms and no others.
    pub fn show_alarms(&self, alarms: &[AlarmMember]) {
        self.alarms.clear();
        for alarm in alarms {
            let kind = AlarmType::try_from(alarm.alarm).map_or("NONE", |kind| kind.as_str_name());
            let shown = Alarm { server_id: format!("{:x}", alarm.member_id), alarm_type: kind.to_owned() };
            self.alarms.get_or_create(&shown).set(1);
        }
    }
}
