//! Who the members are: as the membership in the log says, with the names and client URLs that they published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::Member;
use balsa_proto::store::Attributes;
use tokio::time::Instant;

use super::Replica;
use super::applied::flag;
use super::reconfigure::{Known, Roll};
use crate::command::Command;
use crate::ledger;
use crate::raft::{Members, Peer, handle};

/// How lately the leader must have heard of a member for it to count as reachable; etcd's figure.
const HEALTHY: Duration = Duration::from_secs(5);

/// The membership as this replica knows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Membership {
    /// All members.
    pub peers: Members,
    /// Those that vote, ascending.
    pub voters: Vec<u64>,
}

impl Membership {
    /// Whether it is a learner that was asked for as one; who is on its way to be a voter is none.
    pub fn is_learner(&self, id: u64) -> bool {
        self.peers.get(&id).is_some_and(|peer| !peer.joining) && !self.voters.contains(&id)
    }
}

impl Replica {
    /// The membership.
    pub fn membership(&self) -> Arc<Membership> {
        self.members.read().clone()
    }

    /// Takes over what the log says, if it says anything yet. Only what is committed is told to anybody: a change that
    /// is not may be undone by another leader. Where members are reached is used at once, or a majority of which one
    /// has moved could never commit that it did.
    pub(super) fn learn_membership(&self) {
        let (told, newest) = handle::look(&self.raft, |seen| {
            #[cfg(test)]
            if crate::sim::broken(crate::sim::Mutation::TellUncommitted) {
                return (seen.newest_members(), seen.newest_members().0);
            }
            (seen.agreed_members(), seen.newest_members().0)
        });
        if !newest.is_empty() {
            self.network.addressed(&newest);
        }
        let now = Membership { peers: told.0, voters: told.1 };
        if now.peers.is_empty() || *self.members.read().as_ref() == now {
            return;
        }
        self.applied.set_flag(flag::LEARNER, now.is_learner(self.id));
        let names: Vec<String> = now.peers.values().map(ToString::to_string).collect();
        tracing::info!(members = names.join(", "), voters = now.voters.len(), "membership");
        *self.members.write() = Arc::new(now);
    }

    /// Takes over who the members are as of everything that is applied here: consensus tells of them only a moment
    /// after it had an entry applied.
    pub async fn await_membership(&self) {
        let applied = self.hub().applied().borrow().index;
        let mut consensus = handle::Follow::new(&self.raft);
        while consensus.look(|seen| seen.committed()) < applied {
            if !consensus.changed().await {
                return;
            }
        }
        self.learn_membership();
    }

    /// As clients see them.
    pub fn member_list(&self) -> Vec<Member> {
        let (membership, ledger) = (self.membership(), self.applied.ledger());
        let shown = membership.peers.iter().map(|(id, peer)| {
            let ledger::Attributes { name, client_urls } = ledger.members.get(id).cloned().unwrap_or_default();
            Member {
                id: *id,
                name: if name.is_empty() { peer.name.clone() } else { name },
                peer_ur_ls: peer.peer_urls(),
                client_ur_ls: client_urls,
                is_learner: membership.is_learner(*id),
            }
        });
        shown.collect()
    }

    /// What the leader knows of the members, and its newest log index.
    pub(super) fn roll(&self) -> (Roll, u64) {
        let members = self.member_list();
        let consensus = handle::Follow::new(&self.raft);
        let mut roll = BTreeMap::new();
        for member in members {
            let (heard, matched) = consensus.look(|seen| (seen.heard(member.id), seen.matched(member.id)));
            let me = member.id == self.id;
            let known = Known {
                learner: member.is_learner,
                started: !member.name.is_empty(),
                reachable: me || heard.is_some_and(|ago| ago < HEALTHY),
                matched: matched.unwrap_or(0),
                peer_urls: member.peer_ur_ls,
            };
            roll.insert(member.id, known);
        }
        (roll, consensus.look(|seen| seen.log().1))
    }

    /// Tells the cluster this member's name and client URLs, unless it knows them.
    pub(super) async fn publish(self: Arc<Self>) {
        let mine = ledger::Attributes { name: self.config.name.clone(), client_urls: vec![self.client_url.clone()] };
        loop {
            let member = self.membership().peers.contains_key(&self.id);
            let known = self.applied.ledger().members.get(&self.id) == Some(&mine);
            if known {
                return;
            }
            if member && self.leadership.borrow().leader.is_some() {
                let ledger::Attributes { name, client_urls } = mine.clone();
                let command = Command::Publish(Attributes { member: self.id, name, client_urls });
                let deadline = Instant::now() + self.config.request_timeout();
                if let Err(status) = self.propose_anywhere(command.encode(), deadline).await {
                    tracing::debug!(%status, "this member is not published yet");
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    }
}

impl Peer {
    /// All URLs by which its peers reach it.
    pub fn peer_urls(&self) -> Vec<String> {
        std::iter::once(&self.peer_url).chain(&self.more_peer_urls).cloned().collect()
    }

    /// With other URLs, of which there is at least one.
    pub(super) fn at(self, urls: Vec<String>) -> Self {
        let mut urls = urls.into_iter();
        Self { peer_url: urls.next().unwrap_or(self.peer_url), more_peer_urls: urls.collect(), ..self }
    }
}
