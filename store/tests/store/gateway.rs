//! Every method by HTTP and JSON, as curl asks for it; the answers are those of etcd 3.6's gateway.

use std::net::SocketAddr;

use balsa_proto::etcd::etcdserverpb::{AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, eventually, single};

/// Sends a request; the stream on which it is answered.
async fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Status and body.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
    let mut answer = String::new();
    send(address, method, path, headers, body).await.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    // Of what comes in chunks the first line of JSON.
    let text = body.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{answer}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(text).unwrap())
}

async fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    ask(address, "POST", path, "", &body.to_string()).await
}

/// Reads until there are so many lines of JSON.
async fn lines(stream: &mut TcpStream, count: usize) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        let whole: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect();
        if whole.len() >= count {
            return whole;
        }
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await.expect("an answer").unwrap();
        assert!(read > 0, "ended: {text}");
        seen.extend_from_slice(&piece[..read]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_failures_are_answered_in_json() {
    let (_dir, handle, mut client) = single(|_| ()).await;
    client.put("warm", "up").await.unwrap();
    let at = handle.client_addr;
    let (status, put) = post(at, "/v3/kv/put", &json!({"key": "YQ==", "value": "Yg==", "prev_kv": true})).await;
    assert_eq!((status, &put["header"]["revision"]), (200, &json!("3")));
    let (_, range) = post(at, "/v3/kv/range", &json!({"key": "YQ=="})).await;
    let kv = json!({"key": "YQ==", "create_revision": "3", "mod_revision": "3", "version": "1", "value": "Yg=="});
    assert_eq!((&range["kvs"], &range["count"], range.get("more")), (&json!([kv]), &json!("1"), None));
    let txn = json!({"compare": [{"target": "VALUE", "key": "YQ==", "value": "Yg=="}], "success": [{"request_range": {"key": "YQ=="}}]});
    let (_, txn) = post(at, "/v3/kv/txn", &txn).await;
    assert_eq!((&txn["succeeded"], &txn["responses"][0]["response_range"]["kvs"][0]), (&json!(true), &kv));
    for (path, body, status, answer) in [
        ("/v3/kv/range", "{}", 400, json!({"code": 3, "message": "etcdserver: key is not provided"})),
        ("/v3/kv/range", "", 400, json!({"code": 3, "message": "etcdserver: key is not provided"})),
        ("/v3/kv/range", r#"{"nokey": 1}"#, 400, json!({"code": 3, "message": "etcdserver: key is not provided"})),
        (
            "/v3/kv/range", r#"{"key": "YQ==", "revision": "999"}"#, 400,
            json!({"code": 11, "message": "etcdserver: mvcc: required revision is a future revision"}),
        ),
        ("/v3/none", "{}", 404, json!({"code": 5, "message": "Not Found"})),
        ("/v3/auth/authenticate", r#"{"name": "a"}"#, 400, json!({"code": 9, "message": "etcdserver: authentication is not enabled"})),
    ] {
        assert_eq!(ask(at, "POST", path, "", body).await, (status, answer), "{path} {body}");
    }
    for body in ["x", r#"{"key": 5}"#] {
        let (status, answer) = ask(at, "POST", "/v3/kv/range", "", body).await;
        assert_eq!((status, &answer["code"]), (400, &json!(3)));
    }
    let get = ask(at, "GET", "/v3/kv/range", "", "").await;
    assert_eq!(get, (501, json!({"code": 12, "message": "Method Not Allowed"})));
    let (_, granted) = post(at, "/v3/lease/grant", &json!({"TTL": "100", "ID": 7})).await;
    assert_eq!((&granted["ID"], &granted["TTL"]), (&json!("7"), &json!("100")));
    assert_eq!(post(at, "/v3/kv/lease/leases", &json!({})).await.1["leases"], json!([{"ID": "7"}]));
    let (_, status) = post(at, "/v3/maintenance/status", &json!({})).await;
    assert!(status["dbSize"].is_string() && status["raftIndex"].is_string(), "{status}");
    let (_, members) = post(at, "/v3/cluster/member/list", &json!({})).await;
    assert!(members["members"][0]["peerURLs"].is_array(), "{members}");
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_lines_of_json_and_a_watch_goes_on_after_its_request() {
    let (_dir, handle, mut client) = single(|_| ()).await;
    client.put("a", "1").await.unwrap();
    let at = handle.client_addr;
    let watch = json!({"create_request": {"key": "YQ==", "start_revision": "1"}}).to_string();
    let mut stream = send(at, "POST", "/v3/watch", "", &watch).await;
    let first = lines(&mut stream, 2).await;
    assert_eq!(first[0]["result"]["created"], json!(true));
    assert_eq!(first[1]["result"]["events"][0]["kv"]["value"], json!("MQ=="));
    client.put("a", "2").await.unwrap();
    assert_eq!(lines(&mut stream, 1).await[0]["result"]["events"][0]["kv"]["value"], json!("Mg=="));
    let watchers = || handle.replica.hub().watchers();
    assert_eq!(watchers(), 1);
    // Its client goes, and so does the watcher.
    drop(stream);
    eventually("nobody watches", async || (watchers() == 0).then_some(())).await;
    post(at, "/v3/lease/grant", &json!({"TTL": 100, "ID": 7})).await;
    let (status, alive) = post(at, "/v3/lease/keepalive", &json!({"ID": 7})).await;
    assert_eq!((status, &alive["result"]["TTL"]), (200, &json!("100")));
    let mut snapshot = send(at, "POST", "/v3/maintenance/snapshot", "", "").await;
    let mut start = [0; 400];
    snapshot.read_exact(&mut start).await.unwrap();
    assert!(String::from_utf8_lossy(&start).contains(r#"{"result":{"#));
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_goes_in_the_authorization_header() {
    let (_dir, handle, mut client) = single(|config| config.bcrypt_cost = 4).await;
    let user = AuthUserAddRequest { name: "root".to_owned(), password: "top".to_owned(), ..Default::default() };
    client.auth.user_add(user).await.unwrap();
    let role = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    client.auth.user_grant_role(role).await.unwrap();
    client.auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    let at = handle.client_addr;
    let (_, login) = post(at, "/v3/auth/authenticate", &json!({"name": "root", "password": "top"})).await;
    let put = json!({"key": "YQ=="}).to_string();
    let header = format!("Authorization: {}\r\n", login["token"].as_str().unwrap());
    assert_eq!(ask(at, "POST", "/v3/kv/put", &header, &put).await.0, 200);
    let nobody = ask(at, "POST", "/v3/kv/put", "", &put).await;
    assert_eq!(nobody, (400, json!({"code": 3, "message": "etcdserver: user name is empty"})));
    let wrong = ask(at, "POST", "/v3/kv/put", "Authorization: wrong\r\n", &put).await;
    assert_eq!(wrong, (401, json!({"code": 16, "message": "etcdserver: invalid auth token"})));
    handle.stop().await.unwrap();
}
