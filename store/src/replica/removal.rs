//! A member that was away when it was removed hears of it from nobody: the others do not call it any more. So, while
//! it follows and nothing is committed, it asks those that it knows who the members are. (Whether there is a leader
//! says nothing: who has voted for one takes it for the leader until there is another.)

use std::sync::Arc;
use std::time::Duration;

use balsa_process::tls::TlsIdentity;

use super::{Description, Replica};
use crate::raft::{handle, network};

/// How soon after the start it asks, and how often then.
const FIRST: Duration = Duration::from_secs(2);
const ROUND: Duration = Duration::from_secs(10);

/// Whether member `id`, who knows itself to be one by a membership at the log index `known`, was removed, as another
/// member's description has it. A membership that was agreed on later and is without it says so: ids are never given
/// twice. An older one says nothing: who asks may have been added since.
fn is_removed(id: u64, cluster_id: u64, known: u64, described: &Description) -> bool {
    described.cluster_id == cluster_id && described.agreed > known && !described.members.contains_key(&id)
}

impl Replica {
    /// The log index of the newest membership that this replica has, committed or not, if it is in it.
    fn belongs_since(&self) -> Option<u64> {
        handle::look(&self.raft, |seen| seen.belongs_since(self.id))
    }

    /// Stops the replica when the others say that it was removed.
    pub async fn notice_removal(self: Arc<Self>, identity: Option<TlsIdentity>) {
        let committed = || handle::look(&self.raft, |seen| seen.committed());
        let (mut known, mut round) = (committed(), FIRST);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(round) => {}
            }
            round = ROUND;
            let before = std::mem::replace(&mut known, committed());
            if self.leads() || known != before {
                continue;
            }
            let membership = self.membership();
            let others = membership.peers.iter().filter(|(other, _)| **other != self.id);
            let urls: Vec<&str> = others.map(|(_, peer)| peer.peer_url.as_str()).collect();
            for url in urls {
                let Some(known) = self.belongs_since() else { break };
                match network::describe(url, identity.as_ref()).await {
                    Ok(described) if is_removed(self.id, self.cluster_id, known, &described) => return self.leave(),
                    Ok(_) => {}
                    Err(status) => tracing::debug!(url, %status, "a peer does not say who the members are"),
                }
            }
        }
    }

    /// Stops, because this member was removed.
    pub(super) fn leave(&self) {
        tracing::error!("this member was removed from the cluster; it stops");
        self.removed.store(true, std::sync::atomic::Ordering::Release);
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Members, Peer};

    #[test]
    fn only_a_later_membership_of_the_same_cluster_removes() {
        let members = Members::from([(1, Peer::default()), (2, Peer::default())]);
        let described = |cluster_id, agreed| Description { cluster_id, members: members.clone(), agreed };
        for (name, id, cluster_id, agreed, removed) in [
            ("removed", 3, 9, 12, true),
            ("still a member", 2, 9, 12, false),
            ("another cluster", 3, 8, 12, false),
            ("who is asked does not know of the addition yet", 3, 9, 9, false),
            ("nor does it when nothing was agreed on", 3, 9, 0, false),
        ] {
            assert_eq!(is_removed(id, 9, 10, &described(cluster_id, agreed)), removed, "{name}");
        }
    }
}
