//! Writes the Endpoints that `plan` decided on. Their names are fixed, so a stale cache does no harm.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::{DeleteOptions, Error};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;

use super::plan::{self, Action, Observed};
use crate::common::{Key, selector};
use crate::endpointslice::execute::services_of_change;
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers};

/// Services that are worked on at a time.
const WORKERS: usize = 5;

/// The controller of Endpoints.
pub struct EndpointsController {
    context: Context,
}

impl EndpointsController {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.services.synced().await;
                context.pods.synced().await;
                context.endpoints.synced().await;
            } => {}
        }
        let controller = Arc::new(Self { context: context.clone() });
        let mut workers = Workers::default();
        workers.feed(&context.services, |change| change.object().map(|service| Key::of(&service.metadata)).into_iter().collect());
        let own = context.clone();
        workers.feed(&context.pods, move |change| services_of_change(&own, change.old.as_ref(), change.new.as_ref()));
        workers.feed(&context.endpoints, |change| change.object().map(|endpoints| Key::of(&endpoints.metadata)).into_iter().collect());
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    fn observe(&self, key: &Key) -> Observed {
        let service = self.context.services.cache().get(&key.namespace, &key.name);
        let wanted = service.as_ref().and_then(|service| service.spec.as_ref()?.selector.clone());
        let mut pods = match &wanted {
            Some(_) => self.context.pods.cache().by_namespace(&key.namespace),
            None => Vec::new(),
        };
        pods.retain(|pod| selector::covers(pod.metadata.labels.as_ref(), wanted.as_ref()));
        Observed { service, pods, endpoints: self.context.endpoints.cache().get(&key.namespace, &key.name) }
    }
}

impl Reconciler for EndpointsController {
    type Key = Key;
    const NAME: &'static str = "endpoints";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let observed = self.observe(key);
        let plan = plan::plan(&observed);
        let nobody = ObjectMeta::default();
        let about = observed.service.as_ref().map_or(&nobody, |service| &service.metadata);
        let why = cause(Self::NAME, &plan.cause(), about);
        let client = &self.context.client;
        for action in plan.actions {
            tracing::debug!(controller = Self::NAME, %key, %action);
            let done = match action {
                Action::Create(endpoints) => client.create(&key.namespace, &*endpoints, &why).await.map(drop),
                Action::Update(endpoints) => client.update(&*endpoints, &why).await.map(drop),
                Action::Delete => {
                    let uid = observed.endpoints.as_ref().and_then(|endpoints| endpoints.metadata.uid.clone());
                    let options = DeleteOptions { uid, ..DeleteOptions::default() };
                    client.delete::<Endpoints>(&key.namespace, &key.name, options, &why).await.map(drop)
                }
            };
            match done {
                Err(error) if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() => {}
                other => other?,
            }
        }
        Ok(None)
    }
}
