//! Is a history linearizable? The search of Wing and Gong with Lowe's memory of what was seen, as porcupine does it.
//!
//! A call takes effect at one moment between its call and its return. Calls of unknown outcome have no return: they
//! may take effect at any later moment, or (which is the same) after everything else. What keeps the search small, and
//! never changes its verdict:
//!
//! - An answer carries the revision, and a value that somebody saw the revision at which it was written: both say in
//!   which state the call took effect. Only where nobody saw who wrote a revision is there a choice.
//! - A key that was seen as it was long before had not been changed in between.
//! - A call with a known outcome that changes nothing is taken as soon as it fits: it cannot stand in anybody's way.
//! - Of unknown calls that are the same (but for values that nobody ever saw) the first is taken first.
//! - An unknown change of a lease that owns no keys is taken only right before a call that mentions the lease:
//!   nobody else can tell the difference.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::model::State;
use super::{Answer, Call, Event, Op, Outcome};

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

/// A call, and in which states it can have taken effect.
struct Fact {
    call: Call,
    told: Outcome,
    called: u64,
    returned: u64,
    /// The revision just before it, at least and at most.
    least: i64,
    most: i64,
    /// The same call of unknown outcome that began before it.
    twin: Option<usize>,
    /// What the event is in a hash of those that are done.
    mark: u128,
}

impl Fact {
    fn is_unknown(&self) -> bool {
        self.told == Outcome::Unknown
    }

    fn fits(&self, model: &Outcome) -> bool {
        self.is_unknown() || self.told == *model
    }

    fn mentions(&self, lease: i64) -> bool {
        match &self.call {
            Call::Grant(id) | Call::Revoke(id) | Call::Expire(id) => *id == lease,
            Call::Txn { then, otherwise, .. } => {
                then.iter().chain(otherwise).any(|op| matches!(op, Op::Put { lease: id, .. } if *id == lease))
            }
        }
    }

    /// The lease that an unknown call may change without anybody noticing.
    fn changes_lease(&self) -> Option<i64> {
        match self.call {
            Call::Grant(lease) | Call::Revoke(lease) | Call::Expire(lease) if self.is_unknown() => Some(lease),
            _ => None,
        }
    }
}

fn values(call: &mut Call) -> impl Iterator<Item = &mut String> {
    let ops = match call {
        Call::Txn { then, otherwise, .. } => Some(then.iter_mut().chain(otherwise)),
        Call::Grant(_) | Call::Revoke(_) | Call::Expire(_) => None,
    };
    ops.into_iter().flatten().filter_map(|op| match op {
        Op::Put { value, .. } => Some(value),
        Op::Delete { .. } | Op::Range { .. } => None,
    })
}

/// Values that somebody saw, and the revision at which they were written.
fn witnessed(events: &[Event]) -> HashMap<String, i64> {
    let mut seen = HashMap::new();
    for event in events {
        let Outcome::Done { answers, .. } = &event.outcome else { continue };
        for answer in answers {
            if let Answer::Range(keys) = answer {
                seen.extend(keys.iter().map(|(_, seen)| (seen.value.clone(), seen.modified)));
            }
        }
    }
    seen
}

/// For every key, revisions after the first and up to the second at which it was not changed: somebody saw it so.
fn quiet(events: &[Event]) -> HashMap<String, Vec<(i64, i64)>> {
    let mut quiet: HashMap<String, Vec<(i64, i64)>> = HashMap::new();
    for event in events {
        let Outcome::Done { answers, .. } = &event.outcome else { continue };
        let (_, upto) = bounds(event, &HashMap::new());
        for answer in answers {
            let Answer::Range(keys) = answer else { continue };
            for (key, seen) in keys.iter().filter(|(_, seen)| seen.modified < upto) {
                quiet.entry(key.clone()).or_default().push((seen.modified, upto));
            }
        }
    }
    quiet
}

