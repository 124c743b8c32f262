//! `balsa-store backup | restore | verify | dump` as an operator runs them.

use std::path::Path;
use std::process::{Command, Output};

use balsa_proto::etcd::etcdserverpb::{CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest};
use balsa_store::Config;

use crate::support::{Client, Cluster, configs, eventually, single};

async fn tool(words: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_balsa-store"));
    command.args(words).args(paths);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored_to_a_new_cluster_of_three() {
    let files = tempfile::tempdir().unwrap();
    let backup = files.path().join("backup.db");
    let (dir, handle, mut client) = single(|_| ()).await;
    for number in 0..50 {
        client.put(&format!("k{number:02}"), "v").await.unwrap();
    }
    client.kv.delete_range(DeleteRangeRequest { key: "k07".into(), ..Default::default() }).await.unwrap();
    client.lease.lease_grant(LeaseGrantRequest { ttl: 6_000, id: 5 }).await.unwrap();
    client.kv.put(PutRequest { key: "leased".into(), lease: 5, ..Default::default() }).await.unwrap();
    client.kv.compact(CompactionRequest { revision: 20, physical: true }).await.unwrap();
    let before = client.range(RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }).await.unwrap();
    let endpoint = format!("http://{}", handle.client_addr);
    text(&tool(&["backup", "--endpoint", &endpoint], &[&backup]).await);
    let again = tool(&["backup", "--endpoint", &endpoint], &[&backup]).await;
    assert!(!again.status.success(), "an existing file is not overwritten");
    client.put("later", "is not in it").await.unwrap();
    handle.stop().await.unwrap();

    let found: serde_json::Value = serde_json::from_str(&text(&tool(&["verify"], &[&backup]).await)).unwrap();
    assert_eq!((&found["keys"], &found["leases"]), (&50.into(), &1.into()), "{found}");
    let dumped = text(&tool(&["dump", "--prefix", "k0"], &[&backup]).await);
    assert_eq!(dumped.lines().count(), 9, "{dumped}");
    assert!(text(&tool(&["dump", "--history", "--prefix", "k07"], &[&backup]).await).contains("\"deleted\":true"));
    let stopped: serde_json::Value = serde_json::from_str(&text(&tool(&["verify"], &[dir.path()]).await)).unwrap();
    assert!(stopped["log"][1].as_u64().unwrap() >= 54, "{stopped}");
    assert!(text(&tool(&["dump", "--log"], &[dir.path()]).await).contains("put b\\\"later\\\""));

    // Three members of a new cluster, each from the same file.
    let fresh = configs(files.path(), |_| ());
    let restore = async |config: &Config| {
        let words = ["restore", "--name", &config.name, "--initial-cluster", &config.initial_cluster, "--data-dir"];
        tool(&words, &[&config.data_dir, &backup]).await
    };
    for config in &fresh {
        text(&restore(config).await);
    }
    assert!(!restore(&fresh[0]).await.status.success(), "a directory that is not empty is left alone");
    let mut cluster = Cluster { dir: tempfile::tempdir().unwrap(), configs: fresh, replicas: vec![None, None, None] };
    for number in 0..3 {
        cluster.run(number).await;
    }
    cluster.leader().await;
    for number in 0..3 {
        let mut client = Client::new(&cluster.url(number));
        let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let held = eventually("it answers", async || client.range(all.clone()).await.ok()).await;
        assert_eq!(held.kvs, before.kvs);
        assert_eq!(held.header.unwrap().revision, before.header.unwrap().revision);
    }
    let mut client = Client::new(&cluster.url(1));
    let next = client.put("k00", "goes on").await.unwrap();
    assert_eq!(next, before.header.unwrap().revision + 1);
    cluster.halt(0).await;
    cluster.run(0).await;
    let mut back = Client::new(&cluster.url(0));
    assert_eq!(eventually("it serves", async || back.get("k00").await.ok()).await.as_deref(), Some("goes on"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused() {
    let files = tempfile::tempdir().unwrap();
    let backup = files.path().join("backup.db");
    let (_dir, handle, mut client) = single(|_| ()).await;
    client.put("k", "v").await.unwrap();
    text(&tool(&["backup", "--endpoint", &format!("http://{}", handle.client_addr)], &[&backup]).await);
    handle.stop().await.unwrap();
    let mut content = std::fs::read(&backup).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 4;
    std::fs::write(&backup, &content).unwrap();
    for words in [&["verify"][..], &["dump"], &["restore", "--data-dir", "unused"]] {
        let refused = tool(words, &[&backup]).await;
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("damaged"), "{words:?}");
    }
    assert!(!Path::new("unused").exists());
}
