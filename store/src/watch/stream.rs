//! One client's watch stream: its requests in, events out, at the client's pace.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use balsa_proto::etcd::mvccpb::Event;
use futures::stream::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::hub::{Signal, Taken};
use super::pace::Pace;
use super::watchers::{Watcher, Watchers, watched_range};
use crate::error::{Fault, Refusal};
use crate::ledger::Who;
use crate::ledger::permission::Access;
use crate::mvcc::{Change, KeyRange};
use crate::replica::Replica;
use crate::replica::applied::flag;

/// What answers that belong to no single watcher carry.
const NO_WATCHER: i64 = -1;
/// Events and bytes that one read from disk collects, rounded up to a whole revision.
const CATCH_UP_EVENTS: usize = 1_000;
const CATCH_UP_BYTES: usize = 4 << 20;

/// The client went away or the server stops.
struct Ended;

/// A stream's state.
pub struct WatchStream {
    replica: Arc<Replica>,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
    watchers: Watchers,
    signal: Arc<Signal>,
    pace: Pace,
    /// Before then nothing new is told.
    next_round: Instant,
    progress_asked: bool,
    /// Who watches, or why nobody can tell.
    caller: Result<Option<Who>, Status>,
}

impl WatchStream {
    /// Answers go to `answers`.
    pub fn new(
        replica: Arc<Replica>,
        answers: mpsc::Sender<Result<WatchResponse, Status>>,
        caller: Result<Option<Who>, Status>,
    ) -> Self {
        let (watchers, signal, pace) = Default::default();
        Self { replica, answers, watchers, signal, pace, next_round: Instant::now(), progress_asked: false, caller }
    }

    /// Refuses a watcher of keys that the caller may not read, in the words of etcd's cancel reasons.
    fn permit(&self, range: &KeyRange) -> Result<(), String> {
        if self.replica.applied().flags() & flag::AUTH == 0 {
            return Ok(());
        }
        let auth = &self.replica.applied().ledger().auth;
        let permitted = self.caller.clone().and_then(|caller| {
            let now = caller.map(|who| Who { revision: auth.revision(), ..who });
            Ok(auth.keys(now.as_ref(), range, Access::Read)?)
        });
        permitted.map_err(|status| format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
    }

    /// Serves until the client ends the stream or the replica stops.
    pub async fn run(
        mut self,
        mut requests: impl Stream<Item = Result<WatchRequest, Status>> + Unpin,
        progress_interval: Duration,
    ) {
        let mut progress = tokio::time::interval(progress_interval);
        progress.tick().await;
        let (stop, signal) = (self.replica.stop().clone(), self.signal.clone());
        let mut due = false;
        loop {
            let behind = !self.watchers.behind().is_empty();
            let served = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                request = requests.next() => match request {
                    Some(Ok(request)) => self.request(request).await,
                    None | Some(Err(_)) => break,
                },
                () = signal.wait(), if !due => {
                    due = true;
                    continue;
                }
                () = tokio::time::sleep_until(self.next_round), if due => {
                    due = false;
                    self.live().await
                }
                _ = progress.tick() => self.progress_round().await,
                () = std::future::ready(()), if behind => self.catch_up().await,
            };
            let served = match served {
                Ok(()) => self.answer_progress().await,
                ended => ended,
            };
            if served.is_err() {
                break;
            }
        }
        for watcher in self.watchers.drain() {
            self.replica.hub().unregister(&watcher.range, watcher.registration);
        }
    }

    async fn send(&self, revision: i64, response: WatchResponse) -> Result<(), Ended> {
        let header = Some(self.replica.header(revision));
        tokio::select! {
            biased;
            sent = self.answers.send(Ok(WatchResponse { header, ..response })) => sent.map_err(|_| Ended),
            // A client that does not read must not keep a stopping replica.
            () = self.replica.stop().cancelled() => Err(Ended),
        }
    }

