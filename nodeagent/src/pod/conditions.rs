//! The pod's conditions, to the word.
//!
//! Pure. Only conditions that belong to the node agent are built; those of others stay as they are.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::Observed;
use super::view::{self, Role};

/// What one condition says, before times are put to it.
struct Says {
    kind: &'static str,
    yes: bool,
    reason: String,
    message: String,
}

impl Says {
    fn yes(kind: &'static str) -> Self {
        Self { kind, yes: true, reason: String::new(), message: String::new() }
    }

    fn because(kind: &'static str, yes: bool, reason: &str, message: String) -> Self {
        Self { kind, yes, reason: reason.to_owned(), message }
    }
}

/// The agent's conditions for `status`, whose containers and phase are final.
pub fn build(pod: &Pod, seen: &Observed, status: &PodStatus, now: Timestamp) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let ready_to_start = Says {
        yes: seen.sandbox().is_some(),
        ..Says::yes("PodReadyToStartContainers")
    };
    let containers = containers_ready(pod, status, phase);
    let ready = ready(pod, &containers);
    let mut all = vec![ready_to_start, initialized(pod, seen, status, phase), ready, containers, Says::yes("PodScheduled")];
    if let Some(kill) = seen.memory.kill.as_ref().filter(|kill| kill.disruption) {
        all.push(Says::because("DisruptionTarget", true, "TerminationByKubelet", kill.message.clone()));
    }
    all.into_iter().map(|says| condition(pod, says, status.observed_generation, now)).collect()
}

fn condition(pod: &Pod, says: Says, generation: Option<i64>, now: Timestamp) -> PodCondition {
    let status = if says.yes { "True" } else { "False" };
    let old = view::status(pod)
        .conditions
        .iter()
        .flatten()
        .find(|old| old.type_ == says.kind && old.status == status)
        .and_then(|old| old.last_transition_time.clone());
    let some = |text: String| (!text.is_empty()).then_some(text);
    PodCondition {
        type_: says.kind.to_owned(),
        status: status.to_owned(),
        reason: some(says.reason),
        message: some(says.message),
        last_transition_time: Some(old.unwrap_or(Time(now))),
        last_probe_time: None,
        observed_generation: generation,
    }
}

fn initialized(pod: &Pod, seen: &Observed, status: &PodStatus, phase: &str) -> Says {
    if phase == "Succeeded" {
        return Says::because("Initialized", true, "PodCompleted", String::new());
    }
    let app_has_run = status.container_statuses.iter().flatten().any(|app| {
        app.state.as_ref().is_some_and(|state| state.waiting.is_none()) && app.container_id.is_some()
    });
    let statuses = status.init_container_statuses.as_deref().unwrap_or_default();
    let incomplete: Vec<_> = view::units(pod)
        .iter()
        .filter(|unit| match unit.role {
            Role::Init => find(statuses, unit.name()).is_none_or(|status| !status.ready),
            Role::Sidecar => !app_has_run && !seen.is_started(unit),
            Role::App | Role::Ephemeral => false,
        })
        .map(|unit| unit.name().to_owned())
        .collect();
    if incomplete.is_empty() {
        return Says::yes("Initialized");
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Says::because("Initialized", false, "ContainersNotInitialized", message)
}

fn containers_ready(pod: &Pod, status: &PodStatus, phase: &str) -> Says {
    let no = |reason, message| Says::because("ContainersReady", false, reason, message);
    match phase {
        "Succeeded" => return no("PodCompleted", String::new()),
        "Failed" => return no("PodFailed", String::new()),
        _ => {}
    }
    let none = Vec::new();
    let apps = status.container_statuses.as_ref().unwrap_or(&none);
    let sidecars = status.init_container_statuses.as_ref().unwrap_or(&none);
    let unready: Vec<_> = view::units(pod)
        .iter()
        .filter(|unit| match unit.role {
            Role::App => find(apps, unit.name()).is_none_or(|status| !status.ready),
            Role::Sidecar => find(sidecars, unit.name()).is_none_or(|status| !status.ready),
            Role::Init | Role::Ephemeral => false,
        })
        .map(|unit| unit.name().to_owned())
        .collect();
    if unready.is_empty() {
        return Says::yes("ContainersReady");
    }
    no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn ready(pod: &Pod, containers: &Says) -> Says {
    if !containers.yes {
        return Says::because("Ready", false, &containers.reason, containers.message.clone());
    }
    let conditions = view::status(pod).conditions.clone().unwrap_or_default();
    let complaints: Vec<_> = view::spec(pod)
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match conditions.iter().find(|condition| condition.type_ == *kind) {
                None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if complaints.is_empty() {
        return Says::yes("Ready");
    }
    Says::because("Ready", false, "ReadinessGatesNotReady", complaints.join(", "))
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == name)
}
