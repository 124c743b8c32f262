//! Stories (`testscripts/`) and the two properties of the planner, on a model in which ReplicaSets follow slowly.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use goldenscript::Command;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::plan::{Action, CreateFailure, Observed, plan};
use super::{fence, progress, revision, scale};
use crate::common::time;
use crate::testing::{Args, at, run_scripts};

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "web".to_owned())])
}

fn template(image: &str) -> PodTemplateSpec {
    let container = Container { name: "main".to_owned(), image: Some(image.to_owned()), ..Container::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels()), ..ObjectMeta::default() }),
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
    }
}

fn int_or_string(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
}

fn number(number: Option<i32>) -> i32 {
    number.unwrap_or(0)
}

/// The truth: a Deployment, its ReplicaSets, and what the ReplicaSet controller has done so far.
struct Model {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    created: i64,
    failure: Option<CreateFailure>,
    now: i64,
    /// Names for ReplicaSets in stories: their image.
    log: String,
}

impl Model {
    fn new(replicas: i32) -> Self {
        let deployment = Deployment {
            metadata: ObjectMeta {
                name: Some("web".to_owned()),
                namespace: Some("default".to_owned()),
                uid: Some("uid-web".to_owned()),
                generation: Some(1),
                ..ObjectMeta::default()
            },
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                selector: LabelSelector { match_labels: Some(labels()), match_expressions: None },
                template: template("v1"),
                progress_deadline_seconds: Some(600),
                revision_history_limit: Some(10),
                ..DeploymentSpec::default()
            }),
            status: None,
        };
        Self { deployment, sets: Vec::new(), created: 0, failure: None, now: 0, log: String::new() }
    }

    fn spec(&mut self, change: impl FnOnce(&mut DeploymentSpec)) {
        let spec = self.deployment.spec.as_mut().unwrap();
        let before = spec.clone();
        change(spec);
        if *spec != before {
            *self.deployment.metadata.generation.as_mut().unwrap() += 1;
        }
    }

    fn strategy(&mut self, surge: IntOrString, unavailable: IntOrString) {
        let rolling_update = Some(RollingUpdateDeployment { max_surge: Some(surge), max_unavailable: Some(unavailable) });
        self.spec(|spec| spec.strategy = Some(DeploymentStrategy { rolling_update, type_: Some("RollingUpdate".to_owned()) }));
    }

    fn observed(&self) -> Observed {
        let pods = |set: &ReplicaSet| {
            let status = set.status.clone().unwrap_or_default();
            (set.metadata.uid.clone().unwrap_or_default(), usize::try_from(status.replicas).unwrap())
        };
        Observed {
            sets: self.sets.iter().cloned().map(Arc::new).collect(),
            pods_per_set: self.sets.iter().map(pods).collect(),
            create_in_flight: false,
            failure: self.failure.clone(),
        }
    }

    /// Images name ReplicaSets in stories: hashes say nothing to a reader.
    fn image(set: &ReplicaSet) -> String {
        let spec = set.spec.as_ref().and_then(|spec| spec.template.as_ref()?.spec.as_ref());
        spec.and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default()
    }

    fn apply(&mut self, action: Action) {
        let mut line = action.to_string();
        for set in &self.sets {
            line = line.replace(set.metadata.name.as_deref().unwrap(), &Self::image(set));
        }
        match action {
            Action::Create { set } => {
                line = line.replace(set.metadata.name.as_deref().unwrap(), &Self::image(&set));
                let mut set = *set;
                let name = set.metadata.name.clone().unwrap();
                assert!(self.sets.iter().all(|other| other.metadata.name.as_ref() != Some(&name)), "{name} exists");
                self.created += 1;
                set.metadata.uid = Some(format!("uid-{name}"));
                set.metadata.creation_timestamp = time::api(at(self.created));
                set.status = Some(ReplicaSetStatus::default());
                self.sets.push(set);
            }
            Action::Update { set, .. } => {
                let present = self.sets.iter_mut().find(|present| present.metadata.uid == set.metadata.uid).unwrap();
                *present = *set;
            }
            Action::Delete { uid, .. } => self.sets.retain(|set| set.metadata.uid.as_ref() != Some(&uid)),
            Action::SetRevision { revision } => {
                let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                annotations.insert(revision::REVISION.to_owned(), revision.to_string());
            }
            Action::Adopt { .. } | Action::Release { .. } | Action::Note(_) => {}
        }
        self.log.push_str(&line);
        self.log.push('\n');
    }

    /// Plans and applies. Says whether there was anything to do.
    fn round(&mut self) -> bool {
        self.now += 1;
        let plan = plan(&self.deployment, &self.observed(), at(self.now));
        let quiet = plan.is_quiet();
        for action in plan.actions {
            self.apply(action);
        }
        if let Some(status) = plan.status {
            self.deployment.status = Some(status);
        }
        !quiet
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(scale::size).sum()
    }

    /// Pods that are available and that nobody has given up.
    fn held(&self) -> i32 {
        self.sets.iter().map(|set| scale::available(set).min(scale::size(set))).sum()
    }

    /// The ReplicaSet controller and the nodes do everything they can.
    fn settle_pods(&mut self) {
        for set in &mut self.sets {
            let size = scale::size(set);
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(size),
                available_replicas: Some(size),
                ..ReplicaSetStatus::default()
            });
        }
    }
}

