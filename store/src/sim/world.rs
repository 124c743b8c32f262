//! The simulated world of one run: its seed's randomness, its event log, who is up, which links are cut, what is known
//! to be broken. One world per thread; a run never leaves its thread.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::Mutation;
use super::node::Node;
use super::truth::Truth;
use crate::member::Identity;
use crate::replica::Replica;

/// Clients are endpoints of the network too, numbered from here on.
pub const CLIENTS: usize = 100;

/// A replica that is up.
#[derive(Clone)]
pub struct Running {
    pub node: Arc<Node>,
    pub replica: Arc<Replica>,
}

/// A replica's place in the world: what there is of it while it is down too.
pub struct Place {
    pub identity: Identity,
    /// How fast its clock runs, millionths of the world's.
    pub rate: u64,
    pub running: Option<Running>,
    /// Longest time that a step of its disk takes, milliseconds; 0 for the usual.
    slow: u64,
    /// Its removal was asked for.
    pub leaving: bool,
    /// It was removed, or its disk is lost: nobody starts it again, but by mistake.
    pub gone: bool,
}

impl Place {
    pub fn new(identity: Identity, rate: u64) -> Self {
        Self { identity, rate, running: None, slow: 0, leaving: false, gone: false }
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody was told something that is not so, or replicas disagree.
    Promise,
    /// The store panics, does not start, or does not come to rest.
    Halt,
    /// Nothing is known to be wrong: the search for an order of all calls took too long.
    Undecided,
}

/// Something that is wrong.
#[derive(Debug, Clone)]
pub struct Violation {
    pub kind: Kind,
    pub text: String,
}

/// See the module.
pub struct World {
    rng: SmallRng,
    epoch: Instant,
    log: String,
    mutation: Option<Mutation>,
    violations: Vec<Violation>,
    pub places: Vec<Place>,
    /// Entries between snapshots.
    pub snapshots: u64,
    /// Links that let nothing through, one direction each.
    cut: BTreeSet<(usize, usize)>,
    /// Lost messages, thousandths; longest usual delay, milliseconds.
    pub loss: u64,
    pub delay: u64,
    /// Who granted a vote lately.
    granted: BTreeSet<usize>,
    pub truth: Truth,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Begins a world without replicas; call it where the paused clock runs.
pub fn begin(seed: u64, mutation: Option<Mutation>) {
    super::disk::wipe();
    let world = World {
        rng: SmallRng::seed_from_u64(seed),
        epoch: Instant::now(),
        log: String::new(),
        mutation,
        violations: Vec::new(),
        places: Vec::new(),
        snapshots: 16,
        cut: BTreeSet::new(),
        loss: 0,
        delay: 3,
        granted: BTreeSet::new(),
        truth: Truth::default(),
    };
    WORLD.with(|cell| *cell.borrow_mut() = Some(world));
}

/// Ends it and hands over the event log and what was found.
pub fn end() -> (String, Vec<Violation>) {
    let world = WORLD.with(|cell| cell.borrow_mut().take());
    super::disk::wipe();
    world.map(|mut world| (std::mem::take(&mut world.log), std::mem::take(&mut world.violations))).unwrap_or_default()
}

/// Looks at the world, or changes it; `None` outside a run.
pub fn with<R>(work: impl FnOnce(&mut World) -> R) -> Option<R> {
    WORLD.with(|cell| cell.borrow_mut().as_mut().map(work))
}

/// When the world began.
pub fn epoch() -> Option<Instant> {
    with(|world| world.epoch)
}

/// Milliseconds since the world began.
pub fn now() -> u64 {
    epoch().map_or(0, |epoch| u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// A number below `limit`, 0 when there is none.
pub fn below(limit: u64) -> u64 {
    if limit == 0 { 0 } else { with(|world| world.rng.random_range(0..limit)).unwrap_or(0) }
}

/// Whether something happens that happens `thousandths` times in a thousand.
pub fn chance(thousandths: u64) -> bool {
    thousandths > 0 && below(1_000) < thousandths
}

/// Randomness for somebody else, from this world's.
pub fn fork_rng() -> SmallRng {
    SmallRng::seed_from_u64(with(|world| world.rng.random()).unwrap_or_else(rand::random))
}

/// Notes an event.
pub fn note(text: impl std::fmt::Display) {
    let at = now();
    with(|world| {
        let _never = writeln!(world.log, "{at:6} {text}");
    });
}

/// Notes that a promise was broken.
pub fn violation(text: String) {
    wrong(Kind::Promise, text);
}

/// Notes that the store cannot go on.
pub fn halt(text: String) {
    wrong(Kind::Halt, text);
}

/// Notes that something is wrong.
pub fn wrong(kind: Kind, text: String) {
    note(format_args!("VIOLATION ({kind:?}) {text}"));
    with(|world| world.violations.push(Violation { kind, text }));
}

/// Notes that a replica granted a vote.
pub fn granted(number: usize) {
    with(|world| world.granted.insert(number));
}

/// Whether a replica granted a vote since the last time this was asked.
pub fn take_granted(number: usize) -> bool {
    with(|world| world.granted.remove(&number)).unwrap_or(false)
}

/// Whether the store is broken in this way on purpose.
pub fn broken(mutation: Mutation) -> bool {
    with(|world| world.mutation == Some(mutation)).unwrap_or(false)
}

/// Cuts or mends a link, in one direction.
pub fn set_cut(from: usize, to: usize, cut: bool) {
    with(|world| if cut { world.cut.insert((from, to)) } else { world.cut.remove(&(from, to)) });
}

/// Mends all links.
pub fn mend() {
    with(|world| world.cut.clear());
}

/// Whether nothing gets from one to the other.
pub fn is_cut(from: usize, to: usize) -> bool {
    with(|world| world.cut.contains(&(from, to))).unwrap_or(false)
}

/// Longest time that a step of a disk takes, milliseconds; 0 for the usual.
pub fn slow_disk(number: usize) -> u64 {
    with(|world| world.places.get(number).map_or(0, |place| place.slow)).unwrap_or(0)
}

/// Makes a disk slow, or as usual again with 0.
pub fn set_slow_disk(number: usize, millis: u64) {
    with(|world| world.places[number].slow = millis);
}

/// A replica, if it is up.
pub fn running(number: usize) -> Option<Running> {
    with(|world| world.places.get(number)?.running.clone()).flatten()
}

/// How long the next message is on its way.
pub fn message_delay() -> Duration {
    let usual = with(|world| world.delay).unwrap_or(0);
    let millis = if chance(20) { below(usual * 30 + 1) } else { below(usual + 1) };
    Duration::from_millis(millis)
}
