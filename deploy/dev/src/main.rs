//! The whole cluster in one process: one store replica, one apiserver, scheduler, controllers and N nodes, each the
//! same library as in its own process, talking over the same wires on loopback.
//!
//! It decides nothing; it hands each part its flags and stops all when one stops.

#![forbid(unsafe_code)]

use std::fs;
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use balsa_client::{Client, ClientConfig, ListParams};
use balsa_process::identity::{Actor, names};
use balsa_process::pki::Authority;
use balsa_process::tls::TlsFiles;
use balsa_process::{shutdown, telemetry};
use clap::Parser;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The whole cluster in one process.
#[derive(Parser)]
struct Options {
    /// Number of nodes.
    #[arg(long, default_value_t = 1)]
    nodes: u16,
    /// What runs the pods.
    #[arg(long, default_value = "fake", value_parser = ["docker", "fake"])]
    runtime: String,
    /// REST port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 16443)]
    port: u16,
    /// Where its data is; a folder that goes with the process where none is given.
    #[arg(long)]
    state: Option<PathBuf>,
}

/// Where everything listens.
struct Ports {
    store: u16,
    peer: u16,
    rest: u16,
    grpc: u16,
}

/// A port that nobody has now. Another process may take it before we do; then that part says so and all stop.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[tokio::main]
async fn main() -> Result<()> {
    telemetry::init();
    let options = Options::parse();
    let started = Instant::now();
    let stop = shutdown::on_signal()?;
    let own = std::env::temp_dir().join(format!("balsa-dev-{}", std::process::id()));
    let state = options.state.clone().unwrap_or_else(|| own.clone());
    fs::create_dir_all(&state).with_context(|| format!("{}", state.display()))?;
    let result = cluster(&options, &state, started, stop).await;
    if options.state.is_none() {
        fs::remove_dir_all(&own).ok();
    }
    result
}

async fn cluster(options: &Options, state: &Path, started: Instant, stop: CancellationToken) -> Result<()> {
    let authority = Authority::open_or_create(&state.join("pki"))?;
    let ports = Ports {
        store: free_port()?,
        peer: free_port()?,
        rest: if options.port == 0 { free_port()? } else { options.port },
        grpc: free_port()?,
    };
    let mut parts = JoinSet::new();
    spawn_control_plane(&mut parts, &authority, state, &ports, &stop)?;
    for number in 1..=options.nodes {
        spawn_node(&mut parts, &authority, state, options, number, &ports, &stop)?;
    }
    let admin = identity(&authority, state, "admin", "kubernetes-admin", &[names::MASTERS])?;
    let kubeconfig = write_kubeconfig(state, &admin, ports.rest)?;
    let announced = announce(admin, ports.grpc, options.nodes, kubeconfig, started, stop.clone());
    parts.spawn(async move {
        announced.await?;
        stop.cancelled().await;
        Ok(())
    });
    // The first part that ends ends all.
    let first = parts.join_next().await;
    let result = match first {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(error.into()),
        None => Ok(()),
    };
    parts.shutdown().await;
    result
}

/// The identity of one part, kept under `pki/NAME`.
fn identity(authority: &Authority, state: &Path, name: &str, user: &str, groups: &[&str]) -> Result<TlsFiles> {
    let folder = state.join("pki").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    let actor = Actor { user: user.to_owned(), groups: groups.iter().map(|&group| group.to_owned()).collect() };
    Ok(authority.issue_files(&folder, "tls", &actor, &[name.to_owned()])?)
}

/// Flags as a person would give them, with the identity's behind.
fn flags(files: &TlsFiles, words: &str) -> Vec<String> {
    let tls = [("--tls-ca", &files.ca), ("--tls-cert", &files.cert), ("--tls-key", &files.key)];
    std::iter::once("balsa-dev")
        .chain(words.split_whitespace())
        .map(str::to_owned)
        .chain(tls.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]))
        .collect()
}

fn spawn(
    parts: &mut JoinSet<Result<()>>,
    name: &'static str,
    part: impl Future<Output = Result<()>> + Send + 'static,
) {
    parts.spawn(async move { part.await.with_context(|| format!("the {name} ended")) });
}

