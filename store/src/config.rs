//! What a replica is told when it starts, and the identities that follow from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use balsa_process::tls::TlsFiles;

use crate::raft::{Members, Peer};
use crate::{compaction, duration};

/// Flags of `balsa-store`; each is also an environment variable.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "balsa-store", about = "A replica of Balsa's store: etcd v3 over Raft and RocksDB", version)]
#[command(after_help = "Tools: balsa-store backup | restore | verify | dump, each with --help")]
pub struct Config {
    /// This replica's name; must be in --initial-cluster.
    #[arg(long, env = "BALSA_NAME", default_value = "store1")]
    pub name: String,
    /// Where everything is kept.
    #[arg(long, env = "BALSA_DATA_DIR")]
    pub data_dir: PathBuf,
    /// etcd v3 gRPC for clients.
    #[arg(long, env = "BALSA_LISTEN_CLIENT", default_value = "127.0.0.1:2379")]
    pub listen_client: SocketAddr,
    /// Raft for the other replicas.
    #[arg(long, env = "BALSA_LISTEN_PEER", default_value = "127.0.0.1:2380")]
    pub listen_peer: SocketAddr,
    /// /metrics and /health.
    #[arg(long, env = "BALSA_LISTEN_METRICS", default_value = "127.0.0.1:2381")]
    pub listen_metrics: SocketAddr,
    /// How clients reach this replica; shown to them, default the listening address.
    #[arg(long, env = "BALSA_ADVERTISE_CLIENT", value_name = "URL")]
    pub advertise_client: Option<String>,
    /// How the other replicas reach this one; default its entry in --initial-cluster.
    #[arg(long, env = "BALSA_ADVERTISE_PEER", value_name = "URL")]
    pub advertise_peer: Option<String>,
    /// All replicas of a new cluster: NAME=PEER_URL,...; default this one alone.
    #[arg(long, env = "BALSA_INITIAL_CLUSTER", default_value = "")]
    pub initial_cluster: String,
    /// Whether this replica begins a new cluster or joins an existing one, to which it was added by `member add`.
    #[arg(long, env = "BALSA_INITIAL_CLUSTER_STATE", default_value = "new")]
    pub initial_cluster_state: ClusterState,
    /// Keeps clusters with the same names apart.
    #[arg(long, env = "BALSA_CLUSTER_TOKEN", default_value = "balsa")]
    pub cluster_token: String,
    /// Identity; without it everything is plaintext and only loopback addresses are listened on.
    #[command(flatten)]
    pub tls: Option<TlsFiles>,
    /// How often a leader says that it is there, milliseconds.
    #[arg(long, env = "BALSA_HEARTBEAT_INTERVAL", default_value_t = 150)]
    pub heartbeat_interval: u64,
    /// Shortest time without a leader after which one is elected, milliseconds; the longest is twice that.
    #[arg(long, env = "BALSA_ELECTION_TIMEOUT", default_value_t = 800)]
    pub election_timeout: u64,
    /// Log entries after which a snapshot is taken and the log before it cut.
    #[arg(long, env = "BALSA_SNAPSHOT_COUNT", default_value_t = 50_000)]
    pub snapshot_count: u64,
    /// Log entries that are kept in front of a snapshot, for replicas that were away shortly.
    #[arg(long, env = "BALSA_SNAPSHOT_CATCHUP_ENTRIES", default_value_t = 5_000)]
    pub snapshot_catchup_entries: u64,
    /// Largest request, bytes.
    #[arg(long, env = "BALSA_MAX_REQUEST_BYTES", default_value_t = 1_572_864)]
    pub max_request_bytes: usize,
    /// Most operations in a transaction.
    #[arg(long, env = "BALSA_MAX_TXN_OPS", default_value_t = 128)]
    pub max_txn_ops: usize,
    /// Size of the state, bytes, above which only reads, deletions and compactions are let in and the alarm NOSPACE is
    /// raised; 0: 2 GiB, negative: no limit.
    #[arg(long, env = "BALSA_QUOTA_BACKEND_BYTES", default_value_t = 0, allow_negative_numbers = true)]
    pub quota_backend_bytes: i64,
    /// Most learners at one time.
    #[arg(long, env = "BALSA_MAX_LEARNERS", default_value_t = 1)]
    pub max_learners: usize,
    /// Whether changes of the membership that would cost the majority are refused.
    #[arg(long, env = "BALSA_STRICT_RECONFIG_CHECK", default_value_t = true, action = clap::ArgAction::Set)]
    pub strict_reconfig_check: bool,
    /// How often the time left to long leases is noted for the next leader, seconds; 0: never.
    #[arg(long, env = "BALSA_LEASE_CHECKPOINT_INTERVAL", default_value_t = 300)]
    pub lease_checkpoint_interval: u64,
    /// What --auto-compaction-retention counts.
    #[arg(long, env = "BALSA_AUTO_COMPACTION_MODE", default_value = "periodic")]
    pub auto_compaction_mode: compaction::plan::Mode,
    /// How much history is kept when it is compacted by itself: a time (10m; without a unit hours) or a number of
    /// revisions; 0: nothing is compacted by itself.
    #[arg(long, env = "BALSA_AUTO_COMPACTION_RETENTION", default_value = "0")]
    pub auto_compaction_retention: String,
    /// Compare the own data with the peers' before anybody is served, and refuse to start when it differs.
    #[arg(long, alias = "experimental-initial-corrupt-check", env = "BALSA_INITIAL_CORRUPT_CHECK",
          default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true,
          action = clap::ArgAction::Set)]
    pub initial_corrupt_check: bool,
    /// How often the leader compares the members' data and raises the alarm CORRUPT for who differs, such as 1h; 0:
    /// never.
    #[arg(long, alias = "experimental-corrupt-check-time", env = "BALSA_CORRUPT_CHECK_TIME", default_value = "0",
          value_parser = duration::parse)]
    pub corrupt_check_time: Duration,
    /// What kind of tokens clients get when they log in: simple, or
    /// jwt,sign-method=METHOD,priv-key=FILE,pub-key=FILE,ttl=10m. All members need the same.
    #[arg(long, env = "BALSA_AUTH_TOKEN", default_value = "simple")]
    pub auth_token: String,
    /// The cost of passwords' bcrypt, 4 to 31; each more takes twice the time.
    #[arg(long, env = "BALSA_BCRYPT_COST", default_value_t = 10, value_parser = clap::value_parser!(u32).range(4..=31))]
    pub bcrypt_cost: u32,
    /// Writes that may wait for their commit; more are refused.
    #[arg(long, env = "BALSA_MAX_PENDING_WRITES", default_value_t = 10_000)]
    pub max_pending_writes: usize,
    /// How long a request waits for a leader and for its commit, milliseconds.
    #[arg(long, env = "BALSA_REQUEST_TIMEOUT", default_value_t = 7_000)]
    pub request_timeout: u64,
    /// How often a watcher that asked for it hears that nothing happened, seconds.
    #[arg(long, env = "BALSA_WATCH_PROGRESS_NOTIFY_INTERVAL", default_value_t = 600)]
    pub watch_progress_notify_interval: u64,
}

