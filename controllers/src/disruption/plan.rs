//! Decides what a budget's status should say. Formulas and words as in Kubernetes' disruption controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use crate::common::{Note, Plan, pods, time};

/// How long an eviction may take to become a deletion before it no longer counts.
pub const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

/// What there is.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The pods that the budget selects.
    pub pods: Vec<Arc<Pod>>,
    /// What the pods' controllers want, by the controllers' UIDs. One that is missing was not found.
    pub scales: BTreeMap<String, i32>,
    /// The time.
    pub now: Timestamp,
}

/// The outcome: a status, and events about the budget.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The status, where it should change, and when to look again.
    pub plan: Plan<(), PodDisruptionBudgetStatus>,
    /// What people should know.
    pub notes: Vec<Note>,
    /// Pods that were to go and did not.
    pub not_deleted: Vec<String>,
}

struct Expected {
    pods: i32,
    healthy: i32,
    unmanaged: bool,
}

/// The decision.
pub fn plan(budget: &PodDisruptionBudget, observed: &Observed) -> Outcome {
    let mut outcome = Outcome::default();
    let before = budget.status.clone().unwrap_or_default();
    if observed.pods.is_empty() {
        outcome.notes.push(Note::normal("NoPods", "No matching pods found"));
    }
    let expected = match expected(budget, observed) {
        Ok(expected) => expected,
        Err(problem) => {
            let text = format!("Failed to calculate the number of expected pods: {problem}");
            outcome.notes.push(Note::warning("CalculateExpectedPodCountFailed", text));
            outcome.plan.reasons.push(problem.clone());
            let status = closed(&before, &problem, observed.now);
            outcome.plan.status = (status != before).then_some(status);
            return outcome;
        }
    };
    if expected.unmanaged {
        outcome.notes.push(Note::warning(
            "UnmanagedPods",
            "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB cannot be \
             calculated correctly, which may result in undefined behavior. To account for these pods please set \
             \".spec.minAvailable\" field of the PDB to an integer value.",
        ));
    }
    let disrupted = disrupted(&before, observed, &mut outcome);
    let going = |pod: &Pod| disrupted.get(pods::name(pod)).is_some_and(|at| time::after(at.0, DELETION_TIMEOUT) > observed.now);
    let healthy = observed.pods.iter().filter(|pod| !pods::is_terminating(pod) && !going(pod) && pods::is_ready(pod)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    // Without expected pods nothing is allowed: the first ones may come before this is run again.
    let allowed = if expected.pods <= 0 { 0 } else { (healthy - expected.healthy).max(0) };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions(&before, allowed, budget.metadata.generation, observed.now)),
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected.pods),
        observed_generation: budget.metadata.generation,
    };
    if status != normal(&before) {
        outcome.plan.reasons.push(format!("{healthy} of {} healthy, {} needed", expected.pods, expected.healthy));
        outcome.plan.status = Some(status);
    }
    outcome
}

/// Absent and empty are the same.
fn normal(status: &PodDisruptionBudgetStatus) -> PodDisruptionBudgetStatus {
    let mut status = status.clone();
    status.disrupted_pods = status.disrupted_pods.filter(|pods| !pods.is_empty());
    status
}

/// How many pods there should be, and how many of them healthy.
fn expected(budget: &PodDisruptionBudget, observed: &Observed) -> Result<Expected, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let count = i32::try_from(observed.pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => {
            let (total, unmanaged) = scale(observed)?;
            Ok(Expected { pods: total, healthy: (total - share(max, total)?).max(0), unmanaged })
        }
        (None, Some(IntOrString::Int(min))) => Ok(Expected { pods: count, healthy: *min, unmanaged: false }),
        (None, Some(min)) => {
            let (total, unmanaged) = scale(observed)?;
            Ok(Expected { pods: total, healthy: share(min, total)?, unmanaged })
        }
        (None, None) => Ok(Expected { pods: 0, healthy: 0, unmanaged: false }),
    }
}

/// What all controllers of the pods want together, and whether there are pods without one.
fn scale(observed: &Observed) -> Result<(i32, bool), String> {
    let mut wanted: BTreeMap<&str, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in &observed.pods {
        let Some(owner) = crate::common::owners::controller_of(&pod.metadata) else {
            unmanaged = true;
            continue;
        };
        let found = observed.scales.get(&owner.uid).ok_or_else(|| format!("found no controllers for pod {:?}", pods::name(pod)))?;
        wanted.insert(&owner.uid, *found);
    }
    Ok((wanted.values().fold(0, |sum, one| sum.saturating_add(*one)), unmanaged))
}

/// A number, or a part of `total`, rounded up.
fn share(value: &IntOrString, total: i32) -> Result<i32, String> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| format!("invalid value for IntOrString: invalid type: string is not a percentage: {text:?}"))?;
            let whole = i64::from(total).saturating_mul(percent);
            Ok(i32::try_from(whole.saturating_add(99).div_euclid(100)).unwrap_or(i32::MAX))
        }
    }
}

/// The evictions that have not become deletions yet.
fn disrupted(before: &PodDisruptionBudgetStatus, observed: &Observed, outcome: &mut Outcome) -> BTreeMap<String, Time> {
    let noted = before.disrupted_pods.clone().unwrap_or_default();
    let mut still = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let Some(at) = noted.get(pods::name(pod)) else { continue };
        let due = time::after(at.0, DELETION_TIMEOUT);
        if due < observed.now {
            outcome.not_deleted.push(pods::name(pod).to_owned());
        } else {
            outcome.plan.requeue_within(time::since(observed.now, due) + Duration::from_millis(10));
            still.insert(pods::name(pod).to_owned(), at.clone());
        }
    }
    still
}

