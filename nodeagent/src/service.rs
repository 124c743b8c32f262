//! The process: what is started, and what it is connected to.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use balsa_client::events::EventRecorder;
use balsa_client::informer::{Informer, Scope};
use balsa_client::{Client, ClientConfig};
use balsa_process::observe;
use balsa_process::tls::TlsFiles;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::RealApi;
use crate::config::{Config, Engine};
use crate::dns;
use crate::env::files::{self, Dns};
use crate::network::{Network, NetworkConfig};
use crate::node::agent::NodeAgent;
use crate::node::facts::Machine;
use crate::node::holder;
use crate::node::traffic::Traffic;
use crate::pod::manager::{Facts, Manager, Shared};
use crate::pod::observed::NodeFacts;
use crate::pod::orphans;
use crate::runtime::Runtime;
use crate::runtime::docker::{Docker, DockerConfig};
use crate::runtime::fake::{FakeConfig, FakeRuntime};
use crate::server::{self, ServerConfig};
use crate::volume::Layout;

impl server::Pods for Shared {
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.reported(namespace, name)
    }
}

/// Runs the agent until `stop`. Containers go on running after it, unless draining was asked for.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let identity = config.tls.as_ref().map(TlsFiles::load).transpose().context("our identity")?;
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("cannot make the state directory {}", config.state_dir.display()))?;
    let (runtime, network) = engine(&config);
    let client = Client::new(ClientConfig {
        apiservers: config.apiservers.clone(),
        identity: identity.clone(),
        component: "kubelet".to_owned(),
    })
    .context("the apiservers' addresses")?;
    let events = EventRecorder::new(client.clone(), "kubelet", config.node_name.clone());
    let pods = Informer::<Pod>::start(client.clone(), Scope::fields(format!("spec.nodeName={}", config.node_name)), stop.clone());
    let services = Informer::<Service>::start(client.clone(), Scope::all(), stop.clone());
    let nodes = Informer::<Node>::start(client.clone(), Scope::all(), stop.clone());
    let listener = observe::bind(config.listen).await?;
    let port = listener.local_addr().context("our own address")?.port();

    let machine = machine(&config);
    let api = Arc::new(RealApi::new(client.clone(), events.clone(), services.cache()));
    let servers = network.as_ref().map(|_| name_servers(&config)).unwrap_or_default();
    let traffic = network.clone().map(|network| Traffic {
        client: client.clone(),
        network,
        services: services.clone(),
        nodes: nodes.clone(),
        name: config.node_name.clone(),
        dns: servers.clone(),
    });
    let facts = first_facts(&config, &machine, network.is_some());
    let hollow = config.runtime == Engine::Fake;
    let shared = Arc::new(Shared::new(runtime.clone(), api, Layout::new(&config.state_dir), hollow, facts));
    let agent = Arc::new(NodeAgent {
        shared: shared.clone(),
        client,
        events,
        nodes,
        network: network.clone(),
        name: config.node_name.clone(),
        address: config.node_ip.or_else(|| Some(config.listen.ip()).filter(|ip| !ip.is_unspecified())),
        port,
        max_pods: config.max_pods,
        machine,
        labels: labels(&config.node_labels),
        state_dir: config.state_dir.clone(),
        changed: Notify::new(),
        network_problem: Mutex::new(network.as_ref().map(|_| "node has no podCIDR yet".to_owned())),
    });

    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let served = ServerConfig { node_name: config.node_name.clone(), runtime: runtime.clone(), pods: shared.clone(), identity };
    parts.spawn(server::serve(listener, served, stop.clone()));
    let (status, lease, object, wires) = (agent.clone(), agent.clone(), agent.clone(), agent);
    let until = stop.clone();
    parts.spawn(async move {
        object.keep_object(until.clone()).await;
        until.cancelled().await;
        Ok(())
    });
    let until = stop.clone();
    parts.spawn(async move { Ok(status.keep_status(until).await) });
    let until = stop.clone();
    parts.spawn(async move { Ok(lease.keep_lease(until).await) });
    let until = stop.clone();
    parts.spawn(async move {
        wires.keep_network(until.clone()).await;
        until.cancelled().await;
        Ok(())
    });
    let until = stop.clone();
    parts.spawn(async move {
        let synced = pods.clone();
        let manager = Manager::new(shared);
        manager.run(pods.cache(), pods.subscribe(), async move { synced.synced().await }, until).await;
        Ok(())
    });
    if let Some(traffic) = traffic {
        let until = stop.clone();
        parts.spawn(async move {
            traffic.run(until.clone()).await;
            until.cancelled().await;
            Ok(())
        });
    }
    for address in config.own_name_servers() {
        if let Some((server, _)) = servers.clone() {
            let until = stop.clone();
            parts.spawn(async move { Ok(server.listen(address, 53, until).await) });
        }
    }
    if network.is_some() && !config.holder.is_empty() {
        let (socket, holder, until) = (config.docker_socket.clone(), config.holder.clone(), stop.clone());
        parts.spawn(async move { holder::watch(&socket, &holder, until).await });
    }
    tracing::info!(node = config.node_name, port, "node agent runs");

    let mut result = Ok(());
    while let Some(part) = parts.join_next().await {
        let part = part.context("a part of the node agent")?;
        if !stop.is_cancelled() {
            stop.cancel();
            result = part.and(Err(anyhow::anyhow!("a part of the node agent ended by itself")));
        }
    }
    if config.drain_on_term {
        drain(runtime.as_ref()).await;
    }
    result
}

