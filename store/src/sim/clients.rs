//! What clients do in a run, and the notes that they take of it.

use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, RangeRequest, kv_server::Kv as _,
    lease_server::Lease as _,
};
use parking_lot::Mutex;
use tokio::time::sleep;
use tonic::{Code, Request, Status};

use super::history::etcd::{Wanted, outcome, revision, seen, transaction, wanted};
use super::history::{Answer, Call, Compare, Event, Op, Outcome, Seen};
use super::watchers::Heard;
use super::wire::{self, Broken, Handler};
use super::world::{self, CLIENTS};
use super::cluster;
use crate::error::Refusal;
use crate::grpc::Service;
use crate::replica::Replica;

/// Longest that a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// A lease as its client knows it; times in the world's milliseconds.
#[derive(Debug, Clone)]
pub struct Leased {
    pub id: i64,
    pub ttl: i64,
    /// When grants and renewals that were confirmed had been asked for.
    pub renewed: Vec<u64>,
    /// The client asked to revoke it.
    pub given_up: bool,
}

/// Everybody's notes.
#[derive(Default)]
pub struct Notes {
    order: u64,
    pub events: Vec<Event>,
    /// Reads of one replica's own state, or of an old revision: the revision they were given, and what they saw.
    pub snapshots: Vec<(i64, Vec<(String, Seen)>)>,
    pub leases: Vec<Leased>,
    pub heard: Vec<Heard>,
    /// Values whose write was refused for certain.
    pub refused: Vec<String>,
    pub compactions: u64,
}

/// The notes of a run.
pub type Shared = Arc<Mutex<Notes>>;

impl Notes {
    fn tick(&mut self) -> u64 {
        self.order += 1;
        self.order
    }
}

fn key(number: u64) -> String {
    format!("k{number}")
}

fn range(from: &str, to: &str, serializable: bool, at: i64) -> RangeRequest {
    let (key, range_end) = (from.to_owned().into(), to.to_owned().into());
    RangeRequest { key, range_end, serializable, revision: at, ..Default::default() }
}

fn done(revision: i64, answers: Vec<Answer>) -> Outcome {
    Outcome::Done { revision, succeeded: true, answers }
}

/// Does a call at a replica, through the services that clients use.
async fn perform(replica: Arc<Replica>, call: Call, ttl: i64) -> Result<Outcome, Status> {
    let service = Service::new(replica);
    match call {
        Call::Grant(id) => {
            let response = service.lease_grant(Request::new(LeaseGrantRequest { ttl, id })).await?.into_inner();
            Ok(done(revision(response.header), Vec::new()))
        }
        Call::Revoke(id) | Call::Expire(id) => {
            let response = service.lease_revoke(Request::new(LeaseRevokeRequest { id })).await?.into_inner();
            Ok(done(revision(response.header), Vec::new()))
        }
        Call::Txn { compare, then, otherwise } if compare.is_empty() && then.len() == 1 && otherwise.is_empty() => {
            match wanted(&then[0]) {
                Wanted::RequestPut(request) => {
                    let response = service.put(Request::new(request)).await?.into_inner();
                    Ok(done(revision(response.header), vec![Answer::Put]))
                }
                Wanted::RequestDeleteRange(request) => {
                    let response = service.delete_range(Request::new(request)).await?.into_inner();
                    Ok(done(revision(response.header), vec![Answer::Deleted(response.deleted)]))
                }
                Wanted::RequestRange(request) => {
                    let response = service.range(Request::new(request)).await?.into_inner();
                    let answer = Answer::Range(response.kvs.into_iter().map(seen).collect());
                    Ok(done(revision(response.header), vec![answer]))
                }
                Wanted::RequestTxn(_) => Err(Status::internal("no such call")),
            }
        }
        Call::Txn { compare, then, otherwise } => {
            let response = service.txn(Request::new(transaction(&compare, &then, &otherwise))).await?;
            Ok(outcome(response.into_inner()))
        }
    }
}

fn values(call: &Call) -> Vec<String> {
    let Call::Txn { then, otherwise, .. } = call else { return Vec::new() };
    let puts = then.iter().chain(otherwise).filter_map(|op| match op {
        Op::Put { value, .. } => Some(value.clone()),
        Op::Delete { .. } | Op::Range { .. } => None,
    });
    puts.collect()
}

