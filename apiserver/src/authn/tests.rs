//! Who calls, through the REST front, as stories.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::authn::Caller;
use crate::authn::front_proxy::{FrontProxy, FrontProxyFlags};
use crate::rest::Peer;
use crate::tests::Server;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1";

async fn whoami(server: &Server, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = Request::builder().method(Method::POST).uri(format!("{REVIEWS}/selfsubjectreviews"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = server.send(Peer::Unknown, request.body(Body::from("{}")).unwrap()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    (code, if code == 201 { value["status"]["userInfo"].clone() } else { value })
}

async fn with_token(server: &Server, token: &str) -> (u16, Value) {
    whoami(server, &[("authorization", &format!("Bearer {token}"))]).await
}

#[tokio::test]
async fn callers_are_known_by_what_they_show() {
    let server = Server::start().await;
    let (code, error) = whoami(&server, &[]).await;
    assert_eq!((code, error["reason"].as_str()), (401, Some("Unauthorized")), "nobody is let in without a credential");
    let (code, ann) = with_token(&server, "ann-s").await;
    assert_eq!(code, 201, "{ann}");
    assert_eq!(ann, json!({"username": "ann", "uid": "u1", "groups": ["dev", "system:authenticated"]}));
    assert_eq!(with_token(&server, "wrong").await.0, 401);

    let data = |text: &str| json!(STANDARD.encode(text));
    server
        .create("/api/v1/namespaces/kube-system/secrets", json!({"metadata": {"name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token", "data": {"token-id": data("abcdef"), "token-secret": data("0123456789abcdef"),
            "usage-bootstrap-authentication": data("true")}}))
        .await;
    let (code, joining) = with_token(&server, "abcdef.0123456789abcdef").await;
    assert_eq!(code, 201, "{joining}");
    assert_eq!(joining["username"], "system:bootstrap:abcdef");
    assert_eq!(with_token(&server, "abcdef.0123456789abcdee").await.0, 401);
}

#[tokio::test]
async fn a_pods_token_ends_with_the_pod_and_the_account() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = server.create(pods, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})).await;
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]}}});
    let of_pod = server.create(tokens, bound).await["status"]["token"].as_str().unwrap().to_owned();
    let free = server.create(tokens, json!({"spec": {}})).await["status"]["token"].as_str().unwrap().to_owned();
    let (code, user) = with_token(&server, &of_pod).await;
    assert_eq!(code, 201, "{user}");
    assert_eq!(user["username"], "system:serviceaccount:default:default");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    server.delete(&format!("{pods}/p"), json!({"gracePeriodSeconds": 0})).await;
    server.settle().await;
    assert_eq!(with_token(&server, &of_pod).await.0, 401);
    assert_eq!(with_token(&server, &free).await.0, 201);
    server.delete("/api/v1/namespaces/default/serviceaccounts/default", json!({})).await;
    server.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    server.settle().await;
    assert_eq!(with_token(&server, &free).await.0, 401, "another account of the same name");

    let vault = server.create(tokens, json!({"spec": {"audiences": ["vault"]}})).await["status"]["token"].clone();
    assert_eq!(with_token(&server, vault.as_str().unwrap()).await.0, 401, "meant for somebody else");
    let reviews = format!("{REVIEWS}/tokenreviews");
    let review = async |spec: Value| server.create(&reviews, json!({"spec": spec})).await["status"].clone();
    let asked = review(json!({"token": vault, "audiences": ["vault", "x"]})).await;
    assert_eq!((&asked["authenticated"], &asked["audiences"]), (&json!(true), &json!(["vault"])), "{asked}");
    assert!(review(json!({"token": vault})).await.get("authenticated").is_none());
    let fixed = review(json!({"token": "ann-s"})).await;
    assert_eq!((&fixed["user"]["username"], &fixed["audiences"]), (&json!("ann"), &json!(["https://issuer"])));
    assert_eq!(server.post(&reviews, json!({"spec": {}})).await.0, 400);
}

