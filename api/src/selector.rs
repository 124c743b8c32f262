//! Label and field selectors: reading them from a query, and whether an object matches.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as metav1;
use serde_json::Value;

use crate::cursor::{find, text};
use crate::kind::Kind;
use crate::status::ApiError;
use crate::validate::text::{label_value_problems, qualified_name_problems};

/// How a label is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of these, which are sorted.
    In(Vec<String>),
    /// The value is none of these, which are sorted, or the label is absent.
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The value is a number above this.
    GreaterThan(i64),
    /// The value is a number below this.
    LessThan(i64),
}

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// The condition.
    pub operator: Operator,
}

fn has(values: &[String], wanted: &str) -> bool {
    values.binary_search_by(|value| value.as_str().cmp(wanted)).is_ok()
}

impl Requirement {
    /// Whether a label with this value (or without one) fulfils the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| has(values, value)),
            Operator::NotIn(values) => value.is_none_or(|value| !has(values, value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|value| value > *bound),
            Operator::LessThan(bound) => number().is_some_and(|value| value < *bound),
        }
    }
}

/// Conditions on labels, all of which must hold. None: everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The conditions.
    pub requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
}

fn tokens(input: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = input;
    'next: while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        for sign in ["==", "!=", "=", "!", ",", "(", ")", ">", "<"] {
            if let Some(after) = rest.strip_prefix(sign) {
                out.push(Token::Sign(sign));
                rest = after;
                continue 'next;
            }
        }
        let end = rest.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(rest.len());
        out.push(Token::Word(rest[..end].to_owned()));
        rest = &rest[end..];
    }
    out
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

fn shown(token: Option<&Token>) -> String {
    match token {
        Some(Token::Word(word)) => word.clone(),
        Some(Token::Sign(sign)) => (*sign).to_owned(),
        None => String::new(),
    }
}

impl Parser {
    fn word(&mut self) -> Option<String> {
        match self.tokens.peek() {
            Some(Token::Word(_)) => match self.tokens.next() {
                Some(Token::Word(word)) => Some(word),
                _ => None,
            },
            _ => None,
        }
    }

    fn sign(&mut self, wanted: &str) -> bool {
        let is = matches!(self.tokens.peek(), Some(Token::Sign(sign)) if *sign == wanted);
        if is {
            self.tokens.next();
        }
        is
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.sign("!");
        let Some(key) = self.word() else {
            return Err(format!("found '{}', expected: identifier", shown(self.tokens.peek())));
        };
        check_key(&key)?;
        if absent {
            return Ok(Requirement { key, operator: Operator::DoesNotExist });
        }
        let operator = match self.tokens.peek().cloned() {
            None | Some(Token::Sign(",")) => Operator::Exists,
            Some(Token::Sign("=" | "==")) => {
                self.tokens.next();
                Operator::In(vec![self.exact(&key)?])
            }
            Some(Token::Sign("!=")) => {
                self.tokens.next();
                Operator::NotIn(vec![self.exact(&key)?])
            }
            Some(Token::Sign(sign @ (">" | "<"))) => {
                self.tokens.next();
                let value = self.word().unwrap_or_default();
                let bound = value.parse().map_err(|_| {
                    format!("values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer")
                })?;
                if sign == ">" { Operator::GreaterThan(bound) } else { Operator::LessThan(bound) }
            }
            Some(Token::Word(word)) if word == "in" || word == "notin" => {
                self.tokens.next();
                let values = self.values(&key)?;
                if word == "in" { Operator::In(values) } else { Operator::NotIn(values) }
            }
            other => {
                return Err(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    shown(other.as_ref())
                ));
            }
        };
        Ok(Requirement { key, operator })
    }

    fn exact(&mut self, key: &str) -> Result<String, String> {
        let value = match self.tokens.peek() {
            Some(Token::Word(_)) => self.word().unwrap_or_default(),
            None | Some(Token::Sign(",")) => String::new(),
            other => return Err(format!("found '{}', expected: identifier", shown(other))),
        };
        check_value(key, &value)?;
        Ok(value)
    }

    fn values(&mut self, key: &str) -> Result<Vec<String>, String> {
        if !self.sign("(") {
            return Err(format!("found '{}', expected: '('", shown(self.tokens.peek())));
        }
        let mut values = Vec::new();
        loop {
            let value = self.word().unwrap_or_default();
            check_value(key, &value)?;
            values.push(value);
            if self.sign(")") {
                break;
            }
            if !self.sign(",") {
                return Err(format!("found '{}', expected: ',', or ')'", shown(self.tokens.peek())));
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let problems = qualified_name_problems(key);
    if problems.is_empty() { Ok(()) } else { Err(format!("key: Invalid value: {key:?}: {}", problems.join("; "))) }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    let problems = label_value_problems(value);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("values[0][{key}]: Invalid value: {value:?}: {}", problems.join("; ")))
    }
}

