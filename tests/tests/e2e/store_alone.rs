//! One store replica from its image, by testcontainers: it becomes leader of itself and answers etcd's protocol.

use std::time::Duration;

use balsa_process::identity::Actor;
use balsa_process::pki::Authority;
use balsa_proto::etcd::etcdserverpb::kv_client::KvClient;
use balsa_proto::etcd::etcdserverpb::{PutRequest, RangeRequest};
use testcontainers::core::{IntoContainerPort as _, Mount};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{GenericImage, ImageExt as _};
use tonic::transport::Endpoint;

#[tokio::test]
async fn one_replica_from_its_image_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::open_or_create(folder.path()).expect("an authority");
    let actor = Actor { user: "balsa:store:alone".into(), groups: vec!["balsa:stores".into()] };
    let files = authority.issue_files(folder.path(), "tls", &actor, &["alone".into()]).expect("a certificate");
    let container = GenericImage::new("balsa/store", "1")
        .with_exposed_port(2379.tcp())
        .with_cmd([
            "--name=alone", "--data-dir=/data", "--listen-client=0.0.0.0:2379", "--listen-peer=0.0.0.0:2380",
            "--listen-metrics=0.0.0.0:2381", "--advertise-client=https://alone:2379", "--advertise-peer=https://alone:2380",
            "--initial-cluster=alone=https://alone:2380", "--tls-ca=/pki/ca.crt", "--tls-cert=/pki/tls.crt", "--tls-key=/pki/tls.key",
        ])
        .with_hostname("alone")
        .with_mount(Mount::bind_mount(folder.path().to_string_lossy(), "/pki"))
        .with_startup_timeout(Duration::from_secs(60))
        .start()
        .await
        .expect("the container starts");
    let port = container.get_host_port_ipv4(2379).await.expect("a port");
    let identity = files.load().expect("an identity");
    let endpoint = Endpoint::from_shared(format!("https://localhost:{port}"))
        .expect("a URI")
        .tls_config(identity.tonic_client())
        .expect("TLS")
        .timeout(Duration::from_secs(5));
    let mut last = String::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        assert!(tokio::time::Instant::now() < deadline, "the store does not answer: {last}");
        let attempt = async {
            let mut kv = KvClient::new(endpoint.connect().await.map_err(|error| error.to_string())?);
            let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
            kv.put(put).await.map_err(|status| status.to_string())?;
            let range = RangeRequest { key: "k".into(), ..RangeRequest::default() };
            let answer = kv.range(range).await.map_err(|status| status.to_string())?.into_inner();
            Ok::<_, String>(answer.kvs.first().map(|kv| kv.value.clone()))
        };
        match attempt.await {
            Ok(value) => return assert_eq!(value.as_deref(), Some(&b"v"[..])),
            Err(error) => last = error,
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
