//! Clients of real processes that note everything they ask and are told, and watchers that note what they hear: what
//! [`crate::history`] checks.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use balsa_proto::etcd::etcdserverpb as etcd;
use tonic::{Code, Status};

use crate::history::etcd::{Wanted, outcome, revision, seen, transaction, wanted};
use crate::history::{Answer, Call, Compare, Event, Op, Outcome, Seen, check, export};
use crate::support::{Client, eventually};

/// The last key that is written.
pub const END: &str = "k-end";
/// Longest that a client waits for an answer; after that what came of the call is unknown.
const PATIENCE: Duration = Duration::from_secs(3);

/// A revision, the key, and what it became.
type Heard = (i64, String, Option<Seen>);

/// The notes of all clients of one run.
#[derive(Default)]
pub struct Notes {
    order: AtomicU64,
    events: Mutex<Vec<Event>>,
    acknowledged: AtomicUsize,
    stop: AtomicBool,
    /// How much longer values are than they have to be.
    padding: usize,
}

/// Numbers that look random, the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

async fn perform(client: &mut Client, call: &Call) -> Result<Outcome, Status> {
    let Call::Txn { compare, then, otherwise } = call else { return Err(Status::internal("not asked here")) };
    if compare.is_empty() && otherwise.is_empty() && then.len() == 1 {
        let done = |header: Option<etcd::ResponseHeader>, answer| {
            Ok(Outcome::Done { revision: revision(header), succeeded: true, answers: vec![answer] })
        };
        return match wanted(&then[0]) {
            Wanted::RequestPut(request) => done(client.kv.put(request).await?.into_inner().header, Answer::Put),
            Wanted::RequestDeleteRange(request) => {
                let response = client.kv.delete_range(request).await?.into_inner();
                done(response.header, Answer::Deleted(response.deleted))
            }
            Wanted::RequestRange(request) => {
                let response = client.kv.range(request).await?.into_inner();
                done(response.header, Answer::Range(response.kvs.into_iter().map(seen).collect()))
            }
            Wanted::RequestTxn(_) => Err(Status::internal("not asked here")),
        };
    }
    Ok(outcome(client.kv.txn(transaction(compare, then, otherwise)).await?.into_inner()))
}

impl Notes {
    /// Of clients whose values are long.
    pub fn padded(padding: usize) -> Self {
        Self { padding, ..Self::default() }
    }

    fn tick(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }

