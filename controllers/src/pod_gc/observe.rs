//! Pods and nodes from the caches, and live looks at nodes that seem to be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;

use super::plan::Observed;
use crate::common::{pods, time};
use crate::node_lifecycle::plan::readiness;
use crate::runtime::Context;

/// How long a node has to be missing before it is looked up live.
const QUARANTINE: Duration = Duration::from_secs(40);

/// `missing`: since when each node has been missing, kept by the caller.
pub async fn observe(context: &Context, missing: &mut BTreeMap<String, Timestamp>, now: Timestamp) -> Result<Observed, balsa_client::Error> {
    let pods = context.pods.cache().list();
    let all = context.nodes.cache().list();
    let nodes: BTreeSet<String> = all.iter().filter_map(|node| node.metadata.name.clone()).collect();
    let named: BTreeSet<&str> = pods.iter().map(|pod| pods::node(pod)).filter(|node| !node.is_empty()).collect();
    missing.retain(|node, _| named.contains(node.as_str()) && !nodes.contains(node));
    for node in named {
        if !nodes.contains(node) {
            missing.entry(node.to_owned()).or_insert(now);
        }
    }
    let mut gone_nodes = BTreeSet::new();
    for (node, since) in missing.iter() {
        if time::since(*since, now) >= QUARANTINE {
            match context.client.get::<Node>("", node).await {
                Err(error) if error.is_not_found() => {
                    gone_nodes.insert(node.clone());
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }
    let out_of_service = |node: &Node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        readiness(node) != "True" && taints.iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service")
    };
    let out_of_service = all.iter().filter(|node| out_of_service(node)).filter_map(|node| node.metadata.name.clone()).collect();
    Ok(Observed { pods, nodes, gone_nodes, out_of_service })
}
