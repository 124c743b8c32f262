//! Jobs, StatefulSets and DaemonSets against an apiserver in memory; the test plays scheduler and node agents.

use std::collections::{BTreeMap, BTreeSet};

use balsa_client::testing::FakeApi;
use balsa_client::{ApiError, Cause, DeleteOptions, Patch};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use crate::cluster_tests::{Leading, namespace, node, typed};
use crate::common::pods;
use crate::daemonset::fit::node_of;
use crate::job::conditions::is_finished;
use crate::job::view::has_finalizer;

fn job(name: &str, spec: Value) -> Job {
    let mut whole = json!({
        "parallelism": 2, "completions": 4, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
        "podReplacementPolicy": "TerminatingOrFailed",
        "selector": {"matchLabels": {"job": name}},
        "template": {
            "metadata": {"labels": {"job": name}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "work"}]},
        },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        whole[field] = value.clone();
    }
    typed(json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": whole}))
}

/// Ends every running pod in `phase`, and those that are going; what nothing holds disappears.
fn end_pods(api: &FakeApi, phase: &str, seen: &mut BTreeMap<String, String>) {
    for mut pod in api.list::<Pod>() {
        if !pods::is_finished(&pod) {
            let phase = if pods::is_terminating(&pod) { "Failed" } else { phase };
            pod.status = typed(json!({ "phase": phase }));
            seen.insert(pods::name(&pod).to_owned(), phase.to_owned());
            api.put(&pod);
        } else if pods::is_terminating(&pod) && !has_finalizer(&pod) {
            api.remove::<Pod>("default", pods::name(&pod));
        }
    }
}

