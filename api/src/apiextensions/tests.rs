//! Schemas as tables of cases.

use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use super::registry::preferred;
use super::schema::{Schema, pattern};
use super::{check, defaulting, format, lists, prune, status, structural};

fn compiled(schema: Value) -> Schema {
    Schema::compile(&schema).expect("schema")
}

fn shown(findings: &[crate::field::FieldError]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn values_against_rules() {
    let number = json!({"type": "number", "multipleOf": 0.5, "exclusiveMinimum": true, "minimum": 0});
    let cases = [
        (json!({"type": "string", "maxLength": 2}), json!("äöü"), vec!["x: Too long: may not be more than 2 bytes"]),
        (json!({"type": "string", "minLength": 2}), json!("a"), vec!["x: Invalid value: \"a\": x in body should be at least 2 chars long"]),
        (number.clone(), json!(1.5), vec![]),
        (number.clone(), json!(0), vec!["x: Invalid value: 0: x in body should be greater than 0"]),
        (number, json!(0.7), vec!["x: Invalid value: 0.7: x in body should be a multiple of 0.5"]),
        (json!({"type": "array", "items": {"type": "integer"}, "maxItems": 1}), json!([1, "a"]),
            vec!["x[1]: Invalid value: \"string\": x[1] in body must be of type integer: \"string\"", "x: Too many: 2: must have at most 1 item"]),
        (json!({"type": "integer"}), json!(1.0), vec![]),
        (json!({"type": "integer"}), json!(1.5), vec!["x: Invalid value: \"number\": x in body must be of type integer: \"number\""]),
        (json!({"type": "string"}), Value::Null, vec!["x: Invalid value: \"null\": x in body must be of type string: \"null\""]),
        (json!({"type": "string", "nullable": true}), Value::Null, vec![]),
        (json!({"type": "string", "format": "date"}), json!("2024-13-01"), vec!["x: Invalid value: \"2024-13-01\": x in body must be of type date: \"2024-13-01\""]),
        (json!({"type": "string", "format": "unheard-of"}), json!("y"), vec![]),
        (json!({"type": "object", "additionalProperties": {"type": "boolean"}}), json!({"a": 1}),
            vec!["x.a: Invalid value: \"integer\": x.a in body must be of type boolean: \"integer\""]),
        (json!({"type": "object", "required": ["a", "b"]}), json!({"a": 1}), vec!["x.b: Required value"]),
        (json!({"x-kubernetes-int-or-string": true}), json!(true), vec!["x: Invalid value: \"boolean\": x in body must be of type integer,string: \"boolean\""]),
        (json!({"type": "integer", "oneOf": [{"minimum": 5}, {"multipleOf": 2}]}), json!(6),
            vec!["<nil>: Invalid value: \"\": \"x\" must validate one and only one schema (oneOf). Found 2 valid alternatives"]),
        (json!({"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 0}]}), json!(3), vec![
            "<nil>: Invalid value: \"\": \"x\" must validate at least one schema (anyOf)",
            "x: Invalid value: 3: x in body should be greater than or equal to 5"]),
        (json!({"type": "integer", "not": {"enum": [3]}}), json!(3), vec!["<nil>: Invalid value: \"\": \"x\" must not validate the schema (not)"]),
    ];
    for (schema, value, expected) in cases {
        assert_eq!(shown(&check::validate("x", &compiled(schema.clone()), &value, None)), expected, "{schema} {value}");
    }
}

#[test]
fn what_was_wrong_and_stays_is_let_through() {
    let schema = compiled(json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1}}}));
    let old = json!({"a": "long", "b": "x"});
    assert!(check::validate("", &schema, &json!({"a": "long", "b": "y"}), Some(&old)).is_empty());
    assert_eq!(check::validate("", &schema, &json!({"a": "longer", "b": "y"}), Some(&old)).len(), 1);
}

#[test]
fn unknown_members_go() {
    let schema = compiled(json!({"type": "object", "properties": {
        "a": {"type": "object", "properties": {"known": {"type": "string"}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"strict": {"type": "object"}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"k": {"type": "integer"}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "integer"}}}},
        "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}}));
    let mut object = json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n"}, "bogus": 1,
        "a": {"known": "x", "other": 1}, "free": {"any": 1, "strict": {"x": 1}}, "map": {"m": {"k": 1, "j": 2}},
        "list": [{"k": 1}, {"j": 2}], "inner": {"kind": "I", "metadata": {"name": "i"}, "spec": {"x": 1}, "y": 1}});
    let unknown = prune::prune(&mut object, &schema);
    assert_eq!(unknown, ["a.other", "bogus", "free.strict.x", "inner.spec.x", "inner.y", "list[1].j", "map.m.j"]);
    assert_eq!(object, json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n"}, "a": {"known": "x"},
        "free": {"any": 1, "strict": {}}, "map": {"m": {"k": 1}}, "list": [{"k": 1}, {}],
        "inner": {"kind": "I", "metadata": {"name": "i"}, "spec": {}}}));
    let mut metadata = json!({"metadata": {"name": "n", "odd": 1}, "inner": {"metadata": {"strange": 2, "labels": {"a": "b"}}}});
    assert_eq!(prune::coerce_metadata(&mut metadata, &schema), Ok(vec!["inner.metadata.strange".to_owned(), "metadata.odd".to_owned()]));
    assert_eq!(metadata["inner"]["metadata"], json!({"labels": {"a": "b"}}));
    assert!(prune::coerce_metadata(&mut json!({"metadata": {"labels": 5}}), &schema).is_err());
}

