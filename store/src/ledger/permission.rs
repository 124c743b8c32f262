//! Whether the union of granted ranges covers a wanted one. Pure.
//!
//! As etcd has it: a range that no single grant covers is permitted when several together do, and a permission for the
//! empty prefix, or from a key to the end (`\0`), is open-ended.

use balsa_proto::etcd::authpb::{Permission, permission::Type};
use bytes::Bytes;

use crate::mvcc::{End, KeyRange};

/// What is done with the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Range, watch, comparisons, previous values.
    Read,
    /// Put and delete.
    Write,
}

impl Access {
    fn granted_by(self, permission: &Permission) -> bool {
        match Type::try_from(permission.perm_type) {
            Ok(Type::Readwrite) => true,
            Ok(Type::Read) => self == Self::Read,
            Ok(Type::Write) => self == Self::Write,
            Err(_) => false,
        }
    }
}

/// Whether a permission's range makes sense: it has a key, and an end after it.
pub fn is_valid(key: &Bytes, range_end: &Bytes) -> bool {
    match range_end.as_ref() {
        _ if key.is_empty() => false,
        [] | [0] => true,
        end => key.as_ref() < end,
    }
}

/// Whether `granted` together cover `wanted`.
pub fn covers<'a>(granted: impl Iterator<Item = &'a Permission>, wanted: &KeyRange, access: Access) -> bool {
    let ranges = granted.filter(|permission| access.granted_by(permission));
    let mut ranges: Vec<KeyRange> = ranges.map(|one| KeyRange::new(&one.key, &one.range_end)).collect();
    match &wanted.end {
        End::Single => return ranges.iter().any(|range| range.contains(&wanted.start)),
        // Nothing is in it; etcd decides by its first key too.
        End::Before(end) if *end <= wanted.start => return ranges.iter().any(|range| range.contains(&wanted.start)),
        End::Before(_) | End::Unbounded => {}
    }
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    // Everything of `wanted` before this key is covered.
    let mut reached: Vec<u8> = wanted.start.to_vec();
    for range in ranges {
        if range.start.as_ref() > reached.as_slice() {
            return false;
        }
        let end = match &range.end {
            End::Unbounded => return true,
            End::Before(end) => end.to_vec(),
            // The next key after this one.
            End::Single => [range.start.as_ref(), &[0]].concat(),
        };
        if end > reached {
            reached = end;
        }
        if matches!(&wanted.end, End::Before(end) if end.as_ref() <= reached.as_slice()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(kind: Type, key: &'static str, end: &'static str) -> Permission {
        Permission { perm_type: kind as i32, key: key.into(), range_end: end.into() }
    }

    #[test]
    fn several_grants_cover_what_one_does_not() {
        let granted = [
            permission(Type::Read, "a", "c"),
            permission(Type::Readwrite, "c", "e"),
            permission(Type::Read, "k", ""),
            permission(Type::Read, "x", "\0"),
        ];
        for (name, key, end, access, permitted) in [
            ("a key inside", "b", "", Access::Read, true),
            ("the end is outside", "e", "", Access::Read, false),
            ("a whole grant", "a", "c", Access::Read, true),
            ("two grants in a row", "a", "e", Access::Read, true),
            ("across a gap", "a", "l", Access::Read, false),
            ("only read is granted", "b", "", Access::Write, false),
            ("both are granted", "d", "", Access::Write, true),
            ("a single key", "k", "", Access::Read, true),
            ("that key as a range", "k", "k\0", Access::Read, true),
            ("more than that key", "k", "l", Access::Read, false),
            ("open-ended", "y", "\0", Access::Read, true),
            ("open-ended from too early", "w", "\0", Access::Read, false),
            ("everything", "\0", "\0", Access::Read, false),
        ] {
            let wanted = KeyRange::new(&key.into(), &end.into());
            assert_eq!(covers(granted.iter(), &wanted, access), permitted, "{name}");
        }
        let all = [permission(Type::Readwrite, "\0", "\0")];
        assert!(covers(all.iter(), &KeyRange::new(&"\0".into(), &"\0".into()), Access::Write));
    }

    #[test]
    fn ranges_without_a_key_or_turned_round_are_refused() {
        for (key, end, valid) in [("", "", false), ("a", "", true), ("a", "\0", true), ("b", "a", false), ("a", "a", false), ("\0", "\0", true)] {
            assert_eq!(is_valid(&key.into(), &end.into()), valid, "{key:?} {end:?}");
        }
    }
}
