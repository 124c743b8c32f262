//! Users, roles and permissions over the wire.

use balsa_proto::etcd::authpb::{Permission, UserAddOptions, permission::Type};
use balsa_proto::etcd::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest,
    AuthStatusRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthenticateRequest, Compare, LeaseGrantRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, StatusRequest, TxnRequest, WatchCreateRequest,
    WatchRequest, request_op::Request as Op, watch_request::RequestUnion,
};
use tonic::{Code, Request, Status};

use crate::support::{Client, Cluster, eventually, single};

/// With a token.
fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().unwrap());
    request
}

fn user(name: &str, password: &str) -> AuthUserAddRequest {
    AuthUserAddRequest { name: name.to_owned(), password: password.to_owned(), ..Default::default() }
}

fn grant(role: &str, kind: Type, key: &'static str, range_end: &'static str) -> AuthRoleGrantPermissionRequest {
    let perm = Permission { perm_type: kind as i32, key: key.into(), range_end: range_end.into() };
    AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) }
}

async fn login(client: &mut Client, name: &str, password: &str) -> Result<String, Status> {
    let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
    Ok(client.auth.authenticate(request).await?.into_inner().token)
}

/// A root, and `alice` who may read `a/` and write `a/w`; auth is on. Root's token.
async fn set_up(client: &mut Client) -> String {
    client.auth.user_add(user("root", "top")).await.unwrap();
    client.auth.user_add(user("alice", "secret")).await.unwrap();
    let root = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    client.auth.user_grant_role(root).await.unwrap();
    client.auth.role_add(AuthRoleAddRequest { name: "reader".to_owned() }).await.unwrap();
    client.auth.role_grant_permission(grant("reader", Type::Read, "a/", "a0")).await.unwrap();
    client.auth.role_grant_permission(grant("reader", Type::Write, "a/w", "")).await.unwrap();
    let reader = AuthUserGrantRoleRequest { user: "alice".to_owned(), role: "reader".to_owned() };
    client.auth.user_grant_role(reader).await.unwrap();
    client.auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    login(client, "root", "top").await.unwrap()
}

fn put(key: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: "v".into(), ..Default::default() }
}

