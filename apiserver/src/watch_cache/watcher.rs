//! One watch: where it stands, what of each event it may see, when it says how far it is.

use std::sync::Arc;
use std::time::Duration;

use balsa_api::status::{ApiError, ApiResult};
use tokio::sync::watch;
use tokio::time::Instant;

use super::object::Object;
use super::selection::Selection;
use super::window::{Event, TooOld};
use super::{ResourceCache, select_namespace};
use crate::apiextensions::present::Lens;

/// Events handed out at once.
const BATCH: usize = 256;
/// How often a watch without events says how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a watch says how far it is.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The present state as ADDED, then what follows.
    Now,
    /// As `Now`, with a bookmark between state and stream.
    Initial,
    /// What happened after a revision.
    After(u64),
}

/// What a watcher is told.
#[derive(Debug)]
pub enum Notice {
    /// It is new to the selection.
    Added(Arc<Object>),
    /// It changed.
    Modified(Arc<Object>),
    /// It is gone, or no longer selected.
    Deleted(Arc<Object>),
    /// Nothing up to this revision is missing.
    Bookmark {
        /// The revision.
        revision: u64,
        /// Whether it ends the initial state.
        initial_events_end: bool,
    },
    /// The position fell out of the window, or never was in it.
    TooOld {
        /// The revision the watch stood at.
        at: u64,
        /// The oldest one possible.
        oldest: u64,
    },
    /// What happened cannot be shown: no conversion to the version asked for. The watch is over.
    Failed(ApiError),
    /// The watch's time is over.
    End,
}

/// What an event means to a watcher with a selection. Pure.
pub fn notice(event: &Event, selection: &Selection) -> Option<Notice> {
    let before = event.previous.as_ref().filter(|object| selection.matches(object));
    let after = (!event.deleted && selection.matches(&event.object)).then_some(&event.object);
    match (before, after) {
        (None, Some(object)) => Some(Notice::Added(object.clone())),
        (Some(_), Some(object)) => Some(Notice::Modified(object.clone())),
        (Some(_), None) if event.deleted => Some(Notice::Deleted(event.object.clone())),
        (Some(previous), None) => Some(Notice::Deleted(Arc::new(previous.at(event.revision)))),
        (None, None) => None,
    }
}

/// A running watch.
pub struct Watcher {
    cache: Arc<ResourceCache>,
    /// How a custom resource's objects are shown.
    lens: Option<Lens>,
    /// Wakes when definitions change.
    definitions: Option<watch::Receiver<u64>>,
    selection: Selection,
    changed: watch::Receiver<u64>,
    progress: watch::Receiver<u64>,
    position: u64,
    generation: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    said_goodbye: bool,
}

impl Watcher {
    /// Begins a watch; the first notices come with it.
    pub async fn start(
        (cache, lens): (Arc<ResourceCache>, Option<Lens>),
        selection: Selection,
        start: Start,
        bookmarks: bool,
        timeout: Duration,
    ) -> ApiResult<(Self, Vec<Notice>)> {
        let changed = cache.changed.subscribe();
        let progress = cache.progress.clone();
        let now = Instant::now();
        let definitions = lens.as_ref().and_then(|lens| lens.kinds.definitions()).map(|cache| cache.subscribe());
        let mut watcher = Self {
            lens,
            definitions,
            changed,
            progress,
            position: 0,
            generation: 0,
            bookmarks,
            next_bookmark: now + BOOKMARK_EVERY,
            end: now + timeout,
            said_goodbye: false,
            selection,
            cache,
        };
        let mut first = Vec::new();
        match start {
            Start::After(revision) => {
                watcher.position = revision;
                watcher.generation = watcher.cache.generation();
            }
            Start::Now | Start::Initial => {
                let snapshot = watcher.cache.snapshot();
                watcher.position = snapshot.revision;
                watcher.generation = snapshot.generation;
                let present = select_namespace(&snapshot.objects, &watcher.selection.namespace).map(|(_, object)| object);
                first = match &watcher.lens {
                    None => {
                        let chosen = present.filter(|object| watcher.selection.matches(object));
                        chosen.map(|object| Notice::Added(object.clone())).collect()
                    }
                    Some(lens) => {
                        let stored: Vec<Arc<Object>> = present.cloned().collect();
                        let shown = lens.show(&stored).await?;
                        shown.into_iter().filter(|object| watcher.selection.matches(object)).map(Notice::Added).collect()
                    }
                };
                if start == Start::Initial {
                    first.push(Notice::Bookmark { revision: snapshot.revision, initial_events_end: true });
                }
            }
        }
        Ok((watcher, first))
    }

    /// Events of a custom resource as the version shows them.
    async fn shown(lens: &Lens, events: Vec<Arc<Event>>) -> ApiResult<Vec<Arc<Event>>> {
        let stored: Vec<Arc<Object>> =
            events.iter().flat_map(|event| std::iter::once(event.object.clone()).chain(event.previous.clone())).collect();
        let mut shown = lens.show(&stored).await?.into_iter();
        let mut out = Vec::with_capacity(events.len());
        for event in events {
            let object = shown.next().unwrap_or_else(|| event.object.clone());
            let previous = event.previous.as_ref().and_then(|_| shown.next());
            out.push(Arc::new(Event { revision: event.revision, object, previous, deleted: event.deleted }));
        }
        Ok(out)
    }

    /// Waits for the next notices. After `TooOld` or `End` the watch is over.
    pub async fn next(&mut self) -> Vec<Notice> {
        loop {
            self.changed.borrow_and_update();
            if let Some(definitions) = &mut self.definitions {
                definitions.borrow_and_update();
            }
            // Before the events are read: whatever the progress covers is then in the window.
            let progress = *self.progress.borrow();
            let events = match self.cache.events_after(self.position, self.generation, BATCH) {
                Ok(events) => events,
                Err(TooOld { oldest }) => return vec![Notice::TooOld { at: self.position, oldest }],
            };
            if let Some(last) = events.last() {
                let position = last.revision;
                let events = match &self.lens {
                    None => events,
                    Some(lens) => match Self::shown(lens, events).await {
                        Ok(events) => events,
                        Err(error) => return vec![Notice::Failed(error)],
                    },
                };
                self.position = position;
                let notices: Vec<Notice> = events.iter().filter_map(|event| notice(event, &self.selection)).collect();
                if !notices.is_empty() {
                    return notices;
                }
                continue;
            }
            if self.lens.as_ref().is_some_and(Lens::is_stale) {
                return vec![Notice::End];
            }
            let now = Instant::now();
            let leaving = now + BOOKMARK_BEFORE_END >= self.end && !self.said_goodbye;
            if self.bookmarks && (now >= self.next_bookmark || leaving) {
                self.said_goodbye |= leaving;
                self.next_bookmark = now + BOOKMARK_EVERY;
                // A watch in the future stays there.
                self.position = self.position.max(progress);
                return vec![Notice::Bookmark { revision: self.position, initial_events_end: false }];
            }
            if now >= self.end {
                return vec![Notice::End];
            }
            let goodbye = if self.bookmarks && !self.said_goodbye {
                self.next_bookmark.min(self.end.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(now))
            } else if self.bookmarks {
                self.next_bookmark
            } else {
                self.end
            };
            let definitions = async {
                match &mut self.definitions {
                    Some(definitions) => definitions.changed().await.ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.changed.changed() => if changed.is_err() {
                    return vec![Notice::End];
                },
                _ = definitions => {}
                () = tokio::time::sleep_until(goodbye.min(self.end)) => {}
            }
        }
    }
}
