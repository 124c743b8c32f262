//! Keeps what the node does with packets and names in step with the API: Services, endpoints, policies, DNS.
//!
//! It decides nothing: it looks at the copies of the lists, has plans made of them, and hands these on. Changes that
//! come together are taken together. Pods of the whole cluster are only followed while there is a policy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_api::meta::GroupVersionResource;
use balsa_client::informer::{Informer, Scope, Subscription};
use balsa_client::{Client, Decode};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dns::server::Server;
use crate::dns::zone::{Settings, Zone};
use crate::network::Network;
use crate::network::policy::{Inputs, PolicyPod};
use crate::network::service::plan;
use crate::runtime::RuntimeResult;

/// Changes within this time are carried out together.
const TOGETHER: Duration = Duration::from_millis(50);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What is kept of every pod of the cluster.
#[derive(Debug, Clone)]
struct KeptPod {
    metadata: ObjectMeta,
    pod: Arc<PolicyPod>,
}

impl Decode for KeptPod {
    fn decode(body: &[u8]) -> balsa_client::Result<Self> {
        let pod = Pod::decode(body)?;
        let kept = Arc::new(PolicyPod::of(&pod));
        let ObjectMeta { name, namespace, uid, resource_version, .. } = pod.metadata;
        Ok(Self { metadata: ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() }, pod: kept })
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// The node's packets and names.
pub struct Traffic {
    /// The API server.
    pub client: Client,
    /// What carries it out.
    pub network: Arc<Network>,
    /// Every Service.
    pub services: Informer<Service>,
    /// Every node: ours has our zone.
    pub nodes: Informer<Node>,
    /// Name of the node.
    pub name: String,
    /// The cluster's DNS, and what its zone is made for; `None` where somebody else answers.
    pub dns: Option<(Arc<Server>, Settings)>,
}

/// The lists that only this part follows.
struct Lists {
    slices: Informer<EndpointSlice>,
    namespaces: Informer<Namespace>,
    policies: Informer<NetworkPolicy>,
    pods: Option<Informer<KeptPod>>,
}

impl Traffic {
    /// Keeps in step until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut lists = Lists {
            slices: Informer::start(self.client.clone(), Scope::all(), stop.clone()),
            namespaces: Informer::start(self.client.clone(), Scope::all(), stop.clone()),
            policies: Informer::start(self.client.clone(), Scope::all(), stop.clone()),
            pods: None,
        };
        let mut changes = (self.services.subscribe(), lists.slices.subscribe(), lists.namespaces.subscribe(), lists.policies.subscribe());
        let mut pod_changes: Option<Subscription<KeptPod>> = None;
        let mut zone_serial = 0;
        loop {
            let done = self.step(&lists, &mut zone_serial).await;
            let retry = done.err().map(|error| {
                tracing::warn!(%error, "Services and policies are not carried out yet, to be tried again");
                Instant::now() + RETRY
            });
            tokio::select! {
                () = stop.cancelled() => return,
                change = changes.0.recv() => if change.is_none() { return },
                change = changes.1.recv() => if change.is_none() { return },
                change = changes.2.recv() => if change.is_none() { return },
                change = changes.3.recv() => if change.is_none() { return },
                () = any(&mut pod_changes) => {}
                () = self.services.synced(), if !self.services.is_synced() => {}
                () = lists.complete() => {}
                () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            }
            tokio::time::sleep(TOGETHER).await;
            drain(&mut changes.0);
            drain(&mut changes.1);
            drain(&mut changes.2);
            drain(&mut changes.3);
            pod_changes.iter_mut().for_each(drain);
            self.follow_pods(&mut lists, &mut pod_changes, &stop);
        }
    }

    fn follow_pods(&self, lists: &mut Lists, changes: &mut Option<Subscription<KeptPod>>, stop: &CancellationToken) {
        let needed = !lists.policies.cache().list().is_empty();
        if needed && lists.pods.is_none() {
            let resource = GroupVersionResource::new("", "v1", "pods");
            let pods = Informer::start_as(self.client.clone(), resource, Scope::all(), stop.clone());
            *changes = Some(pods.subscribe());
            lists.pods = Some(pods);
        } else if !needed {
            *changes = None;
            lists.pods = None;
        }
    }

    async fn step(&self, lists: &Lists, zone_serial: &mut u32) -> RuntimeResult<()> {
        let mut served = Ok(());
        if self.services.is_synced() && lists.slices.is_synced() {
            let (services, slices) = (self.services.cache().list(), lists.slices.cache().list());
            let zone = self.zone();
            let Ok(cluster_cidr) = self.network.config().cluster_cidr.parse() else { return Ok(()) };
            let node = plan::Node { name: &self.name, zone: &zone, cluster_cidr, own: &self.network.config().dns };
            let plan = plan::plan(services.iter().map(AsRef::as_ref), slices.iter().map(AsRef::as_ref), node);
            if let Some((server, settings)) = self.dns.as_ref().filter(|_| lists.namespaces.is_synced()) {
                *zone_serial = zone_serial.wrapping_add(1);
                let namespaces = lists.namespaces.cache().list();
                let names = namespaces.iter().filter_map(|namespace| namespace.metadata.name.clone());
                let (services, slices) = (services.iter().map(AsRef::as_ref), slices.iter().map(AsRef::as_ref));
                server.set_zone(Zone::of(settings.clone(), names, services, slices, *zone_serial));
            }
            served = self.network.set_services(plan).await;
        }
        let ruled = match lists.inputs() {
            Some(inputs) => self.network.set_policies(inputs).await,
            None => Ok(()),
        };
        served.and(ruled)
    }

    fn zone(&self) -> String {
        let node = self.nodes.cache().get("", &self.name);
        let labels = node.and_then(|node| node.metadata.labels.clone()).unwrap_or_default();
        labels.get("topology.kubernetes.io/zone").cloned().unwrap_or_default()
    }
}

