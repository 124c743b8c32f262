//! What may be wrong with a FlowSchema or a PriorityLevelConfiguration. Rules and words as in Kubernetes'
//! `pkg/apis/flowcontrol/validation`.

use serde_json::Value;

use super::builtin;
use crate::cursor::{At, text};
use crate::field::FieldError;
use crate::validate::text::{label_problems, subdomain_problems};
use crate::validate::each;

type Findings = Vec<FieldError>;

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of a request's hash: a hand of queues must be drawn from no more.
const HASH_BITS: u32 = 60;

/// A FlowSchema without its metadata.
pub fn flow_schema(object: &Value) -> Findings {
    let (name, spec) = (text(object, "metadata.name"), At::root(object).get("spec"));
    let mut findings = Vec::new();
    precedence(&mut findings, &spec.get("matchingPrecedence"), name);
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !matches!(method.get("type").str(), "ByNamespace" | "ByUser") {
        let at = method.get("type").path;
        findings.push(FieldError::not_supported(at, method.value.clone(), &["ByNamespace", "ByUser"]));
    }
    let level = spec.at("priorityLevelConfiguration.name");
    if level.is_empty() {
        findings.push(level.required("must reference a priority level"));
    } else {
        each(&mut findings, &level, &subdomain_problems(level.str()));
    }
    for rule in spec.get("rules").items() {
        policy_rule(&mut findings, &rule);
    }
    if builtin::mandatory_flow_schema(name).is_some_and(|fixed| !same(&fixed["spec"], spec.value)) {
        findings.push(spec.invalid(&format!("spec of '{name}' must equal the fixed value")));
    }
    findings.extend(conditions(object));
    findings
}

