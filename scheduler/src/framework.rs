//! What a scheduling plugin is. The names are those of Kubernetes' scheduling framework.
//!
//! A plugin is pure: it looks at a pod and a snapshot, nothing else. It is asked once per cycle what it wants to check
//! (`prepare`), and then per node; a plugin that has nothing to say about a pod costs nothing per node.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;

use crate::model::{NodeInfo, PodInfo, Snapshot};

/// The highest score of one plugin for one node.
pub const MAX_SCORE: i64 = 100;

/// Why a node does not fit: one or several of Kubernetes' phrases. Empty: it fits.
pub type Reasons = Vec<Cow<'static, str>>;

/// Asked for every node that is considered.
pub type Check<'s> = Box<dyn Fn(&NodeInfo) -> Reasons + 's>;

/// What a filter wants with a pod.
pub enum Prepared<'s> {
    /// Nothing: every node is fine.
    Skip,
    /// No node can ever do, for this reason.
    Reject(String),
    /// Only these nodes, and of them those that pass.
    Only(BTreeSet<String>, Check<'s>),
    /// The nodes that pass.
    Check(Check<'s>),
}

/// A plugin that excludes nodes.
pub trait Filter: Send + Sync {
    /// Its name in Kubernetes.
    fn name(&self) -> &'static str;
    /// Called once per cycle.
    fn prepare<'s>(&self, pod: &'s PodInfo, snapshot: &'s Snapshot) -> Prepared<'s>;
    /// Whether `change` may make a pod fit that this plugin kept away. In doubt, yes.
    fn may_help(&self, pod: &PodInfo, change: &ClusterChange<'_>) -> bool;
}

/// A plugin that prefers nodes.
pub trait Score: Send + Sync {
    /// Its name in Kubernetes.
    fn name(&self) -> &'static str;
    /// How much it counts.
    fn weight(&self) -> i64;
    /// Called once per cycle with the nodes that passed all filters; `None` where it has no preference.
    fn prepare<'s>(
        &self,
        pod: &'s PodInfo,
        snapshot: &'s Snapshot,
        nodes: &[&'s NodeInfo],
    ) -> Option<Box<dyn Fn(&NodeInfo) -> i64 + 's>>;
    /// Brings the scores of all nodes into 0 to [`MAX_SCORE`]; most plugins are there already.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Scales the largest score to [`MAX_SCORE`], and turns them around where fewer is better.
///
/// Example: 0, 5, 10 become 0, 50, 100; reversed 100, 50, 0. All zero become 100 reversed.
pub fn scale(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

/// Something in the cluster changed that could help a pod.
pub enum ClusterChange<'c> {
    /// A new node.
    NodeAdded(&'c NodeInfo),
    /// A node, and what it was before.
    NodeUpdated(&'c NodeInfo, &'c Node),
    /// A node is gone (spreading may be easier now).
    NodeRemoved,
    /// A pod came to be on a node.
    PodAssigned(&'c PodInfo),
    /// A pod uses less, or nothing any more.
    PodFreed(&'c PodInfo),
    /// A namespace's labels changed.
    Namespace,
}

impl<'c> ClusterChange<'c> {
    /// The node that is new or changed.
    pub fn node(&self) -> Option<&'c NodeInfo> {
        match self {
            Self::NodeAdded(node) | Self::NodeUpdated(node, _) => Some(node),
            Self::NodeRemoved | Self::PodAssigned(_) | Self::PodFreed(_) | Self::Namespace => None,
        }
    }
}

/// The plugins in their order.
pub struct Framework {
    /// The first that says no ends the search for a node.
    pub filters: Vec<Box<dyn Filter>>,
    /// All are summed up.
    pub scores: Vec<Box<dyn Score>>,
}

impl Framework {
    /// Whether `change` may help a pod that these plugins kept away.
    pub fn may_help(&self, pod: &PodInfo, rejected_by: &BTreeSet<&'static str>, change: &ClusterChange<'_>) -> bool {
        self.filters.iter().any(|filter| rejected_by.contains(filter.name()) && filter.may_help(pod, change))
    }
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn scaling() {
        let scaled = |mut scores: Vec<i64>, reverse| {
            scale(&mut scores, reverse);
            scores
        };
        assert_eq!(scaled(vec![0, 5, 10], false), [0, 50, 100]);
        assert_eq!(scaled(vec![0, 5, 10], true), [100, 50, 0]);
        assert_eq!(scaled(vec![0, 0], true), [100, 100]);
    }
}
