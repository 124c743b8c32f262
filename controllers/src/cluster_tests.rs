//! All controllers together against an apiserver in memory; the test plays scheduler and node agents.

use std::collections::BTreeMap;
use std::time::Duration;

use balsa_api::meta::GroupVersionResource;
use balsa_client::events::EventRecorder;
use balsa_client::testing::FakeApi;
use balsa_client::{ApiError, Cause, DeleteOptions};
use clap::Parser as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::pods;
use crate::config::Config;
use crate::manager;
use crate::metrics::Metrics;

/// The controllers of one copy, leading.
pub struct Leading {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Leading {
    pub fn start(api: &FakeApi, grace: &str) -> Self {
        let url = api.url();
        let config = Config::parse_from(["test", "--apiservers", &url, "--node-monitor-grace-period", grace]);
        let (client, stop) = (api.client("kube-controller-manager"), CancellationToken::new());
        let recorder = EventRecorder::new(client.clone(), "kube-controller-manager", "");
        let metrics = Metrics::register(&mut Registry::default());
        let token = stop.clone();
        let task = tokio::spawn(async move { manager::lead(&config, "ROOT CA", &client, &recorder, &metrics, token).await });
        Self { stop, task }
    }

    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("the controllers do not end").unwrap();
    }
}

pub fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

pub fn namespace(name: &str) -> Namespace {
    typed(json!({"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}))
}

fn deployment(replicas: i32, image: &str) -> Deployment {
    typed(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    }))
}

pub fn node(name: &str) -> Node {
    typed(json!({
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    }))
}

fn renew(api: &FakeApi, name: &str) {
    let lease: Lease = typed(json!({
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"renewTime": format!("{:.6}", Timestamp::now())},
    }));
    api.put(&lease);
}

/// Binds every pod that has no node and says that all are ready.
fn run_pods(api: &FakeApi, node: &str) {
    for mut pod in api.list::<Pod>() {
        if pods::node(&pod).is_empty() && !pods::is_terminating(&pod) {
            pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
            pod.status = typed(json!({
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }));
            api.put(&pod);
        }
    }
}

fn active(api: &FakeApi) -> Vec<Pod> {
    api.list::<Pod>().into_iter().filter(pods::is_active).collect()
}

fn images(api: &FakeApi) -> BTreeMap<String, usize> {
    let mut images = BTreeMap::new();
    for pod in active(api) {
        let image = pod.spec.and_then(|spec| spec.containers.into_iter().next()?.image).unwrap_or_default();
        *images.entry(image).or_default() += 1;
    }
    images
}

