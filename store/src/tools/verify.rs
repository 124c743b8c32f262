//! `verify`: reads everything and checks that the parts fit each other.
//!
//! Checksums of blocks (RocksDB's) and of log entries (our own) are checked by reading them; here it is checked that
//! what they hold makes sense together.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use super::file::Source;
use crate::disk::log::LogDisk;
use crate::disk::state::{ATTACHED, KEYS, REVISIONS, State};
use crate::disk::{counts, hash, keys};
use crate::mvcc::{View as _, live};
use crate::raft::founding;

/// Flags of `verify`.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// A backup, or a stopped member's data directory.
    pub path: PathBuf,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The newest revision.
    pub revision: i64,
    /// The compacted revision.
    pub compacted: i64,
    /// Keys that live.
    pub keys: u64,
    /// Versions of keys, with those that compaction gave up and that are still on disk.
    pub versions: u64,
    /// Leases.
    pub leases: usize,
    /// The hash that `endpoint hashkv` shows of this.
    pub hash: u32,
    /// The log's first and last entry; absent in a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<(u64, u64)>,
}

/// Log entries that are read at one time.
const STEP: u64 = 256;

impl Verify {
    /// Does it.
    pub fn run(self) -> anyhow::Result<()> {
        let source = Source::open(&self.path)?;
        let mut found = state(&source.state)?;
        if source.has_log {
            found.log = log(&self.path)?;
        }
        println!("{}", serde_json::to_string(&found)?);
        Ok(())
    }
}

/// Checks a state.
pub fn state(state: &State) -> anyhow::Result<Found> {
    state.ledger()?;
    let found = state.read(|view| -> Result<Found, Broken> {
        let position = view.position()?;
        let leases: BTreeSet<i64> = view.leases()?.into_iter().map(|(id, _)| id).collect();
        let (mut versions, mut alive, mut last) = (0, 0, Vec::new());
        let mut iterator = view.all(KEYS)?;
        iterator.seek_to_first();
        while let (Some(encoded), Some(stored)) = (iterator.key(), iterator.value()) {
            let (prefix, main, sub) = keys::split(encoded)?;
            let key = keys::user_key(prefix)?;
            let version = keys::decode_version(main, sub, stored, true)?;
            if main > position.revision {
                return Err(Broken(format!("{key:?} has a version of revision {main}, which was not reached")));
            }
            let indexed = view.get(REVISIONS, &keys::revision(main, sub))?;
            if indexed.as_deref() != Some(key.as_ref()) {
                return Err(Broken(format!("revision {main}.{sub} of {key:?} is not in the index of revisions")));
            }
            if prefix != last.as_slice() {
                last = prefix.to_vec();
                alive += u64::from(!version.is_tombstone());
                if version.lease != 0 && view.get(ATTACHED, &keys::attachment(version.lease, &key))?.is_none() {
                    return Err(Broken(format!("{key:?} is not among the keys of its lease {:x}", version.lease)));
                }
            }
            versions += 1;
            iterator.next();
        }
        iterator.status().map_err(crate::error::Fault::from)?;
        for id in &leases {
            for key in view.lease_keys(*id)? {
                if live(view, &key, i64::MAX)?.is_none_or(|version| version.lease != *id) {
                    return Err(Broken(format!("lease {id:x} claims {key:?}, which is not its own")));
                }
            }
        }
        counts::check(view)?;
        let hashed = hash::history(view, 0).map_err(|refusal| Broken(refusal.to_string()))?;
        let (revision, compacted) = (position.revision, position.compacted);
        Ok(Found { revision, compacted, keys: alive, versions, leases: leases.len(), hash: hashed.hash, log: None })
    });
    found.map_err(|Broken(problem)| anyhow::anyhow!("the state is wrong: {problem}"))
}

struct Broken(String);

impl From<crate::error::Fault> for Broken {
    fn from(fault: crate::error::Fault) -> Self {
        Self(fault.0)
    }
}

/// Reads every entry of a log.
fn log(root: &std::path::Path) -> anyhow::Result<Option<(u64, u64)>> {
    let log = LogDisk::open(root, |_| ())?;
    let Some((first, last)) = log.bounds()? else { return Ok(None) };
    let mut next = first;
    while next <= last {
        let entries = log.read(next, (next + STEP).min(last + 1)).context("the log is damaged")?;
        ensure!(!entries.is_empty(), "the log has a hole at {next}");
        for entry in entries {
            let seen = founding::describe(entry).with_context(|| format!("entry {next} of the log is damaged"))?;
            if seen.index != next {
                bail!("the log has entry {} in the place of {next}", seen.index);
            }
            next += 1;
        }
    }
    Ok(Some((first, last)))
}
