//! The records of a simulated database's write-ahead log: a write is one record with a checksum. A crash in the middle
//! of a sync leaves any part of it, and whoever opens the database afterwards takes what is whole and cuts the rest.

use std::sync::Arc;

use super::{Mutation, broken};

type Bytes = Arc<[u8]>;

/// What a disk writes at once, bytes. A real one's sectors are larger, and so are the records of real groups.
const SECTOR: usize = 64;

/// One change of a write: the family's number, keys and values.
pub enum Op {
    Put(usize, Bytes, Bytes),
    Delete(usize, Bytes),
    DeleteRange(usize, Bytes, Bytes),
}

fn field(into: &mut Vec<u8>, data: &[u8]) {
    into.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend_from_slice(data);
}

/// A write as a record: length, checksum, changes.
pub fn record(ops: &[Op]) -> Vec<u8> {
    let mut payload = Vec::new();
    for op in ops {
        let (kind, family, key, second) = match op {
            Op::Put(family, key, value) => (1, family, key, value.as_ref()),
            Op::Delete(family, key) => (2, family, key, &[][..]),
            Op::DeleteRange(family, from, to) => (3, family, from, to.as_ref()),
        };
        payload.extend([kind, u8::try_from(*family).unwrap_or(u8::MAX)]);
        field(&mut payload, key);
        field(&mut payload, second);
    }
    let mut record = Vec::with_capacity(8 + payload.len());
    record.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    record.extend_from_slice(&crc32fast::hash(&payload).to_be_bytes());
    record.extend(payload);
    record
}

/// What a crash leaves of records that were not synced: a part from the beginning that ends at any byte, or some
/// sectors and zeros where the others would be.
pub fn torn(mut records: Vec<u8>, mut below: impl FnMut(u64) -> u64) -> Vec<u8> {
    match below(10) {
        0 | 1 => records.clear(),
        2 => {}
        3..8 => records.truncate(below(records.len() as u64 + 1) as usize),
        _ => {
            for sector in records.chunks_mut(SECTOR) {
                if below(2) == 0 {
                    sector.fill(0);
                }
            }
        }
    }
    records
}

/// The start of `data`, of at most `length` bytes; as much as there is, if nobody minds.
fn take<'a>(data: &mut &'a [u8], length: usize, careless: bool) -> Option<&'a [u8]> {
    let length = if careless { length.min(data.len()) } else { length };
    let (taken, rest) = data.split_at_checked(length)?;
    *data = rest;
    Some(taken)
}

fn number(data: &mut &[u8]) -> Option<usize> {
    let (number, rest) = data.split_first_chunk::<4>()?;
    *data = rest;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

fn op(payload: &mut &[u8], careless: bool) -> Option<Op> {
    let &[kind, family] = take(payload, 2, false)? else { return None };
    let length = number(payload)?;
    let key: Bytes = take(payload, length, false)?.into();
    let length = number(payload)?;
    let second: Bytes = take(payload, length, careless)?.into();
    match kind {
        1 => Some(Op::Put(usize::from(family), key, second)),
        2 => Some(Op::Delete(usize::from(family), key)),
        3 => Some(Op::DeleteRange(usize::from(family), key, second)),
        _ => None,
    }
}

/// The changes of the records that are whole, up to the first that is not.
pub fn replay(mut records: &[u8]) -> Vec<Op> {
    let careless = broken(Mutation::SkipTornCheck);
    let mut ops = Vec::new();
    while let Some(length) = number(&mut records) {
        let Some(crc) = number(&mut records) else { break };
        let Some(mut payload) = take(&mut records, length, careless) else { break };
        if usize::try_from(crc32fast::hash(payload)) != Ok(crc) && !careless {
            break;
        }
        while let Some(op) = op(&mut payload, careless) {
            ops.push(op);
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_torn_records_the_whole_ones_are_taken() {
        let put = |value: &[u8]| record(&[Op::Put(1, b"key".as_slice().into(), value.into()), Op::Delete(0, b"other".as_slice().into())]);
        let (first, second) = (put(b"one"), put(&[7; 200]));
        let both = [first.clone(), second].concat();
        for cut in 0..=both.len() {
            let ops = replay(&both[..cut]).len();
            let whole = usize::from(cut >= first.len()) + usize::from(cut == both.len());
            assert_eq!(ops, 2 * whole, "cut at {cut}");
        }
        let mut holed = both.clone();
        holed[first.len() + 64..first.len() + 128].fill(0);
        assert_eq!(replay(&holed).len(), 2, "a hole in the second");
        let mut seed = 0;
        for _ in 0..200 {
            let left = torn(both.clone(), |limit| {
                seed = (seed * 31 + 7) % 1_009;
                seed % limit
            });
            assert!(left.len() <= both.len() && replay(&left).len() <= 4);
        }
    }
}
