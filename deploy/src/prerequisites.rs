//! What the machine must have, and how it gets it.
//!
//! As root on Debian or Ubuntu what is missing is installed; anywhere else it is named, with the command.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// Something that must be there.
struct Need {
    /// For a person.
    what: &'static str,
    /// The Debian package that brings it.
    package: &'static str,
    present: fn() -> bool,
}

/// To run a cluster.
const CLUSTER: [Need; 5] = [
    Need { what: "a Docker Engine", package: "docker.io", present: || run::exists("dockerd") || crate::engine::answers() },
    Need { what: "docker compose", package: "docker-compose", present: || crate::compose::Compose::find().is_some() },
    Need { what: "CNI plugins", package: "containernetworking-plugins", present: || cni_folder().is_some() },
    Need { what: "nft", package: "nftables", present: || run::exists("nft") },
    Need { what: "a static busybox", package: "busybox-static", present: || static_busybox().is_some() },
];

/// To build Balsa.
const BUILD: [Need; 2] = [
    Need { what: "a C++ compiler (RocksDB)", package: "g++", present: || run::exists("c++") || run::exists("g++") },
    Need { what: "libclang (RocksDB's bindings)", package: "libclang-dev", present: libclang_present },
];

/// To talk to it. Debian's is old; any kubectl on PATH is preferred.
const KUBECTL: Need =
    Need { what: "kubectl", package: "kubernetes-client", present: || run::exists("kubectl") };

fn libclang_present() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let holds_it = |folder: &Path| {
        std::fs::read_dir(folder).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libclang"))
        })
    };
    let versioned = (11..=25).map(|version| format!("/usr/lib/llvm-{version}/lib"));
    ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .map(str::to_owned)
        .into_iter()
        .chain(versioned)
        .any(|folder| holds_it(Path::new(&folder)))
}

/// Where CNI plugins are on this machine.
pub fn cni_folder() -> Option<&'static str> {
    ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"].into_iter().find(|folder| {
        ["bridge", "host-local"].iter().all(|plugin| Path::new(folder).join(plugin).exists())
    })
}

/// A busybox that needs no libraries.
pub fn static_busybox() -> Option<&'static str> {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| is_static(Path::new(path)))
}

/// Whether a program is there and needs no libraries.
pub fn is_static(program: &Path) -> bool {
    let needs_loader = |bytes: &[u8]| bytes.windows(12).any(|window| window == b"/ld-linux-x8" || window == b"/ld-linux-aa");
    std::fs::read(program).is_ok_and(|bytes| !needs_loader(&bytes))
}

fn is_root() -> bool {
    run::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn ensure(needs: &[&Need], say: &dyn Fn(&str)) -> Result<String> {
    let missing: Vec<&&Need> = needs.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok("all there".to_owned());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let list: Vec<&str> = missing.iter().map(|need| need.what).collect();
    let command = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !(is_root() && run::exists("apt-get")) {
        bail!("missing: {}. On Debian or Ubuntu, as root: {command}", list.join(", "));
    }
    say(&format!("installing {}", packages.join(", ")));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        // Installing must not start services on the machine: `up` starts the engine itself, and says so.
        apt.env("RUNLEVEL", "1");
        apt
    };
    run::output(apt().args(["update", "-q"]))?;
    run::output(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(&packages))?;
    if let Some(still) = missing.iter().find(|need| !(need.present)()) {
        bail!("{} is still not there after installing the package {}", still.what, still.package);
    }
    Ok(format!("installed {}", packages.join(", ")))
}

/// What a build needs.
pub fn ensure_build(say: &dyn Fn(&str)) -> Result<String> {
    ensure(&BUILD.iter().collect::<Vec<_>>(), say)
}

/// What a build and a cluster need.
pub fn ensure_all(say: &dyn Fn(&str)) -> Result<String> {
    let mut needs: Vec<&Need> = BUILD.iter().chain(&CLUSTER).collect();
    needs.push(&KUBECTL);
    ensure(&needs, say)
}