/// Whether there is a cluster already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ClusterState {
    /// No: all of --initial-cluster begin it.
    New,
    /// Yes: this replica asks the others in --initial-cluster who it is.
    Existing,
}

/// etcd's quota where none is asked for, bytes.
const DEFAULT_QUOTA: i64 = 2 << 30;

impl Config {
    /// The quota in bytes as clients are shown it; `None` for no limit.
    pub fn quota(&self) -> Option<u64> {
        let asked = if self.quota_backend_bytes == 0 { DEFAULT_QUOTA } else { self.quota_backend_bytes };
        u64::try_from(asked).ok()
    }

    /// What is kept when history is compacted by itself; `None`: it is not.
    pub fn retention(&self) -> anyhow::Result<Option<compaction::plan::Retention>> {
        let read = compaction::plan::Retention::of(self.auto_compaction_mode, &self.auto_compaction_retention);
        read.map_err(|problem| anyhow::anyhow!("--auto-compaction-retention: {problem}"))
    }

    /// For tests and the all-in-one process: a cluster of one on free loopback ports.
    pub fn single(data_dir: impl Into<PathBuf>) -> Self {
        let args = ["balsa-store", "--data-dir", "."];
        let mut config = <Self as clap::Parser>::parse_from(args);
        config.data_dir = data_dir.into();
        for address in [&mut config.listen_client, &mut config.listen_peer, &mut config.listen_metrics] {
            *address = SocketAddr::from(([127, 0, 0, 1], 0));
        }
        config
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout)
    }

    /// The members of a new cluster, by id.
    pub fn members(&self) -> anyhow::Result<Members> {
        self.members_by(if self.tls.is_some() { "https" } else { "http" })
    }

    /// The same, with the scheme that their URLs must have.
    pub fn members_by(&self, scheme: &str) -> anyhow::Result<Members> {
        let mut members = Members::new();
        for part in self.initial_cluster.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, url) =
                part.split_once('=').with_context(|| format!("--initial-cluster: {part:?} is not NAME=URL"))?;
            ensure!(!name.is_empty(), "--initial-cluster: {part:?} has no name");
            ensure!(
                url.starts_with(&format!("{scheme}://")),
                "--initial-cluster: {url} of {name} must begin with {scheme}:// ({})",
                if scheme == "https" { "an identity is given" } else { "no identity is given" }
            );
            let peer = Peer { name: name.to_owned(), peer_url: url.to_owned(), ..Peer::default() };
            if members.insert(member_id(name), peer).is_some() {
                bail!("--initial-cluster names {name} twice");
            }
        }
        if members.is_empty() {
            let peer_url = self.advertise_peer.clone().unwrap_or_else(|| format!("{scheme}://{}", self.listen_peer));
            let peer = Peer { name: self.name.clone(), peer_url, ..Peer::default() };
            members.insert(member_id(&self.name), peer);
        }
        ensure!(members.contains_key(&member_id(&self.name)), "--name {} is not in --initial-cluster", self.name);
        Ok(members)
    }

    /// Refuses what would be unsafe or could not work.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.heartbeat_interval > 0 && self.election_timeout >= 3 * self.heartbeat_interval,
            "--election-timeout {} must be at least three times --heartbeat-interval {}",
            self.election_timeout,
            self.heartbeat_interval
        );
        ensure!(self.snapshot_count > 0, "--snapshot-count must not be 0");
        self.retention()?;
        if self.tls.is_none() {
            for address in [self.listen_client, self.listen_peer, self.listen_metrics] {
                ensure!(
                    address.ip().is_loopback(),
                    "without --tls-ca, --tls-cert and --tls-key only loopback addresses are listened on, not {address}"
                );
            }
        }
        Ok(())
    }
}

