//! The store in a simulated world: its real code (openraft, log store, state machine, key space, leases, watches) as 3
//! or 5 replicas in one thread, over a network, disks and clocks that one seed decides.
//!
//! What is simulated is what lies below the seams: [`crate::rt`] (tasks, clock), [`crate::disk`]'s database and files,
//! `raft::network`. A seed gives the same run every time, to the byte of its event log; docs/STORE.md says how to run
//! one. What the runs are checked for is in [`checks`]; that the checks see anything is shown by breaking the store on
//! purpose ([`Mutation`]).

mod checks;
mod clients;
pub mod cluster;
pub mod disk;
pub mod engine;
#[path = "../../tests/history/mod.rs"]
mod history;
mod nemesis;
pub mod newest;
pub mod node;
mod tests;
pub mod truth;
mod watchers;
pub mod wire;
pub mod world;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use clients::{Client, Shared};
use history::{Call, Op, Outcome};
use nemesis::Setting;
pub use world::broken;

/// Ways to break the store on purpose; only tests can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A log write is confirmed before it is synced.
    AckBeforeSync,
    /// Reads do not ask whether the leader still leads.
    SkipReadIndex,
    /// Votes are not stored.
    LoseVote,
    /// Entries that another leader overruled stay on disk.
    KeepTruncated,
    /// Now and then watchers are not told of a change.
    DropWatchEvent,
    /// After a restart the last entry is applied again.
    ApplyTwice,
    /// The applied index is stored after the changes, not with them.
    SplitApplied,
    /// Log entries are purged before the state is flushed.
    PurgeUnflushed,
    /// A new leader counts leases from when they were granted.
    ExpireEarly,
    /// A lease is renewed without asking whether the leader still leads.
    RenewUnconfirmed,
    /// The leader takes one follower's word for granted.
    AckAtMinority,
    /// A write whose answer was lost is tried again.
    RetryUnknown,
    /// Watchers are not told that a snapshot replaced the state.
    SilentSnapshot,
    /// Compaction removes what readers at the compacted revision still see.
    CompactTooMuch,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::AckBeforeSync,
        Self::SkipReadIndex,
        Self::LoseVote,
        Self::KeepTruncated,
        Self::DropWatchEvent,
        Self::ApplyTwice,
        Self::SplitApplied,
        Self::PurgeUnflushed,
        Self::ExpireEarly,
        Self::RenewUnconfirmed,
        Self::AckAtMinority,
        Self::RetryUnknown,
        Self::SilentSnapshot,
        Self::CompactTooMuch,
    ];
}

/// What stands among the violations when the search for an order of the calls was given up: nothing is known to be wrong.
pub const UNDECIDED: &str = "undecided: the search for an order of all calls took too long";

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Everything that happened, a line each.
    pub log: String,
    /// Broken promises.
    pub violations: Vec<String>,
    /// Calls that clients made, and what came of them.
    pub calls: Vec<history::Event>,
    /// The world's time that it took, milliseconds.
    pub millis: u64,
}

impl Report {
    /// Whether a promise is known to be broken.
    pub fn failed(&self) -> bool {
        self.violations.iter().any(|violation| violation != UNDECIDED)
    }
}

/// Runs one seed.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime on this thread");
    let (calls, millis) = runtime.block_on(async {
        let nodes = if seed % 4 == 3 { 5 } else { 3 };
        world::begin(seed, nodes, mutation);
        let calls = scenario().await;
        (calls, world::now())
    });
    let (log, violations) = world::end();
    drop(runtime);
    Report { log, violations, calls, millis }
}

fn setting() -> Setting {
    let steady = world::chance(300);
    let rates = std::array::from_fn(|_| if steady { 1_000_000 } else { 950_000 + world::below(100_001) });
    let (loss, delay) = ([0, 0, 5, 20][world::below(4) as usize], [1, 3, 8, 25][world::below(4) as usize]);
    world::with(|world| (world.loss, world.delay) = (loss, delay));
    Setting { snapshots: 16 + world::below(60), rates }
}

async fn scenario() -> Vec<history::Event> {
    let setting = setting();
    world::note(format_args!("{} replicas, {setting:?}", cluster::size()));
    for number in 0..cluster::size() {
        cluster::start(number, setting.rates[number], setting.snapshots).await;
    }
    let notes = Shared::default();
    let watching = watch(&notes);
    let workers = 3 + world::below(3) as usize;
    let mut work = tokio::task::JoinSet::new();
    for number in 0..workers {
        work.spawn(Client::new(number, notes.clone()).work(30));
    }
    for number in workers..workers + 2 {
        work.spawn(Client::new(number, notes.clone()).lease(3));
    }
    let faults = tokio::spawn(nemesis::run(Duration::from_millis(4_000 + world::below(8_000)), setting));
    while work.join_next().await.is_some() {}
    let _ended = faults.await;
    settle(&notes).await;
    for watching in watching {
        watching.abort();
    }
    checks::all(&notes.lock());
    std::mem::take(&mut notes.lock().events)
}

fn watch(notes: &Shared) -> Vec<tokio::task::JoinHandle<()>> {
    let ranges = [("k", "m", 1), ("k", "l", 0), ("k2", "k2\0", 1), ("l", "m", 0)];
    let watches = ranges.into_iter().enumerate().map(|(number, (from, to, first))| {
        let (from, to) = (from.to_owned(), to.to_owned());
        notes.lock().heard.push(watchers::Heard { from, to, pieces: Vec::new() });
        tokio::spawn(watchers::watch(50 + number, number, notes.clone(), first))
    });
    watches.collect()
}

/// After the last fault everything must come to rest: writes succeed, all replicas are equal, leases run out, watchers
/// hear of everything.
async fn settle(notes: &Shared) {
    let mut last = Client::new(99, notes.clone());
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut wrote = false;
    while !wrote && Instant::now() < deadline {
        let put = Op::Put { key: "k0".to_owned(), value: format!("last-{}", world::now()), lease: 0 };
        wrote = matches!(last.ask(Call::one(put), 0).await, Some(Outcome::Done { .. }));
        sleep(Duration::from_millis(100)).await;
    }
    if !wrote {
        return world::violation("a minute after the last fault no write succeeds".to_owned());
    }
    let rest = timeout(Duration::from_secs(60), async {
        loop {
            sleep(Duration::from_millis(100)).await;
            if checks::at_rest(&notes.lock()).is_ok() {
                return;
            }
        }
    });
    if rest.await.is_err() {
        let why = checks::at_rest(&notes.lock()).err().unwrap_or_default();
        world::violation(format!("a minute after the last fault: {why}"));
    }
    last.ask(Call::one(Op::Range { from: "k".to_owned(), to: "m".to_owned() }), 0).await;
}
