//! What every planner answers with.

use std::time::Duration;

/// The outcome of a planner: what to do now, what the status should say, when to look again even if nothing changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<A, S = ()> {
    /// In order. Each carries its preconditions.
    pub actions: Vec<A>,
    /// The whole status, only where it differs from the present one.
    pub status: Option<S>,
    /// `None`: only a change of the observed objects can make a difference.
    pub requeue_after: Option<Duration>,
    /// Why, one line each, for logs and causes.
    pub reasons: Vec<String>,
}

impl<A, S> Default for Plan<A, S> {
    fn default() -> Self {
        Self { actions: Vec::new(), status: None, requeue_after: None, reasons: Vec::new() }
    }
}

impl<A, S> Plan<A, S> {
    /// Nothing to do, nothing to write (it may still ask to be run again later).
    pub fn is_quiet(&self) -> bool {
        self.actions.is_empty() && self.status.is_none()
    }

    /// Asks to be run again after `delay` at the latest.
    pub fn requeue_within(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |present| present.min(delay)));
    }

    /// The reasons in one line, for the `cause` of a write.
    pub fn cause(&self) -> String {
        self.reasons.join("; ")
    }
}

/// An event that a plan wants recorded about its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Warning or Normal.
    pub warning: bool,
    /// `ScalingReplicaSet`
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl Note {
    /// Something went as it should.
    pub fn normal(reason: &str, message: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.to_owned(), message: message.into() }
    }

    /// Something a person should know.
    pub fn warning(reason: &str, message: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.to_owned(), message: message.into() }
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.warning { "Warning" } else { "Normal" };
        write!(f, "event {kind} {}: {}", self.reason, self.message)
    }
}
