//! Stories of nodes that fall silent and come back, and the two properties.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use proptest::prelude::*;

use super::disruption::{Limiter, ZoneState, zone_state};
use super::eviction::{FirstSeen, Verdict, verdict};
use super::plan::{Action, Grace, Health, NOT_READY, Observed, UNREACHABLE, hear, plan};
use crate::common::time;
use crate::testing::{at, pod};

const GRACE: Grace = Grace { running: Duration::from_secs(50), starting: Duration::from_secs(60) };

fn node(name: &str, ready: &str) -> Node {
    let mut node = Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            creation_timestamp: time::api(at(0)),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    if !ready.is_empty() {
        set(&mut node, "Ready", ready, 0);
    }
    node
}

fn set(node: &mut Node, kind: &str, status: &str, since: i64) {
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        last_heartbeat_time: time::api(at(since)),
        last_transition_time: time::api(at(since)),
        ..NodeCondition::default()
    });
}

fn lease(renewed: i64) -> Lease {
    let spec = LeaseSpec { renew_time: Some(MicroTime(at(renewed))), ..LeaseSpec::default() };
    Lease { spec: Some(spec), ..Lease::default() }
}

fn observed(node: &Node, heard: i64, may_evict: bool) -> Observed {
    let health = Health { sign: (Some(at(heard)), None), heard_at: at(heard) };
    Observed { node: Arc::new(node.clone()), health, pods: Vec::new(), may_evict, was_ready: Some(true) }
}

fn texts(observed: &Observed, now: i64) -> Vec<String> {
    plan(GRACE, observed, at(now)).actions.iter().map(ToString::to_string).collect()
}

fn apply(node: &mut Node, action: Action) {
    match action {
        Action::SetConditions(changed) => {
            let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
            for condition in changed {
                conditions.retain(|present| present.type_ != condition.type_);
                conditions.push(condition);
            }
        }
        Action::SetTaints(taints) => node.spec.get_or_insert_default().taints = Some(taints),
        Action::MarkNotReady { .. } | Action::Note(_) => {}
    }
}

#[test]
fn a_silent_node_is_unknown_tainted_and_comes_back() {
    let mut silent = node("n1", "True");
    let mut look = observed(&silent, 0, true);
    look.pods = vec![pod("web").on("n1").ready_since(-5).arc(), pod("off").on("n1").arc()];
    let early = plan(GRACE, &look, at(50));
    assert!(early.is_quiet());
    assert!(early.requeue_after.is_some_and(|delay| delay < Duration::from_secs(1)), "it looks again when the grace ends");
    assert_eq!(
        texts(&look, 51),
        [
            "conditions Ready=Unknown NodeStatusUnknown, MemoryPressure=Unknown NodeStatusNeverUpdated, \
             DiskPressure=Unknown NodeStatusNeverUpdated, PIDPressure=Unknown NodeStatusNeverUpdated",
            "event Normal NodeNotReady: Node n1 status is now: NodeNotReady",
            "taints [node.kubernetes.io/unreachable:NoSchedule, node.kubernetes.io/unreachable:NoExecute]",
            "not ready default/web",
        ]
    );
    for action in plan(GRACE, &look, at(51)).actions {
        apply(&mut silent, action);
    }
    let again = Observed { was_ready: Some(false), ..observed(&silent, 0, true) };
    assert!(plan(GRACE, &again, at(60)).is_quiet());
    set(&mut silent, "Ready", "True", 70);
    assert_eq!(texts(&observed(&silent, 70, false), 70), ["taints []"], "healthy again");
}

#[test]
fn conditions_and_cordoning_make_taints_and_those_of_others_stay() {
    let mut node = node("n1", "True");
    set(&mut node, "MemoryPressure", "True", 0);
    set(&mut node, "NetworkUnavailable", "True", 0);
    let spec = node.spec.get_or_insert_default();
    spec.unschedulable = Some(true);
    let taint = |key: &str, effect: &str| Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() };
    spec.taints = Some(vec![taint("mine", "NoSchedule"), taint(NOT_READY, "NoSchedule"), taint(UNREACHABLE, "NoExecute")]);
    assert_eq!(
        texts(&observed(&node, 0, false), 1),
        ["taints [mine:NoSchedule, node.kubernetes.io/memory-pressure:NoSchedule, \
          node.kubernetes.io/network-unavailable:NoSchedule, node.kubernetes.io/unschedulable:NoSchedule]"]
    );
}

#[test]
fn what_counts_is_when_we_saw_a_change() {
    let node = node("n1", "True");
    let first = hear(None, &node, Some(&lease(5)), at(100));
    assert_eq!(first.heard_at, at(100), "a new leader gives a whole grace period");
    let second = hear(Some(&first), &node, Some(&lease(5)), at(130));
    assert_eq!(second, first, "nothing new");
    let third = hear(Some(&second), &node, Some(&lease(-1000)), at(140));
    assert_eq!(third.heard_at, at(140), "its clock may be wrong: any change is a sign of life");
    let never = hear(None, &self::node("n2", ""), None, at(30));
    assert_eq!(never.heard_at, at(0), "a node that never spoke is measured from its creation");
}