    /// One call, noted.
    pub async fn ask(&self, number: usize, client: &mut Client, call: Call) -> Option<Outcome> {
        let called = self.tick();
        let answer = tokio::time::timeout(PATIENCE, perform(client, &call)).await;
        let outcome = match answer {
            Ok(Ok(outcome)) => outcome,
            // Nothing was sent, or nothing was proposed.
            Ok(Err(status)) if status.message().contains("tcp connect error") => return None,
            Ok(Err(status)) if status.message() == "etcdserver: no leader" => return None,
            Ok(Err(status)) => {
                assert!(
                    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded),
                    "{status:?}"
                );
                Outcome::Unknown
            }
            Err(_) => Outcome::Unknown,
        };
        let known = outcome != Outcome::Unknown;
        let returned = if known { self.tick() } else { u64::MAX };
        self.acknowledged.fetch_add(usize::from(known), Ordering::Relaxed);
        let event = Event { client: number, call, called, returned, outcome: outcome.clone() };
        self.events.lock().unwrap().push(event);
        Some(outcome)
    }

    /// Reads and writes a few keys at whichever replica, until it is told to stop.
    pub async fn work(&self, number: usize, urls: &[String]) {
        let mut clients: Vec<Client> = urls.iter().map(|url| Client::new(url)).collect();
        let mut shunned = vec![Instant::now(); urls.len()];
        let (mut numbers, mut known) = (Numbers(number as u64), BTreeMap::<String, Seen>::new());
        for turn in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let (key, value) = (format!("k{}", numbers.below(5)), format!("c{number}-{turn}{:.<1$}", "", self.padding));
            let all = Op::Range { from: "k".to_owned(), to: "l".to_owned() };
            let put = Op::Put { key: key.clone(), value, lease: 0 };
            let call = match numbers.below(10) {
                0..3 => Call::one(put),
                3..6 => Call::one(Op::Range { to: format!("{key}\0"), from: key }),
                6 => Call::one(all),
                7 => Call::one(Op::Delete { to: format!("{key}\0"), from: key }),
                _ => {
                    let modified = known.get(&key).map_or(0, |seen| seen.modified);
                    Call::Txn { compare: vec![Compare::Modified(key, modified)], then: vec![put], otherwise: vec![all] }
                }
            };
            let drawn = usize::try_from(numbers.below(urls.len() as u64)).unwrap();
            // One that sleeps would in the end hold every client.
            let awake = |replica: &usize| shunned[*replica] <= Instant::now();
            let replica = (0..urls.len()).map(|step| (drawn + step) % urls.len()).find(awake).unwrap_or(drawn);
            let outcome = self.ask(number, &mut clients[replica], call).await;
            if outcome == Some(Outcome::Unknown) {
                shunned[replica] = Instant::now() + Duration::from_secs(5);
            }
            match outcome {
                Some(Outcome::Done { answers, .. }) => {
                    let reads = answers.into_iter().filter_map(|answer| match answer {
                        Answer::Range(keys) if keys.len() > 1 => Some(keys),
                        _ => None,
                    });
                    known = reads.last().map_or(known, |keys| keys.into_iter().collect());
                }
                // A dead replica refuses at once, which must not become a busy loop.
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            tokio::time::sleep(Duration::from_millis(numbers.below(15))).await;
        }
    }

    /// Waits until `count` more calls were answered.
    pub async fn goes_on(&self, count: usize) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually("calls are answered", async || (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())).await;
    }

    /// Ends [`Self::work`].
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Writes [`END`], for the watchers; nobody may be at work.
    pub async fn end(&self, urls: &[String]) {
        let end = Call::one(Op::Put { key: END.to_owned(), value: "end".to_owned(), lease: 0 });
        let mut turn = 0;
        eventually("the end is written", async || {
            turn += 1;
            let mut client = Client::new(&urls[turn % urls.len()]);
            matches!(self.ask(99, &mut client, end.clone()).await, Some(Outcome::Done { .. })).then_some(())
        })
        .await;
    }

    /// Follows all keys from the beginning, at another replica whenever one does not go on, until [`END`].
    pub async fn follow(&self, number: usize, urls: &[String]) -> Vec<Heard> {
        let mut heard: Vec<Heard> = Vec::new();
        for turn in number.. {
            let next = heard.last().map_or(2, |(revision, ..)| revision + 1);
            let create = etcd::WatchCreateRequest {
                key: "k".into(),
                range_end: "l".into(),
                start_revision: next,
                ..Default::default()
            };
            let mut client = Client::new(&urls[turn % urls.len()]);
            let begun = tokio::time::timeout(Duration::from_secs(2), client.try_watch(create)).await;
            let Ok(Ok(mut watching)) = begun else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            while let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), watching.try_next()).await {
                assert!(!answer.canceled, "{}", answer.cancel_reason);
                for event in answer.events {
                    let (deleted, kv) = (event.r#type == 1, event.kv.unwrap());
                    let revision = kv.mod_revision;
                    let (key, seen) = seen(kv);
                    heard.push((revision, key, (!deleted).then_some(seen)));
                }
                if heard.iter().any(|(_, key, _)| key == END) {
                    return heard;
                }
            }
        }
        unreachable!("the turns do not end")
    }

    /// The history is linearizable; what watchers heard is the same for all, and is what was acknowledged. Says how
    /// much that was; a history that is not accepted is left behind for other checkers.
    pub fn check(&self, heard: &[Vec<Heard>]) -> String {
        let events = self.events.lock().unwrap();
        if let Err(rejected) = check::linearizable(&events) {
            let dir = std::env::temp_dir().join(format!("balsa-history-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("history.edn"), export::edn(&events)).unwrap();
            std::fs::write(dir.join("history.json"), export::porcupine(&events)).unwrap();
            panic!("not linearizable (see {}): {rejected:#?}", dir.display());
        }
        let first = &heard[0];
        assert!(heard.iter().all(|other| other == first), "all watchers heard the same");
        let revisions: Vec<i64> = first.iter().map(|(revision, ..)| *revision).collect();
        assert!(revisions.is_sorted(), "in order");
        let expected: Vec<i64> = (2..=*revisions.last().unwrap()).collect();
        let mut distinct = revisions.clone();
        distinct.dedup();
        assert_eq!(distinct, expected, "without a gap");
        let mut by_value: BTreeMap<&str, i64> = BTreeMap::new();
        for (revision, _, seen) in first {
            if let Some(seen) = seen {
                assert_eq!(by_value.insert(&seen.value, *revision), None, "{} was written once", seen.value);
            }
        }
        let mut acknowledged = 0;
        for event in events.iter() {
            let (Call::Txn { then, .. }, Outcome::Done { revision, succeeded: true, .. }) = (&event.call, &event.outcome) else {
                continue;
            };
            for op in then {
                if let Op::Put { value, .. } = op {
                    assert_eq!(by_value.get(value.as_str()), Some(revision), "the acknowledged write of {value}");
                    acknowledged += 1;
                }
            }
        }
        let unknown = events.iter().filter(|event| event.outcome == Outcome::Unknown).count();
        format!("{} calls, {unknown} of unknown outcome, {acknowledged} writes acknowledged, {} changes heard", events.len(), first.len())
    }
}
