//! Promises of the planner under whatever happens: random lives of random pods in the toy world of the scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::scripts::World;
use super::view;
use crate::runtime::ContainerState;

/// What may happen to a pod.
#[derive(Debug, Clone)]
enum Event {
    Exit(usize, i32),
    Probe(usize, bool),
    Wait(u64),
    SandboxDies,
    AgentRestarts,
    FailStart(usize, bool),
    NewImage,
    Delete(i64),
    Gone,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        6 => (0..3usize, prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(which, code)| Event::Exit(which, code)),
        4 => (0..3usize, any::<bool>()).prop_map(|(which, well)| Event::Probe(which, well)),
        8 => prop_oneof![Just(1u64), Just(10), Just(60), Just(700)].prop_map(Event::Wait),
        1 => Just(Event::SandboxDies),
        1 => Just(Event::AgentRestarts),
        2 => (0..3usize, any::<bool>()).prop_map(|(which, made)| Event::FailStart(which, made)),
        1 => Just(Event::NewImage),
        1 => prop_oneof![Just(1i64), Just(30)].prop_map(Event::Delete),
        1 => Just(Event::Gone),
    ];
    prop::collection::vec(one, 1..25)
}

const PODS: [&str; 4] = [
    "pod a b restart=Always",
    "pod init/a b.liveness.startup c restart=OnFailure deadline=500",
    "pod sidecar/a.startup b.readiness c.postStart restart=Never",
    "pod a.preStop.liveness b restart=Never grace=5",
];

fn apply(world: &mut World, event: &Event) {
    let name = |which: usize| ["a", "b", "c"][which];
    let line = match event {
        Event::Exit(which, code) => format!("exit {} {code}", name(*which)),
        Event::Probe(which, well) => {
            let word = if *well { "ok" } else { "bad" };
            format!("probe {} startup=ok readiness={word} liveness={word}", name(*which))
        }
        Event::Wait(seconds) => format!("wait {seconds}"),
        Event::SandboxDies => "sandbox-dies".to_owned(),
        Event::AgentRestarts => "agent-restarts".to_owned(),
        Event::FailStart(which, true) => format!("fail {} RunContainerError no", name(*which)),
        Event::FailStart(which, false) => format!("fail {} ErrImagePull no", name(*which)),
        Event::NewImage => "image img:2".to_owned(),
        Event::Delete(seconds) => format!("delete {seconds}"),
        Event::Gone => "gone".to_owned(),
    };
    // A container that never ran cannot exit: nothing happens then.
    let _ = world.line(&line);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_life_comes_to_rest_and_keeps_its_promises(pod in 0..PODS.len(), events in events()) {
        let mut world = World::new();
        world.line(PODS[pod]).unwrap();
        let mut attempts: BTreeMap<String, String> = BTreeMap::new();
        let mut end: Option<String> = None;
        for event in [Event::Wait(0)].iter().chain(&events) {
            apply(&mut world, event);
            if let Err(problem) = world.line("settle") {
                prop_assert!(false, "after {event:?}: {problem}");
            }
            // Never two instances of one number, and never two that run.
            let mut running = BTreeMap::new();
            for instance in &world.seen.containers {
                let number = format!("{}/{}", instance.name, instance.attempt);
                let known = attempts.entry(number.clone()).or_insert_with(|| instance.id.clone());
                prop_assert_eq!(&*known, &instance.id, "{} was started twice", number);
                if matches!(instance.state, ContainerState::Running { .. }) {
                    *running.entry(instance.name.clone()).or_insert(0) += 1;
                }
            }
            prop_assert!(running.values().all(|count| *count == 1), "two instances run: {running:?}");
            // The end is the end.
            let phase = view::status(&world.pod).phase.clone().unwrap_or_default();
            if let Some(end) = &end {
                prop_assert_eq!(end, &phase);
            }
            if phase == "Succeeded" || phase == "Failed" {
                end = Some(phase);
                world.now = view::after(world.now, Duration::from_secs(60));
                world.line("settle").unwrap();
                prop_assert!(!world.seen.anything_alive(), "something runs although the pod has ended");
            }
        }
    }
}
