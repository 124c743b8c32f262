//! `up`: everything from nothing to a cluster that is ready.
//!
//! Every step can be repeated: what is there already is left alone.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use balsa_process::tls::TlsFiles;
use clap::Args;
use serde_json::Value;

use crate::build::{self, Profile};
use crate::compose::{self, Compose};
use crate::http::Api;
use crate::layout::Layout;
use crate::steps::{Steps, duration};
use crate::{engine, http, images, kubeconfig, pki, prerequisites, run};

/// Flags of `up`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    #[command(flatten)]
    pub layout: Layout,
    /// How to build the services.
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    pub profile: Profile,
    /// Leave the user's kubeconfig alone.
    #[arg(long)]
    pub no_merge: bool,
    /// Build the tests along, as a test run wants it.
    #[arg(skip)]
    pub with_tests: bool,
    /// How long to wait until the cluster is ready, seconds.
    #[arg(long, default_value_t = 180)]
    pub wait: u64,
}

/// Brings the cluster up.
pub fn up(options: &Options) -> Result<()> {
    options.layout.check()?;
    let layout = &options.layout;
    let steps = Steps::new();
    eprintln!(
        "Balsa {:?}: {} stores, {} apiservers, 2 schedulers, 2 controllers, {} nodes",
        layout.cluster, layout.stores, layout.apiservers, layout.nodes
    );
    let state = layout.state_dir()?;
    steps.run("what the machine needs", |say| Ok(((), prerequisites::ensure_all(say)?)))?;
    steps.run("Docker Engine", |say| {
        let (_, note) = engine::ensure(&state, say)?;
        Ok(((), note))
    })?;
    // Not inside a step: cargo has a progress display of its own.
    eprintln!("  … building (RocksDB alone takes about ten minutes the first time)");
    let binaries =
        steps.run("build", |_| Ok((build::binaries(&build::SERVICES, options.profile, options.with_tests)?, String::new())))?;
    steps.run("images", |say| Ok(((), images::make(&binaries, layout.etcd.as_deref(), say)?)))?;
    let admin = steps.run("certificates", |_| Ok((pki::make(layout)?, format!("{}", state.join("pki").display()))))?;
    steps.run("containers", |_| {
        start(layout)?;
        Ok(((), String::new()))
    })?;
    let limit = Duration::from_secs(options.wait);
    steps.run("ready", |say| Ok(((), wait_ready(layout, &admin, limit, say)?)))?;
    let config = steps.run("kubeconfig", |_| {
        let path = kubeconfig::write_own(layout, &admin)?;
        let note = if options.no_merge { path.display().to_string() } else { kubeconfig::merge_into_users(layout, &admin)? };
        Ok((path, note))
    })?;
    eprintln!("\nUp in {}. Try:\n", duration(steps.total()));
    eprintln!("  export KUBECONFIG={}", config.display());
    eprintln!("  kubectl get nodes -o wide");
    eprintln!("  kubectl run hello --image=balsa/busybox:1 -- sh -c 'while true; do date; sleep 1; done'");
    eprintln!("  kubectl logs -f hello");
    eprintln!("  cargo balsa status\n");
    Ok(())
}

fn start(layout: &Layout) -> Result<()> {
    let compose = Compose::find().context("no docker compose on this machine")?;
    for name in layout.node_names() {
        fs::create_dir_all(layout.state_dir()?.join("nodes").join(&name))?;
    }
    for name in layout.store_names() {
        fs::create_dir_all(layout.state_dir()?.join("data").join(&name))?;
    }
    let file = compose::place(layout)?;
    run::output(compose.command(layout, &file)?.args(["up", "--detach", "--remove-orphans"]))?;
    Ok(())
}

/// Ready nodes of a node list: (ready, all).
fn ready_nodes(list: &Value) -> (usize, usize) {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let ready = items.iter().filter(|node| node_is_ready(node)).count();
    (ready, items.len())
}

/// Whether a Node says that it is ready.
pub fn node_is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn wait_ready(layout: &Layout, admin: &TlsFiles, limit: Duration, say: &dyn Fn(&str)) -> Result<String> {
    let identity = admin.load()?;
    let deadline = Instant::now() + limit;
    let runtime = http::runtime()?;
    loop {
        let missing = runtime.block_on(what_is_missing(layout, &identity));
        match missing {
            None => return Ok(format!("{} nodes Ready", layout.nodes)),
            Some(missing) if Instant::now() > deadline => {
                bail!(
                    "not ready after {}: {missing}. `docker logs {}` and its neighbours say more; `cargo balsa up` \
                     can be repeated",
                    duration(limit),
                    layout.container("apiserver1")
                )
            }
            Some(missing) => say(&format!("waiting for {missing}")),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// One thing that the cluster still lacks.
async fn what_is_missing(layout: &Layout, identity: &balsa_process::tls::TlsIdentity) -> Option<String> {
    for index in 0..usize::from(layout.apiservers) {
        let api = Api::new(identity.clone(), layout.api_port_of(index));
        let ready = api.send(::http::Method::GET, "/readyz", None, Duration::from_secs(3)).await;
        let name = format!("apiserver{}", index + 1);
        match ready {
            Ok(answer) if answer.code == 200 => {}
            Ok(answer) => return Some(format!("{name} ({})", answer.body.lines().next().unwrap_or("no answer"))),
            Err(error) => return Some(format!("{name} ({error:#})")),
        }
    }
    let api = Api::new(identity.clone(), layout.api_port_of(0));
    match api.get("/api/v1/nodes").await {
        Err(error) => Some(format!("the node list ({error:#})")),
        Ok(list) => {
            let (ready, all) = ready_nodes(&list);
            let wanted = usize::from(layout.nodes);
            (ready < wanted).then(|| format!("nodes: {ready} of {wanted} Ready, {all} registered"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_whose_condition_is_true_count() {
        let node = |status: &str| serde_json::json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let list = serde_json::json!({"items": [node("True"), node("Unknown"), {}]});
        assert_eq!(ready_nodes(&list), (1, 3));
    }
}