    async fn request(&mut self, request: WatchRequest) -> Result<(), Ended> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => {
                let Some(watcher) = self.watchers.remove(request.watch_id) else { return Ok(()) };
                self.replica.hub().unregister(&watcher.range, watcher.registration);
                let revision = self.replica.hub().position().revision;
                let canceled = WatchResponse { watch_id: request.watch_id, canceled: true, ..Default::default() };
                self.send(revision, canceled).await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.progress_asked = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), Ended> {
        let chosen = watched_range(&request).map_err(str::to_owned).and_then(|range| {
            self.permit(&range)?;
            Ok((range, self.watchers.choose_id(request.watch_id)?))
        });
        let (range, watch_id) = match chosen {
            Ok(chosen) => chosen,
            Err(reason) => {
                let revision = self.replica.hub().position().revision;
                let refused = WatchResponse {
                    watch_id: NO_WATCHER,
                    created: true,
                    canceled: true,
                    cancel_reason: reason,
                    ..Default::default()
                };
                return self.send(revision, refused).await;
            }
        };
        let (registration, position) = self.replica.hub().register(&range, &self.signal);
        let watcher = Watcher::new(&request, range, registration, position.revision);
        self.watchers.insert(watch_id, watcher);
        let created = WatchResponse { watch_id, created: true, ..Default::default() };
        self.send(position.revision, created).await
    }

    /// Tells everybody who follows the ring what is new.
    async fn live(&mut self) -> Result<(), Ended> {
        let (taken, position) = self.replica.hub().take(&self.signal);
        let batches = match taken {
            Taken::Nothing => Vec::new(),
            Taken::Lost(from) => {
                self.watchers.lost(from);
                self.replica.metrics().slow_watchers.inc();
                return Ok(());
            }
            Taken::Changes(batches) => batches,
        };
        let mut out = Vec::new();
        for (id, watcher) in self.watchers.iter_mut().filter(|(_, watcher)| !watcher.behind) {
            let changes = batches.iter().flat_map(|batch| batch.iter());
            let events: Vec<Event> = changes.filter_map(|change| watcher.event(change)).collect();
            watcher.told_up_to(position.revision);
            if !events.is_empty() {
                watcher.told = true;
                out.push((id, watcher.fragment, events));
            }
        }
        let events = out.iter().map(|(_, _, events)| events.len()).sum();
        self.next_round = Instant::now() + self.pace.after(out.len(), events);
        for (id, fragment, events) in out {
            self.send_events(id, fragment, events, position.revision).await?;
        }
        Ok(())
    }

    async fn send_events(&self, watch_id: i64, fragment: bool, events: Vec<Event>, revision: i64) -> Result<(), Ended> {
        self.replica.metrics().events.inc_by(events.len() as u64);
        if !fragment {
            return self.send(revision, WatchResponse { watch_id, events, ..Default::default() }).await;
        }
        let limit = self.replica.max_request_bytes();
        let mut pieces = vec![Vec::new()];
        let mut size = 0;
        for event in events {
            let length = event.encoded_len();
            if size > 0 && size + length > limit {
                pieces.push(Vec::new());
                size = 0;
            }
            size += length;
            if let Some(piece) = pieces.last_mut() {
                piece.push(event);
            }
        }
        let last = pieces.len() - 1;
        for (number, events) in pieces.into_iter().enumerate() {
            let response = WatchResponse { watch_id, events, fragment: number < last, ..Default::default() };
            self.send(revision, response).await?;
        }
        Ok(())
    }

