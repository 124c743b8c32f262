//! Decides which pods of a StatefulSet are created, repaired, replaced and deleted, and in which order.
//!
//! Not here: what makes a pod its ordinal's (`identity.rs`), whose its claims are (`claims.rs`), counting
//! (`status.rs`), any writing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::identity::{self, owner};
use super::status::{self, is_available};
use super::claims;
use crate::common::history::{self, Write};
use crate::common::in_flight::LOOK_AFTER;
use crate::common::owners::{self, Claim, Owner};
use crate::common::{Note, Plan, hash, pods};
use crate::deployment::fence::resolve;

/// Label of a ControllerRevision: its hash.
const HASH: &str = "controller.kubernetes.io/hash";

/// What there is beside the set itself.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Pods of the namespace that the set controls, or that its selector matches and nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// Revisions, likewise.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Claims of the namespace by name: those that the templates name for any pod or ordinal in question.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// Creations that `pods` does not show yet.
    pub creates_in_flight: usize,
    /// UIDs of pods whose deletion we asked for; `pods` may not show it yet.
    pub deletes_in_flight: BTreeSet<String>,
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
    /// Take our reference off a pod that is not ours any more.
    Release {
        /// Name of the pod.
        pod: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Create claims of a pod; one that exists is fine.
    CreateClaims {
        /// Name of the pod.
        pod: String,
        /// Whole objects.
        claims: Vec<PersistentVolumeClaim>,
    },
    /// Replace the owner references of a claim.
    OwnClaim {
        /// Name of the claim.
        claim: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Create a pod.
    Create(Box<Pod>),
    /// Give a pod the labels that it lacks.
    Update {
        /// Name of the pod.
        pod: String,
        /// The merge patch, with the UID as precondition.
        patch: Value,
    },
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
            Self::CreateClaims { claims, .. } => {
                let names: Vec<&str> = claims.iter().filter_map(|claim| claim.metadata.name.as_deref()).collect();
                write!(f, "claim {}", names.join(" "))
            }
            Self::OwnClaim { claim, .. } => write!(f, "own claim {claim}"),
            Self::Create(pod) => write!(f, "create {} of {}", pods::name(pod), identity::revision(pod)),
            Self::Update { pod, .. } => write!(f, "update {pod}"),
            Self::Delete { pod, .. } => write!(f, "delete {pod}"),
            Self::Note(note) => note.fmt(f),
        }
    }
}

/// Whether all pods may come and go at once.
pub fn is_parallel(spec: &StatefulSetSpec) -> bool {
    spec.pod_management_policy.as_deref() == Some("Parallel")
}

/// Everything a step needs to know.
struct Scene<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    owner: Owner,
    observed: &'a Observed,
    now: Timestamp,
    start: i32,
    end: i32,
}

impl Scene<'_> {
    fn going(&self, pod: &Pod) -> bool {
        pods::is_terminating(pod) || self.observed.deletes_in_flight.contains(pods::uid(pod))
    }

    fn available(&self, pod: &Pod) -> bool {
        is_available(pod, self.spec, self.now) && !self.going(pod)
    }

    fn ordinal(&self, pod: &Pod) -> Option<i32> {
        identity::ordinal(&self.owner.name, pods::name(pod))
    }

    /// Claims that the pod of an ordinal lacks.
    fn missing_claims(&self, ordinal: i32) -> Vec<PersistentVolumeClaim> {
        let mut claims = identity::claims(self.set, self.spec, ordinal);
        claims.retain(|claim| !self.observed.claims.contains_key(claim.metadata.name.as_deref().unwrap_or_default()));
        claims
    }

    /// The claims of an ordinal that are there.
    fn present_claims(&self, ordinal: i32) -> impl Iterator<Item = &Arc<PersistentVolumeClaim>> {
        let templates = self.spec.volume_claim_templates.iter().flatten();
        templates.filter_map(move |one| self.observed.claims.get(&identity::claim_name(&self.owner.name, one, ordinal)))
    }

    /// Makes the claims of a pod its owner's, as the retention policy says.
    fn own_claims(&self, pod: &Pod, ordinal: i32, actions: &mut Vec<Action>) {
        let away = ordinal < self.start || ordinal >= self.end;
        for claim in self.present_claims(ordinal) {
            let Some((references, conflict)) = claims::references(&self.owner, self.spec, claim, pod, away) else { continue };
            let name = claim.metadata.name.clone().unwrap_or_default();
            if conflict {
                let text = format!("PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim");
                actions.push(Action::Note(Note::warning("ConflictingController", text)));
            }
            let meta = &claim.metadata;
            let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references}});
            actions.push(Action::OwnClaim { claim: name, patch });
        }
    }
}

