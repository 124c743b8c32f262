//! The recorder against the apiserver double.

use k8s_openapi::api::core::v1::{Event, ObjectReference};

use super::*;
use crate::testing::FakeApi;

fn pod() -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some("default".to_owned()),
        name: Some("web".to_owned()),
        uid: Some("u1".to_owned()),
        ..ObjectReference::default()
    }
}

#[tokio::test]
async fn repetitions_are_counted_by_patch_and_expired_events_start_anew() {
    let fake = FakeApi::start().await;
    let recorder = EventRecorder::new(fake.client("kubelet"), "kubelet", "node1");
    for _ in 0..3 {
        recorder.event(&pod(), EventType::Warning, "BackOff", "Back-off");
    }
    recorder.flush().await;
    let events: Vec<Event> = fake.list();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].count, Some(3));
    assert_eq!(events[0].source.as_ref().and_then(|source| source.host.as_deref()), Some("node1"));
    fake.remove::<Event>("default", events[0].metadata.name.as_deref().unwrap_or_default());
    recorder.event(&pod(), EventType::Warning, "BackOff", "Back-off");
    recorder.flush().await;
    let again: Vec<Event> = fake.list();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].count, Some(4));
    assert_ne!(again[0].metadata.name, events[0].metadata.name);
}
