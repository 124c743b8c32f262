//! Transactions, leases and every option of a range against models that are too simple to be wrong.

use std::cmp::Ordering;

use balsa_proto::etcd::etcdserverpb as etcd;
use balsa_proto::etcd::mvccpb::KeyValue;
use balsa_store::command::{Command, Outcome as Applied};
use balsa_store::mvcc::memory::Memory;
use balsa_store::mvcc::writer::Writer;
use balsa_store::mvcc::{Position, range};
use etcd::range_request::{SortOrder, SortTarget};
use etcd::response_op::Response as Given;
use proptest::prelude::*;

use crate::history::model::State as Model;
use crate::history::{Answer, Call, Compare, Op, Outcome};
use crate::history::etcd::{seen, transaction};

const KEYS: [&str; 6] = ["a", "aa", "ab", "b", "b\0", "c"];

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(&KEYS[..]).prop_map(str::to_owned)
}

fn span() -> impl Strategy<Value = (String, String)> {
    (key(), key(), any::<bool>()).prop_map(|(from, to, one)| if one { (from.clone(), from + "\0") } else { (from, to) })
}

fn read() -> impl Strategy<Value = Op> {
    span().prop_map(|(from, to)| Op::Range { from, to })
}

fn put() -> impl Strategy<Value = Op> {
    (key(), "[xyz]", 0..4i64).prop_map(|(key, value, lease)| Op::Put { key, value, lease })
}

fn delete() -> impl Strategy<Value = Op> {
    span().prop_map(|(from, to)| Op::Delete { from, to })
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        (key(), 0..12i64).prop_map(|(key, revision)| Compare::Modified(key, revision)),
        (key(), "[xyz]").prop_map(|(key, value)| Compare::Value(key, value)),
    ]
}

/// At most one write, so that no key is written twice: what is refused before it is proposed is tested where it is.
fn branch() -> impl Strategy<Value = Vec<Op>> {
    (read(), prop_oneof![put(), delete()], read()).prop_map(|(a, b, c)| vec![a, b, c])
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => put().prop_map(Call::one),
        2 => delete().prop_map(Call::one),
        1 => read().prop_map(Call::one),
        4 => (prop::collection::vec(compare(), 0..3), branch(), branch())
            .prop_map(|(compare, then, otherwise)| Call::Txn { compare, then, otherwise }),
        2 => (1..4i64).prop_map(Call::Grant),
        1 => (1..4i64).prop_map(Call::Revoke),
    ]
}

fn command(call: &Call) -> Command {
    match call {
        Call::Grant(id) => Command::Grant(etcd::LeaseGrantRequest { id: *id, ttl: 5 }),
        Call::Revoke(id) | Call::Expire(id) => Command::Revoke(etcd::LeaseRevokeRequest { id: *id }),
        Call::Txn { compare, then, otherwise } => Command::Txn(transaction(compare, then, otherwise)),
    }
}

fn outcome(applied: Applied) -> Outcome {
    let revision = |header: Option<etcd::ResponseHeader>| header.map_or(0, |header| header.revision);
    match applied {
        Applied::Refused(_) => Outcome::Refused,
        Applied::Grant(response) => {
            Outcome::Done { revision: revision(response.header), succeeded: true, answers: vec![] }
        }
        Applied::Revoke(response) => {
            Outcome::Done { revision: revision(response.header), succeeded: true, answers: vec![] }
        }
        Applied::Txn(response) => {
            let answers = response.responses.into_iter().map(|op| match op.response {
                Some(Given::ResponsePut(_)) => Answer::Put,
                Some(Given::ResponseDeleteRange(response)) => Answer::Deleted(response.deleted),
                Some(Given::ResponseRange(response)) => Answer::Range(response.kvs.into_iter().map(seen).collect()),
                other => panic!("{other:?}"),
            });
            Outcome::Done { answers: answers.collect(), revision: revision(response.header), succeeded: response.succeeded }
        }
        other => panic!("{other:?}"),
    }
}

/// etcd's rules for a range, over all keys of a moment at once.
fn naive(all: &[KeyValue], request: &etcd::RangeRequest) -> (Vec<KeyValue>, i64, bool) {
    let inside = |kv: &&KeyValue| match request.range_end.as_ref() {
        [] => kv.key == request.key,
        [0] => kv.key >= request.key,
        end => request.key <= kv.key && kv.key.as_ref() < end,
    };
    let mut kvs: Vec<KeyValue> = all.iter().filter(inside).cloned().collect();
    let count = kvs.len() as i64;
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    kvs.retain(|kv| {
        within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
            && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
    });
    let filters = [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if request.sort_order == SortOrder::None as i32 && request.limit > 0 && filters == [0; 4] {
        // Without an order only as many keys are looked at as are asked for, and one.
        kvs.truncate(usize::try_from(request.limit).unwrap() + 1);
    }
    let by = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match SortTarget::try_from(request.sort_target).unwrap() {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    match SortOrder::try_from(request.sort_order).unwrap() {
        SortOrder::Descend => kvs.sort_by(|a, b| by(b, a)),
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(by),
    }
    let more = request.limit > 0 && kvs.len() as i64 > request.limit;
    if more {
        kvs.truncate(usize::try_from(request.limit).unwrap());
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    if request.count_only {
        return (vec![], count, false);
    }
    (kvs, count, more)
}

fn request() -> impl Strategy<Value = etcd::RangeRequest> {
    let end = prop_oneof![Just(String::new()), Just("\0".to_owned()), key()];
    let bound = || prop_oneof![3 => Just(0i64), 1 => 1..20i64];
    let bounds = (bound(), bound(), bound(), bound());
    ((key(), end), (0..3i32, 0..5i32, 0..5i64), (prop::bool::weighted(0.2), prop::bool::weighted(0.2)), bounds).prop_map(
        |((key, end), (sort_order, sort_target, limit), (keys_only, count_only), (a, b, c, d))| etcd::RangeRequest {
            key: key.into(),
            range_end: end.into(),
            limit,
            sort_order,
            sort_target,
            keys_only,
            count_only,
            min_mod_revision: a,
            max_mod_revision: b,
            min_create_revision: c,
            max_create_revision: d,
            ..Default::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn transactions_and_leases_do_what_the_model_does(batches in prop::collection::vec(prop::collection::vec(call(), 1..5), 1..12)) {
        let (mut memory, mut model, mut position) = (Memory::default(), Model::default(), Position::default());
        for batch in &batches {
            let (changes, after) = {
                let mut writer = Writer::new(&memory, position);
                for call in batch {
                    let applied = outcome(command(call).apply(&mut writer).unwrap());
                    prop_assert_eq!(applied, model.step(call), "{:?}", call);
                }
                writer.into_changes()
            };
            memory.write(changes);
            position = after;
            prop_assert_eq!(position.revision, model.revision);
        }
    }

    #[test]
    fn ranges_are_filtered_sorted_and_cut_as_etcd_does(
        calls in prop::collection::vec(call(), 1..25),
        requests in prop::collection::vec(request(), 1..30),
    ) {
        let memory = Memory::default();
        let mut writer = Writer::new(&memory, Position::default());
        for call in &calls {
            command(call).apply(&mut writer).unwrap();
        }
        let position = writer.position();
        let all = etcd::RangeRequest { key: "a".into(), range_end: "\0".into(), ..Default::default() };
        let all = range::range(&writer, &all, position).unwrap().kvs;
        for request in requests {
            let answer = range::range(&writer, &request, position).unwrap();
            prop_assert_eq!((answer.kvs, answer.count, answer.more), naive(&all, &request), "{:?}", request);
        }
    }
}
