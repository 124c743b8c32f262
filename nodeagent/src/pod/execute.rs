//! Carries single actions out against the engine and the API. No policy: what to do is in the action.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::observed::{Admission, Outcome, StartFailure, Why};
use super::plan::Action;
use super::view::{self, Unit};
use super::{image, manager::Shared};
use crate::api;
use crate::clock;
use crate::env::fields::Surroundings;
use crate::env::vars::Sources;
use crate::env::{expand, files, registry_auth, resources, security, services, vars};
use crate::probe::http;
use crate::runtime::{
    ContainerSpec, ContainerState, ContainerStatus, HostPort, ImageInfo, Mount, MountSource, PodResources, RuntimeError, SandboxSpec, Security,
};
use crate::volume::mount::PodVolumes;

/// How long a postStart hook may take at most. Kubernetes knows no limit; a day stands for that.
const HOOK_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// One pod's means to act.
#[derive(Clone)]
pub struct Executor {
    /// The node's.
    pub shared: Arc<Shared>,
    /// As it was when the action was planned.
    pub pod: Arc<Pod>,
    /// Its volumes.
    pub volumes: Arc<PodVolumes>,
    /// The sandbox that is good for containers: identifier and addresses.
    pub sandbox: Option<(String, Vec<String>)>,
    /// Whether an instance's preStop hook has run (and told of the stop already).
    pub hooked: bool,
    /// Gets one line for a person now and then while an image is fetched.
    pub progress: Arc<dyn Fn(String) + Send + Sync>,
}

impl Executor {
    /// Does it.
    pub async fn run(self, action: Action) -> Outcome {
        match action {
            Action::Admit => self.admit(),
            Action::MountVolumes => self.mount_volumes().await,
            Action::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
            Action::Start { container, attempt, .. } => match self.start(&container, attempt).await {
                Ok(outcome) => outcome,
                Err(failure) => Outcome::NotStarted(failure),
            },
            Action::PostStart { container, id } => self.post_start(&container, id).await,
            Action::PreStop { container, id, within, why } => self.pre_stop(&container, id, within, why).await,
            Action::Stop { container, id, grace, why } => self.stop(&container, id, grace, why).await,
            Action::Remove { id, .. } => match self.shared.runtime.remove_container(&id).await {
                Ok(()) | Err(RuntimeError::NotFound(_)) => Outcome::Instance(id, None),
                Err(error) => Outcome::Failed(error.to_string()),
            },
            Action::StopSandbox { id } => match self.shared.runtime.stop_sandbox(&id).await {
                Ok(()) | Err(RuntimeError::NotFound(_)) => Outcome::SandboxStopped(id),
                Err(error) => Outcome::Failed(error.to_string()),
            },
            Action::Allocate => self.allocate(),
            Action::Resize { steps } => self.resize(steps).await,
            Action::Teardown => self.teardown().await,
            Action::Delete => match self.shared.api.delete_pod(&self.pod, "all of it is gone from the node").await {
                Ok(()) | Err(api::ApiFailure::NotFound(_) | api::ApiFailure::Conflict(_)) => Outcome::Done,
                Err(error) => Outcome::Failed(error.to_string()),
            },
        }
    }

    fn event(&self, unit: Option<&Unit<'_>>, warning: bool, reason: &str, message: &str) {
        let path = unit.map(Unit::field_path).unwrap_or_default();
        self.shared.api.event(&self.pod, &path, warning, reason, message);
    }

