//! What locks and elections have in common: keys under a prefix, each attached to its owner's lease, and the one that
//! was created first has its turn. The keys are those of etcd's client library (`client/v3/concurrency`), so that its
//! locks and elections and this server's exclude each other.

use std::sync::Arc;

use balsa_proto::etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    response_op::Response,
};
use balsa_proto::etcd::mvccpb::KeyValue;
use bytes::Bytes;
use tonic::Status;

use super::{Caller, Service};
use crate::error::Refusal;
use crate::mvcc::{KeyRange, View as _};
use crate::replica::Replica;
use crate::watch::hub::Signal;

/// Seconds of the lease that is granted to a caller without one; etcd's figure.
const SESSION_TTL: i64 = 60;

/// The keys under a name.
pub fn prefix(name: &Bytes) -> (Bytes, Bytes) {
    let start = [name.as_ref(), b"/"].concat();
    // The byte after the slash: no key of another name is in between.
    let end = [name.as_ref(), b"0"].concat();
    (start.into(), end.into())
}

/// Somebody's place in a queue.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its key.
    pub key: Bytes,
    /// The revision that created it.
    pub created: i64,
    /// The value that it had before this call, if it was there already.
    pub previous: Option<Bytes>,
    /// The lease it goes with.
    pub lease: i64,
    /// Of the answer.
    pub header: Option<ResponseHeader>,
}

/// That `key` was created at `revision`; 0: that it is not there.
pub fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

/// An operation of a transaction.
pub fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The key of the range that was created first.
pub fn first(start: &Bytes, end: &Bytes) -> RangeRequest {
    RangeRequest {
        key: start.clone(),
        range_end: end.clone(),
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        limit: 1,
        ..RangeRequest::default()
    }
}

/// A stream's interest in a range, until it is dropped.
pub struct Interest {
    replica: Arc<Replica>,
    range: KeyRange,
    id: u64,
    signal: Arc<Signal>,
}

impl Interest {
    /// From now on.
    pub fn new(replica: &Arc<Replica>, range: KeyRange) -> Self {
        let signal = Arc::default();
        let (id, _) = replica.hub().register(&range, &signal);
        Self { replica: replica.clone(), range, id, signal }
    }

    /// Waits for a change; the replica may stop instead.
    pub async fn changed(&self) -> Result<(), Status> {
        tokio::select! {
            () = self.signal.wait() => Ok(()),
            () = self.replica.stop().cancelled() => Err(Refusal::Stopped.into()),
        }
    }

    /// What has changed since the last time.
    pub fn take(&self) -> (crate::watch::hub::Taken, crate::mvcc::Position) {
        self.replica.hub().take(&self.signal)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.replica.hub().unregister(&self.range, self.id);
    }
}

/// Gives a place up when a caller goes away before its turn has come.
struct Waiting {
    service: Service,
    caller: Caller,
    key: Option<Bytes>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let (service, caller) = (self.service.clone(), self.caller.clone());
        crate::rt::spawn(async move {
            let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
            if let Err(status) = service.delete(&caller, request).await {
                tracing::debug!(%status, "a place in a queue stays until its lease ends");
            }
        });
    }
}

impl Service {
    /// Takes a place in the queue of `name`, or finds the one that the lease has already.
    pub(super) async fn enqueue(&self, caller: &Caller, name: &Bytes, lease: i64, value: Bytes) -> Result<Place, Status> {
        let lease = match lease {
            0 => self.grant(caller, LeaseGrantRequest { ttl: SESSION_TTL, id: 0 }).await?.id,
            lease => lease,
        };
        let (start, _) = prefix(name);
        let key = Bytes::from([start.as_ref(), format!("{lease:x}").as_bytes()].concat());
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let request = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![op(Request::RequestPut(put))],
            failure: vec![op(Request::RequestRange(get))],
        };
        let answer = self.transact(caller, request).await?;
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        let there = answer.responses.into_iter().find_map(|answer| match answer.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let (created, previous) = there.map_or((revision, None), |kv| (kv.create_revision, Some(kv.value)));
        Ok(Place { key, created, previous, lease, header: answer.header })
    }

    /// Waits until nobody is in front of `place`. Who goes away before that loses the place.
    pub(super) async fn await_turn(&self, caller: &Caller, name: &Bytes, place: &Place) -> Result<(), Status> {
        let (start, end) = prefix(name);
        let mut waiting = Waiting { service: self.clone(), caller: caller.clone(), key: Some(place.key.clone()) };
        let before = RangeRequest {
            sort_order: SortOrder::Descend as i32,
            max_create_revision: place.created - 1,
            keys_only: true,
            ..first(&start, &end)
        };
        while let Some(ahead) = self.get(caller, before.clone()).await?.kvs.into_iter().next() {
            self.await_end(&ahead).await?;
        }
        waiting.key = None;
        Ok(())
    }

    /// Waits until a key is gone (or was, and came again).
    async fn await_end(&self, kv: &KeyValue) -> Result<(), Status> {
        let interest = Interest::new(&self.replica, KeyRange::new(&kv.key, &Bytes::new()));
        loop {
            let there = self.replica.state().read(|view| view.newest(&kv.key, i64::MAX)).map_err(Refusal::from)?;
            if there.is_none_or(|version| version.is_tombstone() || version.create != kv.create_revision) {
                return Ok(());
            }
            interest.changed().await?;
            let _anything = interest.take();
        }
    }
}
