//! Real processes and kill -9: what was acknowledged is there afterwards.

use std::process::{Child, Command, Stdio};

use balsa_store::Config;

use crate::support::{Client, configs, eventually};

struct Process(Child);

impl Process {
    fn start(config: &Config) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_balsa-store"))
            .args(["--name", &config.name, "--initial-cluster", &config.initial_cluster])
            .arg("--data-dir")
            .arg(&config.data_dir)
            .args(["--listen-client", &config.listen_client.to_string()])
            .args(["--listen-peer", &config.listen_peer.to_string()])
            .args(["--listen-metrics", &config.listen_metrics.to_string()])
            .args(["--snapshot-count", "200", "--snapshot-catchup-entries", "50", "--request-timeout", "20000"])
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_each_replica_in_turn_and_of_all_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), |_| ());
    let mut processes: Vec<Process> = configs.iter().map(Process::start).collect();
    let urls: Vec<String> = configs.iter().map(|config| format!("http://{}", config.listen_client)).collect();
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        for number in 0..40 {
            let key = format!("round{round}-{number}");
            if number == 20 && round < 3 {
                processes[round].kill();
            }
            // Through the replicas in turn; one may be dead, then the next is asked.
            eventually("a write is acknowledged", async || {
                for offset in 0..3 {
                    let mut client = Client::new(&urls[(number + offset) % 3]);
                    if client.put(&key, "kept").await.is_ok() {
                        return Some(());
                    }
                }
                None
            })
            .await;
            acknowledged.push(key);
        }
        if round < 3 {
            processes[round] = Process::start(&configs[round]);
        }
    }
    processes.iter_mut().for_each(Process::kill);
    let _restarted: Vec<Process> = configs.iter().map(Process::start).collect();
    for url in &urls {
        let mut client = Client::new(url);
        for key in &acknowledged {
            let value = eventually("a read is answered", async || client.get(key).await.ok()).await;
            assert_eq!(value.as_deref(), Some("kept"), "{key} at {url}");
        }
    }
}
