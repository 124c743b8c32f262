//! ResourceQuotas: how much of what a namespace may hold. Counting what there is is the quota controller's work; here a
//! creation is checked against, and added to, the last count.

use balsa_api::kind::Part;
use balsa_api::quantity::Quantity;
use balsa_api::quota::{self, Amounts};
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use super::Review;
use crate::pipeline::update::Write;
use crate::pipeline::{Api, Target};
use crate::value;

/// Charges every quota of the namespace that covers the object.
pub async fn admit(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let target = review.target;
    let resized = review.old.filter(|_| super::pod_resize::is_resize(review));
    if !target.kind.namespaced() || (!review.subresource.is_empty() && resized.is_none()) {
        return Ok(());
    }
    let Some(kind) = balsa_api::kinds::find("", "v1", "resourcequotas") else { return Ok(()) };
    let quotas = api.cache(kind)?.list(target.namespace);
    if quotas.is_empty() {
        return Ok(());
    }
    let names = target.kind.names();
    let usage = match resized {
        Some(old) => growth(&quota::pod_usage(object), &quota::pod_usage(old)),
        None => quota::usage(names.group, names.plural, object, review.call.now),
    };
    if resized.is_some() && usage.len() == 1 {
        return Ok(());
    }
    for quota in quotas {
        let refuse = |detail: String| ApiError::forbidden(&target.kind.gvr(), target.name, &detail);
        match charge(&quota.value(), object, &usage).map_err(refuse)? {
            None => {}
            Some(_) if review.call.dry_run => {}
            Some(_) => {
                let quota_target = Target { kind, namespace: target.namespace, name: &quota.name };
                let write = Write { target: quota_target, part: Part::Status, by_rules: false };
                let change = |quota: &Value| match charge(quota, object, &usage).map_err(refuse)? {
                    Some(charged) => Ok(charged),
                    None => Ok(quota.clone()),
                };
                // Boxed: this write goes through the very pipeline that asks here.
                Box::pin(api.modify(review.call, write, &change)).await?;
            }
        }
    }
    Ok(())
}

/// What a resized pod costs more than before; what it gives back is counted later. No further pod comes with it. Pure.
fn growth(new: &Amounts, old: &Amounts) -> Amounts {
    let mut grown = Amounts::from([("pods".to_owned(), Quantity::ZERO)]);
    for (key, amount) in new {
        let more = amount.minus(old.get(key).unwrap_or(&Quantity::ZERO));
        if !more.is_negative() && !more.is_zero() {
            grown.insert(key.clone(), more);
        }
    }
    grown
}

fn amounts(container: &Value, part: &str) -> Amounts {
    let map = container.pointer(&format!("/resources/{part}")).and_then(Value::as_object);
    let text = |amount: &Value| amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
    map.into_iter().flatten().map(|(key, amount)| (key.clone(), Quantity::lenient(&text(amount)))).collect()
}

/// The quota with the object added; `None`: it is not about the object. Pure.
fn charge(quota: &Value, object: &Value, usage: &Amounts) -> Result<Option<Value>, String> {
    if quota::is_scoped(quota) && (!usage.contains_key("pods") || !quota::in_scope(quota, object)) {
        return Ok(None);
    }
    let name = value::name(quota);
    let Some(hard) = quota.pointer("/spec/hard").and_then(Value::as_object) else { return Ok(None) };
    let is_pod = usage.contains_key("pods");
    require(name, hard, object, is_pod)?;
    let relevant: Vec<(&String, &Quantity)> = usage.iter().filter(|(key, _)| hard.contains_key(*key)).collect();
    if relevant.is_empty() {
        return Ok(None);
    }
    let Some(counted) = quota.pointer("/status/hard").and_then(Value::as_object) else {
        return Err(format!("status unknown for quota: {name}, resources: {}", join(relevant.iter().map(|(key, _)| (*key).clone()))));
    };
    let used = quota.pointer("/status/used").cloned().unwrap_or_else(|| json!({}));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("0").to_owned();
    let mut over = Vec::new();
    let mut charged = quota.clone();
    for (key, amount) in relevant {
        let limit = text(counted.get(key).or_else(|| hard.get(key)));
        let before = text(used.get(key));
        let after = Quantity::lenient(&before).plus(amount);
        if after.nanos() > Quantity::lenient(&limit).nanos() && !amount.is_zero() {
            over.push((key.clone(), amount.to_string(), before, limit));
            continue;
        }
        let status = value::member(&mut charged, "status");
        let used = status.entry("used").or_insert_with(|| json!({}));
        used[key.as_str()] = json!(after.to_string());
    }
    if over.is_empty() {
        return Ok(Some(charged));
    }
    let list = |pick: fn(&(String, String, String, String)) -> &String| {
        join(over.iter().map(|entry| format!("{}={}", entry.0, pick(entry))))
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        list(|entry| &entry.1), list(|entry| &entry.2), list(|entry| &entry.3)
    ))
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

/// A quota on compute makes every container say what it needs.
fn require(name: &str, hard: &serde_json::Map<String, Value>, object: &Value, is_pod: bool) -> Result<(), String> {
    if !is_pod {
        return Ok(());
    }
    let mut missing = Vec::new();
    for key in hard.keys() {
        let (part, resource) = match key.as_str() {
            "cpu" | "memory" => ("requests", key.as_str()),
            other => match other.split_once('.') {
                Some((part @ ("requests" | "limits"), resource @ ("cpu" | "memory"))) => (part, resource),
                _ => continue,
            },
        };
        let containers = object.pointer("/spec/containers").and_then(Value::as_array);
        let without: Vec<String> = containers
            .into_iter()
            .flatten()
            .filter(|container| !amounts(container, part).contains_key(resource))
            .map(|container| value::text(container, "/name").to_owned())
            .collect();
        if !without.is_empty() {
            missing.push(format!("{key} for: {}", without.join(",")));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("failed quota: {name}: must specify {}", missing.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q1"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    #[test]
    fn a_full_quota_refuses_with_numbers() {
        let usage = Amounts::from([("pods".to_owned(), Quantity::lenient("1"))]);
        let pod = json!({"spec": {"containers": []}});
        let charged = charge(&quota(json!({"pods": "5"}), json!({"pods": "4"})), &pod, &usage).unwrap().unwrap();
        assert_eq!(charged["status"]["used"]["pods"], "5");
        assert_eq!(
            charge(&charged, &pod, &usage).unwrap_err(),
            "exceeded quota: q1, requested: pods=1, used: pods=5, limited: pods=5"
        );
    }

    #[test]
    fn a_quota_on_compute_wants_requests() {
        let usage = Amounts::from([("pods".to_owned(), Quantity::lenient("1"))]);
        let pod = json!({"spec": {"containers": [{"name": "c"}]}});
        assert_eq!(
            charge(&quota(json!({"requests.cpu": "1"}), json!({})), &pod, &usage).unwrap_err(),
            "failed quota: q1: must specify requests.cpu for: c"
        );
    }
}
