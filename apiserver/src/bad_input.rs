//! Bad input: whatever comes over the wire, the answer is a refusal in 4xx or a right answer, nothing panics, and no
//! object changes that the request did not name. Requests are made of the words of real ones, so that they get far.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::rest::Peer;
use crate::storage::Store as _;
use crate::tests::Server;

/// One request as a test makes it.
#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    path: String,
    query: String,
    content_type: &'static str,
    body: Bytes,
}

const NAMESPACES: [&str; 6] = ["default", "default", "other", "other", "kube-system", "no..pe"];
const NAMES: [&str; 11] = ["a", "a", "a", "b", "b", "none", "A%20b", "%2e%2e", "x%2Fy", "default", "ä"];
const RESOURCES: [(&str, &str); 10] = [
    ("/api/v1", "configmaps"),
    ("/api/v1", "secrets"),
    ("/api/v1", "pods"),
    ("/api/v1", "serviceaccounts"),
    ("/api/v1", "resourcequotas"),
    ("/apis/apps/v1", "deployments"),
    ("/apis/batch/v1", "jobs"),
    ("/apis/policy/v1", "poddisruptionbudgets"),
    ("/apis/coordination.k8s.io/v1", "leases"),
    ("/apis/rbac.authorization.k8s.io/v1", "roles"),
];
const CONTENT: [&str; 14] = [
    "application/json",
    "application/json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "text/plain",
    "",
    "application/json; charset=nonsense",
];
const QUERIES: [&str; 26] = [
    "labelSelector=a%3Db", "labelSelector=a+in+(b%2Cc)%2C!d", "labelSelector=%28%28%29%2C%2C", "labelSelector=a%3E1%2Ca%3Cx",
    "labelSelector=%00%ff", "fieldSelector=metadata.name%3Da", "fieldSelector=metadata.name%21%3Da%2Cmetadata.namespace%3Dx",
    "fieldSelector=spec.bogus%3D1", "fieldSelector=%5C%5C%5C%2C%3D", "limit=1", "limit=-1", "limit=99999999999999999999",
    "continue=x", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi8ifQ", "continue=%00", "resourceVersion=0",
    "resourceVersion=1", "resourceVersion=-1", "resourceVersionMatch=Exact", "resourceVersionMatch=NotOlderThan", "dryRun=All",
    "fieldValidation=Strict", "fieldManager=m", "force=true", "propagationPolicy=Orphan", "gracePeriodSeconds=-5",
];

