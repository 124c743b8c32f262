//! Conversion between versions of a custom resource: by name only, or by a webhook that speaks ConversionReview.

use std::sync::{OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use balsa_api::apiextensions::CustomKind;
use balsa_api::apiextensions::kind::Webhook;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use crate::admission::hooks::webhook::client::{Client, Dial};
use crate::value;

/// How long a webhook may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Sends a request to a webhook, wherever it is.
#[async_trait]
pub trait Reach: Send + Sync {
    /// POSTs a JSON body to what a `clientConfig` names; the answer's body. The error is a sentence about it.
    async fn post(&self, client_config: &Value, body: Value, deadline: Duration) -> Result<Value, String>;
}

/// Calls webhooks as admission does, Services through this way into the cluster.
pub struct Posts(pub Weak<dyn Dial>);

#[async_trait]
impl Reach for Posts {
    async fn post(&self, client_config: &Value, body: Value, deadline: Duration) -> Result<Value, String> {
        let dial = self.0.upgrade();
        let posted = Client::parse(client_config).post(dial.as_deref(), &body, deadline).await;
        posted.map_err(|error| error.trim_start_matches("failed to call webhook: ").to_owned())
    }
}

/// Converts objects.
#[derive(Default)]
pub struct Converter {
    reach: OnceLock<Box<dyn Reach>>,
}

impl Converter {
    /// Says how webhooks are reached. The first word counts.
    pub fn reach_by(&self, reach: Box<dyn Reach>) {
        self.reach.set(reach).ok();
    }

    /// Brings objects into the version `to` (an `apiVersion`). Their order and number stay.
    pub async fn convert(&self, kind: &CustomKind, mut objects: Vec<Value>, to: &str) -> ApiResult<Vec<Value>> {
        let differs = |object: &Value| value::text(object, "/apiVersion") != to;
        if !objects.iter().any(differs) {
            return Ok(objects);
        }
        let Some(webhook) = &kind.shared.webhook else {
            objects.iter_mut().filter_map(Value::as_object_mut).for_each(|object| {
                object.insert("apiVersion".to_owned(), to.into());
            });
            return Ok(objects);
        };
        let places: Vec<usize> = (0..objects.len()).filter(|index| differs(&objects[*index])).collect();
        let sent: Vec<Value> = places.iter().map(|index| objects[*index].clone()).collect();
        let failed = |problem: String| {
            let first = sent.first().map(|object| value::text(object, "/apiVersion")).unwrap_or_default();
            let kind = sent.first().map(|object| value::text(object, "/kind")).unwrap_or_default();
            ApiError::internal(format!("conversion webhook for {first}, Kind={kind} failed: {problem}"))
        };
        let converted = self.call(webhook, &sent, to).await.map_err(&failed)?;
        for ((index, before), after) in places.iter().zip(&sent).zip(converted) {
            objects[*index] = accept(before, after, to).map_err(&failed)?;
        }
        Ok(objects)
    }

    async fn call(&self, webhook: &Webhook, objects: &[Value], to: &str) -> Result<Vec<Value>, String> {
        let reach = self.reach.get().ok_or("this server is not ready to call webhooks")?;
        let known = webhook.review_versions.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
        let version = known.ok_or("the webhook understands no version of ConversionReview that this server does")?;
        let uid = balsa_api::names::new_uid();
        let review = json!({"apiVersion": format!("apiextensions.k8s.io/{version}"), "kind": "ConversionReview",
            "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects}});
        let answer = reach.post(&webhook.config, review, DEADLINE).await?;
        read(&answer, version, &uid, objects.len())
    }
}

/// The converted objects of an answer. Pure.
fn read(answer: &Value, version: &str, uid: &str, count: usize) -> Result<Vec<Value>, String> {
    let (api_version, kind) = (value::text(answer, "/apiVersion"), value::text(answer, "/kind"));
    if api_version != format!("apiextensions.k8s.io/{version}") || kind != "ConversionReview" {
        return Err(format!("expected webhook response of apiextensions.k8s.io/{version}, Kind=ConversionReview, got {api_version}, Kind={kind}"));
    }
    let response = answer.get("response").filter(|response| response.is_object()).ok_or("no response provided")?;
    if value::text(response, "/uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", value::text(response, "/uid")));
    }
    if value::text(response, "/result/status") != "Success" {
        let message = value::text(response, "/result/message");
        return Err(if message.is_empty() { "unknown failure".to_owned() } else { message.to_owned() });
    }
    let objects = response.get("convertedObjects").and_then(Value::as_array).cloned().unwrap_or_default();
    if objects.len() != count {
        return Err(format!("webhook returned {} objects, expected {count}", objects.len()));
    }
    Ok(objects)
}

/// Takes over what a webhook may change: everything but the object's identity; of the metadata labels and annotations
/// only. Pure.
fn accept(before: &Value, mut after: Value, to: &str) -> Result<Value, String> {
    let got = value::text(&after, "/apiVersion");
    if got != to {
        return Err(format!("webhook returned {got:?} at index, expected {to:?}"));
    }
    for (what, pointer) in [("kind", "/kind"), ("name", "/metadata/name"), ("namespace", "/metadata/namespace"), ("uid", "/metadata/uid")] {
        let (old, new) = (value::text(before, pointer), value::text(&after, pointer));
        if old != new {
            return Err(format!("webhook returned invalid converted object: must have the same {what}: {new:?} != {old:?}"));
        }
    }
    let changed = ["labels", "annotations"].map(|key| (key, after.pointer("/metadata").and_then(|metadata| metadata.get(key)).cloned()));
    let mut metadata = before.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        for (key, value) in changed {
            match value {
                Some(value) => metadata.insert(key.to_owned(), value),
                None => metadata.remove(key),
            };
        }
    }
    after["metadata"] = metadata;
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_webhook_may_change() {
        let before = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "resourceVersion": "5",
            "labels": {"a": "1"}, "finalizers": ["x/y"]}, "spec": {"old": 1}});
        let after = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"b": "2"}}, "spec": {"new": 1}});
        let taken = accept(&before, after.clone(), "g/v2").unwrap();
        assert_eq!(taken, json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u", "resourceVersion": "5",
            "labels": {"b": "2"}, "finalizers": ["x/y"]}, "spec": {"new": 1}}));
        assert!(accept(&before, after.clone(), "g/v3").unwrap_err().contains("expected \"g/v3\""));
        let mut other = after;
        other["metadata"]["uid"] = json!("w");
        assert!(accept(&before, other, "g/v2").unwrap_err().contains("same uid"));
    }

    #[test]
    fn answers() {
        let answer = |response: Value| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
        let fine = answer(json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{"a": 1}]}));
        assert_eq!(read(&fine, "v1", "u", 1), Ok(vec![json!({"a": 1})]));
        let cases = [
            (read(&fine, "v1", "w", 1), "expected response.uid"),
            (read(&fine, "v1", "u", 2), "webhook returned 1 objects, expected 2"),
            (read(&fine, "v1beta1", "u", 1), "expected webhook response"),
            (read(&answer(json!({"uid": "u", "result": {"status": "Failed", "message": "no"}})), "v1", "u", 1), "no"),
            (read(&answer(Value::Null), "v1", "u", 1), "no response provided"),
        ];
        for (outcome, expected) in cases {
            assert!(outcome.as_ref().is_err_and(|text| text.contains(expected)), "{outcome:?}");
        }
    }
}
