//! Which controllers run, and when: all of them while this copy leads, none otherwise.
//!
//! Running: ReplicaSet, ReplicationController, Deployment, Job and its time to live, node life cycle, taint eviction, node IPAM, pod garbage,
//! namespace deletion, ServiceAccount `default` and `kube-root-ca.crt`, garbage collection by owner references,
//! EndpointSlices (mirrored ones too) and Endpoints, PodDisruptionBudget and ResourceQuota status.
//!
//! Not there yet: CronJob, StatefulSet, DaemonSet, HorizontalPodAutoscaler, volume binding and provisioning, ClusterRole aggregation, certificate signing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use balsa_client::events::EventRecorder;
use balsa_client::leader::{self, LeaderConfig};
use balsa_client::{Client, ClientConfig};
use balsa_process::backoff::Backoff;
use balsa_process::{identity, observe};
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::deployment::Deployments;
use crate::disruption::Disruption;
use crate::endpoints::EndpointsController;
use crate::endpointslice::EndpointSlices;
use crate::endpointslice_mirroring::Mirroring;
use crate::garbage_collector::GarbageCollector;
use crate::job::{FinishedJobs, JobOrphans, Jobs};
use crate::metrics::Metrics;
use crate::namespace::Namespaces;
use crate::node_ipam::NodeIpam;
use crate::node_lifecycle::{NodeLifecycle, TaintEviction};
use crate::pod_gc::PodGc;
use crate::replicaset::{Controller, ReplicaSets, ReplicationControllers};
use crate::resource_quota::ResourceQuotas;
use crate::runtime::Context;
use crate::service_account::NamespaceDefaults;

/// Name of the Lease in `kube-system`.
const LEASE: &str = "kube-controller-manager";

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Start = Box<dyn Fn(Context, CancellationToken) -> Task + Send + Sync>;

fn controllers(config: &Config, root_ca: &str) -> Vec<(&'static str, Start)> {
    let (grace, cidr, root_ca) = (config.node_monitor_grace_period, config.cluster_cidr, root_ca.to_owned());
    vec![
        ("replicaset", Box::new(|context, stop| Box::pin(Controller::<ReplicaSets>::run(context, stop)))),
        (
            "replicationcontroller",
            Box::new(|context, stop| Box::pin(Controller::<ReplicationControllers>::run(context, stop))),
        ),
        ("deployment", Box::new(|context, stop| Box::pin(Deployments::run(context, stop)))),
        ("job", Box::new(|context, stop| Box::pin(Jobs::run(context, stop)))),
        ("job-orphans", Box::new(|context, stop| Box::pin(JobOrphans::run(context, stop)))),
        ("ttl-after-finished", Box::new(|context, stop| Box::pin(FinishedJobs::run(context, stop)))),
        ("node-lifecycle", Box::new(move |context, stop| Box::pin(NodeLifecycle::run(context, grace, stop)))),
        ("taint-eviction", Box::new(|context, stop| Box::pin(TaintEviction::run(context, stop)))),
        ("node-ipam", Box::new(move |context, stop| Box::pin(NodeIpam::run(context, cidr, stop)))),
        ("pod-garbage", Box::new(|context, stop| Box::pin(PodGc::run(context, stop)))),
        ("namespace", Box::new(|context, stop| Box::pin(Namespaces::run(context, stop)))),
        (
            "namespace-defaults",
            Box::new(move |context, stop| Box::pin(NamespaceDefaults::run(context, root_ca.clone(), stop))),
        ),
        ("endpointslice", Box::new(|context, stop| Box::pin(EndpointSlices::run(context, stop)))),
        ("endpointslice-mirroring", Box::new(|context, stop| Box::pin(Mirroring::run(context, stop)))),
        ("endpoints", Box::new(|context, stop| Box::pin(EndpointsController::run(context, stop)))),
        ("disruption", Box::new(|context, stop| Box::pin(Disruption::run(context, stop)))),
        ("resourcequota", Box::new(|context, stop| Box::pin(ResourceQuotas::run(context, stop)))),
        ("garbage-collector", Box::new(|context, stop| Box::pin(GarbageCollector::run(context, stop)))),
    ]
}

/// Runs one controller until `stop`; one that ends by itself is started again.
async fn supervise(name: &'static str, start: Arc<Start>, context: Context, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    while !stop.is_cancelled() {
        start(context.clone(), stop.clone()).await;
        if !stop.is_cancelled() {
            tracing::error!(controller = name, "ended by itself: starting it again");
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }
}

/// Runs every controller until `stop`. Dropping the future ends them too.
pub async fn lead(config: &Config, root_ca: &str, client: &Client, recorder: &EventRecorder, metrics: &Metrics, stop: CancellationToken) {
    metrics.leading(true);
    let context = Context::start(client, recorder, metrics, &stop);
    let mut tasks = JoinSet::new();
    for (name, start) in controllers(config, root_ca) {
        tasks.spawn(supervise(name, Arc::new(start), context.clone(), stop.clone()));
    }
    while tasks.join_next().await.is_some() {}
    metrics.leading(false);
}

/// Serves health and metrics, competes for leadership, and runs all controllers while it leads, until `stop`.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let tls = config.tls.as_ref().map(balsa_process::tls::TlsFiles::load).transpose().context("our identity")?;
    let root_ca = match (&config.root_ca, &tls) {
        (Some(file), _) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        (None, Some(tls)) => String::from_utf8(tls.ca_pem().to_vec()).context("the CA is no PEM text")?,
        (None, None) => String::new(),
    };
    let client = Client::new(ClientConfig {
        apiservers: config.apiservers.clone(),
        identity: tls.clone(),
        component: identity::names::CONTROLLERS.trim_start_matches("system:").to_owned(),
    })?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let listener = observe::bind(config.listen).await?;
    tracing::info!(name = config.name, listen = %listener.local_addr()?, "controllers are up");
    let served = tokio::spawn(observe::serve(listener, tls, Arc::new(registry), Arc::new(|| Ok(())), stop.clone()));
    let recorder = EventRecorder::new(client.clone(), "kube-controller-manager", "");
    let leading = leader::run(client.clone(), LeaderConfig::new(LEASE, &config.name), stop.clone(), |lost| {
        let (config, root_ca, client) = (config.clone(), root_ca.clone(), client.clone());
        let (recorder, metrics) = (recorder.clone(), metrics.clone());
        async move { lead(&config, &root_ca, &client, &recorder, &metrics, lost).await }
    });
    leading.await;
    metrics.leading(false);
    // Events of the last moment.
    let _ = tokio::time::timeout(Duration::from_secs(1), recorder.flush()).await;
    served.await.context("the observation port")??;
    Ok(())
}
