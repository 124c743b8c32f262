//! What the engine is told: specs to request bodies. Pure.
//!
//! Limits that the machine does not grant (capabilities, a negative OOM score) are settled here from [`Machine`].

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount as EngineMount,
    MountType, MountVolumeOptions,
};

use super::names;
use crate::runtime::{ContainerSpec, Mount, MountSource, SandboxSpec, Security};

/// The engine refuses less memory than this.
const MIN_MEMORY: u64 = 6 * 1024 * 1024;
/// CFS period in microseconds.
const CPU_PERIOD: i64 = 100_000;
/// The kernel refuses a CFS quota below this, in microseconds.
const MIN_CPU_QUOTA: i64 = 1_000;

/// What this machine lets the engine give to containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// CAP_SYS_RESOURCE exists here; without it there is no `privileged` and no negative OOM score.
    pub sys_resource: bool,
}

/// Where the objects belong.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// Cluster label.
    pub cluster: &'a str,
    /// Node label.
    pub node: &'a str,
}

/// The pause container of a sandbox. `node_network` is what a host-network pod joins: `container:NAME` or `host`.
pub fn sandbox(
    spec: &SandboxSpec,
    owner: Owner<'_>,
    machine: Machine,
    pause_image: &str,
    cgroup_parent: &str,
    node_network: &str,
) -> ContainerCreateBody {
    let volumes = spec.memory_volumes.keys().map(|name| {
        volume_mount(names::volume_name(&spec.pod, name), names::pause_volume_path(name), false)
    });
    let host = HostConfig {
        // A sandbox that the engine knows no network for skips its set-up hook: half the start time.
        network_mode: Some(if spec.host_network { node_network.to_owned() } else { "none".to_owned() }),
        ipc_mode: Some("shareable".to_owned()),
        cgroup_parent: Some(cgroup_parent.to_owned()),
        sysctls: some_if(!spec.sysctls.is_empty(), || spec.sysctls.clone().into_iter().collect()),
        mounts: some_if(!spec.memory_volumes.is_empty(), || volumes.collect()),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        oom_score_adj: Some(oom_score(-998, machine)),
        cpu_shares: Some(2),
        ..HostConfig::default()
    };
    // The name of a pod on the node's network is the node's: the engine refuses another beside a joined network.
    ContainerCreateBody {
        image: Some(pause_image.to_owned()),
        hostname: some_if(!spec.host_network, || spec.hostname.clone()),
        network_disabled: some_if(!spec.host_network, || true),
        labels: Some(names::sandbox_labels(owner.cluster, owner.node, spec)),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// An app container in a sandbox.
pub fn container(
    spec: &ContainerSpec,
    owner: Owner<'_>,
    machine: Machine,
    sandbox: &str,
    share_processes: bool,
    cgroup_parent: &str,
) -> ContainerCreateBody {
    let join = format!("container:{sandbox}");
    let memory = spec.memory_limit.map(memory_limit);
    let mut host = HostConfig {
        network_mode: Some(join.clone()),
        ipc_mode: Some(join.clone()),
        pid_mode: some_if(share_processes, || join),
        cgroup_parent: Some(cgroup_parent.to_owned()),
        mounts: Some(spec.mounts.iter().map(|mount| engine_mount(spec, mount)).collect()),
        cpu_shares: Some(cpu_shares(spec.cpu_shares)),
        cpu_period: spec.cpu_limit_milli.map(|_| CPU_PERIOD),
        cpu_quota: spec.cpu_limit_milli.map(cpu_quota),
        memory,
        memory_swap: memory,
        oom_score_adj: Some(oom_score(spec.oom_score_adj, machine)),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "5".to_owned()),
            ])),
        }),
        ..HostConfig::default()
    };
    secure(&mut host, &spec.security, machine);
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        user: spec.security.user.clone(),
        entrypoint: some_if(!spec.command.is_empty(), || spec.command.clone()),
        cmd: some_if(!spec.args.is_empty(), || spec.args.clone()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: some_if(!spec.working_dir.is_empty(), || spec.working_dir.clone()),
        labels: Some(names::container_labels(owner.cluster, owner.node, sandbox, spec)),
        open_stdin: Some(spec.stdin),
        stdin_once: Some(spec.stdin && spec.stdin_once),
        tty: Some(spec.tty),
        stop_signal: spec.stop_signal.clone(),
        // An image's own health check is not Kubernetes' business.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// New limits of a running container. Period and quota, never `NanoCpus`: the engine refuses to mix them.
pub fn update(cpu_shares_wanted: u64, cpu_limit_milli: Option<u64>, memory: Option<u64>) -> ContainerUpdateBody {
    let memory = memory.map(memory_limit);
    ContainerUpdateBody {
        cpu_shares: Some(cpu_shares(cpu_shares_wanted)),
        cpu_period: cpu_limit_milli.map(|_| CPU_PERIOD),
        cpu_quota: Some(cpu_limit_milli.map_or(-1, cpu_quota)),
        memory,
        memory_swap: memory,
        ..ContainerUpdateBody::default()
    }
}

fn secure(host: &mut HostConfig, security: &Security, machine: Machine) {
    let mut options = Vec::new();
    let mut add = security.add_capabilities.clone();
    let mut drop = security.drop_capabilities.clone();
    if security.privileged && machine.sys_resource {
        host.privileged = Some(true);
    } else if security.privileged {
        // Everything but the one capability that the machine lacks; `privileged` itself would fail to start.
        add = vec!["ALL".to_owned()];
        drop = vec!["SYS_RESOURCE".to_owned()];
        options.extend(["seccomp=unconfined".to_owned(), "apparmor=unconfined".to_owned()]);
        host.masked_paths = Some(Vec::new());
        host.readonly_paths = Some(Vec::new());
    } else {
        options.extend(security.seccomp.as_ref().map(|profile| format!("seccomp={profile}")));
    }
    if !machine.sys_resource && !security.privileged {
        add.retain(|capability| !names_capability(capability, "SYS_RESOURCE"));
        if add.iter().any(|capability| names_capability(capability, "ALL")) {
            drop.push("SYS_RESOURCE".to_owned());
        }
    }
    if security.no_new_privileges && !security.privileged {
        options.push("no-new-privileges".to_owned());
    }
    host.cap_add = some_if(!add.is_empty(), || add);
    host.cap_drop = some_if(!drop.is_empty(), || drop);
    host.security_opt = some_if(!options.is_empty(), || options);
    host.group_add = some_if(!security.groups.is_empty(), || security.groups.iter().map(i64::to_string).collect());
    host.readonly_rootfs = some_if(security.read_only_root, || true);
}

fn names_capability(given: &str, name: &str) -> bool {
    let upper = given.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper) == name
}