/// FNV-1a, 64 bits: spreads names over ids, and is the same everywhere and always.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A member's id: from its name alone, so that addresses may change. Never 0, and positive as a signed number.
pub fn member_id(name: &str) -> u64 {
    (hash(&["member", name]) >> 1).max(1)
}

/// The id of a member that is added later: from its URLs and what else tells it from others. Above those of
/// [`member_id`] by chance only, so callers mix in a place in the log that is never used twice.
pub fn added_member_id<'a>(parts: impl Iterator<Item = &'a str>) -> u64 {
    let parts: Vec<&str> = std::iter::once("added").chain(parts).collect();
    (hash(&parts) >> 1).max(1)
}

/// The cluster's id: from its token and the names of its first members.
pub fn cluster_id(token: &str, members: &Members) -> u64 {
    let mut parts = vec!["cluster", token];
    parts.extend(members.values().map(|peer| peer.name.as_str()));
    (hash(&parts) >> 1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_read_from_one_flag_and_nonsense_is_refused() {
        let mut config = Config::single("/nowhere");
        assert_eq!(config.members().unwrap().len(), 1);
        for (cluster, members) in [
            ("store1=http://a:1,store2=http://b:1, store3=http://c:1", Some(3)),
            ("store2=http://b:1", None),
            ("store1=https://a:1", None),
            ("store1", None),
            ("store1=http://a:1,store1=http://b:1", None),
        ] {
            config.initial_cluster = cluster.to_owned();
            assert_eq!(config.members().ok().map(|members| members.len()), members, "{cluster}");
        }
    }

    #[test]
    fn plaintext_stays_on_the_machine() {
        let mut config = Config::single("/nowhere");
        config.check().unwrap();
        config.listen_client = SocketAddr::from(([0, 0, 0, 0], 2379));
        assert!(config.check().unwrap_err().to_string().contains("loopback"));
    }
}
