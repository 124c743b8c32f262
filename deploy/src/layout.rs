//! Which cluster: its name, its size, its ports, and where its files are.
//!
//! Two clusters of different names, state folders and ports live side by side on one machine; the tests use that.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

/// What a person can choose about a cluster. The same flags go with `up`, `down` and `status`.
#[derive(Args, Clone, Debug)]
pub struct Layout {
    /// Name of the cluster: the compose project, the kubectl context and the prefix of every container.
    #[arg(long, default_value = "balsa", env = "BALSA_CLUSTER")]
    pub cluster: String,
    /// Where its certificates, data and kubeconfig live [default: .balsa at the repository root].
    #[arg(long, env = "BALSA_STATE_DIR")]
    pub state: Option<PathBuf>,
    /// Number of nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub nodes: u8,
    /// Number of store replicas: 1, 3 or 5.
    #[arg(long, default_value_t = 3, value_parser = parse_stores)]
    pub stores: u8,
    /// Number of apiservers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub apiservers: u8,
    /// Port of the first apiserver on 127.0.0.1; the second one's is 10000 higher, and so on.
    #[arg(long, default_value_t = 6443)]
    pub api_port: u16,
    /// Client port of the first store on 127.0.0.1; the others' are 20000, 30000, … higher.
    #[arg(long, default_value_t = 2379)]
    pub store_port: u16,
    /// Run this etcd program in place of Balsa's store: static, 3.5 or newer.
    #[arg(long, value_name = "PROGRAM", env = "BALSA_ETCD")]
    pub etcd: Option<PathBuf>,
}

fn parse_stores(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("must be 1, 3 or 5: a majority of an even number is no smaller than that of the next odd one".to_owned()),
    }
}

/// Addresses of pods; each node gets a /24 of it.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// Addresses of Services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";

/// The folder that holds the workspace's Cargo.toml, looked for from the current folder upwards.
pub fn repository() -> Result<PathBuf> {
    let start = std::env::current_dir().context("the current folder is gone")?;
    start
        .ancestors()
        .find(|folder| folder.join("deploy/src/layout.rs").exists())
        .map(Path::to_owned)
        .with_context(|| format!("{} is not inside a checkout of Balsa", start.display()))
}

impl Layout {
    /// Where the cluster's files are; absolute.
    pub fn state_dir(&self) -> Result<PathBuf> {
        match &self.state {
            Some(path) => std::path::absolute(path).with_context(|| format!("{}", path.display())),
            None => Ok(repository()?.join(".balsa")),
        }
    }

    /// The kubeconfig that reaches this cluster and nothing else.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        Ok(self.state_dir()?.join("kubeconfig"))
    }

    /// `store1`, `store2`, …
    pub fn store_names(&self) -> Vec<String> {
        (1..=self.stores).map(|number| format!("store{number}")).collect()
    }

    /// `apiserver1`, …
    pub fn apiserver_names(&self) -> Vec<String> {
        (1..=self.apiservers).map(|number| format!("apiserver{number}")).collect()
    }

    /// `node1`, …
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("node{number}")).collect()
    }

    /// Client port on 127.0.0.1 of the store with this index, from 0: 2379, 22379, 32379, 42379, 52379.
    pub fn store_port_of(&self, index: usize) -> u16 {
        let offset = if index == 0 { 0 } else { (index as u16 + 1) * 10_000 };
        self.store_port.saturating_add(offset)
    }

    /// Port on 127.0.0.1 of the apiserver with this index, from 0: 6443, 16443, …
    pub fn api_port_of(&self, index: usize) -> u16 {
        self.api_port.saturating_add(index as u16 * 10_000)
    }

    /// The name of the container that runs `process`.
    pub fn container(&self, process: &str) -> String {
        format!("{}-{process}", self.cluster)
    }

    /// Refuses names that Docker, compose or a path could not carry.
    pub fn check(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.cluster.is_empty() || self.cluster.len() > 40 || !self.cluster.chars().all(fits) || self.cluster.starts_with('-') {
            bail!("--cluster {:?}: use up to 40 of a-z, 0-9 and -, not starting with -", self.cluster);
        }
        let top = self.store_port_of(usize::from(self.stores) - 1);
        if top == u16::MAX || self.api_port_of(usize::from(self.apiservers) - 1) == u16::MAX {
            bail!("--store-port or --api-port is too high: the last replica's port would pass 65535");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        layout: Layout,
    }

    fn layout(words: &[&str]) -> Layout {
        Line::parse_from([&["x"], words].concat()).layout
    }

    #[test]
    fn default_ports_are_those_that_etcd_users_know() {
        let layout = layout(&[]);
        assert_eq!([0, 1, 2].map(|index| layout.store_port_of(index)), [2379, 22379, 32379]);
        assert_eq!([0, 1].map(|index| layout.api_port_of(index)), [6443, 16443]);
        assert!(layout.check().is_ok());
    }

    #[test]
    fn odd_names_and_even_quorums_are_refused() {
        assert!(layout(&["--cluster", "a b"]).check().is_err());
        assert!(Line::try_parse_from(["x", "--stores", "2"]).is_err());
    }
}
