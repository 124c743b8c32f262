//! Keeps the Node object, its lease and the node's network up to date.
//!
//! It decides nothing about pods. What the object says is in [`super::status`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::events::{EventRecorder, EventType};
use balsa_client::informer::Informer;
use balsa_client::{Cause, Client, Patch};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::facts::{self, Machine};
use super::status::{self, Seen};
use crate::clock;
use crate::network::{Network, Peer};
use crate::pod::manager::Shared;

/// Between two looks at the node.
const PERIOD: Duration = Duration::from_secs(10);
/// A status that says nothing new is written this seldom.
const QUIET: Duration = Duration::from_secs(300);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long a lease holds, seconds.
const LEASE_SECONDS: i32 = 40;

/// The node's own affairs.
pub struct NodeAgent {
    /// What pods see of the node.
    pub shared: Arc<Shared>,
    /// The API server.
    pub client: Client,
    /// For events about the node.
    pub events: EventRecorder,
    /// Every node of the cluster.
    pub nodes: Informer<Node>,
    /// Pod network; `None` for a hollow node.
    pub network: Option<Arc<Network>>,
    /// Name of the node.
    pub name: String,
    /// Given address; else found.
    pub address: Option<IpAddr>,
    /// Port of the agent's server.
    pub port: u16,
    /// Most pods at a time.
    pub max_pods: u32,
    /// The machine as it is reported.
    pub machine: Machine,
    /// Labels of the operator's.
    pub labels: BTreeMap<String, String>,
    /// Where the disk is looked at.
    pub state_dir: PathBuf,
    /// Rung when something about the node changed.
    pub changed: Notify,
    /// Why the network does not work.
    pub network_problem: Mutex<Option<String>>,
}

