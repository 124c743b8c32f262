//! Which ReplicaSet belongs to the present template, what a new one looks like, and the revision numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::fence;
use crate::common::hash;
use crate::common::owners::Owner;

/// Number of the rollout that a ReplicaSet, or the Deployment itself, stands for.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions that a ReplicaSet had before it was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus maxSurge.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// The label that keeps the pods of different templates apart.
pub const TEMPLATE_HASH: &str = "pod-template-hash";
/// Longest revision history in characters.
const HISTORY_LENGTH: usize = 2000;

/// Annotations of a Deployment that are about itself.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The Deployment as its ReplicaSets name it.
pub fn owner(deployment: &Deployment) -> Owner {
    let meta = &deployment.metadata;
    Owner {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// The template without the label that the controller adds.
fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata
        && let Some(labels) = &mut meta.labels
    {
        labels.remove(TEMPLATE_HASH);
        if labels.is_empty() {
            meta.labels = None;
        }
    }
    if template.metadata == Some(ObjectMeta::default()) {
        template.metadata = None;
    }
    template
}

/// Whether two templates make the same pods.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    bare(a) == bare(b)
}

/// Order of age: creation, then name.
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    let key = |set: &ReplicaSet| (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone());
    key(a).cmp(&key(b))
}

/// Index of the ReplicaSet of the present template: the oldest one, where a bug or a hash change left several.
pub fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let wanted = &deployment.spec.as_ref()?.template;
    let fits = |set: &ReplicaSet| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.is_some_and(|template| same_template(template, wanted))
    };
    (0..sets.len()).filter(|index| fits(&sets[*index])).min_by(|a, b| by_age(&sets[*a], &sets[*b]))
}

/// The revision in an object's annotations; 0 where there is none.
pub fn of(meta: &ObjectMeta) -> i64 {
    let text = meta.annotations.as_ref().and_then(|annotations| annotations.get(REVISION));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Writes down what the Deployment wanted when this ReplicaSet was scaled.
pub fn note_size(deployment: &Deployment, annotations: &mut BTreeMap<String, String>) {
    let desired = fence::replicas(deployment);
    annotations.insert(DESIRED.to_owned(), desired.to_string());
    annotations.insert(MAX.to_owned(), (desired + fence::max_surge(deployment)).to_string());
}

/// Brings annotations and revision of the new ReplicaSet up to date. An older revision goes to the history.
pub fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64, exists: bool) {
    let before = of(&set.metadata);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    if before < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if exists && before > 0 {
            let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
            let mut entries: Vec<&str> = history.split(',').filter(|entry| !entry.is_empty()).collect();
            let before = before.to_string();
            entries.push(&before);
            let length = |entries: &[&str]| entries.iter().map(|entry| entry.len() + 1).sum::<usize>();
            while length(&entries) > HISTORY_LENGTH && entries.len() > 1 {
                entries.remove(0);
            }
            *history = entries.join(",");
        }
    }
    if !exists {
        note_size(deployment, annotations);
    }
}

/// A ReplicaSet for the present template, of size 0.
pub fn new_set(deployment: &Deployment, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash::of(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let owner = owner(deployment);
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name)),
            namespace: Some(owner.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![owner.controller_reference()]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate(deployment, &mut set, revision, false);
    set
}
