//! What a read sees: revision bounds, filters, order, limit, count.

use std::ops::ControlFlow;

use balsa_proto::etcd::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader,
    range_request::{SortOrder, SortTarget},
};
use balsa_proto::etcd::mvccpb::KeyValue;

use super::{KeyRange, Position, View};
use crate::error::Refusal;

/// Checks the revision that a read asks for; says at which revision to read.
pub fn revision(asked: i64, position: Position) -> Result<i64, Refusal> {
    if asked > position.revision {
        return Err(Refusal::FutureRevision);
    }
    if asked <= 0 {
        return Ok(position.revision);
    }
    if asked < position.compacted {
        return Err(Refusal::Compacted);
    }
    Ok(asked)
}

/// Answers a read; the header carries `position.revision` and nothing else.
pub fn range(view: &impl View, request: &RangeRequest, position: Position) -> Result<RangeResponse, Refusal> {
    let at = revision(request.revision, position)?;
    let header = Some(ResponseHeader { revision: position.revision, ..ResponseHeader::default() });
    let order = SortOrder::try_from(request.sort_order).map_err(|_| Refusal::InvalidSortOption)?;
    let target = SortTarget::try_from(request.sort_target).map_err(|_| Refusal::InvalidSortOption)?;
    let keys = KeyRange::new(&request.key, &request.range_end);
    let sorts = order == SortOrder::Descend || target != SortTarget::Key;
    // Without an order etcd takes the first keys up to the limit, and one, and sorts those by the target.
    let takes_first = order == SortOrder::None || (order == SortOrder::Ascend && target == SortTarget::Key);
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if request.count_only {
        return Ok(RangeResponse { header, count: view.count(&keys, at)?, ..RangeResponse::default() });
    }
    // Such a read may stop at its limit, unless it filters: what is behind it is counted, not read.
    let keep = match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 && takes_first && filters == [0; 4] => limit.saturating_add(1),
        _ => usize::MAX,
    };
    let keys_only = request.keys_only && target != SortTarget::Value;
    let (mut count, mut kvs) = (0i64, Vec::new());
    view.scan(&keys, at, keys_only, &mut |key, version| {
        count += 1;
        if passes(request, version.main, version.create) {
            kvs.push(version.key_value(key));
        }
        if kvs.len() < keep { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if kvs.len() >= keep {
        count = view.count(&keys, at)?;
    }
    if sorts {
        sort(&mut kvs, order, target);
    }
    let mut more = false;
    if let Ok(limit) = usize::try_from(request.limit)
        && limit > 0
        && kvs.len() > limit
    {
        kvs.truncate(limit);
        more = true;
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    Ok(RangeResponse { header, kvs, more, count })
}

fn passes(request: &RangeRequest, modified: i64, created: i64) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(modified, request.min_mod_revision, request.max_mod_revision)
        && within(created, request.min_create_revision, request.max_create_revision)
}

fn sort(kvs: &mut [KeyValue], order: SortOrder, target: SortTarget) {
    let compare = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match order {
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(compare),
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
    }
}
