//! Specs in, request bodies out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::runtime::{PodRef, PodResources};

const OWNER: Owner<'static> = Owner { cluster: "c", node: "n" };
const FULL: Machine = Machine { sys_resource: true };
const POOR: Machine = Machine { sys_resource: false };

fn pod() -> PodRef {
    PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() }
}

fn sandbox_spec() -> SandboxSpec {
    SandboxSpec {
        pod: pod(),
        attempt: 1,
        hostname: "p".into(),
        host_network: false,
        share_processes: false,
        sysctls: BTreeMap::new(),
        memory_volumes: BTreeMap::from([("cache".to_owned(), Some(1024))]),
        resources: PodResources::default(),
        host_ports: vec![],
    }
}

fn container_spec() -> ContainerSpec {
    ContainerSpec {
        pod: pod(),
        name: "app".into(),
        attempt: 0,
        spec_hash: "h".into(),
        image: "busybox:1".into(),
        command: vec![],
        args: vec!["sleep".into(), "1".into()],
        env: vec![("A".into(), "1=2".into())],
        working_dir: String::new(),
        mounts: vec![
            Mount { source: MountSource::Host(PathBuf::from("/x")), target: "/y".into(), read_only: true },
            Mount { source: MountSource::Memory("cache".into()), target: "/cache".into(), read_only: false },
        ],
        security: Security::default(),
        cpu_shares: 0,
        cpu_limit_milli: Some(250),
        memory_limit: Some(64 << 20),
        oom_score_adj: -997,
        stdin: false,
        stdin_once: true,
        tty: false,
        stop_signal: None,
    }
}

fn host_of(body: &ContainerCreateBody) -> Value {
    serde_json::to_value(body).expect("encodes")["HostConfig"].clone()
}

fn made(security: Security, machine: Machine) -> Value {
    let spec = ContainerSpec { security, ..container_spec() };
    host_of(&container(&spec, OWNER, machine, "sb", false, "/balsa"))
}

#[test]
fn a_sandbox_has_no_network_of_the_engine() {
    let body = sandbox(&sandbox_spec(), OWNER, FULL, "pause:1", "/balsa/c/n/u", "container:holder");
    assert_eq!((body.network_disabled, body.hostname.as_deref()), (Some(true), Some("p")));
    let host = host_of(&body);
    assert_eq!(host["NetworkMode"], "none");
    assert_eq!(host["CgroupParent"], "/balsa/c/n/u");
    assert_eq!(host["OomScoreAdj"], -998);
    let mount = json!({"Type": "volume", "Source": "balsa_u_cache", "Target": "/volumes/cache", "ReadOnly": false,
        "VolumeOptions": {"NoCopy": true}});
    assert_eq!(host["Mounts"], json!([mount]));
}

#[test]
fn a_host_network_sandbox_joins_the_node() {
    let spec = SandboxSpec { host_network: true, ..sandbox_spec() };
    let body = sandbox(&spec, OWNER, POOR, "pause:1", "/b", "container:holder");
    assert_eq!((body.network_disabled, body.hostname.clone()), (None, None), "the engine refuses both when joining");
    assert_eq!(host_of(&body)["NetworkMode"], "container:holder");
    assert_eq!(host_of(&body)["OomScoreAdj"], 0);
}

#[test]
fn a_container_joins_its_sandbox_with_its_limits() {
    let body = container(&container_spec(), OWNER, FULL, "sb", false, "/balsa/c/n/u");
    let host = host_of(&body);
    for mode in ["NetworkMode", "IpcMode"] {
        assert_eq!(host[mode], "container:sb", "{mode}");
    }
    assert_eq!(host["PidMode"], Value::Null);
    assert_eq!((&host["CpuPeriod"], &host["CpuQuota"]), (&json!(100_000), &json!(25_000)));
    assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(64 << 20), &json!(64 << 20)));
    assert_eq!(host["CpuShares"], 2);
    assert_eq!(host["Binds"], Value::Null);
    assert_eq!(host["Mounts"][0], json!({"Type": "bind", "Source": "/x", "Target": "/y", "ReadOnly": true}));
    assert_eq!(host["Mounts"][1]["Source"], "balsa_u_cache");
    assert_eq!((body.entrypoint, body.cmd), (None, Some(vec!["sleep".to_owned(), "1".to_owned()])));
    assert_eq!(body.env, Some(vec!["A=1=2".to_owned()]));
    assert_eq!(body.stdin_once, Some(false), "once means nothing without standard input");
    let shared = container(&container_spec(), OWNER, FULL, "sb", true, "/b");
    assert_eq!(host_of(&shared)["PidMode"], "container:sb");
}

#[test]
fn privileges_are_what_the_machine_has() {
    let privileged = Security { privileged: true, ..Security::default() };
    assert_eq!(made(privileged.clone(), FULL)["Privileged"], true);
    let poor = made(privileged, POOR);
    assert_eq!(poor["Privileged"], Value::Null);
    assert_eq!((&poor["CapAdd"], &poor["CapDrop"]), (&json!(["ALL"]), &json!(["SYS_RESOURCE"])));
    assert_eq!((&poor["MaskedPaths"], &poor["ReadonlyPaths"]), (&json!([]), &json!([])));
    assert_eq!(poor["OomScoreAdj"], 0);

    let all = Security { add_capabilities: vec!["ALL".into()], ..Security::default() };
    assert_eq!(made(all.clone(), POOR)["CapDrop"], json!(["SYS_RESOURCE"]));
    assert_eq!(made(all, FULL)["CapDrop"], Value::Null);
    let one = Security { add_capabilities: vec!["cap_sys_resource".into(), "NET_ADMIN".into()], ..Security::default() };
    assert_eq!(made(one, POOR)["CapAdd"], json!(["NET_ADMIN"]));
}

#[test]
fn security_options_are_passed_on() {
    let security = Security {
        user: Some("1000:2000".into()),
        groups: vec![3000, 4000],
        drop_capabilities: vec!["ALL".into()],
        read_only_root: true,
        no_new_privileges: true,
        seccomp: Some("unconfined".into()),
        ..Security::default()
    };
    let host = made(security, FULL);
    assert_eq!(host["GroupAdd"], json!(["3000", "4000"]));
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["SecurityOpt"], json!(["seccomp=unconfined", "no-new-privileges"]));
}

#[test]
fn limits_below_the_engines_floor_are_raised() {
    let spec = ContainerSpec { cpu_limit_milli: Some(1), memory_limit: Some(1000), ..container_spec() };
    let host = host_of(&container(&spec, OWNER, FULL, "sb", false, "/b"));
    assert_eq!((&host["CpuQuota"], &host["Memory"]), (&json!(1000), &json!(6 << 20)));
    let unlimited = serde_json::to_value(update(512, None, None)).expect("encodes");
    assert_eq!((&unlimited["CpuQuota"], &unlimited["CpuShares"]), (&json!(-1), &json!(512)));
}
