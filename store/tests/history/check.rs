//! Is a history linearizable? The search of Wing and Gong with Lowe's memory of what was seen, as porcupine does it.
//!
//! A call takes effect at one moment between its call and its return. Calls of unknown outcome have no return: they
//! may take effect at any later moment, or (which is the same) after everything else. The store's answers carry the
//! revision, so that most of the search is decided: a state past the revision that a waiting answer needs is dead.

use std::collections::HashSet;

use super::model::State;
use super::{Answer, Call, Event, Outcome};

/// States looked at before the search gives up; far more than any history of the tests needs.
const PATIENCE: usize = 3_000_000;

/// Why a history is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// No order explains it; how many calls the best attempt explained, and those that then could not come next.
    NotLinearizable { explained: usize, stuck: Vec<String> },
    /// The search took too long.
    Undecided,
}

/// The revision that the store must have been at just before the call, at most.
fn before(event: &Event) -> Option<i64> {
    let Outcome::Done { revision, answers, .. } = &event.outcome else { return None };
    let wrote = match event.call {
        Call::Txn { .. } => answers.iter().any(|answer| match answer {
            Answer::Put => true,
            Answer::Deleted(count) => *count > 0,
            Answer::Range(_) => false,
        }),
        // A revocation makes a revision only if the lease owned keys.
        Call::Grant(_) | Call::Revoke(_) | Call::Expire(_) => false,
    };
    Some(revision - i64::from(wrote))
}

struct Attempt {
    taken: usize,
    state: State,
    /// Where among the candidates to go on.
    next: usize,
}

struct Search<'a> {
    events: &'a [Event],
    /// Calls in the order of their beginnings.
    by_call: Vec<usize>,
    needs: Vec<Option<i64>>,
    done: Vec<u64>,
}

impl Search<'_> {
    fn is_done(&self, event: usize) -> bool {
        self.done[event / 64] & (1 << (event % 64)) != 0
    }

    fn flip(&mut self, event: usize) {
        self.done[event / 64] ^= 1 << (event % 64);
    }

    /// Calls that may be next: begun before the first return among those that are left. Known outcomes first.
    fn candidates(&self) -> Vec<usize> {
        let mut found = Vec::new();
        let mut first_return = u64::MAX;
        for &event in &self.by_call {
            if self.is_done(event) {
                continue;
            }
            if self.events[event].called > first_return {
                break;
            }
            first_return = first_return.min(self.events[event].returned);
            found.push(event);
        }
        found.sort_by_key(|&event| (self.needs[event].is_none(), self.needs[event]));
        found
    }

    /// Whether some answer that is left needs an older state than this.
    fn is_dead(&self, revision: i64) -> bool {
        (0..self.events.len()).any(|event| !self.is_done(event) && self.needs[event].is_some_and(|need| need < revision))
    }
}

fn fits(told: &Outcome, model: &Outcome) -> bool {
    *told == Outcome::Unknown || told == model
}

/// Looks for an order that explains all events, from an empty store on.
pub fn linearizable(events: &[Event]) -> Result<(), Rejected> {
    let mut by_call: Vec<usize> = (0..events.len()).collect();
    by_call.sort_by_key(|&event| events[event].called);
    let needs = events.iter().map(before).collect();
    let mut search = Search { events, by_call, needs, done: vec![0; events.len().div_ceil(64)] };
    let mut left = events.iter().filter(|event| event.outcome != Outcome::Unknown).count();
    let mut seen: HashSet<(Vec<u64>, State)> = HashSet::new();
    let (mut path, mut state): (Vec<Attempt>, State) = (Vec::new(), State::default());
    let (mut candidates, mut next, mut looked) = (search.candidates(), 0, 0);
    let (mut best, mut stuck) = (0, Vec::new());
    while left > 0 {
        looked += 1;
        if looked > PATIENCE {
            return Err(Rejected::Undecided);
        }
        if path.len() >= best && next == 0 {
            best = path.len();
            stuck = candidates.iter().take(12).map(|&event| format!("{:?}", events[event])).collect();
            stuck.push(format!("{state:?}"));
        }
        let mut advanced = false;
        while next < candidates.len() {
            let event = candidates[next];
            next += 1;
            let mut after = state.clone();
            let outcome = after.step(&events[event].call);
            if !fits(&events[event].outcome, &outcome) {
                continue;
            }
            // An unknown call that changes nothing explains nothing.
            if events[event].outcome == Outcome::Unknown && after == state {
                continue;
            }
            search.flip(event);
            if search.is_dead(after.revision) || !seen.insert((search.done.clone(), after.clone())) {
                search.flip(event);
                continue;
            }
            left -= usize::from(events[event].outcome != Outcome::Unknown);
            path.push(Attempt { taken: event, state: std::mem::replace(&mut state, after), next });
            advanced = true;
            break;
        }
        if advanced {
            (candidates, next) = (search.candidates(), 0);
            continue;
        }
        let Some(back) = path.pop() else {
            return Err(Rejected::NotLinearizable { explained: best, stuck });
        };
        search.flip(back.taken);
        left += usize::from(events[back.taken].outcome != Outcome::Unknown);
        (state, next) = (back.state, back.next);
        candidates = search.candidates();
    }
    Ok(())
}

