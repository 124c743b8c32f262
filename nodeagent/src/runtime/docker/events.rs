//! The engine's events, and the verdict on each out-of-memory one.

use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;

use super::error::Op;
use super::wire::escape;
use super::{Docker, names, state};
use crate::runtime::{RuntimeEvent, RuntimeResult};

/// Events that may wait for the reader; one that is too slow is cut off and lists anew.
const QUEUE: usize = 1024;
/// No event is longer; what is, is no event.
const MAX_LINE: usize = 1 << 20;

/// The kernel notifies before it kills, so a count of zero is looked at again.
const VERDICT_LOOKS: u32 = 10;
/// Pause between two looks.
const VERDICT_LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the engine says happened.
#[derive(Debug, serde::Deserialize)]
struct EngineEvent {
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor", default)]
    actor: Actor,
}

#[derive(Debug, Default, serde::Deserialize)]
struct Actor {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: std::collections::BTreeMap<String, String>,
}

impl Docker {
    /// Returns once the engine has agreed, so that a list made afterwards misses nothing.
    pub(super) async fn watch_events(&self) -> RuntimeResult<mpsc::Receiver<RuntimeEvent>> {
        let config = &self.inner.config;
        let filters = json!({
            "type": ["container"],
            "event": ["create", "start", "die", "oom", "destroy", "kill", "pause", "unpause"],
            "label": [format!("{}={}", names::CLUSTER, config.cluster), format!("{}={}", names::NODE, config.node)],
        });
        let prefix = &self.engine().await?.prefix;
        let path = format!("{prefix}/events?filters={}", escape(&filters.to_string()));
        let body = self.inner.wire.get(Op::Other, &path).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let docker = self.clone();
        tokio::spawn(async move { docker.forward_events(body, sender).await });
        Ok(receiver)
    }

    async fn forward_events(self, mut body: Incoming, sender: mpsc::Sender<RuntimeEvent>) {
        let mut buffer = BytesMut::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = sender.closed() => return,
            };
            let Some(Ok(frame)) = frame else {
                tracing::debug!("the engine's event stream has ended");
                return;
            };
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(event) = next_event(&mut buffer) {
                self.judge(&event).await;
                let Some(event) = translate(event) else { continue };
                if sender.try_send(event).is_err() {
                    return;
                }
            }
            if buffer.len() > MAX_LINE {
                return;
            }
        }
    }

    /// The counter is only there until the container is gone, so it is read before anybody hears of the event.
    async fn judge(&self, event: &EngineEvent) {
        if event.action != "oom" {
            return;
        }
        let Ok(engine) = self.engine().await else { return };
        let Some(uid) = event.actor.attributes.get(names::POD_UID) else { return };
        let parent = engine.cgroups.parent(&self.inner.config.cluster, &self.inner.config.node, uid);
        let mut victim = false;
        for _ in 0..VERDICT_LOOKS {
            // Once the group is gone nothing can be said; what was not seen by then is left to the engine's own flag.
            let Some(kills) = engine.cgroups.oom_kills(&parent, &event.actor.id) else { return };
            victim = kills > 0;
            if victim {
                break;
            }
            tokio::time::sleep(VERDICT_LOOK_EVERY).await;
        }
        let verdict = state::OomVerdict { victim, at: Timestamp::now() };
        self.inner.verdicts.lock().insert(event.actor.id.clone(), verdict);
    }
}

/// Takes one line off the buffer. A line that is no event is skipped.
fn next_event(buffer: &mut BytesMut) -> Option<EngineEvent> {
    loop {
        let end = buffer.iter().position(|byte| *byte == b'\n')?;
        let line = buffer.split_to(end + 1);
        match serde_json::from_slice(&line) {
            Ok(event) => return Some(event),
            Err(error) => tracing::debug!(%error, "an event of the engine is not understood"),
        }
    }
}

fn translate(event: EngineEvent) -> Option<RuntimeEvent> {
    let pod_uid = event.actor.attributes.get(names::POD_UID)?.clone();
    Some(RuntimeEvent { pod_uid, container_id: event.actor.id, what: event.action })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_apart_and_nonsense_is_skipped() {
        let mut buffer = BytesMut::from(
            &b"nonsense\n{\"Action\":\"die\",\"Actor\":{\"ID\":\"x\",\"Attributes\":{\"balsa.pod.uid\":\"u\"}}}\n{\"Act"[..],
        );
        let event = next_event(&mut buffer).and_then(translate).expect("an event");
        assert_eq!(event, RuntimeEvent { pod_uid: "u".into(), container_id: "x".into(), what: "die".into() });
        assert!(next_event(&mut buffer).is_none());
        assert_eq!(&buffer[..], b"{\"Act");
    }
}
