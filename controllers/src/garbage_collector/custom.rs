//! Feeds the graph with custom resources: an informer for each that is served, begun and ended as definitions come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use balsa_api::meta::GroupVersionResource;
use balsa_client::informer::{Informer, Scope};
use balsa_client::workqueue::WorkQueue;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::execute::looks;
use super::graph::{Graph, Look};
use super::observe::Metadata;
use crate::runtime::Context;

/// A custom resource that is followed.
struct Followed {
    resource: GroupVersionResource,
    /// Follows as long as it is held.
    _informer: Informer<Metadata>,
    /// Set when it is given up.
    ended: Arc<AtomicBool>,
}

struct Follower {
    context: Context,
    graph: Arc<Mutex<Graph>>,
    queue: WorkQueue<Look>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// By definition.
    followed: BTreeMap<String, Followed>,
}

/// Follows definitions until `stop`.
pub async fn follow(context: Context, graph: Arc<Mutex<Graph>>, queue: WorkQueue<Look>, stop: CancellationToken) {
    let mut changes = context.definitions.subscribe();
    let mut follower = Follower { context, graph, queue, stop, tasks: JoinSet::new(), followed: BTreeMap::new() };
    while let Some(change) = changes.recv().await {
        let name = change.object().and_then(|definition| definition.metadata.name.clone()).unwrap_or_default();
        let served = change.new.as_ref().and_then(|definition| definition.served.as_ref()).map(|served| served.resource.clone());
        if follower.followed.get(&name).map(|followed| &followed.resource) == served.as_ref() {
            continue;
        }
        follower.end(&name);
        if let Some(resource) = served {
            follower.begin(name, resource);
        }
        while follower.tasks.try_join_next().is_some() {}
    }
}

impl Follower {
    fn begin(&mut self, name: String, resource: GroupVersionResource) {
        let informer: Informer<Metadata> =
            Informer::start_as(self.context.client.clone(), resource.clone(), Scope::all(), self.stop.clone());
        let (mut changes, graph, queue) = (informer.subscribe(), self.graph.clone(), self.queue.clone());
        let (of, ended) = (resource.clone(), Arc::new(AtomicBool::new(false)));
        let given_up = ended.clone();
        self.tasks.spawn(async move {
            while let Some(change) = changes.recv().await {
                let mut graph = graph.lock();
                // Looked at under the lock: nothing is learnt after the resource was given up.
                if given_up.load(Ordering::Relaxed) {
                    return;
                }
                let found = looks(&mut graph, &of, &change);
                drop(graph);
                found.into_iter().for_each(|look| queue.add(look));
            }
        });
        self.followed.insert(name, Followed { resource, _informer: informer, ended });
    }

    /// What is no longer followed is no longer known: its dependents deserve a look.
    fn end(&mut self, name: &str) {
        let Some(followed) = self.followed.remove(name) else { return };
        let mut graph = self.graph.lock();
        followed.ended.store(true, Ordering::Relaxed);
        for uid in graph.of_resource(&followed.resource) {
            graph.remove(&uid).into_iter().for_each(|look| self.queue.add(look));
        }
    }
}
