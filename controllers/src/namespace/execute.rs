//! Deletes content, writes conditions, takes the finalizer off.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Cause, DeleteOptions, Error};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use tokio_util::sync::CancellationToken;

use super::{observe, plan};
use crate::runtime::context::cause;
use crate::runtime::{Context, Reconciler, Workers};

/// Deletions in flight per namespace.
const AT_A_TIME: usize = 16;

/// The namespace controller.
pub struct Namespaces {
    context: Context,
}

impl Namespaces {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.namespaces.synced() => {}
        }
        let controller = Arc::new(Self { context: context.clone() });
        let mut workers = Workers::default();
        workers.feed(&context.namespaces, |change| {
            let going = change.new.as_ref().filter(|namespace| namespace.metadata.deletion_timestamp.is_some());
            going.and_then(|namespace| namespace.metadata.name.clone()).into_iter().collect()
        });
        workers.run(controller, 4, &context.metrics, &stop).await;
    }

    async fn delete(&self, namespace: &str, action: plan::Action, why: &Cause) -> Option<String> {
        let plan::Action::Delete { resource, name, uid } = action else { return None };
        let options = DeleteOptions {
            propagation: Some("Background".to_owned()),
            uid: (!uid.is_empty()).then_some(uid),
            ..DeleteOptions::default()
        };
        match self.context.client.delete_raw(&resource, namespace, &name, options, why).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Some(format!("{resource}/{name}: {error}")),
            _ => None,
        }
    }

    async fn finalize(&self, namespace: &Namespace, why: &Cause) -> Result<(), Error> {
        let mut namespace = namespace.clone();
        let finalizers = &mut namespace.spec.get_or_insert_default().finalizers;
        let rest: Vec<String> = finalizers.take().into_iter().flatten().filter(|name| name != plan::FINALIZER).collect();
        *finalizers = Some(rest);
        match self.context.client.update_subresource(&namespace, "finalize", why).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Reconciler for Namespaces {
    type Key = String;
    const NAME: &'static str = "namespace";

    async fn reconcile(&self, name: &String) -> Result<Option<Duration>, Error> {
        let mut namespace: Namespace = match self.context.client.get("", name).await {
            Ok(namespace) => namespace,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(None);
        }
        let mut observed = observe::observe(&self.context.client, name).await;
        let now = self.context.now();
        let mut plan = plan::plan(&namespace, &observed, now);
        let why = cause(Self::NAME, &plan.cause(), &namespace.metadata);
        let (finalize, deletions): (Vec<_>, Vec<_>) =
            plan.actions.drain(..).partition(|action| matches!(action, plan::Action::Finalize));
        let had_deletions = !deletions.is_empty();
        let failures: Vec<String> = stream::iter(deletions)
            .map(|action| self.delete(name, action, &why))
            .buffer_unordered(AT_A_TIME)
            .filter_map(|failure| async move { failure })
            .collect()
            .await;
        if !failures.is_empty() {
            observed.failures.extend(failures);
            plan.status = plan::plan(&namespace, &observed, now).status;
        }
        if let Some(conditions) = plan.status {
            namespace.status.get_or_insert_default().conditions = Some(conditions);
            match self.context.client.update_status(&namespace, &why).await {
                Ok(updated) => namespace = updated,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        if !finalize.is_empty() {
            self.finalize(&namespace, &why).await?;
        }
        // What was just deleted without grace is gone already.
        Ok(if had_deletions { Some(Duration::from_millis(100)) } else { plan.requeue_after })
    }
}