    /// One step from disk for each watcher that is behind.
    async fn catch_up(&mut self) -> Result<(), Ended> {
        for id in self.watchers.behind() {
            let Some(watcher) = self.watchers.get_mut(id) else { continue };
            let (range, from, previous) = (watcher.range.clone(), watcher.next, watcher.previous);
            let state = self.replica.state().clone();
            let read = move || state.read(|view| read_step(view, &range, from, previous));
            match crate::rt::blocking(read).await.flatten() {
                Ok(Step::Compacted { compacted, revision }) => self.compacted(id, compacted, revision).await?,
                Ok(Step::Changes { changes, up_to, current }) => {
                    let Some(watcher) = self.watchers.get_mut(id) else { continue };
                    let events: Vec<Event> = changes.iter().filter_map(|change| watcher.event(change)).collect();
                    watcher.told_up_to(up_to);
                    // What was applied after this read is still pending at the hub, or will be.
                    watcher.behind = up_to < current;
                    if !events.is_empty() {
                        watcher.told = true;
                        let fragment = watcher.fragment;
                        self.send_events(id, fragment, events, current).await?;
                    }
                }
                Err(fault) => {
                    let status = Status::internal(fault.0);
                    let _gone = self.answers.send(Err(status)).await;
                    return Err(Ended);
                }
            }
        }
        Ok(())
    }

    async fn compacted(&mut self, watch_id: i64, compact_revision: i64, revision: i64) -> Result<(), Ended> {
        if let Some(watcher) = self.watchers.remove(watch_id) {
            self.replica.hub().unregister(&watcher.range, watcher.registration);
        }
        let canceled = WatchResponse {
            watch_id,
            canceled: true,
            compact_revision,
            cancel_reason: Refusal::Compacted.to_string(),
            ..Default::default()
        };
        self.send(revision, canceled).await
    }

    /// Tells those that asked for it, and heard nothing for a whole interval, how far they are.
    async fn progress_round(&mut self) -> Result<(), Ended> {
        self.live().await?;
        let current = self.replica.hub().position().revision;
        let mut quiet = Vec::new();
        for (id, watcher) in self.watchers.iter_mut() {
            if watcher.progress && !watcher.behind && !std::mem::take(&mut watcher.told) {
                quiet.push((id, current.min(watcher.next - 1)));
            }
        }
        for (watch_id, revision) in quiet {
            self.send(revision, WatchResponse { watch_id, ..Default::default() }).await?;
        }
        Ok(())
    }

    /// Answers a progress request as soon as every watcher was told everything.
    async fn answer_progress(&mut self) -> Result<(), Ended> {
        if !self.progress_asked || !self.watchers.behind().is_empty() {
            return Ok(());
        }
        let (pending, position) = self.replica.hub().is_pending(&self.signal);
        if pending {
            // What is pending goes out first; the signal is set, so the next turn comes back to here.
            return Ok(());
        }
        self.progress_asked = false;
        for (_, watcher) in self.watchers.iter_mut() {
            watcher.told_up_to(position.revision);
        }
        self.send(position.revision, WatchResponse { watch_id: NO_WATCHER, ..Default::default() }).await
    }
}

enum Step {
    Compacted { compacted: i64, revision: i64 },
    Changes { changes: Vec<Change>, up_to: i64, current: i64 },
}

fn read_step(
    view: &crate::disk::view::DiskView<'_>,
    range: &crate::mvcc::KeyRange,
    from: i64,
    previous: bool,
) -> Result<Step, Fault> {
    let position = view.position()?;
    if from < position.compacted {
        return Ok(Step::Compacted { compacted: position.compacted, revision: position.revision });
    }
    let (mut changes, mut bytes, mut full_at) = (Vec::new(), 0, None);
    view.changes(from, position.revision, previous, |key| range.contains(key), |change: Change| {
        let revision = change.version.main;
        if full_at.is_some_and(|full| revision > full) {
            return ControlFlow::Break(());
        }
        bytes += change.weight();
        changes.push(change);
        if changes.len() >= CATCH_UP_EVENTS || bytes >= CATCH_UP_BYTES {
            full_at = Some(revision);
        }
        ControlFlow::Continue(())
    })?;
    let up_to = full_at.unwrap_or(position.revision);
    Ok(Step::Changes { changes, up_to, current: position.revision })
}
