//! Kinds with more than plain objects' rules, through the whole server: as the conformance specs use them.

use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::authn::Caller;
use crate::rest::Peer;
use crate::storage::Store as _;
use crate::tests::Server;

async fn settled(server: &Server) {
    let written = server.store.revision().await.unwrap();
    assert!(server.rest.api.caches.wait_for(written, Duration::from_secs(30)).await);
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

#[tokio::test]
async fn a_certificate_is_asked_for_approved_and_given() {
    let server = Server::start().await;
    let pem = include_str!("../../api/src/kinds/certificates/request.pem");
    let spec = json!({"request": STANDARD.encode(pem), "signerName": "example.com/e2e", "usages": ["client auth"],
        "expirationSeconds": 3600, "username": "somebody-else", "groups": ["system:masters"]});
    let made = server.create(REQUESTS, json!({"metadata": {"generateName": "csr-"}, "spec": spec})).await;
    assert_eq!((&made["spec"]["username"], &made["status"]), (&json!("balsa:loopback"), &json!({})));
    let one = format!("{REQUESTS}/{}", made["metadata"]["name"].as_str().unwrap());
    settled(&server).await;
    let (_, list) = server.get(&format!("{REQUESTS}?fieldSelector=spec.signerName%3Dexample.com%2Fe2e")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let condition = json!({"metadata": {"annotations": {"a": "1"}}, "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]}});
    let (code, patched) = server.patch(&format!("{one}/approval"), "merge-patch+json", condition).await;
    assert_eq!((code, patched["status"]["conditions"].as_array().unwrap().len()), (200, 1), "{patched}");
    assert!(patched["status"]["conditions"][0]["lastUpdateTime"].is_string() && patched["metadata"]["annotations"]["a"] == "1");
    let mut approved = patched.clone();
    approved["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "Approved", "status": "True", "reason": "E2E", "message": "m"}));
    let (code, error) = server.put(&format!("{one}/status"), &approved).await;
    assert_eq!((code, error["reason"].as_str()), (422, Some("Invalid")), "approval is not status: {error}");
    let (code, approved) = server.put(&format!("{one}/approval"), &approved).await;
    assert_eq!((code, &approved["status"]["conditions"][1]["type"]), (200, &json!("Approved")), "{approved}");
    let (code, error) = server.patch(&format!("{one}/approval"), "merge-patch+json", json!({"status": {"conditions": []}})).await;
    assert_eq!(code, 422, "{error}");
    let authority = balsa_process::pki::Authority::open_or_create(tempfile::tempdir().unwrap().path()).unwrap();
    let certificate = STANDARD.encode(authority.certificate_pem());
    let (code, issued) = server.patch(&format!("{one}/status"), "merge-patch+json", json!({"status": {"certificate": certificate}})).await;
    assert_eq!((code, &issued["status"]["certificate"]), (200, &json!(certificate)), "{issued}");
    assert_eq!(issued["status"]["conditions"][1]["type"], "Approved");
    let client = json!({"request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]});
    let (code, error) = server.post(REQUESTS, json!({"metadata": {"name": "x"}, "spec": client})).await;
    assert_eq!(code, 403, "nobody becomes administrator by a certificate: {error}");
    assert_eq!(server.delete(&one, json!({})).await.0, 200);
}

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";

#[tokio::test]
async fn a_claim_is_allocated_and_its_spec_stays() {
    let server = Server::start().await;
    let spec = json!({"devices": {"requests": [{"name": "req-0", "exactly": {"deviceClassName": "dra.example.com"}}]}});
    let claim = server.create(CLAIMS, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    assert_eq!(claim["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
    let one = format!("{CLAIMS}/c");
    for (kind, patch) in [
        ("json-patch+json", json!([{"op": "add", "path": "/status/allocation", "value": {}}])),
        ("merge-patch+json", json!({"status": {"allocation": null}})),
        ("strategic-merge-patch+json", json!({"status": {"allocation": {}}})),
    ] {
        let (code, patched) = server.patch(&format!("{one}/status"), kind, patch.clone()).await;
        assert_eq!(code, 200, "{kind}: {patched}");
        let wanted = !patch.to_string().contains("null");
        assert_eq!(patched["status"].get("allocation").is_some(), wanted, "{kind}: {patched}");
    }
    let apply = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c", "labels": {"l": "1"}}});
    let (code, applied) = server.ask(http::Method::PATCH, &format!("{one}?fieldManager=m"), "application/apply-patch+yaml", apply.to_string()).await;
    assert_eq!((code, &applied["metadata"]["labels"]["l"]), (200, &json!("1")), "{applied}");
    let (code, error) = server.patch(&one, "json-patch+json", json!([{"op": "replace", "path": "/spec/devices/requests/0/name", "value": "z"}])).await;
    assert_eq!(code, 422, "{error}");
    let admin = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "d", "adminAccess": true}}]}});
    let (code, error) = server.post(CLAIMS, json!({"metadata": {"name": "a"}, "spec": admin})).await;
    assert_eq!(code, 422);
    assert!(error["message"].as_str().unwrap().contains("admin access to devices requires"), "{error}");
}

async fn patched_by(server: &Server, user: &str, path: &str, patch: &Value) -> (u16, String) {
    let caller = Caller { user: user.to_owned(), ..Caller::default() };
    let request = Request::patch(path).header("content-type", "application/merge-patch+json").body(Body::from(patch.to_string()));
    let response = server.send(Peer::Certified(caller), request.unwrap()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn parts_of_a_claims_status_have_their_writers() {
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let server = Server::start().await;
    let spec = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "dra.example.com"}}]}});
    server.create(CLAIMS, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    for (role, resource, verb) in [
        ("status", "resourceclaims/status", "patch"),
        ("binding", "resourceclaims/binding", "patch"),
        ("driver", "resourceclaims/driver", "arbitrary-node-update"),
    ] {
        let rules = json!([{"apiGroups": ["resource.k8s.io"], "resources": [resource], "verbs": [verb]}]);
        server.create(ROLES, json!({"metadata": {"name": role}, "rules": rules})).await;
        let subjects: Vec<Value> = ["binder", "driver", "nobody"]
            .into_iter()
            .filter(|user| role == "status" || user.starts_with(&role[..3]))
            .map(|user| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}))
            .collect();
        let about = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        server.create(BINDINGS, json!({"metadata": {"name": role}, "roleRef": about, "subjects": subjects})).await;
    }
    settled(&server).await;
    let status = format!("{CLAIMS}/c/status");
    let results = json!([{"request": "r", "driver": "dra.example.com", "pool": "p", "device": "d"}]);
    let allocate = json!({"status": {"allocation": {"devices": {"results": results}}}});
    for user in ["nobody", "driver"] {
        let (code, error) = patched_by(&server, user, &status, &allocate).await;
        assert_eq!((code, error.contains("changing status.allocation or status.reservedFor requires")), (422, true), "{error}");
    }
    assert_eq!(patched_by(&server, "binder", &status, &allocate).await.0, 200);
    let say = json!({"status": {"devices": [{"driver": "dra.example.com", "pool": "p", "device": "d"}]}});
    let (code, error) = patched_by(&server, "binder", &status, &say).await;
    assert_eq!((code, error.contains("arbitrary-node-update resource \\\"resourceclaims/driver\\\"")), (422, true), "{error}");
    let (code, answer) = patched_by(&server, "driver", &status, &say).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn flow_control_is_there_and_partly_fixed() {
    let server = Server::start().await;
    let schemas = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
    let (_, list) = server.get(schemas).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 11);
    let (code, error) = server.patch(&format!("{schemas}/catch-all"), "merge-patch+json", json!({"spec": {"matchingPrecedence": 5}})).await;
    assert_eq!(code, 422, "{error}");
    let spec = json!({"matchingPrecedence": 9999, "priorityLevelConfiguration": {"name": "global-default"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}], "nonResourceRules": [{"nonResourceURLs": ["*"], "verbs": ["*"]}]}]});
    let made = server.create(schemas, json!({"metadata": {"name": "e"}, "spec": spec})).await;
    assert_eq!(made["metadata"]["generation"], 1);
    let status = json!({"metadata": {"annotations": {"a": "b"}}, "status": {"conditions": [{"type": "Dangling", "status": "True"}]}});
    let (code, patched) = server.patch(&format!("{schemas}/e/status"), "merge-patch+json", status).await;
    assert_eq!((code, patched["metadata"].get("annotations")), (200, None), "{patched}");
    assert_eq!(patched["status"]["conditions"][0]["type"], "Dangling");
}

