//! Keeps pods on nodes that their node selector and required node affinity name, and prefers those wished for.

use std::collections::BTreeSet;

use balsa_api::selector::Operator;

use crate::framework::{Check, ClusterChange, Filter, Prepared, Score, scale};
use crate::model::{NodeInfo, PodInfo, Snapshot};

pub(super) struct NodeAffinity;

/// The nodes that the required terms name one by one, where every term does (DaemonSet pods above all).
fn named_nodes(pod: &PodInfo) -> Option<BTreeSet<String>> {
    let terms = pod.node_terms.as_ref()?;
    let mut names = BTreeSet::new();
    for term in terms {
        let mut of_term: Option<BTreeSet<String>> = None;
        for condition in &term.name {
            if let Operator::In(values) = &condition.operator {
                let values: BTreeSet<String> = values.iter().cloned().collect();
                of_term = Some(match of_term {
                    None => values,
                    Some(known) => known.intersection(&values).cloned().collect(),
                });
            }
        }
        names.extend(of_term?);
    }
    (!terms.is_empty()).then_some(names)
}

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, _: &'s Snapshot) -> Prepared<'s> {
        if pod.node_selector.is_empty() && pod.node_terms.is_none() {
            return Prepared::Skip;
        }
        let check: Check<'s> = Box::new(move |node: &NodeInfo| {
            if node.matches_affinity_of(pod) {
                Vec::new()
            } else {
                vec!["node(s) didn't match Pod's node affinity/selector".into()]
            }
        });
        match named_nodes(pod) {
            Some(names) => Prepared::Only(names, check),
            None => Prepared::Check(check),
        }
    }

    fn may_help(&self, pod: &PodInfo, change: &ClusterChange<'_>) -> bool {
        change.node().is_some_and(|node| node.matches_affinity_of(pod))
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'s>(
        &self,
        pod: &'s PodInfo,
        _: &'s Snapshot,
        _: &[&'s NodeInfo],
    ) -> Option<Box<dyn Fn(&NodeInfo) -> i64 + 's>> {
        if pod.preferred_nodes.is_empty() {
            return None;
        }
        Some(Box::new(move |node| {
            let matching = pod.preferred_nodes.iter().filter(|wish| node.matches(&wish.term));
            matching.map(|wish| wish.weight).sum()
        }))
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, false);
    }
}
