//! Creates and repairs the standard objects of namespaces. Their names are fixed, so a stale cache does no harm.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::Error;
use tokio_util::sync::CancellationToken;

use super::observe;
use super::plan::{self, Action};
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers};

/// The controller of `default` ServiceAccounts and `kube-root-ca.crt` ConfigMaps.
pub struct NamespaceDefaults {
    context: Context,
    root_ca: String,
}

impl NamespaceDefaults {
    /// Runs until `stop`. `root_ca`: PEM text.
    pub async fn run(context: Context, root_ca: String, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                context.namespaces.synced().await;
                context.default_accounts.synced().await;
                context.root_cas.synced().await;
            } => {}
        }
        let controller = Arc::new(Self { context: context.clone(), root_ca });
        let mut workers = Workers::default();
        workers.feed(&context.namespaces, |change| {
            change.new.as_ref().and_then(|namespace| namespace.metadata.name.clone()).into_iter().collect()
        });
        workers.feed(&context.default_accounts, |change| {
            let gone = change.old.as_ref().filter(|_| change.new.is_none());
            gone.and_then(|account| account.metadata.namespace.clone()).into_iter().collect()
        });
        workers.feed(&context.root_cas, |change| {
            change.object().and_then(|map| map.metadata.namespace.clone()).into_iter().collect()
        });
        workers.run(controller, 2, &context.metrics, &stop).await;
    }
}

impl Reconciler for NamespaceDefaults {
    type Key = String;
    const NAME: &'static str = "namespace-defaults";

    async fn reconcile(&self, name: &String) -> Result<Option<Duration>, Error> {
        let observed = observe::observe(&self.context, name);
        let plan = plan::plan(&self.root_ca, &observed);
        let Some(namespace) = &observed.namespace else { return Ok(None) };
        let why = cause(Self::NAME, &plan.cause(), &namespace.metadata);
        let client = &self.context.client;
        for action in plan.actions {
            tracing::debug!(controller = Self::NAME, namespace = name, %action);
            let result = match action {
                Action::CreateServiceAccount(account) => client.create(name, &*account, &why).await.map(|_| ()),
                Action::CreateRootCa(map) => client.create(name, &*map, &why).await.map(|_| ()),
                Action::UpdateRootCa(map) => client.update(&*map, &why).await.map(|_| ()),
            };
            match result {
                Err(error) if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() => {}
                other => other?,
            }
        }
        Ok(None)
    }
}
