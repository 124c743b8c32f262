//! What the pods of a Job look like: finalizer, index as annotation, label, variable and host name, failures so far.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::TRACKING;
use super::policy::{Verdict, verdict};
use crate::common::owners::Owner;
use crate::replicaset::plan::pod_from_template;

/// Annotation and label: the index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation: how often pods of the index failed, as far as it counts.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation: how often pods of the index failed and the policy ignored it.
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Longest prefix of a generated name.
const LONGEST_PREFIX: usize = 58;

/// Failures of an index before this pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// Those that count towards its limit.
    pub counted: i32,
    /// Those that the policy ignored.
    pub ignored: i32,
}

impl Failures {
    /// Both.
    pub fn all(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }
}

/// What a pod says about the failures before it.
pub fn failures(pod: &Pod) -> Failures {
    let read = |name: &str| {
        let text = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
        text.and_then(|text| text.parse::<i32>().ok()).filter(|count| *count >= 0).unwrap_or(0)
    };
    Failures { counted: read(FAILURES), ignored: read(IGNORED) }
}

fn name_the_index(container: &mut Container) {
    const VARIABLE: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == VARIABLE) {
        return;
    }
    env.push(EnvVar {
        name: VARIABLE.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

/// `job-3-`, cut so that the apiserver can complete it.
fn name_prefix(job: &str, index: i32) -> String {
    let suffix = format!("-{index}-");
    let room = LONGEST_PREFIX.saturating_sub(suffix.len());
    let job: String = job.chars().take(room).collect();
    format!("{job}{suffix}")
}

/// A pod of an index, or of none. `replaced`: the failed pod before it, where the index has a limit of its own.
pub fn pod(job: &Job, spec: &JobSpec, owner: &Owner, index: Option<i32>, replaced: Option<&Pod>) -> Pod {
    let mut pod = pod_from_template(&spec.template, owner);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|one| one == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let Some(index) = index else { return pod };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    pod.metadata.generate_name = Some(name_prefix(name, index));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        let mut count = replaced.map(failures).unwrap_or_default();
        match replaced.map(|failed| verdict(spec.pod_failure_policy.as_ref(), failed)) {
            Some(Verdict::Ignore) => count.ignored = count.ignored.saturating_add(1),
            Some(_) => count.counted = count.counted.saturating_add(1),
            None => {}
        }
        annotations.insert(FAILURES.to_owned(), count.counted.to_string());
        if count.ignored > 0 {
            annotations.insert(IGNORED.to_owned(), count.ignored.to_string());
        }
    }
    let body = pod.spec.get_or_insert_default();
    body.hostname = Some(format!("{name}-{index}"));
    body.containers.iter_mut().chain(body.init_containers.iter_mut().flatten()).for_each(name_the_index);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_leave_room_for_index_and_suffix() {
        assert_eq!(name_prefix("web", 3), "web-3-");
        let long = name_prefix(&"x".repeat(63), 12);
        assert_eq!((long.len(), long.ends_with("x-12-")), (58, true));
    }
}
