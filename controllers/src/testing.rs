//! Builders of objects for tests of planners.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::common::time;

/// The second `seconds` of the test's time.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

/// A Pod in the making; in namespace `default`, Pending.
pub struct PodBuilder(Pod);

/// A pod of that name, UID `uid-NAME`.
pub fn pod(name: &str) -> PodBuilder {
    PodBuilder(Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(format!("uid-{name}")),
            creation_timestamp: time::api(at(0)),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec::default()),
        status: Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() }),
    })
}

impl PodBuilder {
    fn status(mut self, change: impl FnOnce(&mut PodStatus)) -> Self {
        change(self.0.status.get_or_insert_default());
        self
    }

    pub fn on(mut self, node: &str) -> Self {
        self.0.spec.get_or_insert_default().node_name = Some(node.to_owned());
        self
    }

    pub fn phase(self, phase: &str) -> Self {
        self.status(|status| status.phase = Some(phase.to_owned()))
    }

    pub fn ready_since(self, seconds: i64) -> Self {
        self.phase("Running").status(|status| {
            status.conditions.get_or_insert_default().push(PodCondition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                last_transition_time: time::api(at(seconds)),
                ..PodCondition::default()
            });
        })
    }

    pub fn restarts(self, count: i32) -> Self {
        self.status(|status| {
            let container = ContainerStatus { restart_count: count, ..ContainerStatus::default() };
            status.container_statuses.get_or_insert_default().push(container);
        })
    }

    pub fn created(mut self, seconds: i64) -> Self {
        self.0.metadata.creation_timestamp = time::api(at(seconds));
        self
    }

    pub fn terminating(mut self) -> Self {
        self.0.metadata.deletion_timestamp = time::api(at(0));
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn owned_by(mut self, uid: &str) -> Self {
        self.0.metadata.owner_references.get_or_insert_default().push(OwnerReference {
            controller: Some(true),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        });
        self
    }

    pub fn tolerates(mut self, toleration: Toleration) -> Self {
        self.0.spec.get_or_insert_default().tolerations.get_or_insert_default().push(toleration);
        self
    }

    pub fn arc(self) -> Arc<Pod> {
        Arc::new(self.0)
    }
}

/// Arguments of a command of a golden script: `NAME key=value …`.
pub struct Args<'a>(goldenscript::ArgumentConsumer<'a>);

impl<'a> Args<'a> {
    pub fn of(command: &'a goldenscript::Command) -> Self {
        Self(command.consume_args())
    }

    pub fn next(&mut self) -> Option<&'a str> {
        self.0.next_pos()
    }

    pub fn pairs(&mut self) -> Vec<(String, String)> {
        std::iter::from_fn(|| self.0.next_key()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    pub fn text(&mut self, key: &str) -> Option<&'a str> {
        self.0.take_key(key)
    }

    pub fn get<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, Box<dyn std::error::Error>> {
        let Some(text) = self.0.take_key(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{key}={text} does not parse").into())
    }

    pub fn end(&self) -> Result<(), Box<dyn std::error::Error>> {
        self.0.reject_next()
    }
}

/// Runs every script of `src/FOLDER/testscripts`, each with a fresh runner.
pub fn run_scripts<R: goldenscript::Runner>(folder: &str, fresh: impl Fn() -> R) {
    let folder = format!("{}/src/{folder}/testscripts", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        goldenscript::run(&mut fresh(), entry.unwrap().path()).unwrap();
        count += 1;
    }
    assert!(count > 0);
}
