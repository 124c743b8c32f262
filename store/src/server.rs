//! Puts a replica together and serves its three ports.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use balsa_process::observe;
use balsa_process::tls::{ClientCertificate, TlsIdentity};
use balsa_proto::etcd::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};
use balsa_proto::etcd::v3electionpb::election_server::ElectionServer;
use balsa_proto::etcd::v3lockpb::lock_server::LockServer;
use balsa_proto::raft::raft_server::RaftServer;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::config::Config;
use crate::disk::log::LogDisk;
use crate::disk::state::State;
use crate::disk::checkpoint;
use crate::grpc::Service;
use crate::http;
use crate::lease::expirer;
use crate::member::{self, Identity};
use crate::metrics::Metrics;
use crate::raft::log_store::LogStore;
use crate::raft::network::{MAX_MESSAGE, Network};
use crate::raft::server::PeerService;
pub(crate) use crate::raft::settings::raft_config;
use crate::raft::handle;
use crate::raft::state_machine::{self, StateMachine};
use crate::raft::{Members, Raft};
use crate::replica::applied::flag;
use crate::replica::{Applied, Parts, Replica};
use crate::{compaction, corruption, gateway, jwt, tls};

/// A running replica and where it is reached.
pub struct Handle {
    /// etcd v3.
    pub client_addr: SocketAddr,
    /// Raft.
    pub peer_addr: SocketAddr,
    /// Health and metrics.
    pub metrics_addr: SocketAddr,
    /// The replica itself.
    pub replica: Arc<Replica>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Handle {
    /// Waits until the replica has stopped, by its token or by a fault (which is the error).
    pub async fn finished(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.context("a task of the store failed").and_then(|ended| ended);
            if let Err(error) = ended {
                self.stop.cancel();
                result = result.and(Err(error));
            }
        }
        result
    }

    /// Stops the replica and waits for it.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.finished().await
    }
}

/// Runs a replica until `stop`.
// Boxed, here and in `start`, so that the machine code is made once, in this crate, and not in each that calls it.
pub fn run(config: Config, stop: CancellationToken) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move { start(config, stop).await?.finished().await })
}

/// Starts a replica; it listens when this returns.
pub fn start(config: Config, stop: CancellationToken) -> BoxFuture<'static, anyhow::Result<Handle>> {
    Box::pin(assemble(config, stop))
}

async fn assemble(config: Config, stop: CancellationToken) -> anyhow::Result<Handle> {
    config.check()?;
    let signer = jwt::of_flag(&config.auth_token)?;
    let stop = stop.child_token();
    let identity = config.tls.as_ref().map(|files| files.load()).transpose()?;
    let Identity { id, cluster_id, members, begins } = member::identify(&config, identity.as_ref()).await?;
    let client = observe::bind(config.listen_client).await?;
    let peer = observe::bind(config.listen_peer).await?;
    let metrics_port = observe::bind(config.listen_metrics).await?;
    let (client_addr, peer_addr, metrics_addr) = (client.local_addr()?, peer.local_addr()?, metrics_port.local_addr()?);

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    metrics.identify(&mut registry, id, config.quota());
    let (state, log) = open_disk(config.data_dir.clone(), metrics.clone()).await?;
    let applied = Arc::new(Applied::new(state.clone(), metrics.clone(), config.lease_checkpoint_interval.saturating_mul(1_000)));
    let machine = StateMachine::open(state.clone(), applied.clone())?;
    let log = LogStore::open(log, state.clone())?;
    let network = Network::new(id, cluster_id, identity.clone());
    if config.initial_corrupt_check {
        let known = state_machine::members_of(&state)?.unwrap_or_else(|| members.clone());
        corruption::check(&network, &state, id, &known, config.request_timeout()).await?;
    }
    let raft = Raft::new(id, Arc::new(raft_config(&config, cluster_id)?), network.clone(), log, machine).await?;

    let scheme = if identity.is_some() { "https" } else { "http" };
    let client_url = config.advertise_client.clone().unwrap_or_else(|| format!("{scheme}://{client_addr}"));
    let parts = Parts {
        config: config.clone(),
        id,
        cluster_id,
        members: members.clone(),
        raft: raft.clone(),
        network,
        applied: applied.clone(),
        metrics,
        client_url,
        stop: stop.clone(),
    };
    let replica = Replica::start(parts);
    tracing::info!(name = config.name, %client_addr, %peer_addr, id, cluster_id, "store started");

    let mut tasks = JoinSet::new();
    let registry = Arc::new(registry);
    let service = Service::with_tokens(replica.clone(), signer);
    tasks.spawn(serve_clients(replica.clone(), service, client, identity.clone(), registry.clone()));
    tasks.spawn(serve_peers(replica.clone(), peer, identity.clone()));
    let health_of = replica.clone();
    let health: observe::Health = Arc::new(move || match health_of.leadership().borrow().leader {
        Some(_) => Ok(()),
        None => Err("no leader".to_owned()),
    });
    let observed = observe::serve(metrics_port, identity.clone(), registry, health, stop.clone());
    tasks.spawn(async move { Ok(observed.await?) });
    if begins {
        tasks.spawn(bootstrap(replica.clone(), members));
    }
    tasks.spawn(compact(replica.clone(), applied));
    tasks.spawn(measure(replica.clone()));
    tasks.spawn(done(replica.clone().notice_removal(identity.clone())));
    if let Some(retention) = replica.config().retention()? {
        tasks.spawn(done(compaction::run(replica.clone(), retention)));
    }
    let comparing = replica.config().corrupt_check_time;
    if !comparing.is_zero() {
        tasks.spawn(done(corruption::run(replica.clone(), comparing)));
    }
    tasks.spawn(done(expirer::run(replica.clone())));
    let (raft_stop, stopping) = (stop.clone(), replica.clone());
    tasks.spawn(async move {
        raft_stop.cancelled().await;
        let failed = handle::look(&raft, |seen| seen.fatal());
        raft.shutdown().await.context("consensus did not end")?;
        let removed = stopping.is_removed();
        flush(stopping).await?;
        if removed {
            anyhow::bail!("this member was removed from the cluster");
        }
        match failed {
            Some(fatal) => Err(anyhow::anyhow!("consensus stopped: {fatal}")),
            None => Ok(()),
        }
    });
    Ok(Handle { client_addr, peer_addr, metrics_addr, replica, stop, tasks })
}

