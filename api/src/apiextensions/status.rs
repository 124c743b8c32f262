//! What the server itself says of a definition: accepted names and conditions. A function of the definition and of those
//! of the same group, so that several apiservers come to the same answer.

use serde_json::{Value, json};

use super::{definition, structural};
use crate::cursor::{find, list, text};

/// A condition to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `Established`, …
    pub r#type: &'static str,
    /// `True`, `False`
    pub status: &'static str,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Condition {
    fn new(r#type: &'static str, status: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { r#type, status, reason: reason.to_owned(), message: message.into() }
    }

    /// As it stands in an object, without its time.
    pub fn to_value(&self) -> Value {
        json!({"type": self.r#type, "status": self.status, "reason": self.reason, "message": self.message})
    }

    /// Whether an object says this already.
    pub fn is_in(&self, object: &Value) -> bool {
        list(object, "status.conditions").iter().any(|one| {
            text(one, "type") == self.r#type
                && text(one, "status") == self.status
                && text(one, "reason") == self.reason
                && text(one, "message") == self.message
        })
    }

    /// `Terminating`, once deletion was asked for.
    pub fn deletion_pending() -> Self {
        let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
        Self::new("Terminating", "True", "InstanceDeletionPending", message)
    }

    /// `Terminating`, while objects go.
    pub fn deleting_instances() -> Self {
        Self::new("Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress")
    }

    /// `Terminating`, where objects do not go.
    pub fn deletion_failed(problem: &str) -> Self {
        Self::new("Terminating", "True", "InstanceDeletionFailed", format!("could not issue all deletes: {problem}"))
    }

    /// `Terminating`, when all objects are gone.
    pub fn instances_deleted() -> Self {
        Self::new("Terminating", "False", "InstanceDeletionCompleted", "removed all instances")
    }

    /// `Terminating`, where there can be no objects.
    pub fn never_established() -> Self {
        Self::new("Terminating", "False", "NeverEstablished", "resource was never established")
    }
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// `status.acceptedNames`, where they change.
    pub accepted_names: Option<Value>,
    /// Conditions that are new or different.
    pub conditions: Vec<Condition>,
    /// Types of conditions that no longer apply.
    pub obsolete: Vec<&'static str>,
}

impl Plan {
    /// Whether nothing has to be written.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

struct Used<'a> {
    resources: Vec<&'a str>,
    kinds: Vec<&'a str>,
}

/// Names that definitions of the group hold.
fn used<'a>(group: &[&'a Value]) -> Used<'a> {
    let mut used = Used { resources: Vec::new(), kinds: Vec::new() };
    for one in group {
        let names = find(one, "status.acceptedNames");
        used.resources.extend([text(names, "plural"), text(names, "singular")]);
        used.resources.extend(list(names, "shortNames").iter().filter_map(Value::as_str));
        used.kinds.extend([text(names, "kind"), text(names, "listKind")]);
    }
    used
}

fn taken(wanted: &str, own: &str, used: &[&str]) -> Option<String> {
    (wanted != own && used.contains(&wanted)).then(|| format!("{wanted:?} is already in use"))
}

/// Which of the wanted names are granted, and what the condition says.
fn grant(object: &Value, group: &[&Value]) -> (Value, Condition) {
    let used = used(group);
    let (wanted, own) = (find(object, "spec.names"), find(object, "status.acceptedNames"));
    let mut granted = own.clone();
    if !granted.is_object() {
        granted = json!({"plural": "", "kind": ""});
    }
    let mut refused: Option<(&str, String)> = None;
    for (key, reason, others) in [
        ("plural", "PluralConflict", &used.resources),
        ("singular", "SingularConflict", &used.resources),
        ("shortNames", "ShortNamesConflict", &used.resources),
        ("kind", "KindConflict", &used.kinds),
        ("listKind", "ListKindConflict", &used.kinds),
    ] {
        let problem = if key == "shortNames" {
            let kept = list(own, key);
            let fresh = list(wanted, key).iter().filter(|name| !kept.contains(name)).filter_map(Value::as_str);
            let problems: Vec<String> = fresh.filter_map(|name| taken(name, "", others)).collect();
            match problems.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                several => Some(format!("[{}]", several.join(", "))),
            }
        } else {
            taken(text(wanted, key), text(own, key), others)
        };
        match problem {
            Some(problem) => refused = Some((reason, problem)),
            None => take_over(&mut granted, wanted, key),
        }
    }
    take_over(&mut granted, wanted, "categories");
    let condition = match refused {
        Some((reason, problem)) => Condition::new("NamesAccepted", "False", reason, problem),
        None => Condition::new("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
    };
    (granted, condition)
}

fn take_over(names: &mut Value, wanted: &Value, key: &str) {
    let Some(map) = names.as_object_mut() else { return };
    match wanted.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

fn established(object: &Value, accepted: &Condition) -> Condition {
    if accepted.status == "True" || definition::is_true(object, "Established") {
        return Condition::new("Established", "True", "InitialNamesAccepted", "the initial names have been accepted");
    }
    Condition::new("Established", "False", "NotAccepted", "not all names are accepted")
}

fn non_structural(object: &Value) -> Option<Condition> {
    let mut findings = Vec::new();
    if find(object, "spec.preserveUnknownFields") == &json!(true) {
        findings.push("spec.preserveUnknownFields: Invalid value: true: must be false".to_owned());
    }
    for (index, version) in list(object, "spec.versions").iter().enumerate() {
        let schema = find(version, "schema.openAPIV3Schema");
        if schema.is_object() {
            let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
            findings.extend(structural::violations(&path, schema).iter().map(ToString::to_string));
        }
    }
    let message = match findings.as_slice() {
        [] => return None,
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Some(Condition::new("NonStructuralSchema", "True", "Violations", message))
}

fn approval(object: &Value) -> Option<Condition> {
    if !definition::is_protected(text(object, "spec.group")) {
        return None;
    }
    let (reason, approved, message) = definition::approval_state(object);
    let status = if approved { "True" } else { "False" };
    Some(Condition::new("KubernetesAPIApprovalPolicyConformant", status, reason, message))
}

/// What has to be written about a definition. `group`: all definitions of its group.
pub fn plan(object: &Value, group: &[&Value]) -> Plan {
    let (granted, accepted) = grant(object, group);
    let mut plan = Plan::default();
    if find(object, "status.acceptedNames") != &granted {
        plan.accepted_names = Some(granted);
    }
    let mut conditions = vec![established(object, &accepted)];
    conditions.insert(0, accepted);
    for (r#type, condition) in
        [("NonStructuralSchema", non_structural(object)), ("KubernetesAPIApprovalPolicyConformant", approval(object))]
    {
        match condition {
            Some(condition) => conditions.push(condition),
            None if list(object, "status.conditions").iter().any(|one| text(one, "type") == r#type) => plan.obsolete.push(r#type),
            None => {}
        }
    }
    plan.conditions = conditions.into_iter().filter(|condition| !condition.is_in(object)).collect();
    plan
}
