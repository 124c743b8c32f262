//! The Docker Engine as a node's runtime.
//!
//! A pod is one *pause* container that holds the network and IPC namespaces (and the process namespace where it is
//! shared), and one container per app that joins them. The engine knows no network for the pause: the pod's network
//! is made by CNI plugins in the node's own network namespace ([`crate::network`]).
//!
//! ```text
//! create_sandbox   cgroup dirs → memory volumes → pause create → start → CNI ADD → record in state_dir
//! create_container app create (joins the pause by id, same cgroup parent)
//! start_container  app start; at most `start_limit` starts at a time
//! ```
//!
//! **Nothing is kept only in memory.** Labels say whose an engine object is ([`names`]), the engine says in which
//! state it is, and a small file per sandbox says which address it has ([`crate::network::records`]). So an agent that
//! was killed lists by its cluster and node labels and has everything back. What is in memory are caches that may be
//! dropped at any time: inspected states of containers (they change only together with the listed state), image
//! digests, and the verdicts of out-of-memory events. Only the last is lost by a restart; then the engine's own
//! flag counts, which is wrong for a bystander that was killed otherwise.
//!
//! **Repeating is safe.** Names are made from the pod's uid and the attempt, so making twice meets the first one (409):
//! it is adopted when its labels agree and it is still of use, else removed. A container that has run is never started
//! again: one restart count is one start.
//!
//! **Out of memory.** Version 1 control groups report to every container below the limited group. At the `oom` event
//! the container's own counter is read: not zero means it was hit. An exit with 137 soon after is an OOM kill.
//!
//! **What the machine lacks.** Without CAP_SYS_RESOURCE (nested machines) `privileged` and negative OOM scores fail to
//! start. The bounding set of process 1 says so beforehand; if a start fails with runc's words for it all the same,
//! it is remembered and the next attempt is made without. Said once in the log.
//!
//! **Every call has a deadline**, and an engine that does not answer is [`RuntimeError::Unavailable`], never an answer
//! about the container. The API version is the newest that both sides know.
//!
//! Processes that an exec left behind after its time are killed by their host process id, so the agent needs the
//! host's process namespace (`pid: host`); the id is used only after its control group was seen to be the container's.
//!
//! # Limits
//! No device of the host is given to privileged containers on machines without CAP_SYS_RESOURCE. The image store is
//! the engine's, shared by all nodes on it. Memory limits are raised to the engine's least, 6 MiB.

pub mod body;
pub mod cgroup;
mod container;
#[cfg(test)]
mod engine_tests;
pub mod error;
mod events;
mod exec;
pub mod frames;
mod guard;
mod image;
mod logs;
pub mod names;
mod sandbox;
pub mod state;
pub mod wire;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bollard::ClientVersion;
use bollard::errors::Error as EngineError;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore, mpsc};

use super::{
    ContainerSpec, ContainerStatus, ExecResult, ImageInfo, LogOptions, Output, PodRef, PodResources, RegistryAuth,
    Runtime, RuntimeError, RuntimeEvent, RuntimeResult, SandboxSpec, SandboxStatus, Session, Usage,
};
use crate::network::Network;
use body::{Machine, Owner};
use error::Op;
pub use guard::NodeNetworkLost;
pub use image::{check_reference, split_reference};

/// Deadline of a call that only asks or removes.
const SHORT: Duration = Duration::from_secs(20);
/// Deadline of a start: a busy machine takes seconds for what takes 0.1 s on an idle one.
const START: Duration = Duration::from_secs(120);
/// What the client library itself allows; every call has a shorter deadline of its own.
const LIBRARY_TIMEOUT_SECONDS: u64 = 24 * 3600;
/// The newest API that the bodies here were written for.
const NEWEST_API: ClientVersion = ClientVersion { major_version: 1, minor_version: 53 };
/// CAP_SYS_RESOURCE's bit in a capability set.
const SYS_RESOURCE_BIT: u64 = 1 << 24;

/// What the Docker runtime of one node needs to know.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The engine's socket.
    pub socket: PathBuf,
    /// Name of the cluster; a label on everything made.
    pub cluster: String,
    /// Name of the node; a label on everything made.
    pub node: String,
    /// Container that owns the node's network namespace; `None`: the host's network is the node's.
    pub holder: Option<String>,
    /// Where control groups are mounted.
    pub cgroup_root: PathBuf,
    /// Image of the pause container.
    pub pause_image: String,
    /// How many starts run at a time.
    pub start_limit: usize,
}

impl DockerConfig {
    /// Defaults: the usual socket and mounts, `balsa/pause:1`, four starts at a time, no holder.
    pub fn new(cluster: impl Into<String>, node: impl Into<String>) -> Self {
        Self {
            socket: PathBuf::from("/var/run/docker.sock"),
            cluster: cluster.into(),
            node: node.into(),
            holder: None,
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            pause_image: "balsa/pause:1".to_owned(),
            start_limit: 4,
        }
    }
}

