//! The flags as openraft's parameters.

use anyhow::Context as _;

use crate::config::Config;

/// Of a cluster's replicas.
pub(crate) fn raft_config(config: &Config, cluster_id: u64) -> anyhow::Result<openraft::Config> {
    let raft = openraft::Config {
        cluster_name: format!("balsa-{cluster_id:x}"),
        heartbeat_interval: config.heartbeat_interval,
        election_timeout_min: config.election_timeout,
        election_timeout_max: 2 * config.election_timeout,
        install_snapshot_timeout: 60_000,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(config.snapshot_count),
        max_in_snapshot_log_to_keep: config.snapshot_catchup_entries,
        replication_lag_threshold: config.snapshot_count.max(config.snapshot_catchup_entries),
        purge_batch_size: 256.min(config.snapshot_count),
        max_payload_entries: 512,
        enable_pre_vote: Some(true),
        broadcast_submitted_on_append: Some(true),
        // Followers may hold entries of ours that our own disk lost: in the same term they would be given out twice.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    };
    raft.validate().context("the consensus parameters do not fit together")
}
