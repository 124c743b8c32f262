//! What a mutation's value becomes: an apply configuration merged into the object, or a JSON patch. Pure.

use balsa_api::kind::Kind;
use balsa_api::patch::fields::{self, Shape};
use balsa_cel::Value as Cel;
use serde_json::{Value, json};

/// The object with an apply configuration merged into it.
///
/// # Errors
/// Objects in the wrong place, and lists, maps or structs that could only be replaced as a whole.
pub fn apply(object: &Value, config: &Cel, kind: &dyn Kind) -> Result<Value, String> {
    check_names(config, "Object").map_err(|error| format!("type mismatch: {error}"))?;
    let config = config.to_json().map_err(|error| error.to_string())?;
    let shape = fields::of_kind(kind);
    let mut atomic = Vec::new();
    atomics(&config, shape, "", &mut atomic);
    if !atomic.is_empty() {
        return Err(format!(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomic.join(", ")
        ));
    }
    Ok(fields::merge(object, &config, shape))
}

/// An `Object.spec{...}` may only stand in the field `spec` of an `Object{...}`.
fn check_names(value: &Cel, expected: &str) -> Result<(), String> {
    match value {
        Cel::Object(object) => {
            if &*object.name != expected {
                return Err(format!(
                    "unexpected type name {:?}, expected {expected:?}, which matches field name path from root Object type",
                    object.name
                ));
            }
            object.fields.iter().try_for_each(|(field, value)| check_names(value, &format!("{expected}.{field}")))
        }
        Cel::List(items) => items.iter().try_for_each(|item| check_names(item, expected)),
        _ => Ok(()),
    }
}

/// Paths of what would be replaced as a whole.
fn atomics(value: &Value, shape: Shape<'_>, path: &str, found: &mut Vec<String>) {
    match (shape, value) {
        (_, Value::Object(map)) if shape.has_members() => {
            for (name, value) in map {
                atomics(value, fields::member(shape, name), &format!("{path}.{name}"), found);
            }
        }
        (Shape::ListMap(..) | Shape::CustomList(_), Value::Array(items)) => {
            let Some((_, item)) = shape.keyed() else { return };
            for (at, value) in items.iter().enumerate() {
                atomics(value, item, &format!("{path}[{at}]"), found);
            }
        }
        (Shape::Atomic, Value::Array(_) | Value::Object(_)) => found.push(path.to_owned()),
        _ => {}
    }
}

/// A list of `JSONPatch{...}` as a JSON patch.
///
/// # Errors
/// Values that have no JSON form, objects in the wrong place.
pub fn json_patch(operations: &Cel) -> Result<Value, String> {
    let Cel::List(operations) = operations else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    operations.iter().map(operation).collect()
}

fn operation(of: &Cel) -> Result<Value, String> {
    let Cel::Object(own) = of else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
    };
    let text = |key: &str| match own.fields.get(key) {
        Some(Cel::String(text)) => text.to_string(),
        _ => String::new(),
    };
    let mut operation = json!({"op": text("op"), "path": text("path")});
    if !text("from").is_empty() {
        operation["from"] = json!(text("from"));
    }
    if let Some(value) = own.fields.get("value") {
        if let Cel::Object(object) = value {
            check_names(value, &object.name).map_err(|error| format!("type mismatch: {error}"))?;
        }
        operation["value"] = value.to_json().map_err(|error| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
        })?;
    }
    Ok(operation)
}

#[cfg(test)]
mod tests {
    use balsa_api::kinds::admission::expressions::{Purpose, Scope, compile, environment};
    use balsa_cel::{Bindings, Budget};

    use super::*;

    fn value(text: &str, purpose: Purpose) -> Cel {
        let scope = environment(Scope { patches: true, ..Scope::default() });
        let program = compile(text, &scope, purpose).expect(text);
        program.evaluate(&Bindings::new(), &mut Budget::new(100_000)).expect(text)
    }

    fn applied(text: &str) -> Result<Value, String> {
        let object = json!({"metadata": {"name": "d", "labels": {"a": "1"}}, "spec": {"replicas": 1,
            "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
        apply(&object, &value(text, Purpose::ApplyConfiguration), balsa_api::kinds::find_kind("apps", "v1", "Deployment").unwrap())
    }

    #[test]
    fn configurations_are_merged() {
        let merged = applied("Object{metadata: Object.metadata{labels: {'b': '2'}}, spec: Object.spec{replicas: 3}}").unwrap();
        assert_eq!(merged["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        assert_eq!(merged["spec"]["replicas"], 3);
        let side = "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: \
            [Object.spec.template.spec.containers{name: 'c', tty: true}, Object.spec.template.spec.containers{name: 'd'}]}}}}";
        let merged = applied(side).unwrap();
        let containers = merged["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers[0], json!({"name": "c", "image": "i:1", "tty": true}));
        assert_eq!(containers[1], json!({"name": "d"}));
    }

    #[test]
    fn what_is_out_of_place_is_refused() {
        let error = applied("Object{spec: Object.status{replicas: 3}}").unwrap_err();
        assert!(error.contains("unexpected type name \"Object.status\", expected \"Object.spec\""), "{error}");
        let error = applied("Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}").unwrap_err();
        assert!(error.contains("may not mutate atomic arrays, maps or structs: .spec.selector"), "{error}");
    }

    #[test]
    fn patches_become_json() {
        let text = "[JSONPatch{op: 'add', path: '/a', value: {'x': 1}}, JSONPatch{op: 'move', from: '/b', path: '/c'}]";
        assert_eq!(
            json_patch(&value(text, Purpose::JsonPatch)),
            Ok(json!([{"op": "add", "path": "/a", "value": {"x": 1}}, {"op": "move", "from": "/b", "path": "/c"}]))
        );
    }
}
