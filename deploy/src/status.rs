//! `status`: one screen of what a person asks first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use balsa_process::tls::{TlsFiles, TlsIdentity};
use balsa_proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use balsa_proto::etcd::etcdserverpb::{StatusRequest, StatusResponse};
use clap::Args;
use serde_json::Value;
use tonic::transport::Endpoint;

use crate::http::{self, Api};
use crate::layout::Layout;
use crate::up::node_is_ready;

/// Flags of `status`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    #[command(flatten)]
    pub layout: Layout,
}

/// Prints the screen. Parts that do not answer are shown as such.
pub fn status(options: &Options) -> Result<()> {
    let layout = &options.layout;
    let pki = layout.state_dir()?.join("pki");
    let admin = TlsFiles { ca: pki.join("ca.crt"), cert: pki.join("admin.crt"), key: pki.join("admin.key") };
    let identity = admin.load().context("is the cluster up? `cargo balsa up` makes its certificates")?;
    let text = http::runtime()?.block_on(screen(layout, &identity));
    print!("{text}");
    Ok(())
}

async fn screen(layout: &Layout, identity: &TlsIdentity) -> String {
    let mut stores = Vec::new();
    for (index, name) in layout.store_names().into_iter().enumerate() {
        stores.push((name, store(identity, layout.store_port_of(index)).await));
    }
    let mut out = format!("cluster {}\n\n", layout.cluster);
    write_stores(&mut out, &stores);
    let mut answering = None;
    writeln!(out, "\n{:<14}{:<10}", "APISERVER", "READY").ok();
    for (index, name) in layout.apiserver_names().into_iter().enumerate() {
        let api = Api::new(identity.clone(), layout.api_port_of(index));
        let ready = api.send(::http::Method::GET, "/readyz", None, Duration::from_secs(3)).await;
        let shown = match &ready {
            Ok(answer) if answer.code == 200 => "yes".to_owned(),
            Ok(answer) => format!("no: {}", answer.body.lines().next().unwrap_or_default()),
            Err(error) => format!("no: {error:#}"),
        };
        writeln!(out, "{name:<14}{shown}").ok();
        if answering.is_none() && shown == "yes" {
            answering = Some(api);
        }
    }
    let Some(api) = answering else {
        writeln!(out, "\nno apiserver answers: leaders, nodes and pods are unknown").ok();
        return out;
    };
    match api.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases").await {
        Ok(leases) => write_leaders(&mut out, &leases),
        Err(error) => drop(writeln!(out, "\nleaders: {error:#}")),
    }
    match (api.get("/api/v1/nodes").await, api.get("/api/v1/pods").await) {
        (Ok(nodes), Ok(pods)) => {
            write_nodes(&mut out, &nodes, &pods);
            write_pods(&mut out, &pods);
        }
        (Err(error), _) | (_, Err(error)) => drop(writeln!(out, "\nnodes and pods: {error:#}")),
    }
    out
}

async fn store(identity: &TlsIdentity, port: u16) -> Result<StatusResponse> {
    let channel = Endpoint::from_shared(format!("https://localhost:{port}"))?
        .tls_config(identity.tonic_client())?
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(3))
        .connect()
        .await
        .context("does not answer")?;
    Ok(MaintenanceClient::new(channel).status(StatusRequest {}).await?.into_inner())
}

fn write_stores(out: &mut String, stores: &[(String, Result<StatusResponse>)]) {
    let newest = stores.iter().filter_map(|(_, status)| status.as_ref().ok()).map(|status| status.raft_index).max();
    writeln!(out, "{:<14}{:<10}{:>6}{:>10}{:>10}{:>6}{:>12}", "STORE", "ROLE", "TERM", "INDEX", "APPLIED", "LAG", "DB").ok();
    for (name, status) in stores {
        match status {
            Err(error) => writeln!(out, "{name:<14}down: {error:#}").ok(),
            Ok(status) => {
                let own = status.header.as_ref().map_or(0, |header| header.member_id);
                let role = if status.leader == 0 {
                    "no leader"
                } else if status.leader == own {
                    "leader"
                } else if status.is_learner {
                    "learner"
                } else {
                    "follower"
                };
                let lag = newest.unwrap_or(0).saturating_sub(status.raft_applied_index);
                let size = format!("{:.1} MB", status.db_size as f64 / 1e6);
                writeln!(
                    out,
                    "{name:<14}{role:<10}{:>6}{:>10}{:>10}{lag:>6}{size:>12}",
                    status.raft_term, status.raft_index, status.raft_applied_index
                )
                .ok()
            }
        };
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, otherwise: &'a str) -> &'a str {
    value.as_str().unwrap_or(otherwise)
}

fn write_leaders(out: &mut String, leases: &Value) {
    writeln!(out, "\n{:<28}{:<28}{}", "LEADER OF", "HOLDER", "RENEWED").ok();
    for lease in items(leases) {
        // `scheduler1_<uuid>`: the process, and which of its lives.
        let holder = text(&lease["spec"]["holderIdentity"], "").split('_').next().unwrap_or_default();
        writeln!(
            out,
            "{:<28}{:<28}{}",
            text(&lease["metadata"]["name"], "?"),
            if holder.is_empty() { "nobody" } else { holder },
            text(&lease["spec"]["renewTime"], "never")
        )
        .ok();
    }
}

fn write_nodes(out: &mut String, nodes: &Value, pods: &Value) {
    writeln!(out, "\n{:<14}{:<12}{:<18}{:<18}{:>5}", "NODE", "READY", "ADDRESS", "POD CIDR", "PODS").ok();
    for node in items(nodes) {
        let name = text(&node["metadata"]["name"], "?");
        let address = node["status"]["addresses"]
            .as_array()
            .and_then(|addresses| addresses.iter().find(|address| address["type"] == "InternalIP"))
            .map_or("-", |address| text(&address["address"], "-"));
        let own = items(pods).iter().filter(|pod| pod["spec"]["nodeName"] == *name).count();
        let ready = if node_is_ready(node) { "yes" } else { "NO" };
        let cidr = text(&node["spec"]["podCIDR"], "-");
        writeln!(out, "{name:<14}{ready:<12}{address:<18}{cidr:<18}{own:>5}").ok();
    }
}

fn write_pods(out: &mut String, pods: &Value) {
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in items(pods) {
        let phase = if pod["metadata"]["deletionTimestamp"].is_string() {
            "Terminating"
        } else {
            text(&pod["status"]["phase"], "Unknown")
        };
        *phases.entry(phase).or_default() += 1;
    }
    let shown: Vec<String> = phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    writeln!(out, "\npods: {}", if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_being_deleted_is_no_longer_counted_as_running() {
        let pods = serde_json::json!({"items": [
            {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}},
            {"metadata": {}, "status": {"phase": "Running"}},
            {"metadata": {}, "status": {"phase": "Running"}},
        ]});
        let mut out = String::new();
        write_pods(&mut out, &pods);
        assert_eq!(out.trim(), "pods: 2 Running, 1 Terminating");
    }
}