#[test]
fn defaults_and_nulls() {
    let schema = compiled(json!({"type": "object", "properties": {
        "a": {"type": "integer", "default": 1}, "n": {"type": "string", "nullable": true, "default": "d"},
        "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "x"}}},
        "gone": {"type": "string"}}}));
    let fill = |mut value: Value| {
        defaulting::prune_nulls(&mut value, Some(&schema));
        defaulting::default(&mut value, &schema);
        value
    };
    assert_eq!(fill(json!({})), json!({"a": 1, "n": "d", "b": {"c": "x"}}));
    assert_eq!(fill(json!({"a": null, "n": null, "gone": null, "other": null})), json!({"a": 1, "n": null, "b": {"c": "x"}, "other": null}));
}

#[test]
fn sets_and_maps() {
    let schema = compiled(json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"], "items": {"type": "object"}}));
    let value = json!([{"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2}]);
    assert_eq!(shown(&lists::validate("l", &schema, &value)), ["l[2]: Duplicate value: {\"a\":1,\"b\":2}"]);
}

#[test]
fn structural_schemas() {
    let cases = [
        (json!({"type": "object", "properties": {"a": {"type": "array"}}}), "s.properties[a].items: Required value: must be specified"),
        (json!({"properties": {}}), "s.type: Required value: must not be empty at the root"),
        (json!({"type": "object", "properties": {"a": {"type": "integer", "anyOf": [{"type": "integer"}]}}}), "s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"),
        (json!({"type": "object", "oneOf": [{"properties": {"a": {"minimum": 1}}}]}), "s.properties[a]: Required value: because it is defined in s.oneOf[0].properties[a]"),
        (json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"),
        (json!({"type": "object", "properties": {"a": {"type": "object", "x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true}}}),
            "must be false if x-kubernetes-int-or-string is true"),
    ];
    for (schema, expected) in cases {
        let findings = shown(&structural::violations("s", &schema));
        assert!(findings.iter().any(|finding| finding.contains(expected)), "{schema}: {findings:?}");
    }
    let fine = json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}}});
    assert_eq!(shown(&structural::violations("s", &fine)), Vec::<String>::new());
    for (schema, expected) in [
        (json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}}}), "uniqueItems cannot be set to true"),
        (json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}}}), "mutual exclusive"),
        (json!({"type": "object", "properties": {"a": {"type": "string", "default": 5}}}), "must be of type string"),
        (json!({"type": "object", "properties": {"a": {"type": "object", "default": {"x": 1}}}}), "must not have unknown fields"),
        (json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}), "so it must have a default or be a required property"),
    ] {
        let findings = shown(&structural::validate("s", &schema, false));
        assert!(findings.iter().any(|finding| finding.contains(expected)), "{schema}: {findings:?}");
    }
}

#[test]
fn formats_of_text() {
    let cases = [
        ("date-time", "2024-01-02T03:04:05Z", true), ("date-time", "2024-01-02", false), ("uuid", "123e4567-e89b-12d3-a456-426614174000", true),
        ("uuid", "123e4567", false), ("uuid", "-", false), ("ipv4", "10.0.0.1", true), ("ipv4", "10.0.0.256", false), ("ipv6", "::1", true),
        ("cidr", "10.0.0.0/8", true), ("cidr", "10.0.0.0", false), ("email", "a@b.c", true), ("email", "a", false), ("hostname", "a-b.c", true),
        ("hostname", "a_b", false), ("mac", "01:23:45:67:89:ab", true), ("byte", "YQ==", true), ("byte", "?", false), ("duration", "1h2.5m", true),
        ("duration", "3 days", true), ("duration", "x", false), ("uri", "http://a/b", true), ("uri", "a b", false), ("isbn", "0321751043", true),
        ("isbn13", "978-0321751041", true), ("hexcolor", "#fff", true), ("rgbcolor", "rgb(1,2,3)", true), ("ssn", "111-22-3333", true),
        ("k8s-short-name", "a-b", true), ("k8s-short-name", "A", false), ("creditcard", "4111 1111 1111 1111", true),
    ];
    for (name, text, expected) in cases {
        assert_eq!(format::fits(name, text), expected, "{name} {text}");
    }
}