/// The pods that are ours, and the writes that make it so.
fn claim_pods(scene: &Scene<'_>, actions: &mut Vec<Action>) -> Vec<Arc<Pod>> {
    let deleting = scene.set.metadata.deletion_timestamp.is_some();
    let mut own = Vec::new();
    for pod in &scene.observed.pods {
        let name = pods::name(pod).to_owned();
        let member = scene.ordinal(pod).is_some();
        match owners::claim(&scene.owner, deleting, &scene.spec.selector, &pod.metadata) {
            Claim::Keep if member => own.push(pod.clone()),
            Claim::Adopt if member => {
                actions.push(Action::Adopt { pod: name, patch: owners::adoption_patch(&scene.owner, &pod.metadata) });
                own.push(pod.clone());
            }
            Claim::Keep | Claim::Release if !deleting => {
                let patch = owners::release_patch(&scene.owner.uid, &pod.metadata);
                actions.push(Action::Release { pod: name, patch });
            }
            Claim::Keep | Claim::Adopt | Claim::Release | Claim::Ignore => {}
        }
    }
    own
}

/// The two templates that pods may be made from.
struct Revisions {
    current: String,
    current_template: PodTemplateSpec,
    update: String,
    update_template: PodTemplateSpec,
    own: Vec<Arc<ControllerRevision>>,
}

fn revisions(scene: &Scene<'_>, actions: &mut Vec<Action>) -> Revisions {
    let (set, spec) = (scene.set, scene.spec);
    let deleting = set.metadata.deletion_timestamp.is_some();
    let (own, adopted) = history::claim(&scene.owner, deleting, &spec.selector, &scene.observed.revisions);
    let stored = set.status.clone().unwrap_or_default();
    let data = history::data(&spec.template);
    let hash = hash::of_data(&data, stored.collision_count.unwrap_or(0));
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let annotations = set.metadata.annotations.as_ref();
    let fresh = history::new(&scene.owner, labels, annotations, (HASH, &hash), data, 0);
    let (update, write) = history::newest(&own, fresh);
    if !deleting {
        actions.extend(adopted.into_iter().chain(write).map(Action::Revision));
    }
    let current = own.iter().find(|revision| Some(history::name(revision)) == stored.current_revision.as_deref());
    let current = current.unwrap_or(&update);
    let template = |revision: &ControllerRevision| history::template(revision).unwrap_or_else(|| spec.template.clone());
    Revisions {
        current: history::name(current).to_owned(),
        current_template: template(current),
        update: history::name(&update).to_owned(),
        update_template: template(&update),
        own,
    }
}

/// The pod that an ordinal gets: of the old revision below the partition (or, without one, as many as are said to be).
fn new_pod(scene: &Scene<'_>, revisions: &Revisions, ordinal: i32) -> Pod {
    let strategy = scene.spec.update_strategy.clone().unwrap_or_default();
    let old_below = match (strategy.type_.as_deref(), &strategy.rolling_update) {
        (Some("OnDelete"), None) => 0,
        (_, Some(rolling)) => rolling.partition.unwrap_or(0),
        (_, None) => scene.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0),
    };
    if ordinal < scene.start.saturating_add(old_below) {
        identity::pod(scene.set, scene.spec, &revisions.current_template, &revisions.current, ordinal)
    } else {
        identity::pod(scene.set, scene.spec, &revisions.update_template, &revisions.update, ordinal)
    }
}

fn delete(pod: &Pod) -> Action {
    Action::Delete { pod: pods::name(pod).to_owned(), uid: pods::uid(pod).to_owned() }
}

