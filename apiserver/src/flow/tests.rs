//! Properties of the machine, and requests that wait for one another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::config::{Configuration, Limits, builtin_of};
use super::machine::{Arrival, LevelLimits, Limited, Machine, Queuing, Ticket, Why};
use super::FlowControl;
use crate::authn::Caller;
use crate::authz::rbac::Attributes;
use crate::watch_cache::Caches;

fn level(name: &str, nominal: u32, lendable: u32, borrowing: Option<u32>) -> LevelLimits {
    let queuing = Some(Queuing { queues: 8, hand: 2, length: 20 });
    LevelLimits { name: name.into(), limited: Some(Limited { nominal, lendable, borrowing, queuing }) }
}

fn runs(machine: &mut Machine, level: &str, flow: u64, width: u32) -> Result<Ticket, Option<Ticket>> {
    match machine.arrive(level, flow, width).0 {
        Arrival::Runs(ticket) => Ok(ticket),
        Arrival::Waits(ticket) => Err(Some(ticket)),
        Arrival::Refused(_) => Err(None),
    }
}

#[test]
fn a_level_lends_what_it_does_not_use_and_gets_it_back_first() {
    let mut machine = Machine::new(&[level("a", 4, 2, None), level("b", 4, 2, None)]);
    let of_a: Vec<Ticket> = (0..6).map(|flow| runs(&mut machine, "a", flow, 1).unwrap()).collect();
    let waiting = runs(&mut machine, "a", 6, 1).unwrap_err().unwrap();
    assert_eq!(machine.load("a"), (6, 1), "its four and what b lends");
    assert!(runs(&mut machine, "b", 0, 1).is_ok() && runs(&mut machine, "b", 1, 1).is_ok(), "what b never lends");
    let of_b = runs(&mut machine, "b", 2, 1).unwrap_err().unwrap();
    assert_eq!(machine.finish(of_a[0], Duration::from_millis(3)), [of_b], "before a borrows more");
    machine.finish(waiting, Duration::ZERO);
    assert_eq!(machine.load("a"), (5, 0));
}

#[test]
fn flows_share_a_level_by_what_they_use() {
    let mut machine = Machine::new(&[level("a", 1, 0, Some(0))]);
    let first = runs(&mut machine, "a", 1, 1).unwrap();
    let mut running = vec![(first, 1)];
    // Flow 1 has a long line before flow 1000 comes; its requests take ten times as long.
    let mut flow_of: BTreeMap<Ticket, u64> = BTreeMap::from([(first, 1)]);
    for flow in [1, 1000] {
        for _ in 0..15 {
            flow_of.insert(runs(&mut machine, "a", flow, 1).unwrap_err().unwrap(), flow);
        }
    }
    let mut served: BTreeMap<u64, usize> = BTreeMap::new();
    for _ in 0..14 {
        let (ticket, flow) = running.remove(0);
        let millis = if flow == 1 { 30 } else { 3 };
        *served.entry(flow).or_default() += 1;
        running.extend(machine.finish(ticket, Duration::from_millis(millis)).into_iter().map(|next| (next, flow_of[&next])));
    }
    assert!(served[&1000] >= 9, "one of each queue, then the quick ones: {served:?}");
}

#[test]
fn a_level_without_queues_refuses() {
    let limited = Limited { nominal: 1, lendable: 0, borrowing: None, queuing: None };
    let mut machine = Machine::new(&[LevelLimits { name: "r".into(), limited: Some(limited) }]);
    assert!(runs(&mut machine, "r", 0, 1).is_ok());
    assert_eq!(machine.arrive("r", 0, 1).0, Arrival::Refused(Why::ConcurrencyLimit));
    assert_eq!(machine.arrive("nope", 0, 1).0, Arrival::Refused(Why::ConcurrencyLimit));
    let mut small = Machine::new(&[level("a", 1, 0, None)]);
    let outcomes: Vec<Arrival> = (0..60).map(|_| small.arrive("a", 7, 1).0).collect();
    assert_eq!(outcomes[59], Arrival::Refused(Why::QueueFull));
    assert_eq!(small.load("a"), (1, 40), "two queues of twenty: others have six more");
    assert!(matches!(small.arrive("a", 123_456_789, 1).0, Arrival::Waits(_)), "another flow still gets in");
}

