//! Patches: JSON patch, merge patch, strategic merge patch, server-side apply. All pure: a stored object and a patch in,
//! the patched object out (not yet defaulted or validated).

pub mod apply;
pub mod fields;
pub mod strategic;

use serde_json::Value;

use crate::decode::MAX_DEPTH;
use crate::status::ApiError;

/// More operations than this in one JSON patch are refused.
const MAX_OPERATIONS: usize = 10_000;
/// How many values all operations of a JSON patch may move or compare.
const MAX_WORK: usize = 20_000_000;
/// How many bytes a JSON patch may copy within the object.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Applies a JSON patch (RFC 6902). A failed `test` or a missing path is 422, a malformed patch 400.
pub fn json(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    if let Some(operations) = patch.as_array() {
        if operations.len() > MAX_OPERATIONS {
            let message = format!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            );
            return Err(ApiError::too_large(message));
        }
    }
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    let mut out = object.clone();
    let (mut copied, mut work) = (0usize, 0usize);
    for operation in &patch.0 {
        work = work.saturating_add(work_of(operation, &out));
        if work > MAX_WORK {
            return Err(ApiError::too_large("the JSON patch asks for more work than is allowed"));
        }
        use json_patch::PatchOperation::{Copy, Move};
        let from = match operation {
            Copy(copy) => Some(&copy.from),
            Move(moved) => Some(&moved.from),
            _ => None,
        };
        if let Some(value) = from.and_then(|from| from.resolve(&out).ok()) {
            // A few copies of copies would otherwise fill all memory, and moves could nest without end.
            copied = copied.saturating_add(value.to_string().len());
            if copied > MAX_COPIED || deeper_than(value, MAX_DEPTH) {
                return Err(ApiError::too_large("the JSON patch copies more than is allowed"));
            }
        }
        if operation.path().tokens().count() > MAX_DEPTH {
            return Err(ApiError::bad_request("the JSON patch reaches deeper than is allowed"));
        }
        json_patch::patch(&mut out, std::slice::from_ref(operation)).map_err(|error| {
            let message = "the server rejected our request due to an error in our request";
            ApiError::new(422, "Invalid", message).with_cause("", error.to_string(), "")
        })?;
    }
    Ok(out)
}

/// About how many values an operation moves or compares: an item in front of a long list moves all others, a test looks
/// at everything below it.
fn work_of(operation: &json_patch::PatchOperation, object: &Value) -> usize {
    use json_patch::PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
    let moved = |path: &json_patch::jsonptr::PointerBuf| {
        let list = path.parent().and_then(|parent| parent.resolve(object).ok()).and_then(Value::as_array);
        list.map_or(1, Vec::len)
    };
    match operation {
        Add(add) => moved(&add.path),
        Remove(remove) => moved(&remove.path),
        Move(move_to) => moved(&move_to.from).saturating_add(moved(&move_to.path)),
        Copy(copy) => moved(&copy.path),
        Replace(_) => 1,
        Test(test) => size(&test.value),
    }
}

/// Values within a value, texts by their length.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 1,
        Value::Object(map) => map.values().map(size).sum::<usize>() + map.len() + 1,
        Value::String(text) => text.len() / 16 + 1,
        _ => 1,
    }
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    let below = |value: &Value| levels == 0 || deeper_than(value, levels - 1);
    match value {
        Value::Array(items) => items.iter().any(below),
        Value::Object(map) => map.values().any(below),
        _ => false,
    }
}

/// Applies a merge patch (RFC 7386).
pub fn merge(object: &Value, patch: &Value) -> Value {
    let mut out = object.clone();
    merge_into(&mut out, patch);
    out
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        patch.clone_into(target);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge_into(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patch() {
        let object = json!({"a": 1, "l": [1, 2]});
        let patched = json(&object, &serde_json::json!([{"op": "replace", "path": "/a", "value": 2}, {"op": "add", "path": "/l/-", "value": 3}]));
        assert_eq!(patched.expect("patch"), json!({"a": 2, "l": [1, 2, 3]}));
        for (patch, code) in [
            (json!([{"op": "test", "path": "/a", "value": 2}]), 422),
            (json!([{"op": "remove", "path": "/b"}]), 422),
            (json!([{"op": "nope", "path": "/b"}]), 400),
            (json!({"a": 1}), 400),
        ] {
            assert_eq!(super::json(&object, &patch).expect_err("refused").code, code, "{patch}");
        }
    }

    #[test]
    fn patches_that_would_take_for_ever_are_refused() {
        let list: Vec<Value> = (0..100_000).map(Value::from).collect();
        let object = json!({"l": list, "t": "x".repeat(1 << 20)});
        let first = vec![json!({"op": "add", "path": "/l/0", "value": 1}); 10_000];
        let twice = vec![json!({"op": "copy", "from": "/l", "path": "/l/-"}); 40];
        let tests = vec![json!({"op": "test", "path": "/t", "value": "x".repeat(1 << 12)}); 10_000];
        for patch in [first, twice] {
            assert_eq!(super::json(&object, &Value::from(patch)).expect_err("refused").code, 413);
        }
        assert_eq!(super::json(&object, &Value::from(tests)).expect_err("refused").code, 422);
    }

    #[test]
    fn merge_patch() {
        assert_eq!(merge(&json!({"a": {"b": 1, "c": 2}, "l": [1]}), &json!({"a": {"b": null, "d": {"e": null}}, "l": [2]})), json!({"a": {"c": 2, "d": {}}, "l": [2]}));
    }
}
