//! What is asked of a run when it is over. That replicas agree is looked at while they apply ([`super::truth`]).

use std::collections::{BTreeMap, BTreeSet};

use super::clients::Notes;
use super::history::{Call, Event, Op, Outcome, Seen, check};
use super::truth::Became;
use super::watchers::{Heard, Piece};
use super::{Kind, cluster, world};

/// The fastest of the clocks, thousandths of the world's.
const FASTEST: u64 = 1_051;

/// All promises.
pub fn all(notes: &Notes) {
    let mut broken = Vec::new();
    let revisions = world::with(|world| world.truth.revisions.clone()).unwrap_or_default();
    broken.extend(acknowledged(notes, &revisions));
    broken.extend(snapshots(notes, &revisions));
    broken.extend(values(notes, &revisions));
    broken.extend(leases(notes));
    broken.extend(notes.heard.iter().flat_map(|heard| watched(heard, &revisions)));
    broken.into_iter().for_each(world::violation);
    linearizable(notes);
}

/// Why the cluster is not at rest yet.
pub fn at_rest(notes: &Notes) -> Result<(), String> {
    let mut applied = BTreeSet::new();
    for number in cluster::present() {
        let running = world::running(number).ok_or_else(|| format!("store{} is not up", number + 1))?;
        let now = *running.replica.hub().applied().borrow();
        applied.insert((now.index, now.position.revision));
        if !running.replica.lease_ids().is_empty() {
            return Err(format!("store{} has the leases {:?}", number + 1, running.replica.lease_ids()));
        }
    }
    if applied.len() != 1 {
        return Err(format!("the replicas are at {applied:?}"));
    }
    let revision = world::with(|world| world.truth.revision()).unwrap_or(0);
    match notes.heard.iter().find(|heard| heard.pieces.last().is_none_or(|piece| piece.up_to < revision)) {
        Some(heard) => Err(format!("a watcher of {}..{} has not heard of revision {revision}", heard.from, heard.to)),
        None => Ok(()),
    }
}

fn linearizable(notes: &Notes) {
    let mut events = notes.events.clone();
    // A lease that was asked for may run out at any time after that.
    let expiries = notes.events.iter().filter_map(|event| match event.call {
        Call::Grant(lease) => Some(Event {
            client: 1_000,
            call: Call::Expire(lease),
            called: event.called,
            returned: u64::MAX,
            outcome: Outcome::Unknown,
        }),
        _ => None,
    });
    events.extend(expiries.collect::<Vec<_>>());
    match check::linearizable(&events) {
        Ok(()) => {}
        Err(check::Rejected::Undecided) => {
            world::wrong(Kind::Undecided, "the search for an order of all calls took too long".to_owned());
        }
        Err(rejected) => world::violation(format!("the history is not linearizable: {rejected:#?}")),
    }
}

/// What was acknowledged is in the one history that all replicas have, at the revision that was said.
fn acknowledged(notes: &Notes, revisions: &BTreeMap<i64, Vec<Became>>) -> Vec<String> {
    let mut lost = Vec::new();
    for event in &notes.events {
        let (Call::Txn { then, otherwise, .. }, Outcome::Done { revision, succeeded, .. }) = (&event.call, &event.outcome)
        else {
            continue;
        };
        for op in if *succeeded { then } else { otherwise } {
            let Op::Put { key, value, .. } = op else { continue };
            let there = revisions.get(revision).is_some_and(|changes| {
                changes.iter().any(|(changed, seen)| changed == key && seen.as_ref().is_some_and(|seen| seen.value == *value))
            });
            if !there {
                lost.push(format!("an acknowledged write of {value} to {key} at revision {revision} is lost"));
            }
        }
    }
    lost
}

/// Reads of one replica's own state, and of old revisions, show exactly what was there at their revision.
fn snapshots(notes: &Notes, revisions: &BTreeMap<i64, Vec<Became>>) -> Vec<String> {
    let mut wanted: Vec<&(i64, Vec<(String, Seen)>)> = notes.snapshots.iter().collect();
    wanted.sort_by_key(|(revision, _)| *revision);
    let (mut keys, mut at, mut wrong): (BTreeMap<String, Seen>, i64, Vec<String>) = Default::default();
    for (revision, read) in wanted {
        for (_, changes) in revisions.range(at + 1..(revision + 1).max(at + 1)) {
            for (key, seen) in changes {
                match seen {
                    Some(seen) => keys.insert(key.clone(), seen.clone()),
                    None => keys.remove(key),
                };
            }
        }
        at = *revision;
        let expected: Vec<(String, Seen)> =
            keys.range("k".to_owned().."l".to_owned()).map(|(key, seen)| (key.clone(), seen.clone())).collect();
        if expected != *read {
            wrong.push(format!("a read at revision {revision} saw {read:?} instead of {expected:?}"));
        }
    }
    wrong
}

/// Nothing was written that nobody asked for, or twice, or that was refused for certain.
fn values(notes: &Notes, revisions: &BTreeMap<i64, Vec<Became>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut written: BTreeMap<&str, i64> = BTreeMap::new();
    for (revision, changes) in revisions {
        for (key, seen) in changes {
            let Some(seen) = seen else { continue };
            // A transaction writes its values to different keys, so one value is at one key and one revision.
            if let Some(before) = written.insert(&seen.value, *revision) {
                wrong.push(format!("{} was written to {key} at revision {revision} and before, at {before}", seen.value));
            }
        }
    }
    for value in &notes.refused {
        if let Some(revision) = written.get(value.as_str()) {
            wrong.push(format!("{value} was refused, and is there, at revision {revision}"));
        }
    }
    wrong
}

/// No lease ends before its time: counted from when the last renewal that was confirmed had been asked for.
fn leases(notes: &Notes) -> Vec<String> {
    let revoked = world::with(|world| world.truth.revoked.clone()).unwrap_or_default();
    let mut wrong = Vec::new();
    for lease in notes.leases.iter().filter(|lease| !lease.given_up) {
        let Some(ended) = revoked.get(&lease.id) else { continue };
        // A millisecond for rounding.
        let whole = u64::try_from(lease.ttl).unwrap_or(0) * 1_000 * 1_000 / FASTEST - 1;
        for renewed in lease.renewed.iter().filter(|renewed| *ended < **renewed + whole) {
            wrong.push(format!("lease {} of {} s, renewed at {renewed} ms, ended at {ended} ms", lease.id, lease.ttl));
        }
    }
    wrong
}

/// A watcher hears every change of its keys once, in order, from its start to what it was told it heard.
fn watched(heard: &Heard, revisions: &BTreeMap<i64, Vec<Became>>) -> Vec<String> {
    let inside = |key: &str| heard.from.as_str() <= key && key < heard.to.as_str();
    let mut wrong = Vec::new();
    for Piece { start, events, up_to } in &heard.pieces {
        if start > up_to {
            continue;
        }
        let expected = revisions.range(start..=up_to).flat_map(|(revision, changes)| {
            changes.iter().filter(|(key, _)| inside(key)).map(|change| (*revision, change.clone()))
        });
        let expected: Vec<(i64, Became)> = expected.collect();
        if *events != expected {
            let at = events.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(events.len().min(expected.len()));
            wrong.push(format!(
                "a watcher of {}..{} from {start} to {up_to} heard {} events, not {}; from the {at}th on {:?} instead of {:?}",
                heard.from,
                heard.to,
                events.len(),
                expected.len(),
                events.get(at),
                expected.get(at)
            ));
        }
    }
    wrong
}