proptest! {
    /// Never more seats than there are; nobody waits while there is room; all that came ends or was refused.
    #[test]
    fn seats_are_neither_lost_nor_made(
        steps in prop::collection::vec((0..3usize, any::<u64>(), 1..12u32, any::<bool>(), 0..50u64), 1..300),
        lend in 0..5u32,
    ) {
        let levels = [level("a", 5, lend, None), level("b", 5, 2, Some(2)), level("c", 2, 0, Some(0))];
        let mut machine = Machine::new(&levels);
        let (mut running, mut waiting): (Vec<Ticket>, Vec<Ticket>) = (Vec::new(), Vec::new());
        let start = |started: Vec<Ticket>, running: &mut Vec<Ticket>, waiting: &mut Vec<Ticket>| {
            for ticket in started {
                let at = waiting.iter().position(|other| *other == ticket);
                prop_assert!(at.is_some(), "{ticket} started twice or never came");
                waiting.remove(at.unwrap());
                running.push(ticket);
            }
            Ok(())
        };
        for (which, flow, width, ends, millis) in steps {
            let pool = if flow % 2 == 0 { &mut running } else { &mut waiting };
            if ends && !pool.is_empty() {
                let ticket = pool.remove(usize::try_from(flow).unwrap_or(usize::MAX) % pool.len());
                let started = machine.finish(ticket, Duration::from_millis(millis));
                start(started, &mut running, &mut waiting)?;
            } else {
                let (arrival, started) = machine.arrive(&levels[which].name, flow, width);
                start(started, &mut running, &mut waiting)?;
                match arrival {
                    Arrival::Runs(ticket) => running.push(ticket),
                    Arrival::Waits(ticket) => waiting.push(ticket),
                    Arrival::Refused(why) => prop_assert_eq!(why, Why::QueueFull),
                }
            }
            let loads: Vec<(u32, usize)> = levels.iter().map(|level| machine.load(&level.name)).collect();
            prop_assert!(loads.iter().map(|(used, _)| used).sum::<u32>() <= 12, "{:?}", loads);
            prop_assert!(loads[1].0 <= 7 && loads[2].0 <= 2, "borrowing has its limit: {:?}", loads);
            prop_assert_eq!(loads.iter().map(|(_, waiting)| waiting).sum::<usize>(), waiting.len());
            // A wide request may wait for its level's lent seats; but never does everybody wait for nobody.
            prop_assert!(waiting.is_empty() || !running.is_empty(), "{:?}", loads);
        }
        while let Some(ticket) = running.pop() {
            let started = machine.finish(ticket, Duration::ZERO);
            start(started, &mut running, &mut waiting)?;
        }
        prop_assert!(waiting.is_empty(), "everybody had their turn");
    }
}

fn caller(user: &str, group: &str) -> Caller {
    Caller { user: user.into(), groups: vec![group.into(), "system:authenticated".into()], ..Caller::default() }
}

fn ask(verb: &str, group: &str, resource: &str, namespace: &str) -> Attributes {
    let own = str::to_owned;
    Attributes { verb: own(verb), group: own(group), resource: own(resource), namespace: own(namespace), ..Attributes::default() }
}