#[test]
fn patterns_of_go() {
    for (written, text, expected) in [
        ("^\\d+$", "12", true), ("^\\d+$", "१२", false), ("^[\\w.]+$", "a_1.b", true), ("^\\S+\\s\\S+$", "a b", true), ("\\Qa.b\\E$", "a.b", true),
        ("^\\Qa.b\\Ec$", "axbc", false), ("^a\\/b\\-c$", "a/b-c", true),
    ] {
        assert_eq!(pattern(written).map(|pattern| pattern.is_match(text)), Ok(expected), "{written}");
    }
    assert!(pattern("((a{1000}){1000}){1000}").is_err() && pattern("(").is_err());
    // What costs others exponential time.
    assert!(!pattern("^(a+)+$").expect("pattern").is_match(&format!("{}b", "a".repeat(100_000))));
}

#[test]
fn paths_into_objects() {
    let object = json!({"a": {"b.c": 1, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}, "z": null});
    for (path, expected) in [
        (".a['b.c']", json!([1])), (".a.b\\.c", json!([1])), (".a.l[1].v", json!([2])), (".a.l[-1].n", json!(["y"])), (".a.l[*].v", json!([1, 2])),
        (".a.l[?(@.n==\"y\")].v", json!([2])), (".a.l[?(@.v>1)].n", json!(["y"])), ("..v", json!([1, 2])), (".nope.x", json!([])), (".a.l[0:1].n", json!(["x"])),
    ] {
        let found: Vec<Value> = JsonPath::parse(path).expect(path).find(&object).into_iter().cloned().collect();
        assert_eq!(Value::Array(found), expected, "{path}");
    }
    for bad in ["a", ".a[", ".a[?(b)]", ".a]x"] {
        assert!(JsonPath::parse(bad).is_err(), "{bad}");
    }
    let mut target = json!({});
    assert!(JsonPath::parse(".spec.replicas").expect("path").set(&mut target, json!(3)));
    assert_eq!(target, json!({"spec": {"replicas": 3}}));
}

#[test]
fn versions_in_the_order_of_preference() {
    let mut versions = ["v1alpha1", "foo", "v1", "v10", "v2", "v11beta2", "v3beta1", "bar", "v12alpha1"];
    versions.sort_by(|a, b| preferred(a, b));
    assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v1alpha1", "bar", "foo"]);
}

#[test]
fn conditions_settle() {
    let mut object = json!({"metadata": {"name": "as.g.io"}, "spec": {"group": "g.io", "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"},
        "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object"}}}]}, "status": {}});
    let plan = status::plan(&object, &[&object]);
    let words: Vec<&str> = plan.conditions.iter().map(|condition| condition.reason.as_str()).collect();
    assert_eq!(words, ["NoConflicts", "InitialNamesAccepted"]);
    object["status"] = json!({"acceptedNames": plan.accepted_names, "conditions": plan.conditions.iter().map(status::Condition::to_value).collect::<Vec<_>>()});
    assert!(status::plan(&object, &[&object]).is_empty(), "nothing is left to say");
}

