//! What expressions give, and what is said of those that give nothing. Expected values are what cel-go's documentation
//! and Kubernetes' own library tests say.

use std::sync::Arc;

use serde_json::json;

use crate::{
    AccessRequest, Authorizer, Bindings, Budget, Decision, Dynamic, Environment, EvalError, PER_CALL, Program, Type,
    TypeProvider, Value,
};

fn environment() -> Environment {
    Environment::new()
        .variable("object", Type::Dyn)
        .variable("n", Type::Int)
        .variable("names", Type::list(Type::String))
        .variable("labels", Type::map(Type::String))
        .variable("self", Type::object("Spec"))
        .variable("authorizer", Type::authorizer())
        .object("Spec", [("replicas", Type::Int), ("next", Type::object("Spec"))])
}

fn bindings() -> Bindings {
    let object = json!({
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "ratio": 0.5, "containers": [{"name": "a", "image": "x:1"}, {"name": "b"}]},
    });
    [
        ("object".to_owned(), Value::from(&object)),
        ("n".to_owned(), Value::Int(7)),
        ("names".to_owned(), Value::strings(["a", "b"])),
        ("labels".to_owned(), Value::from(&json!({"app": "web"}))),
        ("self".to_owned(), Value::from(&json!({"replicas": 2}))),
        ("authorizer".to_owned(), Value::authorizer(Arc::new(OnlyPods))),
    ]
    .into()
}

struct OnlyPods;

impl Authorizer for OnlyPods {
    fn authorize(&self, request: &AccessRequest) -> Decision {
        let allowed = request.resource == "pods" && request.verb == "get" && request.namespace == "default";
        Decision { allowed, reason: format!("asked for {}", request.verb), error: String::new() }
    }
}

fn run(expression: &str) -> Result<Value, String> {
    let program = Program::compile(expression, &environment()).map_err(|error| error.to_string())?;
    program.evaluate(&bindings(), &mut Budget::new(PER_CALL)).map_err(|error| error.to_string())
}

/// Each expression is true.
fn all_true(expressions: &[&str]) {
    for expression in expressions {
        match run(expression) {
            Ok(Value::Bool(true)) => {}
            other => panic!("{expression}: {other:?}"),
        }
    }
}

/// Each expression fails with a message that holds the words.
fn all_fail(expressions: &[(&str, &str)]) {
    for (expression, words) in expressions {
        match run(expression) {
            Err(message) if message.contains(words) => {}
            other => panic!("{expression}: {other:?}, expected {words}"),
        }
    }
}

#[test]
fn operators() {
    all_true(&[
        "1 + 2 * 3 == 7",
        "-7 / 2 == -3 && -7 % 2 == -1",
        "(1 + 2) * 3 == 9",
        "2u + 3u == 5u",
        "1.5 * 2.0 == 3.0",
        "1 < 2u && 2u > 1 && 1 < 1.5 && 2.5 > 2",
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab'",
        "[1] + [2] == [1, 2]",
        "'a' < 'b' && b'a' < b'b' && false < true",
        "!false && !!true",
        "- - 1 == 1",
        "true ? true : false",
        "2 in [1, 2] && !(3 in [1, 2]) && 'a' in {'a': 1}",
        "{'a': 1} == {'a': 1} && {'a': 1} != {'a': 2}",
        "{1: 'x'}[1] == 'x' && [1, 2][1] == 2",
        "null == null",
        "-9223372036854775808 < 0",
        "0x10 == 16 && 1e3 == 1000.0 && .5 == 0.5",
        "dyn(1) == dyn(1.0) && dyn(1) == dyn(1u) && dyn('a') != dyn(1)",
        "// a comment\n true",
    ]);
    all_fail(&[
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("1 / 0 == 0", "division by zero"),
        ("1 % 0 == 0", "modulus by zero"),
        ("1u - 2u == 0u", "unsigned integer overflow"),
        ("[1][1] == 1", "index out of bounds: 1"),
        ("{'a': 1}['b'] == 1", "no such key: b"),
        ("object.nothing == 1", "no such key: nothing"),
        ("object + 1 == 1", "no such overload"),
    ]);
}

#[test]
fn errors_are_absorbed_where_another_side_decides() {
    all_true(&[
        "object.nothing == 1 || true",
        "true || object.nothing == 1",
        "!(object.nothing == 1 && false)",
        "[1, 2].exists(x, x == 2 || object.nothing == x)",
        "![1, 2].all(x, x == 3 && object.nothing == x)",
    ]);
    all_fail(&[("object.nothing == 1 || false", "no such key"), ("object.nothing == 1 && true", "no such key")]);
}

