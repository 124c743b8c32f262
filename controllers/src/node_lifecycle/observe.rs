//! What there is about a node: itself, its Lease, its pods.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::plan::UNREACHABLE;
use super::plan::NOT_READY;
use crate::runtime::Context;
use crate::runtime::context::on_node;

/// A node's Lease.
pub fn lease(context: &Context, node: &str) -> Option<Arc<Lease>> {
    context.node_leases.cache().get("kube-node-lease", node)
}

/// The pods of a node.
pub fn pods(context: &Context, node: &str) -> Vec<Arc<Pod>> {
    let mut pods = context.pods.cache().by_index(&on_node(node));
    pods.sort_by(|a, b| (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name)));
    pods
}

/// Whether a node's pods are being driven out already.
pub fn is_evicting(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE))
}
