//! What lies on disk, in two RocksDB databases under the data directory.
//!
//! - `log/`: the Raft log, the vote and the committed position. The only thing that is synced per write ([`log`]).
//! - `state-N/`: the key space ([`state`]). Written without a write-ahead log: after a crash it is some earlier,
//!   consistent moment, says itself which (the applied index is part of every write), and is brought up to date from
//!   the Raft log. Therefore the log is purged only up to what the state has flushed.
//! - `STATE`: the name of the state directory that counts, replaced atomically when a snapshot is installed.

pub mod checkpoint;
pub mod hash;
pub mod keys;
pub mod log;
pub mod options;
pub mod state;
pub mod view;

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes renames, creations and removals in a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a small file so that a crash leaves the old or the new content, never a mixture.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    {
        let mut file = File::create(&fresh)?;
        io::Write::write_all(&mut file, content)?;
        file.sync_all()?;
    }
    std::fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}
