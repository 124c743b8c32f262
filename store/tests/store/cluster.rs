//! Three replicas in this process: leaders that go, replicas that were away, clients that talk to whichever.

use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, WatchCreateRequest};

use crate::support::{Client, Cluster, eventually};

/// Writes, trying again while the cluster has no leader.
async fn put_surely(client: &mut Client, key: &str, value: &str) {
    eventually("a write succeeds", async || client.put(key, value).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_serves_and_a_lost_leader_loses_nothing() {
    let mut cluster = Cluster::start(|_| ()).await;
    let first = cluster.leader().await;
    let follower = (first + 1) % 3;
    let third = (first + 2) % 3;
    let (mut at_follower, mut at_third) = (Client::new(&cluster.url(follower)), Client::new(&cluster.url(third)));
    let create = WatchCreateRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let mut watching = at_third.watch(create).await;
    for number in 0..20 {
        at_follower.put(&format!("k{number:03}"), "before").await.unwrap();
        assert_eq!(at_third.get(&format!("k{number:03}")).await.unwrap().as_deref(), Some("before"), "reads are linearizable");
    }
    cluster.halt(first).await;
    for number in 20..40 {
        put_surely(&mut at_follower, &format!("k{number:03}"), "after").await;
    }
    assert_ne!(cluster.leader().await, first);
    cluster.run(first).await;
    let mut back = Client::new(&cluster.url(first));
    let all = RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let seen = eventually("the old leader serves again", async || back.range(all.clone()).await.ok()).await;
    assert_eq!(seen.kvs.len(), 40);
    let events = watching.events(40).await;
    let keys: Vec<_> = events.iter().map(|(key, ..)| key.clone()).collect();
    assert!(keys.is_sorted() && events.is_sorted_by_key(|(.., revision)| *revision), "in order, without a gap: {keys:?}");
    let mut hashes = Vec::new();
    for number in 0..3 {
        let mut client = Client::new(&cluster.url(number));
        client.get("k").await.unwrap();
        let revision = seen.header.as_ref().unwrap().revision;
        hashes.push(client.maintenance.hash_kv(HashKvRequest { revision }).await.unwrap().into_inner().hash);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "all replicas hold the same: {hashes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_too_long_catches_up_by_snapshot() {
    let mut cluster = Cluster::start(|config| {
        config.snapshot_count = 50;
        config.snapshot_catchup_entries = 10;
    })
    .await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let mut client = Client::new(&cluster.url(leader));
    client.put("k", "first").await.unwrap();
    cluster.halt(away).await;
    let left_at = cluster.replica(leader).log_indexes().1;
    for number in 0..300 {
        client.put(&format!("key{number:03}"), "while away").await.unwrap();
    }
    eventually("the log it would need is gone", async || {
        let (purged, _) = cluster.replica(leader).log_indexes();
        (purged > left_at + 1).then_some(())
    })
    .await;
    cluster.run(away).await;
    let mut back = Client::new(&cluster.url(away));
    let get = RangeRequest { key: "key299".into(), serializable: true, ..Default::default() };
    eventually("it has caught up", async || {
        back.range(get.clone()).await.ok().filter(|response| !response.kvs.is_empty())
    })
    .await;
    // It serves the whole history, although it never saw the entries.
    let create = WatchCreateRequest { key: "key".into(), range_end: "kez".into(), start_revision: 2, ..Default::default() };
    let heard = back.watch(create).await.events(300).await;
    let expected = (0..300).map(|number| (format!("key{number:03}"), Some("while away".to_owned()), number + 3));
    assert_eq!(heard, expected.collect::<Vec<_>>());
    // And goes on from there, also after a restart on the installed state.
    client.put("k", "later").await.unwrap();
    assert_eq!(back.get("k").await.unwrap().as_deref(), Some("later"));
    cluster.halt(away).await;
    cluster.run(away).await;
    let mut back = Client::new(&cluster.url(away));
    assert_eq!(eventually("it serves", async || back.get("k").await.ok()).await.as_deref(), Some("later"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_expires_by_itself_but_not_early_when_the_leader_goes() {
    let mut cluster = Cluster::start(|_| ()).await;
    let leader = cluster.leader().await;
    let mut client = Client::new(&cluster.url((leader + 1) % 3));
    let lease = client.lease.lease_grant(LeaseGrantRequest { ttl: 3, id: 5 }).await.unwrap().into_inner();
    let put = PutRequest { key: "leased".into(), lease: lease.id, ..Default::default() };
    client.kv.put(put).await.unwrap();
    let renew = tokio_stream::iter([LeaseKeepAliveRequest { id: 5 }]);
    let renewed = client.lease.lease_keep_alive(renew).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(renewed.ttl, lease.ttl);
    let leader = cluster.leader().await;
    let halted_at = tokio::time::Instant::now();
    cluster.halt(leader).await;
    eventually("the lease expires", async || client.get("leased").await.ok().filter(Option::is_none)).await;
    // The whole time again, from the election on, which takes 0.8 s at least, and 1.6 s of grace.
    let whole = Duration::from_secs(u64::try_from(lease.ttl).unwrap() + 2);
    assert!(halted_at.elapsed() >= whole, "the new leader gave it its whole time");
}
