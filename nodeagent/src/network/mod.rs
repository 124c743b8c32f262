//! The network of one node and its pods.
//!
//! Each pod has its own network namespace; a CNI plugin puts a cable between it and a bridge in the *node's* namespace
//! and hands out an address of the node's pod CIDR. On a local cluster the node's namespace is held by a container of
//! its own (the *holder*), and the agent runs inside it, so whatever happens to the agent leaves traffic alone.
//! Without a holder (a cluster in one process, or a real machine) it is the host's.
//!
//! ```text
//!  pod eth0 ──veth── bridge ──routing── the node's interface ── other nodes: one route per pod CIDR, no encapsulation
//!                       │                     │
//!                       └ gateway .1          └ masquerade for what leaves the cluster range; hostPort DNAT
//! ```
//!
//! - [`cni`] and [`cni_config`]: running plugins, and what they are told. A directory of configuration lists replaces
//!   the built-in `bridge` + `host-local`; then the plugins are responsible for routes between nodes too.
//! - [`nft`]: all rules are in tables of our own, each replaced or updated in one transaction ([`tables`]): hostPorts
//!   and masquerading, [`service`], [`policy`]. Other tables are never touched: the engine's DNS lives in one of them.
//! - [`routes`]: routes carry a protocol number of ours; those and no others are removed when a peer goes. The cluster
//!   range as a whole is a blackhole, so that a packet to a pod that is not there does not leave by the default route.
//! - [`netns`]: work inside a pod's namespace, and whether a namespace is still the same one.
//! - [`records`]: one file per attached sandbox, written before anybody hears of the address.
//!
//! **When the node's namespace was lost** (the holder restarted) the agent's [`check`](Network::check) cannot help: the
//! agent sits in the old one and must exit. Started again in the new one, [`repair`](Network::repair) finds that a
//! pod's cable has no other end here and makes DEL, then ADD with the old address. A plain ADD would be refused,
//! because the address is still given out.
//!
//! Interfaces of the node are never named: after `docker network disconnect` and `connect` the node's `eth0` is
//! `eth1`, and its routes are gone. So routes are put back every few seconds, by next hop.
//!
//! # Limits
//! IPv4 only. Nodes must reach each other without a router between them (next hops are node addresses).

pub mod cidr;
pub mod cni;
pub mod cni_config;
pub mod netns;
pub mod nft;
pub mod policy;
pub mod records;
pub mod routes;
pub mod service;
pub mod sysctl;
pub mod tables;

#[cfg(test)]
mod kernel_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use crate::runtime::{HostPort, PodRef, RuntimeError, RuntimeResult};
use cidr::Cidr;
use cni::Plugins;
use policy::LocalPod;
use records::{Record, Records};
use tables::Tables;

/// Interface of a pod.
pub const POD_INTERFACE: &str = "eth0";

/// What the network of a node needs to know.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where records and addresses in use are kept; must outlive the agent.
    pub state_dir: PathBuf,
    /// Directories with CNI plugins, the first that has one wins.
    pub cni_bin: Vec<PathBuf>,
    /// Directory with CNI configuration lists; the first by name counts. Missing or empty: the built-in one.
    pub cni_conf: Option<PathBuf>,
    /// The pods' bridge in the node's namespace.
    pub bridge: String,
    /// Name of our nftables table.
    pub table: String,
    /// Addresses of all pods; what leaves it is masqueraded, what is unknown in it is dropped.
    pub cluster_cidr: String,
    /// Addresses of services. What is not translated before is refused instead of leaving by the default route.
    pub service_cidr: Option<String>,
    /// Addresses of the cluster's DNS that the node answers itself: its loopback interface gets them.
    pub dns: Vec<Ipv4Addr>,
    /// Whether the node's namespace is the host's, whose firewall may drop what is forwarded.
    pub shares_host: bool,
}

impl NetworkConfig {
    /// Defaults for a node with its own namespace.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            cni_bin: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            cni_conf: None,
            bridge: "cni0".to_owned(),
            table: "balsa".to_owned(),
            cluster_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: None,
            dns: Vec::new(),
            shares_host: false,
        }
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `Node.spec.podCIDR`
    pub pod_cidr: String,
    /// Its InternalIP.
    pub node_ip: IpAddr,
}

/// A sandbox to be wired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The engine's identifier of the sandbox.
    pub id: String,
    /// Whose.
    pub pod: PodRef,
    /// Process on this machine whose network namespace it is.
    pub pid: i32,
    /// Forwards from the node.
    pub host_ports: Vec<HostPort>,
}

