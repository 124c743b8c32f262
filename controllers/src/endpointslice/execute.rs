//! Writes the slices that `plan` decided on.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Cause, DeleteOptions, Error};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio_util::sync::CancellationToken;

use super::{observe, plan};
use crate::common::endpoints::{SERVICE_NAME, SliceAction};
use crate::common::{Key, pods};
use crate::runtime::context::cause;
use crate::runtime::{Context, Flights, Reconciler, Workers};

/// Services that are worked on at a time.
const WORKERS: usize = 5;
/// How soon a Service is looked at again whose new slices the cache does not show yet.
const SOON: Duration = Duration::from_millis(50);

/// The controller of EndpointSlices.
pub struct EndpointSlices {
    context: Context,
    flights: Flights,
}

/// Whether Services see a difference between the two.
pub(crate) fn matters(old: &Pod, new: &Pod) -> bool {
    let spec = |pod: &Pod| pod.spec.as_ref().map(|spec| (spec.node_name.clone(), spec.hostname.clone(), spec.subdomain.clone()));
    let status = |pod: &Pod| pod.status.as_ref().map(|status| (status.pod_ip.clone(), status.pod_ips.clone()));
    old.metadata.labels != new.metadata.labels
        || pods::is_terminating(old) != pods::is_terminating(new)
        || pods::is_finished(old) != pods::is_finished(new)
        || pods::is_ready(old) != pods::is_ready(new)
        || status(old) != status(new)
        || spec(old) != spec(new)
}

/// The Services that a change of a pod is about.
pub(crate) fn services_of_change(context: &Context, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) -> Vec<Key> {
    if let (Some(old), Some(new)) = (old, new)
        && !matters(old, new)
    {
        return Vec::new();
    }
    let of = |pod: &Arc<Pod>| {
        observe::services_of(context, pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.labels.as_ref())
    };
    let mut keys: Vec<Key> = [old, new].into_iter().flatten().flat_map(of).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

impl EndpointSlices {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.services.synced().await;
                context.pods.synced().await;
                context.nodes.synced().await;
                context.endpoint_slices.synced().await;
            } => {}
        }
        let controller = Arc::new(Self { context: context.clone(), flights: Flights::default() });
        let mut workers = Workers::default();
        let flights = controller.flights.clone();
        workers.feed(&context.services, move |change| {
            if let (Some(old), None) = (&change.old, &change.new) {
                flights.forget(old.metadata.uid.as_deref().unwrap_or_default());
            }
            change.object().map(|service| Key::of(&service.metadata)).into_iter().collect()
        });
        let own = context.clone();
        workers.feed(&context.pods, move |change| services_of_change(&own, change.old.as_ref(), change.new.as_ref()));
        let flights = controller.flights.clone();
        workers.feed(&context.endpoint_slices, move |change| {
            if let Some(slice) = change.object() {
                flights.seen(&slice.metadata, change.new.is_none());
            }
            change.object().and_then(|slice| service_of(slice)).into_iter().collect()
        });
        let own = context.clone();
        workers.feed(&context.nodes, move |change| {
            // A node that comes late makes its pods' endpoints possible.
            if change.old.is_some() && change.new.is_some() {
                return Vec::new();
            }
            let name = change.object().and_then(|node| node.metadata.name.clone()).unwrap_or_default();
            let pods = own.pods.cache().by_index(&crate::runtime::context::on_node(&name));
            pods.iter().flat_map(|pod| services_of_change(&own, None, Some(pod))).collect()
        });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    /// Whether slices that we created are still unknown to the cache.
    async fn waits(&self, service: &Service) -> Result<bool, Error> {
        let uid = service.metadata.uid.as_deref().unwrap_or_default();
        let now = self.context.now();
        for (unseen, name) in self.flights.doubtful(uid, now) {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            match self.context.client.get::<EndpointSlice>(namespace, &name).await {
                Ok(live) if live.metadata.uid.as_deref() == Some(unseen.as_str()) => {}
                Ok(_) => self.flights.confirm(uid, &unseen, true),
                Err(error) if error.is_not_found() => self.flights.confirm(uid, &unseen, true),
                Err(error) => return Err(error),
            }
        }
        Ok(!self.flights.of(uid, now).0.is_empty())
    }
}

/// Carries one action out. What is gone already, or whose namespace is going, is nobody's failure.
pub(crate) async fn write(context: &Context, namespace: &str, action: SliceAction, why: &Cause) -> Result<Option<EndpointSlice>, Error> {
    let client = &context.client;
    let done = match action {
        SliceAction::Create(slice) => client.create(namespace, &*slice, why).await.map(Some),
        SliceAction::Update(slice) => client.update(&*slice, why).await.map(|_| None),
        SliceAction::Delete { name, uid } => {
            let options = DeleteOptions { uid: Some(uid), ..DeleteOptions::default() };
            client.delete::<EndpointSlice>(namespace, &name, options, why).await.map(|_| None)
        }
    };
    match done {
        Err(error) if error.is_not_found() || error.is_namespace_terminating() => Ok(None),
        other => other,
    }
}

impl Reconciler for EndpointSlices {
    type Key = Key;
    const NAME: &'static str = "endpointslice";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(service) = self.context.services.cache().get(&key.namespace, &key.name) else { return Ok(None) };
        if self.waits(&service).await? {
            return Ok(Some(SOON));
        }
        // Looked at only after what is in flight was: what is confirmed in between is in the cache.
        let observed = observe::observe(&self.context, key);
        let plan = plan::plan(&observed);
        let why = cause(Self::NAME, &plan.cause(), &service.metadata);
        for action in plan.actions {
            tracing::debug!(controller = Self::NAME, %key, %action);
            if let Some(made) = write(&self.context, &key.namespace, action, &why).await? {
                let uid = service.metadata.uid.as_deref().unwrap_or_default();
                self.flights.created(uid, &made.metadata, self.context.now());
                // It may have been seen before we said that we made it.
                let name = made.metadata.name.as_deref().unwrap_or_default();
                if self.context.endpoint_slices.cache().get(&key.namespace, name).is_some() {
                    self.flights.seen(&made.metadata, false);
                }
            }
        }
        Ok(None)
    }
}
