//! Which requests are logged, and how much of each: a Policy of audit.k8s.io/v1. The first rule that fits decides;
//! what no rule fits is not logged. Pure.

use serde_json::Value;

use super::Stage;
use crate::authn::Caller;
use crate::authz::rbac::Attributes;
use crate::value;

/// How much of a request is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when, how it ended.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

const LEVELS: [(&str, Level); 4] = [
    ("None", Level::None),
    ("Metadata", Level::Metadata),
    ("Request", Level::Request),
    ("RequestResponse", Level::RequestResponse),
];

impl Level {
    /// As policies and events have it.
    pub fn name(self) -> &'static str {
        LEVELS.iter().find(|(_, level)| *level == self).map_or("None", |(name, _)| name)
    }

    fn parse(name: &str) -> Result<Self, String> {
        let found = LEVELS.iter().find(|(own, _)| *own == name);
        found.map(|(_, level)| *level).ok_or_else(|| {
            format!("level: Unsupported value: {name:?}: supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"")
        })
    }
}

/// What becomes of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Treatment {
    /// How much.
    pub level: Level,
    omitted: Vec<String>,
    /// Whether managedFields of logged objects are left out.
    pub omit_managed_fields: bool,
}

impl Treatment {
    /// Whether nothing is logged at this stage.
    pub fn omits(&self, stage: Stage) -> bool {
        self.omitted.iter().any(|own| own == stage.name())
    }
}

#[derive(Debug, Clone, Default)]
struct Choice {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Rule {
    treatment: Treatment,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    choices: Vec<Choice>,
    namespaces: Vec<String>,
    paths: Vec<String>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    default: Treatment,
}

fn stages(object: &Value) -> Result<Vec<String>, String> {
    let stages = value::strings(object, "/omitStages");
    let known = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];
    match stages.iter().find(|stage| !known.contains(&stage.as_str())) {
        Some(stage) => Err(format!("omitStages: Invalid value: {stage:?}: allowed stages are {}", known.join(","))),
        None => Ok(stages),
    }
}

fn path_problem(path: &str) -> Option<String> {
    if path == "*" {
        return None;
    }
    if !path.starts_with('/') {
        return Some(format!("nonResourceURLs: Invalid value: {path:?}: non-resource URL rules must begin with a '/' character"));
    }
    let before_last = path.char_indices().next_back().and_then(|(last, _)| path.get(..last)).unwrap_or_default();
    before_last.contains('*').then(|| {
        format!("nonResourceURLs: Invalid value: {path:?}: non-resource URL wildcards '*' must be the final character of the rule")
    })
}

impl Rule {
    fn parse(rule: &Value, default: &Treatment) -> Result<Self, String> {
        let mut omitted = stages(rule)?;
        omitted.extend(default.omitted.iter().cloned());
        let own = rule.get("omitManagedFields").and_then(Value::as_bool);
        let treatment = Treatment {
            level: Level::parse(value::text(rule, "/level"))?,
            omitted,
            omit_managed_fields: own.unwrap_or(default.omit_managed_fields),
        };
        let mut choices = Vec::new();
        for choice in rule.get("resources").and_then(Value::as_array).into_iter().flatten() {
            let choice = Choice {
                group: value::text(choice, "/group").to_owned(),
                resources: value::strings(choice, "/resources"),
                names: value::strings(choice, "/resourceNames"),
            };
            if choice.resources.is_empty() && !choice.names.is_empty() {
                return Err("resources: using resourceNames requires at least one resource".to_owned());
            }
            choices.push(choice);
        }
        let paths = value::strings(rule, "/nonResourceURLs");
        let namespaces = value::strings(rule, "/namespaces");
        if let Some(problem) = paths.iter().find_map(|path| path_problem(path)) {
            return Err(problem);
        }
        if !paths.is_empty() && !(choices.is_empty() && namespaces.is_empty()) {
            return Err("nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs".to_owned());
        }
        Ok(Self {
            treatment,
            users: value::strings(rule, "/users"),
            groups: value::strings(rule, "/userGroups"),
            verbs: value::strings(rule, "/verbs"),
            choices,
            namespaces,
            paths,
        })
    }

