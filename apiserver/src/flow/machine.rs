//! Seats and queues: a state machine without clock or randomness.
//!
//! Each limited level has a nominal number of seats, a part of which it lends. What it does not lend is its own at any
//! moment; what all levels lend is one pool, from which a level draws up to its own part before anybody, and beyond it
//! (up to its borrowing limit) while nobody who is entitled waits.
//!
//! Within a level a flow is dealt a hand of queues by its hash, and takes the shortest of the hand. The queues are served
//! by start-time fair queueing: next is the queue that has had least, in seats times time; a request is charged a guess
//! when it starts, and what it really took when it ends.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What a request is taken to need before it is known, in seat-microseconds per seat: the original's 3 ms.
const GUESS: u64 = 3_000;

/// How a level deals with what it cannot run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    /// Number of queues.
    pub queues: usize,
    /// Queues that one flow may use.
    pub hand: usize,
    /// Requests that a queue holds.
    pub length: usize,
}

/// A level's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelLimits {
    /// Name.
    pub name: String,
    /// `None`: everything runs.
    pub limited: Option<Limited>,
}

/// The numbers of a limited level, in seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Its share.
    pub nominal: u32,
    /// The part of its share that others may use.
    pub lendable: u32,
    /// What it may use beyond its share; `None`: all that others lend.
    pub borrowing: Option<u32>,
    /// `None`: what cannot run is refused.
    pub queuing: Option<Queuing>,
}

impl Limited {
    fn guaranteed(&self) -> u32 {
        self.nominal.saturating_sub(self.lendable)
    }

    fn from_pool(&self, used: u32) -> u32 {
        used.saturating_sub(self.guaranteed())
    }

    /// Seats that the level may use at the most.
    fn most(&self) -> u32 {
        self.borrowing.map_or(u32::MAX, |more| self.nominal.saturating_add(more))
    }
}

/// A request within the machine.
pub type Ticket = u64;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It has its seats.
    Runs(Ticket),
    /// It is in a queue.
    Waits(Ticket),
    /// There is no room.
    Refused(Why),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its queue is full.
    QueueFull,
    /// Its level has no queues and no seat.
    ConcurrencyLimit,
    /// It waited too long.
    TimeOut,
}

#[derive(Debug, Clone)]
struct Request {
    level: String,
    queue: Option<usize>,
    width: u32,
    runs: bool,
}

#[derive(Debug, Default, Clone)]
struct Queue {
    waiting: VecDeque<Ticket>,
    /// Seats of what waits and runs.
    load: u64,
    /// Virtual time at which its next request may start.
    next_start: u64,
}

