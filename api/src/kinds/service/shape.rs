//! What a Service's type and policies make it need: addresses, node ports, a health check. Pure, over the object.

use serde_json::Value;

use crate::cursor::{find, list, text};

/// `spec.type`
pub fn kind(service: &Value) -> &str {
    text(service, "spec.type")
}

/// Whether it has addresses of its own, `None` included: every type but ExternalName.
pub fn needs_address(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

/// Type ClusterIP that asked for no address.
pub fn is_headless(service: &Value) -> bool {
    kind(service) == "ClusterIP" && text(service, "spec.clusterIP") == "None"
}

/// Whether a range of nodes' ports belongs to its type.
pub fn has_node_ports(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// Whether its ports get node ports without being asked for them.
pub fn allocates_node_ports(service: &Value) -> bool {
    let wanted = find(service, "spec.allocateLoadBalancerNodePorts") != &Value::Bool(false);
    kind(service) == "NodePort" || (kind(service) == "LoadBalancer" && wanted)
}

/// A load balancer that must know which nodes have endpoints.
pub fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && text(service, "spec.externalTrafficPolicy") == "Local"
}

/// Whether anything from outside may reach it.
pub fn is_external(service: &Value) -> bool {
    has_node_ports(service) || (kind(service) == "ClusterIP" && !list(service, "spec.externalIPs").is_empty())
}

/// The node ports of its ports, in order, without those that are unset.
pub fn node_ports(service: &Value) -> Vec<i64> {
    let numbers = list(service, "spec.ports").iter().filter_map(|port| find(port, "nodePort").as_i64());
    numbers.filter(|number| *number != 0).collect()
}

/// `spec.healthCheckNodePort`; 0 where there is none.
pub fn health_port(service: &Value) -> i64 {
    find(service, "spec.healthCheckNodePort").as_i64().unwrap_or(0)
}

/// `spec.clusterIPs`
pub fn addresses(service: &Value) -> Vec<&str> {
    list(service, "spec.clusterIPs").iter().filter_map(Value::as_str).collect()
}
