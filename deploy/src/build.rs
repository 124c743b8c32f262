//! Building the services.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{layout, run};

/// The five services, as packages and as binaries.
pub const SERVICES: [&str; 5] =
    ["balsa-store", "balsa-apiserver", "balsa-scheduler", "balsa-controllers", "balsa-nodeagent"];

/// Which optimisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Quick to build; what is hot is optimised all the same. The tests use it.
    Dev,
    /// For figures.
    Release,
    /// As release, smaller and slower to build.
    Dist,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }
}

/// Builds the workspace's binaries and returns where those of `packages` are, in the order given.
///
/// Always the whole workspace, and for a test run with its tests: another selection would unify features differently
/// and build most dependencies a second time.
pub fn binaries(packages: &[&str], profile: Profile, with_tests: bool) -> Result<Vec<PathBuf>> {
    let mut cargo = cargo();
    cargo.args(["build", "--workspace", "--bins", "--profile", profile.name()]);
    if with_tests {
        cargo.arg("--tests");
    }
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let printed = cargo.stderr(std::process::Stdio::inherit()).output().context("cannot run cargo")?;
    if !printed.status.success() {
        anyhow::bail!("cargo build failed");
    }
    keep_rocksdb(&printed.stdout);
    let artifacts: Vec<(String, PathBuf)> = String::from_utf8_lossy(&printed.stdout)
        .lines()
        .filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let path = message.get("executable")?.as_str()?;
            if message["profile"]["test"] == true {
                return None;
            }
            Some((message.get("target")?.get("name")?.as_str()?.to_owned(), path.into()))
        })
        .collect();
    packages
        .iter()
        .map(|package| {
            artifacts
                .iter()
                .find(|(name, _)| name == package)
                .map(|(_, path)| path.clone())
                .with_context(|| format!("cargo built no binary named {package}"))
        })
        .collect()
}

/// Where a built `librocksdb.a` is kept between clones, target folders and profiles: it is C++ with fixed flags, and
/// by far the longest build.
fn rocksdb_cache() -> Option<PathBuf> {
    let lock = std::fs::read_to_string(layout::repository().ok()?.join("Cargo.lock")).ok()?;
    let version = lock.split("name = \"librocksdb-sys\"\nversion = \"").nth(1)?.split('"').next()?.to_owned();
    let home = std::env::var_os("HOME")?;
    Some(PathBuf::from(home).join(".cache/balsa").join(format!("rocksdb-{version}-{}", std::env::consts::ARCH)))
}

/// Copies a library that this build made into the cache. A cache that cannot be written costs time, not correctness.
fn keep_rocksdb(messages: &[u8]) {
    let Some(cache) = rocksdb_cache().filter(|cache| !cache.join("librocksdb.a").exists()) else { return };
    let built = String::from_utf8_lossy(messages)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|message| {
            message["reason"] == "build-script-executed"
                && message["package_id"].as_str().is_some_and(|package| package.contains("librocksdb-sys"))
        })
        .and_then(|message| message["out_dir"].as_str().map(|folder| PathBuf::from(folder).join("librocksdb.a")));
    if let Some(built) = built.filter(|path| path.exists()) {
        let partial = cache.join("partial");
        std::fs::create_dir_all(&cache).ok();
        if std::fs::copy(built, &partial).is_ok() {
            std::fs::rename(partial, cache.join("librocksdb.a")).ok();
        }
    }
}

/// cargo, at the repository's root.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if let Ok(root) = layout::repository() {
        cargo.current_dir(root);
    }
    let kept = rocksdb_cache().filter(|cache| cache.join("librocksdb.a").exists());
    if let (Some(cache), None) = (kept, std::env::var_os("ROCKSDB_LIB_DIR")) {
        cargo.env("ROCKSDB_LIB_DIR", cache).env("ROCKSDB_STATIC", "1");
    }
    // Of the `cargo run` that started us; it would leak our own package's settings into the build.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH" {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// rustc for the one program that is no package: the pause container's.
pub fn rustc(words: &[&str]) -> Result<String> {
    run::output(Command::new("rustc").args(words))
}
