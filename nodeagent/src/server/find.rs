//! Which container or sandbox a request means. The choice is pure; [`Finder`] asks the engine, at most once a second
//! as long as it finds what it looks for.

use std::sync::Arc;
use std::time::Duration;

use balsa_proto::node::{ContainerRef, PortForwardStart};
use k8s_openapi::api::core::v1::{ContainerStatus as Reported, Pod};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::engine;
use crate::runtime::{ContainerState, ContainerStatus, Runtime, SandboxStatus};

/// How long a list may be used.
const FRESH: Duration = Duration::from_secs(1);

/// Looks up running containers and ready sandboxes.
pub struct Finder {
    runtime: Arc<dyn Runtime>,
    containers: Mutex<Option<(Instant, Arc<Vec<ContainerStatus>>)>>,
    sandboxes: Mutex<Option<(Instant, Arc<Vec<SandboxStatus>>)>>,
}

fn fresh<T>(cache: &Mutex<Option<(Instant, Arc<T>)>>) -> Option<Arc<T>> {
    cache.lock().as_ref().filter(|(since, _)| since.elapsed() < FRESH).map(|(_, list)| list.clone())
}

impl Finder {
    /// Nothing is known at first.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, containers: Mutex::new(None), sandboxes: Mutex::new(None) }
    }

    /// The engine's identifier of the running instance of `wanted`.
    pub async fn running(&self, wanted: &ContainerRef) -> Result<Option<String>, Status> {
        if let Some(id) = fresh(&self.containers).and_then(|list| running(&list, wanted)) {
            return Ok(Some(id));
        }
        let list = Arc::new(self.runtime.list_containers().await.map_err(|error| engine(&error))?);
        *self.containers.lock() = Some((Instant::now(), list.clone()));
        Ok(running(&list, wanted))
    }

    /// The engine's identifier of the pod's sandbox.
    pub async fn sandbox(&self, wanted: &PortForwardStart) -> Result<String, Status> {
        if let Some(Ok(id)) = fresh(&self.sandboxes).map(|list| sandbox(&list, wanted)) {
            return Ok(id);
        }
        let list = Arc::new(self.runtime.list_sandboxes().await.map_err(|error| engine(&error))?);
        *self.sandboxes.lock() = Some((Instant::now(), list.clone()));
        sandbox(&list, wanted)
    }
}

fn is_of(container: &ContainerStatus, wanted: &ContainerRef) -> bool {
    container.pod.uid == wanted.pod_uid && container.name == wanted.container
}

fn running(containers: &[ContainerStatus], wanted: &ContainerRef) -> Option<String> {
    containers
        .iter()
        .filter(|container| is_of(container, wanted) && matches!(container.state, ContainerState::Running { .. }))
        .max_by_key(|container| container.attempt)
        .map(|container| container.id.clone())
}

fn sandbox(sandboxes: &[SandboxStatus], wanted: &PortForwardStart) -> Result<String, Status> {
    let own = sandboxes.iter().filter(|sandbox| sandbox.pod.uid == wanted.pod_uid);
    let newest = own.max_by_key(|sandbox| (sandbox.ready, sandbox.attempt));
    match newest {
        Some(sandbox) if sandbox.ready => Ok(sandbox.id.clone()),
        Some(_) => Err(Status::failed_precondition("unable to do port forwarding: the pod is not running")),
        None => Err(Status::not_found(format!("pod not found (\"{}_{}\")", wanted.pod, wanted.namespace))),
    }
}

fn reported<'a>(pod: &'a Pod, container: &str) -> Option<&'a Reported> {
    let status = pod.status.as_ref()?;
    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .find(|reported| reported.name == container)
}

fn waiting_reason(reported: &Reported) -> Option<&str> {
    let waiting = reported.state.as_ref()?.waiting.as_ref()?;
    Some(waiting.reason.as_deref().unwrap_or_default())
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    spec.containers.iter().chain(init).any(|container| container.name == name)
        || ephemeral.iter().any(|container| container.name == name)
}

