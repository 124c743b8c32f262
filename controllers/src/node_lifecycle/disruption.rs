//! How many nodes may lose their pods now: the state of each zone and of the whole cluster.
//!
//! One node every 10 s per zone; in a zone where most nodes are lost, none (small zones) or one every 100 s (more than
//! 50 nodes); when every node of the cluster is lost, none: the lost link is probably ours.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;

use super::plan::readiness;
use crate::common::time;

/// A zone with this share (percent) of lost nodes, and more than two of them, is partially disrupted.
const UNHEALTHY_PERCENT: usize = 55;
/// A zone with more nodes than this still evicts, slowly, while partially disrupted.
const LARGE_ZONE: usize = 50;
const NORMAL: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(100);

/// How a zone fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneState {
    /// Few nodes are lost.
    Normal,
    /// Most are.
    Partial,
    /// All are.
    Full,
}

/// `region:zone` of a node.
pub fn zone_of(node: &Node) -> String {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// The state of a zone with so many nodes, of which so many are lost.
pub fn zone_state(nodes: usize, lost: usize) -> ZoneState {
    if nodes > 0 && lost == nodes {
        ZoneState::Full
    } else if lost > 2 && lost * 100 >= UNHEALTHY_PERCENT * nodes {
        ZoneState::Partial
    } else {
        ZoneState::Normal
    }
}

/// What is remembered between rounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limiter {
    /// Nodes whose pods are being driven out, by name.
    evicting: BTreeSet<String>,
    /// When a zone last gave up a node.
    last: BTreeMap<String, Timestamp>,
}

impl Limiter {
    /// Says for each node that is not ready whether its pods may be driven out, given all nodes. A node that already
    /// carries the NoExecute taint goes on (`tainted`), unless the whole cluster is lost.
    pub fn round(&mut self, nodes: &[&Node], tainted: impl Fn(&Node) -> bool, now: Timestamp) -> BTreeSet<String> {
        let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
        let is_lost = |node: &Node| readiness(node) != "True";
        let mut zones: BTreeMap<String, Vec<&Node>> = BTreeMap::new();
        for node in nodes {
            zones.entry(zone_of(node)).or_default().push(node);
        }
        let lost: BTreeSet<String> = nodes.iter().filter(|node| is_lost(node)).map(|node| name(node)).collect();
        self.evicting.retain(|node| lost.contains(node));
        if !nodes.is_empty() && lost.len() == nodes.len() {
            self.evicting.clear();
            self.last.clear();
            return BTreeSet::new();
        }
        for (zone, members) in zones {
            let lost_here = members.iter().filter(|node| is_lost(node)).count();
            let every = match zone_state(members.len(), lost_here) {
                ZoneState::Normal | ZoneState::Full => Some(NORMAL),
                ZoneState::Partial if members.len() > LARGE_ZONE => Some(SLOW),
                ZoneState::Partial => None,
            };
            for node in members.into_iter().filter(|node| is_lost(node)) {
                if self.evicting.contains(&name(node)) {
                    continue;
                }
                let free = |every| self.last.get(&zone).is_none_or(|last| time::since(*last, now) >= every);
                if tainted(node) {
                    self.evicting.insert(name(node));
                } else if every.is_some_and(free) {
                    self.evicting.insert(name(node));
                    self.last.insert(zone.clone(), now);
                }
            }
        }
        self.evicting.clone()
    }
}
