//! One scheduling cycle: which node a pod goes to, or why none will do. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::framework::{Check, Framework, Prepared, Reasons};
use crate::model::{NodeInfo, PodInfo, Snapshot};

/// Below so many nodes all of them are looked at.
const FEW_NODES: usize = 100;

/// What makes two cycles on the same snapshot differ: so that large clusters are used evenly.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn {
    /// Where in the list of nodes the search starts.
    pub start: usize,
    /// Chooses among equally good nodes.
    pub tie: u64,
}

/// The result of a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A node was found.
    Node(Choice),
    /// None will do.
    Unschedulable(Diagnosis),
}

/// Where a pod goes, and the runners-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: Arc<str>,
    /// Sum of weighted scores of every node that passed the filters.
    pub scores: Vec<(Arc<str>, i64)>,
    /// Nodes that were looked at and did not pass.
    pub rejected: Vec<Rejected>,
    /// Where the next search may start.
    pub next_start: usize,
}

/// A node that will not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The node.
    pub node: Arc<str>,
    /// Who said no.
    pub plugin: &'static str,
    /// Why.
    pub reasons: Reasons,
}

/// Why no node will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// What rules out every node at once; empty where the nodes were looked at one by one.
    pub always: String,
    /// Node by node.
    pub rejected: Vec<Rejected>,
    /// Who said no to any node: only what they care about can help.
    pub plugins: BTreeSet<&'static str>,
}

impl Diagnosis {
    /// Kubernetes' message: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let head = format!("0/{} nodes are available:", self.nodes);
        if !self.always.is_empty() {
            return format!("{head} {}.", self.always);
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.rejected.iter().flat_map(|rejected| &rejected.reasons) {
            *counts.entry(reason).or_insert(0) += 1;
        }
        let mut texts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        // As text, so that "10 x" comes before "2 y": that is how Kubernetes does it.
        texts.sort();
        if texts.is_empty() { head } else { format!("{head} {}.", texts.join(", ")) }
    }
}

/// How many suitable nodes are enough: all of up to 100, then a share that shrinks from 50 % to 5 %, at least 100.
fn enough(nodes: usize) -> usize {
    if nodes < FEW_NODES {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEW_NODES)
}

/// Finds the node for `pod`.
pub fn schedule(pod: &PodInfo, snapshot: &Snapshot, framework: &Framework, turn: Turn) -> Outcome {
    let total = snapshot.len();
    let mut diagnosis = Diagnosis { nodes: total, ..Diagnosis::default() };
    if total == 0 {
        return Outcome::Unschedulable(diagnosis);
    }
    let mut checks: Vec<(&'static str, Check<'_>)> = Vec::new();
    let mut only: Option<(BTreeSet<String>, Vec<&'static str>)> = None;
    for filter in &framework.filters {
        match filter.prepare(pod, snapshot) {
            Prepared::Skip => {}
            Prepared::Reject(reason) => {
                diagnosis.always = reason;
                diagnosis.plugins.insert(filter.name());
                return Outcome::Unschedulable(diagnosis);
            }
            Prepared::Check(check) => checks.push((filter.name(), check)),
            Prepared::Only(names, check) => {
                checks.push((filter.name(), check));
                only = Some(match only {
                    None => (names, vec![filter.name()]),
                    Some((known, mut plugins)) => {
                        plugins.push(filter.name());
                        (known.intersection(&names).cloned().collect(), plugins)
                    }
                });
            }
        }
    }
    let start = turn.start % total;
    let (feasible, looked_at) = filter_nodes(snapshot, &checks, only.as_ref(), start, &mut diagnosis);
    if feasible.is_empty() {
        return Outcome::Unschedulable(diagnosis);
    }
    let scores = score(pod, snapshot, framework, &feasible);
    let node = pick(&scores, turn.tie);
    let next_start = (start + looked_at) % total;
    Outcome::Node(Choice { node, scores, rejected: diagnosis.rejected, next_start })
}

/// The nodes that pass, and how many were looked at.
fn filter_nodes<'s>(
    snapshot: &'s Snapshot,
    checks: &[(&'static str, Check<'_>)],
    only: Option<&(BTreeSet<String>, Vec<&'static str>)>,
    start: usize,
    diagnosis: &mut Diagnosis,
) -> (Vec<&'s NodeInfo>, usize) {
    let mut feasible = Vec::new();
    let mut looked_at = 0;
    let wanted = enough(snapshot.len());
    let mut reject = |node: &NodeInfo, plugin: &'static str, reasons: Reasons| {
        diagnosis.plugins.insert(plugin);
        diagnosis.rejected.push(Rejected { node: node.name.clone(), plugin, reasons });
    };
    for node in snapshot.nodes_from(start) {
        if feasible.len() >= wanted {
            break;
        }
        looked_at += 1;
        if let Some((names, plugins)) = only
            && !names.contains(&*node.name)
        {
            let reason = format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" "));
            reject(node, plugins.first().copied().unwrap_or_default(), vec![reason.into()]);
            continue;
        }
        let refusal = checks.iter().find_map(|(plugin, check)| {
            let reasons = check(node);
            (!reasons.is_empty()).then_some((*plugin, reasons))
        });
        match refusal {
            None => feasible.push(node),
            Some((plugin, reasons)) => reject(node, plugin, reasons),
        }
    }
    (feasible, looked_at)
}

fn score(
    pod: &PodInfo,
    snapshot: &Snapshot,
    framework: &Framework,
    feasible: &[&NodeInfo],
) -> Vec<(Arc<str>, i64)> {
    let mut totals: Vec<(Arc<str>, i64)> = feasible.iter().map(|node| (node.name.clone(), 0)).collect();
    if feasible.len() == 1 {
        return totals;
    }
    for plugin in &framework.scores {
        let Some(score) = plugin.prepare(pod, snapshot, feasible) else { continue };
        let mut scores: Vec<i64> = feasible.iter().map(|node| score(node)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            total.1 += score * plugin.weight();
        }
    }
    totals
}

/// One of the best.
fn pick(scores: &[(Arc<str>, i64)], tie: u64) -> Arc<str> {
    let best = scores.iter().map(|(_, score)| *score).max().unwrap_or(0);
    let count = scores.iter().filter(|(_, score)| *score == best).count().max(1);
    let chosen = usize::try_from(tie % count as u64).unwrap_or(0);
    scores.iter().filter(|(_, score)| *score == best).nth(chosen).map_or_else(|| "".into(), |(name, _)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_nodes_that_is_looked_at_shrinks() {
        for (nodes, expected) in [(1, 1), (99, 99), (100, 100), (150, 100), (500, 230), (5000, 500), (10_000, 500)] {
            assert_eq!(enough(nodes), expected, "{nodes} nodes");
        }
    }

    #[test]
    fn reasons_are_sorted_as_text() {
        let rejected = |reason: &'static str| Rejected { node: "n".into(), plugin: "P", reasons: vec![reason.into()] };
        let mut diagnosis = Diagnosis { nodes: 12, ..Diagnosis::default() };
        diagnosis.rejected.extend((0..10).map(|_| rejected("Too many pods")));
        diagnosis.rejected.extend((0..2).map(|_| rejected("Insufficient cpu")));
        assert_eq!(diagnosis.message(), "0/12 nodes are available: 10 Too many pods, 2 Insufficient cpu.");
        assert_eq!(Diagnosis::default().message(), "no nodes available to schedule pods");
    }
}
