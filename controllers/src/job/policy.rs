//! What a failed pod means for its Job (`podFailurePolicy`), and when enough indexes succeeded (`successPolicy`).

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::indexes::Indexes;
use crate::common::pods;

/// What the policy says about one failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the back-off limits. Also where no rule matches.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed, whatever its back-off limit. It counts.
    FailIndex,
    /// The whole Job has failed, with this message. It counts.
    FailJob(String),
}

/// The first matching rule decides.
pub fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    for (number, rule) in policy.into_iter().flat_map(|policy| &policy.rules).enumerate() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let what = if let Some(wanted) = &rule.on_exit_codes {
            exit(pod, wanted).map(|(container, code)| {
                format!("Container {container} for pod {namespace}/{} failed with exit code {code}", pods::name(pod))
            })
        } else {
            let condition = rule.on_pod_conditions.as_deref().and_then(|wanted| condition(pod, wanted));
            condition.map(|condition| format!("Pod {namespace}/{} has condition {}", pods::name(pod), condition.type_))
        };
        let Some(what) = what else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => return Verdict::FailJob(format!("{what} matching FailJob rule at index {number}")),
            _ => {}
        }
    }
    Verdict::Count
}

/// Name and exit code of the first container, app containers first, that ended as wanted.
fn exit<'a>(pod: &'a Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let code = |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    all.filter(|status| wanted.container_name.as_ref().is_none_or(|name| *name == status.name))
        .filter_map(|status| Some((status.name.as_str(), code(status)?)))
        .find(|(_, code)| {
            *code != 0
                && match wanted.operator.as_str() {
                    "In" => wanted.values.contains(code),
                    "NotIn" => !wanted.values.contains(code),
                    _ => false,
                }
        })
}

fn condition<'a>(pod: &'a Pod, wanted: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a PodCondition> {
    let matches = |condition: &&PodCondition| {
        wanted.iter().any(|pattern| {
            pattern.type_ == condition.type_ && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    };
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(matches)
}

/// Why the Job has succeeded before all its indexes have, where it has.
pub fn success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = policy?.rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let have = wanted.common(succeeded);
            let enough = rule.succeeded_count.is_some_and(|count| have >= i64::from(count));
            !wanted.is_empty() && (have == wanted.count() || enough)
        }
        None => rule.succeeded_count.is_some_and(|count| succeeded.count() >= i64::from(count)),
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": status})).unwrap()
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [1, 42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [7]}},
            {"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue", "status": "True"}]},
        ]}))
        .unwrap();
        let exited = |name: &str, code: i32| json!({"name": name, "state": {"terminated": {"exitCode": code}}, "image": "", "imageID": "", "ready": false, "restartCount": 0});
        let condition = |kind: &str, status: &str| json!([{"type": kind, "status": status}]);
        let cases = [
            (json!({"conditions": condition("DisruptionTarget", "True"), "containerStatuses": [exited("main", 42)]}), Verdict::Ignore),
            (
                json!({"conditions": condition("DisruptionTarget", "False"), "containerStatuses": [exited("main", 42)]}),
                Verdict::FailJob("Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1".to_owned()),
            ),
            (json!({"containerStatuses": [exited("main", 0), exited("side", 42)]}), Verdict::FailIndex),
            (json!({"containerStatuses": [exited("side", 7)]}), Verdict::Count),
            (json!({"containerStatuses": [exited("side", 0)]}), Verdict::Count),
            (
                json!({"conditions": condition("ConfigIssue", "True")}),
                Verdict::FailJob("Pod n/p has condition ConfigIssue matching FailJob rule at index 3".to_owned()),
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(verdict(Some(&policy), &pod(status.clone())), expected, "{status}");
        }
        assert_eq!(verdict(None, &pod(json!({}))), Verdict::Count);
    }

    #[test]
    fn success_policies() {
        let cases = [
            (json!([{"succeededIndexes": "0,2-3"}]), "0,2", None),
            (json!([{"succeededIndexes": "0,2-3"}]), "0,2,3,7", Some("Matched rules at index 0")),
            (json!([{"succeededIndexes": "0,2-3", "succeededCount": 2}]), "2,3", Some("Matched rules at index 0")),
            (json!([{"succeededIndexes": "50"}, {"succeededCount": 1}]), "2", Some("Matched rules at index 1")),
            (json!([{"succeededCount": 0}]), "", None),
        ];
        for (rules, succeeded, expected) in cases {
            let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
            let met = success(Some(&policy), 10, &Indexes::parse(succeeded, 10));
            assert_eq!(met.as_deref(), expected, "{rules} {succeeded}");
        }
    }
}