#[test]
fn objects_and_macros() {
    all_true(&[
        "object.spec.replicas > 2",
        "object.metadata.namespace == 'default'",
        "has(object.spec.replicas) && !has(object.spec.nothing)",
        "!has(object.metadata.annotations) || object.metadata.annotations.size() == 0",
        "object.spec.containers.all(c, c.name in ['a', 'b'])",
        "object.spec.containers.exists(c, has(c.image))",
        "object.spec.containers.exists_one(c, has(c.image))",
        "object.spec.containers.map(c, c.name) == ['a', 'b']",
        "object.spec.containers.map(c, has(c.image), c.name) == ['a']",
        "object.spec.containers.filter(c, !has(c.image)).size() == 1",
        "object.metadata.labels.all(k, k == 'app')",
        "{'a': 1, 'b': 2}.transformMap(k, v, v + 1) == {'a': 2, 'b': 3}",
        "{'a': 1, 'b': 2}.transformMapEntry(k, v, {v: k}) == {1: 'a', 2: 'b'}",
        "['x', 'y'].transformList(i, v, i > 0, v + string(i)) == ['y1']",
        "['x', 'y'].all(i, v, i < 2) && ['x'].exists(i, v, v == 'x') && ['x'].existsOne(i, v, i == 0)",
        "self.replicas == 2 && !has(self.next)",
        "labels.app == 'web' && labels['app'] == 'web' && labels.size() == 1",
        "[[1, 2], [3]].map(x, x.map(y, y * n)) == [[7, 14], [21]]",
        "object.spec.containers[0].name == 'a'",
        "['a', 'b'].sortBy(x, x == 'a' ? 2 : 1) == ['b', 'a']",
    ]);
}

#[test]
fn optionals() {
    all_true(&[
        "object.?spec.?nothing.orValue(5) == 5",
        "object.?spec.replicas.orValue(5) == 3",
        "!object.?nothing.further.hasValue()",
        "object[?'kind'].value() == 'Deployment'",
        "[1, 2][?5].or(optional.of(9)).value() == 9",
        "optional.none().orValue(1) == 1",
        "optional.ofNonZeroValue('') == optional.none()",
        "optional.of(2).optMap(x, x * 2).value() == 4",
        "optional.of(2).optFlatMap(x, optional.of(x * 2)) == optional.of(4)",
        "[?optional.none(), 1, ?optional.of(2)] == [1, 2]",
        "{?'a': optional.none(), 'b': 1} == {'b': 1}",
        "[1].first().value() == 1 && ![].last().hasValue()",
        "optional.unwrap([optional.of(1), optional.none()]) == [1]",
    ]);
    all_fail(&[("optional.none().value() == 1", "optional.none() dereference")]);
}

#[test]
fn strings() {
    all_true(&[
        "'tacocat'.charAt(3) == 'o' && 'abc'.charAt(3) == ''",
        "'hello mellow'.indexOf('') == 0 && 'hello mellow'.indexOf('ello') == 1 && 'hello mellow'.indexOf('jello') == -1",
        "'hello mellow'.indexOf('ello', 2) == 7",
        "'hello mellow'.lastIndexOf('') == 12 && 'hello mellow'.lastIndexOf('ello') == 7",
        "'hello mellow'.lastIndexOf('ello', 6) == 1",
        "['hello', 'mellow'].join(' ') == 'hello mellow' && [].join() == ''",
        "'TacoCat'.lowerAscii() == 'tacocat' && 'TacoCat'.upperAscii() == 'TACOCAT'",
        "'hello hello'.replace('he', 'we') == 'wello wello'",
        "'hello hello'.replace('he', 'we', 1) == 'wello hello' && 'hello'.replace('he', 'we', 0) == 'hello'",
        "'hello hello hello'.split(' ') == ['hello', 'hello', 'hello']",
        "'hello hello hello'.split(' ', 0) == [] && 'hello hello hello'.split(' ', 2) == ['hello', 'hello hello']",
        "'abc'.split('') == ['a', 'b', 'c']",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco' && 'ta©o'.substring(2, 3) == '©'",
        "'  trim\\n '.trim() == 'trim'",
        "'abc'.startsWith('a') && 'abc'.endsWith('c') && 'abc'.contains('b')",
        "size('caf\\u00e9') == 4 && 'abc'.size() == 3 && size(b'\\xff') == 1",
        "r'\\n' == '\\\\n' && '''a'b''' == \"a'b\" && '\\101' == 'A'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'%s has %d of %.2f %x %b %o %e'.format([dyn('a'), 3, 1.5, 255, 5, 8, 1500.0]) == 'a has 3 of 1.50 ff 101 10 1.500000e+03'",
        "'%s %s %%'.format([dyn([dyn(1), 'a']), {'k': true}]) == '[1, a] {k: true} %'",
    ]);
    all_fail(&[
        ("'abc'.charAt(4) == ''", "index out of range: 4"),
        ("'abc'.substring(3, 1) == ''", "invalid substring range"),
        ("'%d'.format(['a']) == ''", "error during formatting"),
        ("'%d'.format([]) == ''", "index 0 out of range"),
        ("'abc", "Syntax error: token recognition error"),
    ]);
}

