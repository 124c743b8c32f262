//! What the engine says, as the seam's words. Pure.

use std::net::IpAddr;
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerState as EngineState, ContainerStateStatusEnum as Phase, ImageInspect,
    ImageSummary,
};
use jiff::Timestamp;

use super::names::{self, Identity};
use crate::runtime::{ContainerState, ContainerStatus, ImageInfo, RuntimeError, RuntimeResult, SandboxStatus};

/// How long after an out-of-memory event an exit is still its doing. A process that lives on longer lost a child
/// only; a later SIGKILL of it is not the kernel's.
const OOM_KILLS_WITHIN: Duration = Duration::from_secs(10);

/// What the container's own cgroup said when the engine reported an out-of-memory event. The engine reports one for
/// every container below a limited parent, bystanders too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomVerdict {
    /// The kernel killed a process of this container.
    pub victim: bool,
    /// When.
    pub at: Timestamp,
}

/// A time of the engine; `None` for its zero time and for what is no time.
pub fn time(text: Option<&str>) -> Option<Timestamp> {
    let parsed: Timestamp = text?.parse().ok()?;
    // The zero time is in the year 1.
    (parsed.as_second() > 0).then_some(parsed)
}

/// When a container was made; the epoch where the engine does not say.
fn created_at(found: &ContainerInspectResponse) -> Timestamp {
    // bollard's type for this field changes with its features, and another package of a workspace may switch them on.
    // What goes over the wire is the same text with all of them.
    let only = ContainerInspectResponse { created: found.created.clone(), ..ContainerInspectResponse::default() };
    let wire = serde_json::to_value(only).unwrap_or_default();
    time(wire["Created"].as_str()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A container, from `inspect`. `image_id` is the digest reference where one is known.
pub fn container(
    found: &ContainerInspectResponse,
    image_id: Option<String>,
    oom: Option<OomVerdict>,
) -> RuntimeResult<ContainerStatus> {
    let identity = identity(found)?;
    let created_at = created_at(found);
    let state = found.state.clone().unwrap_or_default();
    Ok(ContainerStatus {
        id: found.id.clone().unwrap_or_default(),
        pod: identity.pod,
        name: identity.container,
        attempt: identity.attempt,
        spec_hash: identity.spec_hash,
        image: found.config.as_ref().and_then(|config| config.image.clone()).unwrap_or_default(),
        image_id: image_id.or_else(|| found.image.clone()).unwrap_or_default(),
        state: container_state(&state, created_at, oom),
        created_at,
    })
}

/// Whose it is, or an error that names it.
pub fn identity(found: &ContainerInspectResponse) -> RuntimeResult<Identity> {
    let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
    labels.and_then(names::identify).ok_or_else(|| {
        let name = found.name.as_deref().unwrap_or("?");
        RuntimeError::Other(format!("container {name} was not made by a node agent"))
    })
}

fn container_state(state: &EngineState, created_at: Timestamp, oom: Option<OomVerdict>) -> ContainerState {
    let exit_code = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0);
    let error = state.error.clone().unwrap_or_default();
    let started_at = time(state.started_at.as_deref());
    match state.status.unwrap_or(Phase::EMPTY) {
        Phase::RUNNING | Phase::PAUSED | Phase::RESTARTING => {
            ContainerState::Running { started_at: started_at.unwrap_or(created_at) }
        }
        Phase::CREATED | Phase::EMPTY if exit_code == 0 && error.is_empty() => ContainerState::Created,
        // A start that failed leaves it `created`, with the reason.
        Phase::CREATED | Phase::EMPTY => ContainerState::Exited {
            started_at: created_at,
            finished_at: created_at,
            exit_code,
            oom_killed: false,
            error,
        },
        Phase::EXITED | Phase::DEAD | Phase::REMOVING | Phase::STOPPING => {
            let started_at = started_at.unwrap_or(created_at);
            let finished_at = time(state.finished_at.as_deref()).unwrap_or(started_at);
            let oom_killed = was_oom_killed(exit_code, state.oom_killed.unwrap_or(false), finished_at, oom);
            ContainerState::Exited { started_at, finished_at, exit_code, oom_killed, error }
        }
    }
}

fn was_oom_killed(exit_code: i32, engine_says: bool, finished_at: Timestamp, oom: Option<OomVerdict>) -> bool {
    if exit_code != 137 {
        return false;
    }
    match oom {
        Some(verdict) => {
            let after = finished_at.duration_since(verdict.at);
            verdict.victim && after.unsigned_abs() <= OOM_KILLS_WITHIN
        }
        None => engine_says,
    }
}

/// A sandbox, from `inspect`. It is ready when its pause runs and its network (if it has one) is known.
pub fn sandbox(found: &ContainerInspectResponse, ips: Option<Vec<IpAddr>>) -> RuntimeResult<SandboxStatus> {
    let identity = identity(found)?;
    let running = is_running(found);
    let has_network = ips.is_some() || is_labelled(found, names::HOST_NETWORK);
    Ok(SandboxStatus {
        id: found.id.clone().unwrap_or_default(),
        pod: identity.pod,
        attempt: identity.attempt,
        ready: running && has_network,
        ips: ips.unwrap_or_default(),
        created_at: created_at(found),
    })
}

/// Whether its first process lives.
pub fn is_running(found: &ContainerInspectResponse) -> bool {
    found.state.as_ref().and_then(|state| state.running).unwrap_or(false)
}

/// The host's process id of its first process; `None` when it does not run.
pub fn pid(found: &ContainerInspectResponse) -> Option<i32> {
    let pid = found.state.as_ref().and_then(|state| state.pid)?;
    i32::try_from(pid).ok().filter(|pid| *pid > 0)
}

/// Whether a label says `true`.
pub fn is_labelled(found: &ContainerInspectResponse, label: &str) -> bool {
    label_of(found, label) == Some("true")
}

/// A label's value.
pub fn label_of<'a>(found: &'a ContainerInspectResponse, label: &str) -> Option<&'a str> {
    found.config.as_ref()?.labels.as_ref()?.get(label).map(String::as_str)
}