/// The revisions between which the store was just before the call.
fn bounds(event: &Event, seen: &HashMap<String, i64>) -> (i64, i64) {
    match (&event.outcome, &event.call) {
        (Outcome::Done { revision, answers, .. }, Call::Txn { .. }) => {
            let wrote = answers.iter().any(|answer| match answer {
                Answer::Put => true,
                Answer::Deleted(count) => *count > 0,
                Answer::Range(_) => false,
            });
            let before = revision - i64::from(wrote);
            (before, before)
        }
        // A revocation makes a revision only if the lease owned keys.
        (Outcome::Done { revision, .. }, _) => (revision - 1, *revision),
        (Outcome::Unknown, call) => {
            let written = values(&mut call.clone()).find_map(|value| seen.get(value.as_str())).map(|revision| revision - 1);
            (written.unwrap_or(0), written.unwrap_or(i64::MAX))
        }
        (Outcome::Refused, _) => (0, i64::MAX),
    }
}

fn facts(events: &[Event]) -> Vec<Fact> {
    let seen = witnessed(events);
    let mut by_call: Vec<&Event> = events.iter().collect();
    by_call.sort_by_key(|event| event.called);
    let mut facts: Vec<Fact> = Vec::with_capacity(events.len());
    for (number, event) in by_call.into_iter().enumerate() {
        let (mut call, (least, most)) = (event.call.clone(), bounds(event, &seen));
        if event.outcome == Outcome::Unknown {
            values(&mut call).filter(|value| !seen.contains_key(value.as_str())).for_each(|value| "?".clone_into(value));
        }
        let same = |other: &Fact| other.is_unknown() && event.outcome == Outcome::Unknown && other.call == call;
        let twin = facts.iter().rposition(same);
        let (told, called, returned) = (event.outcome.clone(), event.called, event.returned);
        facts.push(Fact { call, told, called, returned, least, most, twin, mark: wide(&("call", number)) });
    }
    facts
}