/// A task that cannot fail, among those that can.
async fn done(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

/// A planned stop leaves everything flushed, so that the next start has nothing to replay.
async fn flush(replica: Arc<Replica>) -> anyhow::Result<()> {
    let index = replica.hub().applied().borrow().index;
    let state = replica.state().clone();
    Ok(tokio::task::spawn_blocking(move || state.flush(index)).await??)
}

async fn open_disk(root: PathBuf, metrics: Metrics) -> anyhow::Result<(State, LogDisk)> {
    let opened = tokio::task::spawn_blocking(move || {
        let state = State::open(&root)?;
        let log = LogDisk::open(&root, move |synced| {
            metrics.fsync.observe(synced.took.as_secs_f64());
            metrics.group.observe(synced.requests as f64);
        })?;
        Ok::<_, anyhow::Error>((state, log))
    });
    opened.await?
}

/// The first start of a cluster. Every member may do it, because all do the same; the first by name begins, so that
/// they do not compete, and the others only when it does not appear.
pub(crate) async fn bootstrap(replica: Arc<Replica>, members: Members) -> anyhow::Result<()> {
    let first = members.values().map(|peer| peer.name.as_str()).min() == Some(replica.config().name.as_str());
    let mut patience = if first { Duration::ZERO } else { Duration::from_secs(3) };
    loop {
        tokio::select! {
            biased;
            () = replica.stop().cancelled() => return Ok(()),
            () = tokio::time::sleep(patience) => {}
        }
        if replica.raft().is_initialized().await? {
            if members.len() == 1 {
                // Nobody else could lead: no reason to wait for the timeout.
                replica.raft().trigger().elect(false).await?;
            }
            return Ok(());
        }
        match replica.raft().initialize(members.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::info!(%error, "not the one who begins the cluster"),
        }
        patience = Duration::from_secs(1);
    }
}

/// Removes from disk what was compacted, behind the writes.
pub(crate) async fn compact(replica: Arc<Replica>, applied: Arc<Applied>) -> anyhow::Result<()> {
    let mut compacted = applied.compactions();
    compacted.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = replica.stop().cancelled() => return Ok(()),
            changed = compacted.changed() => changed?,
        }
        let revision = *compacted.borrow_and_update();
        if revision == 0 {
            continue;
        }
        let (state, stop) = (replica.state().clone(), replica.stop().clone());
        let cleaned = crate::rt::blocking(move || checkpoint::clean(&state, revision, || stop.is_cancelled()));
        match cleaned.await? {
            Ok(()) => {
                tracing::debug!(revision, "compacted");
                applied.cleaned_up_to(revision);
            }
            Err(fault) => tracing::error!(%fault, revision, "compaction failed; it is tried again with the next one"),
        }
    }
}