/// One wanted ordinal. Says whether an ordered set has to wait for it.
fn replica(scene: &Scene<'_>, revisions: &Revisions, ordinal: i32, pod: Option<&Arc<Pod>>, plan: &mut Plan<Action, StatefulSetStatus>) -> bool {
    let actions = &mut plan.actions;
    let Some(pod) = pod else {
        let pod = new_pod(scene, revisions, ordinal);
        if scene.present_claims(ordinal).any(|claim| claims::is_stale(scene.spec, claim, &pod)) {
            return true;
        }
        if let Some(claim) = scene.present_claims(ordinal).find(|claim| claim.metadata.deletion_timestamp.is_some()) {
            let (pod, set) = (pods::name(&pod), &scene.owner.name);
            let claim = claim.metadata.name.as_deref().unwrap_or_default();
            let text = format!("Create Pod {pod} in StatefulSet {set} failed error: pvc {claim} is being deleted");
            actions.push(Action::Note(Note::warning("FailedCreate", text)));
            plan.requeue_within(LOOK_AFTER);
            return true;
        }
        let claims = scene.missing_claims(ordinal);
        if !claims.is_empty() {
            actions.push(Action::CreateClaims { pod: pods::name(&pod).to_owned(), claims });
        }
        plan.reasons.push(format!("there is no pod {ordinal}"));
        actions.push(Action::Create(Box::new(pod)));
        return true;
    };
    if pods::is_finished(pod) {
        if !scene.going(pod) {
            plan.reasons.push(format!("pod {ordinal} is {}", pods::phase(pod)));
            actions.push(delete(pod));
        }
        return true;
    }
    if pods::phase(pod) == "Pending" {
        let claims = scene.missing_claims(ordinal);
        if !claims.is_empty() && !scene.going(pod) {
            actions.push(Action::CreateClaims { pod: pods::name(pod).to_owned(), claims });
        }
    }
    if !scene.available(pod) && !is_parallel(scene.spec) {
        return true;
    }
    if let Some(labels) = identity::missing_labels(pod, ordinal) {
        let labels: BTreeMap<&str, String> = labels.into_iter().collect();
        let patch = json!({"metadata": {"uid": pods::uid(pod), "labels": labels}});
        actions.push(Action::Update { pod: pods::name(pod).to_owned(), patch });
    }
    scene.own_claims(pod, ordinal, actions);
    false
}

/// Pods of ordinals that are not wanted, highest first. Says whether an ordered set has to wait.
fn condemned(scene: &Scene<'_>, pods: &[(i32, Arc<Pod>)], first_bad: Option<&str>, actions: &mut Vec<Action>) -> bool {
    let ordered = !is_parallel(scene.spec);
    for (ordinal, pod) in pods {
        scene.own_claims(pod, *ordinal, actions);
    }
    let mut waits = false;
    for (_, pod) in pods {
        if scene.going(pod) {
            if ordered {
                return true;
            }
            continue;
        }
        // An ordered set goes on only over healthy pods; the first that is not may itself go. One that has ended will
        // never be healthy again: waiting for it would be for good.
        if ordered && !scene.available(pod) && !pods::is_finished(pod) && first_bad != Some(pods::uid(pod)) {
            return true;
        }
        actions.push(delete(pod));
        waits = true;
        if ordered {
            return true;
        }
    }
    waits
}

/// Replaces pods of other revisions, from the highest ordinal down to the partition.
fn roll(scene: &Scene<'_>, update: &str, replicas: &BTreeMap<i32, Arc<Pod>>, plan: &mut Plan<Action, StatefulSetStatus>) {
    let strategy = scene.spec.update_strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let lowest = scene.start.saturating_add(rolling.partition.unwrap_or(0));
    let wanted = scene.end - scene.start;
    let outdated = |pod: &Pod| identity::revision(pod) != update && !scene.going(pod);
    let Some(most) = rolling.max_unavailable.as_ref().and_then(|most| resolve(most, wanted, false)) else {
        for ordinal in (lowest..scene.end).rev() {
            // One that is being made is unavailable too.
            let Some(pod) = replicas.get(&ordinal) else { return };
            if outdated(pod) {
                plan.reasons.push(format!("pod {ordinal} is of another revision"));
                plan.actions.push(delete(pod));
                return;
            }
            if !scene.available(pod) {
                return;
            }
        }
        return;
    };
    let most = usize::try_from(most).unwrap_or(0).max(1);
    let available = replicas.values().filter(|pod| scene.available(pod)).count();
    let unavailable = usize::try_from(wanted).unwrap_or(0).saturating_sub(available);
    let old = replicas.range(lowest..).rev().filter(|(_, pod)| outdated(pod));
    plan.actions.extend(old.take(most.saturating_sub(unavailable)).map(|(_, pod)| delete(pod)));
}

