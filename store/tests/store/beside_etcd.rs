//! The same random requests to this store and to a real etcd, and the same answers: ranges with all options, puts,
//! deletions, transactions, compactions, leases. Not run where there is no etcd: it is looked for in `BALSA_ETCD` and
//! in `target/peers`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use balsa_proto::etcd::etcdserverpb as etcd;
use etcd::compare::TargetUnion;
use etcd::request_op::Request;
use etcd::response_op::Response;
use tonic::Status;

use crate::support::{Client, eventually, own_addresses, single};

/// Requests of one run, and runs.
const STEPS: usize = 1_500;
const SEEDS: std::ops::Range<u64> = 1..4;
/// As few as Go's sort keeps in order when they are equal; of more, the order of equals is nobody's promise.
const KEYS: [&[u8]; 9] = [b"a", b"ab", b"b", b"b\0", b"ba", b"c", b"x", b"y\xff", b"\xff"];
const ENDS: [&[u8]; 8] = [b"", b"\0", b"a", b"b", b"bb", b"y", b"z", b"\xff\xff"];

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn binary() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/peers/etcd");
    std::env::var_os("BALSA_ETCD").map(PathBuf::from).into_iter().chain([beside]).find(|path| path.is_file())
}

/// Numbers that look random, the same every time.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    fn key(&mut self) -> bytes::Bytes {
        if self.one_in(60) { bytes::Bytes::new() } else { self.of(&KEYS).to_vec().into() }
    }

    fn end(&mut self) -> bytes::Bytes {
        if self.one_in(2) { bytes::Bytes::new() } else { self.of(&ENDS).to_vec().into() }
    }

    fn number(&mut self, most: i64) -> i64 {
        i64::try_from(self.below(usize::try_from(most.max(1)).unwrap())).unwrap()
    }

    fn choice(&mut self, limit: usize) -> i32 {
        i32::try_from(self.below(limit)).unwrap()
    }

    /// A revision near those that there are.
    fn revision(&mut self, newest: i64) -> i64 {
        match self.below(10) {
            0 => self.number(newest + 4),
            1 => (newest - self.number(30)).max(0),
            _ => 0,
        }
    }

    fn range(&mut self, newest: i64) -> etcd::RangeRequest {
        let mut bound = || if self.one_in(6) { self.number(newest + 2) } else { 0 };
        let bounds = [bound(), bound(), bound(), bound()];
        etcd::RangeRequest {
            key: self.key(),
            range_end: self.end(),
            limit: if self.one_in(2) { self.number(6) } else { 0 },
            revision: self.revision(newest),
            sort_order: if self.one_in(50) { 9 } else { self.choice(3) },
            sort_target: if self.one_in(50) { 9 } else { self.choice(5) },
            serializable: self.one_in(2),
            keys_only: self.one_in(4),
            count_only: self.one_in(6),
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        }
    }

    fn put(&mut self) -> etcd::PutRequest {
        let (ignore_value, ignore_lease) = (self.one_in(8), self.one_in(8));
        let value = if ignore_value && !self.one_in(10) { "" } else { ["", "1", "2", "3", "longer"][self.below(5)] };
        let lease = if self.one_in(5) && (!ignore_lease || self.one_in(10)) { self.number(5) } else { 0 };
        etcd::PutRequest { key: self.key(), value: value.into(), lease, prev_kv: self.one_in(3), ignore_value, ignore_lease }
    }

    fn delete(&mut self) -> etcd::DeleteRangeRequest {
        etcd::DeleteRangeRequest { key: self.key(), range_end: self.end(), prev_kv: self.one_in(2) }
    }

    fn compare(&mut self, newest: i64) -> etcd::Compare {
        let number = self.number(newest + 1);
        let (target, union) = match self.below(5) {
            0 => (0, TargetUnion::Version(self.number(4))),
            1 => (1, TargetUnion::CreateRevision(if self.one_in(2) { 0 } else { number })),
            2 => (2, TargetUnion::ModRevision(if self.one_in(2) { 0 } else { number })),
            3 => (3, TargetUnion::Value(self.of(&[&b""[..], b"1", b"2"]).to_vec().into())),
            _ => (4, TargetUnion::Lease(self.number(4))),
        };
        let range_end = if self.one_in(4) { self.end() } else { bytes::Bytes::new() };
        etcd::Compare { result: self.choice(4), target, key: self.key(), range_end, target_union: Some(union) }
    }

    fn op(&mut self, newest: i64, depth: usize) -> etcd::RequestOp {
        let request = match self.below(if depth > 0 { 8 } else { 7 }) {
            0..3 => Request::RequestPut(self.put()),
            3..5 => Request::RequestRange(self.range(newest)),
            5..7 => Request::RequestDeleteRange(self.delete()),
            _ => Request::RequestTxn(self.txn(newest, depth - 1)),
        };
        etcd::RequestOp { request: Some(request) }
    }

    fn txn(&mut self, newest: i64, depth: usize) -> etcd::TxnRequest {
        let counts = [self.below(3), self.below(4), self.below(3)];
        etcd::TxnRequest {
            compare: (0..counts[0]).map(|_| self.compare(newest)).collect(),
            success: (0..counts[1]).map(|_| self.op(newest, depth)).collect(),
            failure: (0..counts[2]).map(|_| self.op(newest, depth)).collect(),
        }
    }
}

