//! Compares what the members hold: `--initial-corrupt-check` before this one serves anybody, `--corrupt-check-time`
//! again and again while it leads. What a difference means is decided in [`plan`].

pub mod plan;

use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{AlarmType, HashKvRequest, HashKvResponse};
use balsa_proto::raft::forward_request::Kind;
use bytes::Bytes;
use futures::future::join_all;
use prost::Message as _;
use tonic::Status;

use crate::disk::hash::{self, Hashed};
use crate::disk::state::State;
use crate::error::Refusal;
use crate::raft::Members;
use crate::raft::network::Network;
use crate::replica::Replica;

/// Hashes this replica's history; on a thread for it.
pub async fn hash(state: &State, revision: i64) -> Result<Hashed, Refusal> {
    let state = state.clone();
    crate::rt::blocking(move || state.read(|view| hash::history(view, revision))).await.map_err(Refusal::from)?
}

fn own(hashed: Hashed) -> plan::Own {
    plan::Own { hash: hashed.hash, revision: hashed.revision, compacted: hashed.position.compacted }
}

/// The peers' hashes of a revision, as far as they answer in time.
async fn peers(network: &Network, me: u64, members: &Members, revision: i64, patience: Duration) -> Vec<plan::Peer> {
    let body: Bytes = HashKvRequest { revision }.encode_to_vec().into();
    let asked = members.iter().filter(|(id, _)| **id != me).map(async |(id, peer)| {
        let answer = network.forward(*id, peer, Kind::HashKv, body.clone(), patience);
        let answer = tokio::time::timeout(patience, answer).await.map_err(|_| Status::from(Refusal::Timeout));
        let answer = answer.flatten().and_then(|data| {
            HashKvResponse::decode(data).map_err(|error| Status::internal(error.to_string()))
        });
        let answer = answer.inspect_err(|status| tracing::warn!(%peer, %status, revision, "no hash of a peer"));
        let HashKvResponse { header, hash, compact_revision, .. } = answer.ok()?;
        let revision = header.map_or(0, |header| header.revision);
        Some(plan::Peer { member: *id, hash, revision, compacted: compact_revision })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Refuses to go on when a peer holds something else than this member.
pub async fn check(network: &Network, state: &State, me: u64, members: &Members, patience: Duration) -> anyhow::Result<()> {
    let mine = own(hash(state, 0).await?);
    let peers = peers(network, me, members, mine.revision, patience).await;
    let differing = plan::differing(mine, &peers);
    if differing.is_empty() {
        tracing::info!(revision = mine.revision, peers = peers.len(), "compared with the peers: no difference");
        return Ok(());
    }
    let names: Vec<String> = differing.iter().map(|id| format!("{id:x}")).collect();
    anyhow::bail!(
        "{me:x} found data inconsistency with peers: up to revision {}, {} hold something else",
        mine.revision,
        names.join(", ")
    )
}

/// While this member leads, compares every `interval`, and raises the alarm CORRUPT for who differs.
pub async fn run(replica: Arc<Replica>, interval: Duration) {
    loop {
        tokio::select! {
            biased;
            () = replica.stop().cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if !replica.leads() {
            continue;
        }
        if let Err(status) = round(&replica).await {
            tracing::warn!(%status, "the members could not be compared");
        }
    }
}

async fn round(replica: &Replica) -> Result<(), Status> {
    let before = own(hash(replica.state(), 0).await?);
    let (members, patience) = (replica.membership().peers.clone(), replica.config().request_timeout());
    let peers = peers(replica.network(), replica.id(), &members, before.revision, patience).await;
    replica.linearize().await?;
    let hashed = hash(replica.state(), 0).await?;
    match plan::corrupt(replica.id(), before, &peers, own(hashed), hashed.position.revision) {
        Some(member) => {
            tracing::error!(member, revision = before.revision, "a member holds something else; raising the alarm CORRUPT");
            replica.raise_for(member, AlarmType::Corrupt).await
        }
        None => Ok(()),
    }
}
