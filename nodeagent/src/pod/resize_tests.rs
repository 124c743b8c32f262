//! Resizes as the planner sees them: a toy node carries each action out at once.

use super::*;
use crate::pod::observed::{Memory, NodeFacts, Outcome};
use crate::pod::plan::{Plan, plan};
use crate::runtime::{ContainerState, ContainerStatus, SandboxStatus};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn container(name: &str, cpu: &str, memory: &str) -> Value {
    json!({ "name": name, "image": "i:1", "resources": { "requests": { "cpu": cpu, "memory": memory }, "limits": { "cpu": cpu, "memory": memory } } })
}

fn pod(generation: i64, containers: &[Value]) -> Pod {
    serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u1", "generation": generation },
        "spec": { "restartPolicy": "OnFailure", "containers": containers } }))
    .unwrap()
}

/// A pod that runs with what its spec says.
struct Bench {
    pod: Pod,
    seen: Observed,
    now: Timestamp,
    made: u32,
    writes: Vec<String>,
}

impl Bench {
    fn new(pod: Pod) -> Self {
        let node = NodeFacts { name: "n".into(), runtime: "fake".into(), ..NodeFacts::default() };
        let seen = Observed { sandboxes: Vec::new(), containers: Vec::new(), node, memory: Memory::new(at(0)) };
        let mut bench = Self { pod, seen, now: at(0), made: 0, writes: Vec::new() };
        bench.settle(Verdict::Fits);
        bench
    }

    fn plan(&mut self) -> Plan {
        self.seen.notice(&self.pod, self.now);
        let plan = plan(&self.pod, &self.seen, self.now);
        self.pod = crate::pod::patch::applied(&self.pod, &plan.status);
        plan
    }

    fn settle(&mut self, verdict: Verdict) -> Vec<String> {
        let mut events = Vec::new();
        for _ in 0..20 {
            let plan = self.plan();
            for event in &plan.events {
                let text = format!("{}: {}", event.reason, event.message);
                if !events.contains(&text) {
                    events.push(text);
                }
            }
            if plan.actions.is_empty() {
                return events;
            }
            for action in plan.actions {
                self.carry_out(&action, &verdict);
            }
        }
        panic!("does not come to rest: {:?}", self.writes);
    }

    fn carry_out(&mut self, action: &Action, verdict: &Verdict) {
        self.seen.begin(action.op(), None, self.now);
        let pod_ref = view::pod_ref(&self.pod);
        let outcome = match action {
            Action::Admit => Outcome::Admitted(Admission::Accepted),
            Action::CreateSandbox { attempt } => Outcome::Sandbox(SandboxStatus {
                id: "s".into(), pod: pod_ref, attempt: *attempt, ready: true, ips: Vec::new(), created_at: self.now,
            }),
            Action::Start { container, attempt, .. } => {
                self.made += 1;
                self.writes.push(format!("start {container}/{attempt}"));
                let units = view::units(&self.pod);
                let unit = units.iter().find(|unit| unit.name() == container).unwrap();
                Outcome::Started(ContainerStatus {
                    id: format!("{container}-{}", self.made), pod: pod_ref, name: container.clone(), attempt: *attempt,
                    spec_hash: view::spec_hash(&unit.container), image: "i:1".into(), image_id: String::new(),
                    state: ContainerState::Running { started_at: self.now }, created_at: self.now,
                })
            }
            Action::Stop { id, container, why, .. } => {
                self.writes.push(format!("stop {container}: {why}"));
                let mut status = self.seen.containers.iter().find(|one| one.id == *id).cloned().unwrap();
                status.state = ContainerState::Exited {
                    started_at: at(0), finished_at: self.now, exit_code: 0, oom_killed: false, error: String::new(),
                };
                Outcome::Instance(id.clone(), Some(status))
            }
            Action::Allocate => Outcome::Weighed {
                verdict: verdict.clone(),
                allocation: Allocation::of(&self.pod),
                generation: generation(&self.pod),
            },
            Action::Resize { steps } => {
                for step in steps {
                    self.writes.push(match step {
                        Step::Pod(resources) => format!(
                            "pod {} {:?} {:?}", resources.cpu_shares, resources.cpu_limit_milli, resources.memory_limit
                        ),
                        Step::Container { name, limits, shrinks_to, .. } => format!(
                            "{name} {} {:?} {:?}{}", limits.cpu_shares, limits.cpu_limit_milli, limits.memory_limit,
                            if shrinks_to.is_some() { " shrinks" } else { "" }
                        ),
                    });
                }
                Outcome::Resized { done: steps.clone(), error: String::new() }
            }
            Action::MountVolumes => Outcome::Done,
            other => panic!("not in these stories: {other}"),
        };
        self.seen.finish(&action.op(), outcome, self.now);
    }

