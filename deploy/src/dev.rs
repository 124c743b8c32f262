//! `dev`: the whole cluster in one process. It is a program of its own (`deploy/dev`), because this command must build
//! on a machine that cannot build RocksDB yet.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::{prerequisites, run};

/// Flags of `dev`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Number of nodes.
    #[arg(long, default_value_t = 1)]
    nodes: u16,
    /// What runs the pods: Docker, or a fake that keeps them in memory.
    #[arg(long, default_value = "fake", value_parser = ["docker", "fake"])]
    runtime: String,
    /// REST port on 127.0.0.1.
    #[arg(long, default_value_t = 16443)]
    port: u16,
    /// Where its data is; a folder that goes with the process where none is given.
    #[arg(long)]
    state: Option<PathBuf>,
}

/// Builds it and becomes it.
pub fn dev(options: &Options) -> Result<()> {
    prerequisites::ensure_build(&|_| {})?;
    let binary = build::binaries(&["balsa-dev"], Profile::Dev, false)?.remove(0);
    let mut command = std::process::Command::new(binary);
    command.args(["--nodes", &options.nodes.to_string(), "--runtime", &options.runtime]);
    command.args(["--port", &options.port.to_string()]);
    if let Some(state) = &options.state {
        command.arg("--state").arg(state);
    }
    run::inherit(&mut command)
}
