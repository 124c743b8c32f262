//! The row of a pod in a table: what `kubectl get pods` shows.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::cursor::{find, list, text};
use crate::duration::{age, parse};
use crate::kind::Column;
use crate::kinds::definition::{NAME, column, wide};

/// The columns.
pub const COLUMNS: &[Column] = &[
    NAME,
    column("Ready"),
    column("Status"),
    column("Restarts"),
    column("Age"),
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

/// What the STATUS and its neighbours say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// `CrashLoopBackOff`, `Init:0/2`, `Running`, …
    pub status: String,
    /// Containers that are ready.
    pub ready: usize,
    /// Containers and sidecars.
    pub total: usize,
    /// Restarts, summed up.
    pub restarts: i64,
    /// When the latest restart was.
    pub last_restart: Option<Timestamp>,
}

fn condition<'a>(pod: &'a Value, r#type: &str) -> Option<&'a Value> {
    list(pod, "status.conditions").iter().find(|condition| text(condition, "type") == r#type)
}

fn is_condition_true(pod: &Value, r#type: &str) -> bool {
    condition(pod, r#type).is_some_and(|condition| text(condition, "status") == "True")
}

/// Why a container is not running: its reason, else its signal or exit code.
fn ended(terminated: &Value) -> String {
    let reason = text(terminated, "reason");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match find(terminated, "signal").as_i64().unwrap_or(0) {
        0 => format!("ExitCode:{}", find(terminated, "exitCode").as_i64().unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

fn latest(last: Option<Timestamp>, status: &Value) -> Option<Timestamp> {
    last.max(parse(text(status, "lastState.terminated.finishedAt")))
}

fn restarts(status: &Value) -> i64 {
    find(status, "restartCount").as_i64().unwrap_or(0)
}

/// Works out what a pod's row says.
pub fn summary(pod: &Value) -> Summary {
    let init_containers = list(pod, "spec.initContainers");
    let is_sidecar = |name: &str| {
        init_containers.iter().any(|container| text(container, "name") == name && text(container, "restartPolicy") == "Always")
    };
    let sidecars = init_containers.iter().filter(|container| text(container, "restartPolicy") == "Always").count();
    let mut status = match text(pod, "status.reason") {
        "" => text(pod, "status.phase").to_owned(),
        reason => reason.to_owned(),
    };
    if condition(pod, "PodScheduled").is_some_and(|condition| text(condition, "reason") == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut status);
    }
    let (mut ready, mut count, mut sidecar_count) = (0, 0, 0);
    let (mut last, mut sidecar_last) = (None, None);
    let mut initializing = false;
    for (index, container) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        count += restarts(container);
        last = latest(last, container);
        let sidecar = is_sidecar(text(container, "name"));
        if sidecar {
            sidecar_count += restarts(container);
            sidecar_last = latest(sidecar_last, container);
        }
        let terminated = find(container, "state.terminated");
        if terminated.is_object() && find(terminated, "exitCode").as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && find(container, "started") == &Value::Bool(true) {
            if find(container, "ready") == &Value::Bool(true) {
                ready += 1;
            }
            continue;
        }
        let waiting = text(container, "state.waiting.reason");
        status = if terminated.is_object() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", init_containers.len())
        };
        initializing = true;
        break;
    }
    if !initializing || is_condition_true(pod, "Initialized") {
        (count, last) = (sidecar_count, sidecar_last);
        let (mut running, mut error) = (false, String::new());
        for container in list(pod, "status.containerStatuses").iter().rev() {
            count += restarts(container);
            last = latest(last, container);
            let waiting = text(container, "state.waiting.reason");
            let terminated = find(container, "state.terminated");
            if !waiting.is_empty() {
                waiting.clone_into(&mut status);
            } else if terminated.is_object() {
                status = ended(terminated);
                if find(terminated, "exitCode").as_i64().unwrap_or(0) != 0 {
                    error.clone_from(&status);
                }
            } else if find(container, "ready") == &Value::Bool(true) && find(container, "state.running").is_object() {
                running = true;
                ready += 1;
            }
        }
        if status == "Completed" && running {
            status = if is_condition_true(pod, "Ready") {
                "Running".to_owned()
            } else if error.is_empty() {
                "NotReady".to_owned()
            } else {
                error
            };
        }
    }
    if !text(pod, "metadata.deletionTimestamp").is_empty() {
        if text(pod, "status.reason") == "NodeLost" {
            "Unknown".clone_into(&mut status);
        } else if !matches!(text(pod, "status.phase"), "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut status);
        }
    }
    let total = list(pod, "spec.containers").len() + sidecars;
    Summary { status, ready, total, restarts: count, last_restart: last }
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// The cells.
pub fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, crate::duration::since(last, now))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = list(pod, "status.podIPs").first().map_or_else(|| text(pod, "status.podIP"), |first| text(first, "ip"));
    let gates = list(pod, "spec.readinessGates");
    let gates_text = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let open = gates.iter().filter(|gate| is_condition_true(pod, text(gate, "conditionType"))).count();
        format!("{open}/{}", gates.len())
    };
    vec![
        text(pod, "metadata.name").into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        age(pod, now).into(),
        or_none(ip),
        or_none(text(pod, "spec.nodeName")),
        or_none(text(pod, "status.nominatedNodeName")),
        gates_text.into(),
    ]
}

/// Why the row is marked as completed: the phase, for pods that have ended.
pub fn completed(pod: &Value) -> Option<&'static str> {
    match text(pod, "status.phase") {
        "Succeeded" => Some("Succeeded"),
        "Failed" => Some("Failed"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_column() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let sidecar = json!({"name": "s", "started": true, "ready": true, "state": {"running": {}}, "restartCount": 2});
        let running = |name: &str| json!({"name": name, "ready": true, "state": {"running": {}}});
        for (status, expected, ready) in [
            (json!({"phase": "Pending"}), "Pending", 0),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted", 0),
            (json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}), "SchedulingGated", 0),
            (json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}), "Init:0/2", 0),
            (json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}), "Init:ImagePullBackOff", 0),
            (json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3}}}]}), "Init:ExitCode:3", 0),
            (json!({"phase": "Running", "initContainerStatuses": [done, sidecar], "containerStatuses": [running("a"), running("b")]}), "Running", 3),
            (json!({"phase": "Running", "containerStatuses": [running("a"), {"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}), "CrashLoopBackOff", 1),
            (json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, running("b")]}), "NotReady", 1),
            (json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, running("b")]}), "Running", 1),
            (json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}), "Signal:9", 0),
        ] {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
            let summary = summary(&pod);
            assert_eq!((summary.status.as_str(), summary.ready, summary.total), (expected, ready, 3), "{pod}");
        }
        let gone = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(summary(&gone).status, "Terminating");
    }
}
