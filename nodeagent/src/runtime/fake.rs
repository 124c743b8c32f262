//! A container engine that is not one: containers are entries in memory that follow a script ([`script`]).
//!
//! For tests, simulations and hollow nodes by the thousand. Time is tokio's clock, so under a paused clock every run is
//! the same; identifiers and addresses are counted. Nothing waits but what the script says, and a container that runs
//! for ever costs no task.
//!
//! Tests steer it: [`FakeRuntime::fail_next`], [`FakeRuntime::crash`], [`FakeRuntime::kill_sandbox`],
//! [`FakeRuntime::cut_events`]; and see what was asked in [`FakeRuntime::calls`].

pub mod script;
mod streams;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{
    ContainerSpec, ContainerState, ContainerStatus, ExecResult, ImageInfo, LogOptions, Output, PodRef, PodResources,
    RegistryAuth, Runtime, RuntimeError, RuntimeEvent, RuntimeResult, SandboxSpec, SandboxStatus, Session, Usage,
};
use script::Script;

/// Events that may wait for a reader.
const QUEUE: usize = 4096;
/// Lines of log that a container keeps.
const MAX_LINES: usize = 100;
/// Calls that are remembered.
const MAX_CALLS: usize = 10_000;

/// How the fake behaves.
#[derive(Debug, Clone)]
pub struct FakeConfig {
    /// First address for pods; the next ones follow.
    pub first_ip: Ipv4Addr,
    /// What the clock says at the beginning; `None`: the real time.
    pub epoch: Option<Timestamp>,
    /// What making a sandbox takes.
    pub sandbox_takes: Duration,
    /// What starting a container takes.
    pub start_takes: Duration,
    /// What pulling an image takes; `fake/slow…` takes a hundred times as long.
    pub pull_takes: Duration,
    /// Whether every image is there without a pull.
    pub has_every_image: bool,
    /// Whether [`FakeRuntime::calls`] is kept.
    pub record_calls: bool,
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self {
            first_ip: Ipv4Addr::new(10, 244, 0, 2),
            epoch: None,
            sandbox_takes: Duration::from_millis(5),
            start_takes: Duration::from_millis(5),
            pull_takes: Duration::from_millis(10),
            has_every_image: false,
            record_calls: false,
        }
    }
}

/// The fake engine. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct FakeRuntime {
    config: FakeConfig,
    epoch: Timestamp,
    started: Instant,
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
struct World {
    made: u64,
    addresses: u32,
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    images: BTreeMap<String, ImageInfo>,
    listeners: Vec<mpsc::Sender<RuntimeEvent>>,
    failures: BTreeMap<String, Vec<RuntimeError>>,
    calls: Vec<String>,
}

#[derive(Debug)]
struct Sandbox {
    spec: SandboxSpec,
    status: SandboxStatus,
}

#[derive(Debug)]
struct Container {
    spec: ContainerSpec,
    sandbox: String,
    script: Script,
    status: ContainerStatus,
    lines: Vec<(Timestamp, String)>,
}

impl FakeRuntime {
    /// An engine with nothing in it. Must be called inside a tokio runtime when its clock is paused.
    pub fn new(config: FakeConfig) -> Self {
        let epoch = config.epoch.unwrap_or_else(Timestamp::now);
        Self { config, epoch, started: Instant::now(), world: Arc::default() }
    }

    /// The next such call fails; several stand in line. `call` is the trait's method: `start_container`.
    pub fn fail_next(&self, call: &str, error: RuntimeError) {
        self.world.lock().failures.entry(call.to_owned()).or_default().push(error);
    }

    /// What was asked, in order: `start_container web/nginx`. At most 10 000.
    pub fn calls(&self) -> Vec<String> {
        self.world.lock().calls.clone()
    }

    /// Puts an image into the cache.
    pub fn add_image(&self, name: &str) {
        self.world.lock().images.insert(name.to_owned(), image_info(name));
    }

