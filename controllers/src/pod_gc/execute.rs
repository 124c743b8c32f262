//! Removes the pods that `plan` names, at an interval.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Cause, DeleteOptions, Error, Patch};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{observe, plan};
use crate::runtime::{Context, Reconciler, Workers};

const PERIOD: Duration = Duration::from_secs(20);

/// The pod garbage controller.
pub struct PodGc {
    context: Context,
    missing: tokio::sync::Mutex<BTreeMap<String, Timestamp>>,
}

impl PodGc {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { context.nodes.synced().await; context.pods.synced().await } => {}
        }
        let controller = Arc::new(Self { context: context.clone(), missing: tokio::sync::Mutex::default() });
        let mut workers = Workers::default();
        workers.tick("pods".to_owned(), PERIOD);
        // Nobody else ends these; the API removes them by itself, except where a finalizer or a race was in the way.
        workers.feed(&context.pods, |change| {
            let stuck = |pod: &Arc<Pod>| crate::common::pods::node(pod).is_empty() && crate::common::pods::is_terminating(pod);
            if change.new.as_ref().is_some_and(stuck) { vec!["pods".to_owned()] } else { Vec::new() }
        });
        workers.run(controller, 1, &context.metrics, &stop).await;
    }

    async fn remove(&self, action: &plan::Action) -> Result<(), Error> {
        let client = &self.context.client;
        let why = Cause::new(format!("{}: {action}", Self::NAME));
        if action.fail {
            let mut status = json!({"phase": "Failed"});
            if let Some(condition) = &action.condition {
                status["conditions"] = json!([condition]);
            }
            let patch = json!({"metadata": {"uid": action.uid}, "status": status});
            client.patch::<Pod>(&action.namespace, &action.pod, "status", Patch::Strategic(patch), &why).await?;
        }
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: Some(action.uid.clone()),
            ..DeleteOptions::default()
        };
        client.delete::<Pod>(&action.namespace, &action.pod, options, &why).await.map(|_| ())
    }
}

impl Reconciler for PodGc {
    type Key = String;
    const NAME: &'static str = "pod-garbage";

    async fn reconcile(&self, _: &String) -> Result<Option<Duration>, Error> {
        let now = self.context.now();
        let observed = observe::observe(&self.context, &mut *self.missing.lock().await, now).await?;
        let mut result = Ok(None);
        for action in plan::plan(&observed, plan::TERMINATED_THRESHOLD, now).actions {
            tracing::info!(controller = Self::NAME, %action);
            match self.remove(&action).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => result = Err(error),
                _ => {}
            }
        }
        result
    }
}
