//! What a cluster does by itself: compacts, compares its members, keeps count of leases across leaders.

use std::time::{Duration, Instant};

use balsa_proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use balsa_proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, MoveLeaderRequest,
    RangeRequest,
};
use balsa_store::Config;
use balsa_store::compaction::plan::Mode;
use balsa_store::disk::keys;
use balsa_store::disk::state::{KEYS, State, unlogged};
use balsa_store::disk::view::family;
use balsa_store::mvcc::View as _;
use clap::Parser as _;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::{Client, Cluster, PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_older_than_the_retention_is_compacted_also_after_the_leader_goes() {
    let mut cluster = Cluster::start(|config| config.auto_compaction_retention = "1s".to_owned()).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let mut client = Client::new(&cluster.url(follower));
    let mut written = 0;
    for turn in 0..2 {
        for number in 0..20 {
            written = client.put("k", &format!("{turn}-{number}")).await.unwrap();
        }
        let at = RangeRequest { key: "k".into(), revision: written - 1, serializable: true, ..Default::default() };
        assert!(turn > 0 || client.range(at.clone()).await.is_ok(), "not before the time");
        let refused = eventually("it is compacted", async || {
            // Something must be newer, or nothing is compacted anew.
            client.put("k", "newer").await.ok()?;
            client.range(at.clone()).await.err()
        })
        .await;
        assert_eq!((refused.code(), refused.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
        assert_eq!(client.get("k").await.unwrap().as_deref(), Some("newer"));
        if turn == 0 {
            cluster.halt(leader).await;
            eventually("another one leads", async || client.put("k", "again").await.ok()).await;
        }
    }
    assert!(written > 0);
}

#[test]
fn flags_are_etcds_and_nonsense_is_refused_at_the_start() {
    let parse = |flags: &[&str]| Config::try_parse_from([&["balsa-store", "--data-dir", "."], flags].concat());
    let config = parse(&["--auto-compaction-mode", "revision", "--auto-compaction-retention=1000"]).unwrap();
    assert_eq!(config.auto_compaction_mode, Mode::Revision);
    config.check().unwrap();
    assert!(parse(&["--auto-compaction-retention", "soon"]).unwrap().check().is_err());
    assert!(parse(&["--auto-compaction-mode", "other"]).is_err());
    for (flags, checks) in [
        (&[][..], false), (&["--initial-corrupt-check"], true), (&["--experimental-initial-corrupt-check=true"], true),
        (&["--initial-corrupt-check=false"], false),
    ] {
        assert_eq!(parse(flags).unwrap().initial_corrupt_check, checks, "{flags:?}");
    }
    assert_eq!(parse(&["--corrupt-check-time", "1h"]).unwrap().corrupt_check_time, Duration::from_secs(3_600));
    assert_eq!(parse(&["--experimental-corrupt-check-time=2m"]).unwrap().corrupt_check_time, Duration::from_secs(120));
    let limits = parse(&["--max-txn-ops=5", "--max-request-bytes=1000", "--quota-backend-bytes=4000000"]).unwrap();
    assert_eq!((limits.max_txn_ops, limits.max_request_bytes, limits.quota()), (5, 1000, Some(4_000_000)));
}

/// Changes a value in a stopped replica's data, as a fault of the disk that no checksum sees would.
fn damage(config: &Config, key: &[u8]) {
    // What holds the database of one that was just stopped may end a moment later.
    let deadline = Instant::now() + PATIENCE;
    let state = loop {
        match State::open(&config.data_dir) {
            Ok(state) => break state,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(30));
    };
    let mut version = state.read(|view| view.newest(key, i64::MAX)).unwrap().unwrap();
    version.value = "damaged".into();
    let opened = state.current();
    let place = keys::version(key, version.main, version.sub);
    let family = family(opened.db(), KEYS).unwrap();
    opened.db().put_cf_opt(family, place, keys::encode_version(&version), &unlogged()).unwrap();
    state.flush(0).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_is_found_out_before_it_serves_or_by_the_leader() {
    let mut cluster = Cluster::start(|_| ()).await;
    let leader = cluster.leader().await;
    let mut client = Client::new(&cluster.url(leader));
    for number in 0..10 {
        client.put(&format!("k{number}"), "v").await.unwrap();
    }
    client.kv.compact(CompactionRequest { revision: 4, physical: false }).await.unwrap();
    let victim = (leader + 1) % 3;
    let id = cluster.replica(victim).id();
    // One that is whole starts, and so do all of them when nobody is there to compare with.
    cluster.configs[victim].initial_corrupt_check = true;
    cluster.halt(victim).await;
    cluster.run(victim).await;
    let mut at_victim = Client::new(&cluster.url(victim));
    eventually("it has caught up", async || at_victim.get("k9").await.ok().flatten()).await;
    cluster.halt(victim).await;
    damage(&cluster.configs[victim], b"k5");
    eventually("it refuses to start", async || {
        let refused = balsa_store::start(cluster.configs[victim].clone(), CancellationToken::new()).await;
        let problem = refused.err().expect("it does not start").to_string();
        problem.contains("found data inconsistency with peers").then_some(())
    })
    .await;
    // Unasked it serves what it has, until the leader compares.
    cluster.configs[victim].initial_corrupt_check = false;
    cluster.run(victim).await;
    let read = eventually("it answers", async || at_victim.get("k5").await.ok()).await;
    assert_eq!(read.as_deref(), Some("damaged"));
    for number in 0..3 {
        cluster.configs[number].corrupt_check_time = Duration::from_millis(300);
    }
    for number in (0..3).filter(|number| *number != victim) {
        cluster.halt(number).await;
        cluster.run(number).await;
    }
    let list = AlarmRequest { action: AlarmAction::Get as i32, ..Default::default() };
    let raised = eventually("the alarm is raised", async || {
        if cluster.replica(victim).leads() {
            // What differs from the leader is what is called corrupt: here it should be the one that is.
            let target_id = cluster.replica(leader).id();
            at_victim.maintenance.move_leader(MoveLeaderRequest { target_id }).await.ok()?;
        }
        let alarms = at_victim.maintenance.alarm(list).await.ok()?.into_inner().alarms;
        (!alarms.is_empty()).then_some(alarms)
    })
    .await;
    assert_eq!((raised[0].member_id, raised[0].alarm), (id, AlarmType::Corrupt as i32));
    let refused = eventually("writes are refused", async || client.put("k", "v").await.err().filter(|status| status.code() == Code::DataLoss)).await;
    assert_eq!(refused.message(), "etcdserver: corrupt cluster");
    assert!(client.get("k1").await.unwrap().is_some(), "reads go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_go_on_from_their_checkpoints_when_leaders_change_and_never_end_early() {
    const LONG: i64 = 600;
    let cluster = Cluster::start(|config| {
        config.lease_checkpoint_interval = 1;
        (config.heartbeat_interval, config.election_timeout) = (100, 400);
    })
    .await;
    cluster.leader().await;
    let mut client = Client::new(&cluster.url(0));
    let asked = Instant::now();
    client.lease.lease_grant(LeaseGrantRequest { ttl: LONG, id: 1 }).await.unwrap();
    client.lease.lease_grant(LeaseGrantRequest { ttl: LONG, id: 2 }).await.unwrap();
    client.lease.lease_grant(LeaseGrantRequest { ttl: 9, id: 3 }).await.unwrap();
    let granted = Instant::now();
    let mut there = client.clone();
    let short = async {
        let asked_for = LeaseTimeToLiveRequest { id: 3, keys: false };
        eventually("the short lease ends", async || {
            let answer = there.lease.lease_time_to_live(asked_for).await.ok()?.into_inner();
            (answer.ttl == -1).then_some(())
        })
        .await;
        asked.elapsed()
    };
    let left = async |client: &mut Client, id| {
        eventually("the time is told", async || {
            client.lease.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: false }).await.ok()
        })
        .await
        .into_inner()
        .ttl
    };
    let changes = async {
        for changes in 1..=3 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let leader = cluster.leader().await;
            let target_id = cluster.replica((leader + 1) % 3).id();
            let mut at_leader = Client::new(&cluster.url(leader));
            at_leader.maintenance.move_leader(MoveLeaderRequest { target_id }).await.unwrap();
            cluster.leader().await;
            let before = i64::try_from(asked.elapsed().as_secs()).unwrap();
            let now = left(&mut client, 1).await;
            let after = i64::try_from(granted.elapsed().as_secs()).unwrap();
            assert!(now >= LONG - after - 1, "{now} s are left {after} s after the grant: too little");
            // Each change may give what passed since the last checkpoint, and twice the election timeout.
            assert!(now <= LONG - before + 3 * changes, "{now} s are left {before} s after the grant and {changes} changes: too much");
        }
        // A renewal gives all of it again, and that is what the next leader knows.
        let renewal = tokio_stream::iter([LeaseKeepAliveRequest { id: 2 }]);
        let answer = client.lease.lease_keep_alive(renewal).await.unwrap().into_inner().message().await.unwrap().unwrap();
        assert_eq!(answer.ttl, LONG);
        let leader = cluster.leader().await;
        let target_id = cluster.replica((leader + 1) % 3).id();
        Client::new(&cluster.url(leader)).maintenance.move_leader(MoveLeaderRequest { target_id }).await.unwrap();
        cluster.leader().await;
        assert!(left(&mut client, 2).await > LONG - 5);
    };
    let ((), lived) = tokio::join!(changes, short);
    assert!(lived >= Duration::from_secs(9), "a lease of 9 s ended after {lived:?}");
}
