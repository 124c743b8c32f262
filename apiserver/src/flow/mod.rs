//! Priority and fairness: who runs at once, who waits, who is told to come back, so that nobody starves the others.
//!
//! | what | where |
//! |---|---|
//! | levels and schemas, from the objects of flowcontrol.apiserver.k8s.io (pure) | [`config`] |
//! | seats, queues, borrowing (pure) | [`machine`] |
//! | the waiting (here) | [`FlowControl`] |
//!
//! A request gets seats of its level, or waits in one of the level's queues: those of a flow (a user, a namespace) are
//! spread so that one flow fills few of them. Watches hold seats only until they have begun; exec, attach, logs,
//! port-forward and proxied requests hold none.

pub mod config;
pub mod machine;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balsa_api::status::ApiError;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::authn::Caller;
use crate::authz::rbac::Attributes;
use crate::watch_cache::Caches;
use config::{Configuration, Limits};
use machine::{Arrival, Machine, Ticket, Why};

/// How long a request waits at most, as in the original: a quarter of the longest request.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Objects of a list that one seat stands for.
const OBJECTS_PER_SEAT: usize = 100;
/// Seats that a list takes at most.
const MAX_SEATS: u32 = 10;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const RESOURCES: [&str; 2] = ["flowschemas", "prioritylevelconfigurations"];

struct State {
    machine: Machine,
    configuration: Arc<Configuration>,
    /// The caches' versions that the configuration was made from.
    made_from: Vec<(u64, u64)>,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// See the module.
pub struct FlowControl {
    caches: Arc<Caches>,
    limits: Limits,
    state: Arc<Mutex<State>>,
}

/// A request's seats, given back when this is dropped.
pub struct Seat {
    state: Arc<Mutex<State>>,
    ticket: Ticket,
    since: Option<Instant>,
    /// UIDs of the schema and the level, for the answer's headers; empty for those that are no objects yet.
    pub uids: (String, String),
}

/// A request that got no seat.
#[derive(Debug)]
pub struct Refused {
    /// The answer.
    pub error: ApiError,
    /// As in [`Seat`].
    pub uids: (String, String),
}

impl FlowControl {
    /// With the configuration that these caches hold, or every cluster's.
    pub fn new(caches: Arc<Caches>, limits: Limits) -> Self {
        let configuration = Arc::new(Configuration::new(&[], &[], &limits));
        let machine = Machine::new(&configuration.levels);
        let state = State { machine, configuration, made_from: Vec::new(), waiting: BTreeMap::new() };
        Self { caches, limits, state: Arc::new(Mutex::new(state)) }
    }

    fn refresh(&self, state: &mut State) {
        let caches: Vec<_> = RESOURCES.iter().filter_map(|plural| self.caches.resource(GROUP, plural)).collect();
        let versions: Vec<(u64, u64)> = caches.iter().map(|cache| cache.version()).collect();
        if versions == state.made_from {
            return;
        }
        let objects = |plural: &str| -> Vec<serde_json::Value> {
            let cache = self.caches.resource(GROUP, plural);
            cache.map(|cache| cache.list("").iter().map(|object| object.value()).collect()).unwrap_or_default()
        };
        let [schemas, levels] = RESOURCES.map(objects);
        state.configuration = Arc::new(Configuration::new(&schemas, &levels, &self.limits));
        state.made_from = versions;
        let started = state.machine.reconfigure(&state.configuration.levels);
        wake(state, started);
    }

    /// Seats that the request takes: those of a wide list several.
    fn width(&self, asked: &Attributes, limit: usize) -> u32 {
        if asked.verb != "list" || !asked.name.is_empty() {
            return 1;
        }
        let Some(cache) = self.caches.resource(&asked.group, &asked.resource) else { return 1 };
        let objects = cache.snapshot().objects.len();
        let objects = if limit == 0 { objects } else { objects.min(limit) };
        u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(MAX_SEATS).clamp(1, MAX_SEATS)
    }

    /// Waits for seats. `limit`: of a list; 0: none. 429 when the level refuses or the wait was too long.
    pub async fn admit(&self, caller: &Caller, asked: &Attributes, limit: usize) -> Result<Seat, Refused> {
        let width = self.width(asked, limit);
        let (mut seat, receiver) = {
            let state = &mut *self.state.lock();
            self.refresh(state);
            let flow = state.configuration.classify(caller, asked);
            let uids = (flow.schema_uid, flow.level_uid);
            let refused = |why| Refused { error: too_many(why), uids: uids.clone() };
            let (arrival, started) = state.machine.arrive(&flow.level, flow.hash, width);
            wake(state, started);
            match arrival {
                Arrival::Refused(why) => return Err(refused(why)),
                Arrival::Runs(ticket) => {
                    let since = Some(Instant::now());
                    return Ok(Seat { state: self.state.clone(), ticket, since, uids });
                }
                Arrival::Waits(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    (Seat { state: self.state.clone(), ticket, since: None, uids }, receiver)
                }
            }
        };
        // Dropped while it waits, the request leaves its queue.
        match tokio::time::timeout(LONGEST_WAIT, receiver).await {
            Ok(Ok(())) => {
                seat.since = Some(Instant::now());
                Ok(seat)
            }
            _ => Err(Refused { error: too_many(Why::TimeOut), uids: std::mem::take(&mut seat.uids) }),
        }
    }
}

fn too_many(why: Why) -> ApiError {
    tracing::debug!(?why, "a request was refused for want of seats");
    ApiError::too_many_requests("Too many requests, please try again later.", 1)
}

fn wake(state: &mut State, started: Vec<Ticket>) {
    for ticket in started {
        if let Some(sender) = state.waiting.remove(&ticket) {
            // One that is gone meanwhile gives its seats back by its own end.
            sender.send(()).ok();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.waiting.remove(&self.ticket);
        let elapsed = self.since.map(|since| since.elapsed()).unwrap_or_default();
        let started = state.machine.finish(self.ticket, elapsed);
        wake(&mut state, started);
    }
}
