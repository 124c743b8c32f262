//! What all controllers of one leadership share: the client, the event recorder and one informer per kind.

use balsa_client::events::{EventRecorder, EventType};
use balsa_client::informer::{Informer, Scope};
use balsa_client::{Cause, Client, Object, object_reference};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, ObjectReference, Pod, ReplicationController, ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::common::{Note, owners, pods};
use super::definitions::{self, Definition};
use crate::metrics::Metrics;

/// Name of the index of pods by node, see [`Context::pods`].
pub fn on_node(node: &str) -> String {
    format!("node:{node}")
}

/// Name of the index of pods by the UID that controls them.
pub fn controlled_by(uid: &str) -> String {
    format!("controller:{uid}")
}

/// Name of the index of pods of a namespace that nobody controls.
pub fn uncontrolled_in(namespace: &str) -> String {
    format!("uncontrolled:{namespace}")
}

fn index(pod: &Pod) -> Vec<String> {
    let owner = match owners::controller_of(&pod.metadata) {
        Some(reference) => controlled_by(&reference.uid),
        None => uncontrolled_in(pod.metadata.namespace.as_deref().unwrap_or_default()),
    };
    let node = pods::node(pod);
    if node.is_empty() { vec![owner] } else { vec![owner, on_node(node)] }
}

/// Shared by all controllers; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The way to the apiserver.
    pub client: Client,
    /// Events.
    pub recorder: EventRecorder,
    /// Counters.
    pub metrics: Metrics,
    /// All pods, indexed by [`on_node`], [`controlled_by`] and [`uncontrolled_in`].
    pub pods: Informer<Pod>,
    /// All nodes.
    pub nodes: Informer<Node>,
    /// All ReplicaSets.
    pub replica_sets: Informer<ReplicaSet>,
    /// All ReplicationControllers.
    pub replication_controllers: Informer<ReplicationController>,
    /// All Deployments.
    pub deployments: Informer<Deployment>,
    /// All Jobs.
    pub jobs: Informer<Job>,
    /// All namespaces.
    pub namespaces: Informer<Namespace>,
    /// ServiceAccounts named `default`.
    pub default_accounts: Informer<ServiceAccount>,
    /// ConfigMaps named `kube-root-ca.crt`.
    pub root_cas: Informer<ConfigMap>,
    /// Leases of nodes.
    pub node_leases: Informer<Lease>,
    /// Which custom resources there are.
    pub definitions: Informer<Definition>,
    /// All Services.
    pub services: Informer<Service>,
    /// All Endpoints.
    pub endpoints: Informer<Endpoints>,
    /// All EndpointSlices.
    pub endpoint_slices: Informer<EndpointSlice>,
    /// All ResourceQuotas.
    pub resource_quotas: Informer<ResourceQuota>,
    /// All PodDisruptionBudgets.
    pub disruption_budgets: Informer<PodDisruptionBudget>,
}

impl Context {
    /// Starts the informers; they end with `stop`. Must be called inside a tokio runtime.
    pub fn start(client: &Client, recorder: &EventRecorder, metrics: &Metrics, stop: &CancellationToken) -> Self {
        let named = |name: &str| Scope::fields(format!("metadata.name={name}"));
        let leases = Scope { namespace: "kube-node-lease".to_owned(), ..Scope::default() };
        let (client, stop) = (client.clone(), stop.clone());
        Self {
            recorder: recorder.clone(),
            metrics: metrics.clone(),
            pods: Informer::start_indexed(client.clone(), Scope::all(), index, stop.clone()),
            nodes: Informer::start(client.clone(), Scope::all(), stop.clone()),
            replica_sets: Informer::start(client.clone(), Scope::all(), stop.clone()),
            replication_controllers: Informer::start(client.clone(), Scope::all(), stop.clone()),
            deployments: Informer::start(client.clone(), Scope::all(), stop.clone()),
            jobs: Informer::start(client.clone(), Scope::all(), stop.clone()),
            namespaces: Informer::start(client.clone(), Scope::all(), stop.clone()),
            default_accounts: Informer::start(client.clone(), named(crate::service_account::plan::SERVICE_ACCOUNT), stop.clone()),
            root_cas: Informer::start(client.clone(), named(crate::service_account::plan::ROOT_CA), stop.clone()),
            node_leases: Informer::start(client.clone(), leases, stop.clone()),
            definitions: Informer::start_as(client.clone(), definitions::resource(), Scope::all(), stop.clone()),
            services: Informer::start(client.clone(), Scope::all(), stop.clone()),
            endpoints: Informer::start(client.clone(), Scope::all(), stop.clone()),
            endpoint_slices: Informer::start(client.clone(), Scope::all(), stop.clone()),
            resource_quotas: Informer::start(client.clone(), Scope::all(), stop.clone()),
            disruption_budgets: Informer::start(client.clone(), Scope::all(), stop),
            client,
        }
    }

    /// The time. The only clock of the controllers.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Records an event about an object.
    pub fn note<K: Object>(&self, about: &K, note: &Note) {
        self.note_reference(&object_reference(about), note);
    }

    /// Records an event about whatever the reference names.
    pub fn note_reference(&self, about: &ObjectReference, note: &Note) {
        let kind = if note.warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(about, kind, &note.reason, note.message.clone());
    }
}

/// The cause of a write: what the plan says, and the version of the object that it was about.
pub fn cause(controller: &str, reasons: &str, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Cause {
    let text = if reasons.is_empty() { controller.to_owned() } else { format!("{controller}: {reasons}") };
    Cause::new(text).seen(meta)
}