/// An image, from `inspect`.
pub fn image(found: &ImageInspect) -> ImageInfo {
    let id = found.id.clone().unwrap_or_default();
    ImageInfo {
        digest: found.repo_digests.iter().flatten().next().cloned().unwrap_or_else(|| id.clone()),
        id,
        tags: found.repo_tags.clone().unwrap_or_default(),
        size: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        user: found.config.as_ref().and_then(|config| config.user.clone()).unwrap_or_default(),
    }
}

/// An image, from a list; the list does not know users.
pub fn image_summary(found: &ImageSummary) -> ImageInfo {
    let named = |name: &&String| !name.starts_with("<none>");
    ImageInfo {
        id: found.id.clone(),
        digest: found.repo_digests.iter().find(named).cloned().unwrap_or_else(|| found.id.clone()),
        tags: found.repo_tags.iter().filter(named).cloned().collect(),
        size: u64::try_from(found.size).unwrap_or(0),
        user: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn exited(code: i64, oom_killed: bool) -> EngineState {
        EngineState {
            status: Some(Phase::EXITED),
            exit_code: Some(code),
            oom_killed: Some(oom_killed),
            started_at: Some("2026-01-01T00:00:00.5Z".into()),
            finished_at: Some("2026-01-01T00:01:00.25Z".into()),
            ..EngineState::default()
        }
    }

    fn killed(state: &EngineState, oom: Option<OomVerdict>) -> bool {
        match container_state(state, at("2026-01-01T00:00:00Z"), oom) {
            ContainerState::Exited { oom_killed, .. } => oom_killed,
            other => panic!("{other:?} has not exited"),
        }
    }

    #[test]
    fn the_zero_time_is_never() {
        assert_eq!(time(Some("0001-01-01T00:00:00Z")), None);
        assert_eq!(time(Some("soon")), None);
        assert_eq!(time(Some("2026-01-01T00:00:00.25Z")), Some(at("2026-01-01T00:00:00.25Z")));
    }

    #[test]
    fn the_time_of_creation_is_read_whatever_its_type_is_here() {
        let wire = serde_json::json!({"Created": "2026-01-01T00:00:00.25Z"});
        let found: ContainerInspectResponse = serde_json::from_value(wire).expect("an answer");
        assert_eq!(created_at(&found), at("2026-01-01T00:00:00.25Z"));
        assert_eq!(created_at(&ContainerInspectResponse::default()), Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn a_failed_start_is_an_exit_with_the_engines_words() {
        let created = at("2026-01-01T00:00:00Z");
        let mut state = EngineState { status: Some(Phase::CREATED), exit_code: Some(0), ..EngineState::default() };
        assert_eq!(container_state(&state, created, None), ContainerState::Created);
        state.exit_code = Some(127);
        state.error = Some("not found".into());
        let ContainerState::Exited { exit_code: 127, error, .. } = container_state(&state, created, None) else {
            panic!("a failed start has exited");
        };
        assert_eq!(error, "not found");
    }

    #[test]
    fn out_of_memory_is_what_the_containers_own_cgroup_says() {
        let near = OomVerdict { victim: true, at: at("2026-01-01T00:00:59Z") };
        let far = OomVerdict { victim: true, at: at("2026-01-01T00:00:10Z") };
        let bystander = OomVerdict { victim: false, ..near };
        assert!(killed(&exited(137, true), Some(near)));
        assert!(!killed(&exited(137, true), Some(far)), "a child was killed long before");
        assert!(!killed(&exited(137, true), Some(bystander)));
        assert!(!killed(&exited(5, true), None), "a bystander that exited by itself");
        assert!(killed(&exited(137, true), None), "all we know after a restart of the agent");
        assert!(!killed(&exited(137, false), None));
    }
}
