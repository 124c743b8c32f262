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

/// A list with at most so many items; false: it has more, and its items need no look.
pub fn at_most(findings: &mut Vec<FieldError>, at: &At<'_>, max: usize) -> bool {
    let fits = at.len() <= max;
    if !fits {
        findings.push(FieldError::too_many(at.path.clone(), at.len(), max));
    }
    fits
}

/// Items that stand twice in a list, by a key of theirs; the finding is about the item.
pub fn unique<K: Ord>(findings: &mut Vec<FieldError>, at: &At<'_>, key: impl Fn(&At<'_>) -> K) {
    let mut seen = std::collections::BTreeSet::new();
    for item in at.items() {
        if !seen.insert(key(&item)) {
            findings.push(item.duplicate());
        }
    }
}

/// Text that must be there.
pub fn needed(findings: &mut Vec<FieldError>, at: &At<'_>) -> bool {
    if at.is_empty() {
        findings.push(at.required(""));
    }
    !at.is_empty()
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

/// Conditions as `meta/v1` knows them: each type once, with a status, a reason and the time of its last change.
pub fn conditions(findings: &mut Vec<FieldError>, at: &At<'_>) {
    const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
                          alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let mut seen: Vec<&str> = Vec::new();
    for condition in at.items() {
        let (kind, reason) = (condition.get("type"), condition.get("reason"));
        if seen.contains(&kind.str()) {
            findings.push(kind.duplicate());
        }
        seen.push(kind.str());
        each(findings, &kind, &text::qualified_name_problems(kind.str()));
        one_of(findings, &condition.get("status"), &["False", "True", "Unknown"]);
        not_negative(findings, &condition.get("observedGeneration"));
        needed(findings, &condition.get("lastTransitionTime"));
        if needed(findings, &reason) && !is_reason(reason.str()) {
            let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
            findings.push(reason.invalid(&text::pattern(REASON, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)));
        }
        for (field, max) in [("reason", 1 << 10), ("message", 32 << 10)] {
            if condition.get(field).str().len() > max {
                findings.push(FieldError::too_long(condition.sub(field), max));
            }
        }
    }
}

fn is_reason(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.ends_with(word) && text.chars().all(|c| word(c) || ",:".contains(c))
}
