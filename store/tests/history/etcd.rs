//! Calls and answers as etcd's messages say them.

use balsa_proto::etcd::etcdserverpb as etcd;
use balsa_proto::etcd::mvccpb::KeyValue;
use etcd::compare::{CompareTarget, TargetUnion};
pub use etcd::request_op::Request as Wanted;
use etcd::response_op::Response as Given;

use super::{Answer, Compare, Op, Outcome, Seen};

/// Bytes for a person.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A key and how it was seen.
pub fn seen(kv: KeyValue) -> (String, Seen) {
    let seen = Seen {
        value: text(&kv.value),
        create: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    };
    (text(&kv.key), seen)
}

/// An operation.
pub fn wanted(op: &Op) -> Wanted {
    match op {
        Op::Put { key, value, lease } => {
            let (key, value) = (key.clone().into(), value.clone().into());
            Wanted::RequestPut(etcd::PutRequest { key, value, lease: *lease, ..Default::default() })
        }
        Op::Delete { from, to } => {
            let (key, range_end) = (from.clone().into(), to.clone().into());
            Wanted::RequestDeleteRange(etcd::DeleteRangeRequest { key, range_end, prev_kv: false })
        }
        Op::Range { from, to } => {
            let (key, range_end) = (from.clone().into(), to.clone().into());
            Wanted::RequestRange(etcd::RangeRequest { key, range_end, ..Default::default() })
        }
    }
}

/// A comparison.
pub fn comparison(compare: &Compare) -> etcd::Compare {
    let (key, target, union) = match compare {
        Compare::Modified(key, revision) => (key, CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        Compare::Value(key, value) => (key, CompareTarget::Value, TargetUnion::Value(value.clone().into())),
    };
    etcd::Compare {
        result: etcd::compare::CompareResult::Equal as i32,
        target: target as i32,
        key: key.clone().into(),
        target_union: Some(union),
        ..Default::default()
    }
}

/// A transaction.
pub fn transaction(compare: &[Compare], then: &[Op], otherwise: &[Op]) -> etcd::TxnRequest {
    let ops = |ops: &[Op]| ops.iter().map(|op| etcd::RequestOp { request: Some(wanted(op)) }).collect();
    let (success, failure) = (ops(then), ops(otherwise));
    etcd::TxnRequest { compare: compare.iter().map(comparison).collect(), success, failure }
}

fn given(given: Option<Given>) -> Answer {
    match given {
        Some(Given::ResponsePut(_)) => Answer::Put,
        Some(Given::ResponseDeleteRange(response)) => Answer::Deleted(response.deleted),
        Some(Given::ResponseRange(response)) => Answer::Range(response.kvs.into_iter().map(seen).collect()),
        Some(Given::ResponseTxn(_)) | None => Answer::Range(Vec::new()),
    }
}

/// The revision that an answer says.
pub fn revision(header: Option<etcd::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// What came of a transaction.
pub fn outcome(response: etcd::TxnResponse) -> Outcome {
    let answers = response.responses.into_iter().map(|op| given(op.response)).collect();
    Outcome::Done { revision: revision(response.header), succeeded: response.succeeded, answers }
}