impl LabelSelector {
    /// Reads `a=b,c in (d,e),!f`. The error is the 400 that Kubernetes answers with.
    pub fn parse(input: &str) -> Result<Self, ApiError> {
        let failed = |problem: String| {
            ApiError::bad_request(format!("unable to parse requirement: {problem}"))
        };
        let mut parser = Parser { tokens: tokens(input).into_iter().peekable() };
        let mut requirements = Vec::new();
        if parser.tokens.peek().is_none() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parser.requirement().map_err(failed)?);
            match parser.tokens.next() {
                None => break,
                Some(Token::Sign(",")) => {}
                other => {
                    return Err(ApiError::bad_request(format!("found '{}', expected: ',' or 'end of string'", shown(other.as_ref()))));
                }
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// Whether there is nothing to fulfil.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object's labels fulfil it.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = find(object, "metadata.labels");
        self.matches_labels(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether labels, asked for one by one, fulfil it.
    pub fn matches_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

/// Whether labels fulfil a selector as objects carry it. An absent selector matches nothing, an empty one everything.
pub fn matches_label_selector(
    selector: Option<&metav1::LabelSelector>,
    labels: Option<&std::collections::BTreeMap<String, String>>,
) -> bool {
    let Some(selector) = selector else { return false };
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let exact = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value.as_str()));
    exact && selector.match_expressions.iter().flatten().all(|expression| {
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort();
        let operator = match expression.operator.as_str() {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return false,
        };
        Requirement { key: expression.key.clone(), operator }.matches(label(&expression.key))
    })
}

/// Conditions on fields, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// (field, must be equal, value)
    pub terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Reads `a=b,c!=d`; `\` escapes `\`, `,` and `=`. Whether the kind knows the fields is asked by [`Self::check`].
    pub fn parse(input: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in split_unescaped(input) {
            if term.is_empty() {
                continue;
            }
            let Some((field, equal, value)) = split_term(term) else {
                return Err(ApiError::bad_request(format!("invalid selector: '{input}'; can't understand '{term}'")));
            };
            terms.push((field.to_owned(), equal, unescape(value)?));
        }
        Ok(Self { terms })
    }

    /// Whether there is nothing to fulfil.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Refuses fields that the kind does not know.
    pub fn check(&self, kind: &dyn Kind) -> Result<(), ApiError> {
        for (field, ..) in &self.terms {
            let known = matches!(field.as_str(), "metadata.name" | "metadata.namespace")
                || kind.selectable_fields().contains(&field.as_str());
            if !known {
                let names = kind.names();
                let plain = matches!(names.kind, "ConfigMap" | "ServiceAccount") || kind.selectable_fields().is_empty();
                let message = if plain {
                    format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
                } else {
                    format!("field label not supported: {field}")
                };
                return Err(ApiError::bad_request(message));
            }
        }
        Ok(())
    }

    /// Whether an object fulfils it.
    pub fn matches(&self, kind: &dyn Kind, object: &Value) -> bool {
        self.terms.iter().all(|(field, equal, value)| {
            let actual = match field.as_str() {
                "metadata.name" | "metadata.namespace" => text(object, field).to_owned(),
                _ => kind.selectable(object, field),
            };
            (actual == *value) == *equal
        })
    }

    /// The value that a field must have, where the selector fixes it (`metadata.name=x`).
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|(name, equal, _)| name == field && *equal).map(|(.., value)| value.as_str())
    }
}

fn split_unescaped(input: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in input.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&input[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&input[start..]);
    out
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    rest.strip_prefix("!=")
        .map(|value| (field, false, value))
        .or_else(|| rest.strip_prefix("==").map(|value| (field, true, value)))
        .or_else(|| rest.strip_prefix('=').map(|value| (field, true, value)))
}

fn unescape(value: &str) -> Result<String, ApiError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence = other.map_or_else(|| "\\".to_owned(), |c| format!("\\{c}"));
                    return Err(ApiError::bad_request(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            ',' | '=' => {
                return Err(ApiError::bad_request(format!("invalid field selector: unescaped character in value: {c}")));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "1", "empty": ""}}});
        for (selector, expected) in [
            ("", true), ("app=web", true), ("app==web,tier=1", true), ("app!=web", false), ("gone!=x", true), ("app in (web, db)", true),
            ("app notin (web)", false), ("gone notin (web)", true), ("app", true), ("!app", false), ("!gone", true), ("tier>0", true),
            ("tier<1", false), ("empty=", true), ("app in (,web)", true), ("x-kubernetes.io/app", false),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
            assert_eq!(parsed.matches(&object), expected, "{selector}");
        }
        for bad in ["=x", "app in", "app in web", "a b", "app=!x", "-x=1", "a=b c", "x>y", "app in (a", "!"] {
            let error = LabelSelector::parse(bad).expect_err(bad);
            assert_eq!(error.code, 400, "{bad}");
        }
    }

    #[test]
    fn fields() {
        let pods = crate::kinds::find_kind("", "v1", "Pod").expect("pods");
        let object = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("metadata.name=a", true), ("spec.nodeName==n1,status.phase!=Failed", true), ("spec.nodeName=", false), ("status.phase!=Running", false),
        ] {
            let parsed = FieldSelector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
            parsed.check(pods).unwrap_or_else(|error| panic!("{selector}: {error}"));
            assert_eq!(parsed.matches(pods, &object), expected, "{selector}");
        }
        let unknown = FieldSelector::parse("spec.bogus=1").expect("parses").check(pods).expect_err("unknown");
        assert_eq!(unknown.message, "field label not supported: spec.bogus");
    }
}