/// A client.
pub struct Client {
    number: usize,
    /// The replica that it talks to.
    at: usize,
    notes: Shared,
    written: u64,
    /// What it last saw, for its comparisons.
    seen: Vec<(String, Seen)>,
}

impl Client {
    pub fn new(number: usize, notes: Shared) -> Self {
        Self { number, at: number % cluster::size(), notes, written: 0, seen: Vec::new() }
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("c{}-{}", self.number, self.written)
    }

    fn move_on(&mut self) {
        self.at = cluster::somebody();
    }

    /// Calls its replica and notes what comes of it.
    pub async fn ask(&mut self, call: Call, ttl: i64) -> Option<Outcome> {
        let called = self.notes.lock().tick();
        world::note(format_args!("c{} {called} asks store{} {call:?}", self.number, self.at + 1));
        let what = call.clone();
        let handler: Handler<Result<Outcome, Status>> =
            Arc::new(move |replica| Box::pin(perform(replica, what.clone(), ttl)));
        let answer = wire::call(CLIENTS + self.number, self.at, PATIENCE, handler).await;
        let outcome = match answer {
            Ok(Ok(outcome)) => Some(outcome),
            Ok(Err(status)) => self.refusal(&status),
            Err(Broken::Refused) => None,
            Err(Broken::Lost) => Some(Outcome::Unknown),
        };
        world::note(format_args!("c{} {called} is told {outcome:?}", self.number));
        let mut notes = self.notes.lock();
        match &outcome {
            None => notes.refused.extend(values(&call)),
            Some(outcome) => {
                let returned = if *outcome == Outcome::Unknown { u64::MAX } else { notes.tick() };
                notes.events.push(Event { client: self.number, call, called, returned, outcome: outcome.clone() });
            }
        }
        drop(notes);
        if !matches!(outcome, Some(Outcome::Done { .. })) {
            self.move_on();
        }
        outcome
    }

    fn refusal(&self, status: &Status) -> Option<Outcome> {
        let is = |refusal: Refusal| status.message() == refusal.to_string();
        if is(Refusal::LeaseNotFound) || is(Refusal::LeaseExists) {
            Some(Outcome::Refused)
        } else if is(Refusal::NoLeader) || is(Refusal::TooManyRequests) || is(Refusal::NotForLearner) {
            None
        } else if status.code() == Code::Unavailable {
            Some(Outcome::Unknown)
        } else {
            world::violation(format!("c{} is told {status:?}", self.number));
            Some(Outcome::Unknown)
        }
    }

    /// A read that promises less: of the replica's own state, or of an old revision.
    async fn snapshot(&mut self, at: i64) {
        let handler: Handler<Result<(i64, Vec<(String, Seen)>), Status>> = Arc::new(move |replica| {
            Box::pin(async move {
                let request = range("k", "l", true, at);
                let response = Service::new(replica).range(Request::new(request)).await?.into_inner();
                let at = if at > 0 { at } else { revision(response.header) };
                Ok((at, response.kvs.into_iter().map(seen).collect()))
            })
        });
        if let Ok(Ok(read)) = wire::call(CLIENTS + self.number, self.at, PATIENCE, handler).await {
            world::note(format_args!("c{} reads of store{} at {}: {:?}", self.number, self.at + 1, read.0, read.1));
            self.notes.lock().snapshots.push(read);
        }
    }

    async fn compact(&mut self) {
        let newest = self.notes.lock().events.iter().filter_map(|event| match event.outcome {
            Outcome::Done { revision, .. } => Some(revision),
            _ => None,
        }).max();
        let Some(revision) = newest.map(|newest| newest - world::below(15) as i64).filter(|revision| *revision > 1) else { return };
        self.notes.lock().compactions += 1;
        let handler: Handler<bool> = Arc::new(move |replica| {
            Box::pin(async move {
                let request = CompactionRequest { revision, physical: false };
                Service::new(replica).compact(Request::new(request)).await.is_ok()
            })
        });
        let compacted = wire::call(CLIENTS + self.number, self.at, PATIENCE, handler).await;
        world::note(format_args!("c{} compacts {revision}: {compacted:?}", self.number));
    }

    async fn read(&mut self, call: Call) {
        if let Some(Outcome::Done { answers, .. }) = self.ask(call, 0).await {
            for answer in answers {
                if let Answer::Range(keys) = answer {
                    self.seen = keys;
                }
            }
        }
    }

