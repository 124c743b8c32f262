//! Custom resources through the whole apiserver: what operators and kubectl rely on, as stories.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::convert::Reach;
use crate::rest::Peer;
use crate::storage::memory::MemoryStore;
use crate::tests::Server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cron"], "properties": {
            "cron": {"type": "string", "pattern": "^(\\d+|\\*)(\\s+(\\d+|\\*)){4}$"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
            "mode": {"type": "string", "enum": ["fast", "slow"], "default": "slow"},
            "port": {"x-kubernetes-int-or-string": true},
            "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "number": {"type": "integer"}}}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string"}}}}})
}

fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.mode"}],
                "additionalPrinterColumns": [{"name": "Cron", "type": "string", "jsonPath": ".spec.cron"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1}]}]}})
}

fn tab(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": {"cron": "* * * * 5"}})
}

/// Asks until the answer is as wanted.
async fn until(server: &Server, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let (code, value) = server.get(path).await;
        if wanted(code, &value) {
            return value;
        }
        assert!(std::time::Instant::now() < end, "{path}: {code} {value}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn condition(object: &Value, name: &str) -> (String, String, String) {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|one| one["type"] == name).unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

async fn install(server: &Server, object: Value) -> Value {
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    server.create(DEFINITIONS, object).await;
    until(server, &format!("{DEFINITIONS}/{name}"), |_, object| condition(object, "Established").0 == "True").await
}

/// Warnings of an answer, and its code and body.
async fn warned(server: &Server, method: Method, path: &str, kind: &str, body: &str) -> (u16, Value, Vec<String>) {
    let request = Request::builder().method(method).uri(path).header("content-type", kind).body(Body::from(body.to_owned())).unwrap();
    let response = server.send(Peer::Loopback, request).await;
    let warnings = response.headers().get_all("warning").iter().map(|text| text.to_str().unwrap().to_owned()).collect();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default(), warnings)
}

async fn accepting(server: &Server, path: &str, accept: &str) -> Value {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    let bytes = server.send(Peer::Loopback, request).await.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[tokio::test]
async fn a_definition_is_established_and_served() {
    let server = Server::start().await;
    let (code, _) = server.get(TABS).await;
    assert_eq!(code, 404);
    let made = install(&server, definition()).await;
    assert_eq!(made["status"]["acceptedNames"], json!({"plural": "crontabs", "singular": "crontab", "kind": "CronTab",
        "listKind": "CronTabList", "shortNames": ["ct"], "categories": ["all"]}));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(condition(&made, "NamesAccepted"), ("True".into(), "NoConflicts".into(), "no conflicts found".into()));
    assert_eq!(condition(&made, "Established"), ("True".into(), "InitialNamesAccepted".into(), "the initial names have been accepted".into()));
    let (code, listed) = server.get(TABS).await;
    assert_eq!((code, listed["kind"].as_str()), (200, Some("CronTabList")));
    // Discovery, both ways.
    let (_, group) = server.get("/apis/stable.example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let (_, resources) = server.get("/apis/stable.example.com/v1").await;
    let names: Vec<&str> = resources["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ct"]));
    let all = accepting(&server, "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await;
    let own = all["items"].as_array().unwrap().iter().find(|one| one["metadata"]["name"] == "stable.example.com").unwrap();
    assert_eq!(own["versions"][0]["resources"][0]["subresources"][1]["responseKind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(own["versions"][0]["resources"][0]["subresources"][0]["responseKind"]["kind"], "CronTab");
}

#[tokio::test]
async fn definitions_are_checked() {
    let server = Server::start().await;
    let change = |pointer: &str, value: Value| {
        let mut object = definition();
        *object.pointer_mut(pointer).unwrap() = value;
        object
    };
    let cases = [
        (change("/metadata/name", json!("x.stable.example.com")), "metadata.name: Invalid value: \"x.stable.example.com\": must be spec.names.plural+\".\"+spec.group"),
        (change("/spec/scope", json!("Global")), "spec.scope: Unsupported value: \"Global\": supported values: \"Cluster\", \"Namespaced\""),
        (change("/spec/versions/0/storage", json!(false)), "must have exactly one version marked as storage version"),
        (change("/spec/versions/0/schema", json!({})), "spec.versions[0].schema.openAPIV3Schema: Required value"),
        (change("/spec/versions/0/schema/openAPIV3Schema/properties/spec/type", json!("")), "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"),
        (change("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/cron/pattern", json!("(")), "must be a valid regular expression"),
        (change("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode/default", json!("odd")), "Unsupported value: \"odd\": supported values: \"fast\", \"slow\""),
        (change("/spec/versions/0/additionalPrinterColumns/0/jsonPath", json!("spec.cron")), "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"spec.cron\": must be a simple json path starting with ."),
        (change("/spec/versions/0/selectableFields/0/jsonPath", json!(".spec.nope")), "is an invalid path: does not refer to a valid field"),
        (change("/spec/versions/0/subresources/scale/specReplicasPath", json!(".status.x")), "should be a json path under .spec"),
        (change("/spec/names/kind", json!("cron tab")), "spec.names.kind: Invalid value"),
    ];
    for (object, expected) in cases {
        let (code, error) = server.post(DEFINITIONS, object).await;
        let message = error["message"].as_str().unwrap_or_default();
        assert!(code == 422 && message.contains(expected), "{expected}\n{code} {message}");
    }
    let mut ruled = definition();
    ruled["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = json!([{"rule": "1 ++"}]);
    let (code, error) = server.post(DEFINITIONS, ruled).await;
    assert!(code == 422 && error["message"].as_str().unwrap().contains("compilation failed: ERROR: <input>"), "{error}");
}

#[tokio::test]
async fn objects_are_defaulted_pruned_and_validated() {
    let server = Server::start().await;
    install(&server, definition()).await;
    let mut object = tab("a");
    object["spec"]["bogus"] = json!(1);
    object["spec"]["extra"] = json!({"any": {"thing": [1]}});
    object["spec"]["port"] = json!("http");
    object["status"] = json!({"phase": "mine"});
    let (code, made, warnings) = warned(&server, Method::POST, TABS, "application/json", &object.to_string()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(warnings, ["299 - \"unknown field \\\"spec.bogus\\\"\""]);
    assert_eq!(made["spec"], json!({"cron": "* * * * 5", "replicas": 1, "mode": "slow", "port": "http", "extra": {"any": {"thing": [1]}}}));
    assert_eq!((&made["metadata"]["generation"], &made["status"]), (&json!(1), &Value::Null));
    let strict = format!("{TABS}?fieldValidation=Strict");
    let (code, error) = server.post(&strict, object).await;
    assert!(code == 400 && error["message"].as_str().unwrap().contains("strict decoding error: unknown field \"spec.bogus\""), "{error}");
    let with = |key: &str, value: Value| {
        let mut object = tab("b");
        object["spec"][key] = value;
        object
    };
    let cases = [
        (with("cron", json!("never")), "spec.cron: Invalid value: \"never\": spec.cron in body should match '^(\\d+|\\*)(\\s+(\\d+|\\*)){4}$'"),
        (with("cron", Value::Null), "spec.cron: Required value"),
        (with("replicas", json!(0)), "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1"),
        (with("replicas", json!("x")), "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""),
        (with("mode", json!("odd")), "spec.mode: Unsupported value: \"odd\": supported values: \"fast\", \"slow\""),
        (with("ports", json!([{"name": "a"}, {"name": "a"}])), "spec.ports[1]: Duplicate value: {\"name\":\"a\"}"),
        (with("tags", json!(["a", "b", "a"])), "spec.tags[2]: Duplicate value: \"a\""),
        (with("port", json!([1])), "spec.port: Invalid value: \"array\": spec.port in body must be of type integer,string: \"array\""),
        (with("template", json!({"kind": "Pod"})), "spec.template.apiVersion: Required value: must not be empty"),
    ];
    for (object, expected) in cases {
        let (code, error) = server.post(TABS, object).await;
        let message = error["message"].as_str().unwrap_or_default();
        assert!(code == 422 && message.contains(expected), "{expected}\n{code} {message}");
    }
    let (code, error) = server.post(TABS, json!({"apiVersion": "stable.example.com/v1", "kind": "Other", "metadata": {"name": "x"}})).await;
    assert_eq!(code, 400, "{error}");
}

#[tokio::test]
async fn status_scale_and_generation() {
    let server = Server::start().await;
    install(&server, definition()).await;
    let made = server.create(TABS, tab("a")).await;
    let one = format!("{TABS}/a");
    let (code, error) = server.put(&one, &tab("a")).await;
    assert!(code == 422 && error["message"].as_str().unwrap().contains("must be specified for an update"), "{error}");
    let mut changed = made.clone();
    changed["status"] = json!({"phase": "ignored"});
    let (code, same) = server.put(&one, &changed).await;
    assert_eq!((code, &same["metadata"]["generation"], &same["status"]), (200, &json!(1), &Value::Null));
    let (code, patched) = server.patch(&one, "merge-patch+json", json!({"spec": {"replicas": 3}})).await;
    assert_eq!((code, &patched["metadata"]["generation"]), (200, &json!(2)));
    let status = format!("{one}/status");
    let (code, written) = server.patch(&status, "merge-patch+json", json!({"spec": {"replicas": 9}, "status": {"replicas": 2, "selector": "a=b"}})).await;
    assert_eq!(code, 200, "{written}");
    assert_eq!((&written["spec"]["replicas"], &written["status"]["replicas"], &written["metadata"]["generation"]), (&json!(3), &json!(2), &json!(2)));
    let (code, error) = server.patch(&status, "merge-patch+json", json!({"status": {"replicas": "x"}})).await;
    assert!(code == 422 && error["message"].as_str().unwrap().contains("status.replicas"), "{error}");
    let (code, scale) = server.get(&format!("{one}/scale")).await;
    assert_eq!((code, &scale["spec"], &scale["status"]), (200, &json!({"replicas": 3}), &json!({"replicas": 2, "selector": "a=b"})));
    let (code, scale) = server.patch(&format!("{one}/scale"), "merge-patch+json", json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(5)), "{scale}");
    let (code, error) = server.patch(&one, "strategic-merge-patch+json", json!({"spec": {"replicas": 1}})).await;
    assert_eq!(code, 415, "{error}");
    let (code, patched) = server.patch(&one, "json-patch+json", json!([{"op": "replace", "path": "/spec/mode", "value": "fast"}])).await;
    assert_eq!((code, patched["spec"]["mode"].as_str()), (200, Some("fast")));
}

#[tokio::test]
async fn lists_watches_and_tables() {
    let server = Server::start().await;
    install(&server, definition()).await;
    let first = server.create(TABS, tab("a")).await;
    let mut fast = tab("b");
    fast["spec"]["mode"] = json!("fast");
    fast["metadata"]["labels"] = json!({"l": "x"});
    server.create(TABS, fast).await;
    let (_, listed) = server.get(&format!("{TABS}?fieldSelector=spec.mode%3Dfast")).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["metadata"]["name"], "b");
    let (code, error) = server.get(&format!("{TABS}?fieldSelector=spec.cron%3Dx")).await;
    assert_eq!((code, error["message"].as_str()), (400, Some("field label not supported: spec.cron")));
    let (_, page) = server.get(&format!("{TABS}?limit=1")).await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = server.get(&format!("{TABS}?limit=1&continue={token}")).await;
    assert_eq!((&page["items"][0]["metadata"]["name"], &rest["items"][0]["metadata"]["name"]), (&json!("a"), &json!("b")));
    let (_, everywhere) = server.get("/apis/stable.example.com/v1/crontabs?labelSelector=l%3Dx").await;
    assert_eq!(everywhere["items"].as_array().unwrap().len(), 1);
    let table = accepting(&server, TABS, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let columns: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Cron", "Replicas"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "* * * * 5", 1]));
    let partial = accepting(&server, TABS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!((partial["kind"].as_str(), partial["items"][1]["metadata"]["name"].as_str()), (Some("PartialObjectMetadataList"), Some("b")));
    // A watch with a selector sees objects enter and leave it.
    let version = listed["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = server.watch(&format!("{TABS}?watch=true&resourceVersion={version}&fieldSelector=spec.mode%3Dfast")).await;
    let mut changed = first.clone();
    changed["spec"]["mode"] = json!("fast");
    assert_eq!(server.put(&format!("{TABS}/a"), &changed).await.0, 200);
    assert_eq!(events.next_name().await, ("ADDED".to_owned(), "a".to_owned()));
    server.patch(&format!("{TABS}/a"), "merge-patch+json", json!({"spec": {"mode": "slow"}})).await;
    assert_eq!(events.next_name().await, ("DELETED".to_owned(), "a".to_owned()));
    // The first revision that a client may have seen is watched from.
    let mut events = server.watch(&format!("{TABS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")).await;
    assert_eq!(events.next_name().await.0, "ADDED");
    assert_eq!(events.next_name().await.0, "ADDED");
    let (word, bookmark) = events.next().await;
    assert_eq!((word.as_str(), bookmark["kind"].as_str()), ("BOOKMARK", Some("CronTab")));
    let (code, _) = server.delete(&format!("{TABS}?labelSelector=l%3Dx"), json!({})).await;
    assert_eq!(code, 200);
    assert_eq!(events.next_name().await, ("DELETED".to_owned(), "b".to_owned()));
}

#[tokio::test]
async fn server_side_apply_knows_the_schema() {
    let server = Server::start().await;
    install(&server, definition()).await;
    let apply = |manager: &str, spec: Value| {
        let (path, body) = (format!("{TABS}/a?fieldManager={manager}"), json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab",
            "metadata": {"name": "a"}, "spec": spec}));
        (path, body)
    };
    let send = |(path, body): (String, Value)| {
        let server = &server;
        async move { server.patch(&path, "apply-patch+yaml", body).await }
    };
    let (code, made) = send(apply("one", json!({"cron": "* * * * 5", "ports": [{"name": "a", "number": 1}]}))).await;
    assert_eq!(code, 201, "{made}");
    let (code, both) = send(apply("two", json!({"ports": [{"name": "b", "number": 2}]}))).await;
    assert_eq!((code, both["spec"]["ports"].as_array().map(Vec::len)), (200, Some(2)), "{both}");
    let (code, error) = send(apply("two", json!({"ports": [{"name": "a", "number": 9}]}))).await;
    assert!(code == 409 && error["message"].as_str().unwrap().contains(".spec.ports[name=\"a\"].number"), "{error}");
    let (code, error) = send(apply("one", json!({"cron": "* * * * 5", "bogus": 1}))).await;
    assert!(code >= 400 && error["message"].as_str().unwrap().contains(".spec.bogus: field not declared in schema"), "{error}");
    let yaml = "\napiVersion: stable.example.com/v1\nkind: CronTab\nmetadata:\n  name: a\nspec:\n  cron: \"* * * * 5\"\n  mode: fast\n  mode: slow\n";
    let path = format!("{TABS}/a?fieldManager=one&fieldValidation=Strict&force=true");
    let (code, error) = server.ask(Method::PATCH, &path, "application/apply-patch+yaml", yaml.to_owned()).await;
    assert!(code == 400 && error["message"].as_str().unwrap().contains("line 9: key \"mode\" already set in map"), "{error}");
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let server = Server::start().await;
    let made = install(&server, definition()).await;
    server.create(TABS, tab("a")).await;
    let mut held = tab("b");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.create(TABS, held).await;
    let own = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let (code, going) = server.delete(&own, json!({})).await;
    assert_eq!(code, 200);
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]), "{going}");
    assert_eq!(condition(&going, "Terminating").1, "InstanceDeletionPending");
    until(&server, &own, |_, object| condition(object, "Terminating").1 == "InstanceDeletionInProgress").await;
    until(&server, &format!("{TABS}/a"), |code, _| code == 404).await;
    let (code, error) = server.post(TABS, tab("c")).await;
    assert_eq!(code, 405, "{error}");
    let (code, _) = server.patch(&format!("{TABS}/b"), "merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    until(&server, &own, |code, _| code == 404).await;
    until(&server, "/apis/stable.example.com/v1", |code, _| code == 404).await;
    // The same name again is a new resource.
    let again = install(&server, definition()).await;
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);
    let (code, listed) = server.get(TABS).await;
    assert_eq!((code, listed["items"].as_array().map(Vec::len)), (200, Some(0)));
}

#[tokio::test]
async fn versions_come_and_go() {
    let server = Server::start().await;
    let mut object = definition();
    let mut second = object["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["mode"]["default"] = json!("fast");
    object["spec"]["versions"].as_array_mut().unwrap().push(second);
    let made = install(&server, object).await;
    server.create(TABS, tab("a")).await;
    let two = "/apis/stable.example.com/v2/namespaces/default/crontabs";
    let (code, shown) = server.get(&format!("{two}/a")).await;
    assert_eq!((code, shown["apiVersion"].as_str()), (200, Some("stable.example.com/v2")));
    let mut events = server.watch(&format!("{two}?watch=true")).await;
    assert_eq!(events.next().await.1["apiVersion"], "stable.example.com/v2");
    // v2 becomes the stored one, then v1 is no longer served.
    let own = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let mut changed = made.clone();
    changed["spec"]["versions"][0]["storage"] = json!(false);
    changed["spec"]["versions"][1]["storage"] = json!(true);
    let (code, changed) = server.put(&own, &changed).await;
    assert_eq!((code, &changed["status"]["storedVersions"]), (200, &json!(["v1", "v2"])), "{changed}");
    let (code, moved) = server.get(&format!("{two}/a")).await;
    let (again, written) = server.put(&format!("{two}/a"), &moved).await;
    assert_eq!((code, again), (200, 200));
    assert_ne!(written["metadata"]["resourceVersion"], moved["metadata"]["resourceVersion"], "an unchanged write moves it to the stored version");
    let mut changed = changed.clone();
    changed["spec"]["versions"][0]["served"] = json!(false);
    assert_eq!(server.put(&own, &changed).await.0, 200);
    until(&server, TABS, |code, _| code == 404).await;
    let (_, document) = server.get("/openapi/v2").await;
    assert!(document["definitions"]["com.example.stable.v2.CronTab"].is_object());
    assert!(document["definitions"]["com.example.stable.v1.CronTab"].is_null());
}

#[tokio::test]
async fn open_api_is_published() {
    let server = Server::start().await;
    install(&server, definition()).await;
    let (_, document) = server.get("/openapi/v2").await;
    let published = &document["definitions"]["com.example.stable.v1.CronTab"];
    assert_eq!(published["properties"]["spec"]["properties"]["mode"]["enum"], json!(["fast", "slow"]));
    assert_eq!(published["properties"]["metadata"]["$ref"], "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    assert_eq!(published["properties"]["spec"]["properties"]["extra"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert!(document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]["patch"].is_object());
    let (_, index) = server.get("/openapi/v3").await;
    let url = index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let (code, own) = server.get(url).await;
    assert_eq!(code, 200);
    let schemas = own["components"]["schemas"].as_object().unwrap();
    for part in own.to_string().split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn names_are_given_once() {
    let server = Server::start().await;
    install(&server, definition()).await;
    let mut other = definition();
    other["metadata"]["name"] = json!("others.stable.example.com");
    other["spec"]["names"] = json!({"plural": "others", "kind": "CronTab", "shortNames": ["ct"]});
    server.create(DEFINITIONS, other).await;
    let own = format!("{DEFINITIONS}/others.stable.example.com");
    let refused = until(&server, &own, |_, object| condition(object, "NamesAccepted").0 == "False").await;
    assert_eq!(condition(&refused, "NamesAccepted").1, "ListKindConflict");
    assert_eq!(condition(&refused, "Established"), ("False".into(), "NotAccepted".into(), "not all names are accepted".into()));
    assert_eq!(server.get("/apis/stable.example.com/v1/others").await.0, 404);
    // The first one goes, and frees its names.
    server.delete(&format!("{DEFINITIONS}/crontabs.stable.example.com"), json!({})).await;
    until(&server, &own, |_, object| condition(object, "Established").0 == "True").await;
}

#[tokio::test]
async fn two_apiservers_agree() {
    let server = Server::start().await;
    let other = server.beside().await;
    install(&server, definition()).await;
    let made = other.create(TABS, tab("a")).await;
    let (code, same) = server.get(&format!("{TABS}/a")).await;
    assert_eq!((code, &same), (200, &made));
    let (_, listed) = other.get(DEFINITIONS).await;
    assert_eq!(listed["items"][0]["status"]["conditions"].as_array().unwrap().len(), 2, "{listed}");
}

#[tokio::test]
async fn status_of_a_definition_is_its_own_part() {
    let server = Server::start().await;
    install(&server, definition()).await;
    let own = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let (code, object) = server.get(&format!("{own}/status")).await;
    assert_eq!(code, 200);
    let mut changed = object.clone();
    changed["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from an e2e test"}));
    let (code, updated) = server.put(&format!("{own}/status"), &changed).await;
    assert_eq!((code, condition(&updated, "StatusUpdate").1.as_str()), (200, "E2E"), "{updated}");
    let patch = json!({"metadata": {"annotations": {"patched": "1"}}, "status": {"conditions": [{"type": "StatusPatched", "status": "True", "reason": "E2E"}]}});
    let (code, patched) = server.patch(&format!("{own}/status"), "merge-patch+json", patch).await;
    assert_eq!((code, condition(&patched, "StatusPatched").0.as_str()), (200, "True"), "{patched}");
    until(&server, &own, |_, object| condition(object, "Established").0 == "True").await;
    let mut wider = server.get(&own).await.1;
    wider["spec"]["names"]["shortNames"] = json!(["ct", "cron"]);
    assert_eq!(server.put(&own, &wider).await.0, 200);
    until(&server, &own, |_, object| object["status"]["acceptedNames"]["shortNames"] == json!(["ct", "cron"])).await;
}

/// A webhook that splits `hostPort` into `host` and `port`, and puts them together again.
struct Splitter;

#[async_trait]
impl Reach for Splitter {
    async fn post(&self, config: &Value, body: Value, _deadline: Duration) -> Result<Value, String> {
        assert_eq!(config["service"]["name"], "splitter");
        let to = body["request"]["desiredAPIVersion"].as_str().unwrap().to_owned();
        let converted: Vec<Value> = body["request"]["objects"].as_array().unwrap().iter().cloned().map(|mut object| {
            let map = object.as_object_mut().unwrap();
            if to.ends_with("/v2") {
                let both = map.remove("hostPort").unwrap_or_default();
                if let Some((host, port)) = both.as_str().and_then(|both| both.split_once(':')) {
                    map.insert("host".into(), json!(host));
                    map.insert("port".into(), json!(port));
                }
            } else if let (Some(host), Some(port)) = (map.remove("host"), map.remove("port")) {
                map.insert("hostPort".into(), json!(format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap())));
            }
            map.insert("apiVersion".into(), json!(to));
            object
        }).collect();
        Ok(json!({"apiVersion": body["apiVersion"], "kind": "ConversionReview",
            "response": {"uid": body["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": converted}}))
    }
}

#[tokio::test]
async fn a_webhook_converts() {
    let server = Server::start_on(Arc::new(MemoryStore::default()), Some(Box::new(Splitter))).await;
    let text = json!({"type": "string"});
    let mut object = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "hosts.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "hosts", "kind": "Host"},
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1", "v1beta1"],
                "clientConfig": {"service": {"namespace": "default", "name": "splitter", "path": "/convert"}}}},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "selectableFields": [{"jsonPath": ".hostPort"}],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"hostPort": text}}}},
                {"name": "v2", "served": true, "storage": false, "selectableFields": [{"jsonPath": ".host"}, {"jsonPath": ".port"}],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"host": text, "port": text}}}}]}});
    let made = install(&server, object.take()).await;
    assert_eq!(made["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["port"], 443);
    let (one, two) = ("/apis/example.com/v1/hosts", "/apis/example.com/v2/hosts");
    let mut events = server.watch(&format!("{two}?watch=true&fieldSelector=host%3Dlocal")).await;
    server.create(one, json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": "a"}, "hostPort": "local:80"})).await;
    let (word, event) = events.next().await;
    assert_eq!((word.as_str(), &event["host"], &event["port"], &event["hostPort"]), ("ADDED", &json!("local"), &json!("80"), &Value::Null));
    let (_, shown) = server.get(&format!("{two}/a")).await;
    assert_eq!((&shown["apiVersion"], &shown["host"]), (&json!("example.com/v2"), &json!("local")));
    // From now on v2 is stored: lists are of both.
    let mut changed = made.clone();
    changed["spec"]["versions"][0]["storage"] = json!(false);
    changed["spec"]["versions"][1]["storage"] = json!(true);
    assert_eq!(server.put(&format!("{DEFINITIONS}/hosts.example.com"), &changed).await.0, 200);
    server.create(one, json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": "b"}, "hostPort": "far:81"})).await;
    let (_, listed) = server.get(one).await;
    let ports: Vec<&Value> = listed["items"].as_array().unwrap().iter().map(|one| &one["hostPort"]).collect();
    assert_eq!(ports, [&json!("local:80"), &json!("far:81")]);
    let (_, listed) = server.get(two).await;
    let hosts: Vec<&Value> = listed["items"].as_array().unwrap().iter().map(|one| &one["host"]).collect();
    assert_eq!(hosts, [&json!("local"), &json!("far")]);
    let (_, chosen) = server.get(&format!("{one}?fieldSelector=hostPort%3Dfar:81")).await;
    assert_eq!(chosen["items"][0]["metadata"]["name"], "b");
    let (code, patched) = server.patch(&format!("{one}/b"), "merge-patch+json", json!({"hostPort": "near:82"})).await;
    assert_eq!((code, &patched["hostPort"]), (200, &json!("near:82")), "{patched}");
    assert_eq!(server.get(&format!("{two}/b")).await.1["host"], "near");
    assert_eq!(server.delete(&format!("{two}/a"), json!({})).await.0, 200);
}

#[tokio::test]
async fn rules_in_cel_are_kept() {
    let server = Server::start().await;
    let mut object = definition();
    object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = json!([
        {"rule": "self.replicas < 5", "message": "too many", "fieldPath": ".replicas"}, {"rule": "self.cron == oldSelf.cron", "message": "cron is fixed"}]);
    install(&server, object).await;
    let made = server.create(TABS, tab("a")).await;
    let (code, error) = server.patch(&format!("{TABS}/a"), "merge-patch+json", json!({"spec": {"replicas": 7}})).await;
    assert_eq!((code, error["message"].as_str()), (422, Some("CronTab.stable.example.com \"a\" is invalid: spec.replicas: Invalid value: too many")), "{error}");
    let mut changed = made;
    changed["spec"]["cron"] = json!("1 1 1 1 1");
    let (code, error) = server.put(&format!("{TABS}/a"), &changed).await;
    assert!(code == 422 && error["message"].as_str().unwrap().contains("cron is fixed"), "{error}");
}

#[tokio::test]
async fn embedded_metadata_and_deprecation() {
    let server = Server::start().await;
    let mut object = definition();
    object["spec"]["versions"][0]["deprecated"] = json!(true);
    install(&server, object).await;
    let mut odd = tab("a");
    odd["metadata"]["unknownMeta"] = json!(1);
    odd["spec"]["template"] = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "unknownSubMeta": 2}});
    let (code, _, warnings) = warned(&server, Method::POST, &format!("{TABS}?dryRun=All"), "application/json", &odd.to_string()).await;
    assert_eq!(code, 201);
    let expected = ["299 - \"stable.example.com/v1 CronTab is deprecated\"", "299 - \"unknown field \\\"metadata.unknownMeta\\\"\"",
        "299 - \"unknown field \\\"spec.template.metadata.unknownSubMeta\\\"\""];
    assert_eq!(warnings, expected);
    let (code, error) = server.patch(&format!("{TABS}/a?fieldManager=m"), "apply-patch+yaml", odd).await;
    let message = error["message"].as_str().unwrap();
    assert!(code >= 400 && message.contains(".spec.template.metadata.unknownSubMeta: field not declared in schema"), "{message}");
}