    fn unit(&self, name: &str) -> Option<Unit<'_>> {
        view::units(&self.pod).into_iter().find(|unit| unit.name() == name)
    }

    fn admit(&self) -> Outcome {
        if self.shared.facts().object.metadata.name.is_none() {
            return Outcome::Failed("the node is not registered yet".to_owned());
        }
        let admission = self.shared.admit(&self.pod);
        if let Admission::Rejected { reason, message } = &admission {
            self.event(None, true, reason, message.trim_start_matches("Pod was rejected: "));
        }
        Outcome::Admitted(admission)
    }

    fn around(&self) -> Surroundings {
        let ips = self.sandbox.as_ref().map(|(_, ips)| ips.clone()).unwrap_or_default();
        self.shared.surroundings(&self.pod, ips)
    }

    async fn mount_volumes(&self) -> Outcome {
        match self.volumes.mount_all(&self.pod, &self.around()).await {
            Ok(()) => Outcome::Done,
            Err(failures) => {
                for failure in &failures {
                    let text = format!("MountVolume.SetUp failed for volume \"{}\" : {}", failure.volume, failure.message);
                    self.event(None, true, "FailedMount", &text);
                }
                let texts: Vec<_> = failures.into_iter().map(|f| format!("{}: {}", f.volume, f.message)).collect();
                Outcome::Failed(texts.join("; "))
            }
        }
    }

    async fn create_sandbox(&self, attempt: u32) -> Outcome {
        let _turn = self.shared.starts.acquire().await;
        match self.shared.runtime.create_sandbox(&self.sandbox_spec(attempt)).await {
            Ok(sandbox) => Outcome::Sandbox(sandbox),
            Err(error) => {
                self.event(None, true, "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {error}"));
                Outcome::Failed(error.to_string())
            }
        }
    }

    fn sandbox_spec(&self, attempt: u32) -> SandboxSpec {
        let spec = view::spec(&self.pod);
        let facts = self.shared.facts();
        let (hostname, _) = files::hostname(&self.pod, &facts.node.name, &facts.dns.domain);
        let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
        let pod_resources = resources::of_pod(&self.pod);
        let memory = |volume: &k8s_openapi::api::core::v1::Volume| {
            let empty = volume.empty_dir.as_ref().filter(|empty| empty.medium.as_deref() == Some("Memory"))?;
            let limit = empty.size_limit.as_ref().and_then(|limit| crate::quantity::whole(&limit.0));
            let limit = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
            let limit = match (limit, pod_resources.memory_limit) {
                (Some(own), Some(pod)) => Some(own.min(pod)),
                (own, pod) => own.or(pod),
            };
            Some((volume.name.clone(), limit))
        };
        SandboxSpec {
            pod: view::pod_ref(&self.pod),
            attempt,
            hostname,
            host_network: view::host_network(&self.pod),
            share_processes: spec.share_process_namespace.unwrap_or(false),
            sysctls: sysctls.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone())).collect(),
            memory_volumes: spec.volumes.iter().flatten().filter_map(memory).collect(),
            resources: PodResources { ..pod_resources.clone() },
            host_ports: host_ports(&self.pod),
        }
    }

    async fn start(&self, name: &str, attempt: u32) -> Result<Outcome, StartFailure> {
        let Some(unit) = self.unit(name) else { return Ok(Outcome::Failed("no such container any more".to_owned())) };
        let Some((sandbox, _)) = self.sandbox.clone() else { return Ok(Outcome::Failed("no sandbox".to_owned())) };
        let fail = |reason: &str, message: String, id: Option<String>| StartFailure {
            reason: reason.to_owned(),
            message,
            at: clock::now(),
            id,
            spec_hash: view::spec_hash(&unit.container),
            instance: None,
        };
        let image = match self.image(&unit).await? {
            Some(image) => image,
            None => return Ok(Outcome::Failed("container engine unavailable".to_owned())),
        };
        let _turn = self.shared.starts.acquire().await;
        (self.progress)(super::worker::CREATING.to_owned());
        let spec = self.container_spec(&unit, attempt, &image).await.map_err(|message| {
            self.event(Some(&unit), true, "Failed", &format!("Error: {message}"));
            fail("CreateContainerConfigError", message, None)
        })?;
        let runtime = &self.shared.runtime;
        let id = match runtime.create_container(&sandbox, &spec).await {
            Ok(id) => id,
            Err(RuntimeError::Unavailable(message)) => return Ok(Outcome::Failed(message)),
            Err(error) => {
                self.event(Some(&unit), true, "Failed", &format!("Error: {error}"));
                return Err(fail("CreateContainerError", error.to_string(), None));
            }
        };
        self.event(Some(&unit), false, "Created", "Container created");
        match runtime.start_container(&id).await {
            Ok(()) => {}
            Err(RuntimeError::Unavailable(message)) => return Ok(Outcome::Failed(message)),
            Err(error) => {
                self.event(Some(&unit), true, "Failed", &format!("Error: {error}"));
                let instance = self.unstarted(&spec, &id, &image).await;
                let failure = fail("RunContainerError", error.to_string(), Some(id));
                return Err(StartFailure { instance: Some(Box::new(instance)), ..failure });
            }
        }
        self.event(Some(&unit), false, "Started", "Container started");
        match runtime.inspect_container(&id).await {
            Ok(status) => Ok(Outcome::Started(status)),
            Err(error) => Ok(Outcome::Failed(error.to_string())),
        }
    }

    /// An instance that was made and did not start: it counts, and its number is used up.
    async fn unstarted(&self, spec: &ContainerSpec, id: &str, image: &ImageInfo) -> ContainerStatus {
        match self.shared.runtime.inspect_container(id).await {
            Ok(status) => status,
            Err(_) => ContainerStatus {
                id: id.to_owned(),
                pod: spec.pod.clone(),
                name: spec.name.clone(),
                attempt: spec.attempt,
                spec_hash: spec.spec_hash.clone(),
                image: spec.image.clone(),
                image_id: image.digest.clone(),
                state: ContainerState::Created,
                created_at: clock::now(),
            },
        }
    }

    /// The image, fetched where the policy says so; `None` where the engine does not answer.
    async fn image(&self, unit: &Unit<'_>) -> Result<Option<ImageInfo>, StartFailure> {
        let asked = unit.container.image.clone().unwrap_or_default();
        let fail = |reason: &str, message: String| StartFailure {
            reason: reason.to_owned(),
            message,
            at: clock::now(),
            id: None,
            spec_hash: view::spec_hash(&unit.container),
            instance: None,
        };
        if let Some(problem) = image::invalid(&asked) {
            let message = format!("Failed to apply default image tag \"{asked}\": couldn't parse image name \"{asked}\": {problem}");
            self.event(Some(unit), true, "InspectFailed", &message);
            self.event(Some(unit), true, "Failed", "Error: InvalidImageName");
            return Err(fail("InvalidImageName", message));
        }
        let name = image::with_tag(&asked);
        let policy = image::policy(unit.container.image_pull_policy.as_deref(), &asked);
        let present = match self.shared.runtime.image(&name).await {
            Ok(present) => present,
            Err(RuntimeError::Unavailable(_)) => return Ok(None),
            Err(error) => return Err(fail("ImageInspectError", format!("Failed to inspect image \"{asked}\": {error}"))),
        };
        match (image::decide(policy, present.is_some()), present) {
            (image::PullDecision::Use, Some(found)) => {
                let text = format!("Container image \"{asked}\" already present on machine and can be accessed by the pod");
                self.event(Some(unit), false, "Pulled", &text);
                Ok(Some(found))
            }
            (image::PullDecision::Refuse, _) => {
                let message = format!("Container image \"{asked}\" is not present with pull policy of Never");
                self.event(Some(unit), true, "ErrImageNeverPull", &message);
                self.event(Some(unit), true, "Failed", "Error: ErrImageNeverPull");
                Err(fail("ErrImageNeverPull", message))
            }
            (image::PullDecision::Pull | image::PullDecision::Use, _) => match self.pull(unit, &asked, &name).await {
                Ok(found) => Ok(Some(found)),
                Err(message) => {
                    let text = format!("Failed to pull image \"{asked}\": {message}");
                    self.event(Some(unit), true, "Failed", &text);
                    self.event(Some(unit), true, "Failed", "Error: ErrImagePull");
                    Err(fail("ErrImagePull", message))
                }
            },
        }
    }

    async fn pull(&self, unit: &Unit<'_>, asked: &str, name: &str) -> Result<ImageInfo, String> {
        self.event(Some(unit), false, "Pulling", &format!("Pulling image \"{asked}\""));
        let asked_at = tokio::time::Instant::now();
        let (secrets, missing) = api::pull_secrets(self.shared.api.as_ref(), &self.pod).await;
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.event(None, true, "FailedToRetrieveImagePullSecret", &text);
        }
        let _turn = self.shared.pulls.acquire().await;
        let began = tokio::time::Instant::now();
        let mut candidates: Vec<_> = registry_auth::candidates(asked, &secrets).into_iter().map(Some).collect();
        candidates.push(None);
        let mut problem = String::new();
        for auth in candidates {
            let progress = self.progress.clone();
            match self.shared.runtime.pull_image(name, auth.as_ref(), &move |line| progress(line)).await {
                Ok(image) => {
                    let (took, whole) = (began.elapsed(), asked_at.elapsed());
                    let text = format!(
                        "Successfully pulled image \"{asked}\" in {} ({} including waiting). Image size: {} bytes.",
                        short(took),
                        short(whole),
                        image.size
                    );
                    self.event(Some(unit), false, "Pulled", &text);
                    return Ok(image);
                }
                // The first refusal is the telling one: it is about the best credentials.
                Err(error) if problem.is_empty() => problem = error.to_string(),
                Err(_) => {}
            }
        }
        Err(problem)
    }

    async fn sources(&self, container: &Container) -> Result<Sources, String> {
        let (config_maps, secrets) = vars::references(container);
        let namespace = view::namespace(&self.pod);
        let mut sources = Sources::default();
        for name in config_maps {
            let found = match self.shared.api.config_map(namespace, &name).await {
                Ok(found) => Some(found),
                Err(api::ApiFailure::NotFound(_)) => None,
                Err(error) => return Err(error.to_string()),
            };
            sources.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = match self.shared.api.secret(namespace, &name).await {
                Ok(found) => Some(found),
                Err(api::ApiFailure::NotFound(_)) => None,
                Err(error) => return Err(error.to_string()),
            };
            sources.secrets.insert(name, found);
        }
        Ok(sources)
    }

    async fn container_spec(&self, unit: &Unit<'_>, attempt: u32, image: &ImageInfo) -> Result<ContainerSpec, String> {
        let container = unit.container.as_ref();
        let facts = self.shared.facts();
        let around = self.around();
        let security = security::of_container(&self.pod, container, &image.user)?;
        let env = self.variables(unit, &around).await?;
        let lookup = |name: &str| env.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.clone());
        let words = |list: &Option<Vec<String>>| list.iter().flatten().map(|word| expand::expand(word, lookup)).collect();
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let expand_all = |text: &str| {
                let missing = parking_lot::Mutex::new(None);
                let out = expand::expand(text, |name| {
                    let value = lookup(name);
                    if value.is_none() {
                        *missing.lock() = Some(name.to_owned());
                    }
                    value
                });
                match missing.into_inner() {
                    Some(_) => Err(format!("missing value for env var in subPathExpr of volumeMount \"{}\"", mount.name)),
                    None => Ok(out),
                }
            };
            mounts.push(self.volumes.resolve(mount, expand_all)?);
        }
        mounts.extend(self.own_files(container, attempt, &security, &around).await?);
        let limits = resources::of_container(container);
        Ok(ContainerSpec {
            pod: view::pod_ref(&self.pod),
            name: container.name.clone(),
            attempt,
            spec_hash: view::spec_hash(container),
            image: image::with_tag(container.image.as_deref().unwrap_or_default()),
            command: words(&container.command),
            args: words(&container.args),
            working_dir: container.working_dir.clone().unwrap_or_default(),
            mounts,
            security,
            cpu_shares: limits.cpu_shares,
            cpu_limit_milli: limits.cpu_limit_milli,
            memory_limit: limits.memory_limit,
            oom_score_adj: resources::oom_score_adj(&self.pod, container, unit.role, facts.memory_bytes),
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            tty: container.tty.unwrap_or(false),
            stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
            env,
        })
    }

    async fn variables(&self, unit: &Unit<'_>, around: &Surroundings) -> Result<Vec<(String, String)>, String> {
        let sources = self.sources(&unit.container).await?;
        let links = view::spec(&self.pod).enable_service_links.unwrap_or(true);
        let own = self.shared.api.services(view::namespace(&self.pod));
        let default = self.shared.api.services("default");
        let services: BTreeMap<_, _> = services::variables(&own, &default, links);
        let variables = vars::build(&self.pod, &unit.container, &sources, &services, around)?;
        for warning in &variables.warnings {
            self.event(Some(unit), true, "InvalidEnvironmentVariableNames", warning);
        }
        Ok(variables.list)
    }

    /// /etc/hosts, /etc/resolv.conf and the termination message file; what the pod mounts there itself wins.
    async fn own_files(
        &self,
        container: &Container,
        attempt: u32,
        _security: &Security,
        around: &Surroundings,
    ) -> Result<Vec<Mount>, String> {
        let facts = self.shared.facts();
        let uid = view::uid(&self.pod);
        let layout = &self.shared.layout;
        let (host, domain) = files::hostname(&self.pod, &facts.node.name, &facts.dns.domain);
        let hosts = match view::host_network(&self.pod) {
            true => {
                let own = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
                files::host_network_hosts(&self.pod, &own)
            }
            false => files::hosts(&self.pod, &around.pod_ips, &host, domain.as_deref()),
        };
        let (resolver, warnings) = files::resolv_conf(&self.pod, &facts.dns);
        warnings.iter().for_each(|warning| self.event(None, true, "DNSConfigForming", warning));
        let message = container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned());
        let wanted = [
            ("/etc/hosts".to_owned(), layout.etc(uid, "hosts"), hosts, 0o644),
            ("/etc/resolv.conf".to_owned(), layout.etc(uid, "resolv.conf"), resolver, 0o644),
            (message, layout.termination_log(uid, &container.name, attempt), String::new(), 0o666),
        ];
        let mut mounts = Vec::new();
        for (target, path, text, mode) in wanted {
            let taken = container.volume_mounts.iter().flatten().any(|mount| mount.mount_path.trim_end_matches('/') == target);
            if taken || target.is_empty() {
                continue;
            }
            if !self.shared.hollow {
                write(&path, &text, mode).await.map_err(|error| format!("{}: {error}", path.display()))?;
            }
            mounts.push(Mount { source: MountSource::Host(path), target, read_only: false });
        }
        Ok(mounts)
    }

    async fn post_start(&self, name: &str, id: String) -> Outcome {
        let unit = self.unit(name);
        let hook = unit.as_ref().and_then(|unit| unit.container.lifecycle.as_ref()?.post_start.clone());
        let Some((unit, hook)) = unit.zip(hook) else { return Outcome::PostStart(id, Ok(())) };
        let result = self.hook(&unit, &hook, &id, HOOK_LIMIT).await;
        if let Err(problem) = &result {
            tracing::info!(pod = %view::full_name(&self.pod), container = name, problem, "postStart hook failed");
            self.event(Some(&unit), true, "FailedPostStartHook", "PostStartHook failed");
        }
        Outcome::PostStart(id, result)
    }

    async fn pre_stop(&self, name: &str, id: String, within: Duration, why: Why) -> Outcome {
        let unit = self.unit(name);
        let hook = unit.as_ref().and_then(|unit| unit.container.lifecycle.as_ref()?.pre_stop.clone());
        let Some((unit, hook)) = unit.zip(hook) else { return Outcome::PreStop(id) };
        self.event(Some(&unit), false, "Killing", &killing(name, why));
        if let Err(problem) = self.hook(&unit, &hook, &id, within).await {
            tracing::info!(pod = %view::full_name(&self.pod), container = name, problem, "preStop hook failed");
            self.event(Some(&unit), true, "FailedPreStopHook", "PreStopHook failed");
        }
        Outcome::PreStop(id)
    }

    async fn hook(&self, unit: &Unit<'_>, hook: &LifecycleHandler, id: &str, within: Duration) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let result = self.shared.runtime.exec(id, &command, within).await.map_err(|error| error.to_string())?;
            return match result.exit_code {
                0 => Ok(()),
                code => Err(format!("command '{}' exited with {code}: {}", command.join(" "), result.output.trim_end())),
            };
        }
        if let Some(get) = &hook.http_get {
            let ip = self.sandbox.as_ref().and_then(|(_, ips)| ips.first().cloned()).unwrap_or_default();
            let request = http::request(&unit.container, get, &ip)?;
            let response = http::get(&request, "kube-lifecycle/1.36", within.min(Duration::from_secs(60))).await?;
            return match response.status {
                200..400 => Ok(()),
                status => Err(format!("HTTP hook answered with status code {status}")),
            };
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)).min(within)).await;
            return Ok(());
        }
        Err("this kind of hook is not run: use exec, httpGet or sleep".to_owned())
    }

    async fn stop(&self, name: &str, id: String, grace: Duration, why: Why) -> Outcome {
        if !self.hooked {
            self.event(self.unit(name).as_ref(), false, "Killing", &killing(name, why));
        }
        let runtime = &self.shared.runtime;
        match runtime.stop_container(&id, grace).await {
            Ok(()) => match runtime.inspect_container(&id).await {
                Ok(status) => Outcome::Instance(id, Some(status)),
                Err(RuntimeError::NotFound(_)) => Outcome::Instance(id, None),
                Err(error) => Outcome::Failed(error.to_string()),
            },
            Err(RuntimeError::NotFound(_)) => Outcome::Instance(id, None),
            Err(error) => {
                self.event(self.unit(name).as_ref(), true, "FailedKillPod", &format!("error killing pod: {error}"));
                Outcome::Failed(error.to_string())
            }
        }
    }

    async fn teardown(&self) -> Outcome {
        let uid = view::uid(&self.pod);
        if let Err(error) = super::orphans::remove_all(self.shared.runtime.as_ref(), uid).await {
            return Outcome::Failed(error.to_string());
        }
        match self.volumes.remove(uid).await {
            Ok(()) => Outcome::Done,
            Err(problem) => Outcome::Failed(problem),
        }
    }
}

fn killing(name: &str, why: Why) -> String {
    match why {
        Why::PodStops | Why::Sandbox => format!("Stopping container {name}"),
        Why::Liveness => format!("Container {name} failed liveness probe, will be restarted"),
        Why::Startup => format!("Container {name} failed startup probe, will be restarted"),
        Why::Changed => format!("Container {name} definition changed, will be restarted"),
        Why::PostStart => "FailedPostStartHook".to_owned(),
        Why::Resize => format!("Container {name} resize requires restart"),
    }
}

fn short(took: Duration) -> String {
    if took < Duration::from_secs(1) { format!("{}ms", took.as_millis()) } else { format!("{:.3}s", took.as_secs_f64()) }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    if view::host_network(pod) {
        return Vec::new();
    }
    let ports = view::units(pod).into_iter().flat_map(|unit| unit.container.ports.clone().unwrap_or_default());
    ports
        .filter_map(|port| {
            let host_port = u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?;
            let host_ip = port.host_ip.as_deref().and_then(|ip| ip.parse::<std::net::IpAddr>().ok());
            Some(HostPort {
                host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
                host_port,
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
            })
        })
        .collect()
}

async fn write(path: &std::path::Path, text: &str, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    tokio::fs::write(path, text).await?;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).await
}
