//! Whether what somebody holds covers what they would grant. Pure.
//!
//! The comparison and its words are those of Kubernetes (component-helpers/auth/rbac/validation and
//! pkg/registry/rbac/validation): a rule is broken down until each part names one thing, and every part must lie within
//! one held rule.

use std::collections::BTreeMap;

use super::rbac::Rule;

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == wanted)
}

fn has_all(list: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|one| has(list, one))
}

/// Rules with one group, resource, verb and name (or one path and verb) each.
fn break_down(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut parts = Vec::new();
    for group in &rule.groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let part = Rule { verbs: one(verb), groups: one(group), resources: one(resource), ..Rule::default() };
                if rule.names.is_empty() {
                    parts.push(part);
                } else {
                    parts.extend(rule.names.iter().map(|name| Rule { names: one(name), ..part.clone() }));
                }
            }
        }
    }
    for path in &rule.paths {
        parts.extend(rule.verbs.iter().map(|verb| Rule { verbs: one(verb), paths: one(path), ..Rule::default() }));
    }
    parts
}

fn covers_resources(held: &[String], wanted: &[String]) -> bool {
    has(held, "*")
        || wanted.iter().all(|full| {
            has(held, full) || full.split_once('/').is_some_and(|(_, sub)| has(held, &format!("*/{sub}")))
        })
}

fn covers_path(held: &str, wanted: &str) -> bool {
    held == wanted || (held.ends_with('*') && wanted.starts_with(held.trim_end_matches('*')))
}

fn covers(held: &Rule, part: &Rule) -> bool {
    (has(&held.verbs, "*") || has_all(&held.verbs, &part.verbs))
        && (has(&held.groups, "*") || has_all(&held.groups, &part.groups))
        && covers_resources(&held.resources, &part.resources)
        && part.paths.iter().all(|path| held.paths.iter().any(|own| covers_path(own, path)))
        && (held.names.is_empty() || (!part.names.is_empty() && has_all(&held.names, &part.names)))
}

/// The parts of `wanted` that no rule of `held` covers.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(break_down);
    parts.filter(|part| !held.iter().any(|own| covers(own, part))).collect()
}

/// Parts that differ in their verb only become one rule.
fn compact(parts: Vec<Rule>) -> Vec<Rule> {
    let mut whole = Vec::new();
    let mut simple: BTreeMap<(Vec<String>, Vec<String>, Vec<String>), Vec<String>> = BTreeMap::new();
    for part in parts {
        if part.paths.is_empty() {
            simple.entry((part.groups, part.resources, part.names)).or_default().extend(part.verbs);
        } else {
            whole.push(part);
        }
    }
    whole.extend(simple.into_iter().map(|((groups, resources, names), verbs)| Rule {
        verbs,
        groups,
        resources,
        names,
        paths: Vec::new(),
    }));
    whole
}

/// A list as Go's `%q` has it: `["a" "b"]`.
pub fn quoted(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn describe(rule: &Rule) -> String {
    let members = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.paths),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = members
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
    format!("{{{}}}", shown.join(", "))
}

/// One line per rule that is missing, sorted.
pub fn describe_missing(parts: Vec<Rule>) -> String {
    let mut lines: Vec<String> = compact(parts).iter().map(describe).collect();
    lines.sort();
    lines.dedup();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Rule { verbs: own(verbs), groups: own(groups), resources: own(resources), names: own(names), paths: Vec::new() }
    }

    #[test]
    fn held_rules_cover_what_lies_within_them() {
        let cases: [(&str, Rule, Rule, bool); 9] = [
            ("the same", rule(&["get"], &[""], &["pods"], &[]), rule(&["get"], &[""], &["pods"], &[]), true),
            ("fewer verbs", rule(&["get", "list"], &[""], &["pods"], &[]), rule(&["get"], &[""], &["pods"], &[]), true),
            ("more verbs", rule(&["get"], &[""], &["pods"], &[]), rule(&["get", "list"], &[""], &["pods"], &[]), false),
            ("all verbs", rule(&["*"], &["*"], &["*"], &[]), rule(&["get"], &["x"], &["y/z"], &["n"]), true),
            ("a star is not its parts", rule(&["get"], &[""], &["pods"], &[]), rule(&["*"], &[""], &["pods"], &[]), false),
            ("a name within all", rule(&["get"], &[""], &["pods"], &[]), rule(&["get"], &[""], &["pods"], &["a"]), true),
            ("all is more than a name", rule(&["get"], &[""], &["pods"], &["a"]), rule(&["get"], &[""], &["pods"], &[]), false),
            ("any scale", rule(&["get"], &["apps"], &["*/scale"], &[]), rule(&["get"], &["apps"], &["d/scale"], &[]), true),
            ("a subresource is its own", rule(&["get"], &[""], &["pods"], &[]), rule(&["get"], &[""], &["pods/log"], &[]), false),
        ];
        for (what, held, wanted, expected) in cases {
            assert_eq!(missing(&[held], &[wanted]).is_empty(), expected, "{what}");
        }
        let paths = |path: &str| Rule { verbs: vec!["get".into()], paths: vec![path.into()], ..Rule::default() };
        assert!(missing(&[paths("/api/*")], &[paths("/api/v1")]).is_empty());
        assert!(!missing(&[paths("/api")], &[paths("/api/*")]).is_empty());
    }

    #[test]
    fn what_is_missing_is_said_shortly() {
        let wanted = [rule(&["get", "list"], &[""], &["secrets", "pods"], &[]), rule(&["get"], &["apps"], &["x"], &["n"])];
        let held = [rule(&["get"], &[""], &["pods"], &[])];
        assert_eq!(
            describe_missing(missing(&held, &wanted)),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}\n\
             {APIGroups:[\"apps\"], Resources:[\"x\"], ResourceNames:[\"n\"], Verbs:[\"get\"]}"
        );
    }
}
