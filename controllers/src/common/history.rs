//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, numbered, the newest last.
//!
//! A revision's data is the template as a strategic merge patch (`$patch: replace`), as `kubectl rollout undo` expects.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::owners::{self, Claim, Owner};
use super::selector::Labels;

/// The data of a revision.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision stands for; `None` where its data is not what we write.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Its name.
pub fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// A revision of `owner` with `hash` for its name and as the label `hash_label`.
pub fn new(owner: &Owner, labels: Option<&Labels>, annotations: Option<&Labels>, hash: (&str, &str), data: Value, number: i64) -> ControllerRevision {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert(hash.0.to_owned(), hash.1.to_owned());
    let prefix: String = owner.name.chars().take(223).collect();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{}", hash.1)),
            namespace: Some(owner.namespace.clone()),
            labels: Some(labels),
            annotations: annotations.cloned(),
            owner_references: Some(vec![owner.controller_reference()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// One write of a revision.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Put our reference on it.
    Adopt {
        /// Its name.
        name: String,
        /// The merge patch, with UID and resourceVersion as preconditions.
        patch: Value,
    },
    /// Store a new one.
    Create(Box<ControllerRevision>),
    /// An old one is the newest again.
    Renumber(Box<ControllerRevision>),
    /// Nobody needs it any more.
    Delete {
        /// Its name.
        name: String,
        /// Its UID: the precondition.
        uid: String,
    },
}

impl std::fmt::Display for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Adopt { name, .. } => write!(f, "adopt revision {name}"),
            Self::Create(revision) => write!(f, "create revision {} {}", name(revision), revision.revision),
            Self::Renumber(revision) => write!(f, "renumber revision {} {}", name(revision), revision.revision),
            Self::Delete { name, .. } => write!(f, "delete revision {name}"),
        }
    }
}

/// The revisions that are ours, oldest first, and the writes that make them so.
pub fn claim(
    owner: &Owner,
    deleting: bool,
    selector: &LabelSelector,
    all: &[Arc<ControllerRevision>],
) -> (Vec<Arc<ControllerRevision>>, Vec<Write>) {
    let (mut own, mut writes) = (Vec::new(), Vec::new());
    for revision in all {
        match owners::claim(owner, deleting, selector, &revision.metadata) {
            Claim::Adopt => {
                let patch = owners::adoption_patch(owner, &revision.metadata);
                writes.push(Write::Adopt { name: name(revision).to_owned(), patch });
                own.push(revision.clone());
            }
            Claim::Keep | Claim::Release => own.push(revision.clone()),
            Claim::Ignore => {}
        }
    }
    own.sort_by(|a, b| {
        let age = |one: &ControllerRevision| one.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (a.revision, age(a), name(a)).cmp(&(b.revision, age(b), name(b)))
    });
    (own, writes)
}

/// The revision of the present template: the newest, an old one that becomes the newest, or `fresh` (whose number is
/// set here).
pub fn newest(own: &[Arc<ControllerRevision>], mut fresh: ControllerRevision) -> (Arc<ControllerRevision>, Option<Write>) {
    let number = own.last().map_or(1, |last| last.revision.saturating_add(1));
    let equal = own.iter().rev().find(|revision| revision.data == fresh.data);
    match (equal, own.last()) {
        (Some(equal), Some(last)) if equal.data == last.data => (last.clone(), None),
        (Some(equal), _) => {
            let mut again = ControllerRevision::clone(equal);
            again.revision = number;
            (Arc::new(again.clone()), Some(Write::Renumber(Box::new(again))))
        }
        (None, _) => {
            fresh.revision = number;
            (Arc::new(fresh.clone()), Some(Write::Create(Box::new(fresh))))
        }
    }
}

/// The oldest revisions beyond `limit`, of those that are not `in_use` (by name).
pub fn surplus(own: &[Arc<ControllerRevision>], in_use: &BTreeSet<&str>, limit: i32) -> Vec<Write> {
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let unused: Vec<_> = own.iter().filter(|revision| !in_use.contains(name(revision))).collect();
    let surplus = unused.len().saturating_sub(limit);
    let delete = |revision: &&Arc<ControllerRevision>| Write::Delete {
        name: name(revision).to_owned(),
        uid: revision.metadata.uid.clone().unwrap_or_default(),
    };
    unused.iter().take(surplus).map(|revision| delete(revision)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(name: &str, number: i64, image: &str) -> Arc<ControllerRevision> {
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "main", "image": image}]}})).unwrap();
        Arc::new(ControllerRevision {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some(RawExtension(data(&template))),
            revision: number,
        })
    }

    #[test]
    fn the_newest_an_old_one_again_or_a_new_one() {
        let own = [revision("a", 1, "v1"), revision("b", 4, "v2")];
        let fresh = |image: &str| ControllerRevision::clone(&revision("fresh", 0, image));
        let cases = [("v2", "b", 4, ""), ("v1", "a", 5, "renumber revision a 5"), ("v3", "fresh", 5, "create revision fresh 5")];
        for (image, expected, number, write) in cases {
            let (newest, done) = newest(&own, fresh(image));
            assert_eq!((name(&newest), newest.revision), (expected, number));
            assert_eq!(done.map(|write| write.to_string()).unwrap_or_default(), write);
        }
        assert_eq!(newest(&[], fresh("v1")).0.revision, 1);
        let image = template(&own[1]).unwrap().spec.unwrap().containers.remove(0).image;
        assert_eq!(image.as_deref(), Some("v2"));
    }

    #[test]
    fn what_is_in_use_stays_whatever_the_limit() {
        let own = [revision("a", 1, "v1"), revision("b", 2, "v2"), revision("c", 3, "v3"), revision("d", 4, "v4")];
        let text = |limit: i32| surplus(&own, &BTreeSet::from(["a", "d"]), limit).iter().map(Write::to_string).collect::<Vec<_>>();
        assert_eq!(text(1), ["delete revision b"]);
        assert_eq!(text(0), ["delete revision b", "delete revision c"]);
        assert!(text(2).is_empty() && text(-1).is_empty());
    }
}