impl Lists {
    /// What policies are made from; `None` until all of that is known.
    fn inputs(&self) -> Option<Inputs> {
        if !self.policies.is_synced() || !self.namespaces.is_synced() {
            return None;
        }
        let policies = self.policies.cache().list();
        let pods = match &self.pods {
            _ if policies.is_empty() => Vec::new(),
            Some(pods) if pods.is_synced() => pods.cache().list().iter().map(|kept| kept.pod.clone()).collect(),
            _ => return None,
        };
        let namespaces = self.namespaces.cache().list();
        let namespaces: BTreeMap<_, _> = namespaces
            .iter()
            .filter_map(|namespace| {
                Some((namespace.metadata.name.clone()?, namespace.metadata.labels.clone().unwrap_or_default()))
            })
            .collect();
        Some(Inputs { policies, namespaces, pods })
    }

    /// Returns when a list that is not complete yet has become so. An empty list tells of nothing.
    async fn complete(&self) {
        let pods = self.pods.as_ref();
        let missing = [self.slices.is_synced(), self.namespaces.is_synced(), self.policies.is_synced()];
        tokio::select! {
            () = self.slices.synced(), if !missing[0] => {}
            () = self.namespaces.synced(), if !missing[1] => {}
            () = self.policies.synced(), if !missing[2] => {}
            () = synced(pods), if pods.is_some_and(|pods| !pods.is_synced()) => {}
            else => std::future::pending().await,
        }
    }
}

async fn synced(pods: Option<&Informer<KeptPod>>) {
    if let Some(pods) = pods {
        pods.synced().await;
    }
}

async fn any(changes: &mut Option<Subscription<KeptPod>>) {
    match changes {
        Some(changes) => drop(changes.recv().await),
        None => std::future::pending().await,
    }
}

/// All that has changed is about to be looked at.
fn drain<K: Decode>(changes: &mut Subscription<K>) {
    while changes.recv().now_or_never().flatten().is_some() {}
}
