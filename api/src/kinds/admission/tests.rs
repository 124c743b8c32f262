//! What is refused, in the original's words; what is filled in.

use serde_json::{Value, json};

use crate::kind::{Kind, Part};

fn kind(plural: &str) -> &'static dyn Kind {
    crate::kinds::find("admissionregistration.k8s.io", "v1", plural).unwrap()
}

/// The findings about a new object, after defaulting.
fn findings(plural: &str, mut object: Value) -> Vec<String> {
    let kind = kind(plural);
    kind.check(&mut object).unwrap();
    kind.default(&mut object);
    kind.prepare_create(&mut object);
    kind.validate_create(&object).iter().map(ToString::to_string).collect()
}

fn hook(change: Value) -> Value {
    let mut hook = json!({"name": "a.b.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/check"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    for (key, value) in change.as_object().unwrap() {
        hook[key] = value.clone();
    }
    json!({"metadata": {"name": "c"}, "webhooks": [hook]})
}

fn policy(change: Value) -> Value {
    let mut spec = json!({"validations": [{"expression": "object.spec.replicas > 1"}],
        "matchConstraints": {"resourceRules": [
            {"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]}});
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn webhooks_get_defaults() {
    let mut object = hook(json!({}));
    kind("mutatingwebhookconfigurations").default(&mut object);
    let hook = &object["webhooks"][0];
    assert_eq!(hook["failurePolicy"], "Fail");
    assert_eq!(hook["matchPolicy"], "Equivalent");
    assert_eq!(hook["timeoutSeconds"], 10);
    assert_eq!(hook["reinvocationPolicy"], "Never");
    assert_eq!(hook["namespaceSelector"], json!({}));
    assert_eq!(hook["rules"][0]["scope"], "*");
    assert_eq!(hook["clientConfig"]["service"]["port"], 443);
    let mut object = policy(json!({}));
    kind("validatingadmissionpolicies").default(&mut object);
    assert_eq!(object["spec"]["matchConstraints"]["resourceRules"][0]["scope"], "*");
    assert_eq!(object["spec"]["failurePolicy"], "Fail");
}

#[test]
fn webhooks_are_checked() {
    let of = |change| findings("validatingwebhookconfigurations", hook(change));
    assert_eq!(of(json!({})), Vec::<String>::new());
    let cases = [
        (json!({"name": "short"}), "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three"),
        (json!({"sideEffects": "Some"}), "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""),
        (json!({"sideEffects": null}), "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"),
        (json!({"timeoutSeconds": 31}), "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between"),
        (json!({"admissionReviewVersions": []}), "webhooks[0].admissionReviewVersions: Required value: must specify one of"),
        (json!({"admissionReviewVersions": ["v7"]}), "must include at least one of v1, v1beta1"),
        (json!({"clientConfig": {}}), "webhooks[0].clientConfig: Required value: exactly one of url or service"),
        (json!({"clientConfig": {"url": "http://a/b?c#d"}}), "'https' is the only allowed URL scheme"),
        (json!({"clientConfig": {"url": "https://u@a/b"}}), "user information is not permitted in the URL"),
        (json!({"rules": [{"operations": ["*", "CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]}),
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present"),
        (json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": [], "resources": ["pods/*", "pods/log"]}]}),
            "if 'pods/*' is present, must not specify pods/log"),
        (json!({"matchConditions": [{"name": "x", "expression": "... [ bad }"}]}), "compilation failed: ERROR: <input>:1:"),
        (json!({"matchConditions": [{"name": "x", "expression": "object.a"}]}), "must evaluate to bool but got dyn"),
        (json!({"matchConditions": [{"name": "x", "expression": "params.a == 1"}]}), "undeclared reference to 'params'"),
        (json!({"matchConditions": [{"name": "x", "expression": "true"}, {"name": "x", "expression": "true"}]}),
            "webhooks[0].matchConditions[1].name: Duplicate value: \"x\""),
        (json!({"failurePolicy": "Maybe"}), "webhooks[0].failurePolicy: Unsupported value: \"Maybe\""),
    ];
    for (change, words) in cases {
        let found = of(change.clone());
        assert!(found.iter().any(|finding| finding.contains(words)), "{change}: {found:?}");
    }
    let sound = json!({"matchConditions": [{"name": "x", "expression":
        "!(request.resource.group == 'coordination.k8s.io') && authorizer.requestResource.check('get').allowed() \
         && request.userInfo.groups.exists(g, g == 'a') && namespaceObject.metadata.labels['a'] == 'b'"}]});
    assert_eq!(of(sound), Vec::<String>::new());
}

#[test]
fn validating_policies_are_checked() {
    let of = |change| findings("validatingadmissionpolicies", policy(change));
    assert_eq!(of(json!({})), Vec::<String>::new());
    let cases = [
        (json!({"validations": []}), "spec.validations: Required value: validations or auditAnnotations must contain"),
        (json!({"validations": [{"expression": "1"}]}), "spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool but got int"),
        (json!({"validations": [{"expression": "true", "messageExpression": "1"}]}), "must evaluate to string but got int"),
        (json!({"validations": [{"expression": "true", "messageExpression": "authorizer.path('/').check('get').reason()"}]}),
            "undeclared reference to 'authorizer'"),
        (json!({"validations": [{"expression": "true", "message": "a\nb"}]}), "must not contain line breaks"),
        (json!({"validations": [{"expression": "true", "reason": "Bad"}]}), "spec.validations[0].reason: Unsupported value"),
        (json!({"variables": [{"name": "for", "expression": "1"}]}), "must be a valid CEL identifier"),
        (json!({"variables": [{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}]}), "undefined field 'b'"),
        (json!({"auditAnnotations": [{"key": "k", "valueExpression": "1"}]}), "must evaluate to one of [string null_type] but got int"),
        (json!({"paramKind": {"apiVersion": "v1", "kind": ""}}), "spec.paramKind.kind: Required value"),
        (json!({"matchConstraints": null}), "spec.matchConstraints: Required value"),
    ];
    for (change, words) in cases {
        let found = of(change.clone());
        assert!(found.iter().any(|finding| finding.contains(words)), "{change}: {found:?}");
    }
    let sound = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"}, {"name": "odd", "expression": "variables.replicas % 2 == 1"}],
        "validations": [{"expression": "variables.odd", "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"},
            {"expression": "variables.replicas > int(params.data.least)", "reason": "Forbidden"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "variables.odd ? 'odd' : ''"}],
    });
    assert_eq!(of(sound), Vec::<String>::new());
}

#[test]
fn mutating_policies_are_checked() {
    let of = |change: Value| {
        let mut object = policy(json!({"reinvocationPolicy": "Never"}));
        object["spec"].as_object_mut().unwrap().remove("validations");
        for (key, value) in change.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        findings("mutatingadmissionpolicies", object)
    };
    let apply = |text: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}});
    let patch = |text: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": text}});
    let sound = json!({"mutations": [
        apply("Object{metadata: Object.metadata{annotations: {\"mutated-by\": \"admission-policy\"}}}"),
        apply("Object{spec: Object.spec{replicas: object.spec.replicas + 2}}"),
        patch("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]"),
        patch("has(object.spec.paused) ? [] : [JSONPatch{op: 'add', path: '/spec/paused', value: true}]"),
    ]});
    assert_eq!(of(sound), Vec::<String>::new());
    let cases = [
        (json!({"mutations": []}), "spec.mutations: Required value: mutations must contain at least one item"),
        (json!({"mutations": [apply("object")]}), "must evaluate to Object but got dyn"),
        (json!({"mutations": [patch("[1]")]}), "must evaluate to list(JSONPatch) but got list(int)"),
        (json!({"mutations": [patch("[JSONPatch{what: 1}]")]}), "undefined field 'what'"),
        (json!({"mutations": [{"patchType": "JSONPatch"}]}), "spec.mutations[0].jsonPatch: Required value: must be specified"),
        (json!({"mutations": [apply("Object{}")], "reinvocationPolicy": "x"}), "spec.reinvocationPolicy: Unsupported value"),
    ];
    for (change, words) in cases {
        let found = of(change.clone());
        assert!(found.iter().any(|finding| finding.contains(words)), "{change}: {found:?}");
    }
}

#[test]
fn bindings_are_checked() {
    let of = |spec: Value| {
        findings("validatingadmissionpolicybindings", json!({"metadata": {"name": "b"}, "spec": spec}))
    };
    assert_eq!(of(json!({"policyName": "p", "validationActions": ["Deny"]})), Vec::<String>::new());
    let cases = [
        (json!({"validationActions": ["Deny"]}), "spec.policyName: Required value"),
        (json!({"policyName": "p", "validationActions": []}), "spec.validationActions: Required value"),
        (json!({"policyName": "p", "validationActions": ["Deny", "Warn"]}), "must not contain both Deny and Warn"),
        (json!({"policyName": "p", "validationActions": ["Audit", "Audit"]}), "spec.validationActions[1]: Duplicate value"),
        (json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {}}), "one of name or selector must be specified"),
    ];
    for (spec, words) in cases {
        let found = of(spec.clone());
        assert!(found.iter().any(|finding| finding.contains(words)), "{spec}: {found:?}");
    }
}

#[test]
fn status_is_written_apart() {
    let kind = kind("validatingadmissionpolicies");
    let mut old = policy(json!({}));
    kind.default(&mut old);
    kind.prepare_create(&mut old);
    let mut new = old.clone();
    new["status"] = json!({"observedGeneration": 1, "typeChecking": {"expressionWarnings": [{"warning": "w"}]}});
    kind.prepare_update(&mut new, &old, Part::Status);
    let found: Vec<String> = kind.validate_update(&new, &old, Part::Status).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["status.typeChecking.expressionWarnings[0].fieldRef: Required value"]);
}
