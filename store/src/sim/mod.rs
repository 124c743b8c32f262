//! The store in a simulated world: its real code (openraft, log store, state machine, key space, leases, watches) as
//! some replicas in one thread, over a network, disks and clocks that one seed decides.
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
mod operator;
mod tests;
pub mod truth;
mod wal;
mod watchers;
pub mod wire;
pub mod world;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use clients::{Client, Shared};
use history::{Call, Op, Outcome};
use operator::Operator;
pub use world::{Kind, Violation, broken};

/// Ways to break the store on purpose; only tests can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A log write is confirmed before it is synced.
    AckBeforeSync,
    /// Reads do not ask whether the leader still leads.
    SkipReadIndex,
    /// Votes are not stored before they are answered; only who leads is.
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
    /// What a crash left of a half-written record is taken for whole.
    SkipTornCheck,
    /// A new member votes before it has caught up.
    JoinWithoutCatchUp,
    /// A change of the membership that its leader did not finish stays half done.
    LeaveJoint,
    /// A change of the membership that is not committed is told as one that is.
    TellUncommitted,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 18] = [
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
        Self::SkipTornCheck,
        Self::JoinWithoutCatchUp,
        Self::LeaveJoint,
        Self::TellUncommitted,
    ];

    /// What it is found by at the latest: a broken promise, or, where nobody is told anything wrong, by a store that
    /// cannot go on.
    pub fn shows_as(self) -> Option<Kind> {
        match self {
            Self::PurgeUnflushed | Self::SkipTornCheck | Self::JoinWithoutCatchUp | Self::LeaveJoint => None,
            _ => Some(Kind::Promise),
        }
    }
}

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Everything that happened, a line each.
    pub log: String,
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// Calls that clients made, and what came of them.
    pub calls: Vec<history::Event>,
    /// The world's time that it took, milliseconds.
    pub millis: u64,
}

impl Report {
    /// The first thing that is known to be wrong, of one kind or of any.
    pub fn wrong(&self, kind: Option<Kind>) -> Option<&Violation> {
        let is_it = |violation: &&Violation| kind.map_or(violation.kind != Kind::Undecided, |kind| violation.kind == kind);
        self.violations.iter().find(is_it)
    }
}

/// Runs one seed.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime on this thread");
    let (calls, millis) = runtime.block_on(async {
        world::begin(seed, mutation);
        let calls = scenario(if seed % 4 == 3 { 5 } else { 3 }).await;
        (calls, world::now())
    });
    let (log, violations) = world::end();
    drop(runtime);
    Report { log, violations, calls, millis }
}

/// The replicas that begin, on disks that are empty.
async fn begin(founders: usize) {
    let steady = world::chance(300);
    let (loss, delay) = ([0, 0, 5, 20][world::below(4) as usize], [1, 3, 8, 25][world::below(4) as usize]);
    let snapshots = 16 + world::below(60);
    world::with(|world| (world.loss, world.delay, world.snapshots) = (loss, delay, snapshots));
    world::note(format_args!("{founders} replicas, {loss} of 1000 lost, {delay} ms, a snapshot every {snapshots}"));
    for _ in 0..founders {
        let rate = if steady { 1_000_000 } else { 950_000 + world::below(100_001) };
        match cluster::found(founders, rate) {
            Ok(number) => cluster::start(number).await,
            Err(error) => world::halt(format!("a replica without an identity: {error}")),
        }
    }
}

async fn scenario(founders: usize) -> Vec<history::Event> {
    begin(founders).await;
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
    let until = Instant::now() + Duration::from_millis(4_000 + world::below(8_000));
    let operator = world::chance(500).then(|| tokio::spawn(Operator::default().work(until)));
    let faults = tokio::spawn(nemesis::run(until));
    while work.join_next().await.is_some() {}
    let _ended = faults.await;
    let mut operator = match operator {
        Some(working) => working.await.ok(),
        None => None,
    };
    nemesis::heal().await;
    if let Some(operator) = &mut operator {
        operator.finish().await;
    }
    settle(&notes, operator.is_some_and(|operator| operator.waits_for_nobody())).await;
    for watching in watching {
        watching.abort();
    }
    // Also when nothing came to rest: what was acknowledged by then is promised.
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

/// After the last fault everything must come to rest: writes succeed, with as many voters down as may be if
/// `short_handed`; all replicas become equal, leases run out, watchers hear of everything.
async fn settle(notes: &Shared, short_handed: bool) {
    let down = if short_handed || world::chance(200) { operator::spare() } else { Vec::new() };
    down.iter().copied().for_each(cluster::crash);
    let mut last = Client::new(99, notes.clone());
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut wrote = false;
    while !wrote && Instant::now() < deadline {
        let put = Op::Put { key: "k0".to_owned(), value: format!("last-{}", world::now()), lease: 0 };
        wrote = matches!(last.ask(Call::one(put), 0).await, Some(Outcome::Done { .. }));
        sleep(Duration::from_millis(100)).await;
    }
    if !wrote {
        return world::halt(format!("a minute after the last fault no write succeeds, with {down:?} down"));
    }
    for number in down {
        cluster::start(number).await;
    }
    let rest = timeout(Duration::from_secs(60), async {
        loop {
            sleep(Duration::from_millis(100)).await;
            if at_rest(notes).is_ok() {
                return;
            }
        }
    });
    if rest.await.is_err() {
        let why = at_rest(notes).err().unwrap_or_default();
        world::halt(format!("a minute after the last fault: {why}"));
    }
    last.ask(Call::one(Op::Range { from: "k".to_owned(), to: "m".to_owned() }), 0).await;
}

fn at_rest(notes: &Shared) -> Result<(), String> {
    operator::at_rest()?;
    checks::at_rest(&notes.lock())
}
