//! Whose data differs from the others'. Pure; the rules are etcd's (`server/etcdserver/corrupt.go`).
//!
//! Two hashes say something about each other only when they are of the same revision and of key spaces that stand at
//! the same compaction.

/// The hash of a member's own history up to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// The hash.
    pub hash: u32,
    /// Up to which revision.
    pub revision: i64,
    /// Where its key space was compacted.
    pub compacted: i64,
}

/// What a peer said of the same revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Which member.
    pub member: u64,
    /// The hash.
    pub hash: u32,
    /// Where its key space stands.
    pub revision: i64,
    /// Where it was compacted.
    pub compacted: i64,
}

/// Before a member serves anybody: the peers that hold something else than it does.
pub fn differing(own: Own, peers: &[Peer]) -> Vec<u64> {
    let differs = |peer: &&Peer| peer.compacted == own.compacted && peer.hash != own.hash;
    peers.iter().filter(differs).map(|peer| peer.member).collect()
}

/// What a leader sees in one round: its own hash, then its peers' of that revision, and its own again after a moment
/// at which it had applied everything; `newest` is where its key space stands then. Says who is corrupt, if anybody.
pub fn corrupt(me: u64, before: Own, peers: &[Peer], after: Own, newest: i64) -> Option<u64> {
    if after.revision == before.revision && after.compacted == before.compacted && after.hash != before.hash {
        return Some(me);
    }
    let wrong = |peer: &&Peer| {
        // Nobody can be ahead of the leader.
        peer.revision > newest
            || peer.compacted > after.compacted
            || (peer.compacted == before.compacted && peer.hash != before.hash)
    };
    peers.iter().find(wrong).map(|peer| peer.member)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { hash: 7, revision: 50, compacted: 10 };

    fn peer(hash: u32, revision: i64, compacted: i64) -> Peer {
        Peer { member: 2, hash, revision, compacted }
    }

    #[test]
    fn before_serving_only_hashes_of_the_same_compaction_are_compared() {
        for (seen, differs) in [(peer(7, 60, 10), false), (peer(8, 60, 10), true), (peer(8, 60, 11), false)] {
            assert_eq!(!differing(OWN, &[seen]).is_empty(), differs, "{seen:?}");
        }
        assert!(differing(OWN, &[]).is_empty());
    }

    #[test]
    fn the_leader_finds_who_differs_or_is_ahead_of_it() {
        let later = Own { hash: 9, revision: 55, compacted: 12 };
        for (seen, after, found) in [
            (peer(7, 50, 10), OWN, None),
            (peer(8, 50, 10), OWN, Some(2)),
            (peer(8, 50, 11), later, None),
            (peer(8, 50, 13), later, Some(2)),
            (peer(7, 56, 10), later, Some(2)),
            (peer(7, 50, 10), Own { hash: 8, ..OWN }, Some(1)),
        ] {
            assert_eq!(corrupt(1, OWN, &[seen], after, after.revision), found, "{seen:?}");
        }
    }
}
