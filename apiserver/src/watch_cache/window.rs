//! The recent events of one resource: what a watch may start from, and when it is too late for that. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use super::object::Object;

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// When.
    pub revision: u64,
    /// The object after the change; for a deletion its last state under the deletion's revision.
    pub object: Arc<Object>,
    /// The object before; `None`: it was created.
    pub previous: Option<Arc<Object>>,
    /// Whether the object is gone.
    pub deleted: bool,
}

/// The events asked for are no longer all there.
#[derive(Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest revision from which a watch can start.
    pub oldest: u64,
}

/// A bounded run of events without a gap.
#[derive(Debug)]
pub struct Window {
    events: VecDeque<Arc<Event>>,
    capacity: usize,
    /// Every event after this revision is in `events`.
    complete_after: u64,
}

impl Window {
    /// A window that begins at `revision`: nothing before can be watched.
    pub fn new(capacity: usize, revision: u64) -> Self {
        Self { events: VecDeque::new(), capacity, complete_after: revision }
    }

    /// Adds the newest event; the oldest goes when there is no room.
    pub fn push(&mut self, event: Arc<Event>) {
        if self.events.len() >= self.capacity
            && let Some(oldest) = self.events.pop_front()
        {
            self.complete_after = oldest.revision;
        }
        self.events.push_back(event);
    }

    /// Up to `max` events after `revision`, oldest first.
    pub fn after(&self, revision: u64, max: usize) -> Result<Vec<Arc<Event>>, TooOld> {
        if revision < self.complete_after {
            return Err(TooOld { oldest: self.complete_after });
        }
        let start = self.events.partition_point(|event| event.revision <= revision);
        Ok(self.events.iter().skip(start).take(max).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64) -> Arc<Event> {
        let object = Arc::new(Object::for_test("", "a", revision));
        Arc::new(Event { revision, object, previous: None, deleted: false })
    }

    #[test]
    fn hands_out_what_came_after_and_says_when_something_is_missing() {
        let mut window = Window::new(3, 10);
        for revision in [12, 15, 16] {
            window.push(event(revision));
        }
        let after = |window: &Window, revision| {
            window.after(revision, 100).map(|events| events.iter().map(|event| event.revision).collect::<Vec<_>>())
        };
        assert_eq!(after(&window, 9), Err(TooOld { oldest: 10 }));
        assert_eq!(after(&window, 10), Ok(vec![12, 15, 16]));
        assert_eq!(after(&window, 13), Ok(vec![15, 16]));
        assert_eq!(after(&window, 16), Ok(vec![]));
        window.push(event(20));
        assert_eq!(after(&window, 11), Err(TooOld { oldest: 12 }), "the event of revision 12 had to go");
        assert_eq!(after(&window, 12), Ok(vec![15, 16, 20]));
        assert_eq!(window.after(12, 2).unwrap().len(), 2);
    }
}