fn json_value() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "metadata", "spec", "status", "name", "namespace", "labels", "annotations", "finalizers", "data", "containers", "a", "b", "",
        "$patch", "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers", "delete", "replace", "merge", "image",
        "template", "selector", "matchLabels", "ownerReferences", "managedFields", "uid", "resourceVersion", "other", "ä\u{0}",
    ]);
    let word = word.prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(word.clone(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// An object that is nearly right: a whole one, a part of which is something else.
fn nearly() -> impl Strategy<Value = Value> {
    let objects = vec![
        json!({"metadata": {"name": "a"}, "data": {"k": "v"}}),
        json!({"metadata": {"name": "b", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        json!({"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata":
            {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        json!({"metadata": {"name": "a"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        json!([{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}]),
        json!([{"op": "copy", "from": "/metadata", "path": "/metadata/labels"}, {"op": "test", "path": "/a/b", "value": 1}]),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "other"}}),
        json!({"spec": {"replicas": 1}}),
        json!({"propagationPolicy": "Foreground", "preconditions": {"uid": "x"}}),
    ];
    (prop::sample::select(objects), json_value(), any::<u32>(), any::<bool>()).prop_map(|(mut object, other, seed, keep)| {
        if !keep {
            change(&mut object, other, seed);
        }
        object
    })
}

/// Puts `other` somewhere below `object`.
fn change(object: &mut Value, other: Value, seed: u32) {
    let count = match object {
        Value::Object(map) => map.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    let at = usize::try_from(seed).unwrap_or_default() % (count + 1);
    let slot = match object {
        Value::Object(map) if at < count => map.values_mut().nth(at),
        Value::Array(items) if at < count => items.get_mut(at),
        _ => None,
    };
    match slot {
        Some(slot) => change(slot, other, seed / 3),
        None => *object = other,
    }
}

fn body() -> impl Strategy<Value = Bytes> {
    let text = |value: Value| Bytes::from(value.to_string());
    prop_oneof![
        6 => nearly().prop_map(text),
        2 => json_value().prop_map(text),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Bytes::from([b"k8s\0".as_slice(), &bytes].concat())),
        1 => "[a-z:&*!|> \n\\-\\[\\]{}\"',%0-9]{0,120}".prop_map(Bytes::from),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let methods = vec![Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::PATCH, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let suffixes = vec!["", "", "", "", "", "", "", "", "/status", "/scale", "/eviction", "/binding", "/token", "/resize", "/nope", "/a/b/c"];
    let path = (
        prop::sample::select(RESOURCES.to_vec()),
        prop::sample::select(NAMESPACES.to_vec()),
        prop::option::weighted(0.8, prop::sample::select(NAMES.to_vec())),
        prop::sample::select(suffixes),
    );
    let path = path.prop_map(|((group, plural), namespace, name, suffix)| match name {
        Some(name) => format!("{group}/namespaces/{namespace}/{plural}/{name}{suffix}"),
        None => format!("{group}/namespaces/{namespace}/{plural}"),
    });
    let odd = prop_oneof![
        Just("/api/v1/namespaces/other/".to_owned()), Just("/apis//v1/x".to_owned()), Just("/openapi/v3/../x".to_owned()),
        Just("/api/v1/nodes/a/proxy".to_owned()), Just("/".to_owned()), "/[a-z0-9%/.]{0,40}".prop_map(|path| path),
    ];
    let query = prop::collection::vec(prop::sample::select(QUERIES.to_vec()), 0..4).prop_map(|parts| parts.join("&"));
    let request = (prop::sample::select(methods), prop_oneof![9 => path, 1 => odd], query, prop::sample::select(CONTENT.to_vec()), body());
    request.prop_map(|(method, path, query, content_type, body)| Asked { method, path, query, content_type, body })
}

async fn send(server: &Server, asked: &Asked) -> (u16, Bytes) {
    let uri = if asked.query.is_empty() { asked.path.clone() } else { format!("{}?{}", asked.path, asked.query) };
    let request = Request::builder().method(asked.method.clone()).uri(uri).header("content-type", asked.content_type);
    let Ok(request) = request.body(axum::body::Body::from(asked.body.clone())) else { return (400, Bytes::new()) };
    let response = server.send(Peer::Loopback, request).await;
    let code = response.status().as_u16();
    (code, response.into_body().collect().await.unwrap().to_bytes())
}

async fn state(server: &Server) -> BTreeMap<String, u64> {
    let page = server.store.range("/registry/", "/registry0", 0, 0).await.unwrap();
    page.entries.into_iter().map(|entry| (entry.key, entry.revision)).collect()
}

/// Whether a request of this path may have changed what lies under this key.
fn may_change(asked: &Asked, key: &str) -> bool {
    let decoded = crate::rest::route::percent_decoded(&asked.path);
    let parts: Vec<&str> = decoded.split('/').filter(|part| !part.is_empty()).collect();
    let Some(at) = parts.iter().position(|part| *part == "namespaces") else { return false };
    let (namespace, plural) = (parts.get(at + 1).copied().unwrap_or_default(), parts.get(at + 2).copied().unwrap_or_default());
    let group = if parts.first() == Some(&"apis") { parts.get(1).copied().unwrap_or_default() } else { "" };
    let collection = format!("{}{namespace}/", crate::storage::resource_prefix(group, plural));
    match (&asked.method, parts.get(at + 3)) {
        (&Method::POST | &Method::DELETE, None) => key.starts_with(&collection),
        (_, Some(name)) => key == format!("{collection}{name}"),
        _ => false,
    }
}

#[tokio::test]
async fn no_request_panics_or_changes_what_it_did_not_name() {
    let server = Server::start().await;
    server.create("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await;
    for namespace in ["default", "other"] {
        for name in ["a", "b"] {
            let map = json!({"metadata": {"name": name, "labels": {"a": "b"}}, "data": {"k": "v"}});
            server.create(&format!("/api/v1/namespaces/{namespace}/configmaps"), map).await;
        }
        let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        drop(server.post(&account, json!({"metadata": {"name": "default"}})).await);
        let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        server.create(&format!("/api/v1/namespaces/{namespace}/pods"), pod).await;
    }
    let mut runner = TestRunner::deterministic();
    let requests = asked();
    let mut codes: BTreeMap<u16, usize> = BTreeMap::new();
    let mut before = state(&server).await;
    for _ in 0..2500 {
        let asked = requests.new_tree(&mut runner).unwrap().current();
        let (code, answer) = send(&server, &asked).await;
        *codes.entry(code).or_default() += 1;
        assert!(code < 500 || code == 501, "{code} to {asked:?}: {answer:?}");
        let after = state(&server).await;
        let changed = before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key));
        let strangers: Vec<&String> = changed.filter(|key| !may_change(&asked, key)).collect();
        assert!(strangers.is_empty(), "{asked:?} ({code}) changed {strangers:?}");
        before = after;
    }
    // The requests are worth something only if many of them get far.
    let of = |code: u16| codes.get(&code).copied().unwrap_or_default();
    assert!(of(200) + of(201) > 50 && of(422) > 20 && of(400) > 50, "{codes:?}");
}

#[tokio::test]
async fn what_would_take_for_ever_is_refused() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let pods = "/api/v1/namespaces/default/pods";
    let post = async |path: &str, content_type: &str, body: String| server.ask(Method::POST, path, content_type, body).await.0;
    let laughs = (1..30).fold("a0: &a0 [lol]\n".to_owned(), |text, level| {
        let below = level - 1;
        format!("{text}a{level}: &a{level} [{}]\n", vec![format!("*a{below}"); 9].join(", "))
    });
    assert_eq!(post(maps, "application/yaml", laughs).await, 400);
    assert_eq!(post(maps, "application/yaml", "- ".repeat(1 << 20)).await, 400);
    assert_eq!(post(maps, "application/json", "[".repeat(3 << 20)).await, 400);
    let keys = |value: &str| (0..150_000).map(|index| format!("\"k{index}\":{value}")).collect::<Vec<_>>().join(",");
    let strict = format!("{maps}?fieldValidation=Strict");
    assert_eq!(post(&strict, "application/json", format!("{{\"metadata\":{{\"name\":\"m\"}},{}}}", keys("1"))).await, 400);
    assert_eq!(post(maps, "application/json", format!("{{\"metadata\":{{\"name\":\"m\"}},{}}}", keys("1"))).await, 201, "warned of");
    let labels = format!("{{\"metadata\":{{\"name\":\"l\",\"labels\":{{{}}}}}}}", keys("\"!\""));
    assert_eq!(post(maps, "application/json", labels).await, 422);
    let containers = |count: usize| (0..count).map(|index| json!({"name": format!("c{index}")})).collect::<Vec<_>>();
    let pod = |count: usize| json!({"metadata": {"name": "p"}, "spec": {"containers": containers(count)}}).to_string();
    assert_eq!(post(pods, "application/json", pod(100_000)).await, 413);
    assert_eq!(post(pods, "application/json", pod(5_000)).await, 422, "no images");
    let long = (0..8_000).map(|index| format!("v{index}")).collect::<Vec<_>>().join(",");
    assert_eq!(server.get(&format!("{maps}?labelSelector=a+in+({long})")).await.0, 200);
    assert_eq!(server.get(&format!("{maps}?labelSelector={}", "(".repeat(50_000))).await.0, 400);
    assert_eq!(server.get(&format!("{maps}?fieldSelector={}", "metadata.name%3Da,".repeat(3_000))).await.0, 200);
    assert_eq!(server.get(&format!("{maps}?continue={}", "A".repeat(60_000))).await.0, 400);
    let one = format!("{maps}/m");
    let json_patch = async |patch: Value| server.patch(&one, "json-patch+json", patch).await.0;
    let doubling: Vec<Value> = std::iter::once(json!({"op": "add", "path": "/data", "value": {"a": "x".repeat(1000)}}))
        .chain((0..60).map(|_| json!({"op": "copy", "from": "/data", "path": "/data/b"})))
        .collect();
    assert!([413, 422].contains(&json_patch(json!(doubling)).await));
    let mut many = vec![json!({"op": "add", "path": "/data", "value": vec![0; 16_000]})];
    many.extend((0..9_500).map(|_| json!({"op": "add", "path": "/data/0", "value": 1})));
    assert_eq!(json_patch(json!(many)).await, 413);
    let merge = server.patch(&one, "merge-patch+json", json!({"data": {"a": vec!["x"; 10_000]}})).await.0;
    assert_eq!(merge, 422);
    server.create(pods, json!({"metadata": {"name": "s"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})).await;
    let order: Vec<Value> = containers(10_000).into_iter().rev().collect();
    let strategic = json!({"spec": {"containers": containers(10_000), "$setElementOrder/containers": order}});
    assert_eq!(server.patch(&format!("{pods}/s"), "strategic-merge-patch+json", strategic).await.0, 422);
    let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "s"}, "spec": {"containers": containers(10_000)}});
    assert_eq!(server.patch(&format!("{pods}/s?fieldManager=m&force=true"), "apply-patch+yaml", config).await.0, 422);
}
