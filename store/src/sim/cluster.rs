//! The replicas of a simulated cluster: put together from the store's own parts, crashed and started again.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::truth::Recorder;
use super::world::{self, Running};
use super::disk;
use crate::config::{self, Config};
use crate::disk::log::LogDisk;
use crate::disk::state::State;
use crate::lease::expirer;
use crate::metrics::Metrics;
use crate::raft::Raft;
use crate::raft::log_store::LogStore;
use crate::raft::network::Network;
use crate::raft::state_machine::StateMachine;
use crate::replica::{Applied, Parts, Replica};
use crate::server;

/// The largest cluster.
pub const MOST: usize = 5;

fn name(number: usize) -> String {
    format!("store{}", number + 1)
}

fn ids() -> &'static [u64; MOST] {
    static IDS: OnceLock<[u64; MOST]> = OnceLock::new();
    IDS.get_or_init(|| std::array::from_fn(|number| config::member_id(&name(number))))
}

/// A replica's member id.
pub fn id_of(number: usize) -> u64 {
    ids()[number]
}

/// The replica with a member id.
pub fn number_of(id: u64) -> usize {
    ids().iter().position(|known| *known == id).unwrap_or(usize::MAX)
}

/// Replicas in this world.
pub fn size() -> usize {
    world::with(|world| world.running.len()).unwrap_or(0)
}

fn root(number: usize) -> PathBuf {
    PathBuf::from(format!("/simulated/{}", name(number)))
}

/// The flags of a replica; `snapshots` entries after which a snapshot is taken.
fn flags(number: usize, snapshots: u64) -> Config {
    let mut config = Config::single(root(number));
    config.name = name(number);
    let peers = (0..size()).map(|number| format!("{}=http://{}", name(number), name(number)));
    config.initial_cluster = peers.collect::<Vec<_>>().join(",");
    config.snapshot_count = snapshots;
    config.snapshot_catchup_entries = snapshots / 4;
    config.request_timeout = 3_000;
    // Some worlds note how much is left of a lease as often as can be.
    config.lease_checkpoint_interval = snapshots % 2;
    config
}

/// Starts a replica on what its disk holds; `rate` is its clock's, millionths.
pub async fn start(number: usize, rate: u64, snapshots: u64) {
    let node = Node::new(number, rate);
    let config = flags(number, snapshots);
    let assembled = node.spawn(assemble(number, config)).await;
    match assembled {
        Ok(Ok(replica)) => {
            world::note(format_args!("store{} starts", number + 1));
            world::with(|world| world.running[number] = Some(Running { node, replica }));
        }
        Ok(Err(error)) => world::violation(format!("store{} does not start: {error:#}", number + 1)),
        Err(error) => world::violation(format!("store{} does not start: {error}", number + 1)),
    }
}

/// As [`server`] does it, without ports.
async fn assemble(number: usize, config: Config) -> anyhow::Result<Arc<Replica>> {
    let members = config.members()?;
    let (id, cluster_id) = (id_of(number), config::cluster_id(&config.cluster_token, &members));
    let stop = CancellationToken::new();
    let metrics = Metrics::new(&mut Registry::default());
    let state = State::open(&config.data_dir)?;
    let log = LogDisk::open(&config.data_dir, |_| ())?;
    let applied = Arc::new(Applied::new(state.clone(), metrics.clone(), config.lease_checkpoint_interval.saturating_mul(1_000)));
    let recorder = Arc::new(Recorder { inner: applied.clone(), state: state.clone(), number });
    let machine = StateMachine::open(state.clone(), recorder)?;
    let log = LogStore::open(log, state)?;
    let network = Network::new(id, cluster_id, None);
    let raft_config = Arc::new(server::raft_config(&config, cluster_id)?);
    let raft = Raft::new(id, raft_config, network.clone(), log, machine).await?;
    let parts = Parts {
        config,
        id,
        cluster_id,
        members: members.clone(),
        raft,
        network,
        applied: applied.clone(),
        metrics,
        client_url: format!("http://{}", name(number)),
        stop: stop.clone(),
    };
    let replica = Replica::start(parts);
    crate::rt::spawn(server::bootstrap(replica.clone(), members));
    crate::rt::spawn(server::compact(replica.clone(), applied));
    crate::rt::spawn(expirer::run(replica.clone()));
    crate::rt::spawn(async move {
        stop.cancelled().await;
        world::violation(format!("store{} stops by itself", number + 1));
    });
    Ok(replica)
}

/// kill -9 and, with it, the loss of what was not synced.
pub fn crash(number: usize) {
    let running = world::with(|world| world.running[number].take()).flatten();
    if let Some(running) = running {
        running.node.kill();
        disk::crash(&root(number));
        world::note(format_args!("store{} crashes", number + 1));
    }
}

/// The replica that thinks it leads in the highest term.
pub fn leader() -> Option<usize> {
    let leaders = (0..size()).filter_map(|number| {
        let running = world::running(number)?;
        let leadership = *running.replica.leadership().borrow();
        (leadership.leader == Some(id_of(number))).then_some((leadership.term, number))
    });
    leaders.max().map(|(_, number)| number)
}
