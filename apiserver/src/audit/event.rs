//! What one line of the audit log says. Pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::policy::Level;
use super::{Origin, Stage};
use crate::authn::Caller;
use crate::authz::rbac::Attributes;
use crate::value;

/// Bytes of a User-Agent that are kept.
const MAX_AGENT: usize = 1024;

/// What is known of a request so far.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    fixed: Map<String, Value>,
    reference: Option<Map<String, Value>>,
    status: Option<Value>,
    annotations: Map<String, Value>,
    /// What was sent.
    pub request: Option<Value>,
    /// What was answered.
    pub response: Option<Value>,
}

/// A point in time with microseconds.
fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn reference(asked: &Attributes) -> Option<Map<String, Value>> {
    if !asked.path.is_empty() {
        return None;
    }
    let members = [
        ("resource", &asked.resource),
        ("namespace", &asked.namespace),
        ("name", &asked.name),
        ("apiGroup", &asked.group),
        ("apiVersion", &asked.version),
        ("subresource", &asked.subresource),
    ];
    let given = members.into_iter().filter(|(_, text)| !text.is_empty());
    Some(given.map(|(key, text)| (key.to_owned(), json!(text))).collect())
}

fn shortened(agent: &str) -> String {
    if agent.len() <= MAX_AGENT {
        return agent.to_owned();
    }
    let end = (0..=MAX_AGENT).rev().find(|end| agent.is_char_boundary(*end)).unwrap_or_default();
    format!("{}...TRUNCATED", agent.get(..end).unwrap_or_default())
}

impl Facts {
    /// Of a request that has just come in.
    pub fn new(origin: Origin, user: &Caller, acting: Option<&Caller>, asked: &Attributes) -> Self {
        let mut fixed = Map::new();
        let mut say = |key: &str, value: Value| fixed.insert(key.to_owned(), value);
        say("auditID", json!(origin.id));
        say("requestURI", json!(origin.uri));
        say("verb", json!(asked.verb));
        say("user", user.user_info());
        if let Some(acting) = acting {
            say("impersonatedUser", acting.user_info());
        }
        if !origin.addresses.is_empty() {
            say("sourceIPs", json!(origin.addresses));
        }
        if !origin.agent.is_empty() {
            say("userAgent", json!(shortened(&origin.agent)));
        }
        let received = origin.received.map(micros).unwrap_or_default();
        say("requestReceivedTimestamp", json!(received));
        Self { fixed, reference: reference(asked), ..Self::default() }
    }

    /// Takes over what only the sent object says: a created object's name, say.
    pub fn complete_reference(&mut self, object: &Value) {
        let Some(reference) = &mut self.reference else { return };
        let texts =
            [("name", value::name(object)), ("namespace", value::namespace(object)), ("uid", value::uid(object))];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            reference.entry(key).or_insert_with(|| json!(text));
        }
        let version = value::text(object, "/metadata/resourceVersion");
        if !version.is_empty() {
            reference.entry("resourceVersion").or_insert_with(|| json!(version));
        }
    }

    /// What admission has to say about it.
    pub fn annotate(&mut self, key: String, text: String) {
        self.annotations.entry(key).or_insert(Value::String(text));
    }

    /// Who allowed it, and by what.
    pub fn set_decision(&mut self, allowed: bool, reason: &str) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.annotations.insert("authorization.k8s.io/decision".to_owned(), json!(decision));
        self.annotations.insert("authorization.k8s.io/reason".to_owned(), json!(reason));
    }

    /// How it ended. A Status that was answered is said in full; of anything else its code.
    pub fn set_status(&mut self, code: u16, answer: Option<&Value>) {
        let answered = answer.filter(|answer| answer["kind"] == "Status" && answer["apiVersion"] == "v1");
        self.status = Some(match answered {
            Some(status) => {
                let mut status = status.clone();
                if let Some(members) = status.as_object_mut() {
                    members.retain(|key, _| key != "kind" && key != "apiVersion");
                    members.entry("metadata").or_insert_with(|| json!({}));
                    members.insert("code".to_owned(), json!(code));
                }
                status
            }
            None => json!({"metadata": {}, "code": code}),
        });
    }

    /// The event of a stage, as one line.
    pub fn line(&self, level: Level, stage: Stage, now: Timestamp) -> String {
        let mut event = Map::new();
        event.insert("kind".to_owned(), json!("Event"));
        event.insert("apiVersion".to_owned(), json!("audit.k8s.io/v1"));
        event.insert("level".to_owned(), json!(level.name()));
        event.insert("stage".to_owned(), json!(stage.name()));
        event.extend(self.fixed.clone());
        if let Some(reference) = &self.reference {
            event.insert("objectRef".to_owned(), Value::Object(reference.clone()));
        }
        if stage != Stage::RequestReceived {
            let parts = [("responseStatus", &self.status), ("requestObject", &self.request), ("responseObject", &self.response)];
            for (key, part) in parts {
                if let Some(part) = part {
                    event.insert(key.to_owned(), part.clone());
                }
            }
            if !self.annotations.is_empty() {
                event.insert("annotations".to_owned(), Value::Object(self.annotations.clone()));
            }
        }
        event.insert("stageTimestamp".to_owned(), json!(micros(now)));
        Value::Object(event).to_string()
    }
}

/// Takes managedFields out of an object, or out of all objects of a list.
pub fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(metadata) = item.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    }
}
