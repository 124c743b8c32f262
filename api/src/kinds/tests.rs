//! What the kinds answer to good and bad objects: check, default, validate, as a writer sees it.

use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{all, find_kind};
use crate::kind::{Kind, Part};

fn kind(api_version: &str, kind: &str) -> &'static dyn Kind {
    let (group, version) = crate::meta::split_api_version(api_version);
    find_kind(group, version, kind).unwrap_or_else(|| panic!("{api_version} {kind}"))
}

/// The way of a new object through its kind's rules.
fn created(mut object: Value) -> (Value, Vec<String>) {
    let kind = kind(object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    let unknown = kind.check(&mut object).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(unknown, Vec::<String>::new());
    kind.default(&mut object);
    kind.prepare_create(&mut object);
    let findings = kind.validate_create(&object).iter().map(ToString::to_string).collect();
    (object, findings)
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": spec})
}

fn container(extra: Value) -> Value {
    let mut container = json!({"name": "a", "image": "x"});
    if let (Value::Object(container), Value::Object(extra)) = (&mut container, extra) {
        container.extend(extra);
    }
    json!({"containers": [container]})
}

fn typed<T: DeserializeOwned>(object: &Value) {
    serde_json::from_value::<T>(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
}

#[test]
fn every_kind_has_a_type_and_fitting_cells() {
    for kind in all() {
        let names = kind.names();
        let mut object = json!({"metadata": {"name": "x"}});
        kind.check(&mut object).unwrap_or_else(|error| panic!("{}: {error:?}", names.kind));
        assert_eq!(object["kind"], names.kind);
        kind.default(&mut object);
        kind.prepare_create(&mut object);
        let _ = kind.validate_create(&object);
        let _ = kind.validate_update(&object, &object, Part::Main);
        let _ = kind.validate_update(&object, &object, Part::Status);
        let _ = kind.warnings(&object);
        if kind.verbs().contains(&"list") {
            assert_eq!(kind.cells(&object, Timestamp::UNIX_EPOCH).len(), kind.columns().len(), "{}", names.kind);
        }
        let mut again = object.clone();
        kind.check(&mut again).unwrap_or_else(|error| panic!("{}: {error:?}", names.kind));
        kind.default(&mut again);
        let mut third = again.clone();
        kind.default(&mut third);
        assert_eq!(third, again, "{}: defaulting twice changes nothing", names.kind);
    }
}

#[test]
fn nothing_that_is_checked_can_panic() {
    // Every field of every kind set to something of the wrong or an odd type.
    let odd = [json!(null), json!(-1), json!("x"), json!([]), json!([null]), json!({}), json!({"a": null}), json!(true), json!([{}]), json!([{"name": "x"}])];
    for kind in all() {
        for value in &odd {
            for field in ["spec", "status", "metadata", "data", "subsets", "endpoints", "ports", "rules", "subjects", "roleRef", "template"] {
                let mut object = json!({"metadata": {"name": "x"}});
                object[field] = value.clone();
                if kind.check(&mut object).is_err() {
                    continue;
                }
                let _ = kind.warnings(&object);
                kind.default(&mut object);
                kind.prepare_create(&mut object);
                let _ = kind.validate_create(&object);
                let old = object.clone();
                kind.prepare_update(&mut object, &old, Part::Main);
                let _ = kind.validate_update(&object, &old, Part::Status);
                let _ = kind.cells(&object, Timestamp::UNIX_EPOCH);
            }
        }
    }
}

#[test]
fn a_plain_pod() {
    let (object, findings) = created(pod(container(json!({"resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}}))));
    assert_eq!(findings, Vec::<String>::new());
    typed::<k8s_openapi::api::core::v1::Pod>(&object);
    insta::assert_snapshot!(serde_json::to_string_pretty(&object).unwrap_or_default());
}

#[test]
fn typed_forms() {
    let (event, findings) = created(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": "n"}, "reason": "R", "firstTimestamp": "2024-01-01T00:00:00+01:00"}));
    assert_eq!(findings, Vec::<String>::new());
    assert_eq!(event["firstTimestamp"], "2023-12-31T23:00:00Z");
    typed::<k8s_openapi::api::core::v1::Event>(&event);
    let newer = super::event::from_core(&event);
    assert_eq!(newer["regarding"]["name"], "n");
    assert_eq!(super::event::to_core(&newer), event);
    let (lease, _) = created(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "namespace": "n"},
        "spec": {"renewTime": "2024-01-01T00:00:00.5Z"}}));
    assert_eq!(lease["spec"]["renewTime"], "2024-01-01T00:00:00.500000Z");
    typed::<k8s_openapi::api::coordination::v1::Lease>(&lease);
    let (deployment, findings) = created(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": container(json!({}))}}}));
    assert_eq!(findings, Vec::<String>::new());
    typed::<k8s_openapi::api::apps::v1::Deployment>(&deployment);
    insta::assert_snapshot!(serde_json::to_string_pretty(&deployment).unwrap_or_default());
    let (secret, _) = created(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}, "stringData": {"a": "b"}}));
    assert_eq!((&secret["data"], &secret["type"]), (&json!({"a": "Yg=="}), &json!("Opaque")));
    assert!(secret.get("stringData").is_none());
    let (namespace, _) = created(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}));
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "x"}));
    typed::<k8s_openapi::api::core::v1::Namespace>(&namespace);
}

