//! Gives sums their rules, by server-side apply as the original does it: only `rules` is this controller's.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Client, Error, Patch};
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::plan::{self, Action};
use super::observe;
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers};

/// Whom the rules of sums belong to in managedFields.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// The controller of aggregated ClusterRoles.
pub struct ClusterRoles {
    context: Context,
    client: Client,
}

impl ClusterRoles {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.cluster_roles.synced() => {}
        }
        let client = context.client.clone().with_component(MANAGER);
        let controller = Arc::new(Self { context: context.clone(), client });
        let mut workers = Workers::default();
        let roles = context.cluster_roles.clone();
        // Any role may be part of any sum.
        workers.feed(&context.cluster_roles, move |_| {
            let sums = roles.cache().list().into_iter().filter(|role| plan::is_sum(role));
            sums.filter_map(|role| role.metadata.name.clone()).collect()
        });
        workers.run(controller, 1, &context.metrics, &stop).await;
    }
}

impl Reconciler for ClusterRoles {
    type Key = String;
    const NAME: &'static str = MANAGER;

    async fn reconcile(&self, name: &String) -> Result<Option<Duration>, Error> {
        let observed = observe::observe(&self.context, name);
        let plan = plan::plan(&observed);
        let Some(role) = &observed.role else { return Ok(None) };
        let why = cause(Self::NAME, &plan.cause(), &role.metadata);
        for action in plan.actions {
            tracing::debug!(controller = Self::NAME, %action);
            let Action::SetRules(name, rules) = action;
            let config = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": name}, "rules": rules});
            match self.client.patch::<ClusterRole>("", &name, "", Patch::Apply(config), &why).await {
                Err(error) if error.is_not_found() => {}
                other => drop(other?),
            }
        }
        Ok(None)
    }
}
