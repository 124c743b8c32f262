//! Whether this node takes a pod: the last look, after the scheduler's.
//!
//! Pure. A pod that is refused ends as Failed and nothing of it is started.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerPort, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use crate::env::{resources, security};
use crate::pod::observed::Admission;
use crate::pod::resize::Verdict;
use crate::pod::view;
use crate::quantity;

/// Decides. `others` are the pods that the node has taken and that have not ended.
pub fn admit(pod: &Pod, node: &Node, others: &[&Pod]) -> Admission {
    let refusal = sysctl(pod)
        .or_else(|| operating_system(pod))
        .or_else(|| node_name(pod, node))
        .or_else(|| selector(pod, node))
        .or_else(|| taint(pod, node))
        .or_else(|| ports(pod, others))
        .or_else(|| room(pod, node, others));
    match refusal {
        None => Admission::Accepted,
        Some((reason, message)) => {
            Admission::Rejected { reason, message: format!("Pod was rejected: {message}") }
        }
    }
}

/// Whether a resize may be given. What the node cannot give at all is infeasible; what others have is deferred.
pub fn resize(pod: &Pod, node: &Node, others: &[&Pod]) -> Verdict {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    for (resource, requested) in resources::requests(pod).iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
        let capacity = quantity::milli_of(allocatable, resource).unwrap_or(0);
        if *requested > capacity {
            let shown = |milli: i64| if resource == "cpu" { milli } else { milli / 1000 };
            return Verdict::Infeasible(format!(
                "Node didn't have enough capacity: {resource}, requested: {}, capacity: {}",
                shown(*requested),
                shown(capacity)
            ));
        }
    }
    // The number of pods stays as it is.
    fits(pod, node, others).map_or(Verdict::Fits, |(_, message)| Verdict::Deferred(message))
}

type Refusal = Option<(String, String)>;

fn refuse(reason: &str, message: impl Into<String>) -> Refusal {
    Some((reason.to_owned(), message.into()))
}

fn sysctl(pod: &Pod) -> Refusal {
    let name = security::forbidden_sysctl(pod)?;
    refuse("SysctlForbidden", format!("forbidden sysctl: \"{name}\" not allowlisted"))
}

fn operating_system(pod: &Pod) -> Refusal {
    let name = view::spec(pod).os.as_ref().map(|os| os.name.clone()).filter(|name| name != "linux")?;
    refuse("PodOSNotSupported", format!("Failed to admit pod as the OS field doesn't match node OS: {name}"))
}

fn node_name(pod: &Pod, node: &Node) -> Refusal {
    let wanted = view::spec(pod).node_name.clone()?;
    let ours = node.metadata.name.as_deref() == Some(wanted.as_str());
    if ours { None } else { refuse("NodeName", "Predicate NodeName failed: node(s) didn't match the requested node name") }
}

fn selector(pod: &Pod, node: &Node) -> Refusal {
    let spec = view::spec(pod);
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let terms = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let fits = terms.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_fits(term, node, labels)));
    if selected && fits {
        return None;
    }
    refuse("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
}

fn term_fits(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    if expressions.is_none_or(<[_]>::is_empty) && fields.is_none_or(<[_]>::is_empty) {
        return false;
    }
    let name = node.metadata.name.as_ref();
    expressions.unwrap_or_default().iter().all(|requirement| holds(requirement, labels.get(&requirement.key)))
        && fields.unwrap_or_default().iter().all(|requirement| requirement.key == "metadata.name" && holds(requirement, name))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |smaller: bool| {
        let parse = |text: &String| text.parse::<i64>().ok();
        match (value.and_then(parse), values.first().and_then(parse)) {
            (Some(own), Some(limit)) => if smaller { own < limit } else { own > limit },
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(false),
        "Lt" => compare(true),
        _ => false,
    }
}

fn taint(pod: &Pod, node: &Node) -> Refusal {
    let spec = view::spec(pod);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let untolerated = |taint: &&Taint| {
        taint.effect == "NoExecute" && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    taints.into_iter().find(untolerated)?;
    refuse("TaintToleration", "Predicate TaintToleration failed: node(s) had untolerated taint(s)")
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value_fits = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    };
    (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && value_fits
}

fn host_ports(pod: &Pod) -> Vec<ContainerPort> {
    let host_network = view::host_network(pod);
    view::units(pod)
        .iter()
        .flat_map(|unit| unit.container.ports.clone().unwrap_or_default())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0).or(host_network.then_some(port.container_port))?;
            Some(ContainerPort { host_port: Some(host_port), ..port })
        })
        .collect()
}

