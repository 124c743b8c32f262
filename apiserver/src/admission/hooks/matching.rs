//! Whether a webhook or policy is about a request: rules, namespace and object selectors, equivalent resources. Pure.

use std::collections::BTreeMap;

use balsa_api::kind::{Kind, KindRef};
use balsa_api::meta::{GroupVersionKind, GroupVersionResource};
use balsa_api::selector::matches_label_selector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::request::{Asked, Verb};
use crate::value;

/// A rule: which operations on which resources.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    /// Names of objects; empty: all.
    names: Vec<String>,
}

/// What has to be the case besides match conditions.
#[derive(Debug, Clone, Default)]
pub struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Without rules everything is meant: bindings of policies.
    all: bool,
    equivalent: bool,
    namespaces: Option<LabelSelector>,
    objects: Option<LabelSelector>,
}

/// The resource and kind by which a rule matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Of the rule.
    pub resource: GroupVersionResource,
    /// Its kind; the object is converted to it.
    pub kind: GroupVersionKind,
}

/// The labels of a request's namespace, or why they are not known; none where the request has no namespace.
pub type NamespaceLabels = Option<Result<BTreeMap<String, String>, balsa_api::status::ApiError>>;

fn has(all: &[String], one: &str) -> bool {
    all.iter().any(|own| own == "*" || own == one)
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        Self {
            operations: value::strings(rule, "/operations"),
            groups: value::strings(rule, "/apiGroups"),
            versions: value::strings(rule, "/apiVersions"),
            resources: value::strings(rule, "/resources"),
            scope: value::text(rule, "/scope").to_owned(),
            names: value::strings(rule, "/resourceNames"),
        }
    }

    fn matches(&self, asked: &Asked<'_>, resource: &GroupVersionResource) -> bool {
        let is_namespace = asked.resource.group.is_empty() && asked.resource.resource == "namespaces";
        let in_scope = match self.scope.as_str() {
            "Namespaced" => !is_namespace && !asked.namespace.is_empty(),
            "Cluster" => is_namespace || asked.namespace.is_empty(),
            _ => true,
        };
        let named = self.resources.iter().any(|own| {
            let (name, sub) = own.split_once('/').unwrap_or((own, ""));
            (name == "*" || name == resource.resource) && (sub == "*" || sub == asked.subresource)
        });
        in_scope
            && named
            && has(&self.operations, asked.verb.name())
            && has(&self.groups, &resource.group)
            && has(&self.versions, &resource.version)
            && (self.names.is_empty() || self.names.contains(&asked.name))
    }
}

impl Criteria {
    /// Of a webhook.
    pub fn of_webhook(hook: &Value) -> Self {
        Self::parse(hook, "/rules")
    }

    /// Of a policy's `matchConstraints` or a binding's `matchResources`; absent ones mean everything.
    pub fn of_resources(resources: Option<&Value>) -> Self {
        let Some(resources) = resources.filter(|resources| !resources.is_null()) else {
            let everything = Some(LabelSelector::default());
            return Self { all: true, namespaces: everything.clone(), objects: everything, ..Self::default() };
        };
        let mut criteria = Self::parse(resources, "/resourceRules");
        criteria.excluded = rules(resources, "/excludeResourceRules");
        criteria.all = criteria.rules.is_empty();
        criteria
    }

    fn parse(from: &Value, rules_at: &str) -> Self {
        let selector = |key: &str| serde_json::from_value(from.get(key).cloned().unwrap_or_default()).ok();
        Self {
            rules: rules(from, rules_at),
            excluded: Vec::new(),
            all: false,
            equivalent: value::text(from, "/matchPolicy") == "Equivalent",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// Whether this is about the request, and as what. `equivalents`: other ways to name the same objects.
    pub fn hit(
        &self,
        asked: &Asked<'_>,
        labels: &NamespaceLabels,
        equivalents: &[Hit],
    ) -> Result<Option<Hit>, balsa_api::status::ApiError> {
        let mut failure = None;
        if !is_everything(self.namespaces.as_ref()) {
            match labels {
                None => {}
                Some(Ok(labels)) if !matches_label_selector(self.namespaces.as_ref(), Some(labels)) => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => failure = Some(error.clone()),
            }
        }
        if !is_everything(self.objects.as_ref()) {
            let matches = |object: &Value| matches_label_selector(self.objects.as_ref(), Some(&labels_of(object)));
            if !asked.object.iter().chain(&asked.old).any(matches) {
                return Ok(None);
            }
        }
        if self.by_rules(&self.excluded, asked, equivalents).is_some() {
            return Ok(None);
        }
        let hit = if self.all {
            Some(Hit { resource: asked.resource.clone(), kind: asked.kind.clone() })
        } else {
            self.by_rules(&self.rules, asked, equivalents)
        };
        match (hit, failure) {
            (None, _) => Ok(None),
            (Some(_), Some(failure)) => Err(failure),
            (hit, None) => Ok(hit),
        }
    }

    fn by_rules(&self, rules: &[Rule], asked: &Asked<'_>, equivalents: &[Hit]) -> Option<Hit> {
        if rules.iter().any(|rule| rule.matches(asked, &asked.resource)) {
            return Some(Hit { resource: asked.resource.clone(), kind: asked.kind.clone() });
        }
        if !self.equivalent {
            return None;
        }
        let found = rules.iter().find_map(|rule| equivalents.iter().find(|other| rule.matches(asked, &other.resource)));
        found.cloned()
    }
}

fn rules(from: &Value, at: &str) -> Vec<Rule> {
    from.pointer(at).and_then(Value::as_array).into_iter().flatten().map(Rule::parse).collect()
}

fn is_everything(selector: Option<&LabelSelector>) -> bool {
    selector.is_some_and(|selector| {
        selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    })
}

/// metadata.labels
pub fn labels_of(object: &Value) -> BTreeMap<String, String> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    labels.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// Whether the labels of the request's namespace are those of its own object.
pub fn labels_own_namespace(asked: &Asked<'_>) -> bool {
    asked.resource.resource == "namespaces"
        && asked.subresource.is_empty()
        && matches!(asked.verb, Verb::Create | Verb::Update)
}

/// The other versions and groups under which a kind's objects are served.
pub fn equivalents(kind: &dyn Kind, subresource: &str, all: &[KindRef]) -> Vec<Hit> {
    let names = kind.names();
    let same = |other: &dyn Kind| {
        let own = other.names();
        let events = names.plural == "events" && own.plural == "events";
        own.version != names.version && own.group == names.group && own.plural == names.plural
            || events && own.group != names.group
    };
    let others = all.iter().map(|other| &**other).filter(|other| same(*other));
    others
        .map(|other| {
            let sub = other.subresources().iter().find(|own| own.name == subresource && !own.kind.is_empty());
            let kind = sub.map_or_else(|| other.gvk(), |own| GroupVersionKind::new(own.group, own.version, own.kind));
            Hit { resource: other.gvr(), kind }
        })
        .collect()
}