impl NodeAgent {
    /// Registers the node and keeps its object current until `stop`.
    pub async fn keep_status(&self, stop: CancellationToken) {
        self.event(EventType::Normal, "Starting", "Starting kubelet.");
        let mut written: Option<Instant> = None;
        let mut was_ready: Option<bool> = None;
        loop {
            let wait = match self.report(&mut written, &mut was_ready).await {
                Ok(()) => PERIOD,
                Err(error) => {
                    tracing::warn!(%error, "node not reported, to be tried again");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn report(&self, written: &mut Option<Instant>, was_ready: &mut Option<bool>) -> balsa_client::Result<()> {
        let seen = self.look().await;
        let node = self.registered(&seen).await?;
        let now = clock::now();
        let wanted = status::status(&seen, node.status.as_ref(), now);
        let (patch, changed) = status::patch(&node, &wanted);
        let quiet = written.is_some_and(|written| written.elapsed() < QUIET);
        let node = if changed || !quiet {
            let cause = Cause::new("node status").seen(&node.metadata);
            let node = self.client.patch::<Node>("", &self.name, "status", Patch::Strategic(patch), &cause).await?;
            *written = Some(Instant::now());
            node
        } else {
            node
        };
        self.shared.set_facts(|facts| facts.object = node);
        let ready = seen.problems.is_empty();
        if *was_ready != Some(ready) {
            let reason = if ready { "NodeReady" } else { "NodeNotReady" };
            self.event(EventType::Normal, reason, &format!("Node {} status is now: {reason}", self.name));
            *was_ready = Some(ready);
        }
        Ok(())
    }

    /// The object as the API has it; made where there is none, its labels put right where they are wrong.
    async fn registered(&self, seen: &Seen) -> balsa_client::Result<Node> {
        let mut object = status::object(seen, clock::now());
        let mut labels = object.metadata.labels.clone().unwrap_or_default();
        labels.extend(self.labels.clone());
        object.metadata.labels = Some(labels.clone());
        let cause = Cause::new("node registration");
        let found = match self.nodes.cache().get("", &self.name) {
            Some(node) => Node::clone(&node),
            None => match self.client.get::<Node>("", &self.name).await {
                Ok(node) => node,
                Err(error) if error.is_not_found() => self.client.create("", &object, &cause).await?,
                Err(error) => return Err(error),
            },
        };
        let present = found.metadata.labels.clone().unwrap_or_default();
        if labels.iter().all(|(key, value)| present.get(key) == Some(value)) {
            return Ok(found);
        }
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        self.client.patch("", &self.name, "", patch, &cause).await
    }

    /// Looks at the machine, the engine and the network.
    async fn look(&self) -> Seen {
        let address = self.address.unwrap_or_else(facts::own_address);
        let mut problems = Vec::new();
        let runtime_version = match self.shared.runtime.version().await {
            Ok(version) => version,
            Err(error) => {
                problems.push(format!("container runtime is down: {error}"));
                String::new()
            }
        };
        let network_problem = self.network_problem.lock().clone();
        if let Some(problem) = &network_problem {
            problems.push(format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{problem}"
            ));
        }
        self.shared.set_facts(|facts| {
            facts.node.host_ips = vec![address];
            facts.node.network_problem.clone_from(&network_problem);
            if let Some((scheme, _)) = runtime_version.split_once("://") {
                scheme.clone_into(&mut facts.node.runtime);
            }
        });
        let images = self.shared.runtime.list_images().await.unwrap_or_default();
        let disk = rustix::fs::statvfs(&self.state_dir);
        Seen {
            name: self.name.clone(),
            machine: self.machine.clone(),
            max_pods: self.max_pods,
            address: address.to_string(),
            port: i32::from(self.port),
            runtime_version,
            images,
            problems,
            memory_available: facts::memory_available().unwrap_or(u64::MAX),
            disk_free_percent: disk.map_or(100, |disk| disk.f_bavail * 100 / disk.f_blocks.max(1)),
        }
    }

    /// Keeps what pods see of the Node object as fresh as the watch.
    pub async fn keep_object(&self, stop: CancellationToken) {
        let mut changes = self.nodes.subscribe();
        loop {
            let change = tokio::select! {
                () = stop.cancelled() => return,
                change = changes.recv() => change,
            };
            let Some(change) = change else { return };
            if let Some(node) = change.new.filter(|node| node.metadata.name.as_deref() == Some(&self.name)) {
                self.shared.set_facts(|facts| facts.object = Node::clone(&node));
            }
        }
    }

    /// Renews the lease until `stop`.
    pub async fn keep_lease(&self, stop: CancellationToken) {
        loop {
            let wait = match self.renew().await {
                Ok(()) => PERIOD,
                Err(error) => {
                    tracing::warn!(%error, "node lease not renewed, to be tried again");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn renew(&self) -> balsa_client::Result<()> {
        const NAMESPACE: &str = "kube-node-lease";
        let cause = Cause::new("node lease");
        let spec = LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(clock::now())),
            ..LeaseSpec::default()
        };
        match self.client.get::<Lease>(NAMESPACE, &self.name).await {
            Ok(mut lease) => {
                lease.spec = Some(LeaseSpec { acquire_time: lease.spec.and_then(|spec| spec.acquire_time), ..spec });
                self.client.update(&lease, &cause).await?;
            }
            Err(error) if error.is_not_found() => {
                let uid = self.shared.facts().object.metadata.uid;
                let owner = uid.map(|uid| OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: self.name.clone(),
                    uid,
                    ..OwnerReference::default()
                });
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(NAMESPACE.to_owned()),
                    owner_references: owner.map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                };
                self.client.create(NAMESPACE, &Lease { metadata, spec: Some(spec) }, &cause).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Starts the pod network once the node has a range, and keeps the routes to the other nodes.
    pub async fn keep_network(&self, stop: CancellationToken) {
        let Some(network) = self.network.clone() else { return };
        let mut changes = self.nodes.subscribe();
        let mut started = String::new();
        let mut peers = BTreeMap::new();
        loop {
            let wait = match self.network_step(&network, &mut started, &mut peers).await {
                Ok(()) => {
                    self.network_is(None);
                    PERIOD
                }
                Err(problem) => {
                    self.network_is(Some(problem));
                    RETRY
                }
            };
            let until = Instant::now() + wait;
            tokio::select! {
                () = stop.cancelled() => return,
                change = changes.recv() => if change.is_none() { return },
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    async fn network_step(
        &self,
        network: &Network,
        started: &mut String,
        peers: &mut BTreeMap<String, Peer>,
    ) -> Result<(), String> {
        let all = self.nodes.cache().list();
        let cidr = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).filter(|cidr| !cidr.is_empty());
        let own = all.iter().find(|node| node.metadata.name.as_deref() == Some(&self.name));
        let Some(range) = own.and_then(|node| cidr(node)) else { return Err("node has no podCIDR yet".to_owned()) };
        let now: BTreeMap<String, Peer> = all
            .iter()
            .filter(|node| node.metadata.name.as_deref() != Some(&self.name))
            .filter_map(|node| {
                let addresses = node.status.as_ref()?.addresses.as_ref()?;
                let address = addresses.iter().find(|address| address.type_ == "InternalIP")?;
                let peer = Peer { pod_cidr: cidr(node)?, node_ip: address.address.parse().ok()? };
                Some((node.metadata.name.clone()?, peer))
            })
            // Nodes that share this one's address share its routes too.
            .filter(|(_, peer)| Some(peer.node_ip) != self.address && !peer.node_ip.is_loopback())
            .collect();
        if *started != range {
            network.start(&range).await.map_err(|error| error.to_string())?;
            *started = range;
        }
        if now == *peers {
            return network.check().await.map_err(|error| error.to_string());
        }
        network.set_peers(now.clone()).await.map_err(|error| error.to_string())?;
        *peers = now;
        Ok(())
    }

    fn network_is(&self, problem: Option<String>) {
        let mut known = self.network_problem.lock();
        if *known == problem {
            return;
        }
        match &problem {
            Some(problem) => tracing::warn!(problem, "pod network not ready"),
            None => tracing::info!("pod network ready"),
        }
        self.shared.set_facts(|facts| facts.node.network_problem.clone_from(&problem));
        *known = problem;
        drop(known);
        self.changed.notify_one();
    }

    fn event(&self, kind: EventType, reason: &str, message: &str) {
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.name.clone()),
            uid: Some(self.name.clone()),
            ..ObjectReference::default()
        };
        self.events.event(&object, kind, reason, message);
    }
}