#[test]
fn regular_expressions() {
    all_true(&[
        "'abc'.matches('^a.c$') && matches('abc', 'b') && !'abc'.matches('^b')",
        "'abc 123'.find('[0-9]+') == '123' && 'abc'.find('x') == ''",
        "'123 abc 456'.findAll('[0-9]+') == ['123', '456'] && '123 abc 456'.findAll('[0-9]+', 1) == ['123']",
        "'abc'.matches(object.kind == 'Deployment' ? 'a' : 'x')",
    ]);
    all_fail(&[
        ("'a'.matches('(')", "invalid matches argument"),
        ("'a'.matches(object.kind + '(')", "Illegal regex"),
        ("'a'.matches(object.kind + '((((((a{1000}){1000}){1000}){1000})))')", "Illegal regex"),
    ]);
}

#[test]
fn lists_and_sets() {
    all_true(&[
        "[1, 2, 3].isSorted() && ![2.0, 1.0].isSorted() && [].isSorted()",
        "[1, 3].sum() == 4 && [1.0, 3.0].sum() == 4.0 && [duration('1m'), duration('1s')].sum() == duration('61s')",
        "[1, 3].min() == 1 && [1, 3].max() == 3 && ['b', 'a'].min() == 'a'",
        "[1, 2, 2, 3].indexOf(2) == 1 && ['a', 'b', 'b', 'c'].lastIndexOf('b') == 2 && [1.0].indexOf(1.1) == -1",
        "[1, 2, 3, 4].slice(1, 3) == [2, 3]",
        "[dyn(1), [2, 3]].flatten() == [dyn(1), 2, 3] && [[[1]], [[2]]].flatten(2) == [1, 2]",
        "[3, 1, 2].sort() == [1, 2, 3] && lists.range(3) == [0, 1, 2] && [1, 2].reverse() == [2, 1]",
        "[1, 2, 1].distinct() == [1, 2]",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2])",
    ]);
    all_fail(&[
        ("[].min() == 1", "min called on empty list"),
        ("[1, 'a'].size() == 2", "expected type 'int' but found 'string'"),
        ("[1, 2].slice(2, 1) == []", "start index must be less"),
    ]);
}

#[test]
fn times() {
    all_true(&[
        "timestamp('2026-01-02T03:04:05Z') < timestamp('2026-01-02T03:04:06Z')",
        "timestamp('2026-01-02T03:04:05Z') + duration('1h') == timestamp('2026-01-02T04:04:05Z')",
        "timestamp('2026-01-02T03:04:05Z') - timestamp('2026-01-02T03:04:00Z') == duration('5s')",
        "timestamp('2026-01-02T03:04:05Z').getFullYear() == 2026 && timestamp('2026-01-02T03:04:05Z').getMonth() == 0",
        "timestamp('2026-01-02T03:04:05Z').getDate() == 2 && timestamp('2026-01-02T03:04:05Z').getDayOfWeek() == 5",
        "timestamp('2026-01-02T03:04:05Z').getHours('+02:00') == 5 && timestamp('2026-01-02T03:04:05Z').getHours() == 3",
        "string(duration('1.5s')) == '1.5s' && string(timestamp('2026-01-02T03:04:05.5Z')) == '2026-01-02T03:04:05.5Z'",
        "duration('90m').getHours() == 1 && duration('90m').getMinutes() == 90 && int(timestamp('1970-01-01T00:01:00Z')) == 60",
        "type(duration('1s')) == google.protobuf.Duration",
    ]);
    all_fail(&[
        ("duration('x') == duration('1s')", "invalid duration argument"),
        ("timestamp('yesterday') == timestamp('2026-01-02T03:04:05Z')", "invalid timestamp argument"),
        ("timestamp(object.kind) == timestamp('2026-01-02T03:04:05Z')", "invalid timestamp"),
    ]);
}

