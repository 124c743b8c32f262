//! Admission webhooks: mutating ones one after the other, validating ones all at once.

pub mod client;
pub mod review;

use std::time::Duration;

use balsa_api::kind::Kind;
use balsa_api::kinds::admission::expressions::{Purpose, Scope, compile, environment};
use balsa_api::patch;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::conditions::{Expression, all_hold};
use super::matching::{Criteria, Hit};
use super::request::Asked;
use super::rounds::Rounds;
use super::{Around, variables};
use crate::admission::Review;
use crate::pipeline::Api;
use crate::value;
use client::Client;

/// One webhook of a configuration.
#[derive(Debug, Clone)]
pub struct Webhook {
    name: String,
    /// Configuration and place within it: what it is known by from round to round.
    key: String,
    criteria: Criteria,
    conditions: Vec<Expression>,
    /// Failures to reach it do not count.
    ignore: bool,
    timeout: Duration,
    dry_runs: bool,
    versions: Vec<String>,
    client: Client,
    /// It may be asked again after others changed the object.
    again: bool,
}

/// Why a webhook gave no answer that counts.
enum Failed {
    /// It could not be asked, or answered nonsense.
    Call(String),
    /// It refuses, or the request cannot be put to it.
    Refused(ApiError),
}

impl Webhook {
    /// The webhooks of a configuration.
    pub fn all_of(configuration: &Value) -> Vec<Self> {
        let hooks = configuration.pointer("/webhooks").and_then(Value::as_array);
        let of = value::name(configuration);
        hooks.into_iter().flatten().enumerate().map(|(at, hook)| Self::parse(&format!("{of}/{at}"), hook)).collect()
    }

    fn parse(key: &str, hook: &Value) -> Self {
        let scope = environment(Scope { params: false, authorizer: true, patches: false });
        let conditions = hook.get("matchConditions").and_then(Value::as_array).into_iter().flatten();
        let expression = |condition: &Value| {
            let text = value::text(condition, "/expression").trim().to_owned();
            Expression { program: compile(&text, &scope, Purpose::Condition), text }
        };
        Self {
            name: value::text(hook, "/name").to_owned(),
            key: format!("{key}/{}", value::text(hook, "/name")),
            criteria: Criteria::of_webhook(hook),
            conditions: conditions.map(expression).collect(),
            ignore: value::text(hook, "/failurePolicy") == "Ignore",
            timeout: Duration::from_secs(hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10)),
            dry_runs: matches!(value::text(hook, "/sideEffects"), "None" | "NoneOnDryRun"),
            versions: value::strings(hook, "/admissionReviewVersions"),
            client: Client::parse(hook.get("clientConfig").unwrap_or(&Value::Null)),
            again: value::text(hook, "/reinvocationPolicy") == "IfNeeded",
        }
    }

    /// Whether this request is for it, and as what.
    fn wants(&self, api: &Api, asked: &Asked<'_>, around: &Around) -> ApiResult<Option<Hit>> {
        let Some(hit) = self.criteria.hit(asked, &around.labels, &around.equivalents)? else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(hit));
        }
        let bindings = variables::bindings(api, asked, &hit, None);
        let holds = all_hold(&self.conditions, &bindings, self.ignore);
        let holds = holds.map_err(|error| ApiError::forbidden(&asked.resource, &asked.shown_name(), &error))?;
        Ok(holds.then_some(hit))
    }

    async fn ask(&self, api: &Api, asked: &Asked<'_>, hit: &Hit, mutating: bool) -> Result<review::Answer, Failed> {
        if asked.dry_run && !self.dry_runs {
            let text = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(Failed::Refused(ApiError::bad_request(text)));
        }
        let Some(version) = review::version(&self.versions) else {
            let text = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(Failed::Call(text.to_owned()));
        };
        let uid = balsa_api::names::new_uid();
        let question = review::question(version, &uid, asked, hit);
        let dial = api.hooks.dial();
        let answer = self.client.post(dial.as_deref(), &question, self.timeout).await.map_err(Failed::Call)?;
        let answer = review::answer(version, &uid, mutating, &answer)
            .map_err(|error| Failed::Call(format!("received invalid webhook response: {error}")))?;
        answer.warnings.iter().for_each(|text| asked.call.warn(text.clone()));
        for (key, text) in &answer.annotations {
            asked.call.annotate(format!("{}/{key}", self.name), text.clone());
        }
        if !answer.allowed {
            return Err(Failed::Refused(review::refusal(&self.name, answer.result.as_ref())));
        }
        Ok(answer)
    }

    /// What a failure means: nothing, or an error for the caller.
    fn settle(&self, asked: &Asked<'_>, key: String, failed: Failed) -> ApiResult<()> {
        match failed {
            Failed::Refused(error) => Err(error),
            Failed::Call(reason) => {
                let text = format!("failed calling webhook {:?}: {reason}", self.name);
                tracing::warn!(webhook = self.name, reason, ignored = self.ignore, "calling a webhook failed");
                if self.ignore {
                    asked.call.annotate(key, self.name.clone());
                    return Ok(());
                }
                Err(ApiError::internal(text))
            }
        }
    }
}