/// Keeps the figures up to date that nobody else does.
async fn measure(replica: Arc<Replica>) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = replica.stop().cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        let metrics = replica.metrics();
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let applied = *replica.hub().applied().borrow();
        metrics.applied.set(number(applied.index));
        metrics.revision.set(applied.position.revision);
        metrics.compacted.set(applied.position.compacted);
        metrics.watchers.set(number(replica.hub().watchers() as u64));
        let (total, live) = replica.state().size();
        metrics.db_size.set(number(total));
        metrics.db_size_in_use.set(number(live));
        metrics.keys.set(number(replica.state().keys()));
        metrics.leases.set(number(replica.lease_ids().len() as u64));
        metrics.is_learner.set(i64::from(replica.applied().flags() & flag::LEARNER != 0));
    }
}

fn builder(identity: Option<&TlsIdentity>) -> anyhow::Result<Server> {
    let builder = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(100_000);
    Ok(match identity {
        Some(identity) => builder.tls_config(identity.tonic_server())?,
        None => builder,
    })
}

async fn serve_clients(
    replica: Arc<Replica>,
    service: Service,
    listener: TcpListener,
    identity: Option<TlsIdentity>,
    registry: Arc<Registry>,
) -> anyhow::Result<()> {
    // Room for the frame around the largest request; the exact limit is checked where a write is proposed.
    let largest = replica.max_request_bytes() + (512 << 10);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let described =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(balsa_proto::etcd::DESCRIPTORS);
    let reflection = described().build_v1().context("the services cannot be described")?;
    let older_reflection = described().build_v1alpha().context("the services cannot be described")?;
    let stop = replica.stop().clone();
    let mut routes = Routes::new(health_service);
    routes = routes
        .add_service(reflection)
        .add_service(older_reflection)
        .add_service(KvServer::new(service.clone()).max_decoding_message_size(largest))
        .add_service(WatchServer::new(service.clone()).max_decoding_message_size(largest))
        .add_service(LeaseServer::new(service.clone()).max_decoding_message_size(largest))
        .add_service(LockServer::new(service.clone()).max_decoding_message_size(largest))
        .add_service(ElectionServer::new(service.clone()).max_decoding_message_size(largest))
        .add_service(AuthServer::new(service.clone()))
        .add_service(ClusterServer::new(service.clone()))
        .add_service(MaintenanceServer::new(service.clone()));
    let services = routes.into_axum_router();
    let gateway = gateway::routes(services.clone(), largest)?;
    let routes = Routes::from(http::routes(service, registry).merge(gateway).merge(services));
    let mut builder = builder(None)?.accept_http1(true);
    let router = builder.add_routes(routes);
    let until = graceful(stop.clone());
    let serving = async {
        match identity {
            None => router.serve_with_incoming_shutdown(incoming(listener), until).await,
            Some(identity) => {
                let config = identity.rustls_server(ClientCertificate::Required, &[b"h2", b"http/1.1"]);
                let acceptor = TlsAcceptor::from(config.map_err(|error| anyhow::anyhow!("{error}"))?);
                router.serve_with_incoming_shutdown(tls::accepted(listener, acceptor, stop.clone()), until).await
            }
        }
        .context("the client port failed")
    };
    tokio::select! {
        served = serving => served,
        () = cut_off(stop.clone(), Duration::from_secs(3)) => Ok(()),
    }
}

async fn serve_peers(replica: Arc<Replica>, listener: TcpListener, identity: Option<TlsIdentity>) -> anyhow::Result<()> {
    let stop = replica.stop().clone();
    let service = RaftServer::new(PeerService::new(replica))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let serving = builder(identity.as_ref())?
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener), graceful(stop.clone()));
    tokio::select! {
        served = serving => served.context("the peer port failed"),
        // Peers keep their streams open as long as they can.
        () = cut_off(stop, Duration::from_millis(500)) => Ok(()),
    }
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

async fn graceful(stop: CancellationToken) {
    stop.cancelled().await;
}

async fn cut_off(stop: CancellationToken, after: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(after).await;
}
