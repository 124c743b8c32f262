//! Counts what a quota is about and decides whether its status should say something else.

use std::collections::BTreeMap;

use balsa_api::quantity::{Format, Quantity};
use balsa_api::quota::{Amounts, counted_kind, in_scope, is_of_pods, is_scoped, usage};
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::common::Plan;

/// A kind by (group, plural); empty for the core group.
pub type Kind = (String, String);

/// What there is in the quota's namespace.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Objects of each kind that the quota is about and that can be counted. A kind that is not here is not known.
    pub objects: BTreeMap<Kind, Vec<Value>>,
    /// When the objects were looked at.
    pub now: Timestamp,
}

fn pods() -> Kind {
    (String::new(), "pods".to_owned())
}

/// The kinds that a quota is about.
pub fn kinds(quota: &ResourceQuota) -> Vec<Kind> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let of = |name: &String| match counted_kind(name) {
        Some((group, plural)) => Some((group.to_owned(), plural.to_owned())),
        None => is_of_pods(name).then(pods),
    };
    let mut kinds: Vec<Kind> = hard.into_iter().flatten().filter_map(|(name, _)| of(name)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// The decision: the status that the quota should have, where it has another.
pub fn plan(quota: &ResourceQuota, observed: &Observed) -> Plan<(), ResourceQuotaStatus> {
    let mut plan = Plan::default();
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let used = count(quota, observed);
    let present = quota.status.clone().unwrap_or_default();
    let same = |a: &BTreeMap<String, ApiQuantity>, b: &BTreeMap<String, ApiQuantity>| {
        a.len() == b.len() && a.iter().all(|(name, amount)| b.get(name).is_some_and(|other| equal(amount, other)))
    };
    let right = present.hard.as_ref().is_some_and(|own| same(own, &hard)) && present.used.as_ref().is_some_and(|own| same(own, &used));
    // A quota without limits is never written.
    if !right && !(hard.is_empty() && present.hard.is_none()) {
        plan.reasons.push("the count differs".to_owned());
        plan.status = Some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) });
    }
    plan
}

fn equal(one: &ApiQuantity, other: &ApiQuantity) -> bool {
    Quantity::lenient(&one.0).nanos() == Quantity::lenient(&other.0).nanos()
}

/// What of each limit is used. What cannot be counted is left out.
fn count(quota: &ResourceQuota, observed: &Observed) -> BTreeMap<String, ApiQuantity> {
    let whole = serde_json::to_value(quota).unwrap_or_default();
    let scoped = is_scoped(&whole);
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let mut sums: BTreeMap<&str, Quantity> = BTreeMap::new();
    for name in hard.into_iter().flatten().map(|(name, _)| name.as_str()) {
        let kind = counted_kind(name).map(|(group, plural)| (group.to_owned(), plural.to_owned()));
        let known = match kind {
            Some(kind) => observed.objects.contains_key(&kind),
            None => is_of_pods(name) && observed.objects.contains_key(&pods()),
        };
        // Scopes are about pods only.
        if known && (!scoped || is_of_pods(name)) {
            sums.insert(name, Quantity::from_units(0, Format::DecimalSi));
        }
    }
    for ((group, plural), objects) in &observed.objects {
        let of_pods = group.is_empty() && plural == "pods";
        for object in objects.iter().filter(|object| !scoped || (of_pods && in_scope(&whole, object))) {
            let costs: Amounts = usage(group, plural, object, observed.now);
            for (name, amount) in &costs {
                if let Some(sum) = sums.get_mut(name.as_str()) {
                    *sum = if sum.is_zero() { *amount } else { sum.plus(amount) };
                }
            }
        }
    }
    sums.into_iter().map(|(name, amount)| (name.to_owned(), ApiQuantity(amount.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(spec: Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec})).unwrap()
    }

    fn observed() -> Observed {
        let pod = |cpu: &str, phase: &str| {
            json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]}, "status": {"phase": phase}})
        };
        let idle = json!({"spec": {"containers": [{"name": "a"}]}});
        let kind = |plural: &str| (String::new(), plural.to_owned());
        Observed {
            objects: [
                (kind("pods"), vec![pod("500m", "Running"), pod("1", "Running"), pod("7", "Failed"), idle]),
                (kind("configmaps"), vec![json!({})]),
                (("apps".to_owned(), "deployments".to_owned()), vec![json!({}), json!({})]),
            ]
            .into(),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn used(spec: Value) -> String {
        let status = plan(&quota(spec), &observed()).status.unwrap();
        let shown: Vec<String> = status.used.unwrap().into_iter().map(|(name, amount)| format!("{name}={}", amount.0)).collect();
        shown.join(" ")
    }

    #[test]
    fn everything_is_counted_anew() {
        let hard = json!({"pods": "5", "count/pods": "9", "requests.cpu": "4", "memory": "8Gi", "configmaps": "3", "count/deployments.apps": "2",
            "services": "1", "nonsense": "1"});
        assert_eq!(
            used(json!({"hard": hard})),
            "configmaps=1 count/deployments.apps=2 count/pods=4 memory=2Gi pods=3 requests.cpu=1500m"
        );
        assert_eq!(used(json!({"hard": {"pods": "5", "configmaps": "1"}, "scopes": ["BestEffort"]})), "pods=1");
        assert_eq!(used(json!({"hard": {"limits.cpu": "5"}})), "limits.cpu=0");
    }

    #[test]
    fn a_status_that_is_right_is_left_alone() {
        let mut quota = quota(json!({"hard": {"pods": "5", "requests.cpu": "2"}}));
        quota.status = plan(&quota, &observed()).status;
        assert!(plan(&quota, &observed()).is_quiet());
        quota.status.as_mut().unwrap().used.as_mut().unwrap().insert("requests.cpu".to_owned(), ApiQuantity("1.5".to_owned()));
        assert!(plan(&quota, &observed()).is_quiet(), "another spelling is the same amount");
        quota.spec.as_mut().unwrap().hard.as_mut().unwrap().remove("pods");
        assert!(plan(&quota, &observed()).status.is_some());
        assert_eq!(kinds(&quota), [pods()]);
    }
}
