//! Real processes under kill -9, SIGSTOP, a full disk, a cut network and flipped bits, while clients note all they ask
//! and hear; the notes are checked as the simulation's are.

use std::process::Command;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::RangeRequest;

use crate::process::{Process, leader};
use crate::recorded::Notes;
use crate::support::{Client, configs, eventually};

const CLIENTS: usize = 5;

fn signal(process: &Process, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status().unwrap();
    assert!(sent.success());
}

/// Runs clients and watchers around `violence`, then checks what they noted.
pub async fn under(urls: &[String], notes: &Notes, violence: impl Future<Output = ()>) {
    let work = futures::future::join_all((0..CLIENTS).map(|number| notes.work(number, urls)));
    let story = async {
        notes.goes_on(100).await;
        violence.await;
        notes.goes_on(100).await;
        notes.stop();
    };
    let asked = async {
        tokio::join!(work, story);
        // When nobody writes any more: nothing may come after the last key.
        notes.end(urls).await;
    };
    let follow = futures::future::join_all((0..2).map(|number| notes.follow(number, urls)));
    let ((), heard) = tokio::join!(asked, follow);
    println!("{}", notes.check(&heard));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_stopped_and_all_killed_at_once_a_cluster_stays_linearizable() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), |_| ());
    let urls: Vec<String> = configs.iter().map(|config| format!("http://{}", config.listen_client)).collect();
    let mut processes: Vec<Process> = configs.iter().map(Process::start).collect();
    let notes = Notes::default();
    under(&urls, &notes, async {
        let victim = leader(&urls).await;
        processes[victim].kill();
        notes.goes_on(150).await;
        processes[victim] = Process::start(&configs[victim]);
        notes.goes_on(100).await;
        for _ in 0..2 {
            let paused = leader(&urls).await;
            signal(&processes[paused], "STOP");
            notes.goes_on(150).await;
            signal(&processes[paused], "CONT");
            notes.goes_on(100).await;
        }
        processes.iter_mut().for_each(Process::kill);
        processes = configs.iter().map(Process::start).collect();
        notes.goes_on(100).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_serves_nothing_stale_when_it_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), |_| ());
    let urls: Vec<String> = configs.iter().map(|config| format!("http://{}", config.listen_client)).collect();
    let processes: Vec<Process> = configs.iter().map(Process::start).collect();
    let mut writer = Client::new(&urls[0]);
    eventually("a write succeeds", async || writer.put("k", "old").await.ok()).await;
    for turn in 0..3 {
        let paused = leader(&urls).await;
        let mut at_paused = Client::new(&urls[paused]);
        // Connected before, so that the questions wait in the sockets of the one that sleeps.
        at_paused.get("k").await.unwrap();
        signal(&processes[paused], "STOP");
        let mut other = Client::new(&urls[(paused + 1) % 3]);
        let new = format!("new {turn}");
        eventually("the others go on", async || {
            let put = tokio::time::timeout(Duration::from_secs(3), other.put("k", &new));
            put.await.ok()?.ok()
        })
        .await;
        let reads = futures::future::join_all((0..50).map(|_| {
            let mut client = at_paused.kv.clone();
            async move { client.range(RangeRequest { key: "k".into(), ..Default::default() }).await }
        }));
        let wake = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            signal(&processes[paused], "CONT");
        };
        let (answers, ()) = tokio::join!(reads, wake);
        for answer in answers.into_iter().flatten() {
            let kvs = answer.into_inner().kvs;
            assert_eq!(String::from_utf8_lossy(&kvs[0].value), new, "a read that began after the write sees it");
        }
    }
}

/// Flips a bit in the middle of the largest file under `dir` whose name ends so.
fn flip(dir: &std::path::Path, ending: &str) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort_by_key(|path| path.metadata().map_or(0, |meta| meta.len()));
    let path = files.pop()?;
    let mut content = std::fs::read(&path).ok()?;
    let middle = content.len() / 2;
    *content.get_mut(middle)? ^= 0x10;
    std::fs::write(&path, content).ok()?;
    Some(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_one_replicas_log_is_refused_with_a_message_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), |_| ());
    let urls: Vec<String> = configs.iter().map(|config| format!("http://{}", config.listen_client)).collect();
    let mut processes: Vec<Process> = configs.iter().map(Process::start).collect();
    let notes = Notes::default();
    under(&urls, &notes, async {
        let victim = (leader(&urls).await + 1) % 3;
        processes[victim].kill();
        let hurt = flip(&configs[victim].data_dir.join("log"), ".log").unwrap();
        let mut process = Process::start_quietly(&configs[victim]);
        let said = eventually("it refuses to start", async || process.ended()).await;
        assert!(said.contains("raft log") && said.contains("Corruption"), "{}: {said}", hurt.display());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_one_replica_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), |_| ());
    let small = &configs[2].data_dir;
    std::fs::create_dir_all(small).unwrap();
    let Some(_mounted) = Mounted::tmpfs(small, 24 << 20) else {
        println!("not run: a tmpfs cannot be mounted here (root only)");
        return;
    };
    let urls: Vec<String> = configs.iter().map(|config| format!("http://{}", config.listen_client)).collect();
    let mut processes: Vec<Process> = configs.iter().map(Process::start).collect();
    let notes = Notes::default();
    under(&urls, &notes, async {
        let ballast = small.join("ballast");
        fill(&ballast);
        notes.goes_on(300).await;
        std::fs::remove_file(&ballast).unwrap();
        processes[2].kill();
        processes[2] = Process::start(&configs[2]);
    })
    .await;
}

/// Writes until there is no room.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![b'x'; size];
        while file.write_all(&block).is_ok() {}
    }
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(path: &std::path::Path, bytes: u64) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "balsa-test"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the replica may not be gone yet.
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
