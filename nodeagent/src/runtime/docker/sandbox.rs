//! Sandboxes: made, adopted, ended, forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveVolumeOptions,
};

use super::error::Op;
use super::{Docker, SHORT, START, body, names, state};
use crate::network::Attachment;
use crate::runtime::{RuntimeError, RuntimeResult, SandboxSpec, SandboxStatus};

impl Docker {
    pub(super) async fn make_sandbox(&self, spec: &SandboxSpec) -> RuntimeResult<SandboxStatus> {
        let engine = self.engine().await?;
        let parent = engine.cgroups.parent(&self.inner.config.cluster, &self.inner.config.node, &spec.pod.uid);
        if let Err(error) = engine.cgroups.make(&parent, &spec.resources) {
            // The engine makes the group itself; what is lost are the pod's limits as a whole.
            tracing::warn!(pod = %spec.pod.name, %parent, %error, "the pod's control group got no limits");
        }
        self.make_volumes(spec).await?;
        let body = body::sandbox(
            spec,
            self.owner(),
            self.machine(),
            &self.inner.config.pause_image,
            &parent,
            &self.node_network(),
        );
        let name = names::container_name(&spec.pod, names::PAUSE, spec.attempt);
        let id = self.create_or_adopt_pause(&name, body).await?;
        self.start_pause(&id).await?;
        let found = self.inspect(&id).await?;
        let pid = state::pid(&found)
            .ok_or_else(|| RuntimeError::Create(format!("the pause container {name} ended at once")))?;
        if spec.host_network {
            return state::sandbox(&found, None);
        }
        let ips = self.inner.network.attach(&attachment(&id, pid, spec)).await?;
        state::sandbox(&found, Some(ips))
    }

    /// What a pod in the node's network joins.
    fn node_network(&self) -> String {
        self.inner.config.holder.as_ref().map_or_else(|| "host".to_owned(), |holder| format!("container:{holder}"))
    }

    async fn make_volumes(&self, spec: &SandboxSpec) -> RuntimeResult<()> {
        let api = &self.engine().await?.api;
        for (name, size) in &spec.memory_volumes {
            let request = VolumeCreateRequest {
                name: Some(names::volume_name(&spec.pod, name)),
                driver: Some("local".to_owned()),
                driver_opts: Some(names::tmpfs_options(*size).into_iter().collect()),
                labels: Some(names::pod_labels(&self.inner.config.cluster, &self.inner.config.node, &spec.pod)),
                ..VolumeCreateRequest::default()
            };
            self.call(Op::Create, SHORT, api.create_volume(request)).await?;
        }
        Ok(())
    }

    async fn create_or_adopt_pause(
        &self,
        name: &str,
        body: bollard::models::ContainerCreateBody,
    ) -> RuntimeResult<String> {
        for _ in 0..2 {
            let api = &self.engine().await?.api;
            let options = CreateContainerOptionsBuilder::new().name(name).build();
            match self.call(Op::Create, START, api.create_container(Some(options), body.clone())).await {
                Ok(made) => return Ok(made.id),
                Err(RuntimeError::NotFound(message)) => return Err(RuntimeError::Create(message)),
                Err(error) if !is_name_conflict(&error) => return Err(error),
                Err(_) => {}
            }
            let Some(found) = self.inspect_if_there(name).await? else { continue };
            self.check_owner(&found, name)?;
            let id = found.id.clone().unwrap_or_default();
            if state::time(found.state.as_ref().and_then(|state| state.started_at.as_deref())).is_none()
                || state::is_running(&found)
            {
                return Ok(id);
            }
            // It has died: its network is worth nothing any more.
            self.inner.network.detach(&id, None).await?;
            self.remove(&id).await?;
        }
        Err(RuntimeError::Create(format!("another call is making and removing {name}")))
    }

    async fn start_pause(&self, id: &str) -> RuntimeResult<()> {
        let result = self.start_limited(id).await;
        if let Err(RuntimeError::Start { message, .. }) = &result {
            return Err(RuntimeError::Create(message.clone()));
        }
        result
    }

    /// Starts a container when its turn has come; one that runs is started.
    pub(super) async fn start_limited(&self, id: &str) -> RuntimeResult<()> {
        let api = &self.engine().await?.api;
        let turn = self.inner.starts.acquire().await;
        let _turn = turn.map_err(|_| RuntimeError::Unavailable("the agent is stopping".to_owned()))?;
        let result = self.call(Op::Start, START, api.start_container(id, None)).await;
        result.inspect_err(|error| self.learn_from(error))
    }

