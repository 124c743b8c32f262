//! Real processes and kill -9: what was acknowledged is there afterwards.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{RangeRequest, StatusRequest, WatchCreateRequest};
use balsa_store::Config;

use crate::support::{Client, configs, eventually};

const WRITERS: usize = 6;
/// The last key that is written.
const END: &str = "w-end";

/// A replica in a process of its own.
pub struct Process(Child);

impl Process {
    pub fn start(config: &Config) -> Self {
        Self(Self::command(config).stderr(Stdio::inherit()).spawn().unwrap())
    }

    /// One whose last words are wanted.
    pub fn start_quietly(config: &Config) -> Self {
        Self(Self::command(config).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn command(config: &Config) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_balsa-store"));
        command
            .args(["--name", &config.name, "--initial-cluster", &config.initial_cluster])
            .arg("--data-dir")
            .arg(&config.data_dir)
            .args(["--listen-client", &config.listen_client.to_string()])
            .args(["--listen-peer", &config.listen_peer.to_string()])
            .args(["--listen-metrics", &config.listen_metrics.to_string()])
            .args(["--snapshot-count", "200", "--snapshot-catchup-entries", "50", "--request-timeout", "20000"]);
        if let Some(tls) = &config.tls {
            command.arg("--tls-ca").arg(&tls.ca).arg("--tls-cert").arg(&tls.cert).arg("--tls-key").arg(&tls.key);
        }
        command
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// What it said, if it has ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        use std::io::Read as _;
        self.0.try_wait().unwrap()?;
        let mut said = String::new();
        if let Some(mut from) = self.0.stderr.take() {
            from.read_to_string(&mut said).unwrap();
        }
        if let Some(mut from) = self.0.stdout.take() {
            from.read_to_string(&mut said).unwrap();
        }
        Some(said)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
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

/// Key → the revision that wrote it. Every key is tried once, so it is written once or never.
type Written = BTreeMap<String, i64>;

#[derive(Default)]
struct Load {
    acknowledged: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    /// Writes through the replicas in turn, dead or not, until it is told to stop; what was acknowledged comes back.
    async fn write(&self, writer: usize, urls: &[String]) -> Written {
        let mut clients: Vec<Client> = urls.iter().map(|url| Client::new(url)).collect();
        let mut acknowledged = Written::new();
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("w{writer}-{number:06}");
            match clients[(writer + number) % urls.len()].put(&key, "kept").await {
                Ok(revision) => {
                    acknowledged.insert(key, revision);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // It may have happened or not; a dead replica refuses at once, which must not become a busy loop.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        acknowledged
    }

    /// Waits until `count` more writes were acknowledged.
    async fn goes_on(&self, count: usize) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually("writes go on", async || (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())).await;
    }
}

/// Follows every key from the beginning, at another replica whenever one dies, until [`END`].
async fn follow(urls: &[String]) -> Vec<(String, i64)> {
    let mut events: Vec<(String, i64)> = Vec::new();
    for turn in 0.. {
        let next = events.last().map_or(2, |(_, revision)| revision + 1);
        let create = WatchCreateRequest { key: "w".into(), range_end: "x".into(), start_revision: next, ..Default::default() };
        let mut client = Client::new(&urls[turn % urls.len()]);
        let Ok(mut watching) = client.try_watch(create).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while let Ok(answer) = watching.try_next().await {
            assert!(!answer.canceled, "{}", answer.cancel_reason);
            for kv in answer.events.into_iter().filter_map(|event| event.kv) {
                events.push((String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision));
            }
            if events.last().is_some_and(|(key, _)| key == END) {
                return events;
            }
        }
    }
    unreachable!("the turns do not end")
}

/// The replica that leads.
pub async fn leader(urls: &[String]) -> usize {
    eventually("somebody leads", async || {
        for (number, url) in urls.iter().enumerate() {
            if let Ok(status) = Client::new(url).maintenance.status(StatusRequest {}).await {
                let status = status.into_inner();
                if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Some(number);
                }
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_leaders_and_of_all_under_load_loses_nothing_acknowledged_and_no_watcher_misses_anything() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), |_| ());
    let mut processes: Vec<Process> = configs.iter().map(Process::start).collect();
    let urls: Vec<String> = configs.iter().map(|config| format!("http://{}", config.listen_client)).collect();
    let load = Load::default();
    let writers = futures::future::join_all((0..WRITERS).map(|writer| load.write(writer, &urls)));
    let violence = async {
        load.goes_on(100).await;
        for _ in 0..3 {
            let victim = leader(&urls).await;
            processes[victim].kill();
            load.goes_on(300).await;
            processes[victim] = Process::start(&configs[victim]);
            load.goes_on(100).await;
        }
        processes.iter_mut().for_each(Process::kill);
        processes = configs.iter().map(Process::start).collect();
        load.goes_on(100).await;
        load.stop.store(true, Ordering::Relaxed);
    };
    let story = async {
        let (acknowledged, ()) = tokio::join!(writers, violence);
        let end = eventually("the end is written", async || Client::new(&urls[0]).put(END, "").await.ok()).await;
        (acknowledged, end)
    };
    let ((acknowledged, end), heard) = tokio::join!(story, follow(&urls));
    for url in &urls {
        let all = RangeRequest { key: "w".into(), range_end: "x".into(), revision: end, ..Default::default() };
        let held = eventually("a read is answered", async || Client::new(url).range(all.clone()).await.ok()).await;
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        let held: Written = held.kvs.iter().map(|kv| (text(&kv.key), kv.mod_revision)).collect();
        for (key, revision) in acknowledged.iter().flatten() {
            assert_eq!(held.get(key), Some(revision), "{key} at {url}");
        }
        let mut by_revision: Vec<_> = held.into_iter().collect();
        by_revision.sort_by_key(|(_, revision)| *revision);
        assert_eq!(heard, by_revision, "a watcher hears what {url} holds, in order, once each");
    }
}
