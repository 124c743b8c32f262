//! What the pod life cycle asks of a container engine, and nothing more.
//!
//! Two implementations: Docker (`docker/`) and a fake (`fake.rs`) that keeps containers in memory for tests and hollow
//! nodes. Everything here is mechanism: no restart policy, no back-off, no Kubernetes object is known below this seam.

pub mod docker;
pub mod fake;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::mpsc;

/// Whose sandbox or container it is; kept as labels on the engine's objects, so that an agent that comes back knows
/// its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
}

/// The pod's network, IPC and UTS namespaces, held by a pause container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Whose.
    pub pod: PodRef,
    /// Counts sandboxes of one pod, from 0.
    pub attempt: u32,
    /// `hostname` in the pod.
    pub hostname: String,
    /// Whether the pod uses the node's network instead of its own.
    pub host_network: bool,
    /// Whether all containers share one PID namespace.
    pub share_processes: bool,
    /// `net.ipv4.…` and the like.
    pub sysctls: BTreeMap<String, String>,
    /// Memory-backed emptyDirs, which live as long as the sandbox: name → size limit in bytes.
    pub memory_volumes: BTreeMap<String, Option<u64>>,
    /// Limits of the pod's cgroup.
    pub resources: PodResources,
    /// hostPort forwards.
    pub host_ports: Vec<HostPort>,
}

/// A port of the node that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Where the node listens; `None` for every address.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// `TCP` or `UDP`
    pub protocol: String,
}

/// Limits of the pod as a whole; 0 or `None`: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodResources {
    /// cgroup CPU shares (v1 scale, 2 to 262144).
    pub cpu_shares: u64,
    /// Bytes; only where every container has a limit.
    pub memory_limit: Option<u64>,
    /// Thousandths of a CPU; only where every container has a limit.
    pub cpu_limit_milli: Option<u64>,
}

/// A sandbox as the engine has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxStatus {
    /// The engine's identifier.
    pub id: String,
    /// Whose.
    pub pod: PodRef,
    /// Counts sandboxes of one pod, from 0.
    pub attempt: u32,
    /// Its namespaces exist and its network is set up.
    pub ready: bool,
    /// Pod addresses, the first one is primary; empty on the host network.
    pub ips: Vec<IpAddr>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A directory or file that exists on the engine's host.
    Host(PathBuf),
    /// A memory volume of the sandbox, by name.
    Memory(String),
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where from.
    pub source: MountSource,
    /// Where to, absolute.
    pub target: String,
    /// Whether the container may not write.
    pub read_only: bool,
}

/// Linux security settings of a container; `None` leaves the image's or engine's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// `UID` or `UID:GID` or an image's user name.
    pub user: Option<String>,
    /// Supplementary groups.
    pub groups: Vec<i64>,
    /// Capabilities added, without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// Capabilities dropped; `ALL` for all.
    pub drop_capabilities: Vec<String>,
    /// All that the machine can give.
    pub privileged: bool,
    /// Root file system not writable.
    pub read_only_root: bool,
    /// `no_new_privs`
    pub no_new_privileges: bool,
    /// `None`: engine's default; `Some("unconfined")`; `Some(JSON)`.
    pub seccomp: Option<String>,
}

/// A container, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Whose.
    pub pod: PodRef,
    /// Container name in the pod.
    pub name: String,
    /// Restart count of this instance, from 0.
    pub attempt: u32,
    /// Fingerprint of the container's spec: a change means the container must be replaced.
    pub spec_hash: String,
    /// The image as the engine knows it.
    pub image: String,
    /// ENTRYPOINT; empty leaves the image's.
    pub command: Vec<String>,
    /// CMD; empty leaves the image's (unless `command` is given).
    pub args: Vec<String>,
    /// `NAME=VALUE` in order.
    pub env: Vec<(String, String)>,
    /// Working directory; empty leaves the image's.
    pub working_dir: String,
    /// All mounts, /etc/hosts, /etc/resolv.conf and the termination log among them.
    pub mounts: Vec<Mount>,
    /// `securityContext`
    pub security: Security,
    /// cgroup CPU shares (v1 scale, 2 to 262144).
    pub cpu_shares: u64,
    /// Thousandths of a CPU.
    pub cpu_limit_milli: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// −998 to 1000; clamped to what the machine allows.
    pub oom_score_adj: i64,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
    /// With a terminal.
    pub tty: bool,
    /// `STOPSIGNAL`; `None` leaves the image's.
    pub stop_signal: Option<String>,
}

