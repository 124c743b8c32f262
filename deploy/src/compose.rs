//! The compose file of a cluster, and the compose program.
//!
//! `deploy/compose.yaml` is what [`render`] gives for the defaults; a test keeps it so. Other sizes get a file in the
//! cluster's state folder.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::layout::{self, CLUSTER_CIDR, Layout, SERVICE_CIDR};
use crate::{engine, run};

const HEAD: &str = "\
# A Balsa cluster on one machine. Written by `cargo balsa up`, which also makes the images and the certificates; after
# that `docker compose -f deploy/compose.yaml up` works by itself. Works with compose v2 and with docker-compose 1.29.
#
# BALSA_STATE (from deploy/.env) is the folder of certificates and data. A node's folder has the same path in its
# container as outside, because the engine, which mounts volumes into pods, sees the outside one.
";

/// What real etcd members are told about certificates.
const ETCD_TLS: &str = "--client-cert-auth --trusted-ca-file=/pki/ca.crt --cert-file=/pki/tls.crt --key-file=/pki/tls.key \
    --peer-client-cert-auth --peer-trusted-ca-file=/pki/ca.crt --peer-cert-file=/pki/tls.crt --peer-key-file=/pki/tls.key";

/// Capabilities of a node agent: networks of pods, mounts, setns into pods, signals to what an exec left behind.
const NODE_CAPABILITIES: &str = "[NET_ADMIN, NET_RAW, SYS_ADMIN, SYS_PTRACE]";

const TLS: &str = "--tls-ca=/pki/ca.crt --tls-cert=/pki/tls.crt --tls-key=/pki/tls.key";

struct Service {
    name: String,
    image: &'static str,
    arguments: Vec<String>,
    port: Option<(u16, u16)>,
    volumes: Vec<String>,
}

impl Service {
    fn new(name: &str, image: &'static str, arguments: &str) -> Self {
        Self::with_tls(name, image, arguments, TLS)
    }

    fn with_tls(name: &str, image: &'static str, arguments: &str, tls: &str) -> Self {
        let arguments = format!("--name={name} {arguments} {tls}").split_whitespace().map(str::to_owned).collect();
        let volumes = vec![format!("${{BALSA_STATE}}/pki/{name}:/pki:ro")];
        Self { name: name.to_owned(), image, arguments, port: None, volumes }
    }

    fn write(&self, layout: &Layout, out: &mut String) -> std::fmt::Result {
        let Self { name, image, arguments, port, volumes } = self;
        writeln!(out, "\n  {name}:\n    image: balsa/{image}:1\n    container_name: {}", layout.container(name))?;
        writeln!(out, "    hostname: {name}\n    restart: always\n    networks: [cluster]\n    command:")?;
        for argument in arguments {
            writeln!(out, "      - {argument}")?;
        }
        if let Some((outside, inside)) = port {
            writeln!(out, "    ports: [\"127.0.0.1:{outside}:{inside}\"]")?;
        }
        let list: Vec<String> = volumes.iter().map(|volume| format!("\"{volume}\"")).collect();
        writeln!(out, "    volumes: [{}]", list.join(", "))
    }
}

fn joined(names: &[String], url: impl Fn(&str) -> String) -> String {
    names.iter().map(|name| url(name)).collect::<Vec<_>>().join(",")
}

fn store(layout: &Layout, name: &str, initial: &str) -> Service {
    if layout.etcd.is_some() {
        let arguments = format!(
            "--data-dir=/data/etcd --listen-client-urls=https://0.0.0.0:2379 --advertise-client-urls=https://{name}:2379 \
             --listen-peer-urls=https://0.0.0.0:2380 --initial-advertise-peer-urls=https://{name}:2380 \
             --initial-cluster={initial} --log-level=warn");
        return Service::with_tls(name, "etcd", &arguments, ETCD_TLS);
    }
    Service::new(name, "store", &format!(
        "--data-dir=/data --listen-client=0.0.0.0:2379 --listen-peer=0.0.0.0:2380 --listen-metrics=0.0.0.0:2381 \
         --advertise-client=https://{name}:2379 --advertise-peer=https://{name}:2380 --initial-cluster={initial}"))
}

fn services(layout: &Layout) -> Vec<Service> {
    let (stores, apiservers) = (layout.store_names(), layout.apiserver_names());
    let initial = joined(&stores, |name| format!("{name}=https://{name}:2380"));
    let store_endpoints = joined(&stores, |name| format!("https://{name}:2379"));
    let api_endpoints = joined(&apiservers, |name| format!("https://{name}:6444"));
    let mut all = Vec::new();
    for (index, name) in stores.iter().enumerate() {
        let mut service = store(layout, name, &initial);
        service.port = Some((layout.store_port_of(index), 2379));
        service.volumes.push(format!("${{BALSA_STATE}}/data/{name}:/data"));
        all.push(service);
    }
    for (index, name) in apiservers.iter().enumerate() {
        let mut service = Service::new(name, "apiserver", &format!(
            "--store-endpoints={store_endpoints} --listen=0.0.0.0:6443 --listen-grpc=0.0.0.0:6444 \
             --service-account-key=/pki/sa.key --service-cidr={SERVICE_CIDR}"));
        service.port = Some((layout.api_port_of(index), 6443));
        all.push(service);
    }
    for name in ["scheduler1", "scheduler2"] {
        all.push(Service::new(name, "scheduler", &format!(
            "--apiservers={api_endpoints} --listen=0.0.0.0:10259 --listen-grpc=0.0.0.0:10260")));
    }
    for name in ["controllers1", "controllers2"] {
        all.push(Service::new(name, "controllers", &format!(
            "--apiservers={api_endpoints} --listen=0.0.0.0:10257 --cluster-cidr={CLUSTER_CIDR}")));
    }
    all
}

