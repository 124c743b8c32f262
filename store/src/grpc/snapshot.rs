//! A copy of the state as a stream of bytes that can be restored: a tar file, and after it its SHA-256.
//!
//! etcd streams its one database file; there is none such here, so the format is our own (`balsa-store restore` reads
//! it, `etcdutl` does not). What `etcdctl snapshot save` checks holds all the same: the size without the hash is a
//! multiple of 512, the remaining bytes count down, the hash comes last.

use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;

use balsa_proto::etcd::etcdserverpb::SnapshotResponse;
use bytes::Bytes;
use futures::Stream;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::disk::checkpoint::SnapshotDir;

/// Bytes of an answer.
const PIECE: usize = 64 << 10;
/// Answers that may wait for the client.
const WAITING: usize = 8;

type Answers = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

/// Streams the files of `dir`.
pub fn stream(dir: SnapshotDir, version: &'static str) -> Answers {
    let (sender, receiver) = mpsc::channel(WAITING);
    // Ends by itself when the receiving half is dropped.
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(&dir, version, &sender) {
            tracing::warn!(%error, "a snapshot could not be sent to a client");
            let _gone = sender.blocking_send(Err(Status::internal(format!("the snapshot failed: {error}"))));
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

fn send(dir: &SnapshotDir, version: &'static str, sender: &mpsc::Sender<Result<SnapshotResponse, Status>>) -> io::Result<()> {
    let total = size(dir.path())?;
    let pieces = Pieces { sender, version, left: total, hasher: Sha256::new(), buffer: Vec::with_capacity(PIECE) };
    let mut pieces = write(dir.path(), pieces)?;
    pieces.pass_on()?;
    let hash = Bytes::copy_from_slice(&pieces.hasher.clone().finalize());
    pieces.answer(hash)
}

/// What [`write`] writes, in bytes.
fn size(dir: &Path) -> io::Result<u64> {
    // Two blocks of zeros end a tar file; every file has a block in front of it and is filled up to whole blocks.
    let mut size = 1024;
    for entry in std::fs::read_dir(dir)? {
        size += 512 + entry?.metadata()?.len().next_multiple_of(512);
    }
    Ok(size)
}

/// Writes the files of `dir` as a tar file, in the order of their names.
pub fn write<W: Write>(dir: &Path, to: W) -> io::Result<W> {
    let mut tar = tar::Builder::new(to);
    let mut files = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for entry in files {
        let mut file = std::fs::File::open(entry.path())?;
        let mut header = tar::Header::new_ustar();
        header.set_size(file.metadata()?.len());
        header.set_mode(0o600);
        header.set_path(entry.file_name())?;
        header.set_cksum();
        tar.append(&header, &mut file)?;
    }
    tar.into_inner()
}

struct Pieces<'a> {
    sender: &'a mpsc::Sender<Result<SnapshotResponse, Status>>,
    version: &'static str,
    left: u64,
    hasher: Sha256,
    buffer: Vec<u8>,
}

impl Pieces<'_> {
    fn answer(&self, blob: Bytes) -> io::Result<()> {
        let answer = SnapshotResponse {
            header: None,
            remaining_bytes: self.left,
            blob,
            version: self.version.to_owned(),
        };
        self.sender.blocking_send(Ok(answer)).map_err(|_| io::Error::other("the client went away"))
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.hasher.update(&self.buffer);
        let blob = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)));
        self.left = self.left.saturating_sub(blob.len() as u64);
        self.answer(blob)
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let fits = data.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&data[..fits]);
        if self.buffer.len() == PIECE {
            self.pass_on()?;
        }
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;

    #[tokio::test]
    async fn the_stream_counts_down_and_ends_with_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let content = vec![7u8; 200_000];
        std::fs::create_dir(dir.path().join("copy")).unwrap();
        std::fs::write(dir.path().join("copy/CURRENT"), b"x").unwrap();
        std::fs::write(dir.path().join("copy/000001.sst"), &content).unwrap();
        let answers: Vec<_> = stream(SnapshotDir::adopt(dir.path().join("copy")), "3.6.0").collect().await;
        let answers: Vec<SnapshotResponse> = answers.into_iter().map(Result::unwrap).collect();
        let (hash, data) = answers.split_last().unwrap();
        let whole: Vec<u8> = data.iter().flat_map(|answer| answer.blob.to_vec()).collect();
        assert_eq!(hash.blob.as_ref(), &Sha256::digest(&whole)[..]);
        assert_eq!((whole.len() % 512, data.last().unwrap().remaining_bytes), (0, 0));
        assert_eq!(data[0].remaining_bytes as usize + data[0].blob.len(), whole.len());
        let mut files: Vec<(String, usize)> = Vec::new();
        for entry in tar::Archive::new(whole.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            files.push((entry.path().unwrap().display().to_string(), entry.size() as usize));
        }
        assert_eq!(files, [("000001.sst".to_owned(), 200_000), ("CURRENT".to_owned(), 1)]);
    }
}
