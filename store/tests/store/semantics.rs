//! etcd's semantics over the wire, on a cluster of one.

use balsa_proto::etcd::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    response_op::Response,
    watch_request::RequestUnion,
};
use balsa_store::{Config, Handle};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::Client;

async fn single() -> (tempfile::TempDir, Handle, Client) {
    let dir = tempfile::tempdir().unwrap();
    let handle = balsa_store::start(Config::single(dir.path()), CancellationToken::new()).await.unwrap();
    let client = Client::new(&format!("http://{}", handle.client_addr));
    (dir, handle, client)
}

fn keys(response: &balsa_proto::etcd::etcdserverpb::RangeResponse) -> Vec<&str> {
    response.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_versions_and_ranges_are_etcds() {
    let (_dir, handle, mut client) = single().await;
    assert_eq!(client.put("b", "1").await.unwrap(), 2, "the first write makes revision 2");
    assert_eq!(client.put("a", "2").await.unwrap(), 3);
    assert_eq!(client.put("b", "3").await.unwrap(), 4);
    assert_eq!(client.put("c", "0").await.unwrap(), 5);
    let all = RangeRequest { key: "a".into(), range_end: "z".into(), ..Default::default() };
    let response = client.range(all.clone()).await.unwrap();
    assert_eq!((keys(&response), response.count, response.more), (vec!["a", "b", "c"], 3, false));
    let b = &response.kvs[1];
    assert_eq!((b.create_revision, b.mod_revision, b.version), (2, 4, 2));

    let by = |order: SortOrder, target: SortTarget| RangeRequest { sort_order: order as i32, sort_target: target as i32, ..all.clone() };
    for (name, request, expected, more) in [
        ("limited", RangeRequest { limit: 2, ..all.clone() }, vec!["a", "b"], true),
        ("at its limit", RangeRequest { limit: 3, ..all.clone() }, vec!["a", "b", "c"], false),
        ("in the past", RangeRequest { revision: 2, ..all.clone() }, vec!["b"], false),
        ("descending", by(SortOrder::Descend, SortTarget::Key), vec!["c", "b", "a"], false),
        ("by revision", by(SortOrder::Descend, SortTarget::Mod), vec!["c", "b", "a"], false),
        ("by value", by(SortOrder::None, SortTarget::Value), vec!["c", "a", "b"], false),
        ("newest only", RangeRequest { min_mod_revision: 4, ..all.clone() }, vec!["b", "c"], false),
        ("keys only", RangeRequest { keys_only: true, limit: 1, ..all.clone() }, vec!["a"], true),
        ("count only", RangeRequest { count_only: true, ..all.clone() }, vec![], false),
        ("serializable", RangeRequest { serializable: true, ..all.clone() }, vec!["a", "b", "c"], false),
    ] {
        let response = client.range(request.clone()).await.unwrap();
        assert_eq!((keys(&response), response.more), (expected, more), "{name}");
        let count = if request.revision == 2 { 1 } else { 3 };
        assert_eq!(response.count, count, "{name}");
        assert!(!request.keys_only || response.kvs.iter().all(|kv| kv.value.is_empty()), "{name}");
    }
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_etcds_codes_and_words_and_change_nothing() {
    let (_dir, handle, mut client) = single().await;
    client.put("a", "1").await.unwrap();
    client.put("a", "2").await.unwrap();
    client.kv.compact(CompactionRequest { revision: 3, physical: false }).await.unwrap();
    let get = |revision| RangeRequest { key: "a".into(), revision, ..Default::default() };
    let put = |put: PutRequest| RequestOp { request: Some(Request::RequestPut(put)) };
    let txn = |success: Vec<RequestOp>| TxnRequest { success, ..Default::default() };
    let a = || PutRequest { key: "a".into(), ..Default::default() };
    let (compacted, future) = (
        "etcdserver: mvcc: required revision has been compacted",
        "etcdserver: mvcc: required revision is a future revision",
    );
    let refused = [
        (client.kv.range(get(2)).await.err(), Code::OutOfRange, compacted),
        (client.kv.range(get(4)).await.err(), Code::OutOfRange, future),
        (client.kv.range(RangeRequest::default()).await.err(), Code::InvalidArgument, "etcdserver: key is not provided"),
        (client.kv.put(PutRequest::default()).await.err(), Code::InvalidArgument, "etcdserver: key is not provided"),
        (client.kv.put(PutRequest { lease: 7, ..a() }).await.err(), Code::NotFound, "etcdserver: requested lease not found"),
        (
            client.kv.put(PutRequest { key: "x".into(), ignore_value: true, ..a() }).await.err(),
            Code::InvalidArgument,
            "etcdserver: key not found",
        ),
        (
            client.kv.put(PutRequest { value: "v".into(), ignore_value: true, ..a() }).await.err(),
            Code::InvalidArgument,
            "etcdserver: value is provided",
        ),
        (
            client.kv.put(PutRequest { value: vec![0; 1_600_000].into(), ..a() }).await.err(),
            Code::InvalidArgument,
            "etcdserver: request is too large",
        ),
        (
            client.kv.txn(txn(vec![put(a()), put(a())])).await.err(),
            Code::InvalidArgument,
            "etcdserver: duplicate key given in txn request",
        ),
        (
            client.kv.txn(txn((0..129u8).map(|n| put(PutRequest { key: vec![1, n].into(), ..a() })).collect())).await.err(),
            Code::InvalidArgument,
            "etcdserver: too many operations in txn request",
        ),
        (client.kv.compact(CompactionRequest { revision: 3, physical: false }).await.err(), Code::OutOfRange, compacted),
        (client.kv.compact(CompactionRequest { revision: 9, physical: false }).await.err(), Code::OutOfRange, future),
        (client.lease.lease_revoke(LeaseRevokeRequest { id: 9 }).await.err(), Code::NotFound, "etcdserver: requested lease not found"),
        (
            client.lease.lease_grant(LeaseGrantRequest { ttl: i64::MAX, id: 0 }).await.err(),
            Code::OutOfRange,
            "etcdserver: too large lease TTL",
        ),
    ];
    for (status, code, message) in refused {
        let status = status.expect(message);
        assert_eq!((status.code(), status.message()), (code, message));
    }
    let now = client.range(get(0)).await.unwrap();
    assert_eq!((now.header.unwrap().revision, now.kvs[0].value.as_ref()), (3, &b"2"[..]));
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_takes_one_branch_and_one_revision() {
    let (_dir, handle, mut client) = single().await;
    client.put("a", "1").await.unwrap();
    let compare = |key: &'static str, target: CompareTarget, result: CompareResult, union: TargetUnion| Compare {
        result: result as i32,
        target: target as i32,
        key: key.into(),
        range_end: Default::default(),
        target_union: Some(union),
    };
    let put = |key: &'static str| RequestOp {
        request: Some(Request::RequestPut(PutRequest { key: key.into(), value: "t".into(), prev_kv: true, ..Default::default() })),
    };
    let get = |key: &'static str| RequestOp {
        request: Some(Request::RequestRange(RangeRequest { key: key.into(), ..Default::default() })),
    };
    use CompareResult::{Equal, Greater, Less, NotEqual};
    for (name, compare, succeeds) in [
        ("value is", compare("a", CompareTarget::Value, Equal, TargetUnion::Value("1".into())), true),
        ("value is not", compare("a", CompareTarget::Value, NotEqual, TargetUnion::Value("1".into())), false),
        ("absent key has no value", compare("n", CompareTarget::Value, NotEqual, TargetUnion::Value("1".into())), false),
        ("absent key was never created", compare("n", CompareTarget::Create, Equal, TargetUnion::CreateRevision(0)), true),
        ("version above", compare("a", CompareTarget::Version, Greater, TargetUnion::Version(1)), false),
        ("modified before", compare("a", CompareTarget::Mod, Less, TargetUnion::ModRevision(3)), true),
        ("no lease", compare("a", CompareTarget::Lease, Equal, TargetUnion::Lease(0)), true),
    ] {
        let request = TxnRequest { compare: vec![compare], success: vec![get("a")], failure: vec![] };
        assert_eq!(client.kv.txn(request).await.unwrap().into_inner().succeeded, succeeds, "{name}");
    }
    let nested = RequestOp {
        request: Some(Request::RequestTxn(TxnRequest {
            compare: vec![compare("b", CompareTarget::Create, Equal, TargetUnion::CreateRevision(0))],
            success: vec![put("c")],
            failure: vec![put("d")],
        })),
    };
    let request = TxnRequest { compare: vec![], success: vec![put("a"), put("b"), get("b"), nested], failure: vec![] };
    let response = client.kv.txn(request).await.unwrap().into_inner();
    assert_eq!(response.header.unwrap().revision, 3);
    let Some(Response::ResponsePut(first)) = &response.responses[0].response else { panic!("not a put") };
    assert_eq!(first.prev_kv.as_ref().unwrap().value.as_ref(), b"1");
    let Some(Response::ResponseRange(seen)) = &response.responses[2].response else { panic!("not a range") };
    assert_eq!((seen.kvs.len(), seen.kvs[0].mod_revision), (1, 3), "a transaction sees its own writes");
    assert_eq!(client.get("c").await.unwrap().as_deref(), Some("t"), "nested comparisons are made before any write");
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_hear_everything_once_from_where_they_ask() {
    let (_dir, handle, mut client) = single().await;
    for number in 0..5 {
        client.put(&format!("k{number}"), "old").await.unwrap();
    }
    client.put("other", "x").await.unwrap();
    let create = WatchCreateRequest { key: "k".into(), range_end: "l".into(), start_revision: 3, ..Default::default() };
    let mut watching = client.watch(create.clone()).await;
    client.kv.delete_range(DeleteRangeRequest { key: "k0".into(), range_end: "k2".into(), ..Default::default() }).await.unwrap();
    client.put("k9", "new").await.unwrap();
    let events = watching.events(7).await;
    let expected = [("k1", Some("old"), 3), ("k2", Some("old"), 4), ("k3", Some("old"), 5), ("k4", Some("old"), 6)];
    let later = [("k0", None, 8), ("k1", None, 8), ("k9", Some("new"), 9)];
    let expected: Vec<_> = expected.iter().chain(&later).map(|(k, v, r)| (k.to_string(), v.map(str::to_owned), *r)).collect();
    assert_eq!(events, expected);

    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
    watching.requests.send(WatchRequest { request_union: Some(progress) }).await.unwrap();
    let answer = watching.next().await;
    assert_eq!((answer.watch_id, answer.header.unwrap().revision, answer.events.len()), (-1, 9, 0));

    client.kv.compact(CompactionRequest { revision: 8, physical: true }).await.unwrap();
    let mut late = client.watch(create).await;
    let canceled = late.next().await;
    assert_eq!((canceled.canceled, canceled.compact_revision), (true, 8));
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_takes_its_keys_with_it() {
    let (_dir, handle, mut client) = single().await;
    let granted = client.lease.lease_grant(LeaseGrantRequest { ttl: 600, id: 77 }).await.unwrap().into_inner();
    assert_eq!((granted.id, granted.ttl), (77, 600));
    for key in ["l1", "l2"] {
        let put = PutRequest { key: key.into(), value: "v".into(), lease: 77, ..Default::default() };
        client.kv.put(put).await.unwrap();
    }
    // Written without the lease, a key is no longer the lease's.
    client.put("l2", "free").await.unwrap();
    let asked = LeaseTimeToLiveRequest { id: 77, keys: true };
    let ttl = client.lease.lease_time_to_live(asked).await.unwrap().into_inner();
    assert_eq!((ttl.granted_ttl, ttl.keys), (600, vec!["l1".into()]));
    client.lease.lease_revoke(LeaseRevokeRequest { id: 77 }).await.unwrap();
    assert_eq!(client.get("l1").await.unwrap(), None);
    assert_eq!(client.get("l2").await.unwrap().as_deref(), Some("free"));
    let gone = client.lease.lease_time_to_live(asked).await.unwrap().into_inner();
    assert_eq!(gone.ttl, -1);
    handle.stop().await.unwrap();
}
