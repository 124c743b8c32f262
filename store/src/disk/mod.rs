//! What lies on disk, in two RocksDB databases under the data directory.
//!
//! - `log/`: the Raft log, the vote and the committed position. The only thing that is synced per write ([`log`]).
//! - `state-N/`: the key space ([`state`]). Written without a write-ahead log: after a crash it is some earlier,
//!   consistent moment, says itself which (the applied index is part of every write), and is brought up to date from
//!   the Raft log. Therefore the log is purged only up to what the state has flushed.
//! - `STATE`: the name of the state directory that counts, replaced atomically when a snapshot is installed.

pub mod checkpoint;
pub mod counts;
pub mod files;
pub mod hash;
pub mod keys;
pub mod log;
pub mod options;
pub mod state;
pub mod torn;
pub mod view;

pub use files::real::{make_dir, replace_file, sync_dir};

#[cfg(not(test))]
pub(crate) use rocksdb as engine;
#[cfg(test)]
pub(crate) use crate::sim::engine;
