//! Decides which nodes get a daemon pod, which pods go, and what the status says.
//!
//! Not here: which nodes fit (`fit.rs`), how an update proceeds (`rolling.rs`), counting (`status.rs`), any writing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::status::{self, Placed};
use super::{fit, rolling};
use crate::common::history::{self, Write};
use crate::common::in_flight::LOOK_AFTER;
use crate::common::owners::{self, Claim, Owner};
use crate::common::{Note, Plan, hash, pods, selector, time};
use crate::deployment::fence::resolve;

/// Most pods that one round creates, and that it deletes.
pub const BURST: usize = 250;

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(900);

/// How long failed pods of one node are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Since the last one was deleted.
    pub since: Timestamp,
    /// For so long.
    pub delay: Duration,
}

impl Retry {
    fn left(self, now: Timestamp) -> Duration {
        self.delay.saturating_sub(time::since(self.since, now))
    }

    /// After one more failure.
    fn next(before: Option<Self>, now: Timestamp) -> Self {
        let fresh = |retry: &Self| time::since(retry.since, now) <= 2 * LONGEST_DELAY;
        let delay = before.filter(fresh).map_or(FIRST_DELAY, |retry| (2 * retry.delay).min(LONGEST_DELAY));
        Self { since: now, delay }
    }
}

/// What there is beside the set itself.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Pods of the namespace that the set controls, or that its selector matches and nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// Revisions, likewise.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Creations that `pods` does not show yet.
    pub creates_in_flight: usize,
    /// UIDs of pods whose deletion we asked for; `pods` may not show it yet.
    pub deletes_in_flight: BTreeSet<String>,
    /// By node: how long failed pods are left alone.
    pub retries: BTreeMap<String, Retry>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A revision.
    Revision(Write),
    /// Put our reference on a pod.
    Adopt {
        /// Name of the pod.
        pod: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Take our reference off a pod that no longer matches.
    Release {
        /// Name of the pod.
        pod: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Create these, in batches that grow while they succeed.
    Create(Vec<Pod>),
    /// Delete a pod.
    Delete {
        /// Name of the pod.
        pod: String,
        /// Its UID: the precondition.
        uid: String,
    },
    /// Tell.
    Note(Note),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(write) => write.fmt(f),
            Self::Adopt { pod, .. } => write!(f, "adopt {pod}"),
            Self::Release { pod, .. } => write!(f, "release {pod}"),
            Self::Create(pods) => {
                let nodes: Vec<&str> = pods.iter().filter_map(fit::node_of).collect();
                write!(f, "create for {}", nodes.join(" "))
            }
            Self::Delete { pod, .. } => write!(f, "delete {pod}"),
            Self::Note(note) => note.fmt(f),
        }
    }
}

/// The plan, and how long failed pods of each node are left alone once it is carried out.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Pods and status.
    pub plan: Plan<Action, DaemonSetStatus>,
    /// By node.
    pub retries: BTreeMap<String, Retry>,
}

/// A node, as far as the set is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub node: String,
    /// A pod should be there.
    pub wanted: bool,
    /// A pod that is there may stay.
    pub may_stay: bool,
}

