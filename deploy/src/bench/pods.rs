//! Pod create → Running on a running cluster, beside `docker run` of the same image on the same engine.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use balsa_process::tls::TlsFiles;
use serde_json::{Value, json};

use super::{percentile, print_line};
use crate::http::{self, Api};
use crate::layout::Layout;
use crate::{engine, run};

const IMAGE: &str = "balsa/busybox:1";

/// Measures and prints. The pods are deleted again.
pub fn measure(layout: &Layout, count: u32) -> Result<()> {
    let pki = layout.state_dir()?.join("pki");
    let admin = TlsFiles { ca: pki.join("ca.crt"), cert: pki.join("admin.crt"), key: pki.join("admin.key") };
    let identity = admin.load().context("is a cluster up? `cargo balsa up`")?;
    let api = Api::new(identity, layout.api_port_of(0));
    let runtime = http::runtime()?;
    let mut pods = Vec::new();
    let mut containers = Vec::new();
    for number in 0..count {
        // In turn, so that a noisy minute hits both.
        containers.push(docker_run(layout)?);
        pods.push(runtime.block_on(one_pod(&api, number))?);
    }
    for (what, mut sample) in [("docker-run", containers), ("pod-create-to-running", pods)] {
        sample.sort_by(f64::total_cmp);
        print_line(&json!({
            "bench": what, "image": IMAGE, "count": sample.len(), "min_ms": sample.first(),
            "p50_ms": percentile(&sample, 50.0), "p99_ms": percentile(&sample, 99.0),
        }));
    }
    Ok(())
}

fn docker_run(layout: &Layout) -> Result<f64> {
    let name = layout.container("bench-run");
    let started = Instant::now();
    run::output(&mut engine::docker(&["run", "--detach", "--name", &name, IMAGE, "sleep", "1000"]))?;
    let elapsed = started.elapsed().as_secs_f64() * 1e3;
    run::output(&mut engine::docker(&["rm", "--force", &name]))?;
    Ok(elapsed)
}

async fn one_pod(api: &Api, number: u32) -> Result<f64> {
    let name = format!("bench-{number}");
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0,
                 "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000"]}]},
    });
    let limit = Duration::from_secs(30);
    let started = Instant::now();
    let created = api.send(::http::Method::POST, "/api/v1/namespaces/default/pods", Some(&pod), limit).await?;
    if created.code != 201 {
        bail!("creating {name}: {} {}", created.code, created.body);
    }
    let elapsed = loop {
        let now: Value = api.get(&path).await?;
        if now["status"]["phase"] == "Running" {
            break started.elapsed().as_secs_f64() * 1e3;
        }
        if started.elapsed() > Duration::from_secs(60) {
            bail!("{name} is not Running after 60 s: {}", now["status"]);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    api.send(::http::Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), None, limit).await?;
    Ok(elapsed)
}
