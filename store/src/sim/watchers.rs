//! Clients that watch: whatever happens to the replica they listen to, they go on at another from where they were.

use std::sync::Arc;
use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use balsa_proto::etcd::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::clients::Shared;
use super::truth::Became;
use super::wire::{self, Handler};
use super::world::{self, CLIENTS};
use super::{cluster, history::etcd};
use crate::watch::stream::WatchStream;

/// What one watching client heard, in unbroken pieces: a piece ends only where history was compacted.
#[derive(Debug, Clone)]
pub struct Heard {
    pub from: String,
    pub to: String,
    pub pieces: Vec<Piece>,
}

/// Everything in the range from `start` on, until the next piece.
#[derive(Debug, Clone)]
pub struct Piece {
    pub start: i64,
    pub events: Vec<(i64, Became)>,
    /// Everything up to this revision was heard, the server says.
    pub up_to: i64,
}

type Ends = (mpsc::Sender<Result<WatchRequest, Status>>, mpsc::Receiver<Result<WatchResponse, Status>>);

fn create(heard: &Heard, start: i64) -> WatchRequest {
    let create = WatchCreateRequest {
        key: heard.from.clone().into(),
        range_end: heard.to.clone().into(),
        start_revision: start,
        progress_notify: true,
        prev_kv: true,
        ..Default::default()
    };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

async fn connect(me: usize, number: usize) -> Option<Ends> {
    let handler: Handler<Ends> = Arc::new(move |replica| {
        let (requests, arriving) = wire::pipe(CLIENTS + me, number);
        let (answers, returning) = wire::pipe(number, CLIENTS + me);
        let stream = WatchStream::new(replica, answers, Ok(None));
        crate::rt::spawn(stream.run(ReceiverStream::new(arriving), Duration::from_secs(2)));
        Box::pin(std::future::ready((requests, returning)))
    });
    wire::call(CLIENTS + me, number, Duration::from_secs(2), handler).await.ok()
}

/// Watches until it is ended from outside; what it heard is the notes' entry `place`.
pub async fn watch(me: usize, place: usize, notes: Shared, first: i64) {
    let mut next = first;
    loop {
        let number = cluster::somebody();
        let heard = notes.lock().heard[place].clone();
        let Some((requests, mut answers)) = connect(me, number).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        if requests.send(Ok(create(&heard, next))).await.is_err() {
            continue;
        }
        world::note(format_args!("w{me} watches store{} from {next}", number + 1));
        // Not for ever at one replica, which may be cut off without knowing.
        let patience = Duration::from_millis(2_000 + world::below(3_000));
        while let Ok(Some(Ok(response))) = timeout(patience, answers.recv()).await {
            let canceled = response.canceled;
            next = take(me, place, &notes, next, response);
            // One that was removed may go on telling that nothing happens.
            if canceled || cluster::is_gone(number) {
                break;
            }
            if world::chance(100) {
                let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                let _full = requests.try_send(Ok(WatchRequest { request_union: Some(ask) }));
            }
        }
    }
}

/// Notes a response; says from where on the client is still to hear.
fn take(me: usize, place: usize, notes: &Shared, next: i64, response: WatchResponse) -> i64 {
    let revision = response.header.as_ref().map_or(0, |header| header.revision);
    let mut notes = notes.lock();
    let heard = &mut notes.heard[place];
    if response.canceled {
        world::note(format_args!("w{me} is cancelled at {next}, compacted {}", response.compact_revision));
        if response.compact_revision <= next {
            world::violation(format!("w{me} at {next} is cancelled: {response:?}"));
        }
        let start = response.compact_revision;
        heard.pieces.push(Piece { start, events: Vec::new(), up_to: start - 1 });
        return start;
    }
    if response.created {
        let start = if next == 0 { revision + 1 } else { next };
        if heard.pieces.is_empty() {
            heard.pieces.push(Piece { start, events: Vec::new(), up_to: start - 1 });
        }
        return start;
    }
    let Some(piece) = heard.pieces.last_mut() else { return next };
    let told_all = response.events.is_empty();
    let mut last = next - 1;
    for event in response.events {
        let Some(kv) = event.kv else { continue };
        let at = kv.mod_revision;
        let deleted = event.r#type == EventType::Delete as i32;
        let (key, seen) = etcd::seen(kv);
        last = last.max(at);
        piece.events.push((at, (key, (!deleted).then_some(seen))));
    }
    if told_all {
        // Nothing but how far it is.
        last = last.max(revision);
    }
    world::note(format_args!("w{me} heard up to {last}"));
    piece.up_to = piece.up_to.max(last);
    piece.up_to + 1
}