/// The network of one node.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    records: Records,
    state: Mutex<State>,
    /// One writer of rules and routes at a time.
    applying: AsyncMutex<Tables>,
    /// One plugin chain per sandbox at a time: a repeated call waits for the first.
    attaching: AsyncMutex<BTreeMap<String, std::sync::Arc<AsyncMutex<()>>>>,
}

#[derive(Debug, Default)]
struct State {
    pod_cidr: Option<Cidr>,
    plugins: Option<Plugins>,
    peers: BTreeMap<String, Peer>,
    /// What Services come to; `None` until they are known: what is there stays.
    services: Option<Arc<service::plan::Plan>>,
    /// What policies are made from; `None` until that is known: what is there stays.
    policies: Option<Arc<policy::Inputs>>,
}

impl Network {
    /// Does nothing yet but read the records.
    pub fn new(config: NetworkConfig) -> Self {
        let records = Records::open(config.state_dir.join("sandboxes"));
        Self { config, records, state: Mutex::default(), applying: AsyncMutex::default(), attaching: AsyncMutex::default() }
    }

    /// Sets the node up for pods with addresses of `pod_cidr`. May be repeated.
    ///
    /// # Errors
    /// [`RuntimeError::Network`] where the range is none, plugins are missing or the kernel refuses.
    pub async fn start(&self, pod_cidr: &str) -> RuntimeResult<()> {
        let pod_cidr: Cidr = pod_cidr.parse().map_err(RuntimeError::Network)?;
        let cluster: Cidr = self.config.cluster_cidr.parse().map_err(RuntimeError::Network)?;
        let plugins = self.plugins(pod_cidr)?;
        sysctl::prepare_node();
        if self.config.shares_host {
            sysctl::let_bridge_through(&self.config.bridge).await;
        }
        {
            let mut state = self.state.lock();
            state.pod_cidr = Some(pod_cidr);
            state.plugins = Some(plugins);
        }
        tracing::info!(%pod_cidr, %cluster, bridge = self.config.bridge, "pod network starts");
        self.check().await
    }

    fn plugins(&self, pod_cidr: Cidr) -> RuntimeResult<Plugins> {
        let from_dir = match &self.config.cni_conf {
            Some(dir) => cni_config::first_in(dir).map_err(RuntimeError::Network)?,
            None => None,
        };
        let data_dir = self.config.state_dir.join("cni");
        let list = from_dir.unwrap_or_else(|| cni_config::built_in(&self.config.bridge, pod_cidr, &data_dir));
        Ok(Plugins { bin: self.config.cni_bin.clone(), cache: self.config.state_dir.join("cni-cache"), list })
    }

    /// Whether pods can have addresses yet.
    pub fn is_started(&self) -> bool {
        self.state.lock().pod_cidr.is_some()
    }

    /// Replaces what is known of the other nodes, and with it the routes to their pods. A node that has no route yet
    /// (its interface is down) gets it by a later [`check`](Network::check).
    pub async fn set_peers(&self, peers: BTreeMap<String, Peer>) -> RuntimeResult<()> {
        self.state.lock().peers = peers;
        if self.is_started() { self.check().await } else { Ok(()) }
    }

    /// Puts back what is missing: routes, rules. Cheap when all is well.
    pub async fn check(&self) -> RuntimeResult<()> {
        let mut tables = self.applying.lock().await;
        self.apply_rules(&mut tables, true).await?;
        routes::hold(&self.config.dns).await.map_err(RuntimeError::Network)?;
        let wanted = self.wanted_routes()?;
        routes::apply(&wanted).await.map_err(RuntimeError::Network)
    }

    /// Replaces what Services come to on this node, and carries it out.
    pub async fn set_services(&self, plan: service::plan::Plan) -> RuntimeResult<()> {
        self.state.lock().services = Some(Arc::new(plan));
        let mut tables = self.applying.lock().await;
        self.apply_rules(&mut tables, false).await
    }

    /// Replaces what network policies are made from, and carries them out.
    pub async fn set_policies(&self, inputs: policy::Inputs) -> RuntimeResult<()> {
        self.state.lock().policies = Some(Arc::new(inputs));
        let mut tables = self.applying.lock().await;
        self.apply_rules(&mut tables, false).await
    }

