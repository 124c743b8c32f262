//! The store over etcd v3 gRPC: Balsa's own replicas or a real etcd, with fail-over between endpoints.
//!
//! A call goes to the endpoint that answered last; when that one does not answer, the next is tried after a short
//! back-off, until the call's deadline. A write that is tried again may find its own first attempt: equal bytes under a
//! later revision are taken for that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use balsa_process::backoff::Backoff;
use balsa_process::tls::TlsIdentity;
use balsa_proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use balsa_proto::etcd::etcdserverpb::kv_client::KvClient;
use balsa_proto::etcd::etcdserverpb::lease_client::LeaseClient;
use balsa_proto::etcd::etcdserverpb::watch_client::WatchClient;
use balsa_proto::etcd::etcdserverpb::{
    self as pb, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op, response_op,
    watch_request,
};
use balsa_proto::etcd::mvccpb::{KeyValue, event::EventType};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Change, Entry, Page, Store, StoreError, StoreResult, Told, Watch, Written, prefix_end};

/// How long one attempt may take before the next endpoint is tried.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long a call may take in all.
const DEADLINE: Duration = Duration::from_secs(15);
/// The largest answer accepted: a full range of a large cluster.
const MAX_MESSAGE_BYTES: usize = 512 << 20;

/// See the module.
pub struct EtcdStore {
    channels: Vec<Channel>,
    current: AtomicUsize,
    /// The lease that keys with a time to live share for a minute: (id, ttl asked for, until).
    lease: Mutex<Option<(i64, u32, Instant)>>,
}

impl EtcdStore {
    /// Never waits for a server. `endpoints` are URLs (`https://store1:2379`).
    pub fn new(endpoints: &[String], identity: Option<&TlsIdentity>) -> anyhow::Result<Self> {
        anyhow::ensure!(!endpoints.is_empty(), "--store-endpoints names no store");
        let channels = endpoints.iter().map(|url| channel(url, identity)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { channels, current: AtomicUsize::new(0), lease: Mutex::new(None) })
    }

    fn pick(&self) -> (usize, Channel) {
        let index = self.current.load(Ordering::Relaxed) % self.channels.len();
        (index, self.channels[index].clone())
    }

    /// Moves on from an endpoint that failed, unless somebody else already has.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.channels.len();
        self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    /// Calls until an endpoint answers. Says whether an earlier attempt may have gone through.
    async fn call<T, F, Fut>(&self, what: F) -> StoreResult<(T, bool)>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let start = Instant::now();
        let mut backoff = Backoff::connection();
        let mut repeated = false;
        loop {
            let (index, channel) = self.pick();
            let status = match tokio::time::timeout(ATTEMPT, what(channel)).await {
                Ok(Ok(answer)) => return Ok((answer, repeated)),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            if !is_retryable(&status) {
                return Err(translate(&status));
            }
            repeated = true;
            self.leave(index);
            let delay = backoff.next_delay();
            if start.elapsed() + delay > DEADLINE {
                return Err(StoreError::Unavailable(status.message().to_owned()));
            }
            tracing::debug!(endpoint = index, code = ?status.code(), message = status.message(), "store call is tried again");
            tokio::time::sleep(delay).await;
        }
    }

    async fn txn(&self, request: TxnRequest) -> StoreResult<(pb::TxnResponse, bool)> {
        self.call(|channel| {
            let request = request.clone();
            async move {
                let mut client = KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
                client.txn(request).await.map(tonic::Response::into_inner)
            }
        })
        .await
    }

    async fn read(&self, request: RangeRequest) -> StoreResult<pb::RangeResponse> {
        let call = self.call(|channel| {
            let request = request.clone();
            async move {
                let mut client = KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
                client.range(request).await.map(tonic::Response::into_inner)
            }
        });
        Ok(call.await?.0)
    }

    /// A lease of at least `ttl` seconds, shared by the writes of one minute.
    async fn lease(&self, ttl: u32) -> StoreResult<i64> {
        if let Some((id, for_ttl, until)) = *self.lease.lock()
            && for_ttl == ttl
            && Instant::now() < until
        {
            return Ok(id);
        }
        let request = pb::LeaseGrantRequest { ttl: i64::from(ttl) + 60, id: 0 };
        let (granted, _) = self
            .call(|channel| async move {
                LeaseClient::new(channel).lease_grant(request).await.map(tonic::Response::into_inner)
            })
            .await?;
        *self.lease.lock() = Some((granted.id, ttl, Instant::now() + Duration::from_secs(60)));
        Ok(granted.id)
    }