/// The set as its pods name it.
pub fn owner(meta: &ObjectMeta) -> Owner {
    Owner {
        api_version: "apps/v1".to_owned(),
        kind: "DaemonSet".to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// Those on a node before those that wait for it, then by age, then by name.
pub fn oldest_first(pods: &mut [Arc<Pod>]) {
    pods.sort_by(|a, b| {
        let key = |pod: &Pod| (pods::node(pod).is_empty(), pods::created(pod));
        key(a).cmp(&key(b)).then_with(|| pods::name(a).cmp(pods::name(b)))
    });
}

/// The pods that are ours, and the writes that make it so.
fn claim(owner: &Owner, spec: &DaemonSetSpec, observed: &Observed, actions: &mut Vec<Action>) -> Vec<Arc<Pod>> {
    let mut own = Vec::new();
    for pod in &observed.pods {
        let name = pods::name(pod).to_owned();
        match owners::claim(owner, false, &spec.selector, &pod.metadata) {
            Claim::Keep => own.push(pod.clone()),
            Claim::Adopt => {
                actions.push(Action::Adopt { pod: name, patch: owners::adoption_patch(owner, &pod.metadata) });
                own.push(pod.clone());
            }
            Claim::Release => {
                actions.push(Action::Release { pod: name, patch: owners::release_patch(&owner.uid, &pod.metadata) });
            }
            Claim::Ignore => {}
        }
    }
    own
}

/// The first loop: every node has what it should have, whatever its revision.
struct Tidy<'a> {
    hash: &'a str,
    surges: bool,
    min_ready_seconds: i32,
    now: Timestamp,
    observed: &'a Observed,
    create: Vec<String>,
    delete: Vec<Arc<Pod>>,
    notes: Vec<Note>,
    again: Option<Duration>,
    retries: BTreeMap<String, Retry>,
}

impl Tidy<'_> {
    fn going(&self, pod: &Pod) -> bool {
        pods::is_terminating(pod) || self.observed.deletes_in_flight.contains(pods::uid(pod))
    }

    /// Finished pods go, failed ones after a while. The others are returned.
    fn running(&mut self, node: &str, here: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let mut running = Vec::new();
        for pod in here {
            if self.going(pod) {
                continue;
            }
            let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pods::name(pod));
            match pods::phase(pod) {
                "Failed" => {
                    let before = self.retries.get(node).copied();
                    let left = before.map_or(Duration::ZERO, |retry| retry.left(self.now));
                    if !left.is_zero() {
                        self.again = Some(self.again.map_or(left, |known| known.min(left)));
                        continue;
                    }
                    self.retries.insert(node.to_owned(), Retry::next(before, self.now));
                    let text = format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it");
                    self.notes.push(Note::warning("FailedDaemonPod", text));
                    self.delete.push(pod.clone());
                }
                "Succeeded" => {
                    let text = format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it");
                    self.notes.push(Note::normal("SucceededDaemonPod", text));
                    self.delete.push(pod.clone());
                }
                _ => running.push(pod.clone()),
            }
        }
        oldest_first(&mut running);
        running
    }

    /// With surge two pods may be there: an old one that serves, and a new one that does not yet.
    fn prune_surge(&mut self, running: Vec<Arc<Pod>>) {
        let (mut new, mut old) = (None, None);
        for pod in running {
            let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(fit::HASH));
            let slot = if label.is_some_and(|label| label == self.hash) { &mut new } else { &mut old };
            if slot.is_none() {
                *slot = Some(pod);
            } else {
                self.delete.push(pod);
            }
        }
        if let (Some(new), Some(old)) = (new, old)
            && (!pods::is_ready(&old) || pods::is_available(&new, self.min_ready_seconds, self.now))
        {
            self.delete.push(old);
        }
    }

    fn node(&mut self, site: &Site, here: &[Arc<Pod>]) {
        if site.wanted && here.is_empty() {
            self.create.push(site.node.clone());
        } else if site.may_stay {
            let mut running = self.running(&site.node, here);
            match (self.surges, running.len()) {
                (true, 0) if site.wanted => self.create.push(site.node.clone()),
                (_, 0 | 1) => {}
                (true, _) => self.prune_surge(running),
                (false, _) => self.delete.extend(running.drain(1..)),
            }
        } else {
            let there: Vec<Arc<Pod>> = here.iter().filter(|pod| !self.going(pod)).cloned().collect();
            self.delete.extend(there);
        }
    }
}

/// (maxSurge, maxUnavailable) of a set with so many nodes; `None` where it is not updated node by node. Both round up;
/// a set that allows neither may be without one.
fn limits(spec: &DaemonSetSpec, desired: i32) -> Option<(usize, usize)> {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let count = |value: Option<i32>| usize::try_from(value.unwrap_or(0)).unwrap_or(0);
    let surge = count(rolling.max_surge.as_ref().and_then(|most| resolve(most, desired, true)));
    let given = rolling.max_unavailable.as_ref().map_or(Some(i32::from(surge == 0)), |most| resolve(most, desired, true));
    let unavailable = count(given);
    Some((surge, if surge == 0 { unavailable.max(1) } else { unavailable }))
}

fn allows_surge(spec: &DaemonSetSpec) -> bool {
    limits(spec, i32::MAX / 100).is_some_and(|(surge, _)| surge > 0)
}

/// The hash by which pods of the present template are known, and the writes that keep the history.
fn revision(set: &DaemonSet, spec: &DaemonSetSpec, observed: &Observed, own: &[Arc<Pod>], actions: &mut Vec<Action>) -> String {
    let owner = owner(&set.metadata);
    let (revisions, adopted) = history::claim(&owner, false, &spec.selector, &observed.revisions);
    let stored = set.status.clone().unwrap_or_default();
    let new_hash = hash::of(&spec.template, stored.collision_count);
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let annotations = set.metadata.annotations.as_ref();
    let data = history::data(&spec.template);
    let fresh = history::new(&owner, labels, annotations, (fit::HASH, &new_hash), data, 0);
    let (current, write) = history::newest(&revisions, fresh);
    actions.extend(adopted.into_iter().chain(write).map(Action::Revision));
    let label = |revision: &ControllerRevision| {
        let label = revision.metadata.labels.as_ref().and_then(|labels| labels.get(fit::HASH));
        label.cloned().unwrap_or_else(|| history::name(revision).to_owned())
    };
    let live: BTreeSet<&String> =
        own.iter().filter_map(|pod| pod.metadata.labels.as_ref()?.get(fit::HASH)).collect();
    let mut in_use: BTreeSet<&str> =
        revisions.iter().filter(|revision| live.contains(&label(revision))).map(|revision| history::name(revision)).collect();
    in_use.insert(history::name(&current));
    let surplus = history::surplus(&revisions, &in_use, spec.revision_history_limit.unwrap_or(10));
    actions.extend(surplus.into_iter().map(Action::Revision));
    label(&current)
}