    /// What the node is called in its tables.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    fn wanted_routes(&self) -> RuntimeResult<Vec<routes::Route>> {
        let state = self.state.lock();
        let cluster: Cidr = self.config.cluster_cidr.parse().map_err(RuntimeError::Network)?;
        let own_plugins = state.plugins.as_ref().is_some_and(|plugins| plugins.list.built_in);
        Ok(match (state.pod_cidr, own_plugins) {
            (Some(own), true) => routes::wanted(cluster, own, &state.peers),
            _ => Vec::new(),
        })
    }

    /// Writes the tables that differ from what was written last; with `look` also those that are not there any more.
    async fn apply_rules(&self, tables: &mut Tables, look: bool) -> RuntimeResult<()> {
        let (text, services, policies) = {
            let state = self.state.lock();
            if state.pod_cidr.is_none() {
                return Ok(());
            }
            let forwards = match &state.plugins {
                Some(plugins) if plugins.list.maps_ports() => Vec::new(),
                _ => nft::forwards(self.records.all().values()),
            };
            let text = nft::table(&nft::Rules {
                table: &self.config.table,
                bridge: &self.config.bridge,
                cluster_cidr: &self.config.cluster_cidr,
                service_cidr: self.config.service_cidr.as_deref(),
                forwards,
            });
            (text, state.services.clone(), state.policies.clone())
        };
        let cluster: Cidr = self.config.cluster_cidr.parse().map_err(RuntimeError::Network)?;
        let write = async {
            tables.replace(&self.config.table, "postrouting", Some(text), look).await?;
            if let Some(inputs) = policies {
                let plan = policy::plan::plan(&inputs, &self.local_pods());
                let table = self.policy_table();
                let text = (!plan.is_empty()).then(|| policy::text::table(&table, &plan));
                tables.replace(&table, "forward", text, look).await?;
            }
            if let Some(plan) = services {
                tables.serve(&self.service_table(), &plan, cluster, look).await?;
            }
            Ok(())
        };
        write.await.map_err(RuntimeError::Network)
    }

    fn service_table(&self) -> String {
        format!("{}-services", self.config.table)
    }

    fn policy_table(&self) -> String {
        format!("{}-policies", self.config.table)
    }

    /// The pods that have been given an address, as policies see them.
    fn local_pods(&self) -> Vec<LocalPod> {
        let with_address = self.records.all().into_values().filter(|record| !record.ips.is_empty());
        let local = with_address.map(|record| LocalPod {
            namespace: record.pod.namespace,
            name: record.pod.name,
            ips: record.ips.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).collect(),
        });
        local.collect()
    }

    /// Gives a sandbox its interface and addresses. A second call for the same sandbox returns the same ones.
    pub async fn attach(&self, attachment: &Attachment) -> RuntimeResult<Vec<IpAddr>> {
        let turn = self.turn(&attachment.id).await;
        let _turn = turn.lock().await;
        if let Some(record) = self.records.get(&attachment.id)
            && self.is_wired(&record, attachment.pid).await
        {
            return Ok(record.ips);
        }
        let plugins = self.ready_plugins()?;
        let record = Record {
            id: attachment.id.clone(),
            pod: (&attachment.pod).into(),
            ips: self.records.get(&attachment.id).map(|record| record.ips).unwrap_or_default(),
            host_ports: crate::runtime::docker::names::encode_ports(&attachment.host_ports),
        };
        self.wire(&plugins, record, attachment.pid).await
    }

    /// Runs the plugins and writes the record. A record with addresses wants those again.
    async fn wire(&self, plugins: &Plugins, mut record: Record, pid: i32) -> RuntimeResult<Vec<IpAddr>> {
        let mut request = cni::Request::new(&record, Some(pid));
        // Leftovers of a try that failed, or of a namespace that is gone, would be in the way; the first time there
        // are none and the plugins need not be asked.
        if self.records.get(&record.id).is_some() {
            plugins.del(&request).await.map_err(RuntimeError::Network)?;
        }
        self.records.put(record.clone()).map_err(RuntimeError::Network)?;
        let mut answer = plugins.add(&request).await;
        if answer.is_err() && request.wanted_ip.is_some() {
            // The old address may belong to somebody else by now.
            plugins.del(&request).await.map_err(RuntimeError::Network)?;
            request.wanted_ip = None;
            answer = plugins.add(&request).await;
        }
        let ips = match answer {
            Ok(ips) => ips,
            Err(error) => {
                if let Err(del) = plugins.del(&request).await {
                    tracing::warn!(sandbox = record.id, %del, "what the plugins left could not be removed");
                }
                return Err(RuntimeError::Network(error));
            }
        };
        record.ips.clone_from(&ips);
        self.records.put(record).map_err(RuntimeError::Network)?;
        let mut tables = self.applying.lock().await;
        sysctl::let_localhost_through(&self.config.bridge);
        self.apply_rules(&mut tables, false).await?;
        Ok(ips)
    }

    /// Takes a sandbox's interface and gives its addresses back. Without a process the plugins only forget.
    pub async fn detach(&self, id: &str, pid: Option<i32>) -> RuntimeResult<()> {
        let turn = self.turn(id).await;
        let held = turn.lock().await;
        let Some(record) = self.records.get(id) else {
            drop(held);
            self.attaching.lock().await.remove(id);
            return Ok(());
        };
        let plugins = self.ready_plugins()?;
        plugins.del(&cni::Request::new(&record, pid)).await.map_err(RuntimeError::Network)?;
        self.records.remove(id).map_err(RuntimeError::Network)?;
        self.attaching.lock().await.remove(id);
        let mut tables = self.applying.lock().await;
        self.apply_rules(&mut tables, false).await?;
        Ok(())
    }

    /// Makes a sandbox's network anew, with the same addresses, where it is broken.
    pub async fn repair(&self, id: &str, pid: i32) -> RuntimeResult<()> {
        let turn = self.turn(id).await;
        let _turn = turn.lock().await;
        let Some(record) = self.records.get(id) else { return Ok(()) };
        if self.is_wired(&record, pid).await {
            return Ok(());
        }
        tracing::info!(pod = record.pod.name, namespace = record.pod.namespace, ips = ?record.ips, "repairing the pod's network");
        let plugins = self.ready_plugins()?;
        self.wire(&plugins, record, pid).await.map(|_| ())
    }

    /// Gives back what belongs to sandboxes that are not among `alive`.
    pub async fn forget_all_but(&self, alive: &BTreeSet<String>) {
        for id in self.records.all().into_keys().filter(|id| !alive.contains(id)) {
            if let Err(error) = self.detach(&id, None).await {
                tracing::warn!(sandbox = id, %error, "the network of a sandbox that is gone could not be taken down");
            }
        }
    }

    /// A sandbox's addresses; `None` while it has none.
    pub fn addresses(&self, id: &str) -> Option<Vec<IpAddr>> {
        self.records.get(id).map(|record| record.ips).filter(|ips| !ips.is_empty())
    }

    /// Takes rules, routes and the bridge away. For clusters on the host's own network; a holder takes all along.
    pub async fn stop(&self) -> RuntimeResult<()> {
        let mut tables = self.applying.lock().await;
        for table in [&self.config.table, &self.service_table(), &self.policy_table()] {
            nft::delete(table).await.map_err(RuntimeError::Network)?;
        }
        tables.forget();
        let own: Vec<Cidr> = self.wanted_routes()?.into_iter().map(|route| route.destination).collect();
        routes::remove(&own).await.map_err(RuntimeError::Network)?;
        if self.config.shares_host {
            routes::release(&self.config.dns).await.map_err(RuntimeError::Network)?;
            sysctl::forget_bridge(&self.config.bridge).await;
            routes::remove_link(&self.config.bridge).await.map_err(RuntimeError::Network)?;
        }
        *self.state.lock() = State::default();
        Ok(())
    }

    /// Whether the sandbox's cable is there, with its address, and has its other end on our bridge.
    async fn is_wired(&self, record: &Record, pid: i32) -> bool {
        if record.ips.is_empty() {
            return false;
        }
        let built_in = self.state.lock().plugins.as_ref().is_some_and(|plugins| plugins.list.built_in);
        let Ok(link) = netns::link_in(pid, POD_INTERFACE).await else { return false };
        let has_addresses = record.ips.iter().all(|ip| link.addresses.contains(ip));
        has_addresses && (!built_in || routes::is_on_bridge(link.peer, &self.config.bridge).await)
    }

    fn ready_plugins(&self) -> RuntimeResult<Plugins> {
        let plugins = self.state.lock().plugins.clone();
        plugins.ok_or_else(|| RuntimeError::Network("the node has no pod CIDR yet".to_owned()))
    }

    async fn turn(&self, id: &str) -> std::sync::Arc<AsyncMutex<()>> {
        self.attaching.lock().await.entry(id.to_owned()).or_default().clone()
    }
}

/// The first address of a range after its own: the bridge's.
pub fn gateway(cidr: Cidr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.address()).saturating_add(1))
}