fn precedence(findings: &mut Findings, at: &At<'_>, name: &str) {
    let value = at.int().unwrap_or(0);
    if value <= 0 {
        findings.push(FieldError::invalid(at.path.clone(), value, "must be a positive value"));
    }
    if value > MAX_PRECEDENCE {
        findings.push(at.invalid(&format!("must not be greater than {MAX_PRECEDENCE}")));
    }
    if value == 1 && name != "exempt" {
        findings.push(at.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
    }
}

fn policy_rule(findings: &mut Findings, rule: &At<'_>) {
    let subjects = rule.get("subjects");
    if subjects.len() == 0 {
        findings.push(subjects.required("subjects must contain at least one value"));
    }
    subjects.items().for_each(|one| subject(findings, &one));
    let (resource, other) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resource.len() == 0 && other.len() == 0 {
        findings.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    resource.items().for_each(|one| resource_rule(findings, &one));
    for one in other.items() {
        verbs(findings, &one.get("verbs"));
        let urls = one.get("nonResourceURLs");
        if members(findings, &urls, "nonResourceURLs must contain at least one value", "non-resource URLs") {
            urls.items().for_each(|url| each(findings, &url, &url_problems(url.str())));
        }
    }
}

fn subject(findings: &mut Findings, subject: &At<'_>) {
    const MEMBERS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.get("kind");
    let Some((_, own)) = MEMBERS.iter().find(|(known, _)| *known == kind.str()) else {
        findings.push(kind.not_supported(&["Group", "ServiceAccount", "User"]));
        return;
    };
    let at = subject.get(own);
    if !at.is_set() {
        findings.push(at.required(&format!("{own} is required when subject kind is '{}'", kind.str())));
    } else {
        subject_name(findings, &at, kind.str());
    }
    for (other, member) in MEMBERS.iter().filter(|(other, _)| *other != kind.str()) {
        if subject.get(member).is_set() {
            findings.push(subject.get(member).forbidden(&format!("{member} is forbidden when subject kind is not '{other}'")));
        }
    }
}

fn subject_name(findings: &mut Findings, at: &At<'_>, kind: &str) {
    let name = at.get("name");
    if name.is_empty() {
        findings.push(name.required(""));
    } else if kind == "ServiceAccount" && name.str() != "*" {
        each(findings, &name, &subdomain_problems(name.str()));
    }
    if kind != "ServiceAccount" {
        return;
    }
    let namespace = at.get("namespace");
    if namespace.is_empty() {
        findings.push(namespace.required("must specify namespace for service account"));
    } else {
        each(findings, &namespace, &label_problems(namespace.str()));
    }
}

/// A list that is either `*` alone or names its members. True: the members want a look.
fn members(findings: &mut Findings, at: &At<'_>, missing: &str, others: &str) -> bool {
    let wildcard = at.items().any(|item| item.str() == "*");
    if at.len() == 0 {
        findings.push(at.required(missing));
    } else if wildcard && at.len() > 1 {
        findings.push(at.invalid(&format!("if '*' is present, must not specify other {others}")));
    }
    !wildcard
}

fn verbs(findings: &mut Findings, at: &At<'_>) {
    let look = members(findings, at, "verbs must contain at least one value", "verbs");
    if look && at.items().any(|verb| !VERBS.contains(&verb.str())) {
        findings.push(at.not_supported(VERBS));
    }
}

fn resource_rule(findings: &mut Findings, rule: &At<'_>) {
    verbs(findings, &rule.get("verbs"));
    members(findings, &rule.get("apiGroups"), "resource rules must supply at least one api group", "api groups");
    members(findings, &rule.get("resources"), "resource rules must supply at least one resource", "resources");
    let namespaces = rule.get("namespaces");
    if namespaces.len() == 0 && rule.get("clusterScope").is_true() {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if members(findings, &namespaces, missing, "namespaces") {
        for namespace in namespaces.items() {
            for problem in label_problems(namespace.str()) {
                findings.push(namespace.invalid(&format!("each member of this list must be '*' or a DNS-1123 label; {problem}")));
            }
        }
    }
}

fn url_problems(path: &str) -> Vec<String> {
    let problem = match path {
        "" => "must not be empty",
        "/" => return Vec::new(),
        _ if !path.starts_with('/') => "must start with slash",
        _ if path.contains(' ') => "must not contain white-space",
        _ if path.contains("//") => "must not contain double slash",
        _ => match path.matches('*').count() {
            0 => return Vec::new(),
            1 if path.ends_with("/*") => return Vec::new(),
            _ => "wildcard can only do suffix matching",
        },
    };
    vec![problem.to_owned()]
}

/// A PriorityLevelConfiguration without its metadata.
pub fn priority_level(object: &Value) -> Findings {
    let (name, spec) = (text(object, "metadata.name"), At::root(object).get("spec"));
    let mut findings = Vec::new();
    let kind = spec.get("type");
    if (name == "exempt") != (kind.str() == "Exempt") {
        findings.push(kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    let (exempt, limited) = (spec.get("exempt"), spec.get("limited"));
    match kind.str() {
        "Exempt" => {
            if limited.is_set() {
                findings.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            shares(&mut findings, &exempt);
        }
        "Limited" => {
            if exempt.is_set() {
                findings.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_set() {
                limited_level(&mut findings, &limited);
            } else {
                findings.push(limited.required("must not be empty when type is Limited"));
            }
        }
        "" => findings.push(kind.required("")),
        _ => findings.push(kind.not_supported(&["Exempt", "Limited"])),
    }
    findings.extend(fixed_level(name, &spec));
    findings.extend(conditions(object));
    findings
}

/// Levels that every server relies on keep their values; of the exempt one the shares may change.
fn fixed_level(name: &str, spec: &At<'_>) -> Option<FieldError> {
    let fixed = builtin::mandatory_priority_level(name)?;
    let (mut want, mut have) = (fixed["spec"].clone(), spec.value.clone());
    let except = if name == "exempt" {
        for side in [&mut want, &mut have] {
            if let Value::Object(side) = side {
                side.remove("exempt");
            }
        }
        " except the 'spec.exempt' field"
    } else {
        ""
    };
    (!same(&want, &have)).then(|| spec.invalid(&format!("spec of '{name}'{except} must equal the fixed value")))
}

fn shares(findings: &mut Findings, at: &At<'_>) {
    let (shares, lendable) = (at.get("nominalConcurrencyShares"), at.get("lendablePercent"));
    if shares.int().is_some_and(|shares| shares < 0) {
        findings.push(shares.invalid("must be a non-negative integer"));
    }
    if lendable.int().is_some_and(|percent| !(0..=100).contains(&percent)) {
        findings.push(lendable.invalid("must be between 0 and 100, inclusive"));
    }
}

fn limited_level(findings: &mut Findings, limited: &At<'_>) {
    shares(findings, limited);
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.str() {
        "Reject" if queuing.is_set() => {
            findings.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        "Reject" => {}
        "Queue" if queuing.is_set() => queues(findings, &queuing),
        "Queue" => findings.push(queuing.required("must not be empty if limited.limitResponse.type is Limited")),
        "" => findings.push(kind.required("")),
        _ => findings.push(kind.not_supported(&["Queue", "Reject"])),
    }
    let borrowing = limited.get("borrowingLimitPercent");
    if borrowing.int().is_some_and(|percent| percent < 0) {
        findings.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
}

fn queues(findings: &mut Findings, queuing: &At<'_>) {
    let number = |name: &str| queuing.get(name).int().unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    for name in ["queueLengthLimit", "queues"] {
        if number(name) <= 0 {
            findings.push(queuing.get(name).invalid("must be positive"));
        }
    }
    if queues > MAX_QUEUES {
        findings.push(queuing.get("queues").invalid(&format!("must not be greater than {MAX_QUEUES}")));
    }
    let at = queuing.get("handSize");
    if hand <= 0 {
        findings.push(at.invalid("must be positive"));
    } else if hand > queues {
        findings.push(at.invalid(&format!("should not be greater than queues ({queues})")));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        findings.push(at.invalid(&format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        )));
    }
}

/// How many bits of a hash it takes to draw a hand: `hand · log2(deck)`, rounded up. Deck 512, hand 8: 72.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 10^7 queues")]
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    ((deck as f64).log2() * hand as f64).ceil() as u32
}

/// Conditions have a type, and each type stands once.
pub fn conditions(object: &Value) -> Findings {
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for condition in At::root(object).at("status.conditions").items() {
        let kind = condition.get("type");
        if seen.contains(&kind.str()) {
            findings.push(kind.duplicate());
        }
        seen.push(kind.str());
        if kind.is_empty() {
            findings.push(kind.required(""));
        }
    }
    findings
}

/// Equality to which what is absent, null or empty is the same.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let null = Value::Null;
            a.keys().chain(b.keys()).all(|key| same(a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Null, other) | (other, Value::Null) => match other {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.values().all(|value| same(value, &Value::Null)),
            Value::Array(items) => items.is_empty(),
            Value::String(text) => text.is_empty(),
            Value::Bool(true) | Value::Number(_) => false,
        },
        _ => one == other,
    }
}