fn set(conditions: &mut Vec<Condition>, wanted: Condition) {
    match conditions.iter_mut().find(|condition| condition.type_ == wanted.type_) {
        Some(present) => {
            let since = if present.status == wanted.status { present.last_transition_time.clone() } else { wanted.last_transition_time.clone() };
            *present = Condition { last_transition_time: since, ..wanted };
        }
        None => conditions.push(wanted),
    }
}

fn condition(allowed: bool, reason: &str, message: &str, generation: Option<i64>, now: Timestamp) -> Condition {
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: if allowed { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: Time(time::whole(now)),
    }
}

fn conditions(before: &PodDisruptionBudgetStatus, allowed: i32, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    set(&mut conditions, condition(allowed > 0, reason, "", generation, now));
    conditions
}

/// Nothing is allowed where it cannot be counted.
fn closed(before: &PodDisruptionBudgetStatus, problem: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = before.clone();
    status.disruptions_allowed = Some(0);
    let conditions = status.conditions.get_or_insert_default();
    set(conditions, condition(false, "SyncFailed", problem, before.observed_generation, now));
    for number in [&mut status.current_healthy, &mut status.desired_healthy, &mut status.expected_pods] {
        number.get_or_insert(0);
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{at, pod};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "namespace": "default", "generation": 2}, "spec": spec, "status": status})).unwrap()
    }

    fn observed(ready: usize, unready: usize) -> Observed {
        let name = |number: usize| format!("p{number}");
        let ready_pods = (0..ready).map(|number| pod(&name(number)).ready_since(0).owned_by("rs").arc());
        let other = (ready..ready + unready).map(|number| pod(&name(number)).owned_by("rs").arc());
        Observed { pods: ready_pods.chain(other).collect(), scales: [("rs".to_owned(), 10)].into(), now: at(100) }
    }

    fn numbers(spec: Value, observed: &Observed) -> (i32, i32, i32, i32) {
        let status = plan(&budget(spec, Value::Null), observed).plan.status.unwrap();
        (
            status.expected_pods.unwrap(),
            status.desired_healthy.unwrap(),
            status.current_healthy.unwrap(),
            status.disruptions_allowed.unwrap(),
        )
    }

    #[test]
    fn how_many_may_go() {
        assert_eq!(numbers(json!({"minAvailable": 3}), &observed(5, 1)), (6, 3, 5, 2));
        assert_eq!(numbers(json!({"minAvailable": "55%"}), &observed(9, 1)), (10, 6, 9, 3));
        assert_eq!(numbers(json!({"maxUnavailable": 1}), &observed(10, 0)), (10, 9, 10, 1));
        assert_eq!(numbers(json!({"maxUnavailable": "25%"}), &observed(8, 2)), (10, 7, 8, 1));
        assert_eq!(numbers(json!({"minAvailable": 0}), &observed(0, 0)), (0, 0, 0, 0));
        assert_eq!(numbers(json!({"maxUnavailable": 20}), &observed(1, 0)), (10, 0, 1, 1));
    }

    #[test]
    fn what_cannot_be_counted_is_closed() {
        let mut world = observed(3, 0);
        world.scales.clear();
        let outcome = plan(&budget(json!({"maxUnavailable": 1}), json!({"disruptionsAllowed": 3})), &world);
        let status = outcome.plan.status.unwrap();
        assert_eq!(status.disruptions_allowed, Some(0));
        assert_eq!(status.conditions.unwrap()[0].reason, "SyncFailed");
        assert!(outcome.notes[0].message.contains("found no controllers for pod \"p0\""), "{:?}", outcome.notes);
        let closed = budget(json!({"maxUnavailable": 1}), serde_json::to_value(plan(&budget(json!({"maxUnavailable": 1}), Value::Null), &world).plan.status).unwrap());
        assert!(plan(&closed, &world).plan.is_quiet());
    }

    #[test]
    fn evictions_on_their_way_count_as_gone() {
        let noted = |seconds: i64| json!({"disruptedPods": {"p0": at(seconds).to_string(), "gone": at(seconds).to_string()}, "disruptionsAllowed": 1});
        let world = observed(5, 0);
        let outcome = plan(&budget(json!({"minAvailable": 3}), noted(90)), &world);
        let status = outcome.plan.status.clone().unwrap();
        assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(4), Some(1)));
        assert_eq!(status.disrupted_pods.as_ref().unwrap().len(), 1);
        assert!(outcome.plan.requeue_after.is_some_and(|after| after > Duration::from_secs(100)));
        assert_eq!(status.observed_generation, Some(2));
        let settled = budget(json!({"minAvailable": 3}), serde_json::to_value(&status).unwrap());
        assert!(plan(&settled, &world).plan.is_quiet(), "the same status is not written again");
        let late = Observed { now: at(500), ..world };
        let outcome = plan(&settled, &late);
        assert_eq!(outcome.not_deleted, ["p0"]);
        assert_eq!(outcome.plan.status.unwrap().disruptions_allowed, Some(2));
    }
}
