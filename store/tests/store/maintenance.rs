//! Alarms, the quota, hashes, leadership, downgrades, compaction: as etcd's operators see them.

use balsa_proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use balsa_proto::etcd::etcdserverpb::downgrade_request::DowngradeAction;
use balsa_proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, DeleteRangeRequest, DowngradeRequest, HashKvRequest,
    HashRequest, LeaseGrantRequest, MoveLeaderRequest, PutRequest, RequestOp, StatusRequest, TxnRequest,
    request_op::Request,
};
use tonic::Code;

use crate::support::{Client, Cluster, eventually, single};

fn alarm(action: AlarmAction, member_id: u64, alarm: AlarmType) -> AlarmRequest {
    AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_refuses_what_grows_until_there_is_room_and_the_alarm_is_cleared() {
    let (_dir, handle, mut client) = single(|config| config.quota_backend_bytes = 3 << 20).await;
    let value = "x".repeat(100_000);
    let refused = eventually("the quota is used up", async || client.put("k", &value).await.err()).await;
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"));
    let raised = client.maintenance.alarm(alarm(AlarmAction::Get, 0, AlarmType::None)).await.unwrap().into_inner().alarms;
    assert_eq!((raised.len(), raised[0].alarm), (1, AlarmType::Nospace as i32));
    let no_space = |status: tonic::Status| assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    no_space(client.lease.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap_err());
    let put = RequestOp { request: Some(Request::RequestPut(PutRequest { key: "t".into(), ..Default::default() })) };
    no_space(client.kv.txn(TxnRequest { success: vec![put], ..Default::default() }).await.unwrap_err());
    let status = client.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.errors.iter().any(|error| error.contains("NOSPACE")), "{:?}", status.errors);
    assert_eq!(status.db_size_quota, 3 << 20);
    // What makes room, and what reads, goes on.
    assert!(client.get("k").await.unwrap().is_some());
    let deleted = client.kv.delete_range(DeleteRangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    let revision = deleted.into_inner().header.unwrap().revision;
    client.kv.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    eventually("there is room again", async || {
        client.maintenance.defragment(DefragmentRequest {}).await.unwrap();
        let status = client.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
        (status.db_size < 1 << 20).then_some(())
    })
    .await;
    no_space(client.put("k", "small").await.unwrap_err());
    client.maintenance.alarm(alarm(AlarmAction::Deactivate, raised[0].member_id, AlarmType::Nospace)).await.unwrap();
    eventually("writes go on", async || client.put("k", "small").await.ok()).await;
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_are_the_clusters_and_survive_a_restart() {
    let mut cluster = Cluster::start(|_| ()).await;
    cluster.leader().await;
    let mut client = Client::new(&cluster.url(0));
    client.put("k", "v").await.unwrap();
    client.maintenance.alarm(alarm(AlarmAction::Activate, 7, AlarmType::Nospace)).await.unwrap();
    for number in 0..3 {
        let refused = Client::new(&cluster.url(number)).put("k", "w").await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
    }
    cluster.halt(1).await;
    cluster.run(1).await;
    let mut back = Client::new(&cluster.url(1));
    let list = alarm(AlarmAction::Get, 0, AlarmType::None);
    let known = eventually("it answers", async || back.maintenance.alarm(list).await.ok()).await.into_inner().alarms;
    assert_eq!(known.iter().map(|alarm| alarm.member_id).collect::<Vec<_>>(), [7]);
    back.maintenance.alarm(alarm(AlarmAction::Activate, 8, AlarmType::Corrupt)).await.unwrap();
    let delete = DeleteRangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(back.kv.delete_range(delete.clone()).await.unwrap_err().code(), Code::DataLoss);
    for (member, kind) in [(7, AlarmType::Nospace), (8, AlarmType::Corrupt)] {
        back.maintenance.alarm(alarm(AlarmAction::Deactivate, member, kind)).await.unwrap();
    }
    client.kv.delete_range(delete).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_are_equal_on_all_replicas_whatever_is_cleaned_up_where() {
    let cluster = Cluster::start(|_| ()).await;
    cluster.leader().await;
    let mut client = Client::new(&cluster.url(0));
    for number in 0..60 {
        client.put(&format!("k{}", number % 7), &format!("v{number}")).await.unwrap();
    }
    client.kv.delete_range(DeleteRangeRequest { key: "k3".into(), ..Default::default() }).await.unwrap();
    let now = client.put("k1", "last").await.unwrap();
    client.kv.compact(CompactionRequest { revision: 40, physical: false }).await.unwrap();
    client.lease.lease_grant(LeaseGrantRequest { ttl: 600, id: 3 }).await.unwrap();
    for revision in [0, now, 50, 40] {
        let mut hashes = Vec::new();
        for number in 0..3 {
            let mut each = Client::new(&cluster.url(number));
            each.get("k1").await.unwrap();
            let hashed = each.maintenance.hash_kv(HashKvRequest { revision }).await.unwrap().into_inner();
            assert_eq!(hashed.compact_revision, 40);
            assert_eq!(hashed.hash_revision, if revision == 0 { now } else { revision });
            hashes.push(hashed.hash);
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "at {revision}: {hashes:?}");
    }
    let mut whole = Vec::new();
    for number in 0..3 {
        let mut each = Client::new(&cluster.url(number));
        each.get("k1").await.unwrap();
        whole.push(each.maintenance.hash(HashRequest {}).await.unwrap().into_inner().hash);
    }
    assert!(whole.iter().all(|hash| *hash == whole[0]), "{whole:?}");
    let (compacted, future) = (HashKvRequest { revision: 39 }, HashKvRequest { revision: now + 1 });
    assert_eq!(client.maintenance.hash_kv(compacted).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(client.maintenance.hash_kv(future).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request() {
    let cluster = Cluster::start(|_| ()).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let target_id = cluster.replica(follower).id();
    let not_leader = Client::new(&cluster.url(follower)).maintenance.move_leader(MoveLeaderRequest { target_id }).await;
    assert_eq!(not_leader.unwrap_err().message(), "etcdserver: not leader");
    let mut client = Client::new(&cluster.url(leader));
    let nobody = client.maintenance.move_leader(MoveLeaderRequest { target_id: 1 }).await.unwrap_err();
    assert_eq!(nobody.message(), "etcdserver: bad leader transferee");
    client.maintenance.move_leader(MoveLeaderRequest { target_id }).await.unwrap();
    assert_eq!(cluster.leader().await, follower);
    client.put("k", "v").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downgrades_are_answered_as_etcd_answers() {
    let (_dir, handle, mut client) = single(|_| ()).await;
    client.put("k", "v").await.unwrap();
    let mut ask = async |action: DowngradeAction, version: &str| {
        let request = DowngradeRequest { action: action as i32, version: version.to_owned() };
        let answer = client.maintenance.downgrade(request).await;
        answer.map(|answer| answer.into_inner().version).map_err(|status| status.message().to_owned())
    };
    use DowngradeAction::{Cancel, Enable, Validate};
    let wrong = |text: &str| Err(format!("etcdserver: {text}"));
    assert_eq!(ask(Validate, "x").await, wrong("wrong downgrade target version format"));
    assert_eq!(ask(Validate, "3.4.0").await, wrong("invalid downgrade target version"));
    assert_eq!(ask(Validate, "3.5.0").await, Ok("3.6.0".to_owned()));
    assert_eq!(ask(Enable, "3.5").await, Ok("3.5.0".to_owned()));
    assert_eq!(ask(Enable, "3.5").await, wrong("cluster has a downgrade job in progress"));
    assert_eq!(ask(Cancel, "").await, Ok("3.6.0".to_owned()));
    let info = client.maintenance.status(StatusRequest {}).await.unwrap().into_inner().downgrade_info.unwrap();
    assert!(!info.enabled);
    handle.stop().await.unwrap();
}