/// The decision.
pub fn plan(set: &DaemonSet, observed: &Observed, now: Timestamp) -> Decision {
    let mut decision = Decision { plan: Plan::default(), retries: observed.retries.clone() };
    let plan = &mut decision.plan;
    let Some(spec) = set.spec.as_ref().filter(|_| set.metadata.deletion_timestamp.is_none()) else { return decision };
    if selector::is_empty(&spec.selector) {
        let text = "This daemon set is selecting all pods. A non-empty selector is required.";
        plan.actions.push(Action::Note(Note::warning("SelectingAll", text)));
        return decision;
    }
    let owner = owner(&set.metadata);
    let own = claim(&owner, spec, observed, &mut plan.actions);
    let hash = revision(set, spec, observed, &own, &mut plan.actions);
    let generation = fit::generation(set);
    let bare = fit::bare(spec, &owner);
    let mut sites: Vec<Site> = observed.nodes.iter().map(|node| {
        let (wanted, may_stay) = fit::wants(&bare, node);
        Site { node: node.metadata.name.clone().unwrap_or_default(), wanted, may_stay }
    }).collect();
    sites.sort_by(|a, b| a.node.cmp(&b.node));
    let mut placed = Placed::new();
    for pod in own.iter().filter(|pod| !(pods::is_finished(pod) && pods::is_terminating(pod))) {
        if let Some(node) = fit::node_of(pod) {
            placed.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    let is_updated = |pod: &Pod| fit::is_updated(pod, generation, &hash);
    let seconds = spec.min_ready_seconds.unwrap_or(0);
    let settled = observed.creates_in_flight == 0;
    if settled {
        let mut tidy = Tidy {
            hash: &hash,
            surges: allows_surge(spec),
            min_ready_seconds: seconds,
            now,
            observed,
            create: Vec::new(),
            delete: Vec::new(),
            notes: Vec::new(),
            again: None,
            retries: observed.retries.clone(),
        };
        for site in &sites {
            tidy.node(site, placed.get(&site.node).map(Vec::as_slice).unwrap_or_default());
        }
        // A pod that waits for a node which is gone is never placed, and never collected.
        let gone = placed.iter().filter(|(node, _)| !sites.iter().any(|site| site.node == **node));
        let lost: Vec<Arc<Pod>> = gone.flat_map(|(_, pods)| pods).filter(|pod| pods::node(pod).is_empty() && !tidy.going(pod)).cloned().collect();
        tidy.delete.extend(lost);
        if tidy.create.is_empty() && tidy.delete.is_empty() {
            roll(spec, &sites, &placed, &mut tidy, &is_updated);
        }
        if let Some(delay) = tidy.again {
            plan.requeue_within(delay);
        }
        decision.retries = tidy.retries;
        plan.actions.extend(tidy.notes.into_iter().map(Action::Note));
        if !tidy.create.is_empty() {
            plan.reasons.push(format!("{} nodes have no pod", tidy.create.len()));
            let new = tidy.create.iter().take(BURST).map(|node| fit::pod(&bare, generation, &hash, node)).collect();
            plan.actions.push(Action::Create(new));
        }
        let delete = |pod: &Arc<Pod>| Action::Delete { pod: pods::name(pod).to_owned(), uid: pods::uid(pod).to_owned() };
        plan.actions.extend(tidy.delete.iter().take(BURST).map(delete));
    } else {
        plan.requeue_within(LOOK_AFTER);
    }
    let old = set.status.clone().unwrap_or_default();
    // What was not acted on was not observed.
    let observed_generation = if settled { set.metadata.generation } else { old.observed_generation };
    let status = status::count(&old, &sites, &placed, is_updated, (seconds, observed_generation, now));
    let due = own.iter().filter_map(|pod| pods::available_at(pod, seconds)).filter(|at| *at > now).min();
    if let Some(at) = due {
        plan.requeue_within(time::since(now, at));
    }
    if !set.status.as_ref().is_some_and(|stored| status::same(&status, stored)) {
        plan.status = Some(status);
    }
    decision
}

/// The second loop: pods of other revisions are replaced.
fn roll(spec: &DaemonSetSpec, sites: &[Site], placed: &Placed, tidy: &mut Tidy<'_>, is_updated: &dyn Fn(&Pod) -> bool) {
    let desired = i32::try_from(sites.iter().filter(|site| site.wanted).count()).unwrap_or(i32::MAX);
    let Some((surge, unavailable)) = limits(spec, desired) else { return };
    let sites: Vec<Site> =
        sites.iter().filter(|site| site.wanted || placed.contains_key(&site.node)).cloned().collect();
    let round = {
        let is_available = |pod: &Pod| pods::is_available(pod, tidy.min_ready_seconds, tidy.now);
        let is_going = |pod: &Pod| tidy.going(pod);
        let rules = rolling::Rules { is_updated, is_available: &is_available, is_going: &is_going };
        if surge == 0 {
            rolling::take_down(&sites, placed, unavailable, &rules)
        } else {
            rolling::put_beside(&sites, placed, surge, &rules)
        }
    };
    tidy.delete.extend(round.delete);
    tidy.create.extend(round.surge);
}
