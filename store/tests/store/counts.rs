//! The counts of keys on disk, against walking the keys.

use std::sync::OnceLock;

use balsa_store::disk::counts;
use balsa_store::disk::state::{Batch, State};
use balsa_store::disk::view::DiskView;
use balsa_store::error::Fault;
use balsa_store::mvcc::writer::Writer;
use balsa_store::mvcc::{self, End, KeyRange, Position, View as _};
use bytes::Bytes;
use proptest::prelude::*;

/// Keys to choose from: plain ones, and as many as matter of those that end buckets of each level.
fn pool() -> &'static [Bytes] {
    static POOL: OnceLock<Vec<Bytes>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut left = [400, 400, 60, 2];
        let keys = (0..1_500_000).map(|number: u32| Bytes::from(format!("k{number:07}")));
        let keys = keys.filter(|key| {
            let left = &mut left[usize::from(counts::level(key))];
            *left -= i32::from(*left > 0);
            *left > 0
        });
        keys.collect()
    })
}

fn key() -> impl Strategy<Value = Bytes> {
    // The rare ones lie at the end of the pool too, where there is nothing else.
    (0..pool().len()).prop_map(|at| pool()[at].clone())
}

fn range() -> impl Strategy<Value = KeyRange> {
    (key(), key(), any::<bool>()).prop_map(|(start, end, open)| {
        KeyRange { start, end: if open { End::Unbounded } else { End::Before(end) } }
    })
}

#[derive(Debug, Clone)]
enum Step {
    Put(Bytes),
    Delete(KeyRange),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => key().prop_map(Step::Put),
        6 => key().prop_map(|start| Step::Delete(KeyRange { start, end: End::Single })),
        1 => range().prop_map(Step::Delete),
    ]
}

fn run(state: &State, position: Position, steps: &[Step], look: &KeyRange) -> Result<Position, Fault> {
    let opened = state.current();
    let view = DiskView::newest_of(opened.db());
    let mut writer = Writer::new(&view, position);
    for step in steps {
        match step {
            Step::Put(key) => drop(writer.put(key.clone(), Bytes::new(), 0)?),
            Step::Delete(range) => drop(writer.delete(range)?),
        }
        writer.finish_command();
        let at = writer.position().revision;
        assert_eq!(writer.count(look, at)?, mvcc::walk(&writer, look, at)?, "among changes not written yet");
    }
    let (changes, position) = writer.into_changes();
    state.write(Batch { changes: &changes, position, applied: Vec::new(), membership: None })?;
    Ok(position)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn are_what_walking_finds_at_every_revision(
        first in prop::collection::vec(any::<bool>(), pool().len()),
        batches in prop::collection::vec((prop::collection::vec(step(), 1..40), range()), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let first = pool().iter().zip(first).filter(|(_, wanted)| *wanted).map(|(key, _)| Step::Put(key.clone()));
        let first: Vec<Step> = first.collect();
        let all = KeyRange { start: Bytes::new(), end: End::Before(Bytes::new()) };
        let mut position = run(&state, Position::default(), &first, &all).unwrap();
        for (steps, look) in &batches {
            let before = position.revision;
            position = run(&state, position, steps, look).unwrap();
            state.read(|view| {
                counts::check(view)?;
                for at in (before..=position.revision).step_by(7) {
                    assert_eq!(view.count(look, at)?, mvcc::walk(view, look, at)?, "{look:?} at {at}");
                }
                Ok::<(), Fault>(())
            }).unwrap();
        }
    }
}

/// A state that was written before there were counts is counted when it is opened.
#[test]
fn an_older_state_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let steps: Vec<Step> = pool().iter().map(|key| Step::Put(key.clone())).collect();
    let none = KeyRange { start: Bytes::new(), end: End::Single };
    {
        let state = State::open(dir.path()).unwrap();
        run(&state, Position::default(), &steps, &none).unwrap();
        let opened = state.current();
        let families = ["counts", "meta"].map(|name| balsa_store::disk::view::family(opened.db(), name).unwrap());
        opened.db().delete_range_cf_opt(families[0], [0u8], [255u8], &balsa_store::disk::state::unlogged()).unwrap();
        opened.db().delete_cf_opt(families[1], "counted", &balsa_store::disk::state::unlogged()).unwrap();
        assert!(state.read(|view| counts::check(view)).is_err(), "the check sees that counts are missing");
        state.flush(1).unwrap();
    }
    let state = State::open(dir.path()).unwrap();
    state.read(|view| counts::check(view)).unwrap();
    let all = KeyRange { start: Bytes::from_static(&[0]), end: End::Unbounded };
    assert_eq!(state.read(|view| view.count(&all, i64::MAX)).unwrap(), steps.len() as i64);
}
