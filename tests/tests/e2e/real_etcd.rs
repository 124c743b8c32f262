//! The apiserver on a real etcd: what people who outgrow our store use. It runs where etcd is on PATH or in
//! target/peers, else it says so.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use balsa_process::identity::Actor;
use balsa_process::pki::Authority;
use balsa_tests::{Cluster, repository, wait_for};

/// Ends its process when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn etcd() -> Option<PathBuf> {
    let built = repository().join("target/peers/etcd");
    if built.exists() {
        return Some(built);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|candidate| candidate.is_file())
}

/// The apiserver's binary, taken out of its image: what is tested is what runs in the cluster.
fn apiserver(folder: &std::path::Path) -> PathBuf {
    let created = balsa_tests::docker(&["create", "balsa/apiserver:1"]);
    assert!(created.success, "{}", created.err);
    let id = created.out.trim().to_owned();
    let target = folder.join("balsa-apiserver");
    let copied = balsa_tests::docker(&["cp", &format!("{id}:/balsa-apiserver"), &target.to_string_lossy()]);
    balsa_tests::docker(&["rm", &id]);
    assert!(copied.success, "{}", copied.err);
    target
}

#[test]
fn kubectl_works_on_an_apiserver_over_a_real_etcd() {
    let Some(etcd) = etcd() else {
        eprintln!("no etcd here: not run");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let urls = ["http://127.0.0.1:21990", "http://127.0.0.1:21991"];
    let _etcd = Running(
        Command::new(etcd)
            .args(["--data-dir", &path("etcd"), "--log-level", "error", "--listen-client-urls", urls[0]])
            .args(["--advertise-client-urls", urls[0], "--listen-peer-urls", urls[1]])
            .args(["--initial-advertise-peer-urls", urls[1], "--initial-cluster", &format!("default={}", urls[1])])
            .stdin(Stdio::null())
            .spawn()
            .expect("etcd starts"),
    );
    let authority = Authority::open_or_create(folder.path()).expect("an authority");
    let masters = |user: &str| Actor { user: user.into(), groups: vec!["system:masters".into()] };
    let server = authority.issue_files(folder.path(), "server", &masters("system:apiserver"), &[]).expect("a certificate");
    let admin = authority.issue_files(folder.path(), "admin", &masters("kubernetes-admin"), &[]).expect("a certificate");
    std::fs::copy(Cluster::under_test().state.join("pki/sa.key"), path("sa.key")).expect("a token key");
    let _apiserver = Running(
        Command::new(apiserver(folder.path()))
            .args(["--name", "on-etcd", "--store-endpoints", urls[0], "--listen", "127.0.0.1:22990"])
            .args(["--listen-grpc", "127.0.0.1:22991", "--service-account-key", &path("sa.key")])
            .args(["--tls-ca".as_ref(), server.ca.as_os_str(), "--tls-cert".as_ref(), server.cert.as_os_str()])
            .args(["--tls-key".as_ref(), server.key.as_os_str()])
            .stdin(Stdio::null())
            .spawn()
            .expect("the apiserver starts"),
    );
    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: e, clusters: [{{name: e, cluster: {{server: 'https://127.0.0.1:22990', \
         certificate-authority: '{}'}}}}], users: [{{name: e, user: {{client-certificate: '{}', client-key: '{}'}}}}], \
         contexts: [{{name: e, context: {{cluster: e, user: e}}}}]}}",
        admin.ca.display(), admin.cert.display(), admin.key.display()
    );
    std::fs::write(folder.path().join("kubeconfig"), kubeconfig).expect("a kubeconfig");
    let cluster = Cluster { name: "on-etcd".into(), state: folder.path().to_owned() };
    wait_for("the apiserver to be ready", Duration::from_secs(60), || {
        let said = cluster.kubectl(&["get", "--raw", "/readyz"]);
        if said.success { Ok(()) } else { Err(said.err) }
    });
    cluster.kubectl_ok(&["create", "namespace", "there"]);
    cluster.kubectl_ok(&["create", "configmap", "c", "--from-literal=a=1", "-n", "there"]);
    cluster.kubectl_ok(&["label", "configmap", "c", "colour=green", "-n", "there"]);
    assert!(cluster.kubectl_ok(&["get", "configmap", "-l", "colour=green", "-n", "there"]).contains('c'));
    let patched = cluster.kubectl_ok(&["patch", "configmap", "c", "-n", "there", "-p", r#"{"data":{"b":"2"}}"#, "-o", "json"]);
    assert!(patched.contains(r#""b": "2""#), "{patched}");
    cluster.kubectl_ok(&["delete", "configmap", "c", "-n", "there"]);
    assert!(cluster.get(&["configmap", "c", "-n", "there"]).is_err());
}
