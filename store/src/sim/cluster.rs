//! The replicas of a simulated cluster: put together from the store's own parts, crashed and started again.

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::truth::Recorder;
use super::world::{self, Place, Running};
use super::disk;
use crate::config::Config;
use crate::disk::log::LogDisk;
use crate::disk::state::State;
use crate::lease::expirer;
use crate::member::{self, Identity};
use crate::metrics::Metrics;
use crate::raft::Raft;
use crate::raft::log_store::LogStore;
use crate::raft::network::Network;
use crate::raft::state_machine::StateMachine;
use crate::replica::{Applied, Parts, Replica};
use crate::server;

/// Replicas that there ever are in a world.
pub const MOST: usize = 12;

/// A replica's name.
pub fn name(number: usize) -> String {
    format!("store{}", number + 1)
}

/// Where a replica's peers reach it.
pub fn url(number: usize) -> String {
    format!("http://{}:1", name(number))
}

/// A replica's member id.
pub fn id_of(number: usize) -> u64 {
    world::with(|world| world.places.get(number).map_or(0, |place| place.identity.id)).unwrap_or(0)
}

/// The replica with a member id.
pub fn number_of(id: u64) -> Option<usize> {
    world::with(|world| world.places.iter().position(|place| place.identity.id == id)).flatten()
}

/// Replicas that there were in this world so far.
pub fn size() -> usize {
    world::with(|world| world.places.len()).unwrap_or(0)
}

/// Those that are members, or on their way to be.
pub fn present() -> Vec<usize> {
    let all = world::with(|world| (0..world.places.len()).filter(|number| !world.places[*number].gone).collect());
    all.unwrap_or_default()
}

/// Whether nobody counts on a replica any more.
pub fn is_gone(number: usize) -> bool {
    world::with(|world| world.places.get(number).is_none_or(|place| place.gone)).unwrap_or(true)
}

/// One of those that are present; now and then one that was removed.
pub fn somebody() -> usize {
    let present = present();
    if present.is_empty() || world::chance(20) {
        return world::below(size() as u64) as usize;
    }
    present[world::below(present.len() as u64) as usize]
}

fn root(number: usize) -> PathBuf {
    PathBuf::from(format!("/simulated/{}", name(number)))
}

/// The flags of a replica of a cluster that `founders` began.
fn flags(number: usize, founders: usize) -> Config {
    let snapshots = world::with(|world| world.snapshots).unwrap_or(0);
    let mut config = Config::single(root(number));
    config.name = name(number);
    let peers = (0..founders).map(|number| format!("{}={}", name(number), url(number)));
    config.initial_cluster = peers.collect::<Vec<_>>().join(",");
    config.snapshot_count = snapshots;
    config.snapshot_catchup_entries = snapshots / 4;
    config.request_timeout = 3_000;
    // Some worlds note how much is left of a lease as often as can be.
    config.lease_checkpoint_interval = snapshots % 2;
    config
}

/// A place for a replica that begins the cluster with others; its number.
pub fn found(founders: usize, rate: u64) -> anyhow::Result<usize> {
    let number = size();
    let identity = member::of_flags(&flags(number, founders))?;
    Ok(settle_down(identity, rate))
}

/// A place with an empty disk for a replica with this identity; its number.
pub fn settle_down(identity: Identity, rate: u64) -> usize {
    world::with(|world| world.places.push(Place::new(identity, rate)));
    size() - 1
}

/// Starts a replica on what its disk holds, unless it is up.
pub async fn start(number: usize) {
    if world::running(number).is_some() {
        return;
    }
    let place = world::with(|world| world.places.get(number).map(|place| (place.identity.clone(), place.rate)));
    let Some((identity, rate)) = place.flatten() else { return };
    let node = Node::new(number, rate);
    let config = flags(number, identity.members.len());
    let assembled = node.spawn(assemble(number, identity, config)).await;
    match assembled {
        Ok(Ok(replica)) => {
            world::note(format_args!("store{} starts", number + 1));
            world::with(|world| world.places[number].running = Some(Running { node, replica }));
        }
        Ok(Err(error)) => world::halt(format!("store{} does not start: {error:#}", number + 1)),
        Err(error) => world::halt(format!("store{} does not start: {error}", number + 1)),
    }
}

/// As [`server`] does it, without ports.
async fn assemble(number: usize, identity: Identity, config: Config) -> anyhow::Result<Arc<Replica>> {
    let Identity { id, cluster_id, members, begins } = identity;
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
    if begins {
        crate::rt::spawn(server::bootstrap(replica.clone(), members));
    }
    crate::rt::spawn(server::compact(replica.clone(), applied));
    crate::rt::spawn(expirer::run(replica.clone()));
    crate::rt::spawn(follow_leaders(number, replica.clone()));
    let stopped = replica.clone();
    crate::rt::spawn(async move {
        stop.cancelled().await;
        let leaving = world::with(|world| world.places[number].leaving).unwrap_or(false);
        if stopped.is_removed() && leaving {
            world::note(format_args!("store{} stops, because it was removed", number + 1));
            retire(number);
        } else {
            world::halt(format!("store{} stops by itself", number + 1));
        }
    });
    Ok(replica)
}

/// Everybody who knows who leads a term knows the same.
async fn follow_leaders(number: usize, replica: Arc<Replica>) {
    let mut leadership = replica.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if let Some(leader) = now.leader {
            let known = world::with(|world| *world.truth.leaders.entry(now.term).or_insert(leader)).unwrap_or(leader);
            if known != leader {
                let text = format!("store{} follows {leader:x} in term {}, others {known:x}", number + 1, now.term);
                world::violation(text);
            }
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// kill -9 and, with it, the loss of what was not synced.
pub fn crash(number: usize) {
    let running = world::with(|world| world.places.get_mut(number)?.running.take()).flatten();
    if let Some(running) = running {
        running.node.kill();
        disk::crash(&root(number));
        world::note(format_args!("store{} crashes", number + 1));
    }
}

/// Ends a replica for good.
pub fn retire(number: usize) {
    world::with(|world| world.places[number].gone = true);
    crash(number);
}

/// The replica that thinks it leads in the highest term.
pub fn leader() -> Option<usize> {
    let leaders = present().into_iter().filter_map(|number| {
        let running = world::running(number)?;
        let leadership = *running.replica.leadership().borrow();
        (leadership.leader == Some(id_of(number))).then_some((leadership.term, number))
    });
    leaders.max().map(|(_, number)| number)
}
