//! Writes the slices that repeat Endpoints.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::Error;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;

use super::plan::{self, MANAGER, Observed};
use crate::common::Key;
use crate::common::endpoints::{MANAGED_BY, SERVICE_NAME};
use crate::endpointslice::execute::{service_of, write};
use crate::runtime::context::cause;
use crate::runtime::{Context, Flights, Reconciler, Workers};

/// How soon it is looked again at Endpoints whose new slices the cache does not show yet.
const SOON: Duration = Duration::from_millis(50);

/// The mirroring controller.
pub struct Mirroring {
    context: Context,
    flights: Flights,
}

impl Mirroring {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.services.synced().await;
                context.endpoints.synced().await;
                context.endpoint_slices.synced().await;
            } => {}
        }
        let controller = Arc::new(Self { context: context.clone(), flights: Flights::default() });
        let mut workers = Workers::default();
        workers.feed(&context.services, |change| change.object().map(|service| Key::of(&service.metadata)).into_iter().collect());
        workers.feed(&context.endpoints, |change| change.object().map(|endpoints| Key::of(&endpoints.metadata)).into_iter().collect());
        let flights = controller.flights.clone();
        workers.feed(&context.endpoint_slices, move |change| {
            if let Some(slice) = change.object() {
                flights.seen(&slice.metadata, change.new.is_none());
            }
            change.object().and_then(|slice| service_of(slice)).into_iter().collect()
        });
        workers.run(controller, 2, &context.metrics, &stop).await;
    }

    fn observe(&self, key: &Key) -> Observed {
        let mut slices = self.context.endpoint_slices.cache().by_namespace(&key.namespace);
        slices.retain(|slice| {
            let label = |name: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
            label(SERVICE_NAME) == Some(key.name.as_str()) && label(MANAGED_BY) == Some(MANAGER)
        });
        Observed {
            service: self.context.services.cache().get(&key.namespace, &key.name),
            endpoints: self.context.endpoints.cache().get(&key.namespace, &key.name),
            slices,
        }
    }
}

impl Reconciler for Mirroring {
    type Key = Key;
    const NAME: &'static str = "endpointslice-mirroring";

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let owner = self.context.endpoints.cache().get(&key.namespace, &key.name);
        let uid = owner.as_ref().and_then(|endpoints| endpoints.metadata.uid.clone()).unwrap_or_default();
        if !self.flights.of(&uid, self.context.now()).0.is_empty() && self.flights.doubtful(&uid, self.context.now()).is_empty() {
            return Ok(Some(SOON));
        }
        let observed = self.observe(key);
        let outcome = plan::plan(&observed);
        let nobody = ObjectMeta::default();
        let why = cause(Self::NAME, &outcome.plan.cause(), observed.endpoints.as_ref().map_or(&nobody, |endpoints| &endpoints.metadata));
        let quiet = outcome.plan.is_quiet();
        for action in outcome.plan.actions {
            tracing::debug!(controller = Self::NAME, %key, %action);
            if let Some(made) = write(&self.context, &key.namespace, action, &why).await? {
                self.flights.created(&uid, &made.metadata, self.context.now());
                let name = made.metadata.name.as_deref().unwrap_or_default();
                if self.context.endpoint_slices.cache().get(&key.namespace, name).is_some() {
                    self.flights.seen(&made.metadata, false);
                }
            }
        }
        // Said once per change, not at every look.
        if let (Some(endpoints), false) = (&observed.endpoints, quiet) {
            outcome.notes.iter().for_each(|note| self.context.note(&**endpoints, note));
        }
        Ok(None)
    }
}
