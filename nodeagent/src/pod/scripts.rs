//! The planner's stories: scripts in `testscripts/`, each a pod's life step by step.
//!
//! A toy world carries every action out at once, unless a script holds it back. `settle` also proves quiescence: it
//! ends only when a plan has nothing to do.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus as ApiStatus, Pod};
use serde_json::{Value, json};

use super::observed::{Admission, Memory, NodeFacts, Observed, Op, Outcome, StartFailure};
use super::plan::{Action, plan};
use super::resize::{Allocation, Verdict};
use super::{life, patch, view};
use crate::runtime::{ContainerState, ContainerStatus, SandboxStatus};

pub(super) struct World {
    pub(super) pod: Pod,
    pub(super) seen: Observed,
    pub(super) now: Timestamp,
    made: u32,
    held: Vec<(Op, Action)>,
    fail: Vec<(String, String, String)>,
    refusal: Option<Admission>,
    verdict: Verdict,
    stage: Option<life::Stage>,
}

/// A command, from a script or made up.
#[derive(Debug, Clone)]
pub(super) struct Line {
    name: String,
    args: Vec<(Option<String>, String)>,
}

impl TryFrom<&goldenscript::Command> for Line {
    type Error = Box<dyn Error>;

    fn try_from(command: &goldenscript::Command) -> Result<Self, Self::Error> {
        let args = command.args.iter().map(|argument| match argument {
            goldenscript::Argument::KeyValue(key, value) => (Some(key.clone()), value.clone()),
            goldenscript::Argument::Positional(value) => (None, value.clone()),
            other => (None, other.to_string()),
        });
        Ok(Self { name: command.name.clone(), args: args.collect() })
    }
}

/// Arguments, taken one by one.
struct Args<'a> {
    rest: VecDeque<&'a (Option<String>, String)>,
}

impl<'a> Args<'a> {
    fn next_pos(&mut self) -> Option<&'a str> {
        let at = self.rest.iter().position(|(key, _)| key.is_none())?;
        self.rest.remove(at).map(|(_, value)| value.as_str())
    }

    fn next_key(&mut self) -> Option<(&'a str, &'a str)> {
        let at = self.rest.iter().position(|(key, _)| key.is_some())?;
        self.rest.remove(at).and_then(|(key, value)| Some((key.as_deref()?, value.as_str())))
    }
}

fn epoch() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

impl World {
    pub(super) fn new() -> Self {
        let node = NodeFacts {
            name: "node1".to_owned(),
            host_ips: vec!["192.168.0.1".parse().unwrap()],
            runtime: "docker".to_owned(),
            network_problem: None,
        };
        let seen = Observed { sandboxes: Vec::new(), containers: Vec::new(), node, memory: Memory::new(epoch()) };
        Self {
            pod: Pod::default(),
            seen,
            now: epoch(),
            made: 0,
            held: Vec::new(),
            fail: Vec::new(),
            refusal: None,
            verdict: Verdict::Fits,
            stage: None,
        }
    }

