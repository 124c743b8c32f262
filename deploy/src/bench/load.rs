//! Puts by many clients at once, through etcd's own protocol; the same code for every system.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use balsa_proto::etcd::etcdserverpb::kv_client::KvClient;
use balsa_proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use balsa_proto::etcd::etcdserverpb::request_op::Request as Operation;
use balsa_proto::etcd::etcdserverpb::{PutRequest, RangeRequest, RequestOp, StatusRequest, TxnRequest};
use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

/// What came of it.
pub struct Outcome {
    /// Puts that were acknowledged.
    pub puts: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Each put's time, milliseconds, sorted.
    pub latencies_ms: Vec<f64>,
}

async fn connect(endpoint: &str) -> Result<Channel> {
    Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(Duration::from_secs(1))
        .timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        .connect()
        .await
        .with_context(|| endpoint.to_owned())
}

/// The endpoint of the leader, once all members agree on one.
pub async fn leader(endpoints: &[String]) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut found = None;
        let mut agreeing = 0;
        for endpoint in endpoints {
            let Ok(channel) = connect(endpoint).await else { continue };
            let Ok(status) = MaintenanceClient::new(channel).status(StatusRequest {}).await else { continue };
            let status = status.into_inner();
            agreeing += usize::from(status.leader != 0);
            if status.header.is_some_and(|header| header.member_id == status.leader && status.leader != 0) {
                found = Some(endpoint.clone());
            }
        }
        match found {
            Some(leader) if agreeing == endpoints.len() => return Ok(leader),
            _ if Instant::now() > deadline => bail!("no leader among {} within 30 s", endpoints.join(", ")),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// `clients` put 256-byte values under the keys that `key` gives for 0, 1, … at the leader, over at most ten connections.
pub async fn puts(
    endpoint: &str,
    clients: usize,
    total: u64,
    key: impl Fn(u64) -> String + Copy + Send + 'static,
) -> Result<Outcome> {
    let mut channels = Vec::new();
    for _ in 0..clients.min(10) {
        channels.push(connect(endpoint).await?);
    }
    let next = Arc::new(AtomicU64::new(0));
    let value = Bytes::from(vec![b'v'; 256]);
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let mut kv = KvClient::new(channels[client % channels.len()].clone());
        let (next, value) = (next.clone(), value.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return Ok::<_, tonic::Status>(latencies);
                }
                let key = Bytes::from(key(number));
                let sent = Instant::now();
                kv.put(PutRequest { key, value: value.clone(), ..PutRequest::default() }).await?;
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            }
        });
    }
    let mut latencies_ms = Vec::new();
    while let Some(finished) = tasks.join_next().await {
        latencies_ms.extend(finished.context("a client panicked")?.context("a put failed")?);
    }
    let elapsed = started.elapsed();
    latencies_ms.sort_by(f64::total_cmp);
    Ok(Outcome { puts: latencies_ms.len() as u64, elapsed, latencies_ms })
}

/// `clients` make `count` transactions of `size` puts each: small values under `k/000000000`, `k/000000001`, …
pub async fn batches(endpoint: &str, clients: usize, count: u64, size: u64) -> Result<()> {
    let channel = connect(endpoint).await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (mut kv, next) = (KvClient::new(channel.clone()), next.clone());
        tasks.spawn(async move {
            loop {
                let batch = next.fetch_add(1, Ordering::Relaxed);
                if batch >= count {
                    return Ok::<_, tonic::Status>(());
                }
                let put = |number: u64| {
                    let (key, value) = (format!("k/{number:09}").into(), Bytes::from_static(b"sixteen bytes..."));
                    RequestOp { request: Some(Operation::RequestPut(PutRequest { key, value, ..PutRequest::default() })) }
                };
                let success = (batch * size..(batch + 1) * size).map(put).collect();
                kv.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
            }
        });
    }
    while let Some(finished) = tasks.join_next().await {
        finished.context("a client panicked")?.context("a transaction failed")?;
    }
    Ok(())
}

/// A linearizable get; fails unless the key is there.
pub async fn get(endpoint: &str, key: &str) -> Result<()> {
    let mut kv = KvClient::new(connect(endpoint).await?);
    let answer = kv.range(RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() }).await?;
    if answer.into_inner().count == 1 { Ok(()) } else { bail!("{key} is gone") }
}