    fn conditions(&self) -> Vec<String> {
        let status = view::status(&self.pod);
        let of_resize = status.conditions.iter().flatten().filter(|condition| condition.type_.starts_with("PodResize"));
        of_resize
            .map(|c| format!("{} {}: {}", c.type_, c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default()))
            .collect()
    }

    fn change(&mut self, containers: &[Value]) {
        let next = pod(generation(&self.pod) + 1, containers);
        self.pod = Pod { status: self.pod.status.clone(), ..next };
        self.writes.clear();
        self.now = after(self.now, Duration::from_secs(60));
    }

    fn resources(&self, name: &str) -> (Resources, Value) {
        let status = view::status(&self.pod);
        let own = status.container_statuses.iter().flatten().find(|one| one.name == name).unwrap();
        (Resources::of(own.resources.as_ref()), json!(own.allocated_resources))
    }
}

#[test]
fn the_group_grows_first_and_shrinks_last() {
    let mut bench = Bench::new(pod(1, &[container("a", "20m", "30Mi"), container("b", "20m", "30Mi")]));
    assert_eq!(bench.writes, ["start a/0", "start b/0"]);
    bench.change(&[container("a", "30m", "40Mi"), container("b", "15m", "20Mi")]);
    let events = bench.settle(Verdict::Fits);
    const MIB: u64 = 1 << 20;
    assert_eq!(
        bench.writes,
        [
            format!("pod 46 Some(45) Some({})", 60 * MIB),
            format!("b 15 Some(15) Some({}) shrinks", 20 * MIB),
            format!("a 30 Some(30) Some({})", 40 * MIB),
        ]
    );
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[0].starts_with("ResizeStarted: Pod resize started: {") && events[0].contains("\"generation\":2"));
    assert!(events[1].starts_with("ResizeCompleted: Pod resize completed: {"));
    assert!(bench.conditions().is_empty());
    assert_eq!(view::status(&bench.pod).observed_generation, Some(2));
    let (has, allocated) = bench.resources("a");
    assert_eq!((has.limits["memory"].as_str(), &allocated), ("40Mi", &json!({"cpu": "30m", "memory": "40Mi"})));
    bench.change(&[container("a", "10m", "30Mi"), container("b", "15m", "20Mi")]);
    bench.settle(Verdict::Fits);
    assert_eq!(
        bench.writes,
        [format!("a 10 Some(10) Some({}) shrinks", 30 * MIB), format!("pod 25 Some(25) Some({})", 50 * MIB)]
    );
}

#[test]
fn nothing_is_seen_before_it_is_weighed_and_said_until_it_is_done() {
    let mut bench = Bench::new(pod(1, &[container("a", "20m", "30Mi")]));
    bench.change(&[container("a", "30m", "30Mi")]);
    let first = bench.plan();
    assert_eq!(first.actions, [Action::Allocate]);
    assert_eq!(view::status(&bench.pod).observed_generation, Some(1));
    bench.carry_out(&Action::Allocate, &Verdict::Fits);
    let second = bench.plan();
    assert!(matches!(second.actions.as_slice(), [Action::Resize { .. }]));
    assert_eq!(view::status(&bench.pod).observed_generation, Some(2));
    assert_eq!(bench.conditions(), ["PodResizeInProgress : "]);
    let (has, allocated) = bench.resources("a");
    assert_eq!((has.requests["cpu"].as_str(), &allocated["cpu"]), ("20m", &json!("30m")), "given, not there yet");
    bench.settle(Verdict::Fits);
    assert_eq!(bench.resources("a").0.requests["cpu"], "30m");
    assert!(bench.conditions().is_empty());
}