/// The decision.
pub fn plan(set: &StatefulSet, observed: &Observed, now: Timestamp) -> Plan<Action, StatefulSetStatus> {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let end = start.saturating_add(spec.replicas.unwrap_or(1).max(0));
    let scene = Scene { set, spec, owner: owner(&set.metadata), observed, now, start, end };
    let revisions = revisions(&scene, &mut plan.actions);
    let own = claim_pods(&scene, &mut plan.actions);
    let pair = (revisions.current.as_str(), revisions.update.as_str());
    let mut status = status::count(set, spec, &own, |pod| scene.going(pod), pair, now);
    if set.metadata.deletion_timestamp.is_none() {
        if observed.creates_in_flight > 0 {
            plan.requeue_within(LOOK_AFTER);
        } else {
            steps(&scene, &revisions, &own, &mut plan);
        }
        let mut in_use: BTreeSet<&str> = own.iter().map(|pod| identity::revision(pod)).collect();
        in_use.extend([pair.0, pair.1]);
        let limit = spec.revision_history_limit.unwrap_or(10);
        plan.actions.extend(history::surplus(&revisions.own, &in_use, limit).into_iter().map(Action::Revision));
    }
    let deleted: BTreeSet<&str> = plan.actions.iter().filter_map(|action| match action {
        Action::Delete { uid, .. } => Some(uid.as_str()),
        _ => None,
    }).collect();
    if !deleted.is_empty() {
        let going = |pod: &Pod| scene.going(pod) || deleted.contains(pods::uid(pod));
        status = status::count(set, spec, &own, going, pair, now);
    }
    status::complete_update(spec, &mut status);
    if let Some(delay) = status::recheck_after(spec, &own, now) {
        plan.requeue_within(delay);
    }
    if !set.status.as_ref().is_some_and(|stored| status::same(&status, stored)) {
        plan.status = Some(status);
    }
    plan
}

/// Wanted ordinals upwards, unwanted ones downwards, then the update.
fn steps(scene: &Scene<'_>, revisions: &Revisions, own: &[Arc<Pod>], plan: &mut Plan<Action, StatefulSetStatus>) {
    let by_ordinal: BTreeMap<i32, Arc<Pod>> =
        own.iter().filter_map(|pod| Some((scene.ordinal(pod)?, pod.clone()))).collect();
    let wanted = |ordinal: &i32| (scene.start..scene.end).contains(ordinal);
    let ordered = !is_parallel(scene.spec);
    let is_bad = |pod: &&Arc<Pod>| !scene.available(pod) && !pods::is_finished(pod);
    let bad = |ordinal: i32| by_ordinal.get(&ordinal).filter(is_bad);
    let lowest_bad = (scene.start..scene.end).find_map(|ordinal| match by_ordinal.get(&ordinal) {
        None => Some(""),
        Some(_) => bad(ordinal).map(|pod| pods::uid(pod)),
    });
    let mut waits = false;
    for ordinal in scene.start..scene.end {
        let waited = replica(scene, revisions, ordinal, by_ordinal.get(&ordinal), plan);
        if waited && ordered {
            return;
        }
        waits |= waited;
    }
    let unwanted: Vec<(i32, Arc<Pod>)> =
        by_ordinal.iter().rev().filter(|(ordinal, _)| !wanted(ordinal)).map(|(at, pod)| (*at, pod.clone())).collect();
    let first_bad = lowest_bad.or_else(|| unwanted.iter().rev().find_map(|(at, _)| bad(*at).map(|pod| pods::uid(pod))));
    waits |= condemned(scene, &unwanted, first_bad, &mut plan.actions);
    if waits && ordered {
        return;
    }
    let replicas = by_ordinal.iter().filter(|(at, _)| wanted(at)).map(|(at, pod)| (*at, pod.clone())).collect();
    roll(scene, &revisions.update, &replicas, plan);
}
