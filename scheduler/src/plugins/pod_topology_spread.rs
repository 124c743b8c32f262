//! Spreads pods evenly over domains: nodes with the same value of a label.
//!
//! A domain's count is the number of matching pods on its nodes. A node will do if the count of its domain, with the
//! pod, is at most `maxSkew` above the least count of any domain.

use std::collections::BTreeMap;

use balsa_api::selector::matches_label_selector;

use crate::framework::{ClusterChange, Filter, MAX_SCORE, Prepared, Reasons, Score};
use crate::model::{NodeInfo, PodInfo, Snapshot, Spread};

pub(super) struct PodTopologySpread;

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const REASON_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

fn counts_for(constraint: &Spread, pod: &PodInfo, other: &PodInfo) -> bool {
    other.namespace == pod.namespace
        && !other.is_deleting()
        && matches_label_selector(constraint.selector.as_ref(), Some(&other.labels))
}

/// Whether pods on the node count for the constraint.
fn node_counts(constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!constraint.honor_affinity || node.matches_affinity_of(pod))
        && (!constraint.honor_taints || node.untolerated_taint(pod).is_none())
}

fn matching(constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> i64 {
    let count = node.pods.values().filter(|other| counts_for(constraint, pod, other)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Matching pods per domain. Only nodes that have the labels of all constraints count.
fn domains(constraint: &Spread, all: &[&Spread], pod: &PodInfo, snapshot: &Snapshot) -> BTreeMap<String, i64> {
    let mut domains = BTreeMap::new();
    for node in snapshot.nodes() {
        let labelled = all.iter().all(|constraint| node.labels.contains_key(&constraint.topology_key));
        if !labelled || !node_counts(constraint, pod, node) {
            continue;
        }
        if let Some(value) = node.labels.get(&constraint.topology_key) {
            *domains.entry(value.clone()).or_insert(0) += matching(constraint, pod, node);
        }
    }
    domains
}

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, snapshot: &'s Snapshot) -> Prepared<'s> {
        let required: Vec<&Spread> = pod.spread.iter().filter(|constraint| constraint.required).collect();
        if required.is_empty() {
            return Prepared::Skip;
        }
        let states: Vec<_> = required
            .iter()
            .map(|constraint| {
                let domains = domains(constraint, &required, pod, snapshot);
                let few = i64::try_from(domains.len()).unwrap_or(i64::MAX) < constraint.min_domains;
                let least = if few { 0 } else { domains.values().copied().min().unwrap_or(0) };
                let itself = i64::from(matches_label_selector(constraint.selector.as_ref(), Some(&pod.labels)));
                (*constraint, domains, least, itself)
            })
            .collect();
        Prepared::Check(Box::new(move |node: &NodeInfo| {
            for (constraint, domains, least, itself) in &states {
                let Some(value) = node.labels.get(&constraint.topology_key) else {
                    return vec![REASON_LABEL.into()];
                };
                let count = domains.get(value).copied().unwrap_or(0);
                if count + itself - least > constraint.max_skew {
                    return vec![REASON.into()];
                }
            }
            Reasons::new()
        }))
    }

    fn may_help(&self, pod: &PodInfo, change: &ClusterChange<'_>) -> bool {
        match change {
            ClusterChange::NodeAdded(_) | ClusterChange::NodeRemoved => true,
            ClusterChange::NodeUpdated(node, old) => {
                Some(&node.labels) != old.metadata.labels.as_ref()
                    || Some(&node.taints) != old.spec.as_ref().and_then(|spec| spec.taints.as_ref())
            }
            ClusterChange::PodAssigned(other) | ClusterChange::PodFreed(other) => {
                pod.spread.iter().any(|constraint| {
                    other.namespace == pod.namespace
                        && matches_label_selector(constraint.selector.as_ref(), Some(&other.labels))
                })
            }
            ClusterChange::Namespace => false,
        }
    }
}

/// Soft constraints: the fewer matching pods in a node's domains, the better.
impl Score for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'s>(
        &self,
        pod: &'s PodInfo,
        snapshot: &'s Snapshot,
        _: &[&'s NodeInfo],
    ) -> Option<Box<dyn Fn(&NodeInfo) -> i64 + 's>> {
        let wished: Vec<&Spread> = pod.spread.iter().filter(|constraint| !constraint.required).collect();
        if wished.is_empty() {
            return None;
        }
        let states: Vec<_> = wished
            .iter()
            .map(|constraint| {
                let domains = domains(constraint, &[], pod, snapshot);
                // Domains of a label with many values hold few pods each: they weigh more.
                let weight = ((domains.len() + 2) as f64).ln();
                (*constraint, domains, weight)
            })
            .collect();
        Some(Box::new(move |node| {
            let mut sum = 0.0;
            for (constraint, domains, weight) in &states {
                match node.labels.get(&constraint.topology_key) {
                    Some(value) => {
                        let count = domains.get(value).copied().unwrap_or(0);
                        sum += count as f64 * weight + (constraint.max_skew - 1) as f64;
                    }
                    // Without the label it is the last choice; `normalize` knows it by this.
                    None => return -1,
                }
            }
            sum.round() as i64
        }))
    }

    fn normalize(&self, scores: &mut [i64]) {
        let labelled = || scores.iter().copied().filter(|score| *score >= 0);
        let (min, max) = (labelled().min().unwrap_or(0), labelled().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                ..0 => 0,
                _ if max == 0 => MAX_SCORE,
                score => MAX_SCORE * (max + min - score) / max,
            };
        }
    }
}
