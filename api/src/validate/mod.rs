//! Rules that many kinds share: names, labels, metadata, selectors, numbers.

pub mod meta;
pub mod text;

use crate::cursor::At;
use crate::field::FieldError;

/// Text of the rule that a value may not change.
pub const IMMUTABLE: &str = "field is immutable";
/// Text of the rule that a number may not be below zero.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Appends a finding for each problem.
pub fn each(findings: &mut Vec<FieldError>, at: &At<'_>, problems: &[String]) {
    findings.extend(problems.iter().map(|problem| at.invalid(problem)));
}

/// A number that is there must not be below zero.
pub fn not_negative(findings: &mut Vec<FieldError>, at: &At<'_>) {
    if at.int().is_some_and(|number| number < 0) {
        findings.push(at.invalid(NOT_NEGATIVE));
    }
}

/// Text that must be one of those known.
pub fn one_of(findings: &mut Vec<FieldError>, at: &At<'_>, known: &[&str]) {
    if !known.contains(&at.str()) {
        findings.push(at.not_supported(known));
    }
}

/// A value that must stay as it is.
pub fn unchanged(findings: &mut Vec<FieldError>, new: &At<'_>, old: &At<'_>) {
    if new.value != old.value {
        findings.push(new.invalid(IMMUTABLE));
    }
}

/// Labels as a map: keys and values.
pub fn labels(findings: &mut Vec<FieldError>, at: &At<'_>) {
    for (key, value) in at.entries() {
        for problem in text::qualified_name_problems(key) {
            findings.push(FieldError::invalid(at.path.clone(), key, &problem));
        }
        for problem in text::label_value_problems(value.str()) {
            findings.push(FieldError::invalid(at.path.clone(), value.str(), &problem));
        }
    }
}

/// A label selector as objects carry it.
pub fn label_selector(findings: &mut Vec<FieldError>, at: &At<'_>) {
    labels(findings, &at.get("matchLabels"));
    for expression in at.get("matchExpressions").items() {
        let values = expression.get("values");
        match expression.get("operator").str() {
            "In" | "NotIn" if values.len() == 0 => {
                findings.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if values.len() > 0 => {
                findings.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => findings.push(expression.get("operator").invalid("not a valid selector operator")),
        }
        let key = expression.get("key");
        each(findings, &key, &text::qualified_name_problems(key.str()));
        for value in values.items() {
            each(findings, &value, &text::label_value_problems(value.str()));
        }
    }
}