    pub(super) async fn inspect_if_there(&self, id: &str) -> RuntimeResult<Option<ContainerInspectResponse>> {
        match self.inspect(id).await {
            Ok(found) => Ok(Some(found)),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Refuses what another cluster or node, or no agent at all, has made under our name.
    pub(super) fn check_owner(&self, found: &ContainerInspectResponse, name: &str) -> RuntimeResult<()> {
        let ours = state::label_of(found, names::CLUSTER) == Some(&self.inner.config.cluster)
            && state::label_of(found, names::NODE) == Some(&self.inner.config.node);
        if ours { Ok(()) } else { Err(RuntimeError::Create(format!("the name {name} is taken by a stranger's container"))) }
    }

    pub(super) async fn end_sandbox(&self, id: &str) -> RuntimeResult<()> {
        let Some(found) = self.inspect_if_there(id).await? else {
            return self.inner.network.detach(id, None).await;
        };
        let id = found.id.clone().unwrap_or_default();
        self.inner.network.detach(&id, state::pid(&found)).await?;
        if !state::is_running(&found) {
            return Ok(());
        }
        self.kill_and_wait(&id).await
    }

    /// A pause has nothing to say at its end, so it is not asked first.
    async fn kill_and_wait(&self, id: &str) -> RuntimeResult<()> {
        let api = &self.engine().await?.api;
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        match self.call(Op::Other, SHORT, api.kill_container(id, Some(options))).await {
            Err(RuntimeError::Other(message)) if message.contains("is not running") => return Ok(()),
            Err(RuntimeError::NotFound(_)) => return Ok(()),
            other => other?,
        }
        let until = tokio::time::Instant::now() + SHORT;
        while tokio::time::Instant::now() < until {
            match self.inspect_if_there(id).await? {
                Some(found) if state::is_running(&found) => tokio::time::sleep(Duration::from_millis(10)).await,
                _ => return Ok(()),
            }
        }
        Err(RuntimeError::Timeout(SHORT))
    }

    pub(super) async fn forget_sandbox(&self, id: &str) -> RuntimeResult<()> {
        let Some(found) = self.inspect_if_there(id).await? else {
            return self.inner.network.detach(id, None).await;
        };
        let id = found.id.clone().unwrap_or_default();
        let uid = state::identity(&found)?.pod.uid;
        self.inner.network.detach(&id, state::pid(&found)).await?;
        for app in self.list_labelled(Some((names::SANDBOX, id.as_str()))).await? {
            self.remove(&app.id.unwrap_or_default()).await?;
        }
        self.remove(&id).await?;
        if self.list_labelled(Some((names::POD_UID, uid.as_str()))).await?.is_empty() {
            self.forget_pod(&uid, found.host_config.and_then(|host| host.cgroup_parent)).await?;
        }
        Ok(())
    }

    /// The last sandbox of a pod takes the pod's volumes and control group along.
    async fn forget_pod(&self, uid: &str, cgroup_parent: Option<String>) -> RuntimeResult<()> {
        let engine = self.engine().await?;
        let filter = names::label_filter([(names::CLUSTER, self.inner.config.cluster.as_str()), (names::POD_UID, uid)]);
        let options = ListVolumesOptionsBuilder::new().filters(&filter).build();
        let listed = self.call(Op::Other, SHORT, engine.api.list_volumes(Some(options))).await?;
        for volume in listed.volumes.unwrap_or_default() {
            match self.call(Op::Other, SHORT, engine.api.remove_volume(&volume.name, None::<RemoveVolumeOptions>)).await {
                Ok(()) | Err(RuntimeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(parent) = cgroup_parent {
            engine.cgroups.remove(&parent).await;
        }
        Ok(())
    }

    /// Containers of this node with these labels, running or not.
    pub(super) async fn list_labelled(
        &self,
        label: Option<(&str, &str)>,
    ) -> RuntimeResult<Vec<bollard::models::ContainerSummary>> {
        let api = &self.engine().await?.api;
        let ours =
            [(names::CLUSTER, self.inner.config.cluster.as_str()), (names::NODE, self.inner.config.node.as_str())];
        let filter = names::label_filter(ours.into_iter().chain(label));
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
        self.call(Op::Other, SHORT, api.list_containers(Some(options))).await
    }

    pub(super) async fn find_sandboxes(&self) -> RuntimeResult<Vec<SandboxStatus>> {
        if self.inner.network.is_started() {
            self.inner.recovered.get_or_try_init(|| self.recover()).await?;
        }
        let mut sandboxes = Vec::new();
        for found in self.inspect_pauses().await? {
            let ips = self.inner.network.addresses(found.id.as_deref().unwrap_or_default());
            sandboxes.push(state::sandbox(&found, ips)?);
        }
        Ok(sandboxes)
    }

    async fn inspect_pauses(&self) -> RuntimeResult<Vec<ContainerInspectResponse>> {
        let mut pauses = Vec::new();
        for summary in self.list_labelled(Some((names::CONTAINER, names::PAUSE))).await? {
            if let Some(found) = self.inspect_if_there(&summary.id.unwrap_or_default()).await? {
                pauses.push(found);
            }
        }
        Ok(pauses)
    }

    /// Puts the pods' networks right once, when the agent has come (back): what was lost with a network namespace is
    /// made again with the same addresses; addresses of sandboxes that are gone are given back.
    async fn recover(&self) -> RuntimeResult<()> {
        let pauses = self.inspect_pauses().await?;
        let mut alive = BTreeSet::new();
        for found in &pauses {
            let id = found.id.clone().unwrap_or_default();
            alive.insert(id.clone());
            let Some(pid) = state::pid(found).filter(|_| !state::is_labelled(found, names::HOST_NETWORK)) else {
                continue;
            };
            if let Err(error) = self.inner.network.repair(&id, pid).await {
                // The pod alone is broken; it reads as not ready and is made anew.
                tracing::warn!(sandbox = id, %error, "the pod's network could not be put right");
            }
        }
        self.inner.network.forget_all_but(&alive).await;
        Ok(())
    }
}

fn attachment(id: &str, pid: i32, spec: &SandboxSpec) -> Attachment {
    Attachment { id: id.to_owned(), pod: spec.pod.clone(), pid, host_ports: spec.host_ports.clone() }
}

/// The engine's 409 for a name in use.
pub(super) fn is_name_conflict(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Create(message) if message.starts_with("Conflict.") && message.contains("already in use"))
}
