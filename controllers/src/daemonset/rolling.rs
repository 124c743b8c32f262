//! Which old pods go, and which nodes get a second pod, in a rolling update.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::plan::Site;
use super::status::Placed;

/// What a round of the update does.
#[derive(Debug, Default, PartialEq)]
pub struct Round {
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Nodes that get a new pod beside the old one.
    pub surge: Vec<String>,
}

/// What the rules ask about pods.
pub struct Rules<'a> {
    /// Made from the present template.
    pub is_updated: &'a dyn Fn(&Pod) -> bool,
    /// Ready for long enough.
    pub is_available: &'a dyn Fn(&Pod) -> bool,
    /// On its way out.
    pub is_going: &'a dyn Fn(&Pod) -> bool,
}

/// (new, old) of a node; `None` where there are two of a sort: the first loop tidies up.
type Pair<'a> = Option<(Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>)>;

fn pair<'a>(pods: &'a [Arc<Pod>], rules: &Rules<'_>) -> Pair<'a> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|pod| !(rules.is_going)(pod)) {
        let slot = if (rules.is_updated)(pod) { &mut new } else { &mut old };
        if slot.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

fn pods_on<'a>(placed: &'a Placed, node: &str) -> &'a [Arc<Pod>] {
    placed.get(node).map(Vec::as_slice).unwrap_or_default()
}

/// Takes old pods down: those that do not serve at once, of the others so many that at most `most` nodes are without.
/// `sites`: nodes that want a pod or have one.
pub fn take_down(sites: &[Site], placed: &Placed, most: usize, rules: &Rules<'_>) -> Round {
    let (mut unavailable, mut broken, mut serving) = (0, Vec::new(), Vec::new());
    for site in sites {
        match pair(pods_on(placed, &site.node), rules) {
            None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
            Some((Some(new), None)) => unavailable += usize::from(!(rules.is_available)(new)),
            Some((None, Some(old))) if !(rules.is_available)(old) => {
                broken.push(old.clone());
                unavailable += 1;
            }
            Some((None, Some(old))) => serving.push(old.clone()),
        }
    }
    serving.truncate(most.saturating_sub(unavailable));
    broken.extend(serving);
    Round { delete: broken, surge: Vec::new() }
}

/// Puts new pods beside old ones, at most `most` at a time beside those that serve, and takes the old one down once
/// the new one serves.
pub fn put_beside(sites: &[Site], placed: &Placed, most: usize, rules: &Rules<'_>) -> Round {
    let desired = sites.iter().filter(|site| site.wanted).count();
    let (mut surging, mut available) = (0, 0);
    let (mut delete, mut at_once, mut candidates, mut unwanted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for site in sites {
        let Some((new, old)) = pair(pods_on(placed, &site.node), rules) else {
            surging += 1;
            continue;
        };
        available += usize::from(old.or(new).is_some_and(|pod| (rules.is_available)(pod)));
        let Some(old) = old else { continue };
        match (new, (rules.is_available)(old)) {
            (None, false) if !site.wanted => delete.push(old.clone()),
            (None, false) => at_once.push(site.node.clone()),
            (None, true) if !site.wanted => unwanted.push(old.clone()),
            (None, true) => candidates.push(site.node.clone()),
            (Some(new), _) if !(rules.is_available)(new) => surging += 1,
            (Some(_), _) => delete.push(old.clone()),
        }
    }
    // A node that is not wanted any more keeps its pod until others serve in its place.
    unwanted.truncate(available.saturating_sub(desired));
    delete.extend(unwanted);
    candidates.truncate(most.saturating_sub(surging));
    at_once.extend(candidates);
    Round { delete, surge: at_once }
}