fn ports(pod: &Pod, others: &[&Pod]) -> Refusal {
    let any = |ip: &Option<String>| ip.as_deref().is_none_or(|ip| ip.is_empty() || ip == "0.0.0.0" || ip == "::");
    let protocol = |port: &ContainerPort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let taken: Vec<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    let clashes = host_ports(pod).iter().any(|own| {
        taken.iter().any(|other| {
            own.host_port == other.host_port
                && protocol(own) == protocol(other)
                && (own.host_ip == other.host_ip || any(&own.host_ip) || any(&other.host_ip))
        })
    });
    if clashes {
        return refuse("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports");
    }
    None
}

fn room(pod: &Pod, node: &Node, others: &[&Pod]) -> Refusal {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref())?;
    let pods = quantity::whole_of(Some(allocatable), "pods").unwrap_or(i64::MAX);
    let running = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if running >= pods {
        return refuse("OutOfpods", format!("Node didn't have enough resource: pods, requested: 1, used: {running}, capacity: {pods}"));
    }
    fits(pod, node, others)
}

fn fits(pod: &Pod, node: &Node, others: &[&Pod]) -> Refusal {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref())?;
    let used: Vec<_> = others.iter().map(|other| resources::requests(other)).collect();
    for (resource, requested) in resources::requests(pod) {
        let capacity = quantity::milli_of(Some(allocatable), &resource).unwrap_or(0);
        let used: i64 = used.iter().filter_map(|other| other.get(&resource)).sum();
        if requested + used > capacity {
            // CPU is told in thousandths, everything else in whole units.
            let shown = |milli: i64| if resource == "cpu" { milli } else { milli / 1000 };
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {}, used: {}, capacity: {}",
                shown(requested),
                shown(used),
                shown(capacity)
            );
            return refuse(&format!("OutOf{resource}"), message);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
    }

    fn verdict(spec: serde_json::Value, others: &[&Pod]) -> String {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "n1", "labels": { "disk": "ssd", "gen": "7" } },
            "spec": { "taints": [{ "key": "broken", "value": "yes", "effect": "NoExecute" }] },
            "status": { "allocatable": { "cpu": "1", "memory": "1Gi", "pods": "2" } } }))
        .unwrap();
        let mut spec = spec;
        if spec.get("tolerations").is_none() {
            spec["tolerations"] = serde_json::json!([{ "operator": "Exists" }]);
        }
        match admit(&pod("p", spec), &node, others) {
            Admission::Rejected { reason, message } => format!("{reason}: {message}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn table() {
        let cpu = |amount: &str| serde_json::json!({ "containers": [{ "name": "c",
            "resources": { "requests": { "cpu": amount } }, "ports": [{ "containerPort": 80, "hostPort": 8080 }] }] });
        let other = pod("o", cpu("500m"));
        assert_eq!(verdict(cpu("500m"), &[]), "Accepted");
        assert_eq!(
            verdict(cpu("500m"), &[&other]),
            "NodePorts: Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        );
        let portless = |amount: &str| serde_json::json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": amount } } }] });
        assert_eq!(
            verdict(portless("600m"), &[&other]),
            "OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu, requested: 600, used: 500, capacity: 1000"
        );
        assert_eq!(
            verdict(portless("1m"), &[&other, &other]),
            "OutOfpods: Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"
        );
        let with = |key: &str, value: serde_json::Value| {
            let mut spec = serde_json::json!({ "containers": [] });
            spec[key] = value;
            verdict(spec, &[])
        };
        assert!(with("nodeSelector", serde_json::json!({ "disk": "hdd" })).starts_with("NodeAffinity: "));
        assert_eq!(with("nodeSelector", serde_json::json!({ "disk": "ssd" })), "Accepted");
        assert!(with("tolerations", serde_json::json!([])).starts_with("TaintToleration: "));
        assert!(with("nodeName", serde_json::json!("n2")).starts_with("NodeName: "));
        let sysctl = serde_json::json!({ "sysctls": [{ "name": "kernel.msgmax", "value": "1" }] });
        assert_eq!(
            with("securityContext", sysctl),
            "SysctlForbidden: Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted"
        );
        let terms = |operator: &str, value: &str| serde_json::json!({ "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "gen", "operator": operator, "values": [value] }] }] } } });
        assert_eq!(with("affinity", terms("Gt", "6")), "Accepted");
        assert!(with("affinity", terms("Lt", "7")).starts_with("NodeAffinity: "));
    }
}
