//! Decides what a Deployment does with its ReplicaSets now: adopt, create, resize, delete old ones.
//!
//! Not here: sizes (`rolling.rs`, `scale.rs`), identity and revisions (`revision.rs`), status (`progress.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{fence, progress, revision, rolling, scale};
use crate::common::owners::{self, Claim};
use crate::common::{Note, Plan, selector};

/// Why the last attempt to create the new ReplicaSet failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateFailure {
    /// The name is taken by a ReplicaSet of another template or owner: the hash needs a new collision count.
    Collision,
    /// Anything else, in the apiserver's words.
    Refused(String),
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// ReplicaSets of the namespace that the Deployment controls or that its selector matches.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// Pods, terminating ones included but no finished ones, by the UID of the ReplicaSet that controls them.
    pub pods_per_set: BTreeMap<String, usize>,
    /// A ReplicaSet that we created is not in `sets` yet.
    pub create_in_flight: bool,
    /// Set when the last attempt to create a ReplicaSet failed.
    pub failure: Option<CreateFailure>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Put our reference on a ReplicaSet.
    Adopt {
        /// Its name.
        set: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Take our reference off a ReplicaSet.
    Release {
        /// Its name.
        set: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Create the ReplicaSet of the present template.
    Create {
        /// The whole object.
        set: Box<ReplicaSet>,
    },
    /// Replace a ReplicaSet (with the resourceVersion it was seen with).
    Update {
        /// The whole object.
        set: Box<ReplicaSet>,
        /// Its size before.
        from: i32,
    },
    /// Delete a ReplicaSet that no rollback needs any more.
    Delete {
        /// Its name.
        set: String,
        /// Its UID: the precondition.
        uid: String,
        /// The version it was seen with: the other precondition.
        resource_version: String,
    },
    /// Write the revision on the Deployment.
    SetRevision {
        /// The number.
        revision: i64,
    },
    /// Tell a person.
    Note(Note),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |set: &ReplicaSet| set.metadata.name.clone().unwrap_or_default();
        match self {
            Self::Adopt { set, .. } => write!(f, "adopt {set}"),
            Self::Release { set, .. } => write!(f, "release {set}"),
            Self::Create { set } => write!(f, "create {} size {}", name(set), scale::size(set)),
            Self::Update { set, from } if *from == scale::size(set) => write!(f, "annotate {}", name(set)),
            Self::Update { set, from } => write!(f, "scale {} from {from} to {}", name(set), scale::size(set)),
            Self::Delete { set, .. } => write!(f, "delete {set}"),
            Self::SetRevision { revision } => write!(f, "revision {revision}"),
            Self::Note(note) => note.fmt(f),
        }
    }
}

type DeploymentPlan = Plan<Action, DeploymentStatus>;

/// The sets that are ours, as copies to work on; adoption and release go into the plan.
fn claim(deployment: &Deployment, observed: &Observed, plan: &mut DeploymentPlan) -> Vec<ReplicaSet> {
    let Some(spec) = &deployment.spec else { return Vec::new() };
    let owner = revision::owner(deployment);
    let deleting = deployment.metadata.deletion_timestamp.is_some();
    let mut own = Vec::new();
    for set in &observed.sets {
        let name = set.metadata.name.clone().unwrap_or_default();
        match owners::claim(&owner, deleting, &spec.selector, &set.metadata) {
            Claim::Keep => own.push(ReplicaSet::clone(set)),
            Claim::Adopt => {
                let patch = owners::adoption_patch(&owner, &set.metadata);
                plan.actions.push(Action::Adopt { set: name, patch });
            }
            Claim::Release => {
                let patch = owners::release_patch(&owner.uid, &set.metadata);
                plan.actions.push(Action::Release { set: name, patch });
            }
            Claim::Ignore => {}
        }
    }
    own
}

