//! Three store replicas of a test's own, from their image: for what must not be done to the stores of the cluster that
//! all tests share, such as turning auth on.
//!
//! By hand, against stores that run already: `BALSA_TEST_STORES=127.0.0.1:2379,127.0.0.1:22379,…`.

use std::net::TcpListener;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::PutRequest;
use balsa_proto::etcd::etcdserverpb::kv_client::KvClient;
use testcontainers::core::Mount;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tonic::transport::Endpoint;

/// Running replicas; they go when this is dropped.
pub struct Stores {
    /// Where clients reach each, as `HOST:PORT`; plaintext, on loopback.
    pub endpoints: Vec<String>,
    _containers: Vec<ContainerAsync<GenericImage>>,
}

impl Stores {
    /// Three that take writes.
    pub async fn start() -> Self {
        if let Ok(stores) = std::env::var("BALSA_TEST_STORES") {
            return Self { endpoints: stores.split(',').map(str::to_owned).collect(), _containers: Vec::new() };
        }
        // Held until all are known, so that they differ.
        let held: Vec<TcpListener> = (0..9).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses: Vec<String> =
            held.iter().map(|listener| listener.local_addr().expect("an address").to_string()).collect();
        drop(held);
        let cluster: Vec<String> = (0..3).map(|n| format!("own{n}=http://{}", addresses[n * 3 + 1])).collect();
        let mut containers = Vec::new();
        for number in 0..3 {
            let flags = [
                format!("--name=own{number}"),
                "--data-dir=/data".to_owned(),
                format!("--listen-client={}", addresses[number * 3]),
                format!("--listen-peer={}", addresses[number * 3 + 1]),
                format!("--listen-metrics={}", addresses[number * 3 + 2]),
                format!("--initial-cluster={}", cluster.join(",")),
                "--bcrypt-cost=4".to_owned(),
            ];
            let container = GenericImage::new("balsa/store", "1")
                .with_cmd(flags)
                .with_network("host")
                .with_mount(Mount::tmpfs_mount("/data"))
                .with_startup_timeout(Duration::from_secs(60))
                .start()
                .await
                .expect("a store starts");
            containers.push(container);
        }
        let endpoints: Vec<String> = (0..3).map(|n| addresses[n * 3].clone()).collect();
        for endpoint in &endpoints {
            await_writes(endpoint).await;
        }
        Self { endpoints, _containers: containers }
    }
}

async fn await_writes(endpoint: &str) {
    let channel = Endpoint::from_shared(format!("http://{endpoint}")).expect("a URI").timeout(Duration::from_secs(5));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let attempt = async {
            let mut kv = KvClient::new(channel.connect().await.map_err(|error| error.to_string())?);
            let put = PutRequest { key: "ready".into(), ..PutRequest::default() };
            kv.put(put).await.map(drop).map_err(|status| status.to_string())
        };
        let Err(last) = attempt.await else { return };
        assert!(tokio::time::Instant::now() < deadline, "the store at {endpoint} takes no writes: {last}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
