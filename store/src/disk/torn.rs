//! Whether a write-ahead log that RocksDB refuses ends in a write that a crash tore, or is damaged. Pure, but for the
//! two functions at the end.
//!
//! A power failure may keep any pages of the last, unsynced write: a hole of zeros with data behind it. To RocksDB that
//! is a checksum that does not fit, as damage is. What tells them apart: the log is only appended to, so what was never
//! written is zeros; and only one write at a time is not synced, so nothing that was begun later is behind it. (etcd's
//! log looks for sectors of zeros too.) Anything else is damage, and is refused.
//!
//! The format is RocksDB's: blocks of 32 KiB, in them fragments of CRC-32C, length, kind and data.

use std::path::{Path, PathBuf};

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
/// What a disk writes whole or not at all, bytes.
const SECTOR: usize = 512;
/// Kinds of fragments: a whole record, or its first, middle and last part.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;

fn table() -> [u32; 256] {
    std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// RocksDB's form of CRC-32C (Castagnoli).
fn masked_crc(table: &[u32; 256], data: &[u8]) -> u32 {
    let crc = !data.iter().fold(!0u32, |crc, byte| (crc >> 8) ^ table[usize::from((crc as u8) ^ byte)]);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A fragment at a place of the log.
enum Fragment {
    /// It is whole: its kind, and where it ends.
    Good(u8, usize),
    /// It is not, as far as here.
    Bad(usize),
    /// The log ends in it.
    Cut,
}

struct Log<'a> {
    content: &'a [u8],
    table: [u32; 256],
}

impl Log<'_> {
    fn fragment(&self, at: usize) -> Fragment {
        let block_end = (at / BLOCK + 1) * BLOCK;
        let Some(header) = self.content.get(at..at + HEADER) else { return Fragment::Cut };
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let (kind, end) = (header[6], at + HEADER + length);
        if kind == 0 || end > block_end {
            return Fragment::Bad(block_end.min(self.content.len()));
        }
        let Some(checked) = self.content.get(at + HEADER - 1..end) else { return Fragment::Cut };
        let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        if masked_crc(&self.table, checked) == stored { Fragment::Good(kind, end) } else { Fragment::Bad(end) }
    }

    /// Where the fragment behind this place begins: the rest of a block that holds no header is left out.
    fn next(at: usize) -> usize {
        if BLOCK - at % BLOCK < HEADER { (at / BLOCK + 1) * BLOCK } else { at }
    }

    /// Whether there are zeros where the disk may have lost a sector of this part.
    fn has_hole(&self, from: usize, to: usize) -> bool {
        (from / SECTOR..to.div_ceil(SECTOR)).any(|sector| {
            let (start, end) = ((sector * SECTOR).max(from), ((sector + 1) * SECTOR).min(to));
            self.content.get(start..end).is_some_and(|part| part.len() > HEADER && part.iter().all(|byte| *byte == 0))
        })
    }

    /// Whether a whole fragment that begins a record is here.
    fn begins(&self, at: usize) -> bool {
        let kind = self.content.get(at + HEADER - 1).copied();
        matches!(kind, Some(FULL | FIRST)) && matches!(self.fragment(at), Fragment::Good(..))
    }

    /// Whether a record begins anywhere behind this place.
    fn begins_behind(&self, at: usize) -> bool {
        let mut block = (at / BLOCK + 1) * BLOCK;
        // Where fragments begin in the rest of a broken block is not known.
        if (at + 1..block.min(self.content.len())).any(|at| self.begins(at)) {
            return true;
        }
        while block < self.content.len() {
            let mut at = block;
            block += BLOCK;
            while let Fragment::Good(kind, end) = self.fragment(at) {
                if kind == FULL || kind == FIRST {
                    return true;
                }
                at = Self::next(end);
            }
        }
        false
    }
}