#[test]
fn what_does_not_fit_waits_and_what_never_fits_does_not_ask_again() {
    let mut bench = Bench::new(pod(1, &[container("a", "20m", "30Mi")]));
    bench.change(&[container("a", "2", "30Mi")]);
    let events = bench.settle(Verdict::Deferred("no room".into()));
    assert!(events[0].starts_with("ResizeDeferred: Pod resize Deferred: {") && events[0].contains("no room"));
    assert_eq!(bench.conditions(), ["PodResizePending Deferred: no room"]);
    assert_eq!((bench.writes.len(), view::status(&bench.pod).observed_generation), (0, Some(2)));
    assert!(bench.plan().requeue_after.is_some_and(|wait| wait <= AGAIN));
    bench.now = after(bench.now, AGAIN);
    bench.settle(Verdict::Fits);
    assert!(bench.conditions().is_empty() && bench.writes.len() == 2, "{:?}", bench.writes);
    bench.change(&[container("a", "200", "30Mi")]);
    bench.settle(Verdict::Infeasible("too much".into()));
    assert_eq!(bench.conditions(), ["PodResizePending Infeasible: too much"]);
    bench.now = after(bench.now, Duration::from_secs(3600));
    assert!(bench.plan().actions.is_empty());
    assert_eq!(bench.resources("a").0.requests["cpu"], "2", "the old allocation holds");
    bench.change(&[container("a", "2", "30Mi")]);
    bench.settle(Verdict::Fits);
    assert!(bench.conditions().is_empty(), "taken back");
}

#[test]
fn a_policy_can_ask_for_a_restart() {
    let with_policy = |cpu: &str, memory: &str| {
        let mut made = container("a", cpu, memory);
        made["resizePolicy"] = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" },
            { "resourceName": "cpu", "restartPolicy": "NotRequired" }]);
        made
    };
    let mut bench = Bench::new(pod(1, &[with_policy("20m", "30Mi")]));
    bench.change(&[with_policy("30m", "30Mi")]);
    bench.settle(Verdict::Fits);
    assert!(!bench.writes.iter().any(|write| write.starts_with("stop")), "{:?}", bench.writes);
    bench.change(&[with_policy("30m", "20Mi")]);
    bench.settle(Verdict::Fits);
    // It ends with code 0 under OnFailure and comes back all the same; the group shrinks while nothing runs in it.
    let mib = 20 << 20;
    assert_eq!(bench.writes, ["stop a: resize".to_owned(), format!("pod 30 Some(30) Some({mib})"), "start a/1".to_owned()]);
    assert!(bench.conditions().is_empty());
    assert_eq!(bench.resources("a").0.limits["memory"], "20Mi");
    assert!(bench.plan().actions.is_empty());
}

#[test]
fn an_error_is_said_and_tried_again() {
    let mut bench = Bench::new(pod(1, &[container("a", "20m", "30Mi")]));
    bench.change(&[container("a", "20m", "20Mi")]);
    bench.plan();
    bench.carry_out(&Action::Allocate, &Verdict::Fits);
    let Some(resize @ Action::Resize { .. }) = bench.plan().actions.into_iter().next() else { panic!("no resize") };
    bench.seen.begin(resize.op(), None, bench.now);
    let failed = Outcome::Resized { done: Vec::new(), error: "cannot decrease memory limits: in use".into() };
    bench.seen.finish(&resize.op(), failed, bench.now);
    let plan = bench.plan();
    assert!(plan.actions.is_empty() && plan.requeue_after.is_some());
    assert_eq!(bench.conditions(), ["PodResizeInProgress Error: cannot decrease memory limits: in use"]);
    assert!(plan.events.iter().any(|event| event.reason == "ResizeError"));
    assert_eq!(bench.resources("a").0.limits["memory"], "30Mi");
    bench.now = after(bench.now, Duration::from_secs(30));
    bench.settle(Verdict::Fits);
    assert!(bench.conditions().is_empty());
}

#[test]
fn an_agent_that_comes_back_goes_on_where_the_last_one_was() {
    let mut bench = Bench::new(pod(1, &[container("a", "20m", "30Mi")]));
    bench.change(&[container("a", "30m", "30Mi")]);
    bench.plan();
    bench.carry_out(&Action::Allocate, &Verdict::Fits);
    let kept = bench.seen.memory.resize.kept.clone();
    let text = serde_json::to_string(&kept).unwrap();
    bench.seen.memory = Memory::new(bench.now);
    bench.seen.memory.volumes_mounted = true;
    bench.seen.memory.resize.kept = serde_json::from_str(&text).unwrap();
    bench.settle(Verdict::Infeasible("it is not asked again".into()));
    assert!(bench.writes.iter().any(|write| write.starts_with("a 30")), "{:?}", bench.writes);
    assert!(bench.conditions().is_empty());
}

#[test]
fn spelling_is_no_change() {
    let mut bench = Bench::new(pod(1, &[container("a", "1", "1Gi")]));
    bench.change(&[container("a", "1000m", "1024Mi")]);
    assert!(bench.settle(Verdict::Infeasible("not asked".into())).is_empty());
    assert_eq!((bench.writes.len(), view::status(&bench.pod).observed_generation), (0, Some(2)));
}
