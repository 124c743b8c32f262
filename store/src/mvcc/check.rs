//! What a request may look like, before it is proposed. Decides from the request alone, not from the keys.

use std::collections::BTreeSet;

use balsa_proto::etcd::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};
use bytes::Bytes;

use super::KeyRange;
use crate::error::Refusal;

/// A read.
pub fn range(request: &RangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Refusal::InvalidSortOption);
    }
    Ok(())
}

/// A write.
pub fn put(request: &PutRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

/// A deletion.
pub fn delete(request: &DeleteRangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

/// A transaction with at most `max_ops` comparisons, and as many operations in each branch, nested ones included.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Refusal> {
    each(request, max_ops)?;
    written(&request.success)?;
    written(&request.failure)?;
    Ok(())
}

/// Each operation by itself, nested ones too.
fn each(request: &TxnRequest, max_ops: usize) -> Result<(), Refusal> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_ops.checked_sub(ops) else { return Err(Refusal::TooManyOps) };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete(request)?,
            Some(Request::RequestTxn(request)) => each(request, left)?,
            // etcd answers so too: an operation without a request has no key.
            None => return Err(Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// The puts and deletions of a list of operations; refuses a key that would be written twice.
fn written(ops: &[RequestOp]) -> Result<(BTreeSet<Bytes>, Vec<KeyRange>), Refusal> {
    let mut deletes: Vec<KeyRange> = Vec::new();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            // To etcd's check a deletion of everything from a key on deletes nothing.
            if request.range_end.as_ref() != [0] {
                deletes.push(KeyRange::new(&request.key, &request.range_end));
            }
        }
    }
    let mut puts = BTreeSet::new();
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        // The two branches exclude each other, so only against what is beside them do they count.
        let (mut inner_puts, mut inner_deletes) = written(&nested.success)?;
        let (failure_puts, failure_deletes) = written(&nested.failure)?;
        inner_puts.extend(failure_puts);
        inner_deletes.extend(failure_deletes);
        // As in etcd, a put is not held against the deletions of a later nested transaction.
        if inner_puts.iter().any(|key| puts.contains(key) || deletes.iter().any(|range| range.contains(key))) {
            return Err(Refusal::DuplicateKey);
        }
        puts.extend(inner_puts);
        deletes.extend(inner_deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request
            && (deletes.iter().any(|range| range.contains(&request.key)) || !puts.insert(request.key.clone()))
        {
            return Err(Refusal::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

/// Whether a transaction changes nothing, whatever its comparisons say.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) | None => true,
        Some(Request::RequestTxn(nested)) => is_read_only(nested),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
    })
}

/// Whether a read-only transaction contents itself with this replica's state.
pub fn is_serializable(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use balsa_proto::etcd::etcdserverpb::Compare;

    fn put_op(key: &'static str) -> RequestOp {
        let put = PutRequest { key: Bytes::from_static(key.as_bytes()), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
        let (key, range_end) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
        RequestOp { request: Some(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })) }
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(TxnRequest { compare: vec![], success, failure })) }
    }

    #[test]
    fn one_key_may_be_written_once_on_each_way_through_a_transaction() {
        let duplicate = Err(Refusal::DuplicateKey);
        for (name, success, failure, expected) in [
            ("two keys", vec![put_op("a"), put_op("b")], vec![], Ok(())),
            ("one key twice", vec![put_op("a"), put_op("a")], vec![], duplicate.clone()),
            ("one key in each branch", vec![put_op("a")], vec![put_op("a")], Ok(())),
            ("put and deletion of it", vec![put_op("b"), delete_op("a", "c")], vec![], duplicate.clone()),
            ("overlapping deletions", vec![delete_op("a", "c"), delete_op("b", "d")], vec![], Ok(())),
            ("put beside a deletion", vec![put_op("c"), delete_op("a", "c")], vec![], Ok(())),
            ("nested branches", vec![txn_op(vec![put_op("a")], vec![put_op("a")])], vec![], Ok(())),
            ("nested and beside", vec![txn_op(vec![put_op("a")], vec![]), put_op("a")], vec![], duplicate.clone()),
            ("nested twice", vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])], vec![], duplicate),
        ] {
            let request = TxnRequest { compare: vec![], success, failure };
            assert_eq!(txn(&request, 128), expected, "{name}");
        }
    }

    #[test]
    fn the_number_of_operations_is_limited_and_nesting_does_not_evade_it() {
        let request = TxnRequest { success: vec![put_op("a"), put_op("b")], ..Default::default() };
        assert_eq!(txn(&request, 1), Err(Refusal::TooManyOps));
        assert_eq!(txn(&request, 2), Ok(()));
        let nested = TxnRequest { success: vec![txn_op(vec![put_op("a"), put_op("b")], vec![])], ..Default::default() };
        assert_eq!(txn(&nested, 2), Err(Refusal::TooManyOps));
        let keyless = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
        assert_eq!(txn(&keyless, 2), Err(Refusal::EmptyKey));
    }
}
