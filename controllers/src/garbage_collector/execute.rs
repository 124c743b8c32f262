//! Feeds the graph from one informer per kind, and carries out what `plan` decides about the objects to look at.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use balsa_api::meta::GroupVersionResource;
use balsa_client::informer::{Change, Informer, Scope};
use balsa_client::{Cause, DeleteOptions, Error, Patch};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::graph::{Graph, Look, Vertex};
use super::custom;
use super::observe::{self, Metadata, Source};
use super::plan::{self, Action};
use crate::runtime::{Context, Reconciler, Workers};

const WORKERS: usize = 8;

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Collect(uid) => write!(f, "collect {uid}"),
            Self::Orphan(uid) => write!(f, "orphan {uid}"),
        }
    }
}

/// Takes a change into the graph: what deserves a look after it.
pub(super) fn looks(graph: &mut Graph, resource: &GroupVersionResource, change: &Change<Metadata>) -> BTreeSet<Look> {
    let mut looks = BTreeSet::new();
    let uid = |meta: &Metadata| meta.0.uid.clone().unwrap_or_default();
    if let Some(old) = &change.old
        && change.new.as_ref().is_none_or(|new| uid(new) != uid(old))
    {
        looks.extend(graph.remove(&uid(old)));
    }
    if let Some(new) = &change.new {
        looks.extend(graph.upsert(Vertex::new(resource, &new.0)));
    }
    looks
}

/// The garbage collector.
pub struct GarbageCollector {
    context: Context,
    graph: Arc<Mutex<Graph>>,
    queue: balsa_client::workqueue::WorkQueue<Look>,
}

impl GarbageCollector {
    /// Runs until `stop`.
    pub async fn run(context: Context, stop: CancellationToken) {
        let graph = Arc::new(Mutex::new(Graph::default()));
        let mut workers: Workers<Look> = Workers::default();
        let mut informers = Vec::new();
        for resource in observe::resources() {
            let informer: Informer<Metadata> =
                Informer::start_as(context.client.clone(), resource.clone(), Scope::all(), stop.clone());
            let graph = graph.clone();
            workers.feed(&informer, move |change| looks(&mut graph.lock(), &resource, change).into_iter().collect());
            informers.push(informer);
        }
        let following = custom::follow(context.clone(), graph.clone(), workers.queue.clone(), stop.clone());
        let _following = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(following));
        // Not all have to be complete: what the graph does not know is looked up live before anything is deleted.
        let controller = Arc::new(Self { context: context.clone(), graph, queue: workers.queue.clone() });
        workers.run(controller, WORKERS, &context.metrics, &stop).await;
    }

    async fn act(&self, action: Action, why: &Cause) -> Result<(), Error> {
        let client = &self.context.client;
        let result = match action {
            Action::Delete { resource, namespace, name, uid, resource_version, propagation } => {
                let options = DeleteOptions {
                    propagation: Some(propagation.to_owned()),
                    uid: Some(uid),
                    resource_version: Some(resource_version),
                    ..DeleteOptions::default()
                };
                client.delete_raw(&resource, &namespace, &name, options, why).await.map(|_| ())
            }
            Action::Patch { resource, namespace, name, patch, .. } => {
                client.patch_raw(&resource, &namespace, &name, "", Patch::Merge(patch), why).await.map(|_| ())
            }
            Action::Look { uid, .. } => {
                self.queue.add_after(Look::Collect(uid), Duration::from_millis(20));
                Ok(())
            }
        };
        match result {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn collect(&self, uid: &str) -> Result<(), Error> {
        let Some(vertex) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        let definitions = self.context.definitions.cache();
        let source = Source { client: &self.context.client, graph: &self.graph, definitions: &definitions };
        let Some(observed) = observe::observe(&source, &vertex).await? else { return Ok(()) };
        let plan = plan::collect(&observed);
        let why = Cause::new(format!("{}: {}", Self::NAME, plan.cause())).seen(&observed.meta);
        for action in plan.actions {
            tracing::debug!(controller = Self::NAME, %action, because = plan.reasons.join("; "));
            self.act(action, &why).await?;
        }
        Ok(())
    }

    async fn orphan(&self, uid: &str) -> Result<(), Error> {
        let Some(owner) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        let dependents: Vec<Vertex> = self.graph.lock().dependents(uid).cloned().collect();
        let why = Cause::new(format!("{}: {} {} leaves its dependents", Self::NAME, owner.resource, owner.name));
        for dependent in dependents {
            if let Some(meta) = observe::live(&self.context.client, &dependent).await? {
                let observed = plan::Observed {
                    resource: dependent.resource.clone(),
                    meta,
                    owners: Vec::new(),
                    dependents: Vec::new(),
                };
                if let Some(action) = plan::free(&observed, uid) {
                    self.act(action, &why).await?;
                }
            }
        }
        let Some(meta) = observe::live(&self.context.client, &owner).await? else { return Ok(()) };
        let observed = plan::Observed { resource: owner.resource.clone(), meta, owners: Vec::new(), dependents: Vec::new() };
        match plan::release(&observed) {
            Some(action) => self.act(action, &why).await,
            None => Ok(()),
        }
    }
}

impl Reconciler for GarbageCollector {
    type Key = Look;
    const NAME: &'static str = "garbage-collector";

    async fn reconcile(&self, look: &Look) -> Result<Option<Duration>, Error> {
        match look {
            Look::Collect(uid) => self.collect(uid).await?,
            Look::Orphan(uid) => self.orphan(uid).await?,
        }
        Ok(None)
    }
}
