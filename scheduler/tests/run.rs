//! The scheduler as a whole, against an apiserver in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use balsa_api::status::ApiError;
use balsa_client::testing::FakeApi;
use balsa_proto::scheduler::ExplainRequest;
use balsa_proto::scheduler::scheduler_client::SchedulerClient;
use balsa_scheduler::{Config, run};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod, PodCondition};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    grpc: SocketAddr,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound port")
}

fn start(fake: &FakeApi, name: &str) -> Running {
    let grpc = free_address();
    let config = Config {
        name: name.to_owned(),
        apiservers: vec![fake.url()],
        listen: "127.0.0.1:0".parse().expect("an address"),
        listen_grpc: grpc,
        tls: None,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(config, stop.clone()));
    Running { stop, task, grpc }
}

fn node(name: &str, cpu: &str) -> Node {
    let node = json!({
        "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    serde_json::from_value(node).expect("a node")
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut all = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]},
        "status": {"phase": "Pending"},
    });
    for (field, value) in spec.as_object().expect("an object") {
        all["spec"][field] = value.clone();
    }
    serde_json::from_value(all).expect("a pod")
}

fn node_of(fake: &FakeApi, name: &str) -> Option<String> {
    fake.get::<Pod>("default", name)?.spec?.node_name
}

fn condition(fake: &FakeApi, name: &str) -> Option<PodCondition> {
    let conditions = fake.get::<Pod>("default", name)?.status?.conditions?;
    conditions.into_iter().find(|condition| condition.type_ == "PodScheduled")
}

fn event(fake: &FakeApi, pod: &str, reason: &str) -> Option<Event> {
    fake.list::<Event>()
        .into_iter()
        .find(|event| event.involved_object.name.as_deref() == Some(pod) && event.reason.as_deref() == Some(reason))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_and_one_that_fits_nowhere_says_why_until_it_does() {
    let fake = FakeApi::start().await;
    fake.put(&node("n1", "1500m"));
    let scheduler = start(&fake, "scheduler1");
    fake.put(&pod("web", json!({})));
    let chosen = fake.until("web is bound", |fake| node_of(fake, "web")).await;
    assert_eq!(chosen, "n1");
    let scheduled = fake.until("an event says so", |fake| event(fake, "web", "Scheduled")).await;
    assert_eq!(scheduled.message.as_deref(), Some("Successfully assigned default/web to n1"));
    assert_eq!(scheduled.type_.as_deref(), Some("Normal"));
    assert_eq!(scheduled.reporting_component.as_deref(), Some("default-scheduler"));

    fake.put(&pod("big", json!({})));
    let why = fake.until("big says why it waits", |fake| condition(fake, "big")).await;
    assert_eq!((why.status.as_str(), why.reason.as_deref()), ("False", Some("Unschedulable")));
    let message = "0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(why.message.as_deref(), Some(message));
    let failed = fake.until("an event says why", |fake| event(fake, "big", "FailedScheduling")).await;
    assert_eq!((failed.type_.as_deref(), failed.message.as_deref()), (Some("Warning"), Some(message)));

    let mut explain = SchedulerClient::connect(format!("http://{}", scheduler.grpc)).await.expect("the explain port");
    let request = ExplainRequest { namespace: "default".to_owned(), pod: "big".to_owned() };
    let explained = explain.explain(request).await.expect("an explanation").into_inner();
    assert_eq!(explained.nodes[0].rejections[0].plugin, "NodeResourcesFit");
    assert_eq!(explained.nodes[0].rejections[0].reason, "Insufficient cpu");

    fake.put(&node("n2", "2"));
    assert_eq!(fake.until("big is bound", |fake| node_of(fake, "big")).await, "n2");
    drop(explain);
    scheduler.stop().await;
    let lease: Lease = fake.get("kube-system", "kube-scheduler").expect("the lease");
    assert_eq!(lease.spec.and_then(|spec| spec.holder_identity).as_deref(), Some(""), "released on stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_a_pod_leaves_is_given_to_the_next_and_strangers_are_left_alone() {
    let fake = FakeApi::start().await;
    fake.put(&node("n1", "1"));
    fake.put(&pod("stranger", json!({"schedulerName": "other"})));
    fake.put(&pod("gated", json!({"schedulingGates": [{"name": "wait"}]})));
    fake.put(&pod("first", json!({"nodeName": "n1"})));
    let scheduler = start(&fake, "scheduler1");
    fake.put(&pod("second", json!({})));
    fake.until("second waits", |fake| condition(fake, "second")).await;
    let gated = fake.until("gated says so", |fake| condition(fake, "gated")).await;
    assert_eq!(gated.reason.as_deref(), Some("SchedulingGated"));
    let mut first: Pod = fake.get("default", "first").expect("first");
    first.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
    fake.put(&first);
    assert_eq!(fake.until("second is bound", |fake| node_of(fake, "second")).await, "n1");
    assert_eq!(condition(&fake, "stranger"), None);
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_binding_is_undone_and_a_lost_answer_is_not() {
    let fake = FakeApi::start().await;
    fake.put(&node("n1", "1"));
    let internal = ApiError::new(422, "Invalid", "no");
    fake.fail("BIND pods", 1, internal);
    let scheduler = start(&fake, "scheduler1");
    fake.put(&pod("refused", json!({})));
    let failed = fake.until("the refusal is told", |fake| event(fake, "refused", "FailedScheduling")).await;
    assert_eq!(failed.message.as_deref(), Some("binding rejected: no"));
    assert_eq!(fake.until("it is bound in the end", |fake| node_of(fake, "refused")).await, "n1");

    fake.put(&node("n2", "1"));
    fake.lose_answers("BIND pods", 1, ApiError::timeout("too slow", 1));
    fake.put(&pod("unknown", json!({})));
    assert_eq!(fake.until("it is bound", |fake| node_of(fake, "unknown")).await, "n2");
    fake.until("and known to be", |fake| event(fake, "unknown", "Scheduled")).await;
    // That it found no room may have been said: news of pods and of nodes come on two watches.
    let failed = event(&fake, "unknown", "FailedScheduling").and_then(|event| event.message);
    assert!(failed.as_deref().is_none_or(|message| !message.contains("binding rejected")), "{failed:?}");
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_fill_the_nodes_and_never_more_and_a_second_copy_takes_over() {
    let fake = FakeApi::start().await;
    for index in 0..5 {
        fake.put(&node(&format!("n{index}"), "10"));
    }
    let first = start(&fake, "scheduler1");
    for index in 0..30 {
        fake.put(&pod(&format!("a{index}"), json!({})));
    }
    let bound = |fake: &FakeApi| fake.list::<Pod>().iter().filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())).count();
    fake.until("30 are bound", |fake| (bound(fake) == 30).then_some(())).await;
    let second = start(&fake, "scheduler2");
    first.stop().await;
    for index in 0..30 {
        fake.put(&pod(&format!("b{index}"), json!({})));
    }
    fake.until("50 are bound", |fake| (bound(fake) == 50).then_some(())).await;
    fake.until("10 say why not", |fake| {
        let waiting = (0..30).filter_map(|index| condition(fake, &format!("b{index}")));
        (waiting.filter(|condition| condition.status == "False").count() == 10).then_some(())
    })
    .await;
    let mut per_node: BTreeMap<String, usize> = BTreeMap::new();
    for pod in fake.list::<Pod>() {
        if let Some(node) = pod.spec.and_then(|spec| spec.node_name) {
            *per_node.entry(node).or_insert(0) += 1;
        }
    }
    assert!(per_node.values().all(|pods| *pods == 10), "{per_node:?}");
    second.stop().await;
}