#[test]
fn what_is_wrong_with_a_pod() {
    let cases = [
        pod(json!({"containers": []})),
        pod(json!({"containers": [{"name": "a"}]})),
        pod(json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}]})),
        pod(json!({"containers": [{"name": "A_b", "image": "x"}], "restartPolicy": "Sometimes"})),
        pod(container(json!({"resources": {"limits": {"cpu": "1", "foo": "1"}, "requests": {"cpu": "2", "memory": "-1"}}}))),
        pod(container(json!({"ports": [{"containerPort": 0}, {"containerPort": 70000, "protocol": "XYZ", "name": "TOO_LONG_FOR_A_PORT"}]}))),
        pod(container(json!({"env": [{"name": ""}, {"name": "a=b"}, {"name": "c", "value": "v", "valueFrom": {"fieldRef": {"fieldPath": "spec.bogus"}}}]}))),
        pod(container(json!({"volumeMounts": [{"name": "gone", "mountPath": "/x"}, {"name": "v", "mountPath": ""}]}))),
        pod(container(json!({"livenessProbe": {"successThreshold": 2}, "readinessProbe": {"httpGet": {"port": "bad_port"}, "exec": {}}}))),
        pod(json!({"containers": [{"name": "a", "image": "x"}], "tolerations": [{"operator": "Equal", "effect": "Bad"}], "activeDeadlineSeconds": 0,
            "hostname": "UP", "securityContext": {"sysctls": [{"name": "foo-"}], "runAsUser": -1}, "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": ""}}]})),
        pod(json!({"containers": [{"name": "a", "image": "x"}], "initContainers": [{"name": "a", "image": "x", "livenessProbe": {"exec": {"command": ["x"]}}}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "Is"}]}]}}}})),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "Bad_Name", "namespace": "n", "labels": {"a": "-"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": {"replicas": -1,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": {"a b": "1", "k": "1"}, "binaryData": {"k": "AA=="}}),
    ];
    let shown: Vec<String> = cases.into_iter().map(|object| created(object).1.join("\n")).collect();
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[test]
fn unknown_fields_and_wrong_types() {
    let kind = kind("v1", "Pod");
    let body = br#"{"metadata":{"name":"p"},"foo":1,"spec":{"zzz":1,"containers":[{"name":"a","bogus":2}]}}"#;
    let decoded = crate::decode::json(body).expect("json");
    let mut object = decoded.value.clone();
    let unknown = kind.check(&mut object).expect("types");
    assert_eq!(decoded.in_document_order(unknown), ["foo", "spec.zzz", "spec.containers[0].bogus"]);
    assert!(object.get("foo").is_none() && object["spec"].get("zzz").is_none());
    for (spec, message) in [
        (json!({"terminationGracePeriodSeconds": "x"}), "json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64"),
        (json!({"containers": {}}), "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"),
        (json!({"containers": [{"image": 1}]}), "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string"),
        (json!({"containers": [{"ports": [{"containerPort": 1.5}]}]}), "json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32"),
        (json!({"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}), "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    ] {
        let error = kind.check(&mut json!({"spec": spec})).expect_err(message);
        assert_eq!(error.0, message);
    }
}

fn stored(object: Value) -> Value {
    let (mut object, findings) = created(object);
    assert_eq!(findings, Vec::<String>::new());
    object["metadata"]["uid"] = "u".into();
    object
}

fn updated(old: &Value, part: Part<'_>, change: impl FnOnce(&mut Value)) -> (Value, Vec<String>) {
    let kind = kind(old["apiVersion"].as_str().unwrap_or_default(), old["kind"].as_str().unwrap_or_default());
    let mut new = old.clone();
    change(&mut new);
    kind.check(&mut new).unwrap_or_else(|error| panic!("{error:?}"));
    kind.default(&mut new);
    kind.prepare_update(&mut new, old, part);
    let findings = kind.validate_update(&new, old, part).iter().map(ToString::to_string).collect();
    (new, findings)
}

#[test]
fn what_of_a_pod_may_change() {
    let full = json!({"cpu": "1", "memory": "1Gi"});
    let old = stored(pod(container(json!({"resources": {"limits": full}}))));
    let (new, findings) = updated(&old, Part::Main, |pod| pod["spec"]["containers"][0]["image"] = "y:1".into());
    assert_eq!((findings.len(), &new["metadata"]["generation"]), (0, &json!(2)));
    let (new, findings) = updated(&old, Part::Main, |pod| pod["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!((findings.len(), &new["metadata"]["generation"]), (0, &json!(1)));
    let (_, findings) = updated(&old, Part::Main, |pod| pod["spec"]["containers"][0]["command"] = json!(["x"]));
    assert_eq!(findings, ["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
        `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
        `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n+spec.containers[0].command: [\"x\"]\n"]);
    let (new, findings) = updated(&old, Part::Status, |pod| {
        pod["spec"]["nodeName"] = "ignored".into();
        pod["status"]["phase"] = "Running".into();
    });
    assert_eq!((findings.len(), &new["status"]["phase"], new["spec"].get("nodeName")), (0, &json!("Running"), None));
    let (new, findings) = updated(&old, Part::Other("ephemeralcontainers"), |pod| {
        pod["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}]);
        pod["spec"]["nodeName"] = "ignored".into();
    });
    assert_eq!((findings, new["spec"].get("nodeName"), &new["metadata"]["generation"]), (Vec::<String>::new(), None, &json!(2)));
    let resources = |pod: &mut Value, cpu: &str| {
        for side in ["limits", "requests"] {
            pod["spec"]["containers"][0]["resources"][side]["cpu"] = cpu.into();
        }
    };
    let (new, findings) = updated(&old, Part::Other("resize"), |pod| resources(pod, "2"));
    assert_eq!((findings, &new["spec"]["containers"][0]["resources"]["limits"]["cpu"]), (Vec::<String>::new(), &json!("2")));
    let (_, findings) = updated(&old, Part::Other("resize"), |pod| pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "2".into());
    assert_eq!(findings, ["spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing"]);
}

#[test]
fn what_else_may_not_change() {
    let map = stored(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": {"a": "1"}, "immutable": true}));
    let (_, findings) = updated(&map, Part::Main, |map| map["data"]["a"] = "2".into());
    assert_eq!(findings, ["data: Forbidden: field is immutable when `immutable` is set"]);
    let (_, findings) = updated(&map, Part::Main, |map| map["metadata"]["uid"] = "other".into());
    assert_eq!(findings, ["metadata.uid: Invalid value: \"other\": field is immutable"]);
    let node = stored(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": {"capacity": {"cpu": "2"}}}));
    assert_eq!(node["status"]["allocatable"]["cpu"], "2");
    let (new, _) = updated(&node, Part::Main, |node| node["status"]["capacity"]["cpu"] = "4".into());
    assert_eq!(new["status"]["capacity"]["cpu"], "2");
}

#[test]
fn a_daemon_set_numbers_its_templates() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let old = stored(json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "n"}, "spec": spec}));
    let number = |set: &Value| set["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone();
    assert_eq!(number(&old), "1");
    let (new, findings) = updated(&old, Part::Main, |set| {
        set["metadata"]["annotations"] = json!({"mine": "x"});
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into();
    });
    assert_eq!((number(&new), findings), (json!("2"), Vec::new()));
    let (same, _) = updated(&new, Part::Main, |set| set["spec"]["minReadySeconds"] = 5.into());
    assert_eq!(number(&same), "2");
}