fn engine(config: &Config) -> (Arc<dyn Runtime>, Option<Arc<Network>>) {
    if config.runtime == Engine::Fake {
        let fake = FakeRuntime::new(FakeConfig { has_every_image: true, ..FakeConfig::default() });
        return (Arc::new(fake), None);
    }
    let holder = Some(config.holder.clone()).filter(|holder| !holder.is_empty());
    let mut network = NetworkConfig::new(config.state_dir.join("network"));
    network.cni_bin.clone_from(&config.cni_bin);
    network.cni_conf.clone_from(&config.cni_conf);
    network.cluster_cidr.clone_from(&config.cluster_cidr);
    network.service_cidr = Some(config.service_cidr.clone()).filter(|cidr| !cidr.is_empty());
    network.dns = config.own_name_servers();
    if holder.is_none() {
        // Nodes that share the host's namespace must not share a bridge or a table.
        let hash = Sha256::digest(format!("{}/{}", config.cluster, config.node_name));
        let tag: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        network.bridge = format!("balsa{tag}");
        network.table = format!("balsa{tag}");
        network.shares_host = true;
    }
    let network = Arc::new(Network::new(network));
    let mut docker = DockerConfig::new(config.cluster.clone(), config.node_name.clone());
    docker.socket.clone_from(&config.docker_socket);
    docker.cgroup_root.clone_from(&config.cgroup_root);
    docker.holder = holder;
    (Arc::new(Docker::new(docker, network.clone())), Some(network))
}

fn machine(config: &Config) -> Machine {
    let machine = Machine::read(&config.state_dir);
    Machine { cpus: config.cpus.unwrap_or(machine.cpus), memory: config.memory.unwrap_or(machine.memory), ..machine }
}

/// The cluster's DNS on this node; `None` where somebody else answers.
fn name_servers(config: &Config) -> Option<(Arc<dns::server::Server>, dns::zone::Settings)> {
    let own = config.own_name_servers();
    if own.is_empty() {
        return None;
    }
    let settings = dns::zone::Settings {
        domain: config.cluster_domain.clone(),
        own: [&config.cluster_cidr, &config.service_cidr].into_iter().filter_map(|range| range.parse().ok()).collect(),
        server: own,
    };
    let zone = dns::zone::Zone::empty(settings.clone());
    Some((dns::server::Server::new(zone, dns::server::resolvers(&node_resolver(), &config.name_servers())), settings))
}

fn node_resolver() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

fn first_facts(config: &Config, machine: &Machine, networked: bool) -> Facts {
    let cluster: Vec<String> = config.name_servers().iter().map(ToString::to_string).collect();
    let own = config.own_name_servers();
    Facts {
        node: NodeFacts {
            name: config.node_name.clone(),
            runtime: if networked { "docker" } else { "fake" }.to_owned(),
            network_problem: networked.then(|| "node has no podCIDR yet".to_owned()),
            ..NodeFacts::default()
        },
        dns: Dns {
            cluster,
            domain: config.cluster_domain.clone(),
            node: files::for_pods(&node_resolver(), own.first().map(ToString::to_string).as_deref()),
        },
        memory_bytes: i64::try_from(machine.memory).unwrap_or(i64::MAX),
        ..Facts::default()
    }
}

fn labels(words: &[String]) -> BTreeMap<String, String> {
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Takes everything of every pod of this node out of the engine.
async fn drain(runtime: &dyn Runtime) {
    let sandboxes = runtime.list_sandboxes().await.unwrap_or_default();
    let containers = runtime.list_containers().await.unwrap_or_default();
    for uid in orphans::plan(&Default::default(), &sandboxes, &containers) {
        if let Err(error) = orphans::remove_all(runtime, &uid).await {
            tracing::warn!(uid, %error, "pod not taken away");
        }
    }
}
