//! The key space on disk against a model that keeps a whole map per revision.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use balsa_proto::etcd::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request,
};
use balsa_store::command::{Command, Outcome};
use balsa_store::disk::checkpoint;
use balsa_store::disk::state::{Batch, State};
use balsa_store::disk::view::DiskView;
use balsa_store::error::{Fault, Refusal};
use balsa_store::mvcc::memory::Memory;
use balsa_store::mvcc::writer::Writer;
use balsa_store::mvcc::{End, KeyRange, Position, View};
use bytes::Bytes;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Put(u8, u8),
    Delete(u8, u8),
    Txn(Vec<(u8, Option<u8>)>),
    Compact(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..8, any::<u8>()).prop_map(|(key, value)| Op::Put(key, value)),
        2 => (0u8..8, 0u8..9).prop_map(|(from, to)| Op::Delete(from, to)),
        2 => prop::collection::btree_map(0u8..8, any::<Option<u8>>(), 1..4).prop_map(|ops| Op::Txn(ops.into_iter().collect())),
        1 => any::<u8>().prop_map(Op::Compact),
    ]
}

// Keys with zero bytes and keys that are prefixes of others: what an encoding could get wrong.
fn key(number: u8) -> Bytes {
    Bytes::from_static([&b"a"[..], b"a\0", b"a\0\0", b"a\0\x01", b"a\x01", b"ab", b"b", b"\xff", b"\xff\xff"][usize::from(number)])
}

fn put(number: u8, value: u8) -> PutRequest {
    PutRequest { key: key(number), value: vec![value].into(), prev_kv: true, ..Default::default() }
}

/// Key → (value, create, modified, version).
type Keys = BTreeMap<Bytes, (Vec<u8>, i64, i64, i64)>;

#[derive(Default)]
struct Model {
    /// `history[r]` is what lives at revision `r`.
    history: Vec<Keys>,
    compacted: i64,
}

impl Model {
    fn new() -> Self {
        Self { history: vec![Keys::new(), Keys::new()], compacted: 0 }
    }

    fn revision(&self) -> i64 {
        self.history.len() as i64 - 1
    }

    fn set(&self, keys: &mut Keys, number: u8, value: u8) {
        let next = self.revision() + 1;
        let entry = keys.entry(key(number)).or_insert((vec![], next, next, 0));
        *entry = (vec![value], entry.1, next, entry.3 + 1);
    }

    fn apply(&mut self, op: &Op) {
        let mut keys = self.history.last().unwrap().clone();
        let changed = match op {
            Op::Put(number, value) => {
                self.set(&mut keys, *number, *value);
                true
            }
            Op::Delete(from, to) => {
                let range = KeyRange::new(&key(*from), &key(*to));
                let before = keys.len();
                keys.retain(|key, _| !range.contains(key));
                keys.len() != before
            }
            Op::Txn(ops) => {
                let mut changed = false;
                for (number, value) in ops {
                    match value {
                        Some(value) => {
                            self.set(&mut keys, *number, *value);
                            changed = true;
                        }
                        None => changed |= keys.remove(&key(*number)).is_some(),
                    }
                }
                changed
            }
            Op::Compact(at) => {
                let at = i64::from(*at);
                if at > self.compacted && at <= self.revision() {
                    self.compacted = at;
                }
                false
            }
        };
        if changed {
            self.history.push(keys);
        }
    }
}

fn command(op: &Op) -> Command {
    match op {
        Op::Put(number, value) => Command::Put(put(*number, *value)),
        Op::Delete(from, to) => {
            Command::Delete(DeleteRangeRequest { key: key(*from), range_end: key(*to), prev_kv: true })
        }
        Op::Txn(ops) => {
            let ops = ops.iter().map(|(number, value)| {
                let request = match value {
                    Some(value) => Request::RequestPut(put(*number, *value)),
                    None => Request::RequestDeleteRange(DeleteRangeRequest { key: key(*number), ..Default::default() }),
                };
                RequestOp { request: Some(request) }
            });
            Command::Txn(TxnRequest { success: ops.collect(), ..Default::default() })
        }
        Op::Compact(at) => Command::Compact(CompactionRequest { revision: i64::from(*at), physical: false }),
    }
}

fn everything(view: &impl View, at: i64) -> Keys {
    let all = KeyRange { start: Bytes::new(), end: End::Unbounded };
    let mut keys = Keys::new();
    view.scan(&all, at, false, &mut |key, version| {
        keys.insert(key, (version.value.to_vec(), version.create, version.main, version.version));
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

fn compare(state: &State, memory: &Memory, model: &Model, position: Position) {
    assert_eq!((position.revision, position.compacted), (model.revision(), model.compacted));
    state
        .read(|view| {
            assert_eq!(view.position()?, position);
            for at in model.compacted.max(1)..=model.revision() {
                let expected = &model.history[at as usize];
                assert_eq!(&everything(view, at), expected, "on disk at revision {at}");
                assert_eq!(&everything(memory, at), expected, "in memory at revision {at}");
            }
            // What a watcher hears, played back over the state at its start, gives every later state.
            let start = model.compacted.max(1);
            let mut keys = model.history[start as usize].clone();
            let mut heard = Vec::new();
            view.changes(start + 1, position.revision, true, |_| true, |change| {
                heard.push(change);
                ControlFlow::Continue(())
            })?;
            for change in heard {
                let previous = keys.get(&change.key).map(|(value, ..)| value.clone());
                assert_eq!(change.previous.map(|version| version.value.to_vec()), previous);
                if change.version.is_tombstone() {
                    keys.remove(&change.key);
                } else {
                    let version = change.version;
                    keys.insert(change.key, (version.value.to_vec(), version.create, version.main, version.version));
                }
            }
            assert_eq!(&keys, model.history.last().unwrap());
            Ok::<_, Fault>(())
        })
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn disk_memory_and_model_agree_at_every_revision(batches in prop::collection::vec(prop::collection::vec(op(), 1..6), 1..16)) {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path()).unwrap();
        let (mut memory, mut model, mut position) = (Memory::default(), Model::new(), Position::default());
        for (number, batch) in batches.iter().enumerate() {
            let (in_memory, on_disk, after) = {
                let opened = state.current();
                let view = DiskView::newest_of(opened.db());
                let (mut on_disk, mut in_memory) = (Writer::new(&view, position), Writer::new(&memory, position));
                for op in batch {
                    let outcome = command(op).apply(&mut on_disk).unwrap();
                    prop_assert_eq!(&outcome, &command(op).apply(&mut in_memory).unwrap());
                    let refusable = matches!(op, Op::Compact(_));
                    prop_assert!(refusable || !matches!(outcome, Outcome::Refused(Refusal::Compacted | Refusal::FutureRevision)));
                    model.apply(op);
                }
                let ((on_disk, after), (in_memory, _)) = (on_disk.into_changes(), in_memory.into_changes());
                (in_memory, on_disk, after)
            };
            prop_assert_eq!(&on_disk.changes, &in_memory.changes);
            state.write(Batch { changes: &on_disk, position: after, applied: vec![], membership: None }).unwrap();
            memory.write(in_memory);
            position = after;
            if number % 3 == 0 {
                checkpoint::clean(&state, position.compacted, || false).unwrap();
            }
            if number % 5 == 4 {
                state.flush(0).unwrap();
                drop(state);
                state = State::open(dir.path()).unwrap();
            }
        }
        compare(&state, &memory, &model, position);
        checkpoint::clean(&state, position.compacted, || false).unwrap();
        compare(&state, &memory, &model, position);
    }
}