fn write_node(layout: &Layout, name: &str, out: &mut String) -> std::fmt::Result {
    let api_endpoints = joined(&layout.apiserver_names(), |name| format!("https://{name}:6444"));
    let cluster = &layout.cluster;
    let holder = layout.container(&format!("{name}-net"));
    // The holder keeps the node's network namespace, so that killing the agent leaves the pods' traffic alone.
    writeln!(out, "\n  {name}-net:\n    image: balsa/pause:1\n    container_name: {holder}\n    hostname: {name}")?;
    writeln!(out, "    restart: always\n    sysctls: {{net.ipv4.ip_forward: \"1\"}}")?;
    writeln!(out, "    networks: {{cluster: {{aliases: [{name}]}}}}")?;
    writeln!(out, "  {name}:\n    image: balsa/nodeagent:1\n    container_name: {}", layout.container(name))?;
    writeln!(out, "    restart: always\n    pid: host\n    network_mode: \"service:{name}-net\"")?;
    writeln!(out, "    depends_on: [{name}-net]\n    cap_add: {NODE_CAPABILITIES}\n    command:")?;
    let arguments = format!(
        "--node-name={name} --apiservers={api_endpoints} --listen=0.0.0.0:10250 --state-dir=${{BALSA_STATE}}/nodes/{name} \
         --cluster={cluster} --holder={holder} --runtime=docker --cgroup-root=/host/cgroup --cni-bin=/opt/cni/bin \
         --cluster-cidr={CLUSTER_CIDR} {TLS}");
    for argument in arguments.split_whitespace() {
        writeln!(out, "      - {argument}")?;
    }
    writeln!(out, "    volumes:\n      - /var/run/docker.sock:/var/run/docker.sock\n      - /sys/fs/cgroup:/host/cgroup")?;
    writeln!(out, "      - ${{BALSA_STATE}}/nodes/{name}:${{BALSA_STATE}}/nodes/{name}")?;
    writeln!(out, "      - ${{BALSA_STATE}}/pki/{name}:/pki:ro")
}

/// The compose file of a cluster.
pub fn render(layout: &Layout) -> String {
    let mut out = format!("{HEAD}networks:\n  cluster: {{}}\n\nservices:");
    let write = |out: &mut String| -> std::fmt::Result {
        for service in services(layout) {
            service.write(layout, out)?;
        }
        for name in layout.node_names() {
            write_node(layout, &name, out)?;
        }
        Ok(())
    };
    // Writing to a String cannot fail.
    write(&mut out).ok();
    out
}

/// Puts the compose file and its `.env` where they belong and returns the file's path. The default cluster uses
/// `deploy/compose.yaml` itself.
pub fn place(layout: &Layout) -> Result<PathBuf> {
    let state = layout.state_dir()?;
    let text = render(layout);
    let committed = layout::repository()?.join("deploy/compose.yaml");
    let folder = if fs::read_to_string(&committed).is_ok_and(|own| own == text) {
        layout::repository()?.join("deploy")
    } else {
        state.clone()
    };
    let path = folder.join("compose.yaml");
    if fs::read_to_string(&path).unwrap_or_default() != text {
        fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
    }
    let environment = format!("BALSA_STATE={}\nCOMPOSE_PROJECT_NAME={}\n", state.display(), layout.cluster);
    let environment_path = folder.join(".env");
    if fs::read_to_string(&environment_path).unwrap_or_default() != environment {
        fs::write(&environment_path, environment).with_context(|| format!("{}", environment_path.display()))?;
    }
    Ok(path)
}

/// A compose program.
#[derive(Clone, Copy, Debug)]
pub enum Compose {
    /// `docker compose`
    Plugin,
    /// `docker-compose`: v2 standing alone, or Debian's 1.29.
    Standalone,
}

impl Compose {
    /// What this machine has.
    pub fn find() -> Option<Self> {
        if run::output(&mut engine::docker(&["compose", "version"])).is_ok() {
            return Some(Self::Plugin);
        }
        run::exists("docker-compose").then_some(Self::Standalone)
    }

    /// A command on the compose file of `layout`.
    pub fn command(self, layout: &Layout, file: &Path) -> Result<Command> {
        let mut command = match self {
            Self::Plugin => engine::docker(&["compose"]),
            Self::Standalone => Command::new("docker-compose"),
        };
        command.arg("-f").arg(file).args(["-p", &layout.cluster]);
        command.env("BALSA_STATE", layout.state_dir()?);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        layout: Layout,
    }

    #[test]
    fn the_committed_file_is_what_the_defaults_give() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("compose.yaml");
        let rendered = render(&Line::parse_from(["x"]).layout);
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            fs::write(&path, &rendered).unwrap();
        }
        assert!(fs::read_to_string(path).unwrap() == rendered, "run again with UPDATE_GOLDENFILES=1 and read the diff");
    }

    #[test]
    fn it_is_yaml_with_a_service_per_process() {
        let layout = Line::parse_from(["x", "--nodes", "2", "--stores", "5"]).layout;
        let file: serde_yaml_ng::Value = serde_yaml_ng::from_str(&render(&layout)).unwrap();
        let services = file["services"].as_mapping().unwrap();
        assert_eq!(services.len(), 5 + 2 + 2 + 2 + 2 * 2);
    }

    #[test]
    fn a_real_etcd_takes_the_place_of_every_store() {
        let text = render(&Line::parse_from(["x", "--etcd", "/usr/bin/etcd"]).layout);
        assert_eq!(text.matches("image: balsa/etcd:1").count(), 3);
        assert!(!text.contains("balsa/store"), "{text}");
    }
}