/// The decision.
pub fn plan(deployment: &Deployment, observed: &Observed, now: Timestamp) -> DeploymentPlan {
    let mut plan = Plan::default();
    let Some(spec) = &deployment.spec else { return plan };
    if selector::is_empty(&spec.selector) {
        let text = "This deployment is selecting all pods. A non-empty selector is required.";
        plan.actions.push(Action::Note(Note::warning("SelectingAll", text)));
        let mut status = deployment.status.clone().unwrap_or_default();
        status.observed_generation = deployment.metadata.generation;
        finish(deployment, status, &mut plan);
        return plan;
    }
    let before = claim(deployment, observed, &mut plan);
    if !plan.actions.is_empty() {
        plan.reasons.push("ownership of ReplicaSets first".to_owned());
        return plan;
    }
    let mut sets = before.clone();
    let new = revision::find_new(deployment, &sets);
    if deployment.metadata.deletion_timestamp.is_some() {
        let status = progress::count(deployment, &sets, new, now);
        finish(deployment, status, &mut plan);
        return plan;
    }
    let mut round = Round { deployment, observed, now, new, created: None, judged: true };
    let paused = spec.paused.unwrap_or(false);
    if paused || scale::is_resize(deployment, &sets) {
        plan.reasons.push(if paused { "paused" } else { "spec.replicas changed" }.to_owned());
        round.update_new(&mut sets, &mut plan);
        scale::scale(deployment, &mut sets, new);
        round.judged = false;
        if paused {
            clean_history(deployment, &sets, new, &mut plan);
        }
    } else if fence::is_rolling(deployment) {
        round.roll(&mut sets, &mut plan);
    } else {
        round.recreate(&mut sets, &mut plan);
    }
    let status = round.status(&before, paused);
    updates(&before, &sets, &mut plan);
    if let Some(created) = round.created {
        plan.actions.push(Action::Create { set: Box::new(created) });
    }
    finish(deployment, status, &mut plan);
    if let Some(delay) = progress::recheck_after(deployment, plan.status.as_ref().or(deployment.status.as_ref()).unwrap_or(&DeploymentStatus::default()), now)
        && !paused
    {
        plan.requeue_within(delay);
    }
    plan
}

/// One pass over the sets of one Deployment.
struct Round<'a> {
    deployment: &'a Deployment,
    observed: &'a Observed,
    now: Timestamp,
    new: Option<usize>,
    created: Option<ReplicaSet>,
    judged: bool,
}

impl Round<'_> {
    /// The revision that the present template has: one more than every other's.
    fn revision(&self, sets: &[ReplicaSet]) -> i64 {
        let others = (0..sets.len()).filter(|index| Some(*index) != self.new);
        others.map(|index| revision::of(&sets[index].metadata)).max().unwrap_or(0) + 1
    }

    /// Annotations, revision and minReadySeconds of the new set, and the Deployment's own revision.
    fn update_new(&self, sets: &mut [ReplicaSet], plan: &mut DeploymentPlan) {
        let Some(new) = self.new else { return };
        let revision = self.revision(sets).max(revision::of(&sets[new].metadata));
        revision::annotate(self.deployment, &mut sets[new], revision, true);
        let wanted = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let spec = sets[new].spec.get_or_insert_default();
        if spec.min_ready_seconds.unwrap_or(0) != wanted.unwrap_or(0) {
            spec.min_ready_seconds = wanted;
        }
        if revision::of(&self.deployment.metadata) != revision {
            plan.actions.push(Action::SetRevision { revision });
        }
    }

    /// Creates the set of the present template, unless we did already and it only is not seen yet.
    fn create(&mut self, sets: &[ReplicaSet], plan: &mut DeploymentPlan) {
        if self.observed.create_in_flight || self.observed.failure == Some(CreateFailure::Collision) {
            return;
        }
        let revision = self.revision(sets);
        let mut set = revision::new_set(self.deployment, revision);
        let size = rolling::new_size(self.deployment, sets, 0);
        set.spec.get_or_insert_default().replicas = Some(size);
        plan.reasons.push(format!("no ReplicaSet of the present template: revision {revision}"));
        self.created = Some(set);
        if revision::of(&self.deployment.metadata) != revision {
            plan.actions.push(Action::SetRevision { revision });
        }
    }

    fn roll(&mut self, sets: &mut [ReplicaSet], plan: &mut DeploymentPlan) {
        let Some(new) = self.new else { return self.create(sets, plan) };
        self.update_new(sets, plan);
        if rolling::step_new(self.deployment, sets, new) {
            plan.reasons.push("rolling update: the new ReplicaSet moves".to_owned());
        } else if rolling::step_old(self.deployment, sets, new) {
            plan.reasons.push("rolling update: old ReplicaSets give way".to_owned());
        } else {
            self.clean_if_complete(sets, plan);
        }
    }

    fn recreate(&mut self, sets: &mut [ReplicaSet], plan: &mut DeploymentPlan) {
        self.update_new(sets, plan);
        let old: Vec<usize> = (0..sets.len()).filter(|index| Some(*index) != self.new).collect();
        let active: Vec<usize> = old.iter().copied().filter(|index| scale::size(&sets[*index]) > 0).collect();
        if !active.is_empty() {
            plan.reasons.push("recreate: old ReplicaSets to nothing first".to_owned());
            for index in active {
                scale::resize(self.deployment, &mut sets[index], 0);
            }
            return;
        }
        if old.iter().any(|index| self.has_pods(&sets[*index])) {
            plan.reasons.push("recreate: waiting for old pods to be gone".to_owned());
            return;
        }
        let Some(new) = self.new else { return self.create(sets, plan) };
        let wanted = fence::replicas(self.deployment);
        if scale::size(&sets[new]) != wanted {
            scale::resize(self.deployment, &mut sets[new], wanted);
        } else {
            self.clean_if_complete(sets, plan);
        }
    }

    fn has_pods(&self, set: &ReplicaSet) -> bool {
        let counted = set.status.as_ref().map_or(0, |status| status.replicas);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        counted > 0 || self.observed.pods_per_set.get(uid).is_some_and(|pods| *pods > 0)
    }

    fn clean_if_complete(&self, sets: &[ReplicaSet], plan: &mut DeploymentPlan) {
        let status = self.deployment.status.clone().unwrap_or_default();
        if progress::is_complete(self.deployment, &status) {
            clean_history(self.deployment, sets, self.new, plan);
        }
    }

    fn status(&self, before: &[ReplicaSet], paused: bool) -> DeploymentStatus {
        let mut status = progress::count(self.deployment, before, self.new, self.now);
        if progress::deadline(self.deployment).is_some() {
            note_progress(self, &mut status, before, paused);
        }
        if self.judged {
            progress::judge(self.deployment, &mut status, before, self.new, self.now);
        }
        if self.observed.failure == Some(CreateFailure::Collision) {
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        }
        status
    }
}

