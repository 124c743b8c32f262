//! Whatever comes in, there is an answer: neither random text nor random well-formed expressions bring anything down,
//! and no evaluation costs more than its budget.

use proptest::prelude::*;
use serde_json::json;

use crate::{Bindings, Budget, Environment, Program, Type, Value};

const LIMIT: u64 = 20_000;

fn try_out(expression: &str) {
    let environment = Environment::new().variable("object", Type::Dyn).variable("n", Type::Int);
    let Ok(program) = Program::compile(expression, &environment) else { return };
    let object = json!({"a": {"b": [1, 2.5, "x", null, {"c": true}]}, "s": "text", "n": -3});
    let bindings: Bindings =
        [("object".to_owned(), Value::from(&object)), ("n".to_owned(), Value::Int(i64::MIN))].into();
    let mut budget = Budget::new(LIMIT);
    if let Ok(value) = program.evaluate(&bindings, &mut budget) {
        let _ = (value.to_string(), value.to_json());
    }
    assert!(budget.spent() <= LIMIT);
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|i| i.to_string()),
        any::<u64>().prop_map(|u| format!("{u}u")),
        any::<f64>().prop_map(|d| format!("{d:e}")),
        "[a-zé'\"\\\\%0-9.:/-]{0,8}".prop_map(|s| format!("{s:?}")),
        prop::sample::select(vec![
            "object",
            "object.a.b",
            "object.s",
            "n",
            "true",
            "null",
            "[]",
            "{}",
            "b'\\xff'",
            "x",
            "optional.none()",
            "duration('1h')",
            "timestamp('2026-01-01T00:00:00Z')",
            "quantity('1Gi')",
            "ip('::1')",
            "cidr('10.0.0.0/8')",
            "semver('1.2.3')",
            "-9223372036854775808",
            "lists.range(30)",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let three = (inner.clone(), inner.clone(), inner.clone());
        prop_oneof![
            (
                two.clone(),
                prop::sample::select(vec![
                    "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||",
                ])
            )
                .prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            three.clone().prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (
                two.clone(),
                prop::sample::select(vec![
                    "all",
                    "exists",
                    "exists_one",
                    "map",
                    "filter",
                    "sortBy",
                    "optMap",
                    "optFlatMap",
                ])
            )
                .prop_map(|((a, b), name)| format!("{a}.{name}(x, {b})")),
            (
                two.clone(),
                prop::sample::select(vec![
                    "indexOf",
                    "lastIndexOf",
                    "split",
                    "charAt",
                    "substring",
                    "matches",
                    "find",
                    "findAll",
                    "contains",
                    "format",
                    "join",
                    "flatten",
                    "or",
                    "orValue",
                    "add",
                    "sub",
                    "compareTo",
                    "containsIP",
                    "getHours",
                    "startsWith",
                ])
            )
                .prop_map(|((a, b), name)| format!("{a}.{name}({b})")),
            (three.clone(), prop::sample::select(vec!["replace", "substring", "slice", "indexOf", "split"]))
                .prop_map(|((a, b, c), name)| format!("{a}.{name}({b}, {c})")),
            (
                inner.clone(),
                prop::sample::select(vec![
                    "int",
                    "uint",
                    "double",
                    "string",
                    "bytes",
                    "bool",
                    "type",
                    "dyn",
                    "size",
                    "duration",
                    "timestamp",
                    "url",
                    "quantity",
                    "semver",
                    "ip",
                    "cidr",
                    "lists.range",
                    "optional.of",
                    "-",
                    "!",
                    "isURL",
                    "optional.ofNonZeroValue",
                ])
            )
                .prop_map(|(a, name)| format!("{name}({a})")),
            (
                inner.clone(),
                prop::sample::select(vec![
                    "sum()",
                    "min()",
                    "max()",
                    "isSorted()",
                    "sort()",
                    "distinct()",
                    "reverse()",
                    "first()",
                    "value()",
                    "hasValue()",
                    "trim()",
                    "upperAscii()",
                    "getHost()",
                    "getQuery()",
                    "masked()",
                    "a",
                    "?a",
                    "s",
                    "asInteger()",
                    "getDayOfYear()",
                    "transformMapEntry(x, y, {y: x})",
                    "transformMap(x, y, y)",
                ])
            )
                .prop_map(|(a, name)| format!("{a}.{name}")),
            two.clone().prop_map(|(a, b)| format!("{a}[{b}]")),
            two.clone().prop_map(|(a, b)| format!("{a}[?{b}]")),
            two.clone().prop_map(|(a, b)| format!("[{a}, {b}]")),
            two.prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            inner.prop_map(|a| format!("has({a}.b)")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text(text in ".{0,80}") {
        try_out(&text);
    }

    #[test]
    fn random_symbols(text in "[-a-c0-9.,?:!&|=<>+*/%(){}\\[\\]'\"\\\\ urbxX\n]{0,60}") {
        try_out(&text);
    }

    #[test]
    fn random_expressions(text in expression()) {
        try_out(&text);
    }
}