#[test]
fn requests_belong_to_the_first_schema_that_fits() {
    let configuration = Configuration::new(&[], &[], &Limits::default());
    let level = |caller: &Caller, asked: &Attributes| configuration.classify(caller, asked).level;
    let node = caller("system:node:n", "system:nodes");
    assert_eq!(level(&node, &ask("update", "coordination.k8s.io", "leases", "kube-node-lease")), "node-high");
    assert_eq!(level(&node, &ask("patch", "", "nodes", "")), "node-high");
    assert_eq!(level(&node, &ask("list", "", "pods", "")), "system");
    assert_eq!(level(&caller("root", "system:masters"), &ask("list", "", "pods", "")), "exempt");
    assert_eq!(level(&caller("x", "y"), &ask("list", "", "pods", "d")), "global-default");
    let account = caller("system:serviceaccount:kube-system:x", "system:serviceaccounts");
    assert_eq!(level(&account, &ask("list", "", "pods", "d")), "workload-high");
    let account = caller("system:serviceaccount:d:x", "system:serviceaccounts");
    assert_eq!(level(&account, &ask("list", "", "pods", "d")), "workload-low");
    let probe = Attributes { verb: "get".into(), path: "/readyz".into(), ..Attributes::default() };
    assert_eq!(level(&caller("x", "y"), &probe), "exempt");
    let hash = |user: &str| configuration.classify(&caller(user, "y"), &ask("get", "", "pods", "d")).hash;
    assert!(hash("a") != hash("b") && hash("a") == hash("a"));
    let seats: BTreeMap<&str, u32> =
        configuration.levels.iter().filter_map(|level| Some((level.name.as_str(), level.limited?.nominal))).collect();
    // As kube-apiserver's metric nominal_limit_seats has it for 600 seats.
    let expected = [("catch-all", 13), ("global-default", 49), ("leader-election", 25), ("node-high", 98), ("system", 74),
        ("workload-high", 98), ("workload-low", 245)];
    assert_eq!(seats.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn objects_of_the_cluster_count_and_the_mandatory_ones_are_never_missing() {
    let named = |kind: &str, name: &str| builtin_of(kind).into_iter().find(|object| object["metadata"]["name"] == name).unwrap();
    let mut own = named("FlowSchema", "catch-all");
    own["metadata"] = serde_json::json!({"name": "own", "uid": "u1"});
    own["spec"]["matchingPrecedence"] = 5.into();
    own["spec"]["priorityLevelConfiguration"]["name"] = "own".into();
    let mut level = named("PriorityLevelConfiguration", "node-high");
    level["metadata"] = serde_json::json!({"name": "own", "uid": "u2"});
    let configuration = Configuration::new(&[own], &[level], &Limits::default());
    let flow = configuration.classify(&caller("x", "y"), &ask("get", "", "pods", "d"));
    assert_eq!((flow.level.as_str(), flow.schema_uid.as_str(), flow.level_uid.as_str()), ("own", "u1", "u2"));
    assert_eq!(configuration.classify(&caller("x", "system:masters"), &ask("get", "", "pods", "")).level, "exempt");
    let limits = Limits { fair: false, ..Limits::default() };
    let unfair = Configuration::new(&[], &[], &limits);
    assert_eq!(unfair.classify(&caller("x", "y"), &ask("create", "", "pods", "d")).level, "writing");
}

#[tokio::test(start_paused = true)]
async fn one_client_does_not_starve_the_others() {
    let limits = Limits { reading: 8, writing: 8, fair: true };
    let flow = Arc::new(FlowControl::new(Caches::new(&[]), limits));
    let (greedy, modest) = (caller("greedy", "y"), caller("modest", "y"));
    let asked = ask("get", "", "pods", "d");
    let mut held = Vec::new();
    let mut lines = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (flow, greedy, asked) = (flow.clone(), greedy.clone(), asked.clone());
        match tokio::time::timeout(Duration::from_millis(1), flow.admit(&greedy, &asked, 0)).await {
            Ok(Ok(seat)) => held.push(seat),
            _ => drop(lines.spawn(async move { flow.admit(&greedy, &asked, 0).await.ok() })),
        }
    }
    assert!(!held.is_empty() && held.len() < 16);
    let node = flow.admit(&caller("system:node:n", "system:nodes"), &ask("get", "", "nodes", ""), 0).await;
    assert!(node.is_ok(), "a node's own requests have seats that nobody borrows");
    let waiting = flow.admit(&modest, &asked, 0);
    tokio::pin!(waiting);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    // As many as the queues that one flow may fill.
    for _ in 0..7 {
        held.pop();
        tokio::task::yield_now().await;
    }
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.unwrap().is_ok(), "before the rest of the greedy one's line");
    let refused = flow.admit(&greedy, &asked, 0).await;
    let error = refused.err().unwrap().error;
    assert_eq!((error.code, error.details.retry_after_seconds), (429, 1), "after the longest wait");
    drop(lines);
}