#[tokio::test]
async fn two_versions_of_an_autoscaler_are_one_object() {
    let server = Server::start().await;
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let new = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let spec = json!({"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": 60});
    let made = server.create(old, json!({"metadata": {"name": "h"}, "spec": spec})).await;
    assert_eq!((&made["apiVersion"], &made["spec"]["targetCPUUtilizationPercentage"]), (&json!("autoscaling/v1"), &json!(60)));
    settled(&server).await;
    let (code, shown) = server.get(&format!("{new}/h")).await;
    assert_eq!((code, &shown["apiVersion"]), (200, &json!("autoscaling/v2")));
    assert_eq!(shown["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let (code, changed) = server.patch(&format!("{new}/h"), "merge-patch+json", json!({"spec": {"maxReplicas": 7}})).await;
    assert_eq!(code, 200, "{changed}");
    settled(&server).await;
    let (_, list) = server.get(old).await;
    assert_eq!((&list["items"][0]["spec"]["maxReplicas"], &list["items"][0]["apiVersion"]), (&json!(7), &json!("autoscaling/v1")));
    assert_eq!(server.delete(&format!("{old}/h"), json!({})).await.0, 200);
    settled(&server).await;
    assert_eq!(server.get(&format!("{new}/h")).await.0, 404);
    let (_, group) = server.get("/apis/autoscaling").await;
    assert_eq!((&group["preferredVersion"]["version"], group["versions"].as_array().map(Vec::len)), (&json!("v2"), Some(2)));
}

#[tokio::test]
async fn an_unhealthy_pod_goes_without_a_budget() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}});
    server.create(budgets, json!({"metadata": {"name": "b"}, "spec": spec})).await;
    for name in ["ready", "unready"] {
        let pod = json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i:1"}]}});
        server.create(pods, pod).await;
        let ready = if name == "ready" { "True" } else { "False" };
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
        assert_eq!(server.patch(&format!("{pods}/{name}/status"), "strategic-merge-patch+json", status).await.0, 200);
    }
    settled(&server).await;
    let evict = |name: &'static str| (format!("{pods}/{name}/eviction"), json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}));
    let (path, eviction) = evict("unready");
    let (code, error) = server.post(&path, eviction.clone()).await;
    assert_eq!((code, &error["details"]["causes"][0]["reason"]), (429, &json!("DisruptionBudget")), "not counted yet: {error}");
    let counted = json!({"status": {"observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 1, "disruptionsAllowed": 0, "expectedPods": 2}});
    assert_eq!(server.patch(&format!("{budgets}/b/status"), "merge-patch+json", counted).await.0, 200);
    settled(&server).await;
    assert_eq!(server.post(&path, eviction).await.0, 201, "what is guarded is not disrupted by it");
    let (path, eviction) = evict("ready");
    let (code, error) = server.post(&path, eviction).await;
    assert_eq!(code, 429, "{error}");
    assert_eq!(error["details"]["causes"][0]["message"], "The disruption budget b needs 1 healthy pods and has 1 currently");
}

#[tokio::test]
async fn a_list_goes_on_after_its_history_is_gone() {
    let server = Server::start().await;
    let templates = "/api/v1/namespaces/default/podtemplates";
    for number in 0..10 {
        let template = json!({"spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        server.create(templates, json!({"metadata": {"name": format!("t{number}")}, "template": template})).await;
    }
    settled(&server).await;
    let page = |token: &str| format!("{templates}?limit=4&continue={token}");
    let (_, first) = server.get(&page("")).await;
    assert_eq!((first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]), (4, &json!(6)));
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    server.create(templates, json!({"metadata": {"name": "z"}, "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}})).await;
    let now = server.store.revision().await.unwrap();
    server.store.compact(now).await.unwrap();
    let (code, gone) = server.get(&page(&token)).await;
    assert_eq!((code, gone["reason"].as_str()), (410, Some("Expired")), "{gone}");
    let token = gone["metadata"]["continue"].as_str().unwrap().to_owned();
    let (code, second) = server.get(&page(&token)).await;
    assert_eq!((code, &second["items"][0]["metadata"]["name"]), (200, &json!("t4")), "{second}");
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap().to_owned();
    let (_, third) = server.get(&page(&token)).await;
    let names: Vec<&Value> = third["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["t8", "t9", "z"]);
    assert_eq!(third["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert!(third["metadata"].get("remainingItemCount").is_none() && third["metadata"].get("continue").is_none());
}