#[test]
fn conversions() {
    all_true(&[
        "int('7') == 7 && int(2.9) == 2 && int(3u) == 3 && uint('7') == 7u && uint(2) == 2u && double('1.5') == 1.5",
        "string(1) == '1' && string(1.0) == '1' && string(true) == 'true' && string(b'ab') == 'ab'",
        "bytes('ab') == b'ab' && bool('true')",
        "type(1) == int && type('a') == string && type([]) == list && type(type(1)) == type && type(null) == null_type",
        "string(1e30) == '1e+30' && string(1e-7) == '1e-07'",
    ]);
    all_fail(&[
        ("int('x') == 1", "type conversion error from 'string' to 'int'"),
        ("int(1e30) == 1", "integer overflow"),
        ("string(b'\\xff') == ''", "invalid UTF-8"),
    ]);
}

#[test]
fn kubernetes_types() {
    all_true(&[
        "url('https://user:pass@example.com:80/path?query=val#fragment').getHost() == 'example.com:80'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://example.com:80/').getPort() == '80'",
        "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
        "url('https://example.com/path?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}",
        "url('/path').getScheme() == '' && isURL('/absolute-path') && !isURL('../relative-path') && !isURL('https://a:b:c/')",
        "ip('127.0.0.1').family() == 4 && ip('::1').isLoopback() && !isIP('127.0.0.256') && !isIP('::ffff:1.2.3.4')",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD') && string(ip('::1')) == '::1'",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1') && !cidr('192.168.0.0/24').containsIP(ip('192.168.1.1'))",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24')",
        "cidr('::1/128').prefixLength() == 128 && cidr('::1/128').ip() == ip('::1') && !isCIDR('192.168.0.0/33')",
        "quantity('1.5Gi').isGreaterThan(quantity('1G')) && quantity('200M').compareTo(quantity('0.2G')) == 0",
        "quantity('50k').add(20).sub(quantity('100k')).sub(-50000) == quantity('20') && quantity('50k').asInteger() == 50000",
        "!isQuantity('200K') && isQuantity('1.3Gi') && quantity('-1').sign() == -1 && !quantity('1m').isInteger()",
        "!quantity('9999999999999999999999999999999999999G').isInteger() && quantity('100m').asApproximateFloat() == 0.1",
        "semver('1.2.3').isLessThan(semver('2.0.0')) && semver('1.0.0-rc.1').compareTo(semver('1.0.0')) == -1",
        "semver('v1.0', true).major() == 1 && !isSemver('v1.0') && semver('1.2.3').patch() == 3",
        "!format.dns1123Label().validate('my-name').hasValue() && format.dns1123Label().validate('My').hasValue()",
        "format.named('dns1123Subdomain').value().validate('a..b').hasValue() && !format.named('x').hasValue()",
        "authorizer.group('').resource('pods').namespace('default').check('get').allowed()",
        "!authorizer.group('apps').resource('deployments').check('get').allowed()",
        "authorizer.path('/healthz').check('get').reason() == 'asked for get'",
        "!authorizer.serviceAccount('a', 'b').group('').resource('pods').check('list').errored()",
    ]);
}