    fn forget_lease(&self) {
        *self.lease.lock() = None;
    }
}

fn channel(url: &str, identity: Option<&TlsIdentity>) -> anyhow::Result<Channel> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| anyhow::anyhow!("--store-endpoints: {url:?} is not a URL: {error}"))?
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20);
    if url.starts_with("https://") {
        let identity = identity.ok_or_else(|| anyhow::anyhow!("{url} needs --tls-ca, --tls-cert and --tls-key"))?;
        endpoint = endpoint.tls_config(identity.tonic_client())?;
    }
    Ok(endpoint.connect_lazy())
}

fn is_retryable(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => true,
        // A connection that broke below gRPC.
        Code::Unknown | Code::Internal => {
            let text = status.message();
            ["transport", "connection", "h2 protocol", "no leader", "leader changed", "broken pipe"]
                .iter()
                .any(|part| text.contains(part))
        }
        _ => false,
    }
}

fn translate(status: &Status) -> StoreError {
    let text = status.message();
    if text.contains("has been compacted") {
        StoreError::Compacted
    } else if text.contains("future revision") {
        StoreError::Future
    } else if text.contains("too large") || status.code() == Code::ResourceExhausted {
        StoreError::TooLarge(text.to_owned())
    } else {
        StoreError::Refused(format!("{:?}: {text}", status.code()))
    }
}

fn entry(kv: KeyValue) -> Option<Entry> {
    let key = String::from_utf8(kv.key.to_vec()).ok()?;
    Some(Entry { key, value: kv.value, revision: u64::try_from(kv.mod_revision).unwrap_or_default() })
}

fn revision_of(header: Option<&pb::ResponseHeader>) -> u64 {
    header.map_or(0, |header| u64::try_from(header.revision).unwrap_or_default())
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn modified_at(key: &str, revision: u64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        target_union: Some(TargetUnion::ModRevision(signed(revision))),
        range_end: Bytes::new(),
    }
}

fn read_op(key: &str) -> RequestOp {
    let range = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestRange(range)) }
}

