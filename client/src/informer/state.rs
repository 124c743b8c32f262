//! What an event of a watch means for the copy of a list, and where the next watch starts. Pure.
//!
//! A watch from nothing first sends the present state, in any order of revisions; only the bookmark that ends it says
//! up to which revision the copy is complete, and which objects were deleted unseen: those that did not come.

use std::collections::BTreeSet;

use crate::informer::cache::{Key, key_of};
use crate::object::{Decode, WatchEvent, revision_of};

/// Where the next watch has to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From nothing, with the initial events.
    Initial,
    /// After this revision.
    After(u64),
}

/// What is to be done to the copy.
#[derive(Debug)]
pub enum Step<K> {
    /// Nothing.
    Nothing,
    /// This is the object now.
    Set(K),
    /// It is gone.
    Remove(Key),
    /// The copy is complete; what is not among these keys is gone.
    Complete(BTreeSet<Key>),
}

/// Where we are in following a list.
#[derive(Debug, Default)]
pub struct State {
    /// Of a copy that has been complete: everything up to here is in it.
    revision: Option<u64>,
    /// Keys seen since the initial events began.
    seen: BTreeSet<Key>,
    events: u64,
}

impl State {
    /// Where the next watch has to start. Half-received initial events count for nothing.
    pub fn start(&mut self) -> Start {
        self.seen.clear();
        self.revision.map_or(Start::Initial, Start::After)
    }

    /// A number that grows with every event: whether a watch brought anything.
    pub fn progress(&self) -> u64 {
        self.events
    }

    /// A watch ended in an error; `expired` says that the revision to start from is gone (410).
    pub fn failed(&mut self, expired: bool) {
        if expired {
            self.revision = None;
        }
    }

    /// Takes in an event.
    pub fn event<K: Decode>(&mut self, event: WatchEvent<K>) -> Step<K> {
        self.events += 1;
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                match &mut self.revision {
                    Some(revision) => *revision = (*revision).max(revision_of(object.meta())),
                    None => {
                        self.seen.insert(key_of(object.meta()));
                    }
                }
                Step::Set(object)
            }
            WatchEvent::Deleted(object) => {
                let key = key_of(object.meta());
                match &mut self.revision {
                    Some(revision) => *revision = (*revision).max(revision_of(object.meta())),
                    None => {
                        self.seen.remove(&key);
                    }
                }
                Step::Remove(key)
            }
            WatchEvent::Bookmark { revision, initial_events_end } => match &mut self.revision {
                None if initial_events_end => {
                    self.revision = Some(revision);
                    Step::Complete(std::mem::take(&mut self.seen))
                }
                None => Step::Nothing,
                Some(known) => {
                    *known = (*known).max(revision);
                    Step::Nothing
                }
            },
        }
    }
}