/// Where a log that ends in a torn write is to be cut; `None` if it does not.
pub fn cut(content: &[u8]) -> Option<usize> {
    let log = Log { content, table: table() };
    let (mut at, mut whole) = (0, 0);
    loop {
        match log.fragment(at) {
            Fragment::Good(kind, end) => {
                at = Log::next(end);
                // Kinds that are not parts of records stand by themselves.
                if kind == FULL || kind == LAST || kind > LAST {
                    whole = end;
                }
            }
            Fragment::Bad(end) => return (log.has_hole(at, end) && !log.begins_behind(at)).then_some(whole),
            // RocksDB itself leaves out what is not there to its end.
            Fragment::Cut => return None,
        }
    }
}

/// The newest write-ahead log in a database's directory.
fn newest(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse::<u64>().ok());
        if let (Some(number), Some("log")) = (number, path.extension().and_then(|ending| ending.to_str())) {
            logs.push((number, path));
        }
    }
    Ok(logs.into_iter().max().map(|(_, path)| path))
}

/// Cuts a torn write off the newest write-ahead log under `dir`; says how many bytes that were, if there was one.
pub fn mend(dir: &Path) -> std::io::Result<Option<u64>> {
    let Some(path) = newest(dir)? else { return Ok(None) };
    let content = std::fs::read(&path)?;
    let Some(keep) = cut(&content) else { return Ok(None) };
    let file = std::fs::OpenOptions::new().write(true).open(&path)?;
    file.set_len(keep as u64)?;
    file.sync_all()?;
    Ok(Some((content.len() - keep) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appends a record as RocksDB does.
    fn append(log: &mut Vec<u8>, record: &[u8]) {
        let table = table();
        let (mut left, mut first) = (record, true);
        loop {
            let room = BLOCK - log.len() % BLOCK;
            if room < HEADER {
                log.resize(log.len() + room, 0);
                continue;
            }
            let (part, rest) = left.split_at(left.len().min(room - HEADER));
            let kind = match (first, rest.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, true) => LAST,
                (false, false) => 3,
            };
            let checked = [&[kind], part].concat();
            log.extend(masked_crc(&table, &checked).to_le_bytes());
            log.extend((part.len() as u16).to_le_bytes());
            log.extend(checked);
            (left, first) = (rest, false);
            if left.is_empty() {
                return;
            }
        }
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        // "123456789" has the check value e3069283.
        let crc = masked_crc(&table(), b"123456789").wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(crc, 0xe306_9283);
    }

    #[test]
    fn a_hole_in_the_last_record_is_cut_and_damage_anywhere_is_not() {
        let mut log = Vec::new();
        (0..20u8).for_each(|number| append(&mut log, &vec![number + 1; 3_000]));
        let whole = log.len();
        for size in [12_000, 90_000] {
            let mut long = log.clone();
            append(&mut long, &vec![0xaa; size]);
            assert_eq!(cut(&long), None, "whole");
            // Every page that may be lost of the last record, alone and with all behind it but the last.
            for page in whole.div_ceil(4096)..long.len() / 4096 {
                let mut torn = long.clone();
                torn[page * 4096..(page + 1) * 4096].fill(0);
                assert_eq!(cut(&torn), Some(whole), "page {page}");
                torn[page * 4096..(long.len() - 1) / 4096 * 4096].fill(0);
                assert_eq!(cut(&torn), Some(whole), "from page {page}");
            }
            let mut first = long.clone();
            first[whole..whole.div_ceil(4096) * 4096].fill(0);
            assert!(matches!(cut(&first), Some(kept) if kept == whole), "its beginning");
            for place in [whole + 50, long.len() - 5, whole - 50] {
                let mut flipped = long.clone();
                flipped[place] ^= 4;
                assert_eq!(cut(&flipped), None, "a flipped bit at {place}");
            }
            let mut earlier = long.clone();
            earlier[8 * 4096..9 * 4096].fill(0);
            assert_eq!(cut(&earlier), None, "a hole in front of records that were written later");
        }
    }
}
