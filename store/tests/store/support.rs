//! Clusters in this process, on free loopback ports, and clients for them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use balsa_process::tls::{TlsFiles, TlsIdentity};
use balsa_proto::etcd::etcdserverpb::{
    auth_client::AuthClient, cluster_client::ClusterClient, PutRequest, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse, kv_client::KvClient,
    lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
    watch_request::RequestUnion,
};
use balsa_proto::etcd::v3electionpb::election_client::ElectionClient;
use balsa_proto::etcd::v3lockpb::lock_client::LockClient;
use balsa_store::replica::Replica;
use balsa_store::{Config, Handle};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Longest that anything is waited for: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Addresses that nobody else uses, also not while a replica on them is stopped: on a loopback address of this
/// process's own, so that neither another process nor an outgoing connection takes them.
pub fn own_addresses(count: usize) -> Vec<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let own = [127, 64 | high, middle, low];
    let mut given = GIVEN.lock().unwrap();
    let mut addresses = Vec::new();
    while addresses.len() < count {
        let listener = std::net::TcpListener::bind(SocketAddr::from((own, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        if given.insert(address) {
            addresses.push(address);
        }
    }
    addresses
}

/// A cluster of one and a client of it.
pub async fn single(adjust: impl Fn(&mut Config)) -> (tempfile::TempDir, Handle, Client) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::single(dir.path());
    adjust(&mut config);
    let handle = balsa_store::start(config, CancellationToken::new()).await.unwrap();
    let client = Client::new(&format!("http://{}", handle.client_addr));
    (dir, handle, client)
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
        // What holds the database of one that was just stopped (a call in flight) may end a moment later.
        let config = &self.configs[number];
        let started = eventually("a replica starts", async || {
            let started = balsa_store::start(config.clone(), CancellationToken::new()).await;
            started.inspect_err(|error| eprintln!("replica {number} does not start yet: {error:#}")).ok()
        });
        self.replicas[number] = Some(started.await);
    }

    /// A running replica.
    pub fn replica(&self, number: usize) -> &Replica {
        &self.replicas[number].as_ref().unwrap().replica
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
    let ports = own_addresses(9);
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
#[derive(Clone)]
pub struct Client {
    pub kv: KvClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub auth: AuthClient<Channel>,
    pub lock: LockClient<Channel>,
    pub election: ElectionClient<Channel>,
}

/// What clients of `https` URLs show.
static IDENTITY: OnceLock<TlsIdentity> = OnceLock::new();

/// Gives all clients of this process an identity for `https`.
pub fn identify(files: &TlsFiles) {
    IDENTITY.get_or_init(|| files.load().unwrap());
}

impl Client {
    pub fn new(url: &str) -> Self {
        let mut endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
        if url.starts_with("https:") {
            // Over a network that may lose everything.
            endpoint = endpoint
                .connect_timeout(Duration::from_secs(1))
                .http2_keep_alive_interval(Duration::from_secs(1))
                .keep_alive_timeout(Duration::from_secs(2))
                .tls_config(IDENTITY.get().unwrap().tonic_client())
                .unwrap();
        }
        Self::over(endpoint.connect_lazy())
    }

    pub fn over(channel: Channel) -> Self {
        Self {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            auth: AuthClient::new(channel.clone()),
            lock: LockClient::new(channel.clone()),
            election: ElectionClient::new(channel),
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
        self.try_watch(create).await.unwrap()
    }

    /// The same of a replica that may be dead.
    pub async fn try_watch(&mut self, create: WatchCreateRequest) -> Result<Watching, tonic::Status> {
        let (requests, receiver) = mpsc::channel(16);
        let created = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(created).unwrap();
        let answers = self.watch.watch(ReceiverStream::new(receiver)).await?.into_inner();
        let mut watching = Watching { requests, answers };
        assert!(watching.try_next().await?.created);
        Ok(watching)
    }
}

/// A watch stream.
pub struct Watching {
    pub requests: mpsc::Sender<WatchRequest>,
    pub answers: Streaming<WatchResponse>,
}

impl Watching {
    pub async fn next(&mut self) -> WatchResponse {
        self.try_next().await.unwrap()
    }

    /// The same of a replica that may die.
    pub async fn try_next(&mut self) -> Result<WatchResponse, tonic::Status> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("a watch response")?;
        answer.ok_or_else(|| tonic::Status::unavailable("the watch has ended"))
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