/// Of a header only the revision can be the same.
fn plain(header: &mut Option<etcd::ResponseHeader>) {
    if let Some(header) = header {
        *header = etcd::ResponseHeader { revision: header.revision, ..Default::default() };
    }
}

fn plain_txn(response: &mut etcd::TxnResponse) {
    plain(&mut response.header);
    for op in &mut response.responses {
        match &mut op.response {
            Some(Response::ResponseRange(response)) => plain(&mut response.header),
            Some(Response::ResponsePut(response)) => plain(&mut response.header),
            Some(Response::ResponseDeleteRange(response)) => plain(&mut response.header),
            Some(Response::ResponseTxn(response)) => plain_txn(response),
            None => {}
        }
    }
}

/// A request, as it is shown when the answers differ.
#[derive(Debug, Clone)]
enum Asked {
    Range(etcd::RangeRequest),
    Put(etcd::PutRequest),
    Delete(etcd::DeleteRangeRequest),
    Txn(etcd::TxnRequest),
    Compact(etcd::CompactionRequest),
    Grant(etcd::LeaseGrantRequest),
    Revoke(etcd::LeaseRevokeRequest),
    TimeToLive(etcd::LeaseTimeToLiveRequest),
}

fn draw(drawn: &mut Drawn, newest: i64) -> Asked {
    match drawn.below(100) {
        0..30 => Asked::Range(drawn.range(newest)),
        30..55 => Asked::Put(drawn.put()),
        55..63 => Asked::Delete(drawn.delete()),
        63..90 => Asked::Txn(drawn.txn(newest, 2)),
        90..92 => Asked::Compact(etcd::CompactionRequest { revision: newest - drawn.number(40), physical: drawn.one_in(2) }),
        92..95 => Asked::Grant(etcd::LeaseGrantRequest { ttl: 5_000, id: 1 + drawn.number(3) }),
        95..97 => Asked::Revoke(etcd::LeaseRevokeRequest { id: 1 + drawn.number(4) }),
        _ => Asked::TimeToLive(etcd::LeaseTimeToLiveRequest { id: 1 + drawn.number(4), keys: true }),
    }
}

fn shown(answer: Result<impl std::fmt::Debug, Status>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

macro_rules! plainly {
    ($answer:expr) => {
        shown($answer.await.map(|response| {
            let mut response = response.into_inner();
            plain(&mut response.header);
            response
        }))
    };
}

async fn ask(client: &mut Client, asked: Asked) -> String {
    match asked {
        Asked::Range(request) => plainly!(client.kv.range(request)),
        Asked::Put(request) => plainly!(client.kv.put(request)),
        Asked::Delete(request) => plainly!(client.kv.delete_range(request)),
        Asked::Txn(request) => shown(client.kv.txn(request).await.map(|response| {
            let mut response = response.into_inner();
            plain_txn(&mut response);
            response
        })),
        Asked::Compact(request) => plainly!(client.kv.compact(request)),
        Asked::Grant(request) => plainly!(client.lease.lease_grant(request)),
        Asked::Revoke(request) => plainly!(client.lease.lease_revoke(request)),
        Asked::TimeToLive(request) => shown(client.lease.lease_time_to_live(request).await.map(|response| {
            let mut response = response.into_inner();
            plain(&mut response.header);
            // Seconds go by.
            response.ttl = response.ttl.signum();
            response.keys.sort();
            response
        })),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_are_answered_as_etcd_answers_them() {
    let Some(binary) = binary() else {
        println!("not run: there is no etcd in BALSA_ETCD or target/peers");
        return;
    };
    for seed in SEEDS {
        let dir = tempfile::tempdir().unwrap();
        let urls: Vec<String> = own_addresses(2).into_iter().map(|address| format!("http://{address}")).collect();
        let child = Command::new(&binary)
            .args(["--log-level", "error", "--unsafe-no-fsync", "--data-dir"])
            .arg(dir.path())
            .args(["--listen-client-urls", &urls[0], "--advertise-client-urls", &urls[0]])
            .args(["--listen-peer-urls", &urls[1], "--initial-advertise-peer-urls", &urls[1]])
            .args(["--initial-cluster", &format!("default={}", urls[1])])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let _etcd = Etcd(child);
        let mut theirs = Client::new(&urls[0]);
        eventually("etcd answers", async || theirs.get("k").await.ok()).await;
        let (_dir, handle, mut ours) = single(|_| ()).await;
        eventually("the store answers", async || ours.get("k").await.ok()).await;
        let (mut drawn, mut newest, mut differences) = (Drawn(seed), 1, Vec::new());
        for step in 0..STEPS {
            let asked = draw(&mut drawn, newest);
            let (expected, answer) = tokio::join!(ask(&mut theirs, asked.clone()), ask(&mut ours, asked.clone()));
            if answer != expected {
                differences.push(format!("seed {seed}, step {step}: {asked:?}\n  etcd: {expected}\n  here: {answer}"));
            }
            let now = theirs.range(etcd::RangeRequest { key: "none".into(), count_only: true, ..Default::default() });
            newest = now.await.unwrap().header.unwrap().revision;
        }
        let first = &differences[..differences.len().min(8)];
        assert!(first.is_empty(), "{} differences, the first:\n{}", differences.len(), first.join("\n"));
        handle.stop().await.unwrap();
    }
}
