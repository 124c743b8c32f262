//! What is asked of an API server: creates, gets, lists, watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Amounts;
use super::client::Client;
use super::system::System;
use crate::bench::percentile;

const CLIENTS: u64 = 50;
/// Requests share connections as those of one program do.
const CONNECTIONS: usize = 10;
const LISTS: u64 = 10;
const NAMESPACE: &str = "/api/v1/namespaces/bench";
/// Changes per second where delivery is measured unloaded.
const EASY_RATE: u64 = 50;
const DEADLINE: Duration = Duration::from_secs(120);

type Print<'a> = &'a dyn Fn(Value);

/// Everything, in order: what is created first is read afterwards.
pub async fn all(system: &System, amounts: Amounts, print: Print<'_>) -> Result<()> {
    let mut client = system.connect().await?;
    client.done("POST", "/api/v1/namespaces", Some(json!({"metadata": {"name": "bench"}}).to_string())).await?;
    let account = json!({"metadata": {"name": "default"}}).to_string();
    client.done("POST", &format!("{NAMESPACE}/serviceaccounts"), Some(account)).await?;
    let create = |number: u64| ("POST", format!("{NAMESPACE}/pods"), Some(pod(number)));
    measured(system, "create-pod", CLIENTS, amounts.pods, create, print).await?;
    let get = move |number: u64| ("GET", format!("{NAMESPACE}/pods/pod-{:06}", number * 7919 % amounts.pods), None);
    measured(system, "get-pod", CLIENTS, amounts.pods, get, print).await?;
    let update = move |number: u64| {
        let patch = json!({"metadata": {"labels": {"changed": number.to_string()}}}).to_string();
        ("PATCH", format!("{NAMESPACE}/pods/pod-{:06}", number * 7919 % amounts.pods), Some(patch))
    };
    measured(system, "patch-pod", CLIENTS, amounts.pods / 2, update, print).await?;
    let list = |_| ("GET", format!("{NAMESPACE}/pods"), None);
    measured(system, "list-pods", 1, LISTS, list, print).await?;
    measured(system, "list-pods-10-at-once", 10, LISTS * 2, list, print).await?;
    let cached = |_| ("GET", format!("{NAMESPACE}/pods?resourceVersion=0"), None);
    measured(system, "list-pods-any-version", 1, LISTS, cached, print).await?;
    print(json!({"workload": "memory", "pods": amounts.pods, "rss_mib": system.resident_mib()}));
    watch(system, "watch", amounts.watchers, 1_000, None, print).await?;
    watch(system, "watch-easy", 100, 200, Some(EASY_RATE), print).await?;
    print(json!({"workload": "memory-after-watches", "rss_mib": system.resident_mib()}));
    Ok(())
}

/// An ordinary pod, as a Deployment would make it.
fn pod(number: u64) -> String {
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example/app:1.2.3", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "MODE", "value": "production"}, {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "ports": [{"containerPort": 8080, "name": "http"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number:06}"), "labels": {"app": "bench", "part": (number % 10).to_string()}},
        "spec": {"containers": [container("app"), container("side")], "terminationGracePeriodSeconds": 5},
    })
    .to_string()
}

async fn connections(system: &System) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(system.connect().await?);
    }
    Ok(clients)
}

/// `total` requests by `clients` at once.
async fn measured(
    system: &System,
    workload: &str,
    clients: u64,
    total: u64,
    request: impl Fn(u64) -> (&'static str, String, Option<String>) + Copy + Send + 'static,
    print: Print<'_>,
) -> Result<()> {
    let shared = connections(system).await?;
    let next = Arc::new(AtomicU64::new(0));
    let bytes = Arc::new(AtomicU64::new(0));
    let before = system.cpu_micros();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (_, client) in (0..clients).zip(shared.iter().cycle()) {
        let (mut client, next, bytes) = (client.clone(), next.clone(), bytes.clone());
        tasks.spawn(async move {
            let mut took = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return Ok::<_, anyhow::Error>(took);
                }
                let (method, path, body) = request(number);
                let sent = Instant::now();
                let answer = client.done(method, &path, body).await?;
                took.push(sent.elapsed().as_secs_f64() * 1e3);
                bytes.fetch_add(answer.len() as u64, Ordering::Relaxed);
            }
        });
    }
    let mut took = Vec::new();
    while let Some(finished) = tasks.join_next().await {
        took.extend(finished.context("a client panicked")??);
    }
    let seconds = started.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    let after = system.cpu_micros();
    print(json!({
        "workload": workload, "clients": clients, "requests": total, "per_s": (total as f64 / seconds).round(),
        "p50_ms": percentile(&took, 50.0), "p99_ms": percentile(&took, 99.0),
        "apiserver_cpu_us_per_op": (after.0 - before.0) / total, "stores_cpu_us_per_op": (after.1 - before.1) / total,
        "bytes_per_op": bytes.load(Ordering::Relaxed) / total,
    }));
    Ok(())
}

