//! A backup's file: the tar file that a Snapshot stream carries, and its SHA-256 as the last 32 bytes.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

use crate::disk::state::State;

/// Bytes of the hash at the end.
pub const HASH: u64 = 32;
const BLOCK: u64 = 512;

/// Whether a file of this size can be a whole backup; etcd's tools judge by the same rule.
pub fn has_hash(size: u64) -> bool {
    size > HASH && size % BLOCK == HASH
}

/// Checks the hash.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata()?.len();
    ensure!(has_hash(size), "{} is not a whole backup: it does not end with a hash", path.display());
    let mut hasher = Sha256::new();
    io::copy(&mut (&mut file).take(size - HASH), &mut hasher)?;
    let mut expected = [0; HASH as usize];
    file.read_exact(&mut expected)?;
    ensure!(hasher.finalize()[..] == expected[..], "{} is damaged: its hash does not fit", path.display());
    Ok(())
}

/// Unpacks the files into `dir`, each synced.
pub fn unpack(path: &Path, dir: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    crate::disk::make_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut archive = tar::Archive::new(file.take(size.saturating_sub(HASH)));
    for entry in archive.entries().context("a file that is no backup")? {
        let mut entry = entry.context("a damaged backup")?;
        let name = entry.path()?.display().to_string();
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        ensure!(plain && !name.starts_with('.') && !name.is_empty(), "the backup holds an unusable file name: {name:?}");
        ensure!(entry.header().entry_type().is_file(), "the backup holds something else than files: {name}");
        let mut to = File::create_new(dir.join(&name)).with_context(|| format!("cannot write {name}"))?;
        io::copy(&mut entry, &mut to)?;
        to.sync_all()?;
    }
    Ok(crate::disk::sync_dir(dir)?)
}

/// What a tool reads: a backup (unpacked for as long as this lives), or a data directory.
pub struct Source {
    /// The state in it.
    pub state: State,
    /// Whether there is a log beside it.
    pub has_log: bool,
    _unpacked: Option<Unpacked>,
}

struct Unpacked(std::path::PathBuf);

impl Drop for Unpacked {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, dir = %self.0.display(), "cannot remove an unpacked backup");
        }
    }
}

impl Source {
    /// Opens a backup or a data directory. A backup is unpacked beside itself.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let kind = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if kind.is_dir() {
            ensure!(path.join("STATE").exists(), "{} is no data directory of a store", path.display());
            let state = State::open(path).context("is the member still running?")?;
            return Ok(Self { state, has_log: true, _unpacked: None });
        }
        check(path)?;
        let root = path.with_extension(format!("unpacked-{}", std::process::id()));
        let unpacked = Unpacked(root.clone());
        unpack(path, &root.join("state-0"))?;
        Ok(Self { state: State::open(&root)?, has_log: false, _unpacked: Some(unpacked) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_or_a_missing_end_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("copy")).unwrap();
        std::fs::write(dir.path().join("copy/CURRENT"), b"content").unwrap();
        let mut whole = crate::grpc::snapshot::write(&dir.path().join("copy"), Vec::new()).unwrap();
        whole.extend_from_slice(&Sha256::digest(&whole));
        let path = dir.path().join("backup");
        let judge = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            check(&path)
        };
        judge(&whole).unwrap();
        unpack(&path, &dir.path().join("out")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("out/CURRENT")).unwrap(), b"content");
        let mut flipped = whole.clone();
        flipped[600] ^= 1;
        assert!(judge(&flipped).unwrap_err().to_string().contains("damaged"));
        assert!(judge(&whole[..whole.len() - 1]).is_err());
        assert!(judge(b"").is_err());
    }
}