#[derive(Debug, Clone)]
struct Level {
    limits: Option<Limited>,
    queues: Vec<Queue>,
    used: u32,
    waiting: usize,
    virtual_time: u64,
    /// No longer configured: it goes when it is empty.
    leaving: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Machine {
    levels: BTreeMap<String, Level>,
    requests: BTreeMap<Ticket, Request>,
    next_ticket: Ticket,
    /// Seats that all levels lend together.
    pool: u32,
}

/// The queues that a flow may use: `hand` different ones of `queues`, dealt by its hash.
fn deal(hash: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut cards: Vec<usize> = Vec::with_capacity(hand);
    let mut rest = hash;
    for dealt in 0..hand.min(queues) {
        let left = u64::try_from(queues - dealt).unwrap_or(1).max(1);
        let mut card = usize::try_from(rest % left).unwrap_or_default();
        rest /= left;
        // The card-th of those that are still in the deck.
        let mut sorted = cards.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if card >= taken {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

impl Machine {
    /// With these levels.
    pub fn new(levels: &[LevelLimits]) -> Self {
        let mut machine = Self { levels: BTreeMap::new(), requests: BTreeMap::new(), next_ticket: 1, pool: 0 };
        machine.reconfigure(levels);
        machine
    }

    /// Takes other levels over. What runs and waits stays where it is; a level that is no longer configured keeps its
    /// numbers until it is empty. Returns what starts by it.
    pub fn reconfigure(&mut self, levels: &[LevelLimits]) -> Vec<Ticket> {
        for level in self.levels.values_mut() {
            level.leaving = true;
        }
        for wanted in levels {
            let level = self.levels.entry(wanted.name.clone()).or_insert_with(|| Level {
                limits: None,
                queues: Vec::new(),
                used: 0,
                waiting: 0,
                virtual_time: 0,
                leaving: false,
            });
            level.leaving = false;
            level.limits = wanted.limited;
            let queues = wanted.limited.and_then(|limited| limited.queuing).map_or(0, |queuing| queuing.queues);
            if level.queues.len() < queues {
                let virtual_time = level.virtual_time;
                level.queues.resize_with(queues, || Queue { next_start: virtual_time, ..Queue::default() });
            }
        }
        self.forget_empty();
        self.dispatch()
    }

    fn forget_empty(&mut self) {
        self.levels.retain(|_, level| !level.leaving || level.used > 0 || level.waiting > 0);
        let lent = self.levels.values().filter_map(|level| level.limits).map(|limits| limits.lendable.min(limits.nominal));
        self.pool = lent.fold(0, u32::saturating_add);
    }

    /// A request comes in. Also returns others that start now: what frees seats is told at once, so usually none.
    pub fn arrive(&mut self, level_name: &str, hash: u64, width: u32) -> (Arrival, Vec<Ticket>) {
        let ticket = self.next_ticket;
        let Some(level) = self.levels.get_mut(level_name) else {
            return (Arrival::Refused(Why::ConcurrencyLimit), Vec::new());
        };
        let Some(limits) = level.limits else {
            level.used = level.used.saturating_add(width);
            self.next_ticket += 1;
            let request = Request { level: level_name.to_owned(), queue: None, width, runs: true };
            self.requests.insert(ticket, request);
            return (Arrival::Runs(ticket), Vec::new());
        };
        // One that is wider than its level would never run.
        let width = width.clamp(1, limits.nominal.max(1));
        let Some(queuing) = limits.queuing else {
            if !self.has_room(level_name, width, false) {
                return (Arrival::Refused(Why::ConcurrencyLimit), Vec::new());
            }
            self.next_ticket += 1;
            let request = Request { level: level_name.to_owned(), queue: None, width, runs: false };
            self.requests.insert(ticket, request);
            self.start(ticket);
            return (Arrival::Runs(ticket), Vec::new());
        };
        let hand = deal(hash, queuing.queues.min(level.queues.len()), queuing.hand);
        let shortest = hand.into_iter().min_by_key(|index| level.queues.get(*index).map_or(u64::MAX, |queue| queue.load));
        let Some((index, queue)) = shortest.and_then(|index| Some((index, level.queues.get_mut(index)?))) else {
            return (Arrival::Refused(Why::QueueFull), Vec::new());
        };
        if queue.waiting.len() >= queuing.length {
            return (Arrival::Refused(Why::QueueFull), Vec::new());
        }
        if queue.load == 0 {
            // Time in which it asked for nothing is not saved up.
            queue.next_start = queue.next_start.max(level.virtual_time);
        }
        queue.waiting.push_back(ticket);
        queue.load += u64::from(width);
        level.waiting += 1;
        self.next_ticket += 1;
        let request = Request { level: level_name.to_owned(), queue: Some(index), width, runs: false };
        self.requests.insert(ticket, request);
        let mut started = self.dispatch();
        if let Some(own) = started.iter().position(|other| *other == ticket) {
            started.remove(own);
            return (Arrival::Runs(ticket), started);
        }
        (Arrival::Waits(ticket), started)
    }

    /// A request is over, or gone from its queue. `elapsed`: how long it ran. Returns what starts by it.
    pub fn finish(&mut self, ticket: Ticket, elapsed: Duration) -> Vec<Ticket> {
        let Some(request) = self.requests.remove(&ticket) else { return Vec::new() };
        if let Some(level) = self.levels.get_mut(&request.level) {
            let width = request.width;
            let queue = request.queue.and_then(|index| level.queues.get_mut(index));
            if let Some(queue) = queue {
                queue.load = queue.load.saturating_sub(u64::from(width));
                if request.runs {
                    // What it took in place of what was guessed.
                    let took = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).saturating_mul(u64::from(width));
                    let guessed = GUESS.saturating_mul(u64::from(width));
                    queue.next_start = queue.next_start.saturating_sub(guessed).saturating_add(took);
                } else {
                    queue.waiting.retain(|other| *other != ticket);
                    level.waiting = level.waiting.saturating_sub(1);
                }
            }
            if request.runs {
                level.used = level.used.saturating_sub(width);
            }
        }
        self.forget_empty();
        self.dispatch()
    }

    fn pool_used(&self) -> u32 {
        let drawn = self.levels.values().filter_map(|level| Some(level.limits?.from_pool(level.used)));
        drawn.fold(0, u32::saturating_add)
    }

    /// Whether a level may take so many seats more: of its own, or (`borrows`) of what others lend too.
    fn has_room(&self, level_name: &str, width: u32, borrows: bool) -> bool {
        let Some(level) = self.levels.get(level_name) else { return false };
        let Some(limits) = level.limits else { return true };
        let after = level.used.saturating_add(width);
        let most = if borrows { limits.most() } else { limits.nominal };
        let more = limits.from_pool(after) - limits.from_pool(level.used);
        after <= most && self.pool_used().saturating_add(more) <= self.pool
    }

    fn start(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.get_mut(&ticket) else { return };
        request.runs = true;
        let width = request.width;
        if let Some(level) = self.levels.get_mut(&request.level) {
            level.used = level.used.saturating_add(width);
            if let Some(queue) = request.queue.and_then(|index| level.queues.get_mut(index)) {
                queue.waiting.pop_front();
                level.waiting = level.waiting.saturating_sub(1);
                level.virtual_time = level.virtual_time.max(queue.next_start);
                queue.next_start = queue.next_start.saturating_add(GUESS.saturating_mul(u64::from(width)));
            }
        }
    }

    /// Who is next in a level: the head of the queue that has had least.
    fn head(&self, level: &Level) -> Option<(Ticket, u32)> {
        if level.waiting == 0 {
            return None;
        }
        let heads = level.queues.iter().filter_map(|queue| Some((queue.next_start, *queue.waiting.front()?)));
        let (_, ticket) = heads.min()?;
        Some((ticket, self.requests.get(&ticket)?.width))
    }

    /// Starts whatever can start: first everybody within their own share, then borrowers.
    fn dispatch(&mut self) -> Vec<Ticket> {
        let mut started = Vec::new();
        while let Some(ticket) = self.next() {
            self.start(ticket);
            started.push(ticket);
        }
        started
    }

    fn next(&self) -> Option<Ticket> {
        let waiting = || self.levels.iter().filter_map(|(name, level)| Some((name, level, self.head(level)?)));
        if let Some((_, _, (ticket, _))) = waiting().find(|(name, _, (_, width))| self.has_room(name, *width, false)) {
            return Some(ticket);
        }
        // Who waits for a part of its own share that others use gets it before anybody borrows more.
        let entitled = waiting().any(|(_, level, (_, width))| {
            level.limits.is_some_and(|limits| level.used.saturating_add(width) <= limits.nominal)
        });
        if entitled {
            return None;
        }
        let borrower = waiting().filter(|(name, _, (_, width))| self.has_room(name, *width, true));
        let most_modest = borrower.min_by_key(|(_, level, _)| {
            let nominal = level.limits.map_or(1, |limits| limits.nominal.max(1));
            u64::from(level.used) * 1000 / u64::from(nominal)
        });
        most_modest.map(|(_, _, (ticket, _))| ticket)
    }

    /// Seats in use by level, and requests that wait there.
    #[cfg(test)]
    pub fn load(&self, level: &str) -> (u32, usize) {
        self.levels.get(level).map_or((0, 0), |level| (level.used, level.waiting))
    }
}
