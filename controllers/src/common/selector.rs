//! Label selectors as objects carry them (`matchLabels`, `matchExpressions`).
//!
//! A selector that cannot be understood selects nothing: the safe side for everything that owns or deletes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether a selector has no requirement at all.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether `labels` satisfy every requirement. An empty selector matches everything.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let get = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            let value = get(&requirement.key);
            match requirement.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// As a list request spells it: `app=web,tier notin (db,cache),!old`.
pub fn text(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let others = selector.match_expressions.iter().flatten().map(|one| {
        let (key, values) = (&one.key, one.values.as_deref().unwrap_or_default().join(","));
        match one.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    equal.chain(others).collect::<Vec<_>>().join(",")
}

/// A selector of exact labels.
pub fn exactly(labels: &Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels.clone()), match_expressions: None }
}

/// Whether every label of `wanted` is among `labels`.
pub fn covers(labels: Option<&Labels>, wanted: Option<&Labels>) -> bool {
    wanted.into_iter().flatten().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn every_operator() {
        let cases = [
            ("In", "a", vec!["1"], "a=1", true),
            ("In", "a", vec!["1"], "a=2", false),
            ("In", "a", vec!["1"], "", false),
            ("NotIn", "a", vec!["1"], "a=2", true),
            ("NotIn", "a", vec!["1"], "", true),
            ("NotIn", "a", vec!["1"], "a=1", false),
            ("Exists", "a", vec![], "a=1", true),
            ("Exists", "a", vec![], "", false),
            ("DoesNotExist", "a", vec![], "", true),
            ("Near", "a", vec![], "a=1", false),
        ];
        for (operator, key, values, text, expected) in cases {
            let selector = LabelSelector {
                match_labels: None,
                match_expressions: Some(vec![LabelSelectorRequirement {
                    key: key.to_owned(),
                    operator: operator.to_owned(),
                    values: Some(values.into_iter().map(str::to_owned).collect()),
                }]),
            };
            assert_eq!(matches(&selector, Some(&labels(text))), expected, "{operator} {key} on {text:?}");
        }
        assert!(matches(&exactly(&labels("a=1")), Some(&labels("a=1,b=2"))));
        assert!(!matches(&exactly(&labels("a=1,b=2")), Some(&labels("a=1"))));
        assert!(is_empty(&LabelSelector::default()));
    }
}
