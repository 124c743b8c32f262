//! The client port by plain HTTP, gRPC reflection and health.

use std::sync::Arc;

use balsa_process::identity::Actor;
use balsa_process::pki::Authority;
use balsa_process::tls::TlsFiles;
use balsa_proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use balsa_proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmType, AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::Endpoint;

use crate::support::{Client, eventually, single};

/// Status and body of a GET by HTTP/1.1.
async fn fetch(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    fetch_over(TcpStream::connect(address).await.unwrap(), path).await
}

async fn fetch_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_version_and_metrics_are_where_etcd_has_them() {
    let (_dir, handle, mut client) = single(|_| ()).await;
    client.put("k", "v").await.unwrap();
    let address = handle.client_addr;
    assert_eq!(fetch(address, "/health").await, (200, r#"{"health":"true","reason":""}"#.to_owned()));
    assert_eq!(fetch(address, "/health?serializable=true").await.0, 200);
    assert_eq!(fetch(address, "/livez").await, (200, "ok\n".to_owned()));
    assert!(fetch(address, "/readyz?verbose").await.1.contains("[+]linearizable_read ok"));
    let (status, version) = fetch(address, "/version").await;
    assert_eq!(status, 200);
    assert!(version.contains(r#""etcdserver":"3.6.0""#), "{version}");
    let metrics = eventually("the figures are there", async || {
        let (_, text) = fetch(address, "/metrics").await;
        text.contains("etcd_debugging_mvcc_current_revision 2").then_some(text)
    })
    .await;
    for name in [
        "etcd_server_has_leader 1", "etcd_server_leader_changes_seen_total", "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total", "etcd_server_proposals_pending", "etcd_server_proposals_failed_total",
        "etcd_disk_wal_fsync_duration_seconds_bucket", "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_slow_watcher_total", "etcd_server_slow_apply_total",
        "etcd_server_quota_backend_bytes 2147483648", "etcd_server_version{server_version=\"3.6.0\"} 1",
        "grpc_server_handled_total{grpc_type=\"unary\",grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\",grpc_code=\"OK\"} 1",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
    let raise = AlarmRequest { action: AlarmAction::Activate as i32, member_id: 1, alarm: AlarmType::Nospace as i32 };
    client.maintenance.alarm(raise).await.unwrap();
    assert_eq!(fetch(address, "/health").await, (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#.to_owned()));
    assert_eq!(fetch(address, "/health?exclude=NOSPACE").await.0, 200);
    handle.stop().await.unwrap();
}

/// A client of the store at `port`, with an identity.
async fn identified(files: &TlsFiles, port: u16) -> Client {
    let endpoint = Endpoint::from_shared(format!("https://localhost:{port}")).unwrap();
    let endpoint = endpoint.tls_config(files.load().unwrap().tonic_client()).unwrap();
    Client::over(eventually("TLS is there", async || endpoint.connect().await.ok()).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_carries_grpc_and_http_and_certificates_name_users() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path()).unwrap();
    let issue = |name: &str, user: &str, group: &str| {
        let actor = Actor { user: user.to_owned(), groups: vec![group.to_owned()] };
        authority.issue_files(folder.path(), name, &actor, &[]).unwrap()
    };
    let store = issue("store", "balsa:store:store1", "balsa:stores");
    let (root, nobody) = (issue("root", "root", "people"), issue("nobody", "nobody", "people"));
    let (_dir, handle, _) = single(|config| {
        config.tls = Some(store.clone());
        config.bcrypt_cost = 4;
    })
    .await;
    let port = handle.client_addr.port();
    let mut client = identified(&root, port).await;
    client.put("k", "v").await.unwrap();
    let mut tls = (*root.load().unwrap().rustls_client().unwrap()).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(handle.client_addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    assert_eq!(fetch_over(stream, "/health").await.0, 200);
    // A handshake that never comes holds up nobody.
    let _silent = TcpStream::connect(handle.client_addr).await.unwrap();
    let user = AuthUserAddRequest { name: "root".to_owned(), password: "top".to_owned(), ..Default::default() };
    client.auth.user_add(user).await.unwrap();
    let role = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    client.auth.user_grant_role(role).await.unwrap();
    client.auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    client.put("k", "by the certificate's name").await.unwrap();
    let refused = identified(&nobody, port).await.put("k", "w").await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: permission denied");
    handle.stop().await.unwrap();
}