/// The Docker Engine, for one node. Cheap to clone.
#[derive(Clone)]
pub struct Docker {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Docker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Docker").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

struct Inner {
    config: DockerConfig,
    network: Arc<Network>,
    wire: wire::Wire,
    engine: OnceCell<Engine>,
    starts: Semaphore,
    sys_resource: AtomicBool,
    recovered: OnceCell<()>,
    verdicts: Mutex<BTreeMap<String, state::OomVerdict>>,
    seen: Mutex<BTreeMap<String, container::Seen>>,
    digests: Mutex<BTreeMap<String, String>>,
}

/// What was learnt when the engine first answered.
struct Engine {
    api: bollard::Docker,
    version: String,
    prefix: String,
    cgroups: cgroup::Layout,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionAnswer {
    version: String,
    api_version: String,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InfoAnswer {
    #[serde(default)]
    cgroup_driver: String,
}

impl Docker {
    /// Does not talk to the engine yet: it may come up later than the agent.
    pub fn new(config: DockerConfig, network: Arc<Network>) -> Self {
        let wire = wire::Wire::new(&config.socket, SHORT);
        let inner = Inner {
            wire,
            network,
            engine: OnceCell::new(),
            starts: Semaphore::new(config.start_limit.max(1)),
            sys_resource: AtomicBool::new(machine_has_sys_resource()),
            recovered: OnceCell::new(),
            verdicts: Mutex::default(),
            seen: Mutex::default(),
            digests: Mutex::default(),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The pods' network of this node.
    pub fn network(&self) -> &Arc<Network> {
        &self.inner.network
    }

    async fn engine(&self) -> RuntimeResult<&Engine> {
        self.inner.engine.get_or_try_init(|| self.meet()).await
    }

    async fn meet(&self) -> RuntimeResult<Engine> {
        let answer: VersionAnswer = self.inner.wire.get_json("/version").await?;
        let info: InfoAnswer = self.inner.wire.get_json("/info").await?;
        let version = agreed_version(&answer.api_version);
        let prefix = format!("/v{version}");
        let socket = self.inner.config.socket.to_string_lossy();
        let api = bollard::Docker::connect_with_unix(&socket, LIBRARY_TIMEOUT_SECONDS, &version)
            .map_err(|error| error::from_engine(Op::Other, error))?;
        let cgroups = cgroup::Layout::detect(&self.inner.config.cgroup_root, &info.cgroup_driver);
        tracing::info!(engine = answer.version, api = prefix, ?cgroups, "container engine found");
        Ok(Engine { api, version: answer.version, prefix, cgroups })
    }

    /// Calls the engine with a deadline.
    async fn call<T, F>(&self, op: Op, deadline: Duration, call: F) -> RuntimeResult<T>
    where
        F: Future<Output = Result<T, EngineError>> + Send,
    {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error::from_engine(op, error)),
            Err(_) => Err(RuntimeError::Unavailable(format!("the engine did not answer in {deadline:?}"))),
        }
    }

    fn owner(&self) -> Owner<'_> {
        Owner { cluster: &self.inner.config.cluster, node: &self.inner.config.node }
    }

    fn machine(&self) -> Machine {
        Machine { sys_resource: self.inner.sys_resource.load(Ordering::Relaxed) }
    }

    /// Remembers that a start failed for want of the capability.
    fn learn_from(&self, error: &RuntimeError) {
        if let RuntimeError::Start { message, .. } = error
            && error::wants_sys_resource(message)
            && self.inner.sys_resource.swap(false, Ordering::Relaxed)
        {
            tracing::warn!(%message, "no CAP_SYS_RESOURCE here: privileged containers and OOM scores get less");
        }
    }

    async fn inspect(&self, id: &str) -> RuntimeResult<bollard::models::ContainerInspectResponse> {
        let api = &self.engine().await?.api;
        self.call(Op::Other, SHORT, api.inspect_container(id, None)).await
    }

    /// Removes a container by force; one that is not there is removed.
    async fn remove(&self, id: &str) -> RuntimeResult<()> {
        let api = &self.engine().await?.api;
        let options = bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.call(Op::Other, SHORT * 3, api.remove_container(id, Some(options))).await {
            Err(RuntimeError::NotFound(_)) => Ok(()),
            // Somebody else is at it.
            Err(RuntimeError::Other(message)) if message.contains("already in progress") => Ok(()),
            other => other,
        }
    }
}

/// The newest version that both know. An engine that says nonsense gets ours, and will say so.
fn agreed_version(engines: &str) -> ClientVersion {
    let numbers = engines.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match numbers {
        Some((major_version, minor_version)) if (major_version, minor_version) < (1, NEWEST_API.minor_version) => {
            ClientVersion { major_version, minor_version }
        }
        _ => NEWEST_API,
    }
}

/// Whether process 1 of the machine could have CAP_SYS_RESOURCE. Without the host's process namespace it is our own
/// process 1, whose answer errs to the safe side.
fn machine_has_sys_resource() -> bool {
    std::fs::read_to_string("/proc/1/status").is_ok_and(|status| bounding_set_has(&status, SYS_RESOURCE_BIT))
}

fn bounding_set_has(status: &str, bit: u64) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    set.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set & bit != 0)
}

