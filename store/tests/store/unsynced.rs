//! Real processes on disks that lose what was not synced when the power fails: kill -9, the loss, a restart.

use std::path::Path;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::RangeRequest;
use balsa_store::Config;

use crate::faults::under;
use crate::lossy::mount::Mounted;
use crate::lossy::{Loss, Lost};
use crate::process::{Process, leader};
use crate::recorded::{END, Notes};
use crate::support::{Client, configs, eventually};

/// How long a sync takes, so that the power fails while one is under way more often than by chance.
const SYNC: Duration = Duration::from_millis(4);
/// Values are longer than a page, so that a write can be torn.
const LONG: usize = 9_000;

/// Three replicas, each with its data directory on a disk of its own. Processes end before their disks.
struct Machines {
    processes: Vec<Process>,
    disks: Vec<Mounted>,
    configs: Vec<Config>,
    lost: Lost,
}

impl Machines {
    fn start(dir: &Path) -> Result<Self, String> {
        let mut configs = configs(dir, |_| ());
        let mut disks = Vec::new();
        for config in &mut configs {
            std::fs::create_dir_all(&config.data_dir).unwrap();
            disks.push(Mounted::at(&config.data_dir, SYNC)?);
            // As on any machine, the directory is not the disk's root.
            config.data_dir = config.data_dir.join("data");
        }
        let processes = configs.iter().map(Process::start).collect();
        Ok(Self { processes, disks, configs, lost: Lost::default() })
    }

    fn urls(&self) -> Vec<String> {
        self.configs.iter().map(|config| format!("http://{}", config.listen_client)).collect()
    }

    fn fail(&mut self, number: usize, loss: Loss) {
        self.processes[number].kill();
        let lost = self.disks[number].lose(loss);
        self.lost.pages += lost.pages;
        self.lost.names += lost.names;
    }

    fn restart(&mut self, number: usize) {
        self.processes[number] = Process::start(&self.configs[number]);
    }

    fn fail_all(&mut self, loss: impl Fn(u64) -> Loss) {
        self.processes.iter_mut().for_each(Process::kill);
        for number in 0..3 {
            self.fail(number, loss(number as u64));
        }
        (0..3).for_each(|number| self.restart(number));
    }
}

async fn lose(loss: impl Fn(u64) -> Loss) {
    let dir = tempfile::tempdir().unwrap();
    let mut machines = match Machines::start(dir.path()) {
        Ok(machines) => machines,
        Err(reason) => {
            println!("not run: {reason}");
            return;
        }
    };
    let (urls, notes) = (machines.urls(), Notes::padded(LONG));
    under(&urls, &notes, async {
        for turn in 0..3 {
            let victim = leader(&urls).await;
            machines.fail(victim, loss(10 * turn));
            notes.goes_on(60).await;
            machines.restart(victim);
            notes.goes_on(60).await;
        }
        for turn in 0..3 {
            machines.fail_all(|number| loss(100 + 10 * turn + number));
            notes.goes_on(80).await;
        }
    })
    .await;
    // All of them are there again, none has refused what its disk was left with.
    for url in &urls {
        let mut client = Client::new(url);
        let end = RangeRequest { key: END.into(), serializable: true, ..Default::default() };
        eventually("it holds the last write", async || {
            client.range(end.clone()).await.ok().filter(|response| !response.kvs.is_empty())
        })
        .await;
    }
    let syncs: usize = machines.disks.iter().map(Mounted::syncs).sum();
    println!("{:?}, {syncs} syncs", machines.lost);
    assert!(machines.lost.pages > 0, "the disks lost nothing: the test shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_when_all_that_was_not_synced_is_lost() {
    lose(|_| Loss::Everything).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_when_any_part_of_what_was_not_synced_is_lost() {
    lose(Loss::Some).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_that_forgets_is_a_file_system_like_others_until_it_forgets() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = match Mounted::at(dir.path(), Duration::ZERO) {
        Ok(mounted) => mounted,
        Err(reason) => {
            println!("not run: {reason}");
            return;
        }
    };
    use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("a/b")).unwrap();
    let mut file = std::fs::File::create(at("a/b/file")).unwrap();
    file.write_all(&[1; 10_000]).unwrap();
    file.sync_data().unwrap();
    for folder in ["", "a", "a/b"] {
        std::fs::File::open(at(folder)).unwrap().sync_all().unwrap();
    }
    file.seek(SeekFrom::Start(4)).unwrap();
    file.write_all(&[2; 4]).unwrap();
    std::fs::write(at("a/other"), b"unsynced").unwrap();
    std::fs::rename(at("a/other"), at("a/b/file")).unwrap();
    assert_eq!(std::fs::read(at("a/b/file")).unwrap(), b"unsynced");
    std::fs::hard_link(at("a/b/file"), at("a/link")).unwrap();
    assert_eq!(std::fs::read_dir(at("a")).unwrap().count(), 2);
    drop(file);
    let lost = mounted.lose(Loss::Everything);
    assert!(lost.pages > 0 && lost.names > 0, "{lost:?}");
    let mut content = Vec::new();
    std::fs::File::open(at("a/b/file")).unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, [1; 10_000]);
    assert_eq!(std::fs::read_dir(at("a")).unwrap().count(), 1);
}
