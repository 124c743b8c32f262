//! Workers and manager over the fake engine and a fake API, with tokio's clock paused.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodStatus, Secret, Service,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::manager::{Facts, Shared, Snapshot};
use super::observed::NodeFacts;
use super::view;
use super::worker::{Desired, Inbox, Worker};
use crate::api::{ApiFailure, ApiResult, PodApi, Token};
use crate::clock;
use crate::runtime::fake::{FakeConfig, FakeRuntime};
use crate::runtime::{Runtime, RuntimeEvent};
use crate::volume::Layout;

/// One pod in an API server of its own.
#[derive(Default)]
struct FakeApi {
    status: Mutex<PodStatus>,
    events: Mutex<Vec<String>>,
    deleted: Mutex<bool>,
    down: Mutex<bool>,
    maps: Mutex<Vec<ConfigMap>>,
}

#[async_trait]
impl PodApi for FakeApi {
    async fn patch_status(&self, pod: &Pod, patch: Value, _: &str) -> ApiResult<()> {
        if *self.down.lock() {
            return Err(ApiFailure::Other("connection refused".to_owned()));
        }
        assert_eq!(patch["metadata"]["uid"], json!(pod.metadata.uid));
        let mut value = serde_json::to_value(&*self.status.lock()).unwrap();
        for (key, new) in patch["status"].as_object().unwrap() {
            if key == "conditions" {
                merge_conditions(&mut value, new.as_array().unwrap());
            } else {
                value[key] = new.clone();
            }
        }
        *self.status.lock() = serde_json::from_value(value).unwrap();
        Ok(())
    }

    async fn delete_pod(&self, _: &Pod, _: &str) -> ApiResult<()> {
        *self.deleted.lock() = true;
        Ok(())
    }

    async fn config_map(&self, _: &str, name: &str) -> ApiResult<ConfigMap> {
        let found = self.maps.lock().iter().find(|map| map.metadata.name.as_deref() == Some(name)).cloned();
        found.ok_or_else(|| ApiFailure::NotFound(format!("configmap \"{name}\" not found")))
    }

    async fn secret(&self, _: &str, name: &str) -> ApiResult<Secret> {
        Err(ApiFailure::NotFound(format!("secret \"{name}\" not found")))
    }

    async fn claim(&self, _: &str, name: &str) -> ApiResult<PersistentVolumeClaim> {
        Err(ApiFailure::NotFound(format!("persistentvolumeclaim \"{name}\" not found")))
    }

    async fn volume(&self, name: &str) -> ApiResult<PersistentVolume> {
        Err(ApiFailure::NotFound(format!("persistentvolume \"{name}\" not found")))
    }

    fn services(&self, _: &str) -> Vec<Service> {
        Vec::new()
    }

    async fn token(&self, _: &Pod, _: Option<&str>, _: i64) -> ApiResult<Token> {
        Err(ApiFailure::Other("no tokens here".to_owned()))
    }

    fn event(&self, _: &Pod, field_path: &str, warning: bool, reason: &str, message: &str) {
        let kind = if warning { "W" } else { "N" };
        self.events.lock().push(format!("{kind} {field_path} {reason}: {message}"));
    }
}

/// As a strategic merge patch does it.
fn merge_conditions(status: &mut Value, patch: &[Value]) {
    let mut all = status["conditions"].as_array().cloned().unwrap_or_default();
    for one in patch {
        all.retain(|old| old["type"] != one["type"]);
        if one.get("$patch").is_none() {
            all.push(one.clone());
        }
    }
    status["conditions"] = all.into();
}

/// A node with one pod.
struct Bench {
    api: Arc<FakeApi>,
    runtime: FakeRuntime,
    shared: Arc<Shared>,
    pod: Pod,
    desired: watch::Sender<Desired>,
    listed: watch::Sender<Snapshot>,
    events: mpsc::Sender<RuntimeEvent>,
    worker: JoinHandle<()>,
}

async fn snapshot(runtime: &FakeRuntime) -> Snapshot {
    let began = Instant::now();
    Snapshot {
        began,
        sandboxes: runtime.list_sandboxes().await.unwrap(),
        containers: runtime.list_containers().await.unwrap(),
    }
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u1" }, "spec": spec })).unwrap()
}

impl Bench {
    async fn new(spec: Value) -> Self {
        let config = FakeConfig { epoch: Some(clock::now()), has_every_image: true, ..FakeConfig::default() };
        let runtime = FakeRuntime::new(config);
        Self::over(runtime, Arc::default(), pod(spec)).await
    }