/// `watchers` watch one kind while one object of it changes `changes` times, as fast as 10 clients can or `rate` times a
/// second. Delivery is counted from before the change is sent.
async fn watch(
    system: &System,
    workload: &str,
    watchers: usize,
    changes: u64,
    rate: Option<u64>,
    print: Print<'_>,
) -> Result<()> {
    let shared = connections(system).await?;
    let mut client = system.connect().await?;
    let names = format!("{NAMESPACE}/configmaps");
    let made = json!({"metadata": {"name": workload}, "data": {"sent": "0", "filler": "x".repeat(200)}}).to_string();
    let made: Value = serde_json::from_slice(&client.done("POST", &names, Some(made)).await?)?;
    let from = made["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?.to_owned();
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (_, client) in (0..watchers).zip(shared.iter().cycle()) {
        let path = format!("{names}?watch=true&resourceVersion={from}&fieldSelector=metadata.name={workload}");
        let answer = client.clone().begin("GET", &path, None).await?;
        ensure!(answer.status().as_u16() == 200, "a watch was refused: {}", answer.status());
        tasks.spawn(follow(answer, changes, begun));
    }
    let before = system.cpu_micros();
    let started = Instant::now();
    let path = format!("{names}/{workload}");
    let mut pace = rate.map(|rate| tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate).unwrap_or(1)));
    for number in 0..changes {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        // The time goes with the change.
        let sent = begun.elapsed().as_micros().to_string();
        client.done("PATCH", &path, Some(json!({"data": {"sent": sent, "number": number.to_string()}}).to_string())).await?;
    }
    let mut took = Vec::new();
    while let Some(finished) = tasks.join_next().await {
        took.extend(finished.context("a watcher panicked")??);
    }
    let seconds = started.elapsed().as_secs_f64();
    let after = system.cpu_micros();
    took.sort_by(f64::total_cmp);
    let events = took.len() as f64;
    print(json!({
        "workload": workload, "watchers": watchers, "changes": changes, "per_s": (events / seconds).round(),
        "p50_ms": percentile(&took, 50.0), "p99_ms": percentile(&took, 99.0),
        "apiserver_cpu_us_per_op": (after.0 - before.0) as f64 / events,
        "stores_cpu_us_per_op": (after.1 - before.1) as f64 / events,
    }));
    Ok(())
}

/// Reads `changes` events; says how long each took, milliseconds.
async fn follow(answer: http::Response<hyper::body::Incoming>, changes: u64, begun: Instant) -> Result<Vec<f64>> {
    let mut body = answer.into_body();
    let (mut took, mut line) = (Vec::new(), Vec::new());
    while (took.len() as u64) < changes {
        let frame = tokio::time::timeout(DEADLINE, body.frame()).await.context("an event is missing")?;
        let Some(frame) = frame else { bail!("a watch ended after {} events", took.len()) };
        let Ok(data) = frame?.into_data() else { continue };
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                took.push(age(&line, begun)?);
                line.clear();
            }
        }
    }
    Ok(took)
}

/// How long ago the change of this event was sent, without parsing it all: a watcher should cost little.
fn age(line: &[u8], begun: Instant) -> Result<f64> {
    let text = std::str::from_utf8(line)?;
    let sent = text.split_once("\"sent\":\"").and_then(|(_, rest)| rest.split_once('"'));
    let sent: u64 = sent.context("not the event of a change")?.0.parse()?;
    Ok((begun.elapsed().as_micros() as u64).saturating_sub(sent) as f64 / 1e3)
}
