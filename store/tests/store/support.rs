//! Clusters in this process, on free loopback ports, and clients for them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{
    PutRequest, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse, kv_client::KvClient,
    lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
    watch_request::RequestUnion,
};
use balsa_store::{Config, Handle};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Longest that anything is waited for: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Ports that were free a moment ago.
pub fn free_ports(count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

/// A cluster of three, each replica of which can be stopped and started.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub configs: Vec<Config>,
    pub replicas: Vec<Option<Handle>>,
}

impl Cluster {
    /// Three running replicas; `adjust` may change their flags.
    pub async fn start(adjust: impl Fn(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let configs = configs(dir.path(), adjust);
        let mut cluster = Self { dir, configs, replicas: vec![None, None, None] };
        for number in 0..3 {
            cluster.run(number).await;
        }
        cluster
    }

    /// Starts a replica.
    pub async fn run(&mut self, number: usize) {
        // The port of one that was just stopped may be taken for a moment.
        let deadline = Instant::now() + PATIENCE;
        loop {
            match balsa_store::start(self.configs[number].clone(), CancellationToken::new()).await {
                Ok(handle) => return self.replicas[number] = Some(handle),
                Err(error) if Instant::now() < deadline => {
                    eprintln!("replica {number} does not start yet: {error:#}");
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("replica {number} does not start: {error:#}"),
            }
        }
    }

    /// Stops a replica.
    pub async fn halt(&mut self, number: usize) {
        self.replicas[number].take().unwrap().stop().await.unwrap();
    }

    pub fn url(&self, number: usize) -> String {
        format!("http://{}", self.configs[number].listen_client)
    }

    /// The running replica that all running ones follow.
    pub async fn leader(&self) -> usize {
        eventually("one leader is followed by all", async || {
            let running: Vec<_> = self.replicas.iter().enumerate().filter_map(|(n, r)| Some((n, r.as_ref()?))).collect();
            let leaders: BTreeSet<_> = running.iter().map(|(_, r)| r.replica.leadership().borrow().leader).collect();
            let leader = (*leaders.first()?)?;
            if leaders.len() > 1 {
                return None;
            }
            running.iter().find(|(_, r)| r.replica.id() == leader).map(|(number, _)| *number)
        })
        .await
    }
}

/// The flags of three replicas on free ports.
pub fn configs(dir: &std::path::Path, adjust: impl Fn(&mut Config)) -> Vec<Config> {
    let ports = free_ports(9);
    let cluster: Vec<String> = (0..3).map(|n| format!("store{}=http://{}", n + 1, ports[n * 3 + 1])).collect();
    let config = |n: usize| {
        let mut config = Config::single(dir.join(format!("store{}", n + 1)));
        config.name = format!("store{}", n + 1);
        (config.listen_client, config.listen_peer, config.listen_metrics) = (ports[n * 3], ports[n * 3 + 1], ports[n * 3 + 2]);
        config.initial_cluster = cluster.join(",");
        config.request_timeout = 20_000;
        adjust(&mut config);
        config
    };
    (0..3).map(config).collect()
}

/// Asks until the answer is there.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        sleep(Duration::from_millis(30)).await;
    }
}

/// A client of one replica.
pub struct Client {
    pub kv: KvClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
}

impl Client {
    pub fn new(url: &str) -> Self {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy();
        Self {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel),
        }
    }

    /// Writes and returns the revision.
    pub async fn put(&mut self, key: &str, value: &str) -> Result<i64, tonic::Status> {
        let request = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        Ok(self.kv.put(request).await?.into_inner().header.unwrap().revision)
    }

    pub async fn get(&mut self, key: &str) -> Result<Option<String>, tonic::Status> {
        let request = RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let response = self.kv.range(request).await?.into_inner();
        Ok(response.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap()))
    }

    pub async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, tonic::Status> {
        Ok(self.kv.range(request).await?.into_inner())
    }

    /// A watch stream with one watcher that was confirmed.
    pub async fn watch(&mut self, create: WatchCreateRequest) -> Watching {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await.unwrap();
        let answers = self.watch.watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let mut watching = Watching { requests, answers };
        assert!(watching.next().await.created);
        watching
    }
}

/// A watch stream.
pub struct Watching {
    pub requests: mpsc::Sender<WatchRequest>,
    pub answers: Streaming<WatchResponse>,
}

impl Watching {
    pub async fn next(&mut self) -> WatchResponse {
        tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("a watch response").unwrap().unwrap()
    }

    /// Events until there are `count`, as (key, value or nothing, revision).
    pub async fn events(&mut self, count: usize) -> Vec<(String, Option<String>, i64)> {
        let mut events = Vec::new();
        while events.len() < count {
            for event in self.next().await.events {
                let (deleted, kv) = (event.r#type == 1, event.kv.unwrap());
                let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                events.push((text(kv.key), (!deleted).then(|| text(kv.value)), kv.mod_revision));
            }
        }
        events
    }
}
