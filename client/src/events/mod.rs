//! Kubernetes events, recorded without ever holding up the recorder's caller.
//!
//! Thin: a bounded queue, one task that writes. Which events are merged, counted or dropped is decided in
//! [`correlator`].

pub mod correlator;
#[cfg(all(test, feature = "test-util"))]
mod tests;

use std::time::Duration;

use balsa_process::backoff::Backoff;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use self::correlator::{Correlator, Observation, Write};
use crate::client::Client;
use crate::error::Error;
use crate::object::{Cause, Object, Patch};

/// As client-go: so many events wait at most; what comes on top is dropped.
const QUEUE: usize = 1000;
/// As client-go: how often an event is tried while the apiserver cannot be reached.
const TRIES: u32 = 12;

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// Information.
    Normal,
    /// Something that a person may have to look at.
    Warning,
}

impl EventType {
    /// As it stands in the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

enum Command {
    Record(Box<Observation>),
    Flush(oneshot::Sender<()>),
}

/// Records events. Clones share one queue; the writing task ends when the last clone is gone and all is written.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Command>,
    component: String,
    host: String,
}

impl std::fmt::Debug for EventRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRecorder").field("component", &self.component).finish_non_exhaustive()
    }
}

impl EventRecorder {
    /// `component` (`kubelet`, `default-scheduler`, …) and `host` (may be empty) stand in every event as its source.
    /// Must be called inside a tokio runtime.
    pub fn new(client: Client, component: impl Into<String>, host: impl Into<String>) -> Self {
        let (queue, commands) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(client, commands));
        Self { queue, component: component.into(), host: host.into() }
    }

    /// Records an event about `object`. Never waits and never fails: where the queue is full the event is dropped.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        self.event_with_action(object, kind, reason, "", message);
    }

    /// Like [`EventRecorder::event`], with an `action` (`Binding`).
    pub fn event_with_action(
        &self,
        object: &ObjectReference,
        kind: EventType,
        reason: &str,
        action: &str,
        message: impl Into<String>,
    ) {
        let observation = Observation {
            component: self.component.clone(),
            host: self.host.clone(),
            object: object.clone(),
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.queue.try_send(Command::Record(Box::new(observation))).is_err() {
            tracing::warn!(reason, object = object.name, "the event queue is full: an event is dropped");
        }
    }

    /// Returns when everything recorded before is written or given up.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Command::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

/// A reference to `object`, as events have it.
pub fn object_reference<K: Object>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// A reference to a part of an object: `spec.containers{main}`.
pub fn with_field_path(mut reference: ObjectReference, field_path: impl Into<String>) -> ObjectReference {
    reference.field_path = Some(field_path.into());
    reference
}

async fn write_all(client: Client, mut commands: mpsc::Receiver<Command>) {
    let mut correlator = Correlator::default();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Record(observation) => {
                if let Some(write) = correlator.observe(&observation) {
                    write_one(&client, &mut correlator, write).await;
                }
            }
            Command::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

async fn write_one(client: &Client, correlator: &mut Correlator, mut write: Write) {
    let cause = Cause::new("event");
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let event = &write.event;
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let written = if write.create {
            client.create::<Event>(namespace, event, &cause).await
        } else {
            let patch = json!({
                "count": event.count,
                "lastTimestamp": event.last_timestamp,
                "message": event.message,
            });
            client.patch::<Event>(namespace, name, "", Patch::Merge(patch), &cause).await
        };
        match written {
            // A create that seemed to fail may have happened.
            Ok(_) => return,
            Err(error) if write.create && error.is_already_exists() => return,
            Err(error) if !write.create && error.is_not_found() => {
                // Expired meanwhile: it starts anew.
                write = correlator.recreate(write);
            }
            Err(error @ (Error::Api(_) | Error::Decode(_))) if !error.is_retryable() => {
                let level_is_debug = error.is_namespace_terminating() || error.is_not_found();
                if level_is_debug {
                    tracing::debug!(%error, "an event is dropped");
                } else {
                    tracing::warn!(%error, "the apiserver refused an event");
                }
                return;
            }
            Err(error) => {
                let pause = backoff.next_delay();
                if backoff.failures() >= TRIES {
                    tracing::warn!(%error, "an event is given up");
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}
