//! What a command does: comparisons, the branch that is taken, checks before anything is changed, and the answers.

use std::ops::ControlFlow;

use balsa_proto::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use bytes::Bytes;

use super::writer::Writer;
use super::{KeyRange, Position, Version, View, live, range};
use crate::error::{Fault, Refusal};

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// Whether a put can be done: its lease exists, and what it wants to keep is there.
fn check_put(view: &impl View, request: &PutRequest) -> Result<(), Refusal> {
    if (request.ignore_value || request.ignore_lease) && live(view, &request.key, i64::MAX)?.is_none() {
        return Err(Refusal::KeyNotFound);
    }
    if request.lease != 0 && view.lease(request.lease)?.is_none() {
        return Err(Refusal::LeaseNotFound);
    }
    Ok(())
}

fn do_put(writer: &mut Writer<'_, impl View>, request: PutRequest) -> Result<PutResponse, Refusal> {
    let PutRequest { key, mut value, mut lease, prev_kv, ignore_value, ignore_lease } = request;
    if ignore_value || ignore_lease {
        let old = live(writer, &key, i64::MAX)?.ok_or(Refusal::KeyNotFound)?;
        if ignore_value {
            value = old.value;
        }
        if ignore_lease {
            lease = old.lease;
        }
    }
    let previous = writer.put(key.clone(), value, lease)?;
    let prev_kv = previous.filter(|_| prev_kv).map(|version| version.key_value(key));
    Ok(PutResponse { header: header(writer.position().revision), prev_kv })
}

/// A put by itself.
pub fn put(writer: &mut Writer<'_, impl View>, request: PutRequest) -> Result<PutResponse, Refusal> {
    // Here etcd looks for the lease first, in a transaction for the key.
    if request.lease != 0 && writer.lease(request.lease)?.is_none() {
        return Err(Refusal::LeaseNotFound);
    }
    check_put(writer, &request)?;
    do_put(writer, request)
}

/// A deletion; nothing to delete makes no revision.
pub fn delete(writer: &mut Writer<'_, impl View>, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Fault> {
    let deleted = writer.delete(&KeyRange::new(&request.key, &request.range_end))?;
    let count = i64::try_from(deleted.len()).unwrap_or(i64::MAX);
    let prev_kvs = deleted.into_iter().filter(|_| request.prev_kv).map(|(key, version)| version.key_value(key));
    Ok(DeleteRangeResponse { header: header(writer.position().revision), deleted: count, prev_kvs: prev_kvs.collect() })
}

/// A compaction, as far as readers see it; the disk is cleaned later.
pub fn compact(writer: &mut Writer<'_, impl View>, request: &CompactionRequest) -> Result<CompactionResponse, Refusal> {
    writer.compact(request.revision)?;
    Ok(CompactionResponse { header: header(writer.position().revision) })
}

/// A transaction. All comparisons, nested ones too, are made before anything is changed, and so are all checks:
/// it happens as a whole or not at all.
pub fn txn(writer: &mut Writer<'_, impl View>, request: TxnRequest) -> Result<TxnResponse, Refusal> {
    let mut path = Vec::new();
    choose(writer, &request, &mut path)?;
    check(writer, &request, &mut path.iter().copied(), writer.position())?;
    run(writer, request, &mut path.into_iter())
}

/// A transaction that changes nothing, on any view.
pub fn read_only(view: &impl View, request: TxnRequest, position: Position) -> Result<TxnResponse, Refusal> {
    let mut writer = Writer::new(view, position);
    txn(&mut writer, request)
}

/// Notes for each (nested) transaction on the way, in order, whether it succeeds.
fn choose(view: &impl View, request: &TxnRequest, path: &mut Vec<bool>) -> Result<(), Fault> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !holds(view, compare)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for op in if succeeded { &request.success } else { &request.failure } {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(view, nested, path)?;
        }
    }
    Ok(())
}

/// Whether a comparison holds for every key of its range. An absent key counts as one with every number 0, except
/// that no comparison of values holds for it.
fn holds(view: &impl View, compare: &Compare) -> Result<bool, Fault> {
    let (mut found, mut holds) = (false, true);
    view.scan(&KeyRange::new(&compare.key, &compare.range_end), i64::MAX, false, &mut |_, version| {
        found = true;
        holds = matches(compare, &version);
        if holds { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if found {
        return Ok(holds);
    }
    if compare.target == CompareTarget::Value as i32 {
        return Ok(false);
    }
    let absent = Version { main: 0, sub: 0, create: 0, version: 0, lease: 0, value: Bytes::new() };
    Ok(matches(compare, &absent))
}

fn matches(compare: &Compare, version: &Version) -> bool {
    let number = |mine: i64| {
        let asked = match compare.target_union {
            Some(TargetUnion::Version(asked)) if compare.target == CompareTarget::Version as i32 => asked,
            Some(TargetUnion::CreateRevision(asked)) if compare.target == CompareTarget::Create as i32 => asked,
            Some(TargetUnion::ModRevision(asked)) if compare.target == CompareTarget::Mod as i32 => asked,
            Some(TargetUnion::Lease(asked)) if compare.target == CompareTarget::Lease as i32 => asked,
            _ => 0,
        };
        mine.cmp(&asked)
    };
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => number(version.version),
        Ok(CompareTarget::Create) => number(version.create),
        Ok(CompareTarget::Mod) => number(version.main),
        Ok(CompareTarget::Lease) => number(version.lease),
        Ok(CompareTarget::Value) => match &compare.target_union {
            Some(TargetUnion::Value(asked)) => version.value.cmp(asked),
            _ => version.value.as_ref().cmp(&[]),
        },
        Err(_) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Err(_) => true,
    }
}

fn check(
    view: &impl View,
    request: &TxnRequest,
    path: &mut dyn Iterator<Item = bool>,
    position: Position,
) -> Result<(), Refusal> {
    let succeeded = path.next().unwrap_or_default();
    for op in if succeeded { &request.success } else { &request.failure } {
        match &op.request {
            Some(Request::RequestRange(request)) => {
                range::revision(request.revision, position)?;
            }
            Some(Request::RequestPut(request)) => check_put(view, request)?,
            Some(Request::RequestTxn(nested)) => check(view, nested, &mut *path, position)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

fn run(
    writer: &mut Writer<'_, impl View>,
    request: TxnRequest,
    path: &mut dyn Iterator<Item = bool>,
) -> Result<TxnResponse, Refusal> {
    let succeeded = path.next().unwrap_or_default();
    let mut responses = Vec::new();
    for op in if succeeded { request.success } else { request.failure } {
        let response = match op.request {
            Some(Request::RequestRange(request)) => {
                Some(Response::ResponseRange(range::range(writer, &request, writer.position())?))
            }
            Some(Request::RequestPut(request)) => Some(Response::ResponsePut(do_put(writer, request)?)),
            Some(Request::RequestDeleteRange(request)) => {
                Some(Response::ResponseDeleteRange(delete(writer, &request)?))
            }
            Some(Request::RequestTxn(nested)) => {
                // etcd's nested answers have a header that says nothing.
                let answer = TxnResponse { header: header(0), ..run(writer, nested, &mut *path)? };
                Some(Response::ResponseTxn(answer))
            }
            None => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse { header: header(writer.position().revision), succeeded, responses })
}