#[tokio::test]
async fn who_acts_as_another_must_be_allowed_every_part_of_it() {
    let server = Server::start().await;
    let as_ann = [("authorization", "Bearer ann-s"), ("impersonate-user", "bob")];
    let (code, error) = whoami(&server, &as_ann).await;
    assert_eq!(code, 403);
    assert_eq!(
        error["message"],
        "users \"bob\" is forbidden: User \"ann\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    server.create(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": "act"}, "rules": [
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scope"], "resourceNames": ["read"], "verbs": ["impersonate"]}]})).await;
    server.create(&format!("{rbac}/clusterrolebindings"), json!({"metadata": {"name": "act"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "act"},
        "subjects": [{"kind": "User", "name": "ann"}]})).await;
    server.settle().await;
    let (code, bob) = whoami(&server, &as_ann).await;
    assert_eq!((code, bob), (201, json!({"username": "bob", "groups": ["system:authenticated"]})));
    let with = |more: (&'static str, &'static str)| [as_ann[0], as_ann[1], more];
    assert_eq!(whoami(&server, &with(("impersonate-extra-scope", "read"))).await.1["extra"], json!({"scope": ["read"]}));
    for more in [("impersonate-extra-scope", "write"), ("impersonate-group", "system:masters"), ("impersonate-uid", "7")] {
        assert_eq!(whoami(&server, &with(more)).await.0, 403, "{more:?}");
    }
    assert_eq!(whoami(&server, &[as_ann[0], ("impersonate-group", "x")]).await.0, 400);
}

#[tokio::test]
async fn reviews_say_what_is_wrong_with_them() {
    let server = Server::start().await;
    let post = async |path: &str, spec: Value| server.post(&format!("/apis/authorization.k8s.io/v1/{path}"), json!({"spec": spec})).await;
    let asked = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    assert_eq!(post("subjectaccessreviews", json!({"resourceAttributes": asked})).await.0, 422, "about nobody");
    assert_eq!(post("selfsubjectaccessreviews", json!({})).await.0, 422);
    let both = json!({"resourceAttributes": asked, "nonResourceAttributes": {"path": "/x", "verb": "get"}});
    assert_eq!(post("selfsubjectaccessreviews", both).await.0, 422);
    let local = "namespaces/other/localsubjectaccessreviews";
    assert_eq!(post(local, json!({"user": "ann", "resourceAttributes": asked})).await.0, 422);
    let (code, answer) = post("subjectaccessreviews", json!({"user": "x", "groups": ["system:masters"], "resourceAttributes": asked})).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)), "{answer}");
    let node = json!({"user": "system:node:n", "groups": ["system:nodes"],
        "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "default", "name": "s"}});
    let (_, answer) = post("subjectaccessreviews", node).await;
    assert_eq!(answer["status"], json!({"allowed": false, "reason": "no relationship found between node 'n' and this object"}));
    let agent = Caller { user: "system:node:n".into(), groups: vec!["system:nodes".into(), "system:authenticated".into()], ..Caller::default() };
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, rules) = server.ask_as(&agent, Method::POST, path, json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(rules["status"]["incomplete"], true, "{rules}");
}

#[tokio::test]
async fn a_proxy_is_believed_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    balsa_process::pki::Authority::open_or_create(folder.path()).unwrap();
    let flags = FrontProxyFlags {
        ca: Some(folder.path().join("ca.crt")),
        user: vec!["x-remote-user".into()],
        groups: vec!["x-remote-group".into()],
        ..FrontProxyFlags::default()
    };
    let server = Server::start_with(|rest| rest.door.proxy = FrontProxy::load(&flags).unwrap()).await;
    let ask = async |peer: Peer, named: bool| {
        let mut request = Request::builder().method(Method::POST).uri(format!("{REVIEWS}/selfsubjectreviews"));
        if named {
            request = request.header("x-remote-user", "ann").header("x-remote-group", "dev");
        }
        let response = server.send(peer, request.body(Body::from("{}")).unwrap()).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        (code, value["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned())
    };
    let own = Caller { user: "proxy".into(), groups: vec!["system:authenticated".into()], ..Caller::default() };
    assert_eq!(ask(Peer::Proxy(None), true).await, (201, "ann".into()));
    assert_eq!(ask(Peer::Proxy(None), false).await.0, 401, "it says nothing");
    assert_eq!(ask(Peer::Proxy(Some(own.clone())), false).await, (201, "proxy".into()));
    assert_eq!(ask(Peer::Certified(own), true).await, (201, "proxy".into()), "the headers of others are air");
    assert_eq!(ask(Peer::Unknown, true).await.0, 401);
}