/// A hash that no two of a few million things share.
fn wide(thing: &impl std::hash::Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        thing.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// A place in the search: what was taken to get here, and where one can go on.
struct Place {
    taken: Vec<usize>,
    state: State,
    choices: Vec<usize>,
    next: usize,
}

struct Search {
    /// In the order of their beginnings.
    facts: Vec<Fact>,
    quiet: HashMap<String, Vec<(i64, i64)>>,
    done: Vec<bool>,
    marks: u128,
    /// Known outcomes that are left.
    left: usize,
    explained: usize,
}

impl Search {
    fn take(&mut self, fact: usize) {
        self.toggle(fact, true);
    }

    fn give_back(&mut self, fact: usize) {
        self.toggle(fact, false);
    }

    fn toggle(&mut self, fact: usize, taken: bool) {
        self.done[fact] = taken;
        self.marks ^= self.facts[fact].mark;
        let (known, one) = (!self.facts[fact].is_unknown(), usize::from(taken));
        if known {
            self.left = self.left + 1 - 2 * one;
            self.explained = self.explained + 2 * one - 1;
        }
    }

    /// Calls that may be next: begun before the first return among those that are left, in a state that they need.
    fn candidates(&self, revision: i64) -> Vec<usize> {
        let (mut found, mut first_return) = (Vec::new(), u64::MAX);
        for (number, fact) in self.facts.iter().enumerate() {
            if self.done[number] {
                continue;
            }
            if fact.called > first_return {
                break;
            }
            first_return = first_return.min(fact.returned);
            if (fact.least..=fact.most).contains(&revision) {
                found.push(number);
            }
        }
        found
    }

    /// Takes all that is known to have changed nothing and fits; says what it was.
    fn read(&mut self, state: &State) -> Vec<usize> {
        let mut taken = Vec::new();
        loop {
            let before = taken.len();
            for number in self.candidates(state.revision) {
                let fact = &self.facts[number];
                if fact.is_unknown() {
                    continue;
                }
                let mut after = state.clone();
                if fact.fits(&after.step(&fact.call)) && after == *state {
                    self.take(number);
                    taken.push(number);
                }
            }
            if taken.len() == before {
                return taken;
            }
        }
    }

    /// Whether some call that is left needs an older state than this. One of unknown outcome whose value was seen does too.
    fn is_dead(&self, revision: i64) -> bool {
        self.facts.iter().zip(&self.done).any(|(fact, done)| !done && fact.most < revision)
    }

    /// Whether the step from one state to the next changes a key that somebody saw unchanged.
    fn is_refuted(&self, before: &State, after: &State) -> bool {
        let written = after.keys.iter().filter(|(_, seen)| seen.modified == after.revision).map(|(key, _)| key);
        let removed = before.keys.keys().filter(|key| !after.keys.contains_key(*key));
        let mut changed = written.chain(removed).filter_map(|key| self.quiet.get(key)).flatten();
        changed.any(|(from, upto)| *from < after.revision && after.revision <= *upto)
    }

    fn choices(&self, state: &State, owed: Option<i64>) -> Vec<usize> {
        let mut found = self.candidates(state.revision);
        found.retain(|&number| {
            let fact = &self.facts[number];
            owed.is_none_or(|lease| fact.mentions(lease)) && fact.twin.is_none_or(|twin| self.done[twin])
        });
        found.sort_by_key(|&number| (self.facts[number].is_unknown(), self.facts[number].most));
        found
    }

    /// Goes on with a call, if that makes sense: the state after it, and the lease that is owed a mention.
    fn attempt(&mut self, number: usize, state: &State) -> Option<(State, Option<i64>)> {
        let (fact, mut after) = (&self.facts[number], state.clone());
        if !fact.fits(&after.step(&fact.call)) || after == *state {
            // What changes nothing was taken before, or explains nothing.
            return None;
        }
        let unnoticed = after.revision == state.revision;
        let owed = fact.changes_lease().filter(|_| unnoticed);
        self.take(number);
        if !unnoticed && (self.is_dead(after.revision) || self.is_refuted(state, &after)) {
            self.give_back(number);
            return None;
        }
        Some((after, owed))
    }
}

/// Looks for an order that explains all events, from an empty store on.
pub fn linearizable(events: &[Event]) -> Result<(), Rejected> {
    let facts = facts(events);
    let left = facts.iter().filter(|fact| !fact.is_unknown()).count();
    let mut search = Search { done: vec![false; facts.len()], quiet: quiet(events), facts, marks: 0, left, explained: 0 };
    let mut seen: HashSet<u128> = HashSet::new();
    let (mut best, mut stuck, mut looked) = (0, Vec::new(), 0);
    let mut path: Vec<Place> = Vec::new();
    let mut arrived = Some((Vec::new(), State::default(), None));
    loop {
        if let Some((mut taken, state, mut owed)) = arrived.take() {
            looked += 1;
            let read = search.read(&state);
            if owed.is_some_and(|lease| read.iter().any(|&number| search.facts[number].mentions(lease))) {
                owed = None;
            }
            taken.extend(read);
            if search.left == 0 {
                return Ok(());
            }
            let choices = if seen.insert(search.marks ^ wide(&(&state, owed))) { search.choices(&state, owed) } else { Vec::new() };
            if search.explained >= best && !choices.is_empty() {
                best = search.explained;
                stuck = search.candidates(state.revision).into_iter().take(12).map(|number| told(&search.facts[number])).collect();
                stuck.push(format!("{state:?}"));
            }
            path.push(Place { taken, state, choices, next: 0 });
        }
        if looked > PATIENCE {
            return Err(Rejected::Undecided);
        }
        let Some(place) = path.last_mut() else { return Err(Rejected::NotLinearizable { explained: best, stuck }) };
        let Some(&number) = place.choices.get(place.next) else {
            path.pop().into_iter().flat_map(|place| place.taken).for_each(|number| search.give_back(number));
            continue;
        };
        place.next += 1;
        arrived = search.attempt(number, &place.state).map(|(state, owed)| (vec![number], state, owed));
    }
}

fn told(fact: &Fact) -> String {
    let Fact { call, told, called, returned, least, most, .. } = fact;
    format!("{call:?} from {called} to {returned} was told {told:?}; revision {least} to {most}")
}

#[cfg(test)]
mod tests {
    use super::super::Seen;
    use super::*;

    fn put(key: &str, value: &str) -> Call {
        Call::one(Op::Put { key: key.to_owned(), value: value.to_owned(), lease: 0 })
    }

    fn read(key: &str) -> Call {
        Call::one(Op::Range { from: key.to_owned(), to: format!("{key}\0") })
    }

    fn shown(value: &str, create: i64, modified: i64, version: i64) -> Answer {
        Answer::Range(vec![("k".to_owned(), Seen { value: value.to_owned(), create, modified, version, lease: 0 })])
    }

    fn event(client: usize, call: Call, (called, returned): (u64, u64), told: Option<(i64, Answer)>) -> Event {
        let outcome = match told {
            Some((revision, answer)) => Outcome::Done { revision, succeeded: true, answers: vec![answer] },
            None => Outcome::Unknown,
        };
        Event { client, call, called, returned, outcome }
    }

    #[test]
    fn a_stale_read_and_a_lost_write_are_rejected_and_what_may_be_is_not() {
        let first = event(1, put("k", "a"), (1, 2), Some((2, Answer::Put)));
        let second = event(1, put("k", "b"), (3, 6), Some((3, Answer::Put)));
        let early = event(2, read("k"), (4, 5), Some((2, shown("a", 2, 2, 1))));
        let late = event(2, read("k"), (7, 8), Some((2, shown("a", 2, 2, 1))));
        assert_eq!(linearizable(&[first.clone(), second.clone(), early]), Ok(()), "while the second is on its way");
        let rejected = linearizable(&[first.clone(), second, late.clone()]);
        assert!(matches!(rejected, Err(Rejected::NotLinearizable { .. })), "{rejected:?}");
        let unknown = event(3, put("k", "b"), (3, u64::MAX), None);
        assert_eq!(linearizable(&[first.clone(), unknown.clone(), late.clone()]), Ok(()), "it need not have happened");
        let seen = event(4, read("k"), (9, 10), Some((3, shown("b", 2, 3, 2))));
        assert_eq!(linearizable(&[first.clone(), unknown.clone(), late, seen.clone()]), Ok(()), "or may happen late");
        let back = event(2, read("k"), (11, 12), Some((2, shown("a", 2, 2, 1))));
        assert!(linearizable(&[first, unknown, seen, back]).is_err(), "but not be undone");
    }

    #[test]
    fn who_wrote_what_nobody_saw_is_found_among_many() {
        let mut events: Vec<Event> = (0..40).map(|number| event(number, put("k", &format!("x{number}")), (1, u64::MAX), None)).collect();
        events.push(event(50, put("j", "y"), (2, 3), Some((22, Answer::Put))));
        events.push(event(50, read("k"), (4, 5), Some((22, shown("x7", 2, 21, 20)))));
        assert_eq!(linearizable(&events), Ok(()));
        events.push(event(50, read("k"), (6, 7), Some((22, shown("x8", 2, 21, 20)))));
        assert!(matches!(linearizable(&events), Err(Rejected::NotLinearizable { .. })));
    }

    #[test]
    fn a_lease_that_may_have_ended_has_ended_or_not() {
        let held = |value: &str| Call::one(Op::Put { key: "k".to_owned(), value: value.to_owned(), lease: 7 });
        let granted = Outcome::Done { revision: 1, succeeded: true, answers: Vec::new() };
        let grant = Event { client: 1, call: Call::Grant(7), called: 1, returned: 2, outcome: granted };
        let expire = event(9, Call::Expire(7), (1, u64::MAX), None);
        let kept = event(1, held("a"), (3, 4), Some((2, Answer::Put)));
        let missing = Event { client: 1, call: held("b"), called: 5, returned: 6, outcome: Outcome::Refused };
        assert_eq!(linearizable(&[grant.clone(), expire.clone(), kept.clone(), missing.clone()]), Ok(()));
        assert_eq!(linearizable(&[grant.clone(), expire.clone(), missing.clone()]), Ok(()), "without a key of its own");
        assert!(linearizable(&[grant.clone(), kept, missing.clone()]).is_err(), "it was there");
        let again = event(1, held("c"), (7, 8), Some((2, Answer::Put)));
        assert!(linearizable(&[grant, expire, missing, again]).is_err(), "it does not come back");
    }
}