    async fn over(runtime: FakeRuntime, api: Arc<FakeApi>, pod: Pod) -> Self {
        let object: Node = serde_json::from_value(json!({ "metadata": { "name": "n" }, "status": {
            "allocatable": { "cpu": "4", "memory": "4Gi", "pods": "10" } } }))
        .unwrap();
        let node = NodeFacts { name: "n".to_owned(), runtime: "fake".to_owned(), ..NodeFacts::default() };
        let facts = Facts { node, object, memory_bytes: 4 << 30, ..Facts::default() };
        let layout = Layout::new(std::path::Path::new("/nowhere"));
        let shared = Arc::new(Shared::new(Arc::new(runtime.clone()), api.clone(), layout, true, facts));
        let first = snapshot(&runtime).await;
        let (desired, hear_desired) = watch::channel(Desired { pod: Arc::new(pod.clone()), gone: false });
        let (listed, hear_listed) = watch::channel(first.clone());
        let (events, hear_events) = mpsc::channel(64);
        let worker = Worker::new(shared.clone(), Arc::new(pod.clone()), &first);
        let inbox = Inbox { desired: hear_desired, listed: hear_listed, events: hear_events };
        let worker = tokio::spawn(worker.run(inbox));
        Self { api, runtime, shared, pod, desired, listed, events, worker }
    }

    /// Lets `time` pass as on a node: the engine's events and listings arrive.
    async fn live(&self, time: Duration) {
        let mut engine = self.runtime.events().await.unwrap();
        let end = Instant::now() + time;
        let mut next = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            tokio::select! {
                event = engine.recv() => {
                    let event = event.unwrap();
                    if event.what != "start" && event.what != "create" {
                        let _ = self.events.send(event).await;
                    }
                }
                () = tokio::time::sleep_until(next.min(end)) => {
                    next = Instant::now() + Duration::from_millis(500);
                    let _ = self.listed.send(snapshot(&self.runtime).await);
                }
            }
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&PodStatus) -> bool) {
        for _ in 0..6000 {
            let status = self.api.status.lock().clone();
            if holds(&status) {
                return;
            }
            self.live(Duration::from_millis(100)).await;
        }
        panic!("never came: {what}; status {:?}, events {:?}", self.api.status.lock(), self.api.events.lock());
    }

    fn restarts(&self) -> i32 {
        self.api.status.lock().container_statuses.iter().flatten().map(|one| one.restart_count).sum()
    }

    /// The object with another spec, as the watch brings it.
    fn change(&self, generation: i64, spec: Value) {
        let mut pod = self.pod.clone();
        pod.status = Some(self.api.status.lock().clone());
        pod.metadata.generation = Some(generation);
        pod.spec = serde_json::from_value(spec).unwrap();
        self.desired.send(Desired { pod: Arc::new(pod), gone: false }).unwrap();
    }

    fn delete(&self, grace: i64) {
        let mut pod = self.pod.clone();
        pod.status = Some(self.api.status.lock().clone());
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(clock::now()));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.desired.send(Desired { pod: Arc::new(pod), gone: false }).unwrap();
    }
}

fn phase<'a>(wanted: &'a str) -> impl Fn(&PodStatus) -> bool + 'a {
    move |status| status.phase.as_deref() == Some(wanted)
}