/// A container's state in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// From when.
        started_at: Timestamp,
        /// Until when.
        finished_at: Timestamp,
        /// Its exit code; 128+N after signal N.
        exit_code: i32,
        /// Whether the kernel killed it for memory.
        oom_killed: bool,
        /// The engine's words where it could not be started; else empty.
        error: String,
    },
}

/// A container as the engine has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// The engine's identifier.
    pub id: String,
    /// Whose.
    pub pod: PodRef,
    /// Container name in the pod.
    pub name: String,
    /// Restart count of this instance.
    pub attempt: u32,
    /// Fingerprint it was made from.
    pub spec_hash: String,
    /// Image as it was asked for.
    pub image: String,
    /// Image digest reference or identifier.
    pub image_id: String,
    /// Now.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An image in the node's cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The engine's identifier, `sha256:…`.
    pub id: String,
    /// `repo@sha256:…`, or the identifier where the image came from no registry.
    pub digest: String,
    /// Names.
    pub tags: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// `USER` of the image; empty for root.
    pub user: String,
}

/// Credentials for a registry. `Debug` never shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAuth {
    /// `docker.io`, `127.0.0.1:5000`
    pub server: String,
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("server", &self.server).field("username", &self.username).finish_non_exhaustive()
    }
}

/// Something happened that makes the pod worth a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// Whose container or sandbox.
    pub pod_uid: String,
    /// The engine's identifier of it.
    pub container_id: String,
    /// `start`, `die`, `oom`, …
    pub what: String,
}

/// Which output of a container's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Stay and deliver what comes.
    pub follow: bool,
    /// Prefix every line with its time, RFC 3339 with nanoseconds.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only from then on.
    pub since: Option<Timestamp>,
    /// Standard output wanted.
    pub stdout: bool,
    /// Standard error wanted.
    pub stderr: bool,
}

/// One piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From standard output (or the terminal).
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// What goes into a process that is executed or attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for standard input.
    Data(Bytes),
    /// End of standard input.
    Eof,
    /// The terminal's new size: columns, rows.
    Resize(u16, u16),
}

/// A running exec or attach.
#[derive(Debug)]
pub struct Session {
    /// To the process. Bounded.
    pub input: mpsc::Sender<Input>,
    /// From the process; closed when it ends.
    pub output: mpsc::Receiver<Output>,
    /// Exit code, once the output is closed; an attach has none.
    pub exit: tokio::sync::oneshot::Receiver<Result<i32, RuntimeError>>,
}

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Exit code.
    pub exit_code: i32,
    /// Both outputs, at most 16 KiB.
    pub output: String,
}

/// Use of resources, now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of CPU since the start.
    pub cpu_nanos: u64,
    /// Working set, bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Why the engine did not do it.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum RuntimeError {
    /// The engine cannot be reached or did not answer in time: try again later.
    #[error("container engine unavailable: {0}")]
    Unavailable(String),
    /// No such container, sandbox or image.
    #[error("{0}")]
    NotFound(String),
    /// The image's name is not one.
    #[error("couldn't parse image name {0}")]
    InvalidImageName(String),
    /// The registry refused or failed.
    #[error("{0}")]
    Pull(String),
    /// The container could not be made.
    #[error("{0}")]
    Create(String),
    /// The container could not be started. The exit code is 127 (no such program), 126 (not executable) or 128.
    #[error("{message}")]
    Start {
        /// The engine's words.
        message: String,
        /// As a shell would have it.
        exit_code: i32,
    },
    /// Pod network could not be set up or taken down.
    #[error("{0}")]
    Network(String),
    /// It took longer than it may.
    #[error("timed out after {0:?}")]
    Timeout(Duration),
    /// Anything else the engine said.
    #[error("{0}")]
    Other(String),
}

