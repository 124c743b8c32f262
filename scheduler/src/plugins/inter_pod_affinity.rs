//! Keeps pods beside, or away from, pods that they or those name; prefers what is wished for.
//!
//! Two nodes are beside each other where the term's topology label has the same value on both.

use std::collections::BTreeMap;

use balsa_api::selector::matches_label_selector;

use crate::framework::{ClusterChange, Filter, MAX_SCORE, Prepared, Reasons, Score};
use crate::model::{NodeInfo, PodInfo, PodTerm, Snapshot};

pub(super) struct InterPodAffinity;

/// (topology label, value) → how much.
type Domains = BTreeMap<(String, String), i64>;

/// Whether `pod` is one of those that `term` names.
fn names(term: &PodTerm, pod: &PodInfo, snapshot: Option<&Snapshot>) -> bool {
    let in_namespace = term.namespaces.contains(&pod.namespace)
        || term.namespace_selector.as_ref().is_some_and(|selector| match snapshot {
            Some(snapshot) => matches_label_selector(Some(selector), snapshot.namespace(&pod.namespace)),
            // Without the namespaces' labels: perhaps.
            None => true,
        });
    in_namespace && matches_label_selector(term.selector.as_ref(), Some(&pod.labels))
}

fn names_by_all(terms: &[PodTerm], pod: &PodInfo, snapshot: &Snapshot) -> bool {
    !terms.is_empty() && terms.iter().all(|term| names(term, pod, Some(snapshot)))
}

fn domain(term: &PodTerm, node: &NodeInfo) -> Option<(String, String)> {
    node.labels.get(&term.topology_key).map(|value| (term.topology_key.clone(), value.clone()))
}

fn count(domains: &mut Domains, term: &PodTerm, node: &NodeInfo, amount: i64) {
    if let Some(domain) = domain(term, node) {
        *domains.entry(domain).or_insert(0) += amount;
    }
}

fn has(domains: &Domains, term: &PodTerm, node: &NodeInfo) -> bool {
    domain(term, node).is_some_and(|domain| domains.get(&domain).is_some_and(|count| *count > 0))
}

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, snapshot: &'s Snapshot) -> Prepared<'s> {
        let own_terms = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
        let (mut near, mut apart, mut refused) = (Domains::new(), Domains::new(), Domains::new());
        for node in snapshot.nodes().filter(|node| own_terms || node.with_pod_terms > 0) {
            for other in node.pods.values() {
                // An affinity counts pods that all terms name together.
                if names_by_all(&pod.affinity, other, snapshot) {
                    pod.affinity.iter().for_each(|term| count(&mut near, term, node, 1));
                }
                for term in pod.anti_affinity.iter().filter(|term| names(term, other, Some(snapshot))) {
                    count(&mut apart, term, node, 1);
                }
                for term in other.anti_affinity.iter().filter(|term| names(term, pod, Some(snapshot))) {
                    count(&mut refused, term, node, 1);
                }
            }
        }
        if !own_terms && refused.is_empty() {
            return Prepared::Skip;
        }
        // The first of a group that wants to be together has nobody to join: it may start anywhere.
        let first_of_group = near.is_empty() && names_by_all(&pod.affinity, pod, snapshot);
        Prepared::Check(Box::new(move |node: &NodeInfo| {
            let labelled = pod.affinity.iter().all(|term| node.labels.contains_key(&term.topology_key));
            let beside = pod.affinity.iter().all(|term| has(&near, term, node));
            if !(labelled && (beside || first_of_group)) {
                return vec!["node(s) didn't match pod affinity rules".into()];
            }
            if pod.anti_affinity.iter().any(|term| has(&apart, term, node)) {
                return vec!["node(s) didn't match pod anti-affinity rules".into()];
            }
            let there = |((key, value), count): (&(String, String), &i64)| *count > 0 && node.labels.get(key) == Some(value);
            if refused.iter().any(there) {
                return vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()];
            }
            Reasons::new()
        }))
    }

    fn may_help(&self, pod: &PodInfo, change: &ClusterChange<'_>) -> bool {
        match change {
            ClusterChange::NodeAdded(_) | ClusterChange::Namespace => true,
            ClusterChange::NodeUpdated(node, old) => Some(&node.labels) != old.metadata.labels.as_ref(),
            ClusterChange::PodAssigned(other) => pod.affinity.iter().any(|term| names(term, other, None)),
            ClusterChange::PodFreed(other) => {
                pod.anti_affinity.iter().any(|term| names(term, other, None))
                    || other.anti_affinity.iter().any(|term| names(term, pod, None))
            }
            ClusterChange::NodeRemoved => false,
        }
    }
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
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
        let mut wished = Domains::new();
        for node in snapshot.nodes().filter(|node| !pod.preferred_pods.is_empty() || node.with_pod_terms > 0) {
            for other in node.pods.values() {
                for term in pod.preferred_pods.iter().filter(|term| names(term, other, Some(snapshot))) {
                    count(&mut wished, term, node, term.weight);
                }
                for term in other.preferred_pods.iter().filter(|term| names(term, pod, Some(snapshot))) {
                    count(&mut wished, term, node, term.weight);
                }
                // Who demands our company is glad of it.
                for term in other.affinity.iter().filter(|term| names(term, pod, Some(snapshot))) {
                    count(&mut wished, term, node, 1);
                }
            }
        }
        if wished.is_empty() {
            return None;
        }
        Some(Box::new(move |node| {
            let there = |(key, value): &(String, String)| node.labels.get(key) == Some(value);
            wished.iter().filter(|(domain, _)| there(domain)).map(|(_, weight)| *weight).sum()
        }))
    }

    /// Scores may be negative: the range between the worst and the best is stretched to 0 to 100.
    fn normalize(&self, scores: &mut [i64]) {
        let (min, max) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if max > min { MAX_SCORE * (*score - min) / (max - min) } else { 0 };
        }
    }
}
