//! What an operator does with a store besides running it: `balsa-store backup | restore | verify | dump`.

pub mod backup;
pub mod dump;
pub mod file;
pub mod restore;
pub mod verify;

use clap::{Parser, Subcommand};

/// `balsa-store TOOL …`.
#[derive(Debug, Parser)]
#[command(name = "balsa-store", about = "Balsa's store: tools", version)]
pub struct Tools {
    /// Which.
    #[command(subcommand)]
    pub tool: Tool,
}

/// One of them.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Save a running member's state to a file.
    Backup(backup::Backup),
    /// Make the data directory of a member of a new cluster from a backup; once for each member, from the same file.
    Restore(restore::Restore),
    /// Read every byte of a backup or of a stopped member's data directory and check what can be checked.
    Verify(verify::Verify),
    /// Print a backup's, or a stopped member's, keys or log as lines of JSON.
    Dump(dump::Dump),
}

/// Whether the program is called as one of the tools.
pub fn is_called(first: Option<&str>) -> bool {
    matches!(first, Some("backup" | "restore" | "verify" | "dump"))
}

/// Does what was asked for.
pub async fn run(tools: Tools) -> anyhow::Result<()> {
    match tools.tool {
        Tool::Backup(backup) => backup.run().await,
        Tool::Restore(restore) => restore.run().await,
        Tool::Verify(verify) => tokio::task::spawn_blocking(move || verify.run()).await?,
        Tool::Dump(dump) => tokio::task::spawn_blocking(move || dump.run()).await?,
    }
}
