//! The Lock and Election services.

use balsa_proto::etcd::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest};
use balsa_proto::etcd::v3electionpb::{CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest};
use balsa_proto::etcd::v3lockpb::{LockRequest, UnlockRequest};

use crate::support::{Client, Cluster, eventually, single};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_has_one_owner_and_goes_to_the_next_in_line() {
    let cluster = Cluster::start(|_| ()).await;
    cluster.leader().await;
    let mut client = Client::new(&cluster.url(0));
    for id in 1..=4 {
        client.lease.lease_grant(LeaseGrantRequest { ttl: 600, id }).await.unwrap();
    }
    let lock = |lease: i64| LockRequest { name: "l".into(), lease };
    let first = client.lock.lock(lock(1)).await.unwrap().into_inner();
    assert_eq!(first.key, "l/1");
    assert_eq!(client.lock.lock(lock(1)).await.unwrap().into_inner().key, first.key, "its owner has it already");
    let waits = |number: usize, lease: i64| {
        let mut other = Client::new(&cluster.url(number));
        tokio::spawn(async move { other.lock.lock(lock(lease)).await.map(|answer| answer.into_inner().key) })
    };
    let second = waits(1, 2);
    eventually("the second waits", async || client.get("l/2").await.unwrap()).await;
    let third = waits(2, 3);
    eventually("the third waits", async || client.get("l/3").await.unwrap()).await;
    assert!(!second.is_finished() && !third.is_finished());
    // Who goes away while waiting loses the place.
    third.abort();
    eventually("the third is gone", async || client.get("l/3").await.unwrap().is_none().then_some(())).await;
    client.lock.unlock(UnlockRequest { key: first.key }).await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), "l/2");
    // A lease that ends gives the lock away.
    let fourth = waits(0, 4);
    eventually("the fourth waits", async || client.get("l/4").await.unwrap()).await;
    client.lease.lease_revoke(LeaseRevokeRequest { id: 2 }).await.unwrap();
    assert_eq!(fourth.await.unwrap().unwrap(), "l/4");
    let unknown = client.lock.lock(lock(99)).await.unwrap_err();
    assert_eq!(unknown.message(), "etcdserver: requested lease not found");
    // Without a lease the server grants one.
    let own = client.lock.lock(LockRequest { name: "other".into(), lease: 0 }).await.unwrap().into_inner();
    assert!(own.key.starts_with(b"other/"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_leader_whose_words_are_heard() {
    let (_dir, handle, mut client) = single(|_| ()).await;
    for id in 1..=2 {
        client.lease.lease_grant(LeaseGrantRequest { ttl: 600, id }).await.unwrap();
    }
    let name = || LeaderRequest { name: "e".into() };
    assert_eq!(client.election.leader(name()).await.unwrap_err().message(), "election: no leader");
    let mut heard = client.election.observe(name()).await.unwrap().into_inner();
    let mut value = async || heard.message().await.unwrap().unwrap().kv.unwrap().value;
    let campaign = |lease: i64, value: &'static str| CampaignRequest { name: "e".into(), lease, value: value.into() };
    let first = client.election.campaign(campaign(1, "one")).await.unwrap().into_inner().leader.unwrap();
    assert_eq!(value().await, "one");
    let mut other = Client::new(&format!("http://{}", handle.client_addr));
    let second = tokio::spawn(async move { other.election.campaign(campaign(2, "two")).await });
    eventually("the second campaigns", async || client.get("e/2").await.unwrap()).await;
    let proclaim = |leader, value: &'static str| ProclaimRequest { leader, value: value.into() };
    client.election.proclaim(proclaim(Some(first.clone()), "more")).await.unwrap();
    assert_eq!(value().await, "more");
    assert_eq!(client.election.leader(name()).await.unwrap().into_inner().kv.unwrap().value, "more");
    assert!(!second.is_finished());
    client.election.resign(ResignRequest { leader: Some(first.clone()) }).await.unwrap();
    let second = second.await.unwrap().unwrap().into_inner().leader.unwrap();
    assert_eq!(value().await, "two");
    let deposed = client.election.proclaim(proclaim(Some(first), "late")).await.unwrap_err();
    assert_eq!(deposed.message(), "election: not leader");
    client.election.campaign(campaign(2, "again")).await.unwrap();
    assert_eq!(value().await, "again", "who leads already changes its value");
    client.election.resign(ResignRequest { leader: Some(second) }).await.unwrap();
    assert!(client.election.proclaim(proclaim(None, "x")).await.is_err());
    handle.stop().await.unwrap();
}