    /// Ends a container from outside.
    pub fn crash(&self, id: &str, exit_code: i32) {
        self.finish(id, exit_code, false);
    }

    /// Ends a sandbox's pause from outside: its containers run on.
    pub fn kill_sandbox(&self, id: &str) {
        let mut world = self.world.lock();
        let Some(sandbox) = world.sandboxes.get_mut(id) else { return };
        sandbox.status.ready = false;
        let uid = sandbox.spec.pod.uid.clone();
        world.tell(&uid, id, "die");
    }

    /// A container's limits now: CPU shares, CPU in thousandths, memory in bytes.
    pub fn limits(&self, id: &str) -> Option<(u64, Option<u64>, Option<u64>)> {
        let world = self.world.lock();
        world.containers.get(id).map(|found| (found.spec.cpu_shares, found.spec.cpu_limit_milli, found.spec.memory_limit))
    }

    /// Limits of the pods' groups, by sandbox.
    pub fn pod_limits(&self) -> Vec<PodResources> {
        self.world.lock().sandboxes.values().map(|sandbox| sandbox.spec.resources.clone()).collect()
    }

    /// Closes every event channel, as an engine that restarts does.
    pub fn cut_events(&self) {
        self.world.lock().listeners.clear();
    }

    fn now(&self) -> Timestamp {
        let since = SignedDuration::try_from(self.started.elapsed()).unwrap_or_default();
        self.epoch.checked_add(since).unwrap_or(self.epoch)
    }

    /// Remembers the call, or fails as a test wants.
    fn begin(&self, call: &str, what: impl FnOnce() -> String) -> RuntimeResult<()> {
        // Before the lock is taken: finding the words takes it too.
        let line = self.config.record_calls.then(|| format!("{call} {}", what()).trim().to_owned());
        let mut world = self.world.lock();
        if world.calls.len() < MAX_CALLS {
            world.calls.extend(line);
        }
        match world.failures.get_mut(call) {
            Some(errors) if !errors.is_empty() => Err(errors.remove(0)),
            _ => Ok(()),
        }
    }

    fn label(&self, id: &str) -> String {
        let world = self.world.lock();
        match world.containers.get(id) {
            Some(container) => format!("{}/{}", container.spec.pod.name, container.spec.name),
            None => world.sandboxes.get(id).map_or_else(|| id.to_owned(), |sandbox| sandbox.spec.pod.name.clone()),
        }
    }

    /// Ends a running container; one that has ended stays as it is.
    fn finish(&self, id: &str, exit_code: i32, oom_killed: bool) {
        let finished_at = self.now();
        let mut world = self.world.lock();
        let Some(container) = world.containers.get_mut(id) else { return };
        let ContainerState::Running { started_at } = container.status.state else { return };
        let error = String::new();
        container.status.state = ContainerState::Exited { started_at, finished_at, exit_code, oom_killed, error };
        let uid = container.spec.pod.uid.clone();
        if oom_killed {
            world.tell(&uid, id, "oom");
        }
        world.tell(&uid, id, "die");
    }

    fn run(&self, id: &str) -> RuntimeResult<()> {
        let now = self.now();
        let mut world = self.world.lock();
        let container = world.containers.get_mut(id).ok_or_else(|| no_such(id))?;
        if container.status.state != ContainerState::Created {
            return Ok(());
        }
        if let Some(message) = container.script.start_error.clone() {
            container.status.state = ContainerState::Exited {
                started_at: now,
                finished_at: now,
                exit_code: 127,
                oom_killed: false,
                error: message.clone(),
            };
            return Err(RuntimeError::Start { message, exit_code: 127 });
        }
        container.status.state = ContainerState::Running { started_at: now };
        let lines = container.script.output.iter().take(MAX_LINES);
        container.lines = lines.map(|line| (now, line.clone())).collect();
        let (script, uid) = (container.script.clone(), container.spec.pod.uid.clone());
        world.tell(&uid, id, "start");
        if let Some(runs) = script.runs {
            let (fake, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(runs).await;
                fake.finish(&id, script.exit_code, script.oom_killed);
            });
        }
        Ok(())
    }
}