#[test]
fn zones_and_full_disruption() {
    assert_eq!(zone_state(3, 1), ZoneState::Normal);
    assert_eq!(zone_state(3, 3), ZoneState::Full);
    assert_eq!(zone_state(5, 3), ZoneState::Partial);
    assert_eq!(zone_state(4, 2), ZoneState::Normal, "two are too few to call a zone disrupted");
    let mut limiter = Limiter::default();
    let (a, b, c) = (node("a", "Unknown"), node("b", "Unknown"), node("c", "True"));
    let go = |limiter: &mut Limiter, nodes: &[&Node], now: i64| {
        limiter.round(nodes, |_| false, at(now)).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(go(&mut limiter, &[&a, &b, &c], 0), ["a"], "one every ten seconds");
    assert_eq!(go(&mut limiter, &[&a, &b, &c], 5), ["a"]);
    assert_eq!(go(&mut limiter, &[&a, &b, &c], 10), ["a", "b"]);
    let lost = node("c", "Unknown");
    assert!(go(&mut limiter, &[&a, &b, &lost], 20).is_empty(), "all silent at once: nobody is driven out");
    assert_eq!(limiter.round(&[&a, &b, &c], |node| node.metadata.name.as_deref() == Some("b"), at(30)).len(), 2);
}

#[test]
fn pods_leave_when_their_shortest_toleration_ends() {
    let taint = |key: &str, added: Option<i64>| Taint {
        key: key.to_owned(),
        effect: "NoExecute".to_owned(),
        time_added: added.and_then(|added| time::api(at(added))),
        value: None,
    };
    let toleration = |key: &str, seconds: Option<i64>| Toleration {
        key: (!key.is_empty()).then(|| key.to_owned()),
        operator: Some("Exists".to_owned()),
        toleration_seconds: seconds,
        ..Toleration::default()
    };
    let none = FirstSeen::new();
    let seen: FirstSeen = BTreeMap::from([("k=:NoExecute".to_owned(), at(40))]);
    let plain = pod("p").on("n1").arc();
    let five_minutes = pod("p").on("n1").tolerates(toleration("k", Some(300))).arc();
    let shorter = pod("p").on("n1").tolerates(toleration("k", Some(300))).tolerates(toleration("", Some(20))).arc();
    let forever = pod("p").on("n1").tolerates(toleration("", None)).arc();
    let late = pod("p").on("n1").created(90).tolerates(toleration("k", Some(10))).arc();
    for (what, pod, taints, seen, expected) in [
        ("no taint", &plain, vec![], &none, Verdict::Stay),
        ("not tolerated", &plain, vec![taint("k", Some(50))], &none, Verdict::LeaveAt(at(100))),
        ("for a while", &five_minutes, vec![taint("k", Some(50))], &none, Verdict::LeaveAt(at(350))),
        ("one of two", &five_minutes, vec![taint("k", Some(50)), taint("other", None)], &none, Verdict::LeaveAt(at(100))),
        ("the shortest", &shorter, vec![taint("k", Some(50))], &none, Verdict::LeaveAt(at(70))),
        ("for good", &forever, vec![taint("k", Some(50))], &none, Verdict::Stay),
        ("no time on it", &five_minutes, vec![taint("k", None)], &seen, Verdict::LeaveAt(at(340))),
        ("came later", &late, vec![taint("k", Some(50))], &none, Verdict::LeaveAt(at(100))),
    ] {
        assert_eq!(verdict(pod, &taints, seen, at(100)), expected, "{what}");
    }
    let soft = Taint { effect: "NoSchedule".to_owned(), ..taint("k", None) };
    assert_eq!(verdict(&plain, &[soft], &none, at(100)), Verdict::Stay);
}

proptest! {
    // From any conditions and taints: one round settles the node, and NoExecute is set only where eviction is allowed.
    #[test]
    fn one_round_settles_a_node(
        states in prop::collection::vec((0..5usize, 0..3usize), 0..8),
        taints in prop::collection::vec((0..4usize, 0..2usize), 0..4),
        silent in any::<bool>(),
        may_evict in any::<bool>(),
        cordoned in any::<bool>(),
    ) {
        let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];
        let mut node = node("n1", "");
        for (kind, status) in states {
            set(&mut node, kinds[kind], ["True", "False", "Unknown"][status], 0);
        }
        let keys = [NOT_READY, UNREACHABLE, "node.kubernetes.io/memory-pressure", "mine"];
        let spec = node.spec.get_or_insert_default();
        spec.unschedulable = Some(cordoned);
        for (key, effect) in taints {
            let (key, effect) = (keys[key].to_owned(), ["NoSchedule", "NoExecute"][effect].to_owned());
            spec.taints.get_or_insert_default().push(Taint { key, effect, value: None, time_added: None });
        }
        let now = if silent { 200 } else { 10 };
        for action in plan(GRACE, &observed(&node, 0, may_evict), at(now)).actions {
            apply(&mut node, action);
        }
        let settled = plan(GRACE, &Observed { was_ready: Some(false), ..observed(&node, 0, may_evict) }, at(now + 1));
        prop_assert!(settled.is_quiet(), "still to do: {:?}", settled.actions);
        let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
        let driven_out = taints.iter().any(|taint| taint.effect == "NoExecute" && taint.key != "mine"
            && taint.key != "node.kubernetes.io/memory-pressure");
        prop_assert!(may_evict || !driven_out);
    }
}
