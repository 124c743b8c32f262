//! Decides which range a node without one gets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::common::{Note, Plan};

/// Prefix length of a node's range.
pub const NODE_PREFIX: u8 = 24;

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    first: u32,
    prefix: u8,
}

impl Cidr {
    fn mask(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    fn overlaps(self, other: Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        self.first & mask == other.first & mask
    }

    /// How many node ranges fit.
    pub fn capacity(self) -> u32 {
        1u32.checked_shl(u32::from(NODE_PREFIX.saturating_sub(self.prefix))).unwrap_or(0)
    }

    fn slice(self, index: u32) -> Self {
        Self { first: self.first + (index << (32 - NODE_PREFIX)), prefix: NODE_PREFIX }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("{text:?} is no IPv4 range such as 10.244.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(problem)?;
        let address: Ipv4Addr = address.parse().map_err(|_| problem())?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(problem)?;
        Ok(Self { first: u32::from(address) & Self::mask(prefix), prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Ranges that we gave out and `nodes` does not show yet, by node UID.
    pub in_flight: BTreeMap<String, Cidr>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Give a node its range.
    Assign {
        /// Its name.
        node: String,
        /// Its UID: the precondition.
        uid: String,
        /// The range.
        cidr: Cidr,
    },
    /// Tell a person, about a node.
    Note {
        /// Its name.
        node: String,
        /// What.
        note: Note,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assign { node, cidr, .. } => write!(f, "{node} gets {cidr}"),
            Self::Note { node, note } => write!(f, "{node}: {note}"),
        }
    }
}

fn ranges(node: &Node) -> Vec<Cidr> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let texts = spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten());
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Gives every node without a range the lowest free one, nodes in order of their names.
pub fn plan(cluster: Cidr, observed: &Observed) -> Plan<Action> {
    let mut plan = Plan::default();
    let mut taken: BTreeSet<Cidr> = observed.nodes.iter().flat_map(|node| ranges(node)).collect();
    taken.extend(observed.in_flight.values());
    let mut waiting: Vec<&Arc<Node>> = observed
        .nodes
        .iter()
        .filter(|node| node.metadata.deletion_timestamp.is_none() && ranges(node).is_empty())
        .filter(|node| !observed.in_flight.contains_key(node.metadata.uid.as_deref().unwrap_or_default()))
        .collect();
    waiting.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut index = 0;
    for node in waiting {
        let name = node.metadata.name.clone().unwrap_or_default();
        let free = (index..cluster.capacity()).find(|index| !taken.iter().any(|other| other.overlaps(cluster.slice(*index))));
        let Some(free) = free else {
            let text = format!("Node {name} status is now: CIDRNotAvailable");
            plan.reasons.push(format!("no free range in {cluster} for {name}"));
            plan.actions.push(Action::Note { node: name, note: Note::normal("CIDRNotAvailable", text) });
            continue;
        };
        index = free + 1;
        let cidr = cluster.slice(free);
        taken.insert(cidr);
        plan.actions.push(Action::Assign { node: name, uid: node.metadata.uid.clone().unwrap_or_default(), cidr });
    }
    plan
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str, cidr: Option<&str>) -> Arc<Node> {
        Arc::new(Node {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                uid: Some(format!("uid-{name}")),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec { pod_cidr: cidr.map(str::to_owned), ..NodeSpec::default() }),
            status: None,
        })
    }

    fn planned(cluster: &str, observed: &Observed) -> Vec<String> {
        plan(cluster.parse().unwrap(), observed).actions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_lowest_free_range_and_nothing_twice() {
        let mut observed = Observed {
            nodes: vec![node("c", None), node("a", Some("10.244.1.0/24")), node("b", None)],
            in_flight: BTreeMap::new(),
        };
        assert_eq!(planned("10.244.0.0/16", &observed), ["b gets 10.244.0.0/24", "c gets 10.244.2.0/24"]);
        observed.in_flight.insert("uid-b".to_owned(), "10.244.0.0/24".parse().unwrap());
        assert_eq!(planned("10.244.0.0/16", &observed), ["c gets 10.244.2.0/24"], "the cache is behind");
    }

    #[test]
    fn a_used_up_range_is_told() {
        let observed = Observed { nodes: vec![node("a", Some("10.0.0.0/24")), node("b", None)], in_flight: BTreeMap::new() };
        assert_eq!(
            planned("10.0.0.0/24", &observed),
            ["b: event Normal CIDRNotAvailable: Node b status is now: CIDRNotAvailable"]
        );
        assert!("10.0.0.0".parse::<Cidr>().is_err());
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    }

    #[test]
    fn somebody_elses_wider_range_is_respected() {
        let observed = Observed { nodes: vec![node("a", Some("10.0.0.0/23")), node("b", None)], in_flight: BTreeMap::new() };
        assert_eq!(planned("10.0.0.0/16", &observed), ["b gets 10.0.2.0/24"]);
    }

    proptest! {
        // Nodes come, go and are seen late: no two live nodes ever share a range, and a settled cluster is left alone.
        #[test]
        fn no_double_allocation_and_quiescence(steps in prop::collection::vec((0usize..12, 0u8..3), 1..60)) {
            let cluster: Cidr = "10.244.0.0/20".parse().unwrap();
            let mut truth: BTreeMap<String, Option<Cidr>> = BTreeMap::new();
            let mut cache = truth.clone();
            let mut in_flight: BTreeMap<String, Cidr> = BTreeMap::new();
            for (which, what) in steps {
                let name = format!("n{which}");
                match what {
                    0 => { truth.entry(name).or_insert(None); }
                    // A node that comes back under its name has another UID.
                    1 => { in_flight.remove(&format!("uid-{name}")); truth.remove(&name); }
                    _ => {
                        cache = truth.clone();
                        in_flight.retain(|uid, _| !cache.get(&uid["uid-".len()..]).is_none_or(|cidr| cidr.is_some()));
                    }
                }
                let nodes = cache.iter().map(|(name, cidr)| node(name, cidr.map(|c| c.to_string()).as_deref())).collect();
                for action in plan(cluster, &Observed { nodes, in_flight: in_flight.clone() }).actions {
                    if let Action::Assign { node, uid, cidr } = action
                        && let Some(slot) = truth.get_mut(&node)
                        && slot.is_none()
                    {
                        *slot = Some(cidr);
                        in_flight.insert(uid, cidr);
                    }
                }
                let given: Vec<Cidr> = truth.values().flatten().copied().collect();
                let distinct: BTreeSet<Cidr> = given.iter().copied().collect();
                prop_assert_eq!(given.len(), distinct.len());
            }
            let nodes = truth.iter().map(|(name, cidr)| node(name, cidr.map(|c| c.to_string()).as_deref())).collect();
            let observed = Observed { nodes, in_flight: BTreeMap::new() };
            for action in plan(cluster, &observed).actions {
                if let Action::Assign { node, cidr, .. } = action {
                    truth.insert(node, Some(cidr));
                }
            }
            let nodes = truth.iter().map(|(name, cidr)| node(name, cidr.map(|c| c.to_string()).as_deref())).collect();
            let settled = plan(cluster, &Observed { nodes, in_flight: BTreeMap::new() });
            prop_assert!(settled.is_quiet(), "still to do: {:?}", settled.actions);
        }
    }
}