#[test]
fn rules_in_cel() {
    let written = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('a')"}], "properties": {
        "spec": {"type": "object", "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "message": "min above max", "fieldPath": ".min", "reason": "FieldValueForbidden"},
                {"rule": "!has(oldSelf.fixed) || self.fixed == oldSelf.fixed", "messageExpression": "'fixed was ' + oldSelf.fixed"},
                {"rule": "!has(self.until) || self.until > timestamp('2024-01-01T00:00:00Z')"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "fixed": {"type": "string"}, "until": {"type": "string", "format": "date-time"},
                "x-dash": {"type": "string", "x-kubernetes-validations": [{"rule": "self.size() < 3"}]},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object",
                    "required": ["name"], "x-kubernetes-validations": [{"rule": "self.number >= oldSelf.number"}],
                    "properties": {"name": {"type": "string"}, "number": {"type": "integer"}}}}}}}});
    let mut schema = compiled(written.clone());
    schema.embedded = true;
    let (rules, wrong) = super::rules::compile("s", &schema, &written);
    assert_eq!(shown(&wrong), Vec::<String>::new());
    let object = |spec: Value| json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "a"}, "spec": spec});
    let old = object(json!({"min": 1, "max": 2, "fixed": "x", "ports": [{"name": "a", "number": 5}, {"name": "b", "number": 1}]}));
    let cases = [
        (object(json!({"min": 1, "max": 2})), None, vec![]),
        (object(json!({"min": 3, "max": 2})), None, vec!["spec.min: Forbidden: min above max"]),
        (object(json!({"min": 1})), None, vec!["spec: Invalid value: \"object\": no such key: max evaluating rule: min above max"]),
        (object(json!({"min": 1, "max": 2, "fixed": "y"})), Some(&old), vec!["spec: Invalid value: fixed was x"]),
        (object(json!({"min": 1, "max": 2, "fixed": "x", "ports": [{"name": "b", "number": 2}, {"name": "a", "number": 4}, {"name": "c", "number": 0}]})), Some(&old),
            vec!["spec.ports[1]: Invalid value: failed rule: self.number >= oldSelf.number"]),
        (object(json!({"min": 1, "max": 2, "until": "2023-01-01T00:00:00Z"})), None,
            vec!["spec: Invalid value: failed rule: !has(self.until) || self.until > timestamp('2024-01-01T00:00:00Z')"]),
        (object(json!({"min": 1, "max": 2, "x-dash": "long"})), None, vec!["spec.x-dash: Invalid value: \"long\": failed rule: self.size() < 3"]),
    ];
    for (new, old, expected) in cases {
        assert_eq!(shown(&rules.evaluate(&schema, &new, old, &[])), expected, "{new}");
    }
    for (rule, expected) in [
        (json!({"rule": "self.nope == 1"}), "undefined field 'nope'"),
        (json!({"rule": "self.min"}), "cel expression must evaluate to a bool"),
        (json!({"rule": "1 ++"}), "Syntax error"),
        (json!({"rule": "true", "messageExpression": "1"}), "messageExpression must evaluate to a string"),
        (json!({"rule": "true", "optionalOldSelf": true}), "may not be set if oldSelf is not used in rule"),
    ] {
        let mut bad = written.clone();
        bad["properties"]["spec"]["x-kubernetes-validations"] = json!([rule]);
        let findings = shown(&super::rules::validate("s", &bad));
        assert!(findings.len() == 1 && findings[0].contains(expected), "{expected}: {findings:?}");
    }
    let set = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    assert!(shown(&super::rules::validate("s", &set))[0].contains("oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]"));
    // A rule that never ends is ended.
    let endless = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, self.all(c, self.all(d, a + b + c + d >= 0))))"}]}}});
    let schema = compiled(endless.clone());
    let (rules, _) = super::rules::compile("s", &schema, &endless);
    let many: Vec<u32> = (0..200).collect();
    let findings = shown(&rules.evaluate(&schema, &json!({"l": many}), None, &[]));
    assert!(findings.len() == 1 && findings[0].contains("call cost exceeds limit"), "{findings:?}");
}

/// A definition as typed clients send it.
#[test]
fn definitions_in_protobuf() {
    fn field(number: u32, content: &[u8]) -> Vec<u8> {
        let varint = |mut value: usize| {
            let mut out = Vec::new();
            while value > 0x7f {
                out.push(u8::try_from(value & 0x7f | 0x80).unwrap_or_default());
                value >>= 7;
            }
            out.push(u8::try_from(value).unwrap_or_default());
            out
        };
        [varint((number << 3 | 2) as usize), varint(content.len()), content.to_vec()].concat()
    }
    let typed = |name: &str| field(5, name.as_bytes());
    let property = |name: &str, schema: &[u8]| field(29, &[field(1, name.as_bytes()), field(2, schema)].concat());
    let map = [typed("object"), field(35, &field(2, &typed("integer")))].concat();
    let open = [typed("object"), field(35, &[0x08, 0x01])].concat();
    let list = [typed("array"), field(24, &field(1, &typed("string")))].concat();
    let text = [typed("string"), field(8, &field(1, b"\"x\"")), field(44, &field(1, b"self != 'y'"))].concat();
    let schema = [typed("object"), property("m", &map), property("o", &open), property("l", &list), property("t", &text)].concat();
    let version = [field(1, b"v1"), field(4, &field(1, &schema))].concat();
    let definition = [field(1, &field(1, b"as.g.io")), field(2, &[field(1, b"g.io"), field(7, &version)].concat())].concat();
    let kind = [field(1, b"apiextensions.k8s.io/v1"), field(2, b"CustomResourceDefinition")].concat();
    let body = [b"k8s\0".to_vec(), field(1, &kind), field(2, &definition)].concat();
    let decoded = crate::protobuf::decode(&body).expect("decodes");
    assert_eq!(decoded["spec"]["versions"][0]["schema"]["openAPIV3Schema"], json!({"type": "object", "properties": {
        "m": {"type": "object", "additionalProperties": {"type": "integer"}}, "o": {"type": "object", "additionalProperties": true},
        "l": {"type": "array", "items": {"type": "string"}}, "t": {"type": "string", "default": "x", "x-kubernetes-validations": [{"rule": "self != 'y'"}]}}}));
}
