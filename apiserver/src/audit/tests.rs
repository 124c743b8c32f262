//! The audit log of whole requests, as stories.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use super::Auditor;
use super::policy::Policy;
use super::sink::Sink;
use crate::authn::Caller;
use crate::tests::Server;

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- {level: None, users: ['balsa:loopback']}
- {level: Metadata, resources: [{resources: [secrets]}]}
- {level: RequestResponse, omitStages: [RequestReceived], resources: [{resources: [configmaps]}]}
- {level: Metadata, omitStages: [RequestReceived], nonResourceURLs: ['/version']}
";

async fn next(lines: &mut Receiver<String>) -> Value {
    let line = tokio::time::timeout(std::time::Duration::from_secs(30), lines.recv()).await.unwrap().unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn the_log_says_who_did_what_as_the_policy_has_it() {
    let (sink, mut lines) = Sink::for_test();
    let auditor = Auditor::new(Policy::parse(POLICY.as_bytes()).unwrap(), sink);
    let server = Server::start_with(|rest| rest.audit = Arc::new(auditor)).await;
    let ann = Caller { user: "ann".into(), groups: vec!["system:masters".into()], ..Caller::default() };
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hidden"}});
    assert_eq!(server.ask_as(&ann, Method::POST, secrets, secret).await.0, 201);
    let received = next(&mut lines).await;
    assert_eq!((&received["stage"], &received["level"]), (&json!("RequestReceived"), &json!("Metadata")));
    let complete = next(&mut lines).await;
    assert_eq!(complete["stage"], "ResponseComplete");
    assert_eq!(complete["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(complete["user"]["username"], "ann");
    assert_eq!(complete["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(complete["objectRef"], json!({"resource": "secrets", "namespace": "default", "apiVersion": "v1"}));
    assert_eq!((&complete["auditID"], &complete["verb"]), (&received["auditID"], &json!("create")));
    assert!(!complete.to_string().contains("password"), "nothing of a secret at this level");

    let maps = "/api/v1/namespaces/default/configmaps";
    server.ask_as(&ann, Method::POST, maps, json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).await;
    let complete = next(&mut lines).await;
    assert_eq!(complete["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(complete["objectRef"]["name"], "m");
    assert!(complete["responseObject"]["metadata"]["uid"].is_string());
    assert!(complete["responseObject"]["metadata"].get("managedFields").is_none());
    server.ask_as(&ann, Method::GET, &format!("{maps}/none"), Value::Null).await;
    let complete = next(&mut lines).await;
    assert_eq!((&complete["responseStatus"]["code"], &complete["responseStatus"]["reason"]), (&json!(404), &json!("NotFound")));
    server.get(secrets).await;
    server.ask_as(&ann, Method::GET, "/version", Value::Null).await;
    let complete = next(&mut lines).await;
    assert_eq!((&complete["requestURI"], complete.get("objectRef")), (&json!("/version"), None), "and nothing of the loopback's");

    let mut watch = server.watch_as(&ann, &format!("{maps}?watch=1&timeoutSeconds=1")).await;
    assert_eq!(next(&mut lines).await["stage"], "ResponseStarted");
    while watch.chunk().await {}
    drop(watch);
    let complete = next(&mut lines).await;
    assert_eq!((&complete["stage"], &complete["verb"]), (&json!("ResponseComplete"), &json!("watch")));
}
