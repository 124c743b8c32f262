//! `test`: the tests, all or by name. README's test command and CI are this.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::build::{self, Profile};
use crate::layout::{self, Layout};
use crate::steps::{Steps, duration};
use crate::{down, engine, peers, prerequisites, run, up};

/// Flags of `test`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// unit: everything that needs no Docker. e2e: a real cluster, the real kubectl. chaos: the same, and processes
    /// are killed. etcd: e2e once more, on a cluster whose stores are real etcds. Without a word: all of them.
    #[arg(value_parser = ["unit", "e2e", "chaos", "etcd"])]
    what: Vec<String>,
    /// Leave the test cluster up afterwards, to look at.
    #[arg(long)]
    keep: bool,
}

/// Runs them. The first failing group ends the run, after its cluster has been taken down.
pub fn test(options: &Options) -> Result<()> {
    let steps = Steps::new();
    let wants = |what: &str| options.what.is_empty() || options.what.iter().any(|word| word == what);
    prerequisites::ensure_build(&|text| eprintln!("  … {text}"))?;
    if wants("unit") {
        // The suites that need a cluster are switched off in tests/Cargo.toml unless they are named.
        run::inherit(build::cargo().args(["test", "--workspace"]))?;
    }
    let mut clusters = Vec::new();
    let suites: Vec<&str> = ["e2e", "chaos"].into_iter().filter(|suite| wants(suite)).collect();
    if !suites.is_empty() {
        clusters.push((test_layout(None)?, suites));
    }
    if wants("etcd") {
        clusters.push((test_layout(Some(peers::etcd()?))?, vec!["e2e"]));
    }
    if !clusters.is_empty() {
        on_clusters(&clusters, options.keep)?;
    }
    eprintln!("\nAll done in {}", duration(steps.total()));
    Ok(())
}

/// A cluster of its own, beside any that runs already.
fn test_layout(etcd: Option<PathBuf>) -> Result<Layout> {
    Ok(Layout {
        cluster: "balsa-test".to_owned(),
        state: Some(layout::repository()?.join(".balsa/test")),
        nodes: 3,
        stores: 3,
        apiservers: 2,
        api_port: 6553,
        store_port: 2389,
        etcd,
    })
}

/// One after the other, on one engine. `keep` leaves the last cluster up.
fn on_clusters(clusters: &[(Layout, Vec<&str>)], keep: bool) -> Result<()> {
    prerequisites::ensure_all(&|text| eprintln!("  … {text}"))?;
    let (engine_started, _) = engine::ensure(&test_layout(None)?.state_dir()?, &|_| {})?;
    let last = clusters.len().saturating_sub(1);
    let result = clusters
        .iter()
        .enumerate()
        .try_for_each(|(number, (layout, suites))| on_cluster(layout, suites, keep && number == last));
    if let Some(process) = engine_started.filter(|_| !keep) {
        // Only the engine that this run started.
        run::output(Command::new("kill").arg(process.to_string())).ok();
    }
    result
}

fn on_cluster(layout: &Layout, suites: &[&str], keep: bool) -> Result<()> {
    let wipe = down::Options { layout: layout.clone(), wipe: true };
    // What an interrupted run left behind.
    down::down(&wipe)?;
    let up_options = up::Options { layout: layout.clone(), profile: Profile::Dev, no_merge: true, with_tests: true, wait: 300 };
    let result = up::up(&up_options).and_then(|()| run_suites(layout, suites));
    if result.is_err() {
        save_logs(layout);
    }
    if keep {
        eprintln!("kept: KUBECONFIG={}", layout.kubeconfig()?.display());
        return result;
    }
    result.and(down::down(&wipe))
}

fn run_suites(layout: &Layout, suites: &[&str]) -> Result<()> {
    let mut failed = Vec::new();
    let etcdctl = peers::etcdctl()?;
    for suite in suites {
        let mut cargo = build::cargo();
        cargo.args(["test", "--workspace", "--test", suite, "--", "--test-threads=2"]);
        if layout.etcd.is_some() {
            // These bring their own stores along: once is enough.
            cargo.args(["--skip", "store_alone", "--skip", "etcdctl::commands", "--skip", "go_client"]);
        }
        cargo.env("BALSA_TEST_STATE", layout.state_dir()?);
        cargo.env("BALSA_TEST_CLUSTER", &layout.cluster);
        cargo.env("BALSA_TEST_STORE_PORT", layout.store_port.to_string());
        cargo.env("BALSA_TEST_ETCDCTL", &etcdctl);
        cargo.env("KUBECONFIG", layout.kubeconfig()?);
        if run::inherit(&mut cargo).is_err() {
            failed.push(*suite);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// What the processes said, for whoever looks into a failure.
fn save_logs(layout: &Layout) {
    let Ok(folder) = layout.state_dir().map(|state| state.join("logs")) else { return };
    std::fs::create_dir_all(&folder).ok();
    let processes = layout.store_names().into_iter().chain(layout.apiserver_names()).chain(layout.node_names()).chain(
        ["scheduler1", "scheduler2", "controllers1", "controllers2"].map(str::to_owned),
    );
    for process in processes {
        let said = engine::docker(&["logs", "--tail", "2000", &layout.container(&process)]).output();
        if let Ok(said) = said {
            std::fs::write(folder.join(format!("{process}.log")), [said.stdout, said.stderr].concat()).ok();
        }
    }
    eprintln!("logs of every process: {}", folder.display());
}