fn engine_mount(spec: &ContainerSpec, mount: &Mount) -> EngineMount {
    match &mount.source {
        MountSource::Memory(name) => {
            volume_mount(names::volume_name(&spec.pod, name), mount.target.clone(), mount.read_only)
        }
        // `Mounts`, not `Binds`: a source that is missing is an error, not a new directory owned by root.
        MountSource::Host(path) => EngineMount {
            typ: Some(MountType::BIND),
            source: Some(path.to_string_lossy().into_owned()),
            target: Some(mount.target.clone()),
            read_only: Some(mount.read_only),
            ..EngineMount::default()
        },
    }
}

fn volume_mount(source: String, target: String, read_only: bool) -> EngineMount {
    EngineMount {
        typ: Some(MountType::VOLUME),
        source: Some(source),
        target: Some(target),
        read_only: Some(read_only),
        // Nothing of the image is to appear in an emptyDir.
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..EngineMount::default()
    }
}

fn oom_score(wanted: i64, machine: Machine) -> i64 {
    if machine.sys_resource { wanted.clamp(-999, 1000) } else { wanted.clamp(0, 1000) }
}

fn cpu_shares(wanted: u64) -> i64 {
    i64::try_from(wanted.clamp(2, 262_144)).unwrap_or(2)
}

fn cpu_quota(milli: u64) -> i64 {
    i64::try_from(milli).unwrap_or(i64::MAX).saturating_mul(CPU_PERIOD / 1000).max(MIN_CPU_QUOTA)
}

fn memory_limit(bytes: u64) -> i64 {
    i64::try_from(bytes.max(MIN_MEMORY)).unwrap_or(i64::MAX)
}

fn some_if<T>(condition: bool, value: impl FnOnce() -> T) -> Option<T> {
    condition.then(value)
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
