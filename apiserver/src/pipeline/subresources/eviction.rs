//! pods/eviction: a delete that asks the disruption budgets first.

use balsa_api::kind::{Kind, Part};
use balsa_api::meta::GroupVersionResource;
use balsa_api::status::{ApiError, ApiResult};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::admission::{Operation, Review, hooks};
use crate::pipeline::graceful::{DeleteOptions, Propagation};
use crate::pipeline::update::Write;
use crate::pipeline::{Api, Call, Target, rules};
use crate::value;

/// What a budget says to one disruption.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Yes; the budget with one disruption less.
    Allowed(Value),
    /// No, and whether its status is only not computed yet.
    Refused(ApiError),
}

/// Whether the pod can be evicted without asking: it does not count as healthy. Pure.
pub fn needs_no_budget(pod: &Value) -> bool {
    value::is_deleting(pod) || matches!(value::text(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending" | "")
}

/// Whether a budget (policy/v1) selects these labels. Pure.
pub fn selects(budget: &Value, pod: &Value) -> bool {
    let selector: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector> =
        budget.pointer("/spec/selector").and_then(|selector| serde_json::from_value(selector.clone()).ok());
    let labels = pod.pointer("/metadata/labels").and_then(|labels| serde_json::from_value(labels.clone()).ok());
    balsa_api::selector::matches_label_selector(selector.as_ref(), labels.as_ref())
}

/// How often an eviction is tried again while others write the pod.
const ATTEMPTS: usize = 20;
/// Evictions that a budget's controller has not confirmed yet, at most.
const MAX_DISRUPTED: usize = 2000;

/// What must still hold when an evicted pod is deleted.
#[derive(Debug, PartialEq)]
enum Guard {
    /// Nothing.
    None,
    /// The pod is as it was: not healthy. With the name of the budget that lets it go for that.
    Unhealthy(String),
}

/// Whether the pod has ended or is ending. Pure.
fn is_over(pod: &Value) -> bool {
    value::is_deleting(pod) || matches!(value::text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether the budget lets the pod go without counting it: it is not healthy, and either the budget says that such pods
/// may always go, or what the budget guards is not disrupted now. Pure.
fn spares_unhealthy(budget: &Value, pod: &Value) -> bool {
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let (current, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    !is_ready(pod)
        && (value::text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow" || (current >= desired && desired > 0))
}

fn violates(retry: u32, cause: String) -> ApiError {
    ApiError::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", retry)
        .with_cause("DisruptionBudget", cause, "")
}

fn still_processed(budget: &str) -> ApiError {
    violates(10, format!("The disruption budget {budget} is still being processed by the server."))
}

/// Why the budget allows nothing, as it says itself. Pure.
fn nothing_left(budget: &Value) -> String {
    let name = value::name(budget);
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let conditions = budget.pointer("/status/conditions").and_then(Value::as_array);
    let condition = conditions.into_iter().flatten().find(|condition| condition["type"] == "DisruptionAllowed");
    let said = condition.filter(|condition| condition["status"] == "False").map(|condition| (value::text(condition, "/reason"), value::text(condition, "/message")));
    let said = said.filter(|(_, message)| !message.is_empty());
    let (desired, current) = (number("/status/desiredHealthy"), number("/status/currentHealthy"));
    match said {
        Some(("SyncFailed", message)) => {
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}")
        }
        _ if current <= desired => format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently"),
        Some((reason, message)) => format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// Asks one budget. Pure.
pub fn ask(budget: &Value, pod: &str, now: Timestamp) -> Answer {
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let name = value::name(budget);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Answer::Refused(still_processed(name));
    }
    let allowed = number("/status/disruptionsAllowed");
    let noted = budget.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    if noted > MAX_DISRUPTED {
        let about = GroupVersionResource::new("policy", "v1", "poddisruptionbudgets");
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Answer::Refused(ApiError::forbidden(&about, name, why));
    }
    if allowed <= 0 {
        return Answer::Refused(violates(0, nothing_left(budget)));
    }
    let mut budget = budget.clone();
    let status = value::member(&mut budget, "status");
    status.insert("disruptionsAllowed".to_owned(), json!(allowed - 1));
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Some(disrupted) = disrupted.as_object_mut() {
        disrupted.insert(pod.to_owned(), json!(value::timestamp(now)));
    }
    Answer::Allowed(budget)
}

impl Api {
    /// Evicts a pod, or says why not.
    pub async fn evict(&self, call: &Call, target: Target<'_>, eviction: &Value) -> ApiResult<()> {
        let review = Review { call, target, operation: Operation::Create, subresource: "eviction", old: None };
        let eviction = hooks::post(self, &review, eviction.clone()).await?;
        let options = delete_options(eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
        let dry_run = call.dry_run || options.dry_run;
        for _ in 0..ATTEMPTS {
            let pod = self.fetch(target).await?.ok_or_else(|| target.not_found())?.value;
            options.preconditions.check(target, &pod)?;
            let guard = if needs_no_budget(&pod) {
                if is_over(&pod) { Guard::None } else { Guard::Unhealthy(String::new()) }
            } else {
                self.ask_budgets(call, target, &pod, dry_run).await?
            };
            if dry_run {
                return Ok(());
            }
            match (self.mark_and_delete(call, target, &pod, &options, &guard).await, &guard) {
                (Err(error), Guard::Unhealthy(budget)) if error.is_conflict() && options.preconditions.version.is_none() => {
                    // It may have become healthy since.
                    if !budget.is_empty() {
                        return Err(still_processed(budget));
                    }
                }
                (done, _) => return done,
            }
        }
        Err(ApiError::modified(&target.kind.gvr(), target.name))
    }

    async fn mark_and_delete(
        &self,
        call: &Call,
        target: Target<'_>,
        pod: &Value,
        options: &DeleteOptions,
        guard: &Guard,
    ) -> ApiResult<()> {
        let mut wanted = options.preconditions.clone();
        if matches!(guard, Guard::Unhealthy(_)) && wanted.version.is_none() {
            wanted.version = Some(value::revision(pod).to_string());
        }
        let marked = |pod: &Value| {
            wanted.check(target, pod)?;
            let mut pod = pod.clone();
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastProbeTime": null});
            value::set_condition(&mut pod, condition, call.now);
            Ok(pod)
        };
        self.modify(call, Write { target, part: Part::Status, by_rules: false }, &marked).await?;
        let preconditions =
            rules::Preconditions { uid: Some(value::uid(pod).to_owned()), version: None };
        let options = DeleteOptions { preconditions, ..options.clone() };
        self.delete(call, target, &options).await?;
        Ok(())
    }

    async fn ask_budgets(&self, call: &Call, target: Target<'_>, pod: &Value, dry_run: bool) -> ApiResult<Guard> {
        let Some(kind) = balsa_api::kinds::find("policy", "v1", "poddisruptionbudgets") else { return Ok(Guard::None) };
        let budgets: Vec<Value> = self.cache(kind)?.list(target.namespace).iter().map(|object| object.value()).collect();
        let matching: Vec<&Value> = budgets.iter().filter(|budget| selects(budget, pod)).collect();
        let budget = match matching.as_slice() {
            [] => return Ok(Guard::None),
            [one] if spares_unhealthy(one, pod) => return Ok(Guard::Unhealthy(value::name(one).to_owned())),
            [one] => value::name(one).to_owned(),
            _ => {
                return Err(ApiError::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        self.take_disruption(call, kind, target, &budget, dry_run).await?;
        Ok(Guard::None)
    }

    async fn take_disruption(
        &self,
        call: &Call,
        kind: &dyn Kind,
        target: Target<'_>,
        budget: &str,
        dry_run: bool,
    ) -> ApiResult<()> {
        let budget = Target { kind, namespace: target.namespace, name: budget };
        let take = |budget: &Value| match ask(budget, target.name, call.now) {
            Answer::Allowed(budget) => Ok(budget),
            Answer::Refused(error) => Err(error),
        };
        if dry_run {
            let found = self.fetch(budget).await?;
            return found.map_or(Ok(()), |found| take(&found.value).map(drop));
        }
        let write = Write { target: budget, part: Part::Status, by_rules: false };
        self.modify(call, write, &take).await.map(drop)
    }
}

/// Reads DeleteOptions from JSON. Pure.
pub fn delete_options(options: &Value) -> ApiResult<DeleteOptions> {
    let bad = |what: &str| ApiError::bad_request(format!("DeleteOptions: {what}"));
    let propagation = match options.get("propagationPolicy") {
        None | Some(Value::Null) => None,
        Some(text) => Some(
            Propagation::parse(text.as_str().unwrap_or_default())
                .ok_or_else(|| bad(&format!("propagationPolicy: Unsupported value: {text}")))?,
        ),
    };
    let orphan = match options.get("orphanDependents").and_then(Value::as_bool) {
        Some(true) => Some(Propagation::Orphan),
        Some(false) => Some(Propagation::Background),
        None => None,
    };
    let grace_period_seconds = match options.get("gracePeriodSeconds") {
        None | Some(Value::Null) => None,
        Some(number) => Some(number.as_i64().ok_or_else(|| bad("gracePeriodSeconds is not a number"))?),
    };
    let text = |pointer: &str| options.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Ok(DeleteOptions {
        grace_period_seconds,
        propagation: propagation.or(orphan),
        preconditions: rules::Preconditions {
            uid: text("/preconditions/uid"),
            version: text("/preconditions/resourceVersion"),
        },
        dry_run: value::strings(options, "/dryRun").iter().any(|word| word == "All"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_what_it_has() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let budget = |allowed: i64, observed: i64| {
            json!({"metadata": {"name": "b", "generation": 1}, "status": {"observedGeneration": observed,
                "disruptionsAllowed": allowed, "desiredHealthy": 3, "currentHealthy": 3}})
        };
        let Answer::Allowed(left) = ask(&budget(1, 1), "p", now) else { panic!("one is allowed") };
        assert_eq!(left["status"]["disruptionsAllowed"], 0);
        let Answer::Refused(error) = ask(&left, "q", now) else { panic!("none is left") };
        assert_eq!(error.code, 429);
        assert_eq!(
            error.details.causes[0].message,
            "The disruption budget b needs 3 healthy pods and has 3 currently"
        );
        assert!(!spares_unhealthy(&left, &json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})));
        assert!(spares_unhealthy(&left, &json!({})), "three of three are healthy without it");
        let Answer::Refused(error) = ask(&budget(1, 0), "p", now) else { panic!("not computed yet") };
        assert_eq!(error.details.retry_after_seconds, 10);
    }
}