#[async_trait]
impl Runtime for Docker {
    async fn version(&self) -> RuntimeResult<String> {
        Ok(format!("docker://{}", self.engine().await?.version))
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> RuntimeResult<SandboxStatus> {
        self.make_sandbox(spec).await
    }

    async fn stop_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.end_sandbox(id).await
    }

    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.forget_sandbox(id).await
    }

    async fn create_container(&self, sandbox_id: &str, spec: &ContainerSpec) -> RuntimeResult<String> {
        self.make_container(sandbox_id, spec).await
    }

    async fn start_container(&self, id: &str) -> RuntimeResult<()> {
        self.start_app(id).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> RuntimeResult<()> {
        self.stop_app(id, grace).await
    }

    async fn remove_container(&self, id: &str) -> RuntimeResult<()> {
        self.remove(id).await
    }

    async fn update_sandbox(&self, _: &str, pod: &PodRef, resources: &PodResources) -> RuntimeResult<()> {
        let cgroups = &self.engine().await?.cgroups;
        let parent = cgroups.parent(&self.inner.config.cluster, &self.inner.config.node, &pod.uid);
        cgroups.make(&parent, resources).map_err(|error| RuntimeError::Other(format!("the pod's control group {parent}: {error}")))
    }

    async fn update_container(
        &self,
        id: &str,
        cpu_shares: u64,
        cpu_limit_milli: Option<u64>,
        memory_limit: Option<u64>,
    ) -> RuntimeResult<()> {
        let api = &self.engine().await?.api;
        let body = body::update(cpu_shares, cpu_limit_milli, memory_limit);
        self.call(Op::Other, SHORT, api.update_container(id, body)).await.map(|_| ())
    }

    async fn list_sandboxes(&self) -> RuntimeResult<Vec<SandboxStatus>> {
        self.find_sandboxes().await
    }

    async fn list_containers(&self) -> RuntimeResult<Vec<ContainerStatus>> {
        self.find_containers().await
    }

    async fn inspect_container(&self, id: &str) -> RuntimeResult<ContainerStatus> {
        self.container_status(id).await
    }

    async fn events(&self) -> RuntimeResult<mpsc::Receiver<RuntimeEvent>> {
        self.watch_events().await
    }

    async fn image(&self, name: &str) -> RuntimeResult<Option<ImageInfo>> {
        self.find_image(name).await
    }

    async fn pull_image(
        &self,
        name: &str,
        auth: Option<&RegistryAuth>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> RuntimeResult<ImageInfo> {
        self.pull(name, auth, progress).await
    }

    async fn list_images(&self) -> RuntimeResult<Vec<ImageInfo>> {
        self.find_images().await
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult> {
        self.exec_and_wait(id, command, timeout).await
    }

    async fn exec_session(&self, id: &str, command: &[String], stdin: bool, tty: bool) -> RuntimeResult<Session> {
        self.exec_with_streams(id, command, stdin, tty).await
    }

    async fn attach(&self, id: &str, stdin: bool, tty: bool) -> RuntimeResult<Session> {
        self.attach_to(id, stdin, tty).await
    }

    async fn logs(&self, id: &str, options: &LogOptions) -> RuntimeResult<mpsc::Receiver<RuntimeResult<Output>>> {
        self.read_logs(id, options).await
    }

    async fn connect(&self, sandbox_id: &str, port: u16) -> RuntimeResult<tokio::net::TcpStream> {
        let found = self.inspect(sandbox_id).await?;
        let pid = state::pid(&found)
            .ok_or_else(|| RuntimeError::NotFound(format!("sandbox {sandbox_id} is not running")))?;
        crate::network::netns::connect(pid, port, SHORT).await
    }

    async fn usage(&self, id: &str) -> RuntimeResult<Usage> {
        let found = self.inspect(id).await?;
        let parent = found.host_config.and_then(|host| host.cgroup_parent).unwrap_or_default();
        let id = found.id.unwrap_or_default();
        let engine = self.engine().await?;
        engine.cgroups.usage(&parent, &id).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => RuntimeError::NotFound(format!("container {id} has no control group")),
            _ => RuntimeError::Other(format!("control group of container {id}: {error}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_version_is_the_older_of_both() {
        for (engines, agreed) in [("1.41", "1.41"), ("1.53", "1.53"), ("1.99", "1.53"), ("2.0", "1.53"), ("", "1.53")] {
            assert_eq!(agreed_version(engines).to_string(), agreed, "{engines}");
        }
    }

    #[test]
    fn the_bounding_set_is_read() {
        assert!(bounding_set_has("Name:\tx\nCapBnd:\t000001ffffffffff\n", SYS_RESOURCE_BIT));
        assert!(!bounding_set_has("CapBnd:\t000001fffeffffff\n", SYS_RESOURCE_BIT));
        assert!(!bounding_set_has("", SYS_RESOURCE_BIT));
    }
}
