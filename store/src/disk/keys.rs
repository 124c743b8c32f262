//! How keys and versions are spelled on disk. Pure.
//!
//! A user key is escaped (`00` becomes `00 FF`) and ended with `00 01`, so that the order of the encodings is the
//! order of the keys and no encoding is the prefix of another. After it come the revision and the sub revision, both
//! inverted: the newest version comes first, and "the newest at or below R" is one seek.

use bytes::{BufMut as _, Bytes};

use crate::error::Fault;
use crate::mvcc::Version;

/// The part that all versions of a key share.
pub fn prefix(key: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(key.len() + 20);
    for byte in key {
        encoded.push(*byte);
        if *byte == 0 {
            encoded.push(0xff);
        }
    }
    encoded.extend_from_slice(&[0, 1]);
    encoded
}

/// The smallest encoding that is past all versions of the key with this prefix.
pub fn past(prefix: &[u8]) -> Vec<u8> {
    let mut past = prefix.to_vec();
    // The terminator's second byte: 01 becomes 02, which no key uses.
    if let Some(last) = past.last_mut() {
        *last = 2;
    }
    past
}

/// One version of a key.
pub fn version(key: &[u8], main: i64, sub: i64) -> Vec<u8> {
    let mut encoded = prefix(key);
    push_inverted(&mut encoded, main, sub);
    encoded
}

/// Where the versions at or below `at` begin, for a key with this prefix.
pub fn at_or_below(prefix: &[u8], at: i64) -> Vec<u8> {
    let mut encoded = prefix.to_vec();
    push_inverted(&mut encoded, at, i64::MAX);
    encoded
}

fn push_inverted(encoded: &mut Vec<u8>, main: i64, sub: i64) {
    encoded.put_u64(!(main as u64));
    encoded.put_u64(!(sub as u64));
}

/// Splits an encoded version into its prefix (with the terminator), revision and sub revision.
pub fn split(encoded: &[u8]) -> Result<(&[u8], i64, i64), Fault> {
    let broken = || Fault("the state holds a malformed key".to_owned());
    let at = encoded.len().checked_sub(16).ok_or_else(broken)?;
    let (prefix, revision) = encoded.split_at(at);
    let (main, sub) = revision.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map(|bytes| !u64::from_be_bytes(bytes) as i64).map_err(|_| broken());
    Ok((prefix, number(main)?, number(sub)?))
}

/// The user key of a prefix.
pub fn user_key(prefix: &[u8]) -> Result<Bytes, Fault> {
    let body = prefix.strip_suffix(&[0, 1]).ok_or_else(|| Fault("the state holds a malformed key".to_owned()))?;
    let mut key = Vec::with_capacity(body.len());
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        key.push(*byte);
        if *byte == 0 {
            bytes.next();
        }
    }
    Ok(Bytes::from(key))
}

/// The key of the revision index.
pub fn revision(main: i64, sub: i64) -> [u8; 16] {
    let mut encoded = [0; 16];
    encoded[..8].copy_from_slice(&main.to_be_bytes());
    encoded[8..].copy_from_slice(&sub.to_be_bytes());
    encoded
}

/// The inverse of [`revision`].
pub fn split_revision(encoded: &[u8]) -> Result<(i64, i64), Fault> {
    let broken = || Fault("the revision index holds a malformed key".to_owned());
    let bytes: [u8; 16] = encoded.try_into().map_err(|_| broken())?;
    let number = |at: usize| bytes[at..at + 8].try_into().map(i64::from_be_bytes).map_err(|_| broken());
    Ok((number(0)?, number(8)?))
}

/// A lease's attachment to a key.
pub fn attachment(lease: i64, key: &[u8]) -> Vec<u8> {
    let mut encoded = lease.to_be_bytes().to_vec();
    encoded.extend_from_slice(key);
    encoded
}

/// The stored form of a version: three numbers, then the value.
pub fn encode_version(version: &Version) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(24 + version.value.len());
    encoded.put_i64(version.create);
    encoded.put_i64(version.version);
    encoded.put_i64(version.lease);
    encoded.extend_from_slice(&version.value);
    encoded
}

/// The inverse of [`encode_version`]; `keys_only` leaves the value away.
pub fn decode_version(main: i64, sub: i64, stored: &[u8], keys_only: bool) -> Result<Version, Fault> {
    let broken = || Fault(format!("the version written at revision {main} is malformed"));
    let (numbers, value) = stored.split_at_checked(24).ok_or_else(broken)?;
    let number = |at: usize| numbers[at..at + 8].try_into().map(i64::from_be_bytes).map_err(|_| broken());
    let value = if keys_only { Bytes::new() } else { Bytes::copy_from_slice(value) };
    Ok(Version { main, sub, create: number(0)?, version: number(8)?, lease: number(16)?, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encodings_keep_the_order_and_come_back(a: Vec<u8>, b: Vec<u8>, main in 1i64.., sub in 0i64..) {
            prop_assert_eq!(a.cmp(&b), prefix(&a).cmp(&prefix(&b)));
            let encoded = version(&a, main, sub);
            let (front, got_main, got_sub) = split(&encoded).unwrap();
            prop_assert_eq!((got_main, got_sub), (main, sub));
            prop_assert_eq!(user_key(front).unwrap(), Bytes::from(a.clone()));
            prop_assert!(encoded < past(&prefix(&a)));
            if a < b {
                prop_assert!(past(&prefix(&a)) <= prefix(&b));
            }
        }
    }
}