fn complete(api: &FakeApi) -> Option<Deployment> {
    let deployment: Deployment = api.get("default", "web")?;
    let done = crate::deployment::progress::is_complete(&deployment, deployment.status.as_ref()?);
    done.then_some(deployment)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_heals_and_is_collected() {
    let api = FakeApi::start().await;
    api.put(&namespace("default"));
    api.put(&node("n1"));
    let leading = Leading::start(&api, "1h");
    // Every third create is refused once: nothing may be created twice for it.
    api.fail("CREATE pods", 2, ApiError::unavailable("busy"));
    api.put(&deployment(3, "v1"));
    api.until("three pods run", |api| {
        run_pods(api, "n1");
        complete(api)
    })
    .await;
    assert_eq!(api.requests().iter().filter(|request| request.starts_with("CREATE pods ")).count(), 3 + 2);
    let set = api.list::<ReplicaSet>().remove(0);
    assert_eq!(set.metadata.owner_references.as_ref().map(Vec::len), Some(1));

    // A pod vanishes (its node was removed, say): it is replaced.
    let victim = active(&api).remove(0).metadata.name.unwrap();
    api.remove::<Pod>("default", &victim);
    api.until("the pod is replaced", |api| {
        run_pods(api, "n1");
        (active(api).len() == 3).then_some(())
    })
    .await;

    // A new image: all pods are replaced, the Deployment says so.
    let client = api.client("kubectl");
    let mut new: Deployment = api.get("default", "web").unwrap();
    new.spec = deployment(3, "v2").spec;
    new.metadata.resource_version = None;
    client.update(&new, &Cause::new("test")).await.unwrap();
    let done = api
        .until("the rollout ends", |api| {
            run_pods(api, "n1");
            // Node agents end what is terminating.
            for pod in api.list::<Pod>().iter().filter(|pod| pods::is_terminating(pod)) {
                api.remove::<Pod>("default", pods::name(pod));
            }
            complete(api).filter(|_| images(api) == BTreeMap::from([("v2".to_owned(), 3)]))
        })
        .await;
    assert_eq!(done.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "2");
    api.until("events tell the story", |api| {
        let events = api.list::<Event>();
        let has = |reason: &str| events.iter().any(|event| event.reason.as_deref() == Some(reason));
        (has("ScalingReplicaSet") && has("SuccessfulCreate") && has("SuccessfulDelete")).then_some(())
    })
    .await;

    // Background deletion: ReplicaSets and pods follow.
    client.delete::<Deployment>("default", "web", DeleteOptions::default(), &Cause::new("test")).await.unwrap();
    api.until("everything of it is collected", |api| {
        let left = api.list::<Pod>().iter().filter(|pod| !pods::is_terminating(pod)).count();
        (api.list::<ReplicaSet>().is_empty() && left == 0).then_some(())
    })
    .await;
    leading.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_loses_its_pods_and_a_namespace_ends() {
    let api = FakeApi::start().await;
    for name in ["default", "doomed"] {
        api.put(&namespace(name));
    }
    for name in ["n1", "n2"] {
        api.put(&node(name));
        renew(&api, name);
    }
    let leading = Leading::start(&api, "2s");
    api.put(&deployment(2, "v1"));
    api.until("two pods run on n2, and both nodes have ranges", |api| {
        for name in ["n1", "n2"] {
            renew(api, name);
        }
        run_pods(api, "n2");
        let ranges: Vec<_> = api.list::<Node>().into_iter().filter_map(|node| node.spec?.pod_cidr).collect();
        complete(api).filter(|_| ranges == ["10.244.0.0/24", "10.244.1.0/24"])
    })
    .await;

    // n2 falls silent; n1 goes on.
    api.until("the pods of n2 are given up and replaced on n1", |api| {
        renew(api, "n1");
        run_pods(api, "n1");
        let gone = api.list::<Pod>().iter().filter(|pod| pods::node(pod) == "n2").all(pods::is_terminating);
        let on_n1 = active(api).iter().filter(|pod| pods::node(pod) == "n1").count();
        (gone && on_n1 == 2).then_some(())
    })
    .await;
    let n2: Node = api.get("", "n2").unwrap();
    assert_eq!(crate::node_lifecycle::plan::readiness(&n2), "Unknown");
    let given_up = api.list::<Pod>().into_iter().find(|pod| pods::node(pod) == "n2").expect("it waits for its agent");
    let disruption = pods::condition(&given_up, "DisruptionTarget").expect("a reason");
    assert_eq!(disruption.reason.as_deref(), Some("DeletionByTaintManager"));

    // It comes back.
    api.until("n2 is free of taints", |api| {
        renew(api, "n1");
        renew(api, "n2");
        let mut n2: Node = api.get("", "n2")?;
        let ready = crate::node_lifecycle::plan::readiness(&n2) == "True";
        if !ready {
            n2.status = node("n2").status;
            api.put(&n2);
        }
        (ready && n2.spec.and_then(|spec| spec.taints).unwrap_or_default().is_empty()).then_some(())
    })
    .await;

    // Standard objects, restored when altered; then the namespace goes with everything in it.
    api.until("the namespace has its standard objects", |api| {
        let map: ConfigMap = api.get("doomed", "kube-root-ca.crt")?;
        api.get::<ServiceAccount>("doomed", "default")?;
        (map.data?.get("ca.crt")? == "ROOT CA").then_some(())
    })
    .await;
    api.remove::<ServiceAccount>("doomed", "default");
    api.until("the ServiceAccount is back", |api| api.get::<ServiceAccount>("doomed", "default")).await;
    for number in 0..20 {
        api.put::<ConfigMap>(&typed(json!({"metadata": {"name": format!("m{number}"), "namespace": "doomed"}})));
    }
    let client = api.client("kubectl");
    client.delete::<Namespace>("", "doomed", DeleteOptions::default(), &Cause::new("test")).await.unwrap();
    api.until("the namespace is gone", |api| api.get::<Namespace>("", "doomed").is_none().then_some(())).await;
    assert!(api.list::<ConfigMap>().iter().all(|map| map.metadata.namespace.as_deref() != Some("doomed")));
    leading.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_copy_takes_over_and_goes_on() {
    let api = FakeApi::start().await;
    api.put(&namespace("default"));
    let start = |name: &str| {
        let url = api.url();
        let config = Config::parse_from(["test", "--name", name, "--apiservers", &url, "--listen", "127.0.0.1:0"]);
        let stop = CancellationToken::new();
        (stop.clone(), tokio::spawn(crate::run(config, stop)))
    };
    let first = start("a");
    let holder = |api: &FakeApi| {
        let lease: Lease = api.get("kube-system", "kube-controller-manager")?;
        lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
    };
    let leader = api.until("a leader", holder).await;
    assert!(leader.starts_with("a_"), "{leader}");
    let second = start("b");
    api.put(&deployment(2, "v1"));
    api.until("two pods", |api| (active(api).len() == 2).then_some(())).await;
    first.0.cancel();
    tokio::time::timeout(Duration::from_secs(15), first.1).await.expect("it ends").unwrap().unwrap();
    api.until("the other leads", |api| holder(api).filter(|holder| holder.starts_with("b_"))).await;
    let victim = active(&api).remove(0).metadata.name.unwrap();
    api.remove::<Pod>("default", &victim);
    api.until("the pod is replaced", |api| (active(api).len() == 2).then_some(())).await;
    second.0.cancel();
    tokio::time::timeout(Duration::from_secs(15), second.1).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_collected_as_others() {
    let api = FakeApi::start().await;
    for name in ["default", "doomed"] {
        api.put(&namespace(name));
    }
    let leading = Leading::start(&api, "40s");
    // The definition comes when the controllers run already.
    let tabs = GroupVersionResource::new("example.com", "v1", "crontabs");
    let definition = json!({"metadata": {"name": "crontabs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "versions": [{"name": "v1", "served": true, "storage": true}]},
        "status": {"acceptedNames": {"plural": "crontabs", "kind": "CronTab"}, "conditions": [{"type": "Established", "status": "True"}]}});
    api.put_raw(&crate::runtime::definitions::resource(), definition);
    let tab = |namespace: &str| json!({"apiVersion": "example.com/v1", "kind": "CronTab", "metadata": {"name": "owner", "namespace": namespace}});
    let owner = api.put_raw(&tabs, tab("default"));
    let owned: ConfigMap = typed(json!({"metadata": {"name": "owned", "namespace": "default", "ownerReferences": [
        {"apiVersion": "example.com/v1", "kind": "CronTab", "name": "owner", "uid": owner["metadata"]["uid"]}]}}));
    api.put(&owned);
    let client = api.client("kubectl");
    client.delete_raw(&tabs, "default", "owner", DeleteOptions::default(), &Cause::new("test")).await.unwrap();
    api.until("what the custom resource owned is gone", |api| api.get::<ConfigMap>("default", "owned").is_none().then_some(())).await;
    // A namespace takes its custom resources along.
    api.put_raw(&tabs, tab("doomed"));
    client.delete::<Namespace>("", "doomed", DeleteOptions::default(), &Cause::new("test")).await.unwrap();
    api.until("the namespace is gone", |api| api.get::<Namespace>("", "doomed").is_none().then_some(())).await;
    assert!(client.get_raw(&tabs, "doomed", "owner").await.is_err_and(|error| error.is_not_found()));
    leading.end().await;
}
