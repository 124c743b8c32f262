//! Containers and sandboxes whose pod the API no longer has: found (pure) and taken away.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::runtime::{ContainerState, ContainerStatus, Runtime, RuntimeError, RuntimeResult, SandboxStatus};

/// How long an orphan gets between stop signal and kill.
const GRACE: Duration = Duration::from_secs(2);

/// UIDs of pods that the engine has and nobody knows.
pub fn plan(
    known: &BTreeSet<String>,
    sandboxes: &[SandboxStatus],
    containers: &[ContainerStatus],
) -> BTreeSet<String> {
    let all = sandboxes.iter().map(|sandbox| &sandbox.pod.uid).chain(containers.iter().map(|one| &one.pod.uid));
    all.filter(|uid| !known.contains(*uid)).cloned().collect()
}

/// Stops and removes every container and sandbox of a pod.
pub async fn remove_all(runtime: &dyn Runtime, uid: &str) -> RuntimeResult<()> {
    let containers = runtime.list_containers().await?;
    let own: Vec<_> = containers.into_iter().filter(|container| container.pod.uid == uid).collect();
    let stops = own
        .iter()
        .filter(|container| matches!(container.state, ContainerState::Running { .. }))
        .map(|container| runtime.stop_container(&container.id, GRACE));
    for stopped in futures::future::join_all(stops).await {
        ignore_missing(stopped)?;
    }
    for container in &own {
        ignore_missing(runtime.remove_container(&container.id).await)?;
    }
    for sandbox in runtime.list_sandboxes().await?.into_iter().filter(|sandbox| sandbox.pod.uid == uid) {
        ignore_missing(runtime.stop_sandbox(&sandbox.id).await)?;
        ignore_missing(runtime.remove_sandbox(&sandbox.id).await)?;
    }
    Ok(())
}

fn ignore_missing(result: RuntimeResult<()>) -> RuntimeResult<()> {
    match result {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    }
}