/// Progressing conditions that come from what was just done rather than from counting.
fn note_progress(round: &Round<'_>, status: &mut DeploymentStatus, before: &[ReplicaSet], paused: bool) {
    let present = progress::find(status, progress::PROGRESSING).cloned();
    let reason = present.as_ref().and_then(|condition| condition.reason.as_deref()).unwrap_or_default();
    let now = round.now;
    let mut say = |value: &str, reason: &str, text: String| {
        progress::set(status, progress::condition(progress::PROGRESSING, value, reason, text, now));
    };
    if let Some(CreateFailure::Refused(message)) = &round.observed.failure {
        let name = revision::new_set(round.deployment, 0).metadata.name.unwrap_or_default();
        say("False", "ReplicaSetCreateError", format!("Failed to create new replica set \"{name}\": {message}"));
    } else if let Some(created) = &round.created {
        let name = created.metadata.name.as_deref().unwrap_or_default();
        say("True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""));
    } else if paused && reason != progress::DEADLINE_EXCEEDED {
        say("Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
    } else if !paused && reason == "DeploymentPaused" {
        say("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned());
    } else if present.is_none()
        && let Some(new) = round.new
    {
        let name = before[new].metadata.name.as_deref().unwrap_or_default();
        say("True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\""));
    }
}

/// Deletes old, empty, fully observed ReplicaSets beyond `revisionHistoryLimit`, lowest revision first.
fn clean_history(deployment: &Deployment, sets: &[ReplicaSet], new: Option<usize>, plan: &mut DeploymentPlan) {
    let Some(limit) = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit) else { return };
    let Ok(limit) = usize::try_from(limit) else { return };
    let mut old: Vec<&ReplicaSet> = (0..sets.len())
        .filter(|index| Some(*index) != new && sets[*index].metadata.deletion_timestamp.is_none())
        .map(|index| &sets[index])
        .collect();
    old.sort_by(|a, b| revision::of(&a.metadata).cmp(&revision::of(&b.metadata)).then(revision::by_age(a, b)));
    let surplus = old.len().saturating_sub(limit);
    for set in old.into_iter().take(surplus) {
        let status = set.status.clone().unwrap_or_default();
        let observed = status.observed_generation >= set.metadata.generation;
        if scale::size(set) == 0 && status.replicas == 0 && observed {
            plan.reasons.push(format!("more than {limit} old ReplicaSets"));
            plan.actions.push(Action::Delete {
                set: set.metadata.name.clone().unwrap_or_default(),
                uid: set.metadata.uid.clone().unwrap_or_default(),
                resource_version: set.metadata.resource_version.clone().unwrap_or_default(),
            });
        }
    }
}

/// One update per set that was changed on the way. Growing sets come last, so that a conflict on the way never leaves
/// more pods than allowed.
fn updates(before: &[ReplicaSet], after: &[ReplicaSet], plan: &mut DeploymentPlan) {
    let mut changed: Vec<(i32, Action)> = Vec::new();
    for (old, new) in before.iter().zip(after) {
        if old != new {
            let from = scale::size(old);
            changed.push((scale::size(new) - from, Action::Update { set: Box::new(new.clone()), from }));
        }
    }
    changed.sort_by_key(|(difference, _)| *difference);
    plan.actions.extend(changed.into_iter().map(|(_, action)| action));
}

fn finish(deployment: &Deployment, status: DeploymentStatus, plan: &mut DeploymentPlan) {
    if !progress::same(&deployment.status.clone().unwrap_or_default(), &status) {
        plan.status = Some(status);
    }
}