    /// One command of a script.
    pub(super) fn line(&mut self, line: &str) -> Result<String, String> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next().unwrap_or_default();
        let args = words.map(|word| match word.split_once('=') {
            Some((key, value)) => (Some(key.to_owned()), value.to_owned()),
            None => (None, word),
        });
        let command = Line { name, args: args.collect() };
        let mut out = String::new();
        self.run(&command, &mut out).map_err(|error| format!("{line}: {error}\n{out}"))?;
        Ok(out)
    }

    fn make_pod(&mut self, command: &Line) -> Result<(), Box<dyn Error>> {
        let (mut apps, mut inits) = (Vec::new(), Vec::new());
        let mut spec = json!({ "nodeName": "node1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30 });
        for (key, value) in &command.args {
            match (key.as_deref(), value.as_str()) {
                (None, word) => {
                    let (list, mut container) = container(word);
                    if word.starts_with("sidecar/") {
                        container["restartPolicy"] = json!("Always");
                    }
                    if list { inits.push(container) } else { apps.push(container) }
                }
                (Some("restart"), policy) => spec["restartPolicy"] = json!(policy),
                (Some("deadline"), seconds) => spec["activeDeadlineSeconds"] = json!(seconds.parse::<i64>()?),
                (Some("grace"), seconds) => spec["terminationGracePeriodSeconds"] = json!(seconds.parse::<i64>()?),
                (Some("gate"), gate) => spec["readinessGates"] = json!([{ "conditionType": gate }]),
                (Some(key), _) => return Err(format!("what is {key}?").into()),
            }
        }
        spec["containers"] = Value::Array(apps);
        spec["initContainers"] = Value::Array(inits);
        let meta = json!({ "name": "p", "namespace": "ns", "uid": "u1", "generation": 1 });
        self.pod = serde_json::from_value(json!({ "metadata": meta, "spec": spec }))?;
        Ok(())
    }

    /// One plan; its actions are begun, and carried out unless they are to be held.
    fn step(&mut self, hold: bool, out: &mut String) -> Result<bool, Box<dyn Error>> {
        self.seen.notice(&self.pod, self.now);
        let plan = plan(&self.pod, &self.seen, self.now);
        if let Some(before) = self.stage.filter(|before| !life::allowed(*before, plan.stage)) {
            return Err(format!("no way leads from {before} to {}", plan.stage).into());
        }
        if self.stage != Some(plan.stage) {
            writeln!(out, "{}", plan.stage)?;
            self.stage = Some(plan.stage);
        }
        self.pod = patch::applied(&self.pod, &plan.status);
        let any = !plan.actions.is_empty();
        for action in plan.actions {
            writeln!(out, "  {action}")?;
            let raised = match &action {
                Action::Start { raised, .. } => raised.clone(),
                _ => None,
            };
            let until = match &action {
                Action::Stop { grace, .. } => view::after(self.now, *grace),
                _ => self.now,
            };
            self.seen.begin(action.op(), raised, until);
            if hold {
                self.held.push((action.op(), action));
            } else {
                self.carry_out(&action);
            }
        }
        Ok(any)
    }

    fn settle(&mut self, out: &mut String) -> Result<(), Box<dyn Error>> {
        for _ in 0..30 {
            if !self.step(false, out)? {
                return Ok(());
            }
        }
        Err("does not come to rest".into())
    }

    fn carry_out(&mut self, action: &Action) {
        let outcome = match action {
            Action::Admit => Outcome::Admitted(self.refusal.clone().unwrap_or(Admission::Accepted)),
            Action::MountVolumes | Action::Teardown | Action::Delete => self.scripted("volumes").map_or(Outcome::Done, |f| Outcome::Failed(f.1)),
            Action::CreateSandbox { attempt } => Outcome::Sandbox(SandboxStatus {
                id: format!("sandbox{attempt}"),
                pod: view::pod_ref(&self.pod),
                attempt: *attempt,
                ready: true,
                ips: vec!["10.244.0.5".parse().unwrap()],
                created_at: self.now,
            }),
            Action::Start { container, attempt, .. } => self.start(container, *attempt),
            Action::PostStart { container, id } => {
                let failed = self.scripted(&format!("postStart/{container}"));
                Outcome::PostStart(id.clone(), failed.map_or(Ok(()), |failed| Err(failed.1)))
            }
            Action::PreStop { id, .. } => Outcome::PreStop(id.clone()),
            Action::Stop { id, .. } => {
                self.end(id, 143, false);
                let status = self.seen.containers.iter().find(|one| one.id == *id).cloned();
                Outcome::Instance(id.clone(), status)
            }
            Action::Allocate => Outcome::Weighed {
                verdict: self.verdict.clone(),
                allocation: Allocation::of(&self.pod),
                generation: self.pod.metadata.generation.unwrap_or_default(),
            },
            Action::Resize { steps } => match self.scripted("resize") {
                Some((_, error)) => Outcome::Resized { done: Vec::new(), error },
                None => Outcome::Resized { done: steps.clone(), error: String::new() },
            },
            Action::Remove { id, .. } => Outcome::Instance(id.clone(), None),
            Action::StopSandbox { id } => Outcome::SandboxStopped(id.clone()),
        };
        self.seen.finish(&action.op(), outcome, self.now);
    }

    fn scripted(&mut self, what: &str) -> Option<(String, String)> {
        let at = self.fail.iter().position(|(name, ..)| name == what)?;
        let (_, reason, message) = self.fail.remove(at);
        Some((reason, message))
    }

    fn start(&mut self, name: &str, attempt: u32) -> Outcome {
        let units = view::units(&self.pod);
        let spec = units.iter().find(|unit| unit.name() == name).map(|unit| unit.container.clone().into_owned()).unwrap();
        self.made += 1;
        let made_before = self.seen.instances(name).find(|one| one.attempt == attempt).map(|one| one.id.clone());
        let id = made_before.unwrap_or_else(|| format!("{name}-{}", self.made));
        let status = ContainerStatus {
            id: id.clone(),
            pod: view::pod_ref(&self.pod),
            name: name.to_owned(),
            attempt,
            spec_hash: view::spec_hash(&spec),
            image: spec.image.clone().unwrap_or_default(),
            image_id: "sha256:1".to_owned(),
            state: ContainerState::Running { started_at: self.now },
            created_at: self.now,
        };
        if let Some((reason, message)) = self.scripted(name) {
            let made = reason == "RunContainerError";
            let instance = made.then(|| Box::new(ContainerStatus { state: ContainerState::Created, ..status }));
            let (id, spec_hash) = (made.then_some(id), view::spec_hash(&spec));
            return Outcome::NotStarted(StartFailure { reason, message, at: self.now, id, spec_hash, instance });
        }
        Outcome::Started(status)
    }

    fn end(&mut self, id: &str, exit_code: i32, oom_killed: bool) {
        let now = self.now;
        for one in self.seen.containers.iter_mut().filter(|one| one.id == id) {
            if let ContainerState::Running { started_at } = one.state {
                one.state =
                    ContainerState::Exited { started_at, finished_at: now, exit_code, oom_killed, error: String::new() };
            }
        }
    }

    fn newest(&self, name: &str) -> Result<String, Box<dyn Error>> {
        Ok(self.seen.newest(name).map(|one| one.id.clone()).ok_or_else(|| format!("{name} never ran"))?)
    }

    fn status(&self, out: &mut String) -> std::fmt::Result {
        let status = view::status(&self.pod);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        writeln!(out, "phase {} {}", text(&status.phase), text(&status.reason))?;
        if let Some(message) = &status.message {
            writeln!(out, "  {message}")?;
        }
        let lists = [&status.init_container_statuses, &status.container_statuses];
        for one in lists.into_iter().flat_map(|list| list.iter().flatten()) {
            describe(one, out)?;
        }
        for condition in status.conditions.iter().flatten().filter(|c| c.type_ != "PodScheduled") {
            let (reason, message) = (text(&condition.reason), text(&condition.message));
            writeln!(out, "{}={} {reason} {message}", condition.type_, condition.status)?;
        }
        Ok(())
    }

    fn run(&mut self, command: &Line, out: &mut String) -> Result<(), Box<dyn Error>> {
        let mut args = Args { rest: command.args.iter().collect() };
        match command.name.as_str() {
            "pod" => self.make_pod(command)?,
            "settle" => self.settle(out)?,
            "step" => drop(self.step(false, out)?),
            "begin" => drop(self.step(true, out)?),
            "finish" => {
                let held: Vec<_> = std::mem::take(&mut self.held);
                held.iter().for_each(|(_, action)| self.carry_out(action));
            }
            "status" => {
                self.step(true, out)?;
                self.status(out)?;
            }
            "wait" => {
                let seconds: u64 = args.next_pos().ok_or("how long?")?.parse()?;
                self.now = view::after(self.now, Duration::from_secs(seconds));
            }
            "exit" => {
                let id = self.newest(args.next_pos().ok_or("which?")?)?;
                let code = args.next_pos().ok_or("which code?")?.parse()?;
                self.end(&id, code, args.next_pos().is_some());
            }
            "fail" => {
                let mut next = || args.next_pos().map(str::to_owned).unwrap_or_default();
                self.fail.push((next(), next(), next()));
            }
            "refuse" => {
                let reason = args.next_pos().ok_or("why?")?.to_owned();
                self.refusal = Some(Admission::Rejected { reason, message: "Pod was rejected: no".to_owned() });
            }
            "probe" => {
                let name = args.next_pos().ok_or("which?")?.to_owned();
                let id = self.newest(&name)?;
                let memory = self.seen.memory.containers.entry(name).or_default();
                memory.probes.id = id;
                while let Some((kind, word)) = args.next_key() {
                    let result = Some(word == "ok");
                    match kind {
                        "startup" => memory.probes.startup = result,
                        "liveness" => memory.probes.liveness = result,
                        "readiness" => memory.probes.readiness = result,
                        other => return Err(format!("what is {other}?").into()),
                    }
                }
            }
            "probes" => {
                for key in plan(&self.pod, &self.seen, self.now).probes {
                    writeln!(out, "{} {}", key.container, key.kind)?;
                }
            }
            "sandbox-dies" => self.seen.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false),
            "delete" => {
                let grace = args.next_pos().map_or(Ok(30), str::parse)?;
                self.pod.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
                self.pod.metadata.deletion_grace_period_seconds = Some(grace);
            }
            "gone" => self.seen.memory.gone = true,
            "image" => {
                let image = args.next_pos().ok_or("which?")?.to_owned();
                if let Some(spec) = &mut self.pod.spec {
                    spec.containers.iter_mut().for_each(|container| container.image = Some(image.clone()));
                }
            }
            "agent-restarts" => {
                // A pod that is gone from the API stays gone.
                let gone = self.seen.memory.gone;
                self.seen.memory = Memory { gone, ..Memory::new(self.now) };
                self.stage = None;
            }
            other => return Err(format!("what is {other}?").into()),
        }
        Ok(())
    }
}

