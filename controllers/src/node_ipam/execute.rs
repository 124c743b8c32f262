//! Writes the ranges, one node after the other: a single worker, so that nothing is given out twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Cause, Error, Patch};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::observe;
use super::plan::{self, Action, Cidr};
use crate::runtime::{Context, Reconciler, Workers};

/// The address controller.
pub struct NodeIpam {
    context: Context,
    cluster: Cidr,
    in_flight: tokio::sync::Mutex<BTreeMap<String, Cidr>>,
}

impl NodeIpam {
    /// Runs until `stop`.
    pub async fn run(context: Context, cluster: Cidr, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.nodes.synced() => {}
        }
        let controller = Arc::new(Self { context: context.clone(), cluster, in_flight: tokio::sync::Mutex::default() });
        let mut workers = Workers::default();
        workers.feed(&context.nodes, |change| {
            let waits = change.new.as_ref().is_some_and(|node| node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none()));
            // A range that came free may be what another node waits for.
            if waits || change.new.is_none() { vec!["nodes".to_owned()] } else { Vec::new() }
        });
        workers.run(controller, 1, &context.metrics, &stop).await;
    }
}

impl Reconciler for NodeIpam {
    type Key = String;
    const NAME: &'static str = "node-ipam";

    async fn reconcile(&self, _: &String) -> Result<Option<Duration>, Error> {
        let mut in_flight = self.in_flight.lock().await;
        let plan = plan::plan(self.cluster, &observe::observe(&self.context, &mut in_flight));
        let mut result = Ok(None);
        for action in plan.actions {
            tracing::info!(controller = Self::NAME, %action);
            match action {
                Action::Assign { node, uid, cidr } => {
                    let text = cidr.to_string();
                    let patch = json!({"metadata": {"uid": uid}, "spec": {"podCIDR": text, "podCIDRs": [text]}});
                    let why = Cause::new(format!("{}: node without a pod range", Self::NAME));
                    // Kept also where the answer was lost: the write may have happened.
                    in_flight.insert(uid.clone(), cidr);
                    match self.context.client.patch::<Node>("", &node, "", Patch::Merge(patch), &why).await {
                        Ok(_) => {}
                        Err(error) if error.api().is_some() => {
                            in_flight.remove(&uid);
                            if !error.is_not_found() {
                                result = Err(error);
                            }
                        }
                        Err(error) => {
                            tracing::warn!(controller = Self::NAME, %node, %error, "unknown whether the range was written");
                            match self.context.client.get::<Node>("", &node).await {
                                Ok(live) if live.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some()) => {}
                                Ok(_) => {
                                    in_flight.remove(&uid);
                                    result = Err(error);
                                }
                                Err(_) => result = Err(error),
                            }
                        }
                    }
                }
                Action::Note { node, note } => {
                    if let Some(node) = self.context.nodes.cache().get("", &node) {
                        self.context.note(&*node, &note);
                    }
                    result = result.map(|_| Some(Duration::from_secs(30)));
                }
            }
        }
        result
    }
}
