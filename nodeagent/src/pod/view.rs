//! What a pod's spec says, in the form that the life cycle asks for: its containers with their roles, its policies,
//! its class of service.
//!
//! Pure. It decides nothing about what happens next.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus};
use sha2::{Digest as _, Sha256};

use crate::runtime::PodRef;

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs once, before the app containers, to exit code 0.
    Init,
    /// An init container that stays: `restartPolicy: Always`.
    Sidecar,
    /// `spec.containers`
    App,
    /// Added later for debugging; started once.
    Ephemeral,
}

/// A container of a pod, with its role.
#[derive(Debug, Clone)]
pub struct Unit<'a> {
    /// What it is.
    pub role: Role,
    /// Its spec; an ephemeral container's is converted.
    pub container: Cow<'a, Container>,
}

impl Unit<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.container.name
    }

    /// `spec.containers{name}`, as events name it.
    pub fn field_path(&self) -> String {
        let list = match self.role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::App => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.name())
    }
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// After an exit code that is not 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// Unknown words mean the default.
    pub fn parse(word: Option<&str>) -> Self {
        match word {
            Some("OnFailure") => Self::OnFailure,
            Some("Never") => Self::Never,
            _ => Self::Always,
        }
    }
}

/// The pod's quality-of-service class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Requests equal limits everywhere.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The pod's spec; an object without one reads as a pod without containers.
pub fn spec(pod: &Pod) -> Cow<'_, PodSpec> {
    pod.spec.as_ref().map_or_else(|| Cow::Owned(PodSpec::default()), Cow::Borrowed)
}

/// The pod's status; empty where there is none.
pub fn status(pod: &Pod) -> Cow<'_, PodStatus> {
    pod.status.as_ref().map_or_else(|| Cow::Owned(PodStatus::default()), Cow::Borrowed)
}

/// `metadata.namespace`
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `metadata.name`
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `metadata.uid`
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Whose containers, for the runtime.
pub fn pod_ref(pod: &Pod) -> PodRef {
    PodRef { namespace: namespace(pod).to_owned(), name: name(pod).to_owned(), uid: uid(pod).to_owned() }
}

/// `name_namespace(uid)`, as back-off messages name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// All containers: init containers and sidecars in order, then app containers, then ephemeral ones.
pub fn units(pod: &Pod) -> Vec<Unit<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| Unit {
        role: if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init },
        container: Cow::Borrowed(container),
    });
    let app = spec.containers.iter().map(|container| Unit { role: Role::App, container: Cow::Borrowed(container) });
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| Unit { role: Role::Ephemeral, container: Cow::Owned(from_ephemeral(container)) });
    init.chain(app).chain(ephemeral).collect()
}

fn from_ephemeral(from: &EphemeralContainer) -> Container {
    Container {
        args: from.args.clone(),
        command: from.command.clone(),
        env: from.env.clone(),
        env_from: from.env_from.clone(),
        image: from.image.clone(),
        image_pull_policy: from.image_pull_policy.clone(),
        name: from.name.clone(),
        security_context: from.security_context.clone(),
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        termination_message_path: from.termination_message_path.clone(),
        termination_message_policy: from.termination_message_policy.clone(),
        tty: from.tty,
        volume_mounts: from.volume_mounts.clone(),
        working_dir: from.working_dir.clone(),
        ..Container::default()
    }
}

/// `spec.restartPolicy`
pub fn restart_policy(pod: &Pod) -> RestartPolicy {
    RestartPolicy::parse(pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()))
}

/// The grace period that the pod's own spec asks for, seconds.
pub fn spec_grace_seconds(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30)
}

/// Whether its deletion was asked for.
pub fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it uses the node's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Whether the phase that the API has is final.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Fingerprint of what may not change under a running container: its name and its image.
pub fn spec_hash(container: &Container) -> String {
    let mut hash = Sha256::new();
    hash.update(container.name.as_bytes());
    hash.update([0]);
    hash.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The time since `then`; zero where `then` is in the future.
pub fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

/// `at + wait`, saturating at the end of time.
pub fn after(at: Timestamp, wait: Duration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// The pod's class. Zero quantities count as not set.
pub fn qos(pod: &Pod) -> Qos {
    let spec = spec(pod);
    let pod_level = spec.resources.iter().filter(|r| r.requests.is_some() || r.limits.is_some());
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let pod_level: Vec<_> = pod_level.map(Some).collect();
    let all: Vec<_> =
        if pod_level.is_empty() { containers.map(|container| container.resources.as_ref()).collect() } else { pod_level };
    let mut anything = false;
    let mut guaranteed = !all.is_empty();
    for resources in all {
        for resource in ["cpu", "memory"] {
            let of = |list: Option<&std::collections::BTreeMap<_, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
                list.and_then(|list: &std::collections::BTreeMap<String, _>| list.get(resource))
                    .and_then(|quantity| crate::quantity::milli(&quantity.0))
                    .filter(|milli| *milli > 0)
            };
            let request = of(resources.and_then(|r| r.requests.as_ref()));
            let limit = of(resources.and_then(|r| r.limits.as_ref()));
            anything |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (anything, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}