fn spawn_control_plane(
    parts: &mut JoinSet<Result<()>>,
    authority: &Authority,
    state: &Path,
    ports: &Ports,
    stop: &CancellationToken,
) -> Result<()> {
    let Ports { store, peer, rest, grpc } = ports;
    let files = identity(authority, state, "store1", "balsa:store:store1", &[names::STORES])?;
    let words = format!(
        "--name store1 --data-dir {} --listen-client 127.0.0.1:{store} --listen-peer 127.0.0.1:{peer} --listen-metrics 127.0.0.1:0 \
         --advertise-client https://localhost:{store} --advertise-peer https://localhost:{peer} \
         --initial-cluster store1=https://localhost:{peer}",
        state.join("store").display()
    );
    spawn(parts, "store", balsa_store::run(balsa_store::Config::parse_from(flags(&files, &words)), stop.clone()));
    let key = state.join("pki/sa.key");
    if !key.exists() {
        balsa_process::pki::write_private(&key, &balsa_process::pki::signing_key_pem()?)?;
    }
    let files = identity(authority, state, "apiserver1", names::APISERVER, &[names::MASTERS])?;
    let words = format!(
        "--name apiserver1 --store-endpoints https://localhost:{store} --listen 127.0.0.1:{rest} \
         --listen-grpc 127.0.0.1:{grpc} --service-account-key {}",
        key.display()
    );
    spawn(parts, "apiserver", balsa_apiserver::run(balsa_apiserver::Config::parse_from(flags(&files, &words)), stop.clone()));
    let files = identity(authority, state, "scheduler1", names::SCHEDULER, &[])?;
    let words = format!("--name scheduler1 --apiservers https://localhost:{grpc} --listen 127.0.0.1:0 --listen-grpc 127.0.0.1:0");
    spawn(parts, "scheduler", balsa_scheduler::run(balsa_scheduler::Config::parse_from(flags(&files, &words)), stop.clone()));
    let files = identity(authority, state, "controllers1", names::CONTROLLERS, &[])?;
    let words = format!("--name controllers1 --apiservers https://localhost:{grpc} --listen 127.0.0.1:0");
    spawn(parts, "controllers", balsa_controllers::run(balsa_controllers::Config::parse_from(flags(&files, &words)), stop.clone()));
    Ok(())
}

fn spawn_node(
    parts: &mut JoinSet<Result<()>>,
    authority: &Authority,
    state: &Path,
    options: &Options,
    number: u16,
    ports: &Ports,
    stop: &CancellationToken,
) -> Result<()> {
    let name = format!("node{number}");
    let files = identity(authority, state, &name, &names::node(&name), &[names::NODES])?;
    let folder = state.join("nodes").join(&name);
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    let words = format!(
        "--node-name {name} --apiservers https://localhost:{} --listen 127.0.0.1:{} --state-dir {} --cluster balsa-dev \
         --runtime {} --cgroup-root /sys/fs/cgroup",
        ports.grpc,
        free_port()?,
        folder.display(),
        options.runtime
    );
    spawn(parts, "node", balsa_nodeagent::run(balsa_nodeagent::Config::parse_from(flags(&files, &words)), stop.clone()));
    Ok(())
}

/// Waits until every node is Ready and says where to go from here.
async fn announce(
    admin: TlsFiles,
    grpc: u16,
    nodes: u16,
    kubeconfig: PathBuf,
    started: Instant,
    stop: CancellationToken,
) -> Result<()> {
    use k8s_openapi::api::core::v1::Node;
    let client = Client::new(ClientConfig {
        apiservers: vec![format!("https://localhost:{grpc}")],
        identity: Some(admin.load()?),
        component: "balsa-dev".to_owned(),
    })?;
    let ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    while !stop.is_cancelled() {
        if let Ok(list) = client.list::<Node>("", &ListParams::default()).await
            && list.items.iter().filter(|node| ready(node)).count() >= usize::from(nodes)
        {
            eprintln!(
                "Balsa is up in one process after {:.1} s: {nodes} nodes Ready. export KUBECONFIG={}",
                started.elapsed().as_secs_f64(),
                kubeconfig.display()
            );
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn write_kubeconfig(state: &Path, admin: &TlsFiles, rest: u16) -> Result<PathBuf> {
    let path = state.join("kubeconfig");
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "balsa-dev",
        "clusters": [{"name": "balsa-dev", "cluster": {
            "server": format!("https://127.0.0.1:{rest}"), "certificate-authority": std::path::absolute(&admin.ca)?}}],
        "users": [{"name": "balsa-dev", "user": {
            "client-certificate": std::path::absolute(&admin.cert)?, "client-key": std::path::absolute(&admin.key)?}}],
        "contexts": [{"name": "balsa-dev", "context": {"cluster": "balsa-dev", "user": "balsa-dev"}}],
    });
    fs::write(&path, config.to_string()).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}
