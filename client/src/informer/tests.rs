//! The informer against the apiserver double.

#![cfg(feature = "test-util")]

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::testing::FakeApi;

fn map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            labels: Some(BTreeMap::from([("v".to_owned(), value.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("k".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

fn value(map: Option<&Arc<ConfigMap>>) -> Option<String> {
    map.and_then(|map| map.data.as_ref()?.get("k").cloned())
}

async fn next(changes: &mut Subscription<ConfigMap>) -> (Option<String>, Option<String>) {
    let change = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await.expect("a change in time");
    let change = change.expect("the informer runs");
    (value(change.old.as_ref()), value(change.new.as_ref()))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn the_copy_follows_through_lost_streams_compaction_and_a_dead_apiserver() {
    let fake = FakeApi::start().await;
    let sibling = fake.sibling().await;
    fake.put(&map("a", "1"));
    let config = crate::ClientConfig {
        apiservers: vec![fake.url(), sibling.url()],
        identity: None,
        component: "test".to_owned(),
    };
    let client = Client::new(config).expect("a client");
    let stop = CancellationToken::new();
    let informer: Informer<ConfigMap> = Informer::start_indexed(
        client,
        Scope::all(),
        |map: &ConfigMap| map.data.iter().flat_map(BTreeMap::values).cloned().collect(),
        stop.clone(),
    );
    informer.synced().await;
    let cache = informer.cache();
    assert_eq!(cache.len(), 1);
    let mut changes = informer.subscribe();
    assert_eq!(next(&mut changes).await, (None, some("1")));

    fake.put(&map("a", "2"));
    assert_eq!(next(&mut changes).await, (some("1"), some("2")));
    assert_eq!(cache.by_index("2").len(), 1);
    assert!(cache.by_index("1").is_empty());

    fake.drop_watches();
    fake.put(&map("b", "3"));
    assert_eq!(next(&mut changes).await, (None, some("3")));
    assert_eq!(cache.by_namespace("default").len(), 2);
    assert!(cache.by_namespace("defaul").is_empty());

    // Deleted while nobody watched, and the history is gone: only a new list can tell.
    fake.fail("WATCH configmaps", 2, balsa_api::status::ApiError::unavailable("busy"));
    fake.drop_watches();
    fake.remove::<ConfigMap>("default", "b");
    fake.compact();
    assert_eq!(next(&mut changes).await, (some("3"), None));

    fake.stop();
    sibling.put(&map("c", "4"));
    assert_eq!(next(&mut changes).await, (None, some("4")));
    stop.cancel();
    assert!(changes.recv().await.is_none());
}

#[tokio::test]
async fn a_subscriber_that_lags_gets_the_sum_of_the_changes() {
    let fake = FakeApi::start().await;
    fake.put(&map("a", "1"));
    let informer: Informer<ConfigMap> = Informer::start(fake.client("test"), Scope::all(), CancellationToken::new());
    informer.synced().await;
    let mut changes = informer.subscribe();
    assert_eq!(next(&mut changes).await, (None, some("1")));
    for number in 2..=200 {
        fake.put(&map("a", &number.to_string()));
        fake.put(&map("short-lived", "x"));
        fake.remove::<ConfigMap>("default", "short-lived");
    }
    fake.put(&map("z", "last"));
    fake.until("the copy is up to date", |_| informer.cache().get("default", "z")).await;
    assert_eq!(next(&mut changes).await, (some("1"), some("200")));
    assert_eq!(next(&mut changes).await, (None, some("last")));
    assert!(changes.try_recv().is_none());
}

#[tokio::test]
async fn a_selector_turns_changes_into_comings_and_goings() {
    let fake = FakeApi::start().await;
    let scope = Scope { label_selector: "v=on".to_owned(), ..Scope::all() };
    let informer: Informer<ConfigMap> = Informer::start(fake.client("test"), scope, CancellationToken::new());
    let mut changes = informer.subscribe();
    fake.put(&map("a", "off"));
    fake.put(&map("a", "on"));
    assert_eq!(next(&mut changes).await, (None, some("on")));
    fake.put(&map("a", "off"));
    assert_eq!(next(&mut changes).await, (some("on"), None));
}