fn waits(status: &PodStatus, reason: &str) -> bool {
    status.container_statuses.iter().flatten().any(|one| {
        let waiting = one.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.and_then(|waiting| waiting.reason.as_deref()) == Some(reason)
    })
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_is_deleted_without_a_trace() {
    let bench = Bench::new(json!({ "containers": [{ "name": "c", "image": "fake/run:1" }] })).await;
    bench.until("Running", phase("Running")).await;
    assert!(bench.api.events.lock().contains(&"N spec.containers{c} Started: Container started".to_owned()));
    bench.delete(30);
    for _ in 0..400 {
        if *bench.api.deleted.lock() {
            break;
        }
        bench.live(Duration::from_millis(100)).await;
    }
    assert!(*bench.api.deleted.lock(), "never deleted");
    assert!(matches!(bench.api.status.lock().phase.as_deref(), Some("Failed" | "Succeeded")), "the last status comes first");
    let left = snapshot(&bench.runtime).await;
    assert!(left.sandboxes.is_empty() && left.containers.is_empty());
    tokio::time::timeout(Duration::from_secs(5), bench.worker).await.expect("the worker ends").unwrap();
    assert!(bench.shared.reported("ns", "p").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_keeps_its_times() {
    let bench = Bench::new(json!({ "containers": [{ "name": "c", "image": "fake/exit:1" }] })).await;
    let began = Instant::now();
    let mut at = Vec::new();
    for wanted in 1..=4 {
        bench.until("the next restart", |_| bench.restarts() >= wanted).await;
        at.push(began.elapsed().as_secs());
    }
    // At once, then 10 s, 20 s and 40 s after each end.
    for (at, expected) in at.iter().zip([0, 10, 30, 70]) {
        assert!((expected..=expected + 4).contains(at), "{at} s is not {expected} s");
    }
    bench.until("the back-off", |status| waits(status, "CrashLoopBackOff")).await;
    let events = bench.api.events.lock().clone();
    assert!(events.contains(&"W spec.containers{c} BackOff: Back-off restarting failed container c in pod p_ns(u1)".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_killed_adopts_what_runs() {
    let bench = Bench::new(json!({ "containers": [{ "name": "c", "image": "fake/run:1" }] })).await;
    bench.until("Running", phase("Running")).await;
    bench.live(Duration::from_secs(5)).await;
    let before = snapshot(&bench.runtime).await.containers;
    bench.worker.abort();
    let mut pod = bench.pod.clone();
    pod.status = Some(bench.api.status.lock().clone());
    let second = Bench::over(bench.runtime.clone(), bench.api.clone(), pod).await;
    second.live(Duration::from_secs(60)).await;
    assert_eq!(snapshot(&second.runtime).await.containers, before, "nothing was touched");
    assert_eq!(second.restarts(), 0);
    assert_eq!(second.api.status.lock().phase.as_deref(), Some("Running"));
}

#[tokio::test(start_paused = true)]
async fn a_status_waits_for_an_api_server_that_is_down() {
    let bench = Bench::new(json!({ "containers": [{ "name": "c", "image": "fake/run:1" }] })).await;
    *bench.api.down.lock() = true;
    bench.live(Duration::from_secs(20)).await;
    assert_eq!(snapshot(&bench.runtime).await.containers.len(), 1, "the pod runs all the same");
    bench.delete(1);
    bench.live(Duration::from_secs(20)).await;
    assert_eq!(snapshot(&bench.runtime).await.sandboxes.len(), 1, "nothing is torn down before the last word is written");
    *bench.api.down.lock() = false;
    bench.until("the last status", |_| *bench.api.deleted.lock()).await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_is_waited_for() {
    let bench = Bench::new(json!({ "containers": [{ "name": "c", "image": "fake/run:1",
        "env": [{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "k" } } }] }] }))
    .await;
    bench.until("the complaint", |status| waits(status, "CreateContainerConfigError")).await;
    let map = serde_json::from_value(json!({ "metadata": { "name": "m" }, "data": { "k": "v" } })).unwrap();
    bench.api.maps.lock().push(map);
    bench.until("Running", phase("Running")).await;
    assert_eq!(view::uid(&bench.pod), "u1");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_the_signal_is_killed_after_the_grace() {
    let bench = Bench::new(json!({ "containers": [{ "name": "c", "image": "fake/run:1",
        "env": [{ "name": "FAKE_IGNORE_TERM", "value": "1" }] }] }))
    .await;
    bench.until("Running", phase("Running")).await;
    let began = Instant::now();
    bench.delete(7);
    bench.until("the end", |_| *bench.api.deleted.lock()).await;
    let took = began.elapsed().as_secs();
    assert!((7..=9).contains(&took), "took {took} s");
}

fn sized(cpu: &str, memory: &str, restart: &str) -> Value {
    let amounts = json!({ "cpu": cpu, "memory": memory });
    json!({ "containers": [{ "name": "c", "image": "fake/run:1", "resources": { "requests": amounts, "limits": amounts },
        "resizePolicy": [{ "resourceName": "memory", "restartPolicy": restart }] }] })
}

/// Whether the status says that the resize of this generation is done, with these amounts.
fn resized<'a>(generation: i64, cpu: &'a str, memory: &'a str) -> impl Fn(&PodStatus) -> bool + 'a {
    move |status| {
        let on_the_way = status.conditions.iter().flatten().any(|condition| condition.type_.starts_with("PodResize"));
        let says = |name: &str, wanted: &str| {
            let own = status.container_statuses.iter().flatten().next();
            let limits = own.and_then(|own| own.resources.as_ref()?.limits.clone()).unwrap_or_default();
            let given = own.and_then(|own| own.allocated_resources.clone()).unwrap_or_default();
            limits.get(name).is_some_and(|amount| amount.0 == wanted) && given.get(name).is_some_and(|amount| amount.0 == wanted)
        };
        !on_the_way && status.observed_generation == Some(generation) && says("cpu", cpu) && says("memory", memory)
    }
}

#[tokio::test(start_paused = true)]
async fn a_resize_reaches_the_engine_without_a_restart() {
    let bench = Bench::new(sized("100m", "64Mi", "NotRequired")).await;
    bench.until("Running", phase("Running")).await;
    let id = snapshot(&bench.runtime).await.containers[0].id.clone();
    assert_eq!(bench.runtime.limits(&id), Some((102, Some(100), Some(64 << 20))));
    bench.change(2, sized("200m", "32Mi", "NotRequired"));
    bench.until("the new size", resized(2, "200m", "32Mi")).await;
    assert_eq!(bench.runtime.limits(&id), Some((204, Some(200), Some(32 << 20))));
    let group = bench.runtime.pod_limits().remove(0);
    assert_eq!((group.cpu_limit_milli, group.memory_limit), (Some(200), Some(32 << 20)));
    assert_eq!(bench.restarts(), 0);
    let events = bench.api.events.lock().clone();
    for reason in ["ResizeStarted", "ResizeCompleted"] {
        assert!(events.iter().any(|event| event.starts_with(&format!("N  {reason}: Pod resize"))), "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_needs_a_restart_gets_one() {
    let bench = Bench::new(sized("100m", "64Mi", "RestartContainer")).await;
    bench.until("Running", phase("Running")).await;
    bench.change(2, sized("100m", "128Mi", "RestartContainer"));
    bench.until("the new size", resized(2, "100m", "128Mi")).await;
    assert_eq!(bench.restarts(), 1);
    let newest = snapshot(&bench.runtime).await.containers.into_iter().max_by_key(|one| one.attempt).unwrap();
    assert_eq!(bench.runtime.limits(&newest.id), Some((102, Some(100), Some(128 << 20))));
    let events = bench.api.events.lock().clone();
    assert!(events.contains(&"N spec.containers{c} Killing: Container c resize requires restart".to_owned()), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_resize_beyond_the_node_waits() {
    let bench = Bench::new(sized("100m", "64Mi", "NotRequired")).await;
    bench.until("Running", phase("Running")).await;
    let says = |reason: &'static str, message: &'static str| {
        move |status: &PodStatus| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.any(|one| {
                one.type_ == "PodResizePending" && one.reason.as_deref() == Some(reason)
                    && one.message.as_deref().is_some_and(|text| text.contains(message))
            })
        }
    };
    bench.change(2, sized("5", "64Mi", "NotRequired"));
    bench.until("the refusal", says("Infeasible", "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000")).await;
    // Another pod takes nearly all of the node.
    let mut other = pod(sized("3500m", "64Mi", "NotRequired"));
    other.metadata.uid = Some("u2".to_owned());
    let other = Arc::new(other);
    bench.shared.note(&other, &other, crate::pod::life::Stage::Running);
    bench.change(3, sized("1", "64Mi", "NotRequired"));
    bench.until("the wait", says("Deferred", "Node didn't have enough resource: cpu, requested: 1000, used: 3500, capacity: 4000")).await;
    bench.shared.forget("u2");
    bench.until("the new size", resized(3, "1", "64Mi")).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_refuses_is_asked_again() {
    let bench = Bench::new(sized("100m", "64Mi", "NotRequired")).await;
    bench.until("Running", phase("Running")).await;
    for _ in 0..2 {
        bench.runtime.fail_next("update_container", crate::runtime::RuntimeError::Other("busy".to_owned()));
    }
    bench.change(2, sized("200m", "64Mi", "NotRequired"));
    let error = |status: &PodStatus| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|one| one.type_ == "PodResizeInProgress" && one.reason.as_deref() == Some("Error") && one.message.as_deref() == Some("busy"))
    };
    bench.until("the error", error).await;
    bench.until("the new size", resized(2, "200m", "64Mi")).await;
}