fn get(key: &'static str, range_end: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_do_what_is_decided_by_roles() {
    let (_dir, handle, mut client) = single(|config| config.bcrypt_cost = 4).await;
    let off = client.auth.auth_status(AuthStatusRequest {}).await.unwrap().into_inner();
    assert!(!off.enabled);
    assert_eq!(login(&mut client, "root", "top").await.unwrap_err().message(), "etcdserver: authentication is not enabled");
    let root = set_up(&mut client).await;
    for (name, password) in [("alice", "wrong"), ("nobody", "secret")] {
        let refused = login(&mut client, name, password).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("authentication failed"));
    }
    let alice = login(&mut client, "alice", "secret").await.unwrap();
    let denied = |answer: Result<(), Status>, what: &str| {
        assert_eq!(answer.expect_err(what).message(), "etcdserver: permission denied", "{what}");
    };
    client.kv.put(by(&root, put("a/1"))).await.unwrap();
    client.kv.put(by(&root, put("b/1"))).await.unwrap();
    client.kv.put(by(&alice, put("a/w"))).await.unwrap();
    assert_eq!(client.kv.range(by(&alice, get("a/", "a0"))).await.unwrap().into_inner().kvs.len(), 2);
    denied(client.kv.range(by(&alice, get("b/1", ""))).await.map(drop), "a key outside");
    denied(client.kv.range(by(&alice, get("a/", "b"))).await.map(drop), "more than is granted");
    denied(client.kv.put(by(&alice, put("a/1"))).await.map(drop), "only reading is granted");
    let hidden = RequestOp { request: Some(Op::RequestPut(put("b/1"))) };
    let read = RequestOp { request: Some(Op::RequestRange(get("a/1", ""))) };
    let nested = TxnRequest { failure: vec![hidden.clone()], ..Default::default() };
    let nested = RequestOp { request: Some(Op::RequestTxn(nested)) };
    for (what, success, failure) in [
        ("the branch that is not taken", vec![read.clone()], vec![hidden]),
        ("a nested one", vec![read.clone(), nested], vec![]),
    ] {
        let txn = TxnRequest { success, failure, ..Default::default() };
        denied(client.kv.txn(by(&alice, txn)).await.map(drop), what);
    }
    let compared = TxnRequest { compare: vec![Compare { key: "b/1".into(), ..Default::default() }], ..Default::default() };
    denied(client.kv.txn(by(&alice, compared)).await.map(drop), "a comparison");
    client.kv.txn(by(&alice, TxnRequest { success: vec![read], ..Default::default() })).await.unwrap();
    // Without a user, and with one that nobody gave out.
    assert_eq!(client.kv.put(put("a/w")).await.unwrap_err().message(), "etcdserver: user name is empty");
    let invalid = client.kv.put(by("nonsense", put("a/w"))).await.unwrap_err();
    assert_eq!((invalid.code(), invalid.message()), (Code::Unauthenticated, "etcdserver: invalid auth token"));
    // What only root may.
    denied(client.auth.user_list(by(&alice, AuthUserListRequest {})).await.map(drop), "users");
    denied(client.auth.user_add(by(&alice, user("eve", "e"))).await.map(drop), "to add a user");
    denied(client.maintenance.status(by(&alice, StatusRequest {})).await.map(drop), "status");
    let own = AuthUserGetRequest { name: "alice".to_owned() };
    assert_eq!(client.auth.user_get(by(&alice, own)).await.unwrap().into_inner().roles, ["reader"]);
    let role = AuthRoleGetRequest { role: "reader".to_owned() };
    assert_eq!(client.auth.role_get(by(&alice, role)).await.unwrap().into_inner().perm.len(), 2);
    // A lease with a key that alice may not write is not hers to end, nor to join.
    let lease = client.lease.lease_grant(by(&root, LeaseGrantRequest { ttl: 600, id: 9 })).await.unwrap().into_inner().id;
    client.kv.put(by(&root, PutRequest { lease, ..put("b/leased") })).await.unwrap();
    denied(client.lease.lease_revoke(by(&alice, LeaseRevokeRequest { id: lease })).await.map(drop), "a lease");
    denied(client.kv.put(by(&alice, PutRequest { lease, ..put("a/w") })).await.map(drop), "to attach to it");
    let keys = LeaseTimeToLiveRequest { id: lease, keys: true };
    denied(client.lease.lease_time_to_live(by(&alice, keys)).await.map(drop), "its keys");
    // A new password ends the tokens of the old one.
    let changed = AuthUserChangePasswordRequest { name: "alice".to_owned(), password: "new".to_owned(), ..Default::default() };
    client.auth.user_change_password(by(&root, changed)).await.unwrap();
    assert_eq!(client.kv.put(by(&alice, put("a/w"))).await.unwrap_err().code(), Code::Unauthenticated);
    let alice = login(&mut client, "alice", "new").await.unwrap();
    client.kv.put(by(&alice, put("a/w"))).await.unwrap();
    client.auth.auth_disable(by(&root, AuthDisableRequest {})).await.unwrap();
    client.kv.put(put("anything")).await.unwrap();
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_hear_only_of_what_their_user_may_read() {
    let (_dir, handle, mut client) = single(|config| config.bcrypt_cost = 4).await;
    let root = set_up(&mut client).await;
    let alice = login(&mut client, "alice", "secret").await.unwrap();
    let create = |key: &'static str| WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest { key: key.into(), ..Default::default() })),
    };
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    requests.send(create("b/1")).await.unwrap();
    requests.send(create("a/1")).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client.watch.watch(by(&alice, stream)).await.unwrap().into_inner();
    let refused = answers.message().await.unwrap().unwrap();
    assert!(refused.created && refused.canceled && refused.watch_id == -1);
    assert_eq!(refused.cancel_reason, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    let created = answers.message().await.unwrap().unwrap();
    assert!(created.created && !created.canceled);
    client.kv.put(by(&root, put("a/1"))).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().events.len(), 1);
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_the_clusters_tokens_count_everywhere_and_leases_expire_all_the_same() {
    let mut cluster = Cluster::start(|config| config.bcrypt_cost = 4).await;
    cluster.leader().await;
    let mut client = Client::new(&cluster.url(0));
    client.put("k", "v").await.unwrap();
    let root = set_up(&mut client).await;
    for number in 0..3 {
        let mut each = Client::new(&cluster.url(number));
        each.kv.put(by(&root, put("k"))).await.unwrap();
    }
    let silent = AuthUserAddRequest { options: Some(UserAddOptions { no_password: true }), ..user("cert", "") };
    client.auth.user_add(by(&root, silent)).await.unwrap();
    assert!(login(&mut client, "cert", "").await.unwrap_err().message().contains("authentication failed"));
    let lease = client.lease.lease_grant(by(&root, LeaseGrantRequest { ttl: 1, id: 0 })).await.unwrap().into_inner().id;
    client.kv.put(by(&root, PutRequest { lease, ..put("leased") })).await.unwrap();
    eventually("the lease expires", async || {
        let held = client.kv.range(by(&root, get("leased", ""))).await.ok()?.into_inner();
        held.kvs.is_empty().then_some(())
    })
    .await;
    cluster.halt(1).await;
    cluster.run(1).await;
    let mut back = Client::new(&cluster.url(1));
    let refused = eventually("it answers", async || back.kv.range(get("k", "")).await.err().filter(|status| status.code() != Code::Unavailable)).await;
    assert_eq!(refused.message(), "etcdserver: user name is empty", "auth is on after a restart");
    let fresh = eventually("a login", async || login(&mut back, "root", "top").await.ok()).await;
    back.kv.put(by(&fresh, put("k"))).await.unwrap();
    client.auth.user_delete(by(&fresh, AuthUserDeleteRequest { name: "alice".to_owned() })).await.unwrap();
}