    async fn something(&mut self) {
        let (one, two) = (world::below(5), world::below(5));
        match world::below(100) {
            0..30 => {
                let put = Op::Put { key: key(one), value: self.value(), lease: 0 };
                self.ask(Call::one(put), 0).await;
            }
            30..45 => self.read(Call::one(Op::Range { from: key(one), to: format!("{}\0", key(one)) })).await,
            45..58 => self.read(Call::one(Op::Range { from: "k".to_owned(), to: "l".to_owned() })).await,
            58..64 => drop(self.ask(Call::one(Op::Delete { from: key(one), to: key(one + 1 + two % 2) }), 0).await),
            64..82 => {
                // The pattern of every Kubernetes write: only if nobody else wrote meanwhile.
                let known = self.seen.iter().find(|(name, _)| *name == key(one));
                let compare = match known {
                    Some((_, seen)) if two < 2 => Compare::Value(key(one), seen.value.clone()),
                    known => Compare::Modified(key(one), known.map_or(0, |(_, seen)| seen.modified)),
                };
                let then = vec![Op::Put { key: key(one), value: self.value(), lease: 0 }];
                let otherwise = vec![Op::Range { from: "k".to_owned(), to: "l".to_owned() }];
                self.read(Call::Txn { compare: vec![compare], then, otherwise }).await;
            }
            82..88 => {
                let then = vec![
                    Op::Range { from: "k".to_owned(), to: "l".to_owned() },
                    Op::Put { key: key(one), value: self.value(), lease: 0 },
                    Op::Put { key: key((one + 1) % 5), value: self.value(), lease: 0 },
                ];
                self.read(Call::Txn { compare: Vec::new(), then, otherwise: Vec::new() }).await;
            }
            88..95 => self.snapshot(0).await,
            95..98 => {
                let old = self.seen.iter().map(|(_, seen)| seen.modified).max().unwrap_or(1);
                self.snapshot(old).await;
            }
            _ => self.compact().await,
        }
        if world::chance(100) {
            self.move_on();
        }
    }

    /// Does `count` things, one after the other.
    pub async fn work(mut self, count: usize) {
        for _ in 0..count {
            self.something().await;
            sleep(Duration::from_millis(world::below(250))).await;
        }
    }

    /// Has leases, keeps them alive for a while, gives up some and forgets others.
    pub async fn lease(mut self, count: usize) {
        for turn in 0..count {
            let (id, ttl) = (1 + (self.number * 1_000 + turn) as i64, 2 + world::below(3) as i64);
            let asked = world::now();
            self.notes.lock().leases.push(Leased { id, ttl, renewed: Vec::new(), given_up: false });
            if !matches!(self.ask(Call::Grant(id), ttl).await, Some(Outcome::Done { .. })) {
                continue;
            }
            self.renewed(id, asked);
            let put = Op::Put { key: format!("l{id}"), value: self.value(), lease: id };
            self.ask(Call::one(put), 0).await;
            for _ in 0..world::below(8) {
                sleep(Duration::from_millis(300 + world::below(ttl as u64 * 700))).await;
                let asked = world::now();
                if self.keep_alive(id).await == Some(true) {
                    self.renewed(id, asked);
                }
            }
            if world::chance(300) {
                self.give_up(id);
                self.ask(Call::Revoke(id), 0).await;
            } else if world::chance(500) {
                sleep(Duration::from_secs(ttl as u64)).await;
            }
        }
    }

    fn renewed(&self, id: i64, asked: u64) {
        let mut notes = self.notes.lock();
        notes.leases.iter_mut().filter(|lease| lease.id == id).for_each(|lease| lease.renewed.push(asked));
    }

    fn give_up(&self, id: i64) {
        let mut notes = self.notes.lock();
        notes.leases.iter_mut().filter(|lease| lease.id == id).for_each(|lease| lease.given_up = true);
    }

    async fn keep_alive(&mut self, id: i64) -> Option<bool> {
        let handler: Handler<Result<i64, Status>> = Arc::new(move |replica| {
            Box::pin(async move { Ok(replica.keep_alive(LeaseKeepAliveRequest { id }).await?.ttl) })
        });
        let answer = wire::call(CLIENTS + self.number, self.at, PATIENCE, handler).await;
        world::note(format_args!("c{} renews {id}: {answer:?}", self.number));
        if !matches!(answer, Ok(Ok(_))) {
            self.move_on();
        }
        answer.ok()?.ok().map(|ttl| ttl > 0)
    }
}
