//! `down`: the processes stop, the pods' containers go; data stays unless it is to be wiped.

use std::fs;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::compose::{self, Compose};
use crate::engine::{self, docker};
use crate::layout::Layout;
use crate::{kubeconfig, run};

/// Flags of `down`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    #[command(flatten)]
    pub layout: Layout,
    /// Forget the cluster: its data, certificates and kubeconfig too.
    #[arg(long)]
    pub wipe: bool,
}

/// Takes the cluster down.
pub fn down(options: &Options) -> Result<()> {
    let layout = &options.layout;
    layout.check()?;
    if engine::answers() {
        let compose = Compose::find().context("no docker compose on this machine")?;
        let file = compose::place(layout)?;
        // First the control plane and the agents: nothing may bring pods back while they are removed.
        run::output(compose.command(layout, &file)?.args(["down", "--remove-orphans", "--timeout", "10"]))?;
        remove_pods(layout)?;
    }
    if options.wipe {
        kubeconfig::remove_from_users(layout)?;
        wipe(layout)?;
    }
    eprintln!(
        "Balsa {:?} is down{}",
        layout.cluster,
        if options.wipe { " and forgotten" } else { "; `cargo balsa up` brings it back with its data" }
    );
    Ok(())
}

/// Pods outlive their agents on purpose; here their containers and volumes end with the cluster.
fn remove_pods(layout: &Layout) -> Result<()> {
    let filter = format!("label=balsa.cluster={}", layout.cluster);
    for (list, remove) in [
        (["ps", "--all", "--quiet", "--filter", &filter], ["rm", "--force", "--volumes"].as_slice()),
        (["volume", "ls", "--quiet", "--filter", &filter], ["volume", "rm", "--force"].as_slice()),
    ] {
        let ids = run::output(&mut docker(&list))?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        for some in ids.chunks(100) {
            run::output(docker(remove).args(some))?;
        }
    }
    remove_cgroups(layout);
    Ok(())
}

/// The engine leaves the pods' cgroup folders behind.
fn remove_cgroups(layout: &Layout) {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return };
    let roots = hierarchies.flatten().map(|entry| entry.path()).chain([std::path::PathBuf::from("/sys/fs/cgroup")]);
    for root in roots {
        remove_empty_tree(&root.join("balsa").join(&layout.cluster));
        // Other clusters' folders keep it.
        fs::remove_dir(root.join("balsa")).ok();
    }
}

/// Depth first; a folder that still has processes in it stays, which is no error here.
fn remove_empty_tree(folder: &std::path::Path) {
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            remove_empty_tree(&entry.path());
        }
    }
    fs::remove_dir(folder).ok();
}

/// Removes only what `up` makes, so that a mistaken --state costs nobody their files.
fn wipe(layout: &Layout) -> Result<()> {
    let state = layout.state_dir()?;
    for name in ["pki", "data", "nodes"] {
        let path = state.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        }
    }
    for name in ["kubeconfig", "compose.yaml", ".env"] {
        fs::remove_file(state.join(name)).ok();
    }
    Ok(())
}
