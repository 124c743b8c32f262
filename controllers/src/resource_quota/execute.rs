//! Counts and writes, and watches the kinds that quotas are about.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_api::meta::GroupVersionResource;
use balsa_client::informer::{Informer, Scope};
use balsa_client::{DynamicObject, Error};
use k8s_openapi::api::core::v1::ResourceQuota;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{self, Kind, Observed};
use crate::common::{Key, pods};
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers};

/// How often everything is counted even if nothing changed.
const FULL: Duration = Duration::from_secs(300);
/// How long a kind may take to be listed before its quotas are tried again later.
const LISTING: Duration = Duration::from_secs(10);

/// The quota controller.
pub struct ResourceQuotas {
    context: Context,
    watched: Mutex<Watched>,
    queue: balsa_client::workqueue::WorkQueue<Key>,
    stop: CancellationToken,
}

/// Kinds other than pods that some quota names.
#[derive(Default)]
struct Watched {
    informers: BTreeMap<Kind, (GroupVersionResource, Informer<DynamicObject>)>,
    feeders: JoinSet<()>,
}

fn quotas_in(context: &Context, namespace: &str) -> Vec<Key> {
    let quotas = context.resource_quotas.cache().by_namespace(namespace);
    quotas.iter().map(|quota| Key::of(&quota.metadata)).collect()
}

impl ResourceQuotas {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { context.resource_quotas.synced().await; context.pods.synced().await } => {}
        }
        let mut workers = Workers::default();
        let controller = Arc::new(Self {
            context: context.clone(),
            watched: Mutex::default(),
            queue: workers.queue.clone(),
            stop: stop.clone(),
        });
        workers.feed(&context.resource_quotas, |change| {
            let Some(new) = &change.new else { return Vec::new() };
            // What the API server charges is no reason to count; what people want is.
            let wants = |quota: &ResourceQuota| quota.spec.clone();
            let counted = new.status.as_ref().is_some_and(|status| status.hard.is_some());
            if counted && change.old.as_ref().is_some_and(|old| wants(old) == wants(new)) {
                return Vec::new();
            }
            vec![Key::of(&new.metadata)]
        });
        let own = context.clone();
        workers.feed(&context.pods, move |change| {
            let same = match (&change.old, &change.new) {
                (Some(old), Some(new)) => {
                    pods::is_finished(old) == pods::is_finished(new)
                        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
                        && old.metadata.generation == new.metadata.generation
                }
                _ => false,
            };
            let namespace = change.object().and_then(|pod| pod.metadata.namespace.clone()).unwrap_or_default();
            if same { Vec::new() } else { quotas_in(&own, &namespace) }
        });
        let own = context.clone();
        workers.feed(&context.definitions, move |change| {
            let Some(definition) = change.object() else { return Vec::new() };
            let name = definition.metadata.name.clone().unwrap_or_default();
            let counts = |quota: &ResourceQuota| plan::kinds(quota).iter().any(|(group, plural)| name == format!("{plural}.{group}"));
            let quotas = own.resource_quotas.cache().list();
            quotas.iter().filter(|quota| counts(quota)).map(|quota| Key::of(&quota.metadata)).collect()
        });
        workers.run(controller, 5, &context.metrics, &stop).await;
    }

    /// Where a kind whose objects live in namespaces is served: built in, or by a definition.
    fn resource(&self, (group, plural): &Kind) -> Option<GroupVersionResource> {
        let built_in = balsa_api::kinds::all().iter().find(|known| {
            let names = known.names();
            names.group == group && names.plural == plural && known.namespaced() && known.verbs().contains(&"watch")
        });
        if let Some(kind) = built_in {
            return Some(kind.gvr());
        }
        let definition = self.context.definitions.cache().get("", &format!("{plural}.{group}"))?;
        definition.served.as_ref().filter(|served| served.namespaced).map(|served| served.resource.clone())
    }

    /// The informer of a kind, started when it is first asked for and again where the kind is served elsewhere now.
    fn informer(&self, kind: &Kind) -> Option<Informer<DynamicObject>> {
        let resource = self.resource(kind);
        let mut watched = self.watched.lock();
        match watched.informers.get(kind) {
            Some((of, informer)) if Some(of) == resource.as_ref() => return Some(informer.clone()),
            Some(_) => drop(watched.informers.remove(kind)),
            None => {}
        }
        let resource = resource?;
        let informer = Informer::start_dynamic(self.context.client.clone(), resource.clone(), Scope::all(), self.stop.clone());
        let (mut changes, queue, context) = (informer.subscribe(), self.queue.clone(), self.context.clone());
        while watched.feeders.try_join_next().is_some() {}
        watched.feeders.spawn(async move {
            while let Some(change) = changes.recv().await {
                let namespace = change.object().and_then(|object| object.metadata.namespace.clone()).unwrap_or_default();
                quotas_in(&context, &namespace).into_iter().for_each(|key| queue.add(key));
            }
        });
        watched.informers.insert(kind.clone(), (resource, informer.clone()));
        Some(informer)
    }

    /// What there is; `None`: some kind could not be listed in time.
    async fn observe(&self, quota: &ResourceQuota, namespace: &str) -> Option<Observed> {
        let mut observed = Observed { now: self.context.now(), ..Observed::default() };
        for kind in plan::kinds(quota) {
            let objects = if kind.0.is_empty() && kind.1 == "pods" {
                let pods = self.context.pods.cache().by_namespace(namespace);
                pods.iter().filter_map(|pod| serde_json::to_value(&**pod).ok()).collect()
            } else {
                let Some(informer) = self.informer(&kind) else { continue };
                tokio::time::timeout(LISTING, informer.synced()).await.ok()?;
                informer.cache().by_namespace(namespace).iter().map(|object| object.value.clone()).collect()
            };
            observed.objects.insert(kind, objects);
        }
        Some(observed)
    }
}

impl Reconciler for ResourceQuotas {
    type Key = Key;
    const NAME: &'static str = "resourcequota";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(quota) = self.context.resource_quotas.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        let Some(observed) = self.observe(&quota, &key.namespace).await else { return Ok(Some(LISTING)) };
        let plan = plan::plan(&quota, &observed);
        if let Some(status) = plan.status.clone() {
            let why = cause(Self::NAME, &plan.cause(), &quota.metadata);
            let mut quota = ResourceQuota::clone(&quota);
            quota.status = Some(status);
            match self.context.client.update_status(&quota, &why).await {
                Err(error) if error.is_not_found() => return Ok(None),
                other => drop(other?),
            }
        }
        Ok(Some(FULL))
    }
}