/// Asks the mutating webhooks; the object becomes what they make of it.
pub async fn mutate(
    api: &Api,
    hooks: &[Webhook],
    review: &Review<'_>,
    asked: &mut Asked<'_>,
    around: &Around,
    rounds: &mut Rounds,
) -> ApiResult<()> {
    rounds.webhooks.begin(rounds.second, asked.object.as_ref());
    let round = usize::from(rounds.second);
    for (at, hook) in hooks.iter().enumerate() {
        let Some(hit) = hook.wants(api, asked, around)? else { continue };
        if rounds.second && !rounds.webhooks.is_due(&hook.key) {
            continue;
        }
        let shown = super::convert(api, asked, &hit).await?;
        let changed = match hook.ask(api, &shown, &hit, true).await {
            Ok(answer) => patched(api, review, asked, &shown, &hook.name, &answer.patch).await,
            Err(failed) => Err(failed),
        };
        let changed = match changed {
            Ok(changed) => changed,
            Err(failed) => {
                let key = format!("failed-open.mutating.webhook.admission.k8s.io/round_{round}_index_{at}");
                hook.settle(asked, key, failed)?;
                false
            }
        };
        rounds.note_webhook(changed, hook.again.then_some(hook.key.as_str()));
    }
    rounds.webhooks.end(asked.object.as_ref());
    Ok(())
}

/// Applies a webhook's patch. Whether the object is another now.
async fn patched(
    api: &Api,
    review: &Review<'_>,
    asked: &mut Asked<'_>,
    shown: &Asked<'_>,
    hook: &str,
    patch: &[u8],
) -> Result<bool, Failed> {
    if patch.is_empty() {
        return Ok(false);
    }
    let patch: Value = serde_json::from_slice(patch)
        .map_err(|error| Failed::Call(format!("received undecodable patch in webhook response: {error}")))?;
    if patch.as_array().is_some_and(Vec::is_empty) {
        return Ok(false);
    }
    let Some(object) = &shown.object else {
        let text = format!(
            "admission webhook {hook:?} attempted to modify the object, which is not supported for this operation"
        );
        return Err(Failed::Refused(ApiError::internal(text)));
    };
    let why = |error: ApiError| {
        let cause = error.details.causes.first().map_or(error.message.clone(), |cause| cause.message.clone());
        Failed::Refused(ApiError::internal(cause))
    };
    let new = patch::json(object, &patch).map_err(why)?;
    let new = super::convert_back(api, new, shown, asked).await.map_err(Failed::Refused)?;
    let new = normal(review.target.kind, asked, new).map_err(Failed::Refused)?;
    let changed = asked.object.as_ref() != Some(&new);
    asked.object = Some(new);
    Ok(changed)
}

/// A changed object in its kind's form: known fields of the right types, defaults filled in, the same identity.
pub(super) fn normal(kind: &dyn Kind, asked: &Asked<'_>, mut new: Value) -> ApiResult<Value> {
    // What a subresource exchanges is of another type and has no defaults here.
    if asked.kind != kind.gvk() {
        return Ok(new);
    }
    kind.check(&mut new).map_err(|mismatch| ApiError::internal(mismatch.0))?;
    kind.default(&mut new);
    if let Some(before) = &asked.object {
        for key in ["name", "namespace", "uid"] {
            value::keep(&mut new, before, key);
        }
    }
    Ok(new)
}

/// Asks all validating webhooks that want the request.
pub async fn validate(api: &Api, hooks: &[Webhook], asked: &Asked<'_>, around: &Around) -> ApiResult<()> {
    let mut wanting = Vec::new();
    for hook in hooks {
        if let Some(hit) = hook.wants(api, asked, around)? {
            wanting.push((hook, hit));
        }
    }
    let calls = wanting.iter().enumerate().map(|(at, (hook, hit))| async move {
        let shown = super::convert(api, asked, hit).await?;
        match hook.ask(api, &shown, hit, false).await {
            Ok(_) => Ok(()),
            Err(failed) => {
                let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{at}");
                hook.settle(asked, key, failed)
            }
        }
    });
    futures::future::join_all(calls).await.into_iter().collect()
}