struct Story(Model);

impl Story {
    fn show(model: &mut Model) -> String {
        let mut text = std::mem::take(&mut model.log);
        let status = model.deployment.status.clone().unwrap_or_default();
        let _ = write!(text, "status replicas={} updated={}", number(status.replicas), number(status.updated_replicas));
        let _ = writeln!(text, " available={} unavailable={}", number(status.available_replicas), number(status.unavailable_replicas));
        for condition in status.conditions.iter().flatten() {
            let mut message = condition.message.clone().unwrap_or_default();
            for set in &model.sets {
                message = message.replace(set.metadata.name.as_deref().unwrap(), &format!("web-{}", Model::image(set)));
            }
            let _ = writeln!(text, "{}={} {}: {message}", condition.type_, condition.status, condition.reason.as_deref().unwrap_or_default());
        }
        text
    }
}

impl goldenscript::Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let model = &mut self.0;
        let mut args = Args::of(command);
        match command.name.as_str() {
            // set image=v2 replicas=3 surge=1 unavailable=25% strategy=Recreate paused=true history=2
            "set" => {
                if let Some(image) = args.text("image") {
                    model.spec(|spec| spec.template = template(image));
                }
                if let Some(replicas) = args.get("replicas")? {
                    model.spec(|spec| spec.replicas = Some(replicas));
                }
                if let (Some(surge), Some(unavailable)) = (args.text("surge"), args.text("unavailable")) {
                    model.strategy(int_or_string(surge), int_or_string(unavailable));
                }
                if let Some(strategy) = args.text("strategy") {
                    let strategy = DeploymentStrategy { rolling_update: None, type_: Some(strategy.to_owned()) };
                    model.spec(|spec| spec.strategy = Some(strategy));
                }
                if let Some(paused) = args.get("paused")? {
                    model.spec(|spec| spec.paused = Some(paused));
                }
                if let Some(limit) = args.get("history")? {
                    model.spec(|spec| spec.revision_history_limit = Some(limit));
                }
                args.end()?;
                Ok(String::new())
            }
            // pods IMAGE total=3 available=2
            "pods" => {
                let image = args.next().ok_or("which image?")?;
                let (total, available) = (args.get("total")?.unwrap_or(0), args.get("available")?);
                let set = model.sets.iter_mut().find(|set| Model::image(set) == image).ok_or("no such set")?;
                set.status = Some(ReplicaSetStatus {
                    replicas: total,
                    ready_replicas: available,
                    available_replicas: available,
                    ..ReplicaSetStatus::default()
                });
                args.end()?;
                Ok(String::new())
            }
            // settle: pods follow at once, until nothing is left to do.
            "settle" => {
                for round in 0.. {
                    assert!(round < 100, "never quiet:\n{}", model.log);
                    let busy = model.round();
                    model.settle_pods();
                    if !busy && !model.round() {
                        break;
                    }
                }
                Ok(Self::show(model))
            }
            // fail collision | fail TEXT
            "fail" => {
                model.failure = args.next().map(|text| match text {
                    "collision" => CreateFailure::Collision,
                    text => CreateFailure::Refused(text.to_owned()),
                });
                Ok(String::new())
            }
            // plan [after=SECONDS]
            "plan" => {
                model.now += args.get("after")?.unwrap_or(0);
                let busy = model.round();
                args.end()?;
                Ok(if busy { Self::show(model) } else { "nothing\n".to_owned() })
            }
            // sets: every ReplicaSet
            "sets" => {
                let mut text = String::new();
                for set in &model.sets {
                    let history = set.metadata.annotations.as_ref().and_then(|all| all.get(revision::REVISION_HISTORY));
                    let history = history.map(|history| format!(" before {history}")).unwrap_or_default();
                    writeln!(text, "{} size {} revision {}{history}", Model::image(set), scale::size(set), revision::of(&set.metadata))?;
                }
                Ok(text)
            }
            other => Err(format!("no command {other}").into()),
        }
    }
}

#[test]
fn stories() {
    run_scripts("deployment", || Story(Model::new(3)));
}