/// The result of a call to the engine.
pub type RuntimeResult<T> = Result<T, RuntimeError>;

/// A container engine with the network and cgroup plumbing of one node. Every call has a time-out of its own and may
/// be repeated: making what exists and removing what does not are successes.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version as in `containerRuntimeVersion`: `docker://20.10.24`.
    async fn version(&self) -> RuntimeResult<String>;

    /// Makes cgroup, pause container and pod network.
    async fn create_sandbox(&self, spec: &SandboxSpec) -> RuntimeResult<SandboxStatus>;
    /// Stops the pause container and takes the network down; leaves the record.
    async fn stop_sandbox(&self, id: &str) -> RuntimeResult<()>;
    /// Removes the record, the memory volumes and the pod's cgroup.
    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()>;

    /// Changes limits of the pod as a whole. What is `None` or 0 stays as it is.
    async fn update_sandbox(&self, id: &str, pod: &PodRef, resources: &PodResources) -> RuntimeResult<()>;

    /// Makes a container in a sandbox; returns its identifier.
    async fn create_container(&self, sandbox_id: &str, spec: &ContainerSpec) -> RuntimeResult<String>;
    /// Starts it.
    async fn start_container(&self, id: &str) -> RuntimeResult<()>;
    /// Sends the stop signal, waits `grace`, then kills. Returns once it is dead.
    async fn stop_container(&self, id: &str, grace: Duration) -> RuntimeResult<()>;
    /// Removes a dead container and its log.
    async fn remove_container(&self, id: &str) -> RuntimeResult<()>;
    /// Changes limits of a running container.
    async fn update_container(
        &self,
        id: &str,
        cpu_shares: u64,
        cpu_limit_milli: Option<u64>,
        memory_limit: Option<u64>,
    ) -> RuntimeResult<()>;

    /// Every sandbox of this node.
    async fn list_sandboxes(&self) -> RuntimeResult<Vec<SandboxStatus>>;
    /// Every container of this node, pauses excepted.
    async fn list_containers(&self) -> RuntimeResult<Vec<ContainerStatus>>;
    /// One container.
    async fn inspect_container(&self, id: &str) -> RuntimeResult<ContainerStatus>;
    /// Events from now on. The channel is bounded; when it closes, list everything anew and ask again.
    async fn events(&self) -> RuntimeResult<mpsc::Receiver<RuntimeEvent>>;

    /// The image, where it is in the cache of this node.
    async fn image(&self, name: &str) -> RuntimeResult<Option<ImageInfo>>;
    /// Fetches an image. `progress` gets one line for a person now and then.
    async fn pull_image(
        &self,
        name: &str,
        auth: Option<&RegistryAuth>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> RuntimeResult<ImageInfo>;
    /// Every image.
    async fn list_images(&self) -> RuntimeResult<Vec<ImageInfo>>;

    /// Runs a command in a container and waits for it; kills it when the time is over.
    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult>;
    /// Runs a command in a container with streams.
    async fn exec_session(
        &self,
        id: &str,
        command: &[String],
        stdin: bool,
        tty: bool,
    ) -> RuntimeResult<Session>;
    /// Attaches to a container's own process.
    async fn attach(&self, id: &str, stdin: bool, tty: bool) -> RuntimeResult<Session>;
    /// A container's log. The channel is bounded and closes at the end.
    async fn logs(&self, id: &str, options: &LogOptions) -> RuntimeResult<mpsc::Receiver<RuntimeResult<Output>>>;
    /// A TCP connection to a port inside the sandbox's network namespace (127.0.0.1 there).
    async fn connect(&self, sandbox_id: &str, port: u16) -> RuntimeResult<tokio::net::TcpStream>;
    /// Resource use of a container.
    async fn usage(&self, id: &str) -> RuntimeResult<Usage>;
}
