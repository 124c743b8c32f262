//! What an update of a Service means where it leaves something out: allocated values stay, values that the new type
//! has no use for go. Written after `patchAllocatedValues`, `normalizeClusterIPs` and `dropTypeDependentFields` of
//! Kubernetes' service registry.

use serde_json::{Value, json};

use super::shape::{
    allocates_node_ports, has_node_ports, health_port, is_external, kind, needs_address, needs_health_check, node_ports,
};
use crate::cursor::{find, items_mut, list, text};

/// Fills in, keeps and drops.
pub fn prepare(new: &mut Value, old: &Value) {
    if !new.get("spec").is_some_and(Value::is_object) {
        return;
    }
    keep_allocated(new, old);
    sync_addresses(new, old);
    drop_unused(new, old);
}

fn set(object: &mut Value, member: &str, value: Value) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        if value.is_null() {
            spec.remove(member);
        } else {
            spec.insert(member.to_owned(), value);
        }
    }
}

fn ports_mut(object: &mut Value) -> &mut [Value] {
    match object.get_mut("spec") {
        Some(spec) => items_mut(spec, "ports"),
        None => &mut [],
    }
}

fn spec<'a>(object: &'a Value, member: &str) -> &'a Value {
    find(object, "spec").get(member).unwrap_or(&Value::Null)
}

/// A client that sends what it once created, without what it was given, means no change.
fn keep_allocated(new: &mut Value, old: &Value) {
    if needs_address(old) && needs_address(new) {
        if text(new, "spec.clusterIP").is_empty() {
            set(new, "clusterIP", spec(old, "clusterIP").clone());
        }
        if list(new, "spec.clusterIPs").is_empty() {
            set(new, "clusterIPs", spec(old, "clusterIPs").clone());
        }
    }
    if allocates_node_ports(old) && allocates_node_ports(new) {
        let (before, now) = (node_ports(old), node_ports(new));
        let taken = |number: i64| before.contains(&number) && now.contains(&number);
        let known: Vec<(String, i64)> = list(old, "spec.ports")
            .iter()
            .map(|port| (text(port, "name").to_owned(), find(port, "nodePort").as_i64().unwrap_or(0)))
            .collect();
        for port in ports_mut(new) {
            if find(port, "nodePort").as_i64().unwrap_or(0) != 0 {
                continue;
            }
            let former = known.iter().rev().find(|(name, _)| name == text(port, "name")).map_or(0, |(_, number)| *number);
            if former != 0 && !taken(former) {
                port["nodePort"] = former.into();
            }
        }
    }
    if needs_health_check(old) && needs_health_check(new) && health_port(new) == 0 && health_port(old) != 0 {
        set(new, "healthCheckNodePort", health_port(old).into());
    }
}

/// `clusterIP` and `clusterIPs[0]` are one value; clients that know only the former change only it.
fn sync_addresses(new: &mut Value, old: &Value) {
    let (before, now) = (text(old, "spec.clusterIP").to_owned(), text(new, "spec.clusterIP").to_owned());
    let same_list = list(new, "spec.clusterIPs") == list(old, "spec.clusterIPs");
    if !list(old, "spec.clusterIPs").is_empty() && list(new, "spec.clusterIPs").is_empty() && before == now {
        set(new, "clusterIPs", spec(old, "clusterIPs").clone());
    }
    if before == now {
        return;
    }
    if now.is_empty() {
        if same_list {
            set(new, "clusterIPs", Value::Null);
        }
    } else if same_list {
        set(new, "clusterIPs", json!([now]));
    }
}

/// What no longer applies goes, unless the client changed it as well: that is then refused.
fn drop_unused(new: &mut Value, old: &Value) {
    let same = |new: &Value, member: &str| spec(new, member) == spec(old, member);
    if needs_address(old) && !needs_address(new) {
        if same(new, "clusterIP") && same(new, "clusterIPs") {
            set(new, "clusterIP", Value::Null);
            set(new, "clusterIPs", Value::Null);
        }
        for member in ["ipFamilies", "ipFamilyPolicy"] {
            if same(new, member) {
                set(new, member, Value::Null);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let before = node_ports(old);
        if node_ports(new).iter().all(|number| before.contains(number)) {
            for port in ports_mut(new) {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
        }
    }
    if needs_health_check(old) && !needs_health_check(new) && health_port(old) == health_port(new) {
        set(new, "healthCheckNodePort", Value::Null);
    }
    if kind(old) == "LoadBalancer" && kind(new) != "LoadBalancer" {
        for member in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(new, member) {
                set(new, member, Value::Null);
            }
        }
    }
    if is_external(old) && !is_external(new) && same(new, "externalTrafficPolicy") {
        set(new, "externalTrafficPolicy", Value::Null);
    }
    if kind(new) != "LoadBalancer"
        && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
    {
        status.insert("loadBalancer".to_owned(), json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> Value {
        json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster", "ports": [
                {"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}]}})
    }

    fn prepared(mut new: Value) -> Value {
        prepare(&mut new, &old());
        new["spec"].clone()
    }

    #[test]
    fn what_was_allocated_stays_when_it_is_left_out() {
        let spec = prepared(json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [
            {"name": "b", "port": 8081}, {"name": "a", "port": 80}, {"name": "c", "port": 82}]}}));
        assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&json!("10.96.0.9"), &json!(["10.96.0.9"])));
        let ports: Vec<i64> = node_ports(&json!({ "spec": spec }));
        assert_eq!(ports, [30002, 30001]);
    }

    #[test]
    fn a_port_that_was_given_away_is_not_kept() {
        let spec = prepared(json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [
            {"name": "a", "port": 80}, {"name": "x", "port": 81, "nodePort": 30001}]}}));
        assert_eq!(node_ports(&json!({ "spec": spec })), [30001]);
    }

    #[test]
    fn another_type_drops_what_it_cannot_use() {
        let mut new = old();
        new["spec"]["type"] = json!("ClusterIP");
        let spec = prepared(new);
        assert!(node_ports(&json!({ "spec": spec })).is_empty() && spec.get("externalTrafficPolicy").is_none());
        assert_eq!(spec["clusterIP"], "10.96.0.9");
        let mut new = old();
        new["spec"]["type"] = json!("ExternalName");
        new["spec"]["externalName"] = json!("example.org");
        let spec = prepared(new);
        for member in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            assert!(spec.get(member).is_none(), "{member}");
        }
        let mut new = old();
        new["spec"]["type"] = json!("ExternalName");
        new["spec"]["clusterIP"] = json!("10.96.0.10");
        assert_eq!(prepared(new)["clusterIPs"], json!(["10.96.0.10"]), "a change is for validation to refuse");
    }
}