fn found(response: pb::TxnResponse) -> Option<Entry> {
    response.responses.into_iter().find_map(|op| match op.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.into_iter().next().and_then(entry),
        _ => None,
    })
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> StoreResult<(Option<Entry>, u64)> {
        let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() };
        let response = self.read(request).await?;
        let revision = revision_of(response.header.as_ref());
        Ok((response.kvs.into_iter().next().and_then(entry), revision))
    }

    async fn range(&self, start: &str, end: &str, limit: u64, revision: u64) -> StoreResult<Page> {
        let request = RangeRequest {
            key: Bytes::copy_from_slice(start.as_bytes()),
            range_end: Bytes::copy_from_slice(end.as_bytes()),
            limit: signed(limit),
            revision: signed(revision),
            ..RangeRequest::default()
        };
        let response = self.read(request).await?;
        Ok(Page {
            more: response.more,
            count: u64::try_from(response.count).unwrap_or_default(),
            revision: revision_of(response.header.as_ref()),
            entries: response.kvs.into_iter().filter_map(entry).collect(),
        })
    }

    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl: Option<u32>) -> StoreResult<Written> {
        for fresh_lease in [false, true] {
            let lease = match ttl {
                Some(ttl) => self.lease(ttl).await?,
                None => 0,
            };
            let put = PutRequest {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: value.clone(),
                lease,
                ..PutRequest::default()
            };
            let request = TxnRequest {
                compare: vec![modified_at(key, expected)],
                success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
                failure: vec![read_op(key)],
            };
            match self.txn(request).await {
                Ok((response, _)) if response.succeeded => {
                    return Ok(Written::Done(revision_of(response.header.as_ref())));
                }
                Ok((response, repeated)) => {
                    let current = found(response);
                    return Ok(match current {
                        Some(own) if repeated && own.value == value && own.revision > expected => {
                            Written::Done(own.revision)
                        }
                        other => Written::Conflict(other),
                    });
                }
                // The shared lease is gone (a store that was restored, say): once more with a new one.
                Err(StoreError::Refused(text)) if ttl.is_some() && !fresh_lease && text.contains("lease") => {
                    self.forget_lease();
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Refused("no lease can be had".to_owned()))
    }

    async fn delete(&self, key: &str, expected: u64) -> StoreResult<Written> {
        let delete = DeleteRangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..DeleteRangeRequest::default() };
        let request = TxnRequest {
            compare: vec![modified_at(key, expected)],
            success: vec![RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }],
            failure: vec![read_op(key)],
        };
        let (response, repeated) = self.txn(request).await?;
        let revision = revision_of(response.header.as_ref());
        if response.succeeded {
            return Ok(Written::Done(revision));
        }
        match found(response) {
            // An attempt of ours that went unanswered did it.
            None if repeated => Ok(Written::Done(revision)),
            current => Ok(Written::Conflict(current)),
        }
    }

    async fn watch(&self, prefix: &str, start_revision: u64) -> StoreResult<Watch> {
        let (index, channel) = self.pick();
        let opened = tokio::time::timeout(ATTEMPT, open_watch(channel, prefix, start_revision)).await;
        match opened {
            Ok(Ok(watch)) => Ok(watch),
            Ok(Err(status)) => {
                self.leave(index);
                Err(StoreError::Unavailable(status.message().to_owned()))
            }
            Err(_) => {
                self.leave(index);
                Err(StoreError::Unavailable("the watch was not answered in time".to_owned()))
            }
        }
    }

    async fn compact(&self, revision: u64) -> StoreResult<()> {
        let request = pb::CompactionRequest { revision: signed(revision), physical: false };
        let compacted = self
            .call(|channel| async move {
                KvClient::new(channel).compact(request).await.map(tonic::Response::into_inner)
            })
            .await;
        match compacted {
            Ok(_) | Err(StoreError::Compacted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn revision(&self) -> StoreResult<u64> {
        let request = RangeRequest {
            key: Bytes::from_static(super::compactor::KEY.as_bytes()),
            count_only: true,
            ..RangeRequest::default()
        };
        Ok(revision_of(self.read(request).await?.header.as_ref()))
    }
}

async fn open_watch(channel: Channel, prefix: &str, start_revision: u64) -> Result<Watch, Status> {
    let (requests, receiver) = mpsc::channel(16);
    let create = pb::WatchCreateRequest {
        key: Bytes::copy_from_slice(prefix.as_bytes()),
        range_end: Bytes::from(prefix_end(prefix)),
        start_revision: signed(start_revision),
        progress_notify: true,
        ..pb::WatchCreateRequest::default()
    };
    let create = pb::WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    requests.send(create).await.map_err(|_| Status::internal("own channel is closed"))?;
    let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let stream = client.watch(tokio_stream::wrappers::ReceiverStream::new(receiver)).await?.into_inner();
    let (sender, told) = mpsc::channel(64);
    let (ask_progress, asked) = mpsc::channel(1);
    tokio::spawn(pump(stream, requests, asked, sender));
    Ok(Watch { told, ask_progress })
}

/// Carries a watch stream over to its reader until either side ends.
async fn pump(
    mut stream: tonic::Streaming<pb::WatchResponse>,
    requests: mpsc::Sender<pb::WatchRequest>,
    mut asked: mpsc::Receiver<()>,
    sender: mpsc::Sender<Told>,
) {
    loop {
        let response = tokio::select! {
            message = stream.message() => match message {
                Ok(Some(response)) => response,
                Ok(None) => return,
                Err(status) => return tracing::debug!(message = status.message(), "the store's watch broke"),
            },
            Some(()) = asked.recv() => {
                let progress = watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                if requests.send(pb::WatchRequest { request_union: Some(progress) }).await.is_err() {
                    return;
                }
                continue;
            }
            () = sender.closed() => return,
        };
        let Some(told) = understand(response) else { continue };
        let last = matches!(told, None | Some(Told::Compacted));
        if let Some(told) = told
            && sender.send(told).await.is_err()
        {
            return;
        }
        if last {
            return;
        }
    }
}

/// `None`: nothing to tell. `Some(None)`: the store ended the watch.
fn understand(response: pb::WatchResponse) -> Option<Option<Told>> {
    if response.canceled {
        let compacted = response.compact_revision > 0;
        tracing::debug!(reason = response.cancel_reason, compacted, "the store ended the watch");
        return Some(compacted.then_some(Told::Compacted));
    }
    if response.created {
        return None;
    }
    let header = revision_of(response.header.as_ref());
    let changes: Vec<Change> = response
        .events
        .into_iter()
        .filter_map(|event| {
            let deleted = event.r#type() == EventType::Delete;
            let entry = entry(event.kv?)?;
            Some(Change { key: entry.key, revision: entry.revision, value: (!deleted).then_some(entry.value) })
        })
        .collect();
    // The header may be ahead of the last event while more events of between are still to come; only an answer
    // without events promises that nothing is missing up to its header.
    let progress = changes.last().map_or(header, |change| change.revision);
    Some(Some(Told::Changes(changes, progress)))
}