#[test]
fn what_does_not_compile_says_why_and_where() {
    all_fail(&[
        (
            "nothing == 1",
            "ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')\n | nothing == 1\n | ^",
        ),
        ("true &&\n  nothing", "ERROR: <input>:2:3: undeclared reference to 'nothing'"),
        ("n + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("n.foo == 1", "type 'int' does not support field selection"),
        ("self.foo == 1", "undefined field 'foo'"),
        ("noSuchFunction(1)", "undeclared reference to 'noSuchFunction' (in container '')"),
        (
            "'a'.startsWith('a', 'b')",
            "found no matching overload for 'startsWith' applied to 'string.(string, string)'",
        ),
        ("1 +", "Syntax error: mismatched input '<EOF>' expecting {'['"),
        ("1 2", "Syntax error: extraneous input '2' expecting <EOF>"),
        ("has(n)", "invalid argument to has() macro"),
        ("[1].all(x.y, true)", "argument must be a simple name"),
        ("[1].all(x, 1)", "expected type 'bool' but found 'int'"),
        ("true ? 1 : 'a'", "found no matching overload for '_?_:_' applied to '(bool, int, string)'"),
        ("1 && true", "found no matching overload for '_&&_'"),
        ("9223372036854775808 == 0", "invalid int literal"),
        ("package == 1", "reserved identifier: package"),
        ("Foo{a: 1} == null", "undeclared reference to 'Foo'"),
        ("jsonpatch.escapeKey('a') == 'a'", "undeclared reference to"),
        ("a = b", "Syntax error: token recognition error at: '='"),
    ]);
}

#[test]
fn result_types_are_known() {
    let of = |expression: &str| Program::compile(expression, &environment()).expect(expression).result().clone();
    assert_eq!(of("n > 1"), Type::Bool);
    assert_eq!(of("object.spec.replicas"), Type::Dyn);
    assert_eq!(of("object.spec.replicas > 1"), Type::Bool);
    assert_eq!(of("names.map(x, x + 'a')"), Type::list(Type::String));
    assert_eq!(of("self.next.next.replicas"), Type::Int);
    assert_eq!(of("'a'"), Type::String);
    assert_eq!(of("labels.?app"), Type::optional(Type::String));
    assert!(!Program::compile("'a'", &environment()).expect("compiles").may_give(&Type::Bool));
}

#[test]
fn a_runaway_expression_is_stopped() {
    let ten = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
    let mut expression = "true".to_owned();
    for level in 0..9 {
        expression = format!("{ten}.all(x{level}, {expression})");
    }
    all_fail(&[
        (&expression, "operation cancelled: actual cost limit exceeded"),
        ("lists.range(100000000).size() == 1", "operation cancelled: actual cost limit exceeded"),
        (&format!("{expression} || true"), "operation cancelled: actual cost limit exceeded"),
    ]);
    let deep = format!("{}1{}", "(".repeat(300), ")".repeat(300));
    all_fail(&[(&deep, "expression recursion limit exceeded: 250")]);
    all_fail(&[(&"1 + ".repeat(400), "expression recursion limit exceeded"), (&"-".repeat(1000), "Syntax error")]);
    all_fail(&[(&" ".repeat(100_001), "code point size exceeds limit")]);
    all_true(&[&format!("{}true", "true && ".repeat(5000))]);
}

#[test]
fn objects_are_made_where_the_environment_says_so() {
    struct Any;
    impl TypeProvider for Any {
        fn field(&self, object: &str, _: &str) -> Option<Type> {
            self.constructible(object).then_some(Type::Dyn)
        }
        fn constructible(&self, object: &str) -> bool {
            object == "Object" || object.starts_with("Object.")
        }
    }
    let environment = Environment::new().provider(Arc::new(Any)).json_patch();
    let program = Program::compile(
        "Object{metadata: Object.metadata{labels: {jsonpatch.escapeKey('a/b'): 'c'}, ?none: optional.none()}}",
        &environment,
    )
    .expect("compiles");
    assert_eq!(*program.result(), Type::object("Object"));
    let value = program.evaluate(&Bindings::new(), &mut Budget::new(PER_CALL)).expect("evaluates");
    assert_eq!(value.to_json(), Ok(json!({"metadata": {"labels": {"a~1b": "c"}}})));
}

#[test]
fn fields_may_be_found_out_late() {
    struct Variables;
    impl Dynamic for Variables {
        fn field(&self, name: &str, budget: &mut Budget) -> Result<Option<Value>, EvalError> {
            budget.charge(5)?;
            Ok((name == "late").then_some(Value::Int(4)))
        }
    }
    let environment = Environment::new()
        .variable("variables", Type::object("variables"))
        .object("variables", [("late", Type::Int), ("missing", Type::Int)]);
    let bindings: Bindings = [("variables".to_owned(), Value::Dynamic(Arc::new(Variables)))].into();
    let run = |expression: &str| {
        let program = Program::compile(expression, &environment).expect(expression);
        program.evaluate(&bindings, &mut Budget::new(PER_CALL))
    };
    assert!(matches!(run("variables.late + 1"), Ok(Value::Int(5))));
    assert_eq!(run("variables.missing").err(), Some(EvalError::new("no such key: missing")));
}

#[test]
fn json_comes_back_as_it_went_in() {
    let json = json!({"a": [1, 2.5, "x", null, true], "b": {"c": -1, "d": 18_446_744_073_709_551_615_u64}});
    assert_eq!(Value::from(&json).to_json(), Ok(json));
}