fn reasons(api: &FakeApi) -> BTreeSet<String> {
    api.list::<Event>().into_iter().filter_map(|event| event.reason).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_counted_right_over_a_change_of_leaders() {
    let api = FakeApi::start().await;
    api.put(&namespace("default"));
    let first = Leading::start(&api, "1h");
    api.fail("CREATE pods", 1, ApiError::unavailable("busy"));
    api.fail("UPDATE jobs/status", 1, ApiError::unavailable("busy"));
    api.put(&job("work", json!({})));
    let mut seen = BTreeMap::new();
    api.until("two pods came", |api| (api.list::<Pod>().len() == 2).then_some(())).await;
    end_pods(&api, "Succeeded", &mut seen);
    // Somewhere between the steps of counting them.
    first.end().await;
    let second = Leading::start(&api, "1h");
    let done = api
        .until("the Job is complete", |api| {
            end_pods(api, "Succeeded", &mut seen);
            api.get::<Job>("default", "work").filter(is_finished)
        })
        .await;
    let status = done.status.unwrap();
    assert_eq!((status.succeeded, status.failed.unwrap_or(0), seen.len()), (Some(4), 0, 4), "{status:?}");
    assert!(api.list::<Pod>().iter().all(|pod| !has_finalizer(pod)));
    api.until("events tell the story", |api| reasons(api).contains("Completed").then_some(())).await;
    // Its pods go with it, finalizers or not.
    let client = api.client("kubectl");
    client.delete::<Job>("default", "work", DeleteOptions::default(), &Cause::new("test")).await.unwrap();
    api.until("everything of it is collected", |api| {
        end_pods(api, "Failed", &mut seen);
        api.list::<Pod>().is_empty().then_some(())
    })
    .await;
    second.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_job_ends_and_is_removed_in_time() {
    let api = FakeApi::start().await;
    api.put(&namespace("default"));
    let leading = Leading::start(&api, "1h");
    api.put(&job("work", json!({"backoffLimit": 0, "ttlSecondsAfterFinished": 0})));
    let mut seen = BTreeMap::new();
    api.until("it has failed", |api| {
        end_pods(api, "Failed", &mut seen);
        reasons(api).contains("BackoffLimitExceeded").then_some(())
    })
    .await;
    api.until("it is gone, and its pods", |api| {
        end_pods(api, "Failed", &mut seen);
        (api.list::<Job>().is_empty() && api.list::<Pod>().is_empty()).then_some(())
    })
    .await;
    leading.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_starts_what_is_due() {
    let api = FakeApi::start().await;
    api.put(&namespace("default"));
    let leading = Leading::start(&api, "1h");
    api.put::<CronJob>(&typed(json!({
        "metadata": {"name": "tick", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "schedule": "0 0 1 1 *", "timeZone": "Europe/Berlin", "concurrencyPolicy": "Forbid", "suspend": true,
            "jobTemplate": {"spec": {"parallelism": 1, "completions": 1, "backoffLimit": 0, "template": {}}},
        },
    })));
    let client = api.client("kubectl");
    let go = json!({"spec": {"suspend": false, "schedule": "* * * * *"}});
    client.patch::<CronJob>("default", "tick", "", Patch::Merge(go), &Cause::new("test")).await.unwrap();
    let started = api
        .until("a Job runs", |api| {
            let cron: CronJob = api.get("default", "tick")?;
            let active = cron.status?.active?;
            let job: Job = api.get("default", active.first()?.name.as_deref()?)?;
            Some(job)
        })
        .await;
    assert_eq!(started.metadata.owner_references.unwrap()[0].kind, "CronJob");
    leading.end().await;
}

/// Places and readies pods as a cluster would: each on the node it is for, or on n1.
fn run_pods(api: &FakeApi) {
    for mut pod in api.list::<Pod>() {
        if pods::is_terminating(&pod) {
            api.remove::<Pod>("default", pods::name(&pod));
        } else if !pods::is_ready(&pod) {
            let node = node_of(&pod).unwrap_or("n1").to_owned();
            pod.spec.get_or_insert_default().node_name = Some(node);
            pod.status = typed(json!({
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }));
            api.put(&pod);
        }
    }
}

fn images(api: &FakeApi) -> Vec<(String, String)> {
    let image = |pod: &Pod| pod.spec.as_ref()?.containers.first()?.image.clone();
    let up = |pod: &&Pod| pods::is_active(pod) && pods::is_ready(pod);
    api.list::<Pod>().iter().filter(up).map(|pod| (pods::name(pod).to_owned(), image(pod).unwrap_or_default())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_keeps_names_and_claims() {
    let api = FakeApi::start().await;
    api.put(&namespace("default"));
    let leading = Leading::start(&api, "1h");
    let set = |image: &str| -> StatefulSet {
        typed(json!({
            "metadata": {"name": "db", "namespace": "default"},
            "spec": {
                "replicas": 2, "serviceName": "db", "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
                "selector": {"matchLabels": {"app": "db"}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
                "template": {
                    "metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [{"name": "main", "image": image}]},
                },
            },
        }))
    };
    api.put(&set("v1"));
    let pairs = |image: &str| ["db-0", "db-1"].map(|name| (name.to_owned(), image.to_owned())).to_vec();
    api.until("both pods run", |api| {
        run_pods(api);
        (images(api) == pairs("v1")).then_some(())
    })
    .await;
    let claims: Vec<_> = api.list::<PersistentVolumeClaim>().into_iter().filter_map(|claim| claim.metadata.name).collect();
    assert_eq!(claims, ["data-db-0", "data-db-1"]);
    let mut new: StatefulSet = api.get("default", "db").unwrap();
    new.spec = set("v2").spec;
    new.metadata.resource_version = None;
    api.client("kubectl").update(&new, &Cause::new("test")).await.unwrap();
    api.until("both pods are new, and the status says so", |api| {
        run_pods(api);
        let status = api.get::<StatefulSet>("default", "db")?.status?;
        let done = status.current_revision == status.update_revision && status.updated_replicas == Some(2);
        (images(api) == pairs("v2") && done).then_some(())
    })
    .await;
    assert_eq!(api.list::<ControllerRevision>().len(), 2);
    assert_eq!(api.list::<PersistentVolumeClaim>().len(), 2);
    leading.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_follows_the_nodes() {
    let api = FakeApi::start().await;
    api.put(&namespace("default"));
    api.put(&node("n1"));
    let leading = Leading::start(&api, "1h");
    api.put::<DaemonSet>(&typed(json!({
        "metadata": {"name": "log", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "log"}}, "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {
                "metadata": {"labels": {"app": "log"}},
                "spec": {"containers": [{"name": "main", "image": "v1"}]},
            },
        },
    })));
    let places = |api: &FakeApi| -> Vec<String> {
        let up = |pod: &&Pod| pods::is_active(pod) && pods::is_ready(pod);
        let mut places: Vec<String> = api.list::<Pod>().iter().filter(up).map(|pod| pods::node(pod).to_owned()).collect();
        places.sort();
        places
    };
    api.until("one pod", |api| {
        run_pods(api);
        (places(api) == ["n1"]).then_some(())
    })
    .await;
    api.put(&node("n2"));
    api.until("one on each node, and the status says so", |api| {
        run_pods(api);
        let status = api.get::<DaemonSet>("default", "log")?.status?;
        (places(api) == ["n1", "n2"] && status.number_available == Some(2)).then_some(())
    })
    .await;
    leading.end().await;
}
