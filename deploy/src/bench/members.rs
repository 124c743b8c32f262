//! Members of a store on loopback, ours or etcd's, as processes of their own in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::build::{self, Profile};
use crate::{peers, run};

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// The store of this project.
    Balsa,
    /// The real one.
    Etcd,
}

impl System {
    /// As figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Balsa => "balsa",
            Self::Etcd => "etcd",
        }
    }
}

/// Which build of our store is measured.
pub struct Store {
    /// How it is built.
    pub profile: Profile,
    /// It is here already.
    pub program: Option<PathBuf>,
}

impl Store {
    /// What figures say of it.
    pub fn name(&self) -> String {
        match &self.program {
            Some(_) => "given".to_owned(),
            None => format!("{:?}", self.profile).to_lowercase(),
        }
    }
}

/// What is measured, with its program: etcd, where it can be had, and our store.
pub fn systems(store: &Store) -> Result<Vec<(System, PathBuf)>> {
    let store = match &store.program {
        Some(program) => program.clone(),
        None => build::binaries(&["balsa-store"], store.profile, false)?.remove(0),
    };
    let mut systems = Vec::new();
    match peers::etcd() {
        Ok(program) => systems.push((System::Etcd, program)),
        Err(error) => eprintln!("measured alone: {error:#}"),
    }
    systems.push((System::Balsa, store));
    Ok(systems)
}

/// Running members; they end with this value.
pub struct Members {
    children: Vec<Child>,
    /// Where clients go.
    pub endpoints: Vec<String>,
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Already gone is as good.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Members {
    /// Starts `count` members of `system` from `program`, with data under `folder`; two ports each from `first_port` up.
    /// Data that is there already is used.
    pub fn start(system: System, program: &Path, folder: &Path, count: u16, first_port: u16) -> Result<Self> {
        let client = |index: u16| first_port + 2 * index;
        let peer = |index: u16| first_port + 2 * index + 1;
        let initial: Vec<String> =
            (0..count).map(|index| format!("m{index}=http://127.0.0.1:{}", peer(index))).collect();
        let initial = initial.join(",");
        let mut members = Self { children: Vec::new(), endpoints: Vec::new() };
        for index in 0..count {
            let data = folder.join(format!("{system:?}-{index}"));
            fs::create_dir_all(&data).with_context(|| format!("{}", data.display()))?;
            let log = fs::File::create(folder.join(format!("{system:?}-{index}.log")))?;
            let mut command = Command::new(program);
            command.env("RUST_LOG", "warn");
            let (client, peer) = (client(index), peer(index));
            let arguments = match system {
                System::Balsa => format!(
                    "--name m{index} --data-dir {} --listen-client 127.0.0.1:{client} --listen-peer 127.0.0.1:{peer} \
                     --listen-metrics 127.0.0.1:0 --advertise-client http://127.0.0.1:{client} \
                     --advertise-peer http://127.0.0.1:{peer} --initial-cluster {initial}",
                    data.display()),
                System::Etcd => format!(
                    "--name m{index} --data-dir {} --quota-backend-bytes 8589934592 --log-level error \
                     --listen-client-urls http://127.0.0.1:{client} --advertise-client-urls http://127.0.0.1:{client} \
                     --listen-peer-urls http://127.0.0.1:{peer} --initial-advertise-peer-urls http://127.0.0.1:{peer} \
                     --initial-cluster {initial}",
                    data.display()),
            };
            command.args(arguments.split_whitespace());
            let child = command
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot start {}", program.display()))?;
            members.children.push(child);
            members.endpoints.push(format!("http://127.0.0.1:{client}"));
        }
        Ok(members)
    }

    /// Ends all members as an administrator would and waits until they are gone.
    pub fn stop(mut self) -> Result<()> {
        for child in &mut self.children {
            run::output(Command::new("kill").arg(child.id().to_string()))?;
        }
        for child in &mut self.children {
            child.wait()?;
        }
        Ok(())
    }

    /// Resident memory of all members, bytes.
    pub fn resident(&self) -> u64 {
        self.children.iter().map(|child| super::memory::resident(child.id())).sum()
    }

    /// CPU time of all members so far, microseconds.
    pub fn cpu_micros(&self) -> u64 {
        self.children.iter().map(|child| super::cpu_micros(child.id())).sum()
    }
}