/// The instance whose log is asked for: the newest that was started, or the one that ended before it.
///
/// While a container waits to be started again, its newest instance has become the previous one, too: then both
/// questions lead to it, as in Kubernetes.
pub fn log_container(
    pod: Option<&Pod>,
    wanted: &ContainerRef,
    containers: &[ContainerStatus],
    previous: bool,
) -> Result<String, Status> {
    let (name, pod_name) = (&wanted.container, &wanted.pod);
    let mut own: Vec<&ContainerStatus> = containers.iter().filter(|container| is_of(container, wanted)).collect();
    own.sort_by_key(|container| std::cmp::Reverse(container.attempt));
    let report = pod.and_then(|pod| reported(pod, name));
    let waits = report.and_then(waiting_reason);
    let exited = |container: &&&ContainerStatus| matches!(container.state, ContainerState::Exited { .. });
    if previous {
        let current = own.first().map(|newest| newest.attempt);
        let found = own.iter().filter(exited).find(|container| waits.is_some() || Some(container.attempt) < current);
        let missing = || {
            Status::failed_precondition(format!("previous terminated container {name:?} in pod {pod_name:?} not found"))
        };
        return found.map(|container| container.id.clone()).ok_or_else(missing);
    }
    if let Some(newest) = own.iter().find(|container| container.state != ContainerState::Created) {
        return Ok(newest.id.clone());
    }
    let Some(pod) = pod else { return Err(Status::not_found(format!("pod {pod_name:?} does not exist"))) };
    if !has_container(pod, name) {
        return Err(Status::not_found(format!("container {name:?} not found in pod {pod_name:?}")));
    }
    let Some(report) = report else {
        return Err(Status::failed_precondition(format!("container {name:?} in pod {pod_name:?} is not available")));
    };
    Err(Status::failed_precondition(match waits {
        Some("ErrImagePull") => {
            format!("container {name:?} in pod {pod_name:?} is waiting to start: image can't be pulled")
        }
        Some("ImagePullBackOff") => {
            format!("container {name:?} in pod {pod_name:?} is waiting to start: trying and failing to pull image")
        }
        Some(reason) => format!("container {name:?} in pod {pod_name:?} is waiting to start: {reason}"),
        None if report.state.as_ref().is_some_and(|state| state.terminated.is_some()) => {
            format!("container {name:?} in pod {pod_name:?} is terminated")
        }
        None => format!("container {name:?} in pod {pod_name:?} is waiting to start - no logs yet"),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{container, pod, wanted};
    use super::*;

    fn waiting(reason: &str) -> Pod {
        pod(serde_json::json!([{
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason}},
        }]))
    }

    #[test]
    fn the_log_is_that_of_the_newest_started_instance() {
        let running = pod(serde_json::json!([]));
        let (two, one, zero) = (container("c", 2, "running"), container("c", 1, "exited"), container("c", 0, "exited"));
        let made = container("c", 3, "created");
        let other = container("d", 9, "running");
        for (label, list, pod, previous, expected) in [
            ("newest", vec![&zero, &two, &one, &other], &running, false, Ok("c-2")),
            ("previous", vec![&zero, &two, &one], &running, true, Ok("c-1")),
            ("previous of a dead one", vec![&zero, &one], &running, true, Ok("c-0")),
            ("in back-off", vec![&zero, &one], &waiting("CrashLoopBackOff"), false, Ok("c-1")),
            ("previous in back-off", vec![&zero, &one], &waiting("CrashLoopBackOff"), true, Ok("c-1")),
            ("made, not started", vec![&two, &made], &running, false, Ok("c-2")),
            (
                "no previous",
                vec![&two],
                &running,
                true,
                Err("previous terminated container \"c\" in pod \"web\" not found"),
            ),
            (
                "creating",
                vec![],
                &waiting("ContainerCreating"),
                false,
                Err("container \"c\" in pod \"web\" is waiting to start: ContainerCreating"),
            ),
            (
                "pull",
                vec![],
                &waiting("ImagePullBackOff"),
                false,
                Err("container \"c\" in pod \"web\" is waiting to start: trying and failing to pull image"),
            ),
            ("nothing known", vec![], &running, false, Err("container \"c\" in pod \"web\" is not available")),
        ] {
            let list: Vec<ContainerStatus> = list.into_iter().cloned().collect();
            let got = log_container(Some(pod), &wanted("c"), &list, previous);
            assert_eq!(
                got.map_err(|status| status.message().to_owned()),
                expected.map(str::to_owned).map_err(str::to_owned),
                "{label}"
            );
        }
    }

    #[test]
    fn strangers_are_not_found() {
        let known = pod(serde_json::json!([]));
        let error = log_container(Some(&known), &wanted("x"), &[], false).unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (tonic::Code::NotFound, "container \"x\" not found in pod \"web\"")
        );
        let error = log_container(None, &wanted("c"), &[], false).unwrap_err();
        assert_eq!((error.code(), error.message()), (tonic::Code::NotFound, "pod \"web\" does not exist"));
    }
}