#[test]
fn limits_round_as_kubernetes_does() {
    for (replicas, surge, unavailable, expected) in [
        (10, "25%", "25%", (3, 2)),
        (3, "25%", "25%", (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (4, "0", "0", (0, 1)),
        (2, "0%", "10%", (0, 1)),
        (2, "5", "5", (5, 2)),
        (0, "1", "1", (1, 0)),
        (10, "nonsense", "25%", (0, 2)),
    ] {
        let mut model = Model::new(replicas);
        model.strategy(int_or_string(surge), int_or_string(unavailable));
        let limits = (fence::max_surge(&model.deployment), fence::max_unavailable(&model.deployment));
        assert_eq!(limits, expected, "{replicas} replicas, surge {surge}, unavailable {unavailable}");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Image(u8),
    Replicas(i32),
    Pause(bool),
    Recreate(bool),
    Pod(prop::sample::Index, u8),
    Plan,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        1 => (0..4u8).prop_map(Op::Image),
        1 => (0..12i32).prop_map(Op::Replicas),
        1 => any::<bool>().prop_map(Op::Pause),
        1 => prop::bool::weighted(0.2).prop_map(Op::Recreate),
        12 => (any::<prop::sample::Index>(), 0..4u8).prop_map(|(index, what)| Op::Pod(index, what)),
        8 => Just(Op::Plan),
    ];
    prop::collection::vec(op, 1..80)
}

/// One ReplicaSet moves a little: a pod appears, becomes available, stops being so, or a surplus one goes.
fn move_pods(set: &mut ReplicaSet, what: u8) {
    let size = scale::size(set);
    let status = set.status.get_or_insert_default();
    let mut available = status.available_replicas.unwrap_or(0);
    match what {
        0 if status.replicas < size => status.replicas += 1,
        1 if available < status.replicas => available += 1,
        2 if available > 0 => available -= 1,
        3 if status.replicas > size => {
            status.replicas -= 1;
            available = available.min(status.replicas);
        }
        _ => {}
    }
    (status.available_replicas, status.ready_replicas) = (Some(available), Some(available));
}

proptest! {
    #[test]
    fn within_limits_on_the_way_and_quiet_in_the_end(
        replicas in 0..12i32, surge in 0..4i32, unavailable in 0..4i32, ops in ops()
    ) {
        let mut model = Model::new(replicas);
        model.strategy(IntOrString::Int(surge), IntOrString::Int(unavailable));
        let rolling = model.deployment.spec.as_ref().unwrap().strategy.clone();
        for op in ops {
            match op {
                Op::Image(image) => model.spec(|spec| spec.template = template(&format!("v{image}"))),
                Op::Replicas(replicas) => model.spec(|spec| spec.replicas = Some(replicas)),
                Op::Pause(paused) => model.spec(|spec| spec.paused = Some(paused)),
                Op::Recreate(true) => {
                    let recreate = DeploymentStrategy { rolling_update: None, type_: Some("Recreate".to_owned()) };
                    model.spec(|spec| spec.strategy = Some(recreate));
                }
                Op::Recreate(false) => model.spec(|spec| spec.strategy.clone_from(&rolling)),
                Op::Pod(index, what) if !model.sets.is_empty() => {
                    let index = index.index(model.sets.len());
                    move_pods(&mut model.sets[index], what);
                }
                Op::Pod(..) => {}
                Op::Plan => {
                    let wanted = fence::replicas(&model.deployment);
                    let resizing = scale::is_resize(&model.deployment, &model.sets)
                        || model.deployment.spec.as_ref().unwrap().paused == Some(true);
                    let (total, held) = (model.total(), model.held());
                    let old_pods = model.sets.iter().any(|set| set.status.as_ref().is_some_and(|status| status.replicas > 0));
                    let sets = model.sets.len();
                    model.round();
                    let most = wanted + fence::max_surge(&model.deployment);
                    prop_assert!(model.total() <= total.max(most), "{} pods, at most {most} allowed", model.total());
                    if fence::is_rolling(&model.deployment) && !resizing {
                        let least = wanted - fence::max_unavailable(&model.deployment);
                        prop_assert!(model.held() >= held.min(least), "{} held, {held} before, floor {least}", model.held());
                    } else if !fence::is_rolling(&model.deployment) && !resizing && model.sets.len() > sets {
                        prop_assert!(!old_pods, "recreate: a new set while old pods are there");
                    }
                }
            }
        }
        model.spec(|spec| spec.paused = Some(false));
        for round in 0.. {
            prop_assert!(round < 100, "never quiet: {}", model.log);
            let busy = model.round();
            model.settle_pods();
            if !busy && !model.round() {
                break;
            }
        }
        let wanted = fence::replicas(&model.deployment);
        let new = revision::find_new(&model.deployment, &model.sets).expect("a set of the present template");
        prop_assert_eq!(scale::size(&model.sets[new]), wanted);
        prop_assert_eq!(model.total(), wanted);
        let status = model.deployment.status.clone().unwrap();
        prop_assert!(progress::is_complete(&model.deployment, &status));
        let reason = progress::find(&status, progress::PROGRESSING).and_then(|condition| condition.reason.clone());
        prop_assert_eq!(reason.as_deref(), Some(progress::NEW_SET_AVAILABLE));
    }
}