/// `a`, `init/a`, `sidecar/a`, with `.liveness`, `.readiness`, `.startup`, `.postStart`, `.preStop`.
fn container(word: &str) -> (bool, Value) {
    let (kind, rest) = word.split_once('/').unwrap_or(("", word));
    let mut parts = rest.split('.');
    let mut container = json!({ "name": parts.next(), "image": "img:1", "lifecycle": {} });
    for part in parts {
        match part {
            "postStart" | "preStop" => container["lifecycle"][part] = json!({ "exec": { "command": ["x"] } }),
            probe => container[format!("{probe}Probe")] = json!({ "tcpSocket": { "port": 1 } }),
        }
    }
    (!kind.is_empty(), container)
}

fn describe(one: &ApiStatus, out: &mut String) -> std::fmt::Result {
    let state = one.state.clone().unwrap_or_default();
    let ended = |state: &k8s_openapi::api::core::v1::ContainerState| {
        state.terminated.as_ref().map(|ended| format!("{}({})", ended.reason.clone().unwrap_or_default(), ended.exit_code))
    };
    let mut line = format!("{}:", one.name);
    if let Some(waiting) = &state.waiting {
        write!(line, " Waiting {}", waiting.reason.clone().unwrap_or_default())?;
        if let Some(message) = &waiting.message {
            write!(line, " '{message}'")?;
        }
    } else if state.running.is_some() {
        line.push_str(" Running");
    } else if let Some(text) = ended(&state) {
        write!(line, " Terminated {text}")?;
    }
    if one.ready {
        line.push_str(" ready");
    }
    if let Some(last) = one.last_state.as_ref().and_then(ended) {
        write!(line, " last={last}")?;
    }
    writeln!(out, "{line} restarts={}", one.restart_count)
}

impl goldenscript::Runner for World {
    type Command = Line;

    fn run(&mut self, command: &Line, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        World::run(self, command, &mut out)?;
        Ok(out)
    }
}

#[test]
fn stories() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pod/testscripts");
    let mut told = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        goldenscript::run(&mut World::new(), &path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        told += 1;
    }
    assert!(told > 10, "the scripts are gone");
}