impl World {
    fn next_id(&mut self) -> String {
        self.made += 1;
        format!("{:064x}", self.made)
    }

    fn tell(&mut self, pod_uid: &str, container_id: &str, what: &str) {
        let event = RuntimeEvent {
            pod_uid: pod_uid.to_owned(),
            container_id: container_id.to_owned(),
            what: what.to_owned(),
        };
        // A listener that is gone or too slow is cut off; it lists anew.
        self.listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
    }

    fn next_ip(&mut self, first: Ipv4Addr) -> IpAddr {
        let ip = u32::from(first).wrapping_add(self.addresses);
        self.addresses = (self.addresses + 1) % 0xffff;
        IpAddr::V4(Ipv4Addr::from(ip))
    }
}

fn no_such(id: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("No such container: {id}"))
}

fn image_info(name: &str) -> ImageInfo {
    // A digest that is the same for the same name, and looks like one.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let id = format!("sha256:{}", format!("{hash:016x}").repeat(4));
    let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    ImageInfo { digest: format!("{repository}@{id}"), id, tags: vec![name.to_owned()], size: 1 << 20, user: String::new() }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> RuntimeResult<String> {
        self.begin("version", String::new)?;
        Ok("fake://1.0.0".to_owned())
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> RuntimeResult<SandboxStatus> {
        self.begin("create_sandbox", || spec.pod.name.clone())?;
        tokio::time::sleep(self.config.sandbox_takes).await;
        let created_at = self.now();
        let mut world = self.world.lock();
        let same = |sandbox: &&Sandbox| sandbox.spec.pod.uid == spec.pod.uid && sandbox.spec.attempt == spec.attempt;
        if let Some(sandbox) = world.sandboxes.values().find(same)
            && sandbox.status.ready
        {
            return Ok(sandbox.status.clone());
        }
        let id = world.next_id();
        let ips = if spec.host_network { vec![] } else { vec![world.next_ip(self.config.first_ip)] };
        let status =
            SandboxStatus { id: id.clone(), pod: spec.pod.clone(), attempt: spec.attempt, ready: true, ips, created_at };
        world.sandboxes.insert(id.clone(), Sandbox { spec: spec.clone(), status: status.clone() });
        world.tell(&spec.pod.uid, &id, "start");
        Ok(status)
    }

    async fn stop_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.begin("stop_sandbox", || self.label(id))?;
        let mut world = self.world.lock();
        if let Some(sandbox) = world.sandboxes.get_mut(id)
            && sandbox.status.ready
        {
            sandbox.status.ready = false;
            sandbox.status.ips.clear();
            let uid = sandbox.spec.pod.uid.clone();
            world.tell(&uid, id, "die");
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.begin("remove_sandbox", || self.label(id))?;
        let mut world = self.world.lock();
        world.containers.retain(|_, container| container.sandbox != id);
        if let Some(sandbox) = world.sandboxes.remove(id) {
            world.tell(&sandbox.spec.pod.uid, id, "destroy");
        }
        Ok(())
    }

    async fn create_container(&self, sandbox_id: &str, spec: &ContainerSpec) -> RuntimeResult<String> {
        self.begin("create_container", || format!("{}/{}", spec.pod.name, spec.name))?;
        let created_at = self.now();
        let mut world = self.world.lock();
        if !world.sandboxes.contains_key(sandbox_id) {
            return Err(no_such(sandbox_id));
        }
        if !self.config.has_every_image && !world.images.contains_key(&spec.image) {
            return Err(RuntimeError::NotFound(format!("No such image: {}", spec.image)));
        }
        let same = |found: &&Container| {
            found.spec.pod.uid == spec.pod.uid && found.spec.name == spec.name && found.spec.attempt == spec.attempt
        };
        if let Some(found) = world.containers.values().find(same) {
            return Ok(found.status.id.clone());
        }
        let id = world.next_id();
        let status = ContainerStatus {
            id: id.clone(),
            pod: spec.pod.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            spec_hash: spec.spec_hash.clone(),
            image: spec.image.clone(),
            image_id: image_info(&spec.image).digest,
            state: ContainerState::Created,
            created_at,
        };
        let container = Container {
            spec: spec.clone(),
            sandbox: sandbox_id.to_owned(),
            script: script::of_container(spec),
            status,
            lines: Vec::new(),
        };
        world.containers.insert(id.clone(), container);
        world.tell(&spec.pod.uid, &id, "create");
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> RuntimeResult<()> {
        self.begin("start_container", || self.label(id))?;
        tokio::time::sleep(self.config.start_takes).await;
        self.run(id)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> RuntimeResult<()> {
        self.begin("stop_container", || self.label(id))?;
        let ignores = self.world.lock().containers.get(id).is_some_and(|container| container.script.ignores_term);
        if ignores || grace.is_zero() {
            let until = Instant::now() + grace;
            while Instant::now() < until && self.is_running(id) {
                tokio::time::sleep(Duration::from_millis(50).min(until - Instant::now())).await;
            }
            self.finish(id, 137, false);
        } else {
            self.finish(id, 143, false);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> RuntimeResult<()> {
        self.begin("remove_container", || self.label(id))?;
        let mut world = self.world.lock();
        if let Some(container) = world.containers.remove(id) {
            world.tell(&container.spec.pod.uid, id, "destroy");
        }
        Ok(())
    }

    async fn update_sandbox(&self, id: &str, pod: &PodRef, resources: &PodResources) -> RuntimeResult<()> {
        self.begin("update_sandbox", || pod.name.clone())?;
        let mut world = self.world.lock();
        world.sandboxes.get_mut(id).ok_or_else(|| no_such(id))?.spec.resources = resources.clone();
        Ok(())
    }

    async fn update_container(
        &self,
        id: &str,
        cpu_shares: u64,
        cpu_limit_milli: Option<u64>,
        memory_limit: Option<u64>,
    ) -> RuntimeResult<()> {
        self.begin("update_container", || self.label(id))?;
        let mut world = self.world.lock();
        let spec = &mut world.containers.get_mut(id).ok_or_else(|| no_such(id))?.spec;
        (spec.cpu_shares, spec.cpu_limit_milli, spec.memory_limit) = (cpu_shares, cpu_limit_milli, memory_limit);
        Ok(())
    }

    async fn list_sandboxes(&self) -> RuntimeResult<Vec<SandboxStatus>> {
        self.begin("list_sandboxes", String::new)?;
        Ok(self.world.lock().sandboxes.values().map(|sandbox| sandbox.status.clone()).collect())
    }

    async fn list_containers(&self) -> RuntimeResult<Vec<ContainerStatus>> {
        self.begin("list_containers", String::new)?;
        Ok(self.world.lock().containers.values().map(|container| container.status.clone()).collect())
    }

    async fn inspect_container(&self, id: &str) -> RuntimeResult<ContainerStatus> {
        self.begin("inspect_container", String::new)?;
        self.world.lock().containers.get(id).map(|container| container.status.clone()).ok_or_else(|| no_such(id))
    }

    async fn events(&self) -> RuntimeResult<mpsc::Receiver<RuntimeEvent>> {
        self.begin("events", String::new)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.world.lock().listeners.push(sender);
        Ok(receiver)
    }

    async fn image(&self, name: &str) -> RuntimeResult<Option<ImageInfo>> {
        self.begin("image", || name.to_owned())?;
        if self.config.has_every_image {
            return Ok(Some(image_info(name)));
        }
        Ok(self.world.lock().images.get(name).cloned())
    }

    async fn pull_image(
        &self,
        name: &str,
        _auth: Option<&RegistryAuth>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> RuntimeResult<ImageInfo> {
        self.begin("pull_image", || name.to_owned())?;
        super::docker::check_reference(name)?;
        if name.contains("fake/missing") {
            return Err(RuntimeError::Pull(format!("not found: manifest for {name} not found: manifest unknown")));
        }
        progress("0 MB of 1 MB, 0 of 1 layers".to_owned());
        let factor = if name.contains("fake/slow") { 100 } else { 1 };
        tokio::time::sleep(self.config.pull_takes * factor).await;
        let info = image_info(name);
        self.world.lock().images.insert(name.to_owned(), info.clone());
        Ok(info)
    }

    async fn list_images(&self) -> RuntimeResult<Vec<ImageInfo>> {
        self.begin("list_images", String::new)?;
        Ok(self.world.lock().images.values().cloned().collect())
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult> {
        self.begin("exec", || self.label(id))?;
        self.must_run(id)?;
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let outcome = script::of_command(&words);
        match outcome.takes {
            Some(takes) if takes <= timeout => tokio::time::sleep(takes).await,
            _ => {
                tokio::time::sleep(timeout).await;
                return Err(RuntimeError::Timeout(timeout));
            }
        }
        let output = outcome.output.iter().map(|line| format!("{line}\n")).collect();
        Ok(ExecResult { exit_code: outcome.exit_code, output })
    }

    async fn exec_session(&self, id: &str, command: &[String], stdin: bool, _tty: bool) -> RuntimeResult<Session> {
        self.begin("exec_session", || self.label(id))?;
        self.must_run(id)?;
        Ok(streams::exec(command, stdin))
    }

    async fn attach(&self, id: &str, _stdin: bool, _tty: bool) -> RuntimeResult<Session> {
        self.begin("attach", || self.label(id))?;
        self.must_run(id)?;
        Ok(streams::attach(self.clone(), id.to_owned()))
    }

    async fn logs(&self, id: &str, options: &LogOptions) -> RuntimeResult<mpsc::Receiver<RuntimeResult<Output>>> {
        self.begin("logs", || self.label(id))?;
        if !self.world.lock().containers.contains_key(id) {
            return Err(no_such(id));
        }
        Ok(streams::logs(self.clone(), id.to_owned(), options.clone()))
    }

    async fn connect(&self, sandbox_id: &str, _port: u16) -> RuntimeResult<tokio::net::TcpStream> {
        self.begin("connect", || self.label(sandbox_id))?;
        if !self.world.lock().sandboxes.get(sandbox_id).is_some_and(|sandbox| sandbox.status.ready) {
            return Err(no_such(sandbox_id));
        }
        streams::echo().await.map_err(|error| RuntimeError::Other(error.to_string()))
    }

    async fn usage(&self, id: &str) -> RuntimeResult<Usage> {
        self.begin("usage", String::new)?;
        self.must_run(id)?;
        let age = self.started.elapsed().as_nanos() / 100;
        Ok(Usage { cpu_nanos: u64::try_from(age).unwrap_or(u64::MAX), memory_bytes: 1 << 20, pids: 1 })
    }
}

impl FakeRuntime {
    fn lines(&self, id: &str) -> Vec<(Timestamp, String)> {
        self.world.lock().containers.get(id).map(|found| found.lines.clone()).unwrap_or_default()
    }

    fn is_running(&self, id: &str) -> bool {
        let world = self.world.lock();
        world.containers.get(id).is_some_and(|found| matches!(found.status.state, ContainerState::Running { .. }))
    }

    fn must_run(&self, id: &str) -> RuntimeResult<()> {
        if !self.world.lock().containers.contains_key(id) {
            return Err(no_such(id));
        }
        if self.is_running(id) { Ok(()) } else { Err(RuntimeError::Other(format!("Container {id} is not running"))) }
    }
}

#[cfg(test)]
#[path = "fake/tests.rs"]
mod tests;
