//! Validation rules in CEL (`x-kubernetes-validations`): whether a definition may have them.

use serde_json::Value;

use crate::field::FieldError;

/// What is wrong with the rules of a schema. This server evaluates none, so it takes none: an object that a rule should
/// have refused must not be accepted.
pub fn validate(path: &str, schema: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    walk(path, schema, &mut findings);
    findings
}

fn walk(path: &str, schema: &Value, findings: &mut Vec<FieldError>) {
    let Some(map) = schema.as_object() else { return };
    for (key, inner) in map {
        match key.as_str() {
            "x-kubernetes-validations" if inner.as_array().is_some_and(|rules| !rules.is_empty()) => {
                let detail = "rules in CEL are not evaluated by this server";
                findings.push(FieldError::forbidden(format!("{path}.{key}"), detail));
            }
            "properties" => {
                for (name, inner) in inner.as_object().into_iter().flatten() {
                    walk(&format!("{path}.properties[{name}]"), inner, findings);
                }
            }
            "items" | "additionalProperties" => walk(&format!("{path}.{key}"), inner, findings),
            _ => {}
        }
    }
}
