//! App containers: made, started, stopped, listed.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{CreateContainerOptionsBuilder, StopContainerOptionsBuilder};

use super::error::Op;
use super::sandbox::is_name_conflict;
use super::{Docker, SHORT, START, body, names, state};
use crate::runtime::{ContainerSpec, ContainerStatus, RuntimeError, RuntimeResult};

/// How much longer than its grace a stop may take: the kill and the engine's own work.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// A container as it was last inspected. It changes only when the listed state changes: nothing is ever started twice.
pub(super) struct Seen {
    listed_state: String,
    status: ContainerStatus,
}

impl Docker {
    pub(super) async fn make_container(&self, sandbox: &str, spec: &ContainerSpec) -> RuntimeResult<String> {
        let pause = self.inspect(sandbox).await?;
        let parent = pause.host_config.as_ref().and_then(|host| host.cgroup_parent.clone()).unwrap_or_default();
        let shared = state::is_labelled(&pause, names::SHARE_PROCESSES);
        let sandbox = pause.id.as_deref().unwrap_or(sandbox);
        let body = body::container(spec, self.owner(), self.machine(), sandbox, shared, &parent);
        let name = names::container_name(&spec.pod, &spec.name, spec.attempt);
        for _ in 0..2 {
            let api = &self.engine().await?.api;
            let options = CreateContainerOptionsBuilder::new().name(&name).build();
            match self.call(Op::Create, START, api.create_container(Some(options), body.clone())).await {
                Ok(made) => return Ok(made.id),
                Err(error) if !is_name_conflict(&error) => return Err(error),
                Err(_) => {}
            }
            let Some(found) = self.inspect_if_there(&name).await? else { continue };
            self.check_owner(&found, &name)?;
            let id = found.id.clone().unwrap_or_default();
            if is_same_container(&found, sandbox, spec) {
                return Ok(id);
            }
            self.remove(&id).await?;
        }
        Err(RuntimeError::Create(format!("another call is making and removing {name}")))
    }

    /// Starts it unless it has run before: one restart count is one start.
    pub(super) async fn start_app(&self, id: &str) -> RuntimeResult<()> {
        let found = self.inspect(id).await?;
        if state::time(found.state.as_ref().and_then(|state| state.started_at.as_deref())).is_some() {
            return Ok(());
        }
        self.start_limited(id).await
    }

    pub(super) async fn stop_app(&self, id: &str, grace: Duration) -> RuntimeResult<()> {
        let api = &self.engine().await?.api;
        let seconds = i32::try_from(grace.as_secs().saturating_add(u64::from(grace.subsec_nanos() > 0)));
        let options = StopContainerOptionsBuilder::new().t(seconds.unwrap_or(i32::MAX)).build();
        let deadline = grace.saturating_add(STOP_MARGIN);
        match self.call(Op::Other, deadline, api.stop_container(id, Some(options))).await {
            Err(RuntimeError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    pub(super) async fn container_status(&self, id: &str) -> RuntimeResult<ContainerStatus> {
        let found = self.inspect(id).await?;
        self.status_of(&found).await
    }

    async fn status_of(&self, found: &ContainerInspectResponse) -> RuntimeResult<ContainerStatus> {
        let digest = self.digest_of(found.image.as_deref().unwrap_or_default()).await;
        let oom = self.inner.verdicts.lock().get(found.id.as_deref().unwrap_or_default()).copied();
        state::container(found, digest, oom)
    }

    /// The digest reference of an image; asked once per image.
    async fn digest_of(&self, image: &str) -> Option<String> {
        if let Some(known) = self.inner.digests.lock().get(image) {
            return Some(known.clone());
        }
        let api = &self.engine().await.ok()?.api;
        let found = self.call(Op::Other, SHORT, api.inspect_image(image)).await.ok()?;
        let digest = state::image(&found).digest;
        self.inner.digests.lock().insert(image.to_owned(), digest.clone());
        Some(digest)
    }

    pub(super) async fn find_containers(&self) -> RuntimeResult<Vec<ContainerStatus>> {
        let listed = self.list_labelled(None).await?;
        let mut statuses = Vec::new();
        let mut there = BTreeSet::new();
        for summary in listed {
            let identity = summary.labels.as_ref().and_then(names::identify);
            let Some(identity) = identity.filter(|identity| !identity.is_sandbox()) else { continue };
            let id = summary.id.clone().unwrap_or_default();
            let listed_state = summary.state.map(|state| state.to_string()).unwrap_or_default();
            there.insert(id.clone());
            match self.seen(&id, &listed_state) {
                Some(status) => statuses.push(status),
                None => statuses.extend(self.look_at(&id, &identity, listed_state).await?),
            }
        }
        self.inner.seen.lock().retain(|id, _| there.contains(id));
        self.inner.verdicts.lock().retain(|id, _| there.contains(id));
        Ok(statuses)
    }

    fn seen(&self, id: &str, listed_state: &str) -> Option<ContainerStatus> {
        let seen = self.inner.seen.lock();
        seen.get(id).filter(|seen| seen.listed_state == listed_state).map(|seen| seen.status.clone())
    }

    /// Inspects and remembers; `None` where it has gone since it was listed.
    async fn look_at(
        &self,
        id: &str,
        identity: &names::Identity,
        listed_state: String,
    ) -> RuntimeResult<Option<ContainerStatus>> {
        let Some(found) = self.inspect_if_there(id).await? else { return Ok(None) };
        let status = self.status_of(&found).await?;
        let inspected = found.state.and_then(|state| state.status).map(|state| state.to_string()).unwrap_or_default();
        // A start that failed leaves the state `created`, so that one is always looked at.
        if inspected == listed_state && listed_state != "created" {
            tracing::trace!(container = identity.container, id, listed_state, "inspected");
            self.inner.seen.lock().insert(id.to_owned(), Seen { listed_state, status: status.clone() });
        }
        Ok(Some(status))
    }
}

/// Whether what has the name is what is to be made. It may have run already: the caller will see.
fn is_same_container(found: &ContainerInspectResponse, sandbox: &str, spec: &ContainerSpec) -> bool {
    state::label_of(found, names::SPEC_HASH) == Some(&spec.spec_hash)
        && state::label_of(found, names::SANDBOX) == Some(sandbox)
        && state::identity(found).is_ok_and(|identity| identity.attempt == spec.attempt && identity.pod == spec.pod)
}
