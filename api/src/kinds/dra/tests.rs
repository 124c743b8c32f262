//! Claims, classes and slices as writers send them.

use serde_json::json;

use super::*;
use crate::kind::Kind as _;

fn findings(kind: &Definition, spec: Value) -> Vec<String> {
    let mut object = json!({"metadata": {"name": "x"}, "spec": spec});
    if kind.namespaced {
        object["metadata"]["namespace"] = json!("n");
    }
    kind.check(&mut object).unwrap();
    kind.default(&mut object);
    kind.validate_create(&object).iter().map(ToString::to_string).collect()
}

fn claim_of(request: Value) -> Value {
    json!({"devices": {"requests": [request]}})
}

#[test]
fn claims_ask_for_devices_of_a_class() {
    let good = claim_of(json!({"name": "req-0", "exactly": {"deviceClassName": "dra.example.com"}}));
    assert_eq!(findings(&RESOURCE_CLAIM, good.clone()), Vec::<String>::new());
    assert_eq!(findings(&RESOURCE_CLAIM_TEMPLATE, json!({"spec": good})), Vec::<String>::new());
    assert_eq!(
        findings(&RESOURCE_CLAIM, claim_of(json!({"name": "a"}))),
        ["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"]
    );
    assert_eq!(
        findings(&RESOURCE_CLAIM, claim_of(json!({"name": "a", "exactly": {"allocationMode": "All", "count": 2}}))),
        [
            "spec.devices.requests[0].exactly.deviceClassName: Required value",
            "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"
        ]
    );
    let unknown = json!({"devices": {"requests": [{"name": "a", "firstAvailable": [{"name": "b", "deviceClassName": "c"}]}],
        "constraints": [{"requests": ["a/b", "a/x"], "matchAttribute": "plain"}]}});
    assert_eq!(
        findings(&RESOURCE_CLAIM, unknown),
        [
            "spec.devices.constraints[0].requests[1]: Invalid value: \"a/x\": must be the name of a request in the claim or the \
             name of a request and a subrequest separated by '/'",
            "spec.devices.constraints[0].matchAttribute: Invalid value: \"plain\": a fully qualified name must be a domain and a \
             name separated by a slash"
        ]
    );
    let many: Vec<Value> = (0..33).map(|i| json!({"name": format!("r{i}"), "exactly": {"deviceClassName": "c"}})).collect();
    assert_eq!(
        findings(&RESOURCE_CLAIM, json!({"devices": {"requests": many}})),
        ["spec.devices.requests: Too many: 33: must have at most 32 items"]
    );
}

#[test]
fn what_a_claim_was_given_stays() {
    let kind = &RESOURCE_CLAIM;
    let mut old = json!({"metadata": {"name": "x", "namespace": "n"},
        "spec": claim_of(json!({"name": "r", "exactly": {"deviceClassName": "c"}}))});
    kind.default(&mut old);
    let change = |old: &Value, status: Value| {
        let mut new = old.clone();
        new["status"] = status;
        new["metadata"]["labels"] = json!({"a": "b"});
        kind.prepare_update(&mut new, old, Part::Status);
        assert!(new["metadata"].get("labels").is_none(), "metadata is not the status");
        let findings: Vec<String> = kind.validate_update(&new, old, Part::Status).iter().map(ToString::to_string).collect();
        (findings, new)
    };
    assert_eq!(change(&old, json!({"allocation": {}})).0, Vec::<String>::new());
    let user = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
    assert_eq!(
        change(&old, json!({"reservedFor": user})).0,
        ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
    );
    let result = json!({"devices": {"results": [{"request": "r", "driver": "d.x", "pool": "p", "device": "d1"}]}});
    let device = json!([{"driver": "d.x", "pool": "p", "device": "d1"}]);
    let (found, given) = change(&old, json!({"allocation": result, "reservedFor": user, "devices": device}));
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(state(&given), "allocated,reserved");
    assert_eq!(change(&given, json!({"allocation": {}})).0.len(), 1, "an allocation is not changed");
    let (found, back) = change(&given, json!({"devices": device}));
    assert_eq!((found, back["status"].get("devices")), (Vec::new(), None));
    assert_eq!(
        change(&old, json!({"devices": device})).0,
        ["status.devices[0]: Invalid value: \"d.x/p/d1\": must be an allocated device in the claim"]
    );
    let mut other = old.clone();
    other["spec"]["devices"]["requests"][0]["name"] = json!("z");
    let found = kind.validate_update(&other, &old, Part::Main);
    assert!(found.len() == 1 && found[0].field == "spec" && found[0].message.ends_with("field is immutable"), "{found:?}");
}

#[test]
fn slices_say_where_their_devices_are() {
    let slice = |extra: Value| {
        let mut spec = json!({"driver": "dra.example.com", "pool": {"name": "cluster", "generation": 1, "resourceSliceCount": 1}});
        if let (Value::Object(spec), Value::Object(extra)) = (&mut spec, extra) {
            spec.extend(extra);
        }
        findings(&RESOURCE_SLICE, spec)
    };
    assert_eq!(slice(json!({"nodeName": "n", "devices": [{"name": "device-0"}]})), Vec::<String>::new());
    assert_eq!(
        slice(json!({})),
        ["spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"]
    );
    assert_eq!(slice(json!({"nodeName": "n", "allNodes": true})).len(), 1);
    assert_eq!(
        slice(json!({"allNodes": true, "devices": [{"name": "d", "attributes": {"a/b": {"int": 1, "bool": true}, "9": {"version": "1"}}}]})).len(),
        3
    );
    let policy = json!({"default": "3Gi", "validRange": {"min": "1Gi", "max": "4Gi", "step": "2Gi"}});
    assert_eq!(
        slice(json!({"allNodes": true, "devices": [{"name": "d", "allowMultipleAllocations": true,
            "capacity": {"memory": {"value": "8Gi", "requestPolicy": policy}}}]})),
        ["spec.devices[0].capacity[memory].requestPolicy.validRange.step: Invalid value: \"4Gi\": value is not a multiple of a given \
          step (2Gi) from (1Gi)"]
    );
}

#[test]
fn classes_select_devices() {
    let spec = json!({"selectors": [{"cel": {"expression": "1 == 0"}}], "config": [{"opaque": {"driver": "d.x", "parameters": {}}}]});
    assert_eq!(findings(&DEVICE_CLASS, spec), Vec::<String>::new());
    assert_eq!(
        findings(&DEVICE_CLASS, json!({"selectors": [{}], "config": [{}], "extendedResourceName": "cpu"})),
        [
            "spec.selectors[0].cel: Required value",
            "spec.config[0].opaque: Required value",
            "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name"
        ]
    );
}
