//! `restore`: a data directory for a member of a new cluster, from a backup.
//!
//! The keys, their history and leases stay; the cluster is a new one (other ids, other members), so that members of
//! the old one are refused. Each member is restored by itself from the same file: all then hold the same state, and
//! say that it was made by the first entry of a log that is cut behind it.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Parser as _;

use super::{file, verify};
use crate::config::Config;
use crate::disk::log::LogDisk;
use crate::disk::state::State;
use crate::member;
use crate::mvcc::Position;
use crate::raft::founding::Founding;

/// Flags of `restore`.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The backup.
    pub file: PathBuf,
    /// The directory to make; it must not exist, or be empty.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// This member's name.
    #[arg(long, default_value = "store1")]
    pub name: String,
    /// All members of the new cluster: NAME=PEER_URL,...; default this one alone.
    #[arg(long, default_value = "")]
    pub initial_cluster: String,
    /// Keeps clusters with the same names apart.
    #[arg(long, default_value = "balsa")]
    pub cluster_token: String,
    /// How the other members reach this one; default its entry in --initial-cluster.
    #[arg(long, value_name = "URL")]
    pub advertise_peer: Option<String>,
    /// Whether the peer URLs are https.
    #[arg(long)]
    pub tls: bool,
    /// How many revisions to leave out, so that clients which saw more than the backup holds notice.
    #[arg(long, default_value_t = 0)]
    pub bump_revision: u32,
    /// With --bump-revision: history up to the new revision counts as compacted, so that watchers begin anew.
    #[arg(long, requires = "bump_revision")]
    pub mark_compacted: bool,
    /// Restore also what does not end with a hash that fits.
    #[arg(long)]
    pub skip_hash_check: bool,
}

impl Restore {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        let root = &self.data_dir;
        let empty = !root.exists() || std::fs::read_dir(root)?.next().is_none();
        ensure!(empty, "{} is not empty; a restored member needs a directory of its own", root.display());
        if !self.skip_hash_check {
            file::check(&self.file)?;
        }
        let identity = self.identity()?;
        file::unpack(&self.file, &root.join("state-0"))?;
        crate::disk::replace_file(&root.join("STATE"), b"state-0")?;
        let state = State::open(root)?;
        let found = verify::state(&state).context("the backup's content is wrong")?;
        let founding = Founding::of(&identity.members)?;
        let position = self.rewrite(&state, &founding)?;
        LogDisk::open(root, |_| ())?.purge(Founding::INDEX, founding.log_id).await?;
        // Last: without it the directory is not a member's yet.
        member::write(root, &identity)?;
        println!(
            "restored {} keys at revision {} as member {:x} of cluster {:x} to {}",
            found.keys, position.revision, identity.id, identity.cluster_id, root.display()
        );
        Ok(())
    }

    fn identity(&self) -> anyhow::Result<member::Identity> {
        let mut config = Config::try_parse_from(["balsa-store", "--data-dir", "."])?;
        config.name.clone_from(&self.name);
        config.initial_cluster.clone_from(&self.initial_cluster);
        config.cluster_token.clone_from(&self.cluster_token);
        config.advertise_peer.clone_from(&self.advertise_peer);
        let members = config.members_by(if self.tls { "https" } else { "http" })?;
        Ok(member::of(&config, members))
    }

    /// Makes the state the new cluster's.
    fn rewrite(&self, state: &State, founding: &Founding) -> anyhow::Result<Position> {
        let mut position = state.read(|view| view.position())?;
        position.revision += i64::from(self.bump_revision);
        if self.mark_compacted {
            position.compacted = position.revision;
        }
        let mut ledger = state.ledger()?;
        // The old members' names and URLs; the new ones publish theirs.
        ledger.members.clear();
        state.refound(position, &founding.log_id, &founding.membership, &ledger)?;
        state.flush(Founding::INDEX)?;
        Ok(position)
    }
}