    fn fits(&self, user: &Caller, asked: &Attributes) -> bool {
        let among = |list: &[String], word: &str| list.is_empty() || list.iter().any(|own| own == word);
        if !among(&self.users, &user.user)
            || !(self.groups.is_empty() || self.groups.iter().any(|group| user.is_in(group)))
            || !among(&self.verbs, &asked.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.choices.is_empty() {
            return asked.path.is_empty()
                && among(&self.namespaces, &asked.namespace)
                && (self.choices.is_empty() || self.choices.iter().any(|choice| choice.fits(asked)));
        }
        self.paths.is_empty() || (!asked.path.is_empty() && self.paths.iter().any(|path| path_fits(path, &asked.path)))
    }
}

fn path_fits(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

impl Choice {
    fn fits(&self, asked: &Attributes) -> bool {
        if self.group != asked.group && self.group != "*" {
            return false;
        }
        let full = if asked.subresource.is_empty() {
            asked.resource.clone()
        } else {
            format!("{}/{}", asked.resource, asked.subresource)
        };
        self.resources.is_empty()
            || (self.names.is_empty() || self.names.contains(&asked.name))
                && self.resources.iter().any(|own| {
                    own == "*"
                        || *own == full
                        || (!asked.subresource.is_empty() && own.strip_prefix("*/") == Some(asked.subresource.as_str()))
                        || own.strip_suffix("/*") == Some(asked.resource.as_str())
                })
    }
}

impl Policy {
    /// From the file's YAML or JSON. The error says what is wrong and where.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let policy = balsa_api::decode::json_or_yaml(text)?.value;
        if policy["apiVersion"] != "audit.k8s.io/v1" || policy["kind"] != "Policy" {
            return Err("it must be a Policy of audit.k8s.io/v1".to_owned());
        }
        let omit_managed_fields = policy.get("omitManagedFields").and_then(Value::as_bool).unwrap_or_default();
        let default = Treatment { level: Level::None, omitted: stages(&policy)?, omit_managed_fields };
        let rules = policy.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if rules.is_empty() {
            return Err("it has no rules".to_owned());
        }
        let rules = rules.iter().enumerate().map(|(index, rule)| {
            Rule::parse(rule, &default).map_err(|problem| format!("rules[{index}].{problem}"))
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, default })
    }

    /// What becomes of a request.
    pub fn treatment(&self, user: &Caller, asked: &Attributes) -> Treatment {
        let rule = self.rules.iter().find(|rule| rule.fits(user, asked));
        rule.map_or_else(|| self.default.clone(), |rule| rule.treatment.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-proxy]
  verbs: [watch]
- level: None
  nonResourceURLs: [/healthz*, /version]
- level: Metadata
  resources: [{group: '', resources: [secrets, configmaps, serviceaccounts/token]}]
- level: Request
  userGroups: [dev]
  namespaces: [prod]
  omitStages: [ResponseStarted]
- level: RequestResponse
  resources: [{group: apps}, {group: '*', resources: ['*/scale', 'pods/*'], resourceNames: [a]}]
";

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        let ask = |user: &str, group: &str, verb: &str, full: &str, namespace: &str, name: &str| {
            let (group_of, full) = full.split_once(':').unwrap_or(("", full));
            let (resource, subresource) = full.split_once('/').unwrap_or((full, ""));
            let asked = Attributes {
                verb: verb.into(), group: group_of.into(), resource: resource.into(), subresource: subresource.into(),
                namespace: namespace.into(), name: name.into(), ..Attributes::default()
            };
            policy.treatment(&Caller { user: user.into(), groups: vec![group.into()], ..Caller::default() }, &asked)
        };
        assert_eq!(ask("system:kube-proxy", "", "watch", "secrets", "", "").level, Level::None);
        assert_eq!(ask("system:kube-proxy", "", "list", "secrets", "", "").level, Level::Metadata);
        assert_eq!(ask("x", "", "create", "serviceaccounts/token", "", "").level, Level::Metadata);
        assert_eq!(ask("x", "", "create", "serviceaccounts", "", "").level, Level::None);
        let request = ask("x", "dev", "get", "pods", "prod", "p");
        assert_eq!(request.level, Level::Request);
        assert!(request.omits(Stage::RequestReceived) && request.omits(Stage::ResponseStarted) && !request.omits(Stage::ResponseComplete));
        assert_eq!(ask("x", "ops", "get", "pods", "prod", "p").level, Level::None);
        assert_eq!(ask("x", "", "get", "apps:deployments", "d", "x").level, Level::RequestResponse);
        assert_eq!(ask("x", "", "get", "y:z/scale", "d", "a").level, Level::RequestResponse);
        assert_eq!(ask("x", "", "get", "y:z/scale", "d", "b").level, Level::None);
        assert_eq!(ask("x", "", "get", "pods/log", "d", "a").level, Level::RequestResponse);
        let path = |path: &str| {
            let asked = Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
            policy.treatment(&Caller::anonymous(), &asked)
        };
        assert_eq!(path("/healthz/x").level, Level::None);
    }

    #[test]
    fn a_bad_policy_is_refused_with_its_place() {
        let of = |rule: &str| {
            let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n- {rule}\n");
            Policy::parse(text.as_bytes()).unwrap_err()
        };
        assert!(of("{level: All}").starts_with("rules[1].level: Unsupported value"));
        assert!(of("{level: None, omitStages: [x]}").contains("allowed stages"));
        assert!(of("{level: None, nonResourceURLs: [x]}").contains("must begin with"));
        assert!(of("{level: None, nonResourceURLs: ['/a*b']}").contains("final character"));
        assert!(of("{level: None, nonResourceURLs: [/a], namespaces: [b]}").contains("both"));
        assert!(of("{level: None, resources: [{resourceNames: [a]}]}").contains("at least one resource"));
        assert!(Policy::parse(b"kind: Policy").is_err() && Policy::parse(b"\xff").is_err());
    }
}
